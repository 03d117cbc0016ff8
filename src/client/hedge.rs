//! How long an answer is waited for before somebody else is asked too, and who pays for that.
//!
//! Two reasons to ask a second node are kept apart. A node that answers others but is slow with this is *hedged*: that is
//! extra load, and its budget is a share of all operations. A node from which nothing at all has come is *failed over*: the
//! load moves, and its budget is that of retries.

use std::time::Duration;

use crate::client::metrics::Kind;
use crate::limits;
use crate::meter::Budget;
use crate::meter::Recent;
use crate::meter::Rule;

/// The share of answers of late that are not slow.
const PERCENTILE: f64 = 0.99;
/// How many times as long as those an answer may take.
const FACTOR: f64 = 1.5;
/// What each item of a batch adds to the patience with it.
const ITEM: Duration = Duration::from_micros(500);
/// What each byte of a request adds, in nanoseconds.
const BYTE_NS: u64 = 50;
/// Patience with pages of scans, questions about the cluster, and requests too large for a lane, whose times say nothing
/// about each other. Those too large for a lane go to a second node only when the first is silent: each copy is costly.
const OTHER: Duration = Duration::from_secs(1);
/// What each byte of a large request adds, in nanoseconds.
const LARGE_BYTE_NS: u64 = 1_000;
/// Hedges a client may have sent beyond its share.
const HEDGE_BURST: u64 = 50;
/// Retries and failovers: one for ten operations, so many in each second besides, and so many at once.
const RETRIES: Rule = Rule { per_operation: 100, per_second: 50_000, burst: 2_000 };

/// When a client asks a second node for what the first has not answered yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hedging {
    /// Shortest wait, however fast answers are as a rule.
    pub min: Duration,
    /// Longest wait before a silent node is given up, however slow answers are as a rule, unless it is far away: then two
    /// round trips. One that is merely slow is waited for as long as answers take.
    pub max: Duration,
    /// Extra requests for each hundred operations, beside a small burst. Nodes that have fallen silent do not count.
    pub percent: u8,
}

impl Default for Hedging {
    fn default() -> Self {
        Self { min: Duration::from_millis(15), max: Duration::from_millis(60), percent: 10 }
    }
}

/// What one request asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) kind: Kind,
    pub(crate) items: usize,
    /// Keys and values.
    pub(crate) bytes: usize,
    /// Whether two attempts must not be under way at once, since one would meet the other.
    pub(crate) alone: bool,
}

/// Patience and budgets of one client.
#[derive(Debug)]
pub(crate) struct Patience {
    hedging: Option<Hedging>,
    reads: Recent,
    writes: Recent,
    hedges: Budget,
    retries: Budget,
}

impl Patience {
    pub(crate) fn new(hedging: Option<Hedging>) -> Self {
        let percent = hedging.as_ref().map_or(0, |hedging| u64::from(hedging.percent));
        let burst = if percent > 0 { HEDGE_BURST } else { 0 };
        Self {
            hedging,
            reads: Recent::new(PERCENTILE),
            writes: Recent::new(PERCENTILE),
            hedges: Budget::new(Rule { per_operation: percent * 10, per_second: 0, burst }),
            retries: Budget::new(RETRIES),
        }
    }

    /// An operation begins.
    pub(crate) fn began(&self) {
        self.hedges.earn();
        self.retries.earn();
    }

    /// An attempt was answered after this time.
    pub(crate) fn answered(&self, size: Size, took: Duration) {
        // Those of batches and large values say little about others.
        match size.kind {
            _ if size.items > 1 || size.bytes > limits::LANE_FRAME_MAX => {}
            Kind::Read => self.reads.record(took),
            Kind::Write => self.writes.record(took),
            Kind::Other => {}
        }
    }

    /// How long to wait for a node that is not silent before it is hedged; `None` when it is not. Where everything is slow, one
    /// slow answer says nothing of its node, and extra load would do harm: there is no longest wait here.
    pub(crate) fn with_slow(&self, size: Size) -> Option<Duration> {
        let recent = match size.kind {
            _ if size.bytes > limits::LANE_FRAME_MAX => return None,
            Kind::Read => &self.reads,
            Kind::Write => &self.writes,
            Kind::Other => return Some(OTHER),
        };
        let usual = recent.percentile().map_or(Duration::ZERO, |usual| usual.mul_f64(FACTOR));
        self.with(size).map(|patience| patience.max(usual))
    }

