//! The causal context: for each actor, how many of its writes have been seen.

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::version::dot::{Actor, Dot};

/// How two contexts (or the states under them) relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Causality {
    /// The left one has seen less than the right one.
    Before,
    /// The left one has seen all that the right one has, and more.
    After,
    /// Both have seen the same.
    Equal,
    /// Each has seen something that the other has not.
    Concurrent,
}

/// A version vector: sorted by actor, without zero counts, so that equal contexts are equal bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Context(Vec<(Actor, u64)>);

impl Context {
    /// The context that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes entries from outside. `None` unless they are sorted by actor, free of zero and of absurd counts, and
    /// within the limit.
    pub fn from_entries(entries: Vec<(Actor, u64)>) -> Option<Self> {
        let context = Self(entries);
        context.is_valid().then_some(context)
    }

    /// Whether a context that came from outside has the one canonical form.
    pub fn is_valid(&self) -> bool {
        // Counters of half the range cannot be reached by counting; taking one would let a client exhaust an actor.
        self.0.len() <= limits::CONTEXT_ACTORS_MAX
            && self.0.is_sorted_by(|a, b| a.0 < b.0)
            && self.0.iter().all(|(_, count)| (1..=u64::MAX / 2).contains(count))
    }

    /// Whether nothing has been seen.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of actors.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Actors and counts in order.
    pub fn entries(&self) -> &[(Actor, u64)] {
        &self.0
    }

    /// How many writes of this actor have been seen.
    pub fn count(&self, actor: Actor) -> u64 {
        self.0.binary_search_by_key(&actor, |entry| entry.0).map_or(0, |at| self.0[at].1)
    }

    /// Whether the write with this dot has been seen.
    pub fn covers(&self, dot: Dot) -> bool {
        dot.counter <= self.count(dot.actor)
    }

    /// Marks a write, and all before it of the same actor, as seen.
    pub fn add(&mut self, dot: Dot) {
        match self.0.binary_search_by_key(&dot.actor, |entry| entry.0) {
            Ok(at) => self.0[at].1 = self.0[at].1.max(dot.counter),
            Err(at) => self.0.insert(at, (dot.actor, dot.counter)),
        }
    }

    /// Marks as seen what `other` has seen.
    pub fn merge(&mut self, other: &Self) {
        for &(actor, counter) in &other.0 {
            self.add(Dot { actor, counter });
        }
    }

    /// How this context relates to `other`.
    pub fn compare(&self, other: &Self) -> Causality {
        match (self.within(other), other.within(self)) {
            (true, true) => Causality::Equal,
            (true, false) => Causality::Before,
            (false, true) => Causality::After,
            (false, false) => Causality::Concurrent,
        }
    }

    fn within(&self, other: &Self) -> bool {
        self.0.iter().all(|&(actor, counter)| counter <= other.count(actor))
    }
}
