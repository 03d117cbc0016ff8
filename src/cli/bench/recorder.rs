//! What was measured: latencies by kind of operation, errors by kind of error, and the same for each interval of time.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::cli::bench::mix::Kind;
use crate::cli::bench::target::Answer;
use crate::cli::bench::target::Problem;
use crate::limits;

/// Digits of a latency that are kept: within 0.1 %.
const DIGITS: u8 = 3;

/// Latencies in microseconds, rounded up; what is longer than [`limits::BENCH_LATENCY_MAX`] counts as that.
#[derive(Debug, Clone)]
pub(super) struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        let most = u64::try_from(limits::BENCH_LATENCY_MAX.as_micros()).unwrap_or(u64::MAX);
        Self(Histogram::new_with_bounds(1, most, DIGITS).expect("1 is less than half of the most, 3 at most 5"))
    }
}

impl Latencies {
    /// Adds one.
    pub(super) fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX));
    }

    /// Adds those of another.
    pub(super) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that this share (0 to 1) of all does not exceed, in milliseconds; `None` when there is none.
    pub(super) fn quantile_ms(&self, share: f64) -> Option<f64> {
        (!self.0.is_empty()).then(|| milliseconds(self.0.value_at_quantile(share).min(self.0.max())))
    }

    /// The mean in milliseconds; `None` when there is none.
    pub(super) fn mean_ms(&self) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.0.mean() / 1_000.0)
    }

    fn clear(&mut self) {
        self.0.reset();
    }
}

fn milliseconds(micros: u64) -> f64 {
    crate::cli::bench::draw::float(micros) / 1_000.0
}

/// Errors of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Errors {
    /// How many.
    pub(super) count: u64,
    /// The first, in full.
    pub(super) example: String,
}

/// What one driver has measured, or all together.
#[derive(Debug, Clone, Default)]
pub(super) struct Recorder {
    /// Of operations that succeeded.
    pub(super) kinds: BTreeMap<Kind, Latencies>,
    /// Of those that failed.
    pub(super) failed: Latencies,
    /// Why they failed.
    pub(super) errors: BTreeMap<&'static str, Errors>,
    /// Reads that found nothing.
    pub(super) missing: u64,
    /// Reads that found siblings.
    pub(super) siblings: u64,
    /// Writes that were preceded by a read.
    pub(super) settled: u64,
    /// Operations of an open loop that were never begun.
    pub(super) unsent: u64,
    interval: Interval,
}

/// What was measured since the last look.
#[derive(Debug, Clone, Default)]
pub(super) struct Interval {
    /// Of operations that succeeded.
    pub(super) latencies: Latencies,
    /// How many failed.
    pub(super) errors: u64,
}

impl Recorder {
    /// Takes note of an operation that has ended.
    pub(super) fn record(&mut self, kind: Kind, latency: Duration, outcome: Result<Answer, Problem>) {
        match outcome {
            Ok(Answer { missing, siblings, settled }) => {
                self.kinds.entry(kind).or_default().record(latency);
                self.interval.latencies.record(latency);
                self.missing += u64::from(missing);
                self.siblings += u64::from(siblings);
                self.settled += u64::from(settled);
            }
            Err(Problem { kind, text }) => {
                self.failed.record(latency);
                self.interval.errors += 1;
                let errors = self.errors.entry(kind).or_insert(Errors { count: 0, example: text });
                errors.count += 1;
            }
        }
    }

    /// Adds what another has measured; its interval is left out.
    pub(super) fn add(&mut self, other: &Self) {
        for (kind, latencies) in &other.kinds {
            self.kinds.entry(*kind).or_default().add(latencies);
        }
        self.failed.add(&other.failed);
        for (kind, Errors { count, example }) in &other.errors {
            let errors = self.errors.entry(kind).or_insert(Errors { count: 0, example: example.clone() });
            errors.count += count;
        }
        self.missing += other.missing;
        self.siblings += other.siblings;
        self.settled += other.settled;
        self.unsent += other.unsent;
    }

    /// Moves what was measured since the last look to `total`.
    pub(super) fn take_interval(&mut self, total: &mut Interval) {
        total.latencies.add(&self.interval.latencies);
        total.errors += self.interval.errors;
        self.interval.latencies.clear();
        self.interval.errors = 0;
    }

    /// All kinds together.
    pub(super) fn all(&self) -> Latencies {
        let mut all = Latencies::default();
        self.kinds.values().for_each(|latencies| all.add(latencies));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(kind: &'static str, text: &str) -> Result<Answer, Problem> {
        Err(Problem { kind, text: text.to_owned() })
    }

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let mut latencies = Latencies::default();
        assert_eq!((latencies.quantile_ms(0.5), latencies.mean_ms()), (None, None));
        for ms in 1..=1_000 {
            latencies.record(Duration::from_millis(ms));
        }
        for (share, wanted) in [(0.0, 1.0), (0.5, 500.0), (0.99, 990.0), (0.999, 999.0), (1.0, 1_000.0)] {
            let got = latencies.quantile_ms(share).unwrap();
            assert!((got / wanted - 1.0).abs() < 0.001, "{share}: {got}");
        }
        assert!((latencies.mean_ms().unwrap() - 500.5).abs() < 0.5);
        latencies.record(Duration::from_secs(1_000_000));
        let most = limits::BENCH_LATENCY_MAX.as_secs_f64() * 1_000.0;
        assert!((latencies.quantile_ms(1.0).unwrap() / most - 1.0).abs() < 0.01);
    }

    #[test]
    fn errors_are_counted_by_kind_with_the_first_as_example_and_apart_from_successes() {
        let mut recorder = Recorder::default();
        recorder.record(Kind::Get, Duration::from_millis(1), Ok(Answer { siblings: true, ..Answer::default() }));
        recorder.record(Kind::Put, Duration::from_millis(3), Ok(Answer::default()));
        recorder.record(Kind::Put, Duration::from_secs(5), failure("timeout", "first"));
        recorder.record(Kind::Put, Duration::from_secs(5), failure("timeout", "second"));
        let (mut total, mut interval) = (recorder.clone(), Interval::default());
        recorder.take_interval(&mut interval);
        assert_eq!((interval.latencies.count(), interval.errors), (2, 2));
        recorder.take_interval(&mut interval);
        assert_eq!((interval.latencies.count(), interval.errors), (2, 2), "an interval was taken twice");
        total.add(&recorder);
        assert_eq!(total.errors["timeout"], Errors { count: 4, example: "first".to_owned() });
        assert_eq!((total.all().count(), total.failed.count(), total.siblings), (4, 4, 2));
        assert!(total.all().quantile_ms(1.0).unwrap() < 3.01);
    }
}
