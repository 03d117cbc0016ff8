//! How often something took how long, counted in buckets of fixed bounds.
//!
//! Two buckets for each doubling from 32 µs to 8.4 s, and one for all that is longer. So an estimate is off by less than
//! half, a histogram takes 312 bytes, and recording is two additions.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::meter::Distribution;

/// Buckets with an upper bound.
pub(crate) const BOUNDED: usize = 37;
/// Upper bound of the first bucket, in microseconds.
const FIRST_US: u64 = 32;

/// Durations by bucket, and their sum.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDED + 1],
    sum_ns: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| AtomicU64::new(0)), sum_ns: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(nanos)].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(nanos, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn read(&self) -> Distribution {
        let buckets = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        Distribution::new(buckets, self.sum_ns.load(Ordering::Relaxed))
    }
}

/// The bucket of a duration in nanoseconds: the first whose bound is not below it.
fn bucket(nanos: u64) -> usize {
    let below = nanos.div_ceil(1_000).saturating_sub(1);
    let Some(octave) = (below / FIRST_US).checked_ilog2() else { return 0 };
    let start = FIRST_US << octave;
    let upper = usize::from(below >= start + start / 2);
    usize::try_from(octave).map_or(BOUNDED, |octave| (1 + 2 * octave + upper).min(BOUNDED))
}

/// The upper bound of a bucket in microseconds; `None` for the last, which has none.
pub(crate) fn bound_us(bucket: usize) -> Option<u64> {
    let octave = bucket.checked_sub(1).map(|at| at / 2);
    match octave {
        _ if bucket >= BOUNDED => None,
        None => Some(FIRST_US),
        Some(octave) if bucket % 2 == 1 => Some((FIRST_US + FIRST_US / 2) << octave),
        Some(octave) => Some((FIRST_US * 2) << octave),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bounds_rise_from_32_microseconds_to_8_seconds() {
        let bounds: Vec<u64> = (0..BOUNDED).filter_map(bound_us).collect();
        assert_eq!(bounds[..5], [32, 48, 64, 96, 128]);
        assert_eq!(bounds.last(), Some(&8_388_608));
        assert!(bounds.is_sorted_by(|a, b| a < b) && bounds.len() == BOUNDED);
        assert_eq!(bound_us(BOUNDED), None);
    }

    proptest! {
        #[test]
        fn a_duration_falls_into_the_first_bucket_whose_bound_holds_it(nanos in prop_oneof![
            0u64..100_000_000, 0u64..20_000_000_000, any::<u64>(),
            (0..BOUNDED, 0..3u64).prop_map(|(at, by)| bound_us(at).unwrap() * 1_000 + by - 1),
        ]) {
            let holds = |at: usize| bound_us(at).is_none_or(|bound| nanos <= bound * 1_000);
            let at = bucket(nanos);
            prop_assert!(holds(at), "{nanos} ns are not within bucket {at}");
            prop_assert!(at == 0 || !holds(at - 1), "{nanos} ns belong into a bucket below {at}");
        }
    }

    #[test]
    fn what_is_recorded_is_read() {
        let histogram = Histogram::default();
        for us in [10, 40, 40, 20_000_000] {
            histogram.record(Duration::from_micros(us));
        }
        let read = histogram.read();
        assert_eq!((read.count(), read.sum()), (4, Duration::from_micros(20_000_090)));
        let micros = Duration::from_micros;
        let cumulative: Vec<(Duration, u64)> = read.cumulative().collect();
        assert_eq!(cumulative[..3], [(micros(32), 1), (micros(48), 3), (micros(64), 3)]);
        assert_eq!((cumulative.len(), cumulative.last()), (BOUNDED, Some(&(micros(8_388_608), 3))));
    }
}
