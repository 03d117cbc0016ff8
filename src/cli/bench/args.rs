//! The arguments of `bench`, `bench load` and `bench check`.

use std::path::PathBuf;
use std::time::Duration;

use crate::cli::Context;
use crate::cli::Usage;
use crate::cli::bench::check;
use crate::cli::bench::data::DataSet;
use crate::cli::bench::load;
use crate::cli::bench::mix::Mix;
use crate::cli::bench::popularity::Popularity;
use crate::cli::bench::run;
use crate::cli::bench::schedule::Length;
use crate::cli::bench::schedule::Plan;
use crate::cli::bench::sizes::Sizes;
use crate::cli::bench::workload::Workload;
use crate::cli::connect::Connect;
use crate::config::value::parse_span;
use crate::limits;
use crate::types::Invalid;

/// Operations under way unless something else is said: in a closed loop, and in an open one, where they are only a bound.
const IN_FLIGHT_CLOSED: usize = 64;
const IN_FLIGHT_OPEN: usize = 1_024;
/// How long a run takes that names neither time nor count.
const DURATION: Duration = Duration::from_secs(10);
/// Bits by which the time of day is moved to make the number of a run's first write: room for four million writes in
/// each millisecond.
const WRITES_A_MILLISECOND: u32 = 22;

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, after_help = HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    connect: Connect,
    #[command(subcommand)]
    what: Option<What>,
}

const HELP: &str = "Mixes: put, get, mixed (half of each), the YCSB core workloads ycsb-a to ycsb-f, or shares of get, put, \
insert, scan and rmw (read, then write with the context read). The keys should be there: fill them with bench load. A scan \
meets up to 100 neighbouring keys by their common prefix.

A closed loop (the default) begins an operation as soon as another ends: a cluster that stalls gets less load while it does. \
With --rate the loop is open: operations have fixed moments, and their latencies count from these, so that a stall shows in \
all that it delayed. What could not be begun within --timeout after the end is counted as not begun.

In namespaces that keep siblings a write carries the causal context that this run saw last for its key; for mixes with put \
the keys are read once beforehand, up to a million. Writes of one key that are under way together still become siblings. \
--blind leaves contexts out, and the reading too.

Latencies are of operations that succeeded; failed ones have a line of their own, and the exit status is 1. Processor time \
and memory of the nodes are shown when a cluster.json of dynamomini dev lies beside the client's configuration. ^C ends the \
run early, with its report.

With --json: {\"mix\", \"distribution\", \"keys\", …, \"interrupted\", \"seconds\", \"all\": {\"operations\", \"per_second\", \
\"mean\", \"min\", \"p50\", \"p90\", \"p99\", \"p99_9\", \"max\"}, \"kinds\": {KIND: as all}, \"failed\": as all, \"errors\", \
\"error_kinds\": {KIND: {\"count\", \"example\"}}, \"not_begun\", \"missing\", \"siblings\", \"settled\", \"contexts_refused\", \
\"requests\": {\"sent\", \"hedges\", \"failovers\", \"retries\", \"turned_away\"}, \
\"processes\": [{\"node\", \"program\", \"pid\", \"cpu_s\", \"rss_bytes\"}], \"node_cpu_s_per_1000\", \"own_cpu_s_per_1000\", \
\"own_rss_bytes\", \"timeline\": [{\"at_s\", \"per_second\", \"errors\", \"p50\", \"p99\", \"max\"}]}, all latencies in \
milliseconds.

Examples:
  dynamomini bench load --keys 100000 --value-size 1KiB
  dynamomini bench --mix ycsb-b --duration 30s --in-flight 128 --clients 4
  dynamomini bench --mix get=90,put=10 --rate 5000/s --plot latency.svg
  dynamomini bench --mix put --distribution zipf:0.8 --value-size uniform:100..2000 -w all --json
  dynamomini bench check --keys 100000 --value-size 1KiB --every-node";

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Fill the keys of a data set, and replace what was under them.
    Load(load::Args),
    /// Read a data set and check every byte.
    Check(check::Args),
}

/// Which data set.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct DataArgs {
    /// How many keys.
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000,
        value_parser = clap::value_parser!(u64).range(1..=limits::BENCH_KEYS_MAX))]
    pub(super) keys: u64,
    /// Length of keys in bytes, 16 or more: a size, or uniform:16..100, or zipf:16..100.
    #[arg(long, value_name = "SIZE", default_value = "16")]
    key_size: Sizes,
    /// Length of values in bytes, 24 or more: a size such as 100 or 4KiB, or uniform:100..2000, or zipf:100..2000.
    #[arg(long, value_name = "SIZE", default_value = "1KiB")]
    value_size: Sizes,
    /// What keys, values and their order follow from; the same gives the same.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
}

