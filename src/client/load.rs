//! What one node costs: requests under way there, and how long its answers take of late.
//!
//! The latency follows a rise at once and a fall slowly, and fades while nothing is asked, so that a node that was slow is
//! tried again. Time comes in as an argument.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Time without an answer after which a latency counts half, in milliseconds.
const FADE_MS: u64 = 2_000;
/// The latency assumed before the first answer, in microseconds.
const UNKNOWN_US: u64 = 500;
/// Bits of the packed latency that hold microseconds.
const US_BITS: u32 = 28;

/// Requests under way and latency of one node.
#[derive(Debug)]
pub(crate) struct Load {
    under_way: AtomicU32,
    /// Milliseconds of the last answer, above the latency in microseconds.
    latency: AtomicU64,
}

impl Default for Load {
    fn default() -> Self {
        Self { under_way: AtomicU32::new(0), latency: AtomicU64::new(UNKNOWN_US) }
    }
}

/// A request under way, until dropped.
#[derive(Debug)]
pub(crate) struct UnderWay<'a>(&'a Load);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Load {
    /// Counts a request for as long as the guard lives.
    pub(crate) fn begin(&self) -> UnderWay<'_> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(self)
    }

    /// Takes in how long an answer took, or how long none has come by now.
    pub(crate) fn took(&self, us: u64, now_ms: u64) {
        let known = self.latency_us(now_ms);
        let us = us.min((1 << US_BITS) - 1);
        // Up by halves, down by eighths.
        let next = if us > known { known.midpoint(us) } else { known - (known - us) / 8 };
        // Concurrent answers may overwrite each other; either is as good.
        self.latency.store((now_ms << US_BITS) | next, Ordering::Relaxed);
    }

    /// Expected wait for one request more, in units that compare.
    pub(crate) fn cost(&self, now_ms: u64) -> u64 {
        let queue = u64::from(self.under_way.load(Ordering::Relaxed)) + 1;
        self.latency_us(now_ms).max(1).saturating_mul(queue)
    }

    fn latency_us(&self, now_ms: u64) -> u64 {
        let packed = self.latency.load(Ordering::Relaxed);
        let idle = now_ms.saturating_sub(packed >> US_BITS);
        (packed & ((1 << US_BITS) - 1)) >> (idle / FADE_MS).min(u64::from(US_BITS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_costs_and_costs_no_more_when_it_is_gone() {
        let load = Load::default();
        let alone = load.cost(0);
        let (one, two) = (load.begin(), load.begin());
        assert_eq!(load.cost(0), alone * 3);
        drop((one, two));
        assert_eq!(load.cost(0), alone);
    }

    #[test]
    fn a_slow_answer_is_felt_at_once_and_forgotten_slowly() {
        let load = Load::default();
        load.took(50_000, 10);
        let slow = load.cost(10);
        assert!(slow > 20_000);
        load.took(500, 11);
        assert!(load.cost(11) > slow / 2);
        (0..100).for_each(|_| load.took(500, 12));
        assert!(load.cost(12) < 600);
    }

    #[test]
    fn a_node_that_is_not_asked_comes_back_into_play() {
        let load = Load::default();
        load.took(60_000_000, 0);
        let slow = load.cost(0);
        assert_eq!(load.cost(FADE_MS), slow / 2);
        assert!(load.cost(FADE_MS * 40) <= 1);
    }
}
