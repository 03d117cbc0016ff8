//! What a histogram held at one moment.

use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::meter::histogram::BOUNDED;
use crate::meter::histogram::bound_us;

/// Durations by bucket (see [`crate::meter::Histogram`]), as a plain value. Empty buckets at the end are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distribution {
    buckets: Vec<u64>,
    sum_ns: u64,
}

impl Distribution {
    pub(crate) fn new(mut buckets: Vec<u64>, sum_ns: u64) -> Self {
        let used = buckets.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        buckets.truncate(used);
        Self { buckets, sum_ns }
    }

    /// How many durations there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |total, count| total.saturating_add(*count))
    }

    /// Their sum.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns)
    }

    /// What was added since an earlier reading of the same histogram. All of it, when that was of another life.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |at: usize| earlier.buckets.get(at).copied().unwrap_or(0);
        let grown = earlier.buckets.len() <= self.buckets.len()
            && self.buckets.iter().enumerate().all(|(at, count)| *count >= before(at));
        if !grown {
            return self.clone();
        }
        let buckets = self.buckets.iter().enumerate().map(|(at, count)| count - before(at)).collect();
        Self::new(buckets, self.sum_ns.saturating_sub(earlier.sum_ns))
    }

    /// Adds what another one holds.
    pub fn merge(&mut self, other: &Self) {
        if self.buckets.len() < other.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        for (own, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *own = own.saturating_add(*more);
        }
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }

    /// The duration that so many of a thousand do not exceed, estimated within its bucket; `None` when there are none. Of
    /// what is beyond the last bound, the bound is all that is known.
    pub fn per_mille(&self, share: u64) -> Option<Duration> {
        let count = self.count();
        let rank = u128::from(count) * u128::from(share.min(1_000));
        let rank = u64::try_from(rank.div_ceil(1_000)).unwrap_or(count).max(1);
        let mut before = 0_u64;
        for (at, held) in self.buckets.iter().enumerate() {
            if before.saturating_add(*held) >= rank {
                let lower = at.checked_sub(1).and_then(bound_us).unwrap_or(0);
                let upper = bound_us(at).unwrap_or(lower);
                let part = u128::from(upper - lower) * u128::from(rank - before) / u128::from((*held).max(1));
                return Some(Duration::from_micros(lower + u64::try_from(part).unwrap_or(0)));
            }
            before = before.saturating_add(*held);
        }
        None
    }

    /// How many are longer, estimated within the bucket that the duration falls into; of what is beyond the last bound all are.
    pub fn longer_than(&self, duration: Duration) -> u64 {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let longer = |(at, held): (usize, &u64)| {
            let lower = at.checked_sub(1).and_then(bound_us).unwrap_or(0);
            let Some(upper) = bound_us(at) else { return *held };
            let part = upper.saturating_sub(us.max(lower));
            u64::try_from(u128::from(*held) * u128::from(part) / u128::from(upper - lower)).unwrap_or(*held)
        };
        self.buckets.iter().enumerate().map(longer).fold(0, u64::saturating_add)
    }

    /// For each bound in rising order, how many durations do not exceed it.
    pub fn cumulative(&self) -> impl Iterator<Item = (Duration, u64)> {
        let mut total = 0_u64;
        (0..BOUNDED).filter_map(move |at| {
            total = total.saturating_add(self.buckets.get(at).copied().unwrap_or(0));
            Some((Duration::from_micros(bound_us(at)?), total))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Histogram;

    fn of(micros: &[u64]) -> Distribution {
        let histogram = Histogram::default();
        micros.iter().for_each(|us| histogram.record(Duration::from_micros(*us)));
        histogram.read()
    }

    #[test]
    fn a_share_is_estimated_within_its_bucket() {
        let spread: Vec<u64> = (1..=1_000).collect();
        let read = of(&spread);
        for (share, exact) in [(500, 500), (990, 990), (1_000, 1_000)] {
            let estimate = u64::try_from(read.per_mille(share).unwrap().as_micros()).unwrap();
            assert!(estimate.abs_diff(exact) < exact / 16, "{share}: {estimate} for {exact}");
        }
        assert_eq!(of(&[]).per_mille(500), None);
        assert_eq!(of(&[60_000_000]).per_mille(500), Some(Duration::from_micros(8_388_608)));
    }

    #[test]
    fn how_many_are_longer_is_estimated_within_a_bucket() {
        let spread: Vec<u64> = (1..=1_000).collect();
        let read = of(&spread);
        for us in [0, 100, 500, 990, 2_000] {
            let (estimate, exact) = (read.longer_than(Duration::from_micros(us)), 1_000_u64.saturating_sub(us));
            assert!(estimate.abs_diff(exact) < 30, "{us}: {estimate} for {exact}");
        }
        assert_eq!(of(&[60_000_000]).longer_than(Duration::from_secs(9)), 1);
    }

    #[test]
    fn the_difference_of_two_readings_is_what_came_between() {
        let (earlier, later) = (of(&[40, 1_000]), of(&[40, 40, 1_000, 90_000]));
        assert_eq!(later.since(&earlier), of(&[40, 90_000]));
        assert_eq!(later.since(&later), Distribution::default());
        assert_eq!(earlier.since(&later), earlier, "another life of the process counts from zero");
        let mut both = earlier.clone();
        both.merge(&later.since(&earlier));
        assert_eq!(both, later);
    }

    #[test]
    fn whatever_a_message_carries_is_read_without_a_fault() {
        let strange = Distribution { buckets: vec![u64::MAX; 100], sum_ns: u64::MAX };
        assert_eq!(strange.count(), u64::MAX);
        assert!(strange.per_mille(999).is_some());
        assert_eq!(strange.cumulative().count(), BOUNDED);
    }
}
