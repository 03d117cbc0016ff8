//! How long a node waits for what.

use std::time::Duration;

use tokio::time::Instant;

#[cfg(doc)]
use crate::limits;

/// Whole milliseconds.
pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Limits of waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// The answer of one replica.
    pub replica: Duration,
    /// The answer of a replica to a read before another one is asked beside it, at most: it is asked when that takes longer
    /// than answers do of late, after a fifth of this at the earliest.
    pub hedge: Duration,
    /// Age at which it is tried to drop a deleted or expired record, at least [`limits::REAP_AFTER_MIN`]; `None` keeps them.
    pub reap_after: Option<Duration>,
    /// Towards which 99th percentile of puts and gets work in the background is slowed down.
    pub background: Duration,
    /// All of shutdown, except for what is short by itself: the last packets to peers, and closing the storage's files.
    pub shutdown: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            replica: Duration::from_secs(2),
            hedge: Duration::from_millis(50),
            reap_after: None,
            background: Duration::from_millis(50),
            shutdown: Duration::from_secs(10),
        }
    }
}

/// What is left of a time that several parts share, one after the other: each gets a share of what those before it left.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget(Instant);

impl Budget {
    /// The whole, from now on.
    pub(crate) fn new(whole: Duration) -> Self {
        Self(Instant::now() + whole)
    }

    /// All that is left.
    pub(crate) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn parts_that_each_take_their_share_stay_within_the_whole() {
        let (whole, began) = (Duration::from_secs(10), Instant::now());
        let budget = Budget::new(whole);
        for share in [2, 4, 2, 2, 1, 1] {
            tokio::time::sleep(budget.left() / share).await;
        }
        assert!(began.elapsed() <= whole + Duration::from_millis(2), "{:?}", began.elapsed());
        assert_eq!(budget.left(), Duration::ZERO);
    }
}
