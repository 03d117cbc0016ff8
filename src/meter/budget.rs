//! How much more than asked for a client or a coordinator may send: tokens that operations and time earn and extra requests spend.
//!
//! Pure: time comes in as an argument. What a token buys, and what happens when there is none, is for the caller.

use std::sync::atomic::{AtomicU64, Ordering};

/// A token, in the unit of what is earned.
const TOKEN: u64 = 1_000;

/// What a budget earns, in thousandths of a token, and how many tokens it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    /// Earned by each operation.
    pub(crate) per_operation: u64,
    /// Earned in each second.
    pub(crate) per_second: u64,
    /// Tokens at the beginning, and the most there can be.
    pub(crate) burst: u64,
}

/// A number of tokens. Concurrent use may lose an earning, never create a token.
#[derive(Debug)]
pub(crate) struct Budget {
    rule: Rule,
    thousandths: AtomicU64,
    /// Milliseconds up to which time has earned.
    paid_until_ms: AtomicU64,
}

impl Budget {
    pub(crate) fn new(rule: Rule) -> Self {
        Self { rule, thousandths: AtomicU64::new(rule.burst * TOKEN), paid_until_ms: AtomicU64::new(0) }
    }

    /// An operation began.
    pub(crate) fn earn(&self) {
        self.add(self.rule.per_operation);
    }

    /// Gives back a token: what it bought was of use.
    pub(crate) fn refund(&self) {
        self.add(TOKEN);
    }

    /// Takes tokens at this time, in milliseconds since any fixed moment; false when there are too few.
    pub(crate) fn take(&self, tokens: u64, now_ms: u64) -> bool {
        let paid_until = self.paid_until_ms.fetch_max(now_ms, Ordering::Relaxed);
        self.add(now_ms.saturating_sub(paid_until).saturating_mul(self.rule.per_second) / 1_000);
        let cost = tokens * TOKEN;
        self.thousandths.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| held.checked_sub(cost)).is_ok()
    }

    fn add(&self, thousandths: u64) {
        let most = self.rule.burst * TOKEN;
        // Full in the common case, which costs one load.
        if thousandths == 0 || self.thousandths.load(Ordering::Relaxed) >= most {
            return;
        }
        let add = |held: u64| Some(held.saturating_add(thousandths).min(most));
        // Never fails: the new value is always given.
        let _before = self.thousandths.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULE: Rule = Rule { per_operation: 100, per_second: 1_000, burst: 10 };

    #[test]
    fn a_burst_is_free_and_then_each_tenth_operation_earns_one() {
        let budget = Budget::new(RULE);
        assert_eq!((0..20).filter(|_| budget.take(1, 0)).count(), 10);
        for _ in 0..9 {
            budget.earn();
        }
        assert!(!budget.take(1, 0));
        budget.earn();
        assert!(budget.take(1, 0) && !budget.take(1, 0));
    }

    #[test]
    fn time_earns_too_so_that_an_idle_client_is_not_stuck() {
        let budget = Budget::new(RULE);
        assert!(budget.take(10, 0) && !budget.take(1, 999));
        assert!(budget.take(1, 1_100) && !budget.take(1, 1_100));
    }

    proptest! {
        #[test]
        fn never_more_is_spent_than_was_earned(steps in prop::collection::vec((any::<bool>(), 1_u64..4, 0_u64..50), 0..300)) {
            let budget = Budget::new(RULE);
            let (mut now, mut earned, mut spent) = (0, RULE.burst * TOKEN, 0);
            for (earns, tokens, wait) in steps {
                now += wait;
                if earns {
                    budget.earn();
                    earned += RULE.per_operation;
                } else if budget.take(tokens, now) {
                    spent += tokens * TOKEN;
                }
            }
            prop_assert!(spent <= earned + now * RULE.per_second / 1_000);
        }
    }
}
