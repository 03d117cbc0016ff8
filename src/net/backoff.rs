//! How long to wait before the next attempt: exponentially longer, with full jitter, so that many who lost the same
//! peer do not come back at the same moment.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

/// Waits between attempts.
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
    rng: StdRng,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration, rng: StdRng) -> Self {
        Self { min, max: max.max(min), failures: 0, rng }
    }

    /// The wait after one more failure: anything up to twice as long as after the one before, at most the maximum.
    pub(crate) fn next(&mut self) -> Duration {
        let ceiling = self.min.saturating_mul(1 << self.failures.min(20)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        let floor = self.min.min(ceiling) / 4;
        self.rng.random_range(floor..=ceiling)
    }

    /// The next failure counts as the first again.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn waits_grow_up_to_the_maximum_and_begin_anew_after_a_reset() {
        let (min, max) = (Duration::from_millis(50), Duration::from_secs(5));
        let mut longest = [Duration::ZERO; 12];
        for seed in 0..200 {
            let mut backoff = Backoff::new(min, max, StdRng::seed_from_u64(seed));
            for longest in &mut longest {
                *longest = backoff.next().max(*longest);
            }
            assert!(longest.iter().all(|wait| *wait <= max));
            backoff.reset();
            assert!(backoff.next() <= min);
        }
        assert!(longest[0] <= min && longest[3] > min * 4 && longest[11] > max / 2, "{longest:?}");
    }
}
