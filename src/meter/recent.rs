//! How long an answer takes as a rule: a percentile of latencies of late. What is shown is counted by
//! histograms, for ever and coarser.
//!
//! Pure: nothing here reads a clock. A bucket is a quarter of an octave, so a percentile is at most a quarter too high.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Buckets of one octave, as a power of two.
const STEP: u32 = 2;
/// Octaves above the first: up to 134 s, more than any operation without a deadline of its own takes.
const OCTAVES: usize = 26;
/// Buckets in all.
const BUCKETS: usize = (OCTAVES + 1) << STEP;
/// Samples after which a percentile of late is computed anew.
const REFRESH: u32 = 64;
/// Refreshes after which old samples count half.
const HALVE: u32 = 32;

/// Whole microseconds of a duration.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn bucket(us: u64) -> usize {
    let small = 1 << STEP;
    if us < small {
        return usize::try_from(us).unwrap_or(0);
    }
    let octave = us.ilog2() - STEP;
    let within = usize::try_from((us >> octave) - small).unwrap_or(0);
    let at = ((usize::try_from(octave).unwrap_or(OCTAVES) + 1) << STEP) + within;
    at.min(BUCKETS - 1)
}

/// The first value, in microseconds, that is beyond a bucket.
fn beyond(bucket: usize) -> u64 {
    let small = 1_usize << STEP;
    if bucket < small {
        return bucket as u64 + 1;
    }
    let (octave, within) = (bucket / small - 1, bucket % small);
    ((small + within + 1) as u64) << octave
}

fn percentile(counts: &[u64], share: f64) -> Option<u64> {
    let total: u64 = counts.iter().sum();
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank")]
    let rank = ((total as f64 * share.clamp(0.0, 1.0)).ceil() as u64).max(1);
    let mut seen = 0;
    let at = counts.iter().position(|count| {
        seen += count;
        seen >= rank
    })?;
    Some(beyond(at))
}

/// A percentile of late: old samples fade as new ones come.
#[derive(Debug)]
pub(crate) struct Recent {
    share: f64,
    counts: [AtomicU32; BUCKETS],
    samples: AtomicU32,
    percentile_us: AtomicU64,
}

impl Recent {
    /// Nothing yet.
    pub(crate) fn new(share: f64) -> Self {
        let counts = std::array::from_fn(|_| AtomicU32::new(0));
        Self { share, counts, samples: AtomicU32::new(0), percentile_us: AtomicU64::new(0) }
    }

    pub(crate) fn record(&self, latency: Duration) {
        self.counts[bucket(micros(latency))].fetch_add(1, Ordering::Relaxed);
        let samples = self.samples.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        if samples.is_multiple_of(REFRESH) {
            self.refresh(samples.is_multiple_of(REFRESH * HALVE));
        }
    }

    /// Two that refresh at once lose a few samples, which does no harm.
    fn refresh(&self, halve: bool) {
        let counts: [u64; BUCKETS] = std::array::from_fn(|at| self.counts[at].load(Ordering::Relaxed).into());
        self.percentile_us.store(percentile(&counts, self.share).unwrap_or(0), Ordering::Relaxed);
        if halve {
            for count in &self.counts {
                count.store(count.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
            }
        }
    }

    /// The percentile; `None` before there are samples enough.
    pub(crate) fn percentile(&self) -> Option<Duration> {
        let us = self.percentile_us.load(Ordering::Relaxed);
        (us > 0).then(|| Duration::from_micros(us))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_bucket_holds_what_is_below_its_bound_and_little_else(us in 0_u64..100_000_000) {
            let at = bucket(us);
            prop_assert!(us < beyond(at) && beyond(at) <= us + us / 4 + 1, "{us} in {at} below {}", beyond(at));
        }
    }

    #[test]
    fn the_percentile_of_late_follows_a_change() {
        let recent = Recent::new(0.99);
        assert_eq!(recent.percentile(), None);
        (0..10_000).for_each(|_| recent.record(Duration::from_millis(100)));
        assert!(recent.percentile().unwrap() >= Duration::from_millis(100));
        (0..40_000).for_each(|_| recent.record(Duration::from_millis(1)));
        assert!(recent.percentile().unwrap() < Duration::from_millis(2));
        recent.record(Duration::MAX);
    }
}
