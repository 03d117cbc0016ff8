//! When a coordinator asks one replica more because another is slow, and how often it may.
//!
//! A replica is slow when it takes longer than answers take of late. That is extra load, so there is a budget; when that is
//! spent, or nothing is known yet, the configured time counts, after which a replica is asked whatever it costs.

use std::time::Duration;

use crate::meter::Budget;
use crate::meter::Recent;
use crate::meter::Rule;

/// The share of answers of late that are not slow: all but what the budget pays for. If it left out fewer, slow answers, while they
/// are fewer than could be hedged, would be the yardstick, and nothing would be hedged any more.
const PERCENTILE: f64 = 0.90;
/// How many times as long as those an answer may take.
const FACTOR: f64 = 1.5;
/// The configured time in terms of the shortest wait, however fast answers are as a rule.
const SHORTEST: u32 = 5;
/// What an answer may take beyond the round trip, in parts of it.
const TRIP_SHARE: u32 = 4;
/// One for ten reads, and so many at once.
const RULE: Rule = Rule { per_operation: 100, per_second: 0, burst: 50 };

/// Patience with replicas that are read.
#[derive(Debug)]
pub(crate) struct ReadHedge {
    recent: Recent,
    budget: Budget,
    longest: Duration,
}

impl ReadHedge {
    /// After `longest` another replica is asked in any case.
    pub(crate) fn new(longest: Duration) -> Self {
        Self { recent: Recent::new(PERCENTILE), budget: Budget::new(RULE), longest }
    }

    /// A read of one key begins.
    pub(crate) fn began(&self) {
        self.budget.earn();
    }

    /// Another node's replica answered in this time.
    pub(crate) fn answered(&self, took: Duration) {
        self.recent.record(took);
    }

    /// How long to wait for replicas, the farthest of which is a round trip of `trip` away, before one counts as slow.
    pub(crate) fn patience(&self, trip: Duration) -> Duration {
        let usual = self.recent.percentile().map_or(self.longest / 2, |usual| usual.mul_f64(FACTOR));
        usual.clamp(self.longest / SHORTEST, self.longest(trip))
    }

    /// How long to wait for them at most: before a round trip has passed, nobody can have answered.
    pub(crate) fn longest(&self, trip: Duration) -> Duration {
        self.longest.max(trip + trip / TRIP_SHARE)
    }

    /// Whether a round trip takes so long that every read would be hedged: then it is from its beginning on, which costs no more.
    pub(crate) fn is_far(&self, trip: Duration) -> bool {
        trip >= self.longest
    }

    /// Whether a replica more may be asked after so long.
    pub(crate) fn may(&self, waited: Duration) -> bool {
        waited >= self.longest || self.budget.take(1, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const LONGEST: Duration = Duration::from_millis(50);

    #[test]
    fn patience_follows_what_answers_take_within_its_bounds() {
        let hedge = ReadHedge::new(LONGEST);
        assert_eq!(hedge.patience(MS), LONGEST / 2);
        (0..1_000).for_each(|_| hedge.answered(Duration::from_micros(300)));
        assert_eq!(hedge.patience(MS), LONGEST / 5);
        (0..10_000).for_each(|_| hedge.answered(Duration::from_millis(20)));
        assert!(
            hedge.patience(MS) >= Duration::from_millis(30) && hedge.patience(MS) < LONGEST,
            "{:?}",
            hedge.patience(MS)
        );
        (0..10_000).for_each(|_| hedge.answered(Duration::from_secs(1)));
        assert_eq!(hedge.patience(MS), LONGEST);
    }

    #[test]
    fn answers_that_the_budget_could_hedge_do_not_become_the_yardstick() {
        let hedge = ReadHedge::new(LONGEST);
        (0..10_000).for_each(|number| hedge.answered(if number % 12 == 0 { LONGEST } else { MS }));
        assert_eq!(hedge.patience(MS), LONGEST / 5);
    }

    #[test]
    fn on_far_paths_nobody_is_slow_before_a_round_trip_has_passed() {
        let hedge = ReadHedge::new(LONGEST);
        (0..1_000).for_each(|_| hedge.answered(LONGEST * 12));
        assert_eq!([10, 50, 600].map(|ms| hedge.is_far(MS * ms)), [false, true, true]);
        assert_eq!([10, 40, 600].map(|ms| hedge.patience(MS * ms)), [LONGEST, LONGEST, MS * 750]);
    }

    #[test]
    fn a_tenth_of_reads_may_be_hedged_early_and_all_after_the_longest_wait() {
        let hedge = ReadHedge::new(LONGEST);
        let early = (0..10_000).filter(|_| {
            hedge.began();
            hedge.may(LONGEST / 2)
        });
        let early = early.count();
        assert!((1_000..=1_060).contains(&early), "{early}");
        assert!((0..100).all(|_| hedge.may(LONGEST)));
    }
}
