//! What is to happen when, in order. Entries that are no longer meant are told by whom they are for.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::types::NodeId;

/// What a moment is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Begin the next probe.
    Tick,
    /// Take the next step of a probe.
    Probe(u32),
    /// Say that a relayed ping was not answered yet.
    Relay(u32),
    /// Act on a suspicion.
    Suspicion(NodeId),
    /// Look whether a member's return may be announced.
    Probation(NodeId),
    /// A round of gossip.
    Gossip,
    /// Try the dead again.
    Retry,
    /// Try the seeds.
    Seeds,
}

/// Moments in order.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(Duration, Timer)>);

impl Timers {
    /// Adds a moment.
    pub(super) fn at(&mut self, when: Duration, timer: Timer) {
        self.0.insert((when, timer));
    }

    /// Takes a moment out again, so that nobody is woken for it.
    pub(super) fn cancel(&mut self, when: Duration, timer: Timer) {
        self.0.remove(&(when, timer));
    }

    /// The earliest moment.
    pub(super) fn next(&self) -> Option<Duration> {
        self.0.first().map(|(when, _)| *when)
    }

    /// Takes out one that is due.
    pub(super) fn due(&mut self, now: Duration) -> Option<Timer> {
        let (when, timer) = *self.0.first()?;
        if when > now {
            return None;
        }
        self.0.remove(&(when, timer));
        Some(timer)
    }
}
