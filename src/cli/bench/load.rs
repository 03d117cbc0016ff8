//! `dynamomini bench load`: fills the keys of a data set.

use std::ops::Range;

use anyhow::bail;
use bytes::Bytes;
use serde::Serialize;
use tokio::time::Instant;

use crate::cli::Context;
use crate::cli::Said;
use crate::cli::bench::args::DataArgs;
use crate::cli::bench::data::DataSet;
use crate::cli::bench::draw;
use crate::cli::bench::tally::Failures;
use crate::cli::bench::tally::walk;
use crate::cli::connect::Connect;
use crate::client::BatchPut;
use crate::client::Client;
use crate::client::GetOptions;
use crate::client::PutOptions;
use crate::config::ClientConfig;

/// The number of the write that `load` makes of each key.
const WRITE: u64 = 0;

/// Arguments of `bench load`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Keys are read first, and written with the context that was read: what was under them, siblings \
too, is replaced. ^C ends it early. With --json: {\"keys\", \"written\", \"failed\", \"error_kinds\": {KIND: {\"count\", \
\"example\"}}, \"bytes\", \"seconds\", \"interrupted\"}. The exit status is 1 unless all keys were written.

Example:
  dynamomini bench load --keys 1000000 --value-size uniform:100..2000 --seed 7"
)]
pub(crate) struct Args {
    #[command(flatten)]
    data: DataArgs,
    /// Batches of keys under way at once.
    #[arg(long, value_name = "NUMBER", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    in_flight: u16,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    keys: u64,
    written: u64,
    failed: u64,
    error_kinds: Failures,
    bytes: u64,
    seconds: f64,
    interrupted: bool,
}

impl Args {
    /// Fills and reports.
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let data = self.data.data()?;
        let (keys, at_once) = (self.data.keys, usize::from(self.in_flight));
        let report = self.connect.run(context, async |client, config| {
            let begin = Instant::now();
            let mut report = Report { keys, ..Report::default() };
            let work = |range| fill(client, config, &data, range);
            let whole = walk(&data, keys, at_once, "written", work, |batch| report.add(batch)).await;
            report.interrupted = !whole;
            report.seconds = begin.elapsed().as_secs_f64();
            Ok(report)
        })?;
        context.output.print(&report, Report::text)?;
        match report.keys - report.written {
            0 => Ok(()),
            _ if context.output.is_json() => Err(Said.into()),
            left => bail!("{left} of {} keys were not written", report.keys),
        }
    }
}

/// What became of one batch.
#[derive(Debug, Default)]
struct Filled {
    written: u64,
    bytes: u64,
    failures: Failures,
}

async fn fill(client: &Client, config: &ClientConfig, data: &DataSet, range: Range<u64>) -> Filled {
    let mut filled = Filled::default();
    let keys: Vec<Bytes> = range.clone().map(|number| data.key(number)).collect();
    let found = client.multi_get(&keys, GetOptions { r: config.r, ..GetOptions::default() }).await;
    let mut puts = Vec::with_capacity(keys.len());
    for ((number, key), found) in range.zip(keys).zip(found) {
        match found {
            Ok(found) => {
                let value = data.value(number, WRITE);
                puts.push(BatchPut { key, value: Some(value), context: found.context, ttl: None, condition: None });
            }
            Err(error) => filled.failures.add(error),
        }
    }
    let sizes: Vec<usize> = puts.iter().map(|put| put.key.len() + put.value.as_ref().map_or(0, Bytes::len)).collect();
    let outcomes = client.multi_put(puts, PutOptions { w: config.w, ..PutOptions::default() }).await;
    for (size, outcome) in sizes.into_iter().zip(outcomes) {
        match outcome {
            Ok(_) => {
                filled.written += 1;
                filled.bytes += u64::try_from(size).unwrap_or(u64::MAX);
            }
            Err(error) => filled.failures.add(error),
        }
    }
    filled
}

impl Report {
    fn add(&mut self, batch: Filled) {
        self.written += batch.written;
        self.bytes += batch.bytes;
        self.failed += batch.failures.count();
        self.error_kinds.add_all(batch.failures);
    }

    fn text(&self) -> String {
        let Self { keys, written, seconds, bytes, .. } = self;
        let size = crate::cli::table::bytes(*bytes);
        let rate = draw::float(*written) / seconds.max(1e-9);
        let early = if self.interrupted { ", ended early" } else { "" };
        format!(
            "{written} of {keys} keys written, {size}, in {seconds:.1} s ({rate:.0} a second){early}\n{}",
            self.error_kinds.text()
        )
    }
}