impl DataArgs {
    /// The data set.
    pub(super) fn data(&self) -> Result<DataSet, Usage> {
        DataSet::new(self.seed, self.key_size, self.value_size)
    }
}

#[derive(Debug, clap::Args)]
struct LoadArgs {
    /// How often each kind of operation comes.
    #[arg(long, default_value = "mixed")]
    mix: Mix,
    #[command(flatten)]
    data: DataArgs,
    /// How often each key comes: uniform, sequential, zipf or latest, or with a theta as zipf:0.8. By default as the
    /// YCSB workload does, else uniform.
    #[arg(long, value_name = "DISTRIBUTION")]
    distribution: Option<Popularity>,
    /// Operations under way at once, all clients together. By default 64; with --rate at most 1024.
    #[arg(long, value_name = "NUMBER", value_parser = count(limits::BENCH_IN_FLIGHT_MAX))]
    in_flight: Option<u64>,
    /// Clients, each with connections of its own.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = count(limits::BENCH_CLIENTS_MAX))]
    clients: u64,
    /// How long, such as 30s or 5m; 10s unless --count is given.
    #[arg(long, value_name = "SPAN", conflicts_with = "count", value_parser = some_time)]
    duration: Option<Duration>,
    /// How many operations.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Time at the beginning that is not measured.
    #[arg(long, value_name = "SPAN", default_value = "1s", value_parser = parse_span)]
    warmup: Duration,
    /// Operations a second, whatever the cluster does: an open loop.
    #[arg(long, value_name = "NUMBER/s", value_parser = rate)]
    rate: Option<u64>,
    /// Writes carry no causal context.
    #[arg(long)]
    blind: bool,
    /// Clients wait for slow and silent nodes instead of asking others beside them.
    #[arg(long)]
    no_hedging: bool,
    /// Draw latency and operations a second over time into this file.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// Reads a count from 1 to `most`.
fn count(most: usize) -> clap::builder::RangedU64ValueParser<u64> {
    clap::value_parser!(u64).range(1..=u64::try_from(most).unwrap_or(u64::MAX))
}

fn some_time(text: &str) -> Result<Duration, Invalid> {
    match parse_span(text)? {
        Duration::ZERO => Err(Invalid::new("duration", text, "more than 0")),
        span => Ok(span),
    }
}

fn rate(text: &str) -> Result<u64, Invalid> {
    let number = text.strip_suffix("/s").unwrap_or(text).trim().parse::<u64>().ok();
    number.filter(|rate| (1..=limits::BENCH_RATE_MAX).contains(rate)).ok_or_else(|| {
        Invalid::new("rate", text, format!("operations a second from 1 to {}, such as 5000/s", limits::BENCH_RATE_MAX))
    })
}

impl Args {
    /// Does what was asked for.
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        match self.what {
            Some(What::Load(load)) => load.run(context),
            Some(What::Check(check)) => check.run(context),
            None => {
                let job = self.load.job(context.env.wall_ms())?;
                run::run(context, self.connect, job)
            }
        }
    }
}

impl LoadArgs {
    fn job(self, now_ms: u64) -> Result<run::Job, Usage> {
        let Self {
            mix,
            data,
            distribution,
            in_flight,
            clients,
            duration,
            count,
            warmup,
            rate,
            blind,
            no_hedging,
            plot,
        } = self;
        let default = if rate.is_some() { IN_FLIGHT_OPEN } else { IN_FLIGHT_CLOSED };
        let clients = usize::try_from(clients).unwrap_or(usize::MAX);
        let in_flight = in_flight.map_or(default.max(clients), |count| usize::try_from(count).unwrap_or(usize::MAX));
        if in_flight < clients {
            return Err(Usage(format!("--in-flight {in_flight} leaves some of the {clients} clients without work")));
        }
        let length = count.map_or(Length::Time(duration.unwrap_or(DURATION)), Length::Count);
        let workload = Workload {
            data: data.data()?,
            popularity: distribution.unwrap_or_else(|| mix.popularity()),
            mix,
            keys: data.keys,
            first_write: now_ms << WRITES_A_MILLISECOND,
        };
        let plan = Plan { in_flight, rate, warmup, length, patience: Duration::ZERO };
        Ok(run::Job { workload, plan, clients, blind, hedging: !no_hedging, plot })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_operations_a_second() {
        assert_eq!((rate("5000"), rate("5000/s")), (Ok(5_000), Ok(5_000)));
        for bad in ["0", "x", "5/m", "99999999999", "-1"] {
            assert!(rate(bad).is_err(), "{bad:?} was taken");
        }
    }
}
