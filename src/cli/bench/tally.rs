//! Walking a data set in batches: which keys go together, and errors counted by kind.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::IsTerminal;
use std::ops::Range;
use std::pin::pin;

use futures_util::StreamExt;
use futures_util::stream;
use serde::Serialize;

use crate::cli::bench::cluster::problem;
use crate::cli::bench::data::DataSet;
use crate::cli::bench::recorder::Errors;
use crate::cli::bench::run::interrupted;
use crate::cli::output;
use crate::client::ClientError;

/// Keys of one batch, and bytes of values after which it has fewer.
const BATCH_KEYS: u64 = 200;
const BATCH_BYTES: usize = 1 << 20;

/// Errors by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Failures(BTreeMap<&'static str, Errors>);

impl Failures {
    /// Counts one.
    pub(super) fn add(&mut self, error: ClientError) {
        let problem = problem(error);
        self.0.entry(problem.kind).or_insert(Errors { count: 0, example: problem.text }).count += 1;
    }

    /// Counts those of another.
    pub(super) fn add_all(&mut self, other: Self) {
        for (kind, Errors { count, example }) in other.0 {
            self.0.entry(kind).or_insert(Errors { count: 0, example }).count += count;
        }
    }

    /// How many.
    pub(super) fn count(&self) -> u64 {
        self.0.values().map(|errors| errors.count).sum()
    }

    /// A line for each kind.
    pub(super) fn text(&self) -> String {
        self.0.iter().map(|(kind, Errors { count, example })| format!("{count} errors, {kind}: {example}\n")).collect()
    }
}

impl Serialize for Failures {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Kind<'a> {
            count: u64,
            example: &'a str,
        }
        serializer
            .collect_map(self.0.iter().map(|(kind, Errors { count, example })| (kind, Kind { count: *count, example })))
    }
}

/// Does something with all keys, batch by batch, so many batches at once, and hands each batch's result over as it comes.
/// False when ^C ended it early.
pub(super) async fn walk<T, F: Future<Output = T>>(
    data: &DataSet,
    keys: u64,
    at_once: usize,
    what: &str,
    work: impl FnMut(Range<u64>) -> F,
    mut take: impl FnMut(T),
) -> bool {
    let shows_progress = std::io::stderr().is_terminal();
    let step = batch(data);
    let batches = stream::iter((0..keys.div_ceil(step)).map(move |batch| batch * step..((batch + 1) * step).min(keys)));
    let mut results = pin!(batches.map(work).buffer_unordered(at_once));
    let mut interrupt = pin!(interrupted());
    let mut done = 0_u64;
    loop {
        tokio::select! {
            biased;
            () = &mut interrupt => return false,
            result = results.next() => match result {
                Some(result) => take(result),
                None => break,
            }
        }
        done += step;
        if shows_progress {
            output::progress(&format!("{} of {keys} keys {what}", done.min(keys)));
        }
    }
    if shows_progress {
        output::progress("");
    }
    true
}

/// Keys of one batch: fewer when values are large.
fn batch(data: &DataSet) -> u64 {
    let (_, largest) = data.value_sizes.bounds();
    let fit = u64::try_from(BATCH_BYTES / largest.max(1)).unwrap_or(BATCH_KEYS);
    fit.clamp(1, BATCH_KEYS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::sizes::Sizes;

    #[tokio::test]
    async fn every_key_is_met_once_whatever_the_batches() {
        for (keys, size) in [(1, 24), (200, 24), (1_001, 24), (23, 8 << 20)] {
            let data = DataSet::new(1, Sizes::Fixed(16), Sizes::Fixed(size)).unwrap();
            let mut met = Vec::new();
            let whole = walk(&data, keys, 3, "met", async |range: Range<u64>| range, |range| met.extend(range)).await;
            met.sort_unstable();
            assert!(whole && met == (0..keys).collect::<Vec<_>>(), "{keys} keys: {met:?}");
        }
    }

    #[test]
    fn failures_are_counted_by_kind() {
        let mut failures = Failures::default();
        failures.add(ClientError::Protocol("first".to_owned()));
        failures.add_all(failures.clone());
        assert_eq!((failures.count(), &*failures.text()), (2, "2 errors, rejected: first\n"));
        let json = serde_json::to_value(&failures).unwrap();
        assert_eq!(json, serde_json::json!({"rejected": {"count": 2, "example": "first"}}));
    }
}
