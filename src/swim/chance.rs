//! Random numbers from a seed that was handed in: choices of targets, orders and jitter.
//!
//! Not for secrets: whoever sees the output can compute the rest.

use std::time::Duration;

/// A stream of random numbers (SplitMix64), a function of its seed.
#[derive(Debug, Clone)]
pub(super) struct Chance(u64);

/// Scatters a number over all 64 bits; the same for the same number.
pub(super) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Chance {
    /// A stream.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub(super) fn next(&mut self) -> u64 {
        let value = mix(self.0);
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        value
    }

    /// A number below `bound`, which is above zero.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).unwrap_or(u64::MAX);
        let high = (u128::from(self.next()) * u128::from(bound)) >> 64;
        usize::try_from(high).unwrap_or(0)
    }

    /// A duration of up to `longest`.
    pub(super) fn up_to(&mut self, longest: Duration) -> Duration {
        let micros = usize::try_from(longest.as_micros()).unwrap_or(usize::MAX);
        Duration::from_micros(u64::try_from(self.below(micros.saturating_add(1))).unwrap_or(0))
    }

    /// A duration of 90 to 110 % of the given one, so that members do not fall into step.
    pub(super) fn jitter(&mut self, around: Duration) -> Duration {
        around * 9 / 10 + self.up_to(around / 5)
    }

    /// Puts the items into a random order.
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// Up to `count` different items that pass, in random order.
    pub(super) fn sample<T: Copy + PartialEq>(
        &mut self,
        items: &[T],
        count: usize,
        passes: impl Fn(T) -> bool,
    ) -> Vec<T> {
        let mut chosen: Vec<T> = Vec::with_capacity(count);
        // A bounded number of draws finds them in all but small lists, which are walked in order instead.
        if items.len() > 4 * count {
            for _ in 0..8 * count {
                let item = items[self.below(items.len())];
                if chosen.len() < count && passes(item) && !chosen.contains(&item) {
                    chosen.push(item);
                }
            }
            return chosen;
        }
        chosen.extend(items.iter().copied().filter(|item| passes(*item)));
        self.shuffle(&mut chosen);
        chosen.truncate(count);
        chosen
    }
}
