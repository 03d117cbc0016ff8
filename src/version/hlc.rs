//! Hybrid logical clock (Kulkarni, Demirbas, Madappa, Avva and Leone, "Logical Physical Clocks", OPODIS 2014):
//! stamps near the wall clock that never run backwards and always exceed the stamps that were seen.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A stamp: milliseconds since the Unix epoch in the upper 48 bits, a logical count in the lower 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stamp(pub u64);

impl Stamp {
    /// The first stamp of a millisecond.
    pub fn at(wall_ms: u64) -> Self {
        Self(wall_ms.min(u64::MAX >> 16) << 16)
    }

    /// The physical part in milliseconds since the Unix epoch.
    pub fn wall_ms(self) -> u64 {
        self.0 >> 16
    }

    /// The next stamp.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.wall_ms(), self.0 & 0xffff)
    }
}

/// The clock of one node.
#[derive(Debug, Clone)]
pub struct Clock {
    last: Stamp,
    drift_ms: u64,
}

impl Clock {
    /// A clock that lets stamps of others lead its own wall clock by at most `drift_ms`.
    pub fn new(drift_ms: u64) -> Self {
        Self { last: Stamp::default(), drift_ms }
    }

    /// A stamp later than all that were issued or taken.
    pub fn tick(&mut self, wall_ms: u64) -> Stamp {
        self.last = self.last.next().max(Stamp::at(wall_ms));
        self.last
    }

    /// Takes a stamp of another node. Returns false, and leaves the clock, when the stamp leads the wall clock by
    /// more than the allowed drift: one node with a wrong clock must not drag all others into the future.
    pub fn observe(&mut self, stamp: Stamp, wall_ms: u64) -> bool {
        let sane = stamp.wall_ms() <= wall_ms.saturating_add(self.drift_ms);
        if sane {
            self.last = self.last.max(stamp);
        }
        sane
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_rise_though_the_wall_clock_jumps_back() {
        let mut clock = Clock::new(1_000);
        let first = clock.tick(5_000);
        let second = clock.tick(4_000);
        assert!(second > first);
        assert_eq!(second.wall_ms(), 5_000);
        assert_eq!(clock.tick(6_000), Stamp::at(6_000));
    }

    #[test]
    fn a_stamp_from_the_far_future_is_not_taken() {
        let mut clock = Clock::new(1_000);
        assert!(clock.observe(Stamp::at(10_900), 10_000));
        assert!(!clock.observe(Stamp::at(11_100), 10_000));
        assert_eq!(clock.tick(10_000).wall_ms(), 10_900);
    }
}