    /// How long to wait for a node before it is judged, and another asked if it is silent; `None` when that is not wanted.
    pub(crate) fn with(&self, size: Size) -> Option<Duration> {
        let hedging = self.hedging.as_ref().filter(|_| !size.alone)?;
        let bytes = u64::try_from(size.bytes).unwrap_or(u64::MAX);
        if size.bytes > limits::LANE_FRAME_MAX {
            return Some(OTHER + Duration::from_nanos(bytes.saturating_mul(LARGE_BYTE_NS)));
        }
        let recent = match size.kind {
            Kind::Other => return Some(OTHER),
            Kind::Read => &self.reads,
            Kind::Write => &self.writes,
        };
        let usual = recent.percentile().map_or(hedging.max / 2, |usual| usual.mul_f64(FACTOR));
        let usual = usual.min(hedging.max).max(hedging.min);
        let items = u32::try_from(size.items.saturating_sub(1)).unwrap_or(u32::MAX);
        Some(usual + ITEM.saturating_mul(items) + Duration::from_nanos(bytes.saturating_mul(BYTE_NS)))
    }

    /// Whether the budget allows to ask for this much twice.
    pub(crate) fn may_hedge(&self, size: Size, now_us: u64) -> bool {
        self.hedges.take(u64::try_from(size.items.max(1)).unwrap_or(u64::MAX), now_us / 1_000)
    }

    /// A repetition was answered: further ones are worth trying, however many there were.
    pub(crate) fn retry_helped(&self) {
        self.retries.refund();
    }

    /// Whether the budget allows to repeat a request.
    pub(crate) fn may_retry(&self, now_us: u64) -> bool {
        self.retries.take(1, now_us / 1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Size = Size { kind: Kind::Read, items: 1, bytes: 0, alone: false };

    #[test]
    fn patience_follows_the_latency_of_its_kind_within_its_bounds() {
        let patience = Patience::new(Some(Hedging::default()));
        assert_eq!(patience.with(ONE), Some(Duration::from_millis(30)));
        (0..1_000).for_each(|_| patience.answered(ONE, Duration::from_millis(1)));
        assert_eq!(patience.with(ONE), Some(Duration::from_millis(15)));
        assert_eq!(patience.with(Size { kind: Kind::Write, ..ONE }), Some(Duration::from_millis(30)));
        (0..10_000).for_each(|_| patience.answered(ONE, Duration::from_millis(20)));
        let usual = patience.with(ONE).unwrap();
        assert!(usual >= Duration::from_millis(30) && usual <= Duration::from_millis(40), "{usual:?}");
        (0..10_000).for_each(|_| patience.answered(ONE, Duration::from_secs(1)));
        assert_eq!(patience.with(ONE), Some(Duration::from_millis(60)));
        assert!(patience.with_slow(ONE).unwrap() >= Duration::from_millis(1_500));
        assert_eq!(patience.with_slow(Size { bytes: limits::VALUE_MAX, ..ONE }), None);
        assert!(patience.with(Size { items: 1_000, ..ONE }).unwrap() > Duration::from_millis(500));
        assert!(patience.with(Size { bytes: limits::VALUE_MAX, ..ONE }).unwrap() > Duration::from_secs(5));
        assert_eq!(patience.with(Size { alone: true, ..ONE }), None);
        assert_eq!(Patience::new(None).with(ONE), None);
    }

    #[test]
    fn hedges_are_a_tenth_of_operations_after_a_burst_and_a_batch_pays_for_all_of_it() {
        let patience = Patience::new(Some(Hedging::default()));
        let mut allowed = 0;
        for _ in 0..10_000 {
            patience.began();
            allowed += u64::from(patience.may_hedge(ONE, 0));
        }
        assert!((1_000..=1_000 + HEDGE_BURST).contains(&allowed), "{allowed}");
        assert!(!patience.may_hedge(Size { items: 1_000, ..ONE }, 1_000_000));
        assert!(patience.may_retry(0));
        let none = Patience::new(None);
        (0..1_000).for_each(|_| none.began());
        assert!(!none.may_hedge(ONE, 0));
    }
}
