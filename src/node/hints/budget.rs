//! How many hints are kept for each target, and which further ones collapse to marks.
//!
//! Counts are taken from the markers themselves now and then; in between they may be too high, never too low. What a marker
//! and a mark are is [`marker`]'s to say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::limits;
use crate::node::core::Core;
use crate::node::hints::{RECOUNT, TICK};
use crate::node::replica::marker;
use crate::store::Slot;
use crate::types::{Bucket, NodeId};
use crate::view::ClusterView;
use crate::wire::hints::HintsFor;

/// The hints for one target, as they were last counted and have grown since.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// How many there are.
    pub(crate) count: u64,
    /// What their markers take.
    pub(crate) bytes: u64,
    /// When the oldest was made, by this node's clock, in milliseconds since the Unix epoch.
    pub(crate) oldest_ms: Option<u64>,
    /// The buckets that are marked.
    pub(crate) marked: BTreeSet<Bucket>,
}

impl Kept {
    /// One marker more.
    pub(super) fn add(&mut self, bytes: usize, made_ms: u64) {
        self.count += 1;
        self.bytes += bytes as u64;
        self.note_age(made_ms);
    }

    /// A mark, once more perhaps.
    pub(super) fn mark(&mut self, bucket: Bucket, made_ms: u64) {
        self.marked.insert(bucket);
        self.note_age(made_ms);
    }

    fn note_age(&mut self, made_ms: u64) {
        self.oldest_ms = Some(self.oldest_ms.map_or(made_ms, |oldest| oldest.min(made_ms)));
    }

    fn is_nothing(&self) -> bool {
        self.count == 0 && self.marked.is_empty()
    }
}

/// How many hints are kept for each target. A renewed hint counts anew until the markers are next counted, so this may
/// be too high for a while, never too low.
#[derive(Debug)]
pub(crate) struct HintBudget {
    /// Most hints for one target; those beyond collapse to marks.
    most: u64,
    kept: Mutex<BTreeMap<NodeId, Kept>>,
    /// What was kept while those of a target are being counted: the count may have passed it by.
    counting: Mutex<BTreeMap<NodeId, Kept>>,
    /// Targets for which there may be markers that were not counted yet.
    fresh: Mutex<BTreeSet<NodeId>>,
    /// There are some of those again.
    news: Notify,
    /// Targets whose hints are on their way.
    delivering: Mutex<BTreeSet<NodeId>>,
}

/// A target's hints are on their way until this is dropped.
#[derive(Debug)]
pub(super) struct Delivering<'a>(&'a HintBudget, NodeId);

impl Drop for Delivering<'_> {
    fn drop(&mut self) {
        self.0.delivering().remove(&self.1);
    }
}

impl HintBudget {
    /// With room for so many hints for each target.
    pub(crate) fn new(most: u64) -> Self {
        Self {
            most,
            kept: Mutex::default(),
            counting: Mutex::default(),
            fresh: Mutex::default(),
            news: Notify::new(),
            delivering: Mutex::default(),
        }
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<NodeId, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn delivering(&self) -> MutexGuard<'_, BTreeSet<NodeId>> {
        self.delivering.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fresh(&self) -> MutexGuard<'_, BTreeSet<NodeId>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hints of a target are on their way from now on.
    pub(super) fn begin_delivery(&self, target: NodeId) -> Delivering<'_> {
        self.delivering().insert(target);
        Delivering(self, target)
    }

    /// Markers or marks for these targets were stored.
    pub(crate) fn stored(&self, targets: &[NodeId]) {
        if !targets.is_empty() {
            self.fresh().extend(targets);
            self.news.notify_one();
        }
    }

    /// Whether there are, or may be, hints for a target.
    pub(super) fn has_some(&self, target: NodeId) -> bool {
        self.kept().get(&target).is_some_and(|kept| !kept.is_nothing()) || self.fresh().contains(&target)
    }

    /// Forgets targets that are members no more, once nothing is kept for them.
    pub(crate) fn retain(&self, is_member: impl Fn(&NodeId) -> bool) {
        self.kept().retain(|target, _| is_member(target));
        self.fresh().retain(is_member);
    }

    /// Waits until it is time to look at them again.
    pub(super) async fn rest(&self, core: &Core, view: &ClusterView) {
        if self.kept().values().all(Kept::is_nothing) && self.fresh().is_empty() {
            tokio::select! {
                biased;
                () = self.news.notified() => {}
                _ = core.views.other_than(view.digest()) => {}
                () = sleep(RECOUNT) => {}
            }
        }
        core.rest.beat(TICK).await;
    }

    /// Whether what a node lacks is about to come by hints: they are on their way, and not so many that comparing trees
    /// is the quicker way.
    pub(crate) fn is_delivering(&self, target: NodeId) -> bool {
        let few = |kept: &Kept| kept.count <= limits::HINTS_BEFORE_SYNC_MAX && kept.marked.is_empty();
        let few = self.kept().get(&target).is_none_or(few);
        few && self.delivering().contains(&target)
    }

    /// Hints kept in all.
    pub(crate) fn total(&self) -> u64 {
        self.kept().values().map(|kept| kept.count).sum()
    }

    /// Partitions that are marked, each for one target.
    pub(crate) fn marked(&self) -> u64 {
        self.kept().values().map(|kept| kept.marked.len() as u64).sum()
    }

    /// Where to keep in mind that these targets lack a record: markers of its own, as far as there is room, and marks.
    pub(crate) fn places(&self, core: &Core, slot: &Slot, targets: &[NodeId]) -> Vec<Slot> {
        let wall_ms = core.rest.wall_ms();
        let place = |target: &NodeId| {
            if self.admit(*target, slot, wall_ms) {
                return marker::slot(*target, slot);
            }
            core.meters.hints_collapsed.one();
            marker::slot(*target, &marker::all_of(slot.bucket))
        };
        targets.iter().map(place).collect()
    }

    /// Takes room for one more hint; false when the target's budget is spent, and the bucket is to be marked.
    fn admit(&self, target: NodeId, slot: &Slot, wall_ms: u64) -> bool {
        let mut budget = self.kept();
        if !budget.contains_key(&target) && budget.len() >= limits::MEMBERS_MAX {
            return false;
        }
        let kept = budget.entry(target).or_default();
        let admitted = kept.count < self.most;
        let note = |kept: &mut Kept| match admitted {
            true => kept.add(marker::size(slot), wall_ms),
            false => kept.mark(slot.bucket, wall_ms),
        };
        note(kept);
        self.counting().get_mut(&target).into_iter().for_each(note);
        admitted
    }

    pub(super) fn is_spent(&self, target: NodeId) -> bool {
        self.kept().get(&target).is_some_and(|kept| kept.count >= self.most)
    }

    fn counting(&self) -> MutexGuard<'_, BTreeMap<NodeId, Kept>> {
        self.counting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on a target's hints are being counted. What is stored from here on is said to be, so that the next count is
    /// not left out.
    pub(super) fn begin_count(&self, target: NodeId) {
        self.counting().insert(target, Kept::default());
        self.fresh().remove(&target);
    }

    /// So many were counted; what came meanwhile counts, too, perhaps twice until the next count.
    pub(super) fn end_count(&self, target: NodeId, mut counted: Kept) {
        let mut kept = self.kept();
        let fresh = self.counting().remove(&target).unwrap_or_default();
        counted.count += fresh.count;
        counted.bytes += fresh.bytes;
        counted.oldest_ms = counted.oldest_ms.into_iter().chain(fresh.oldest_ms).min();
        counted.marked.extend(fresh.marked);
        kept.insert(target, counted);
    }

    /// What is kept for whom, and whether all of it was counted since the start.
    pub(crate) fn report(&self, core: &Core) -> (Vec<HintsFor>, bool) {
        let (view, now) = (core.view(), core.rest.wall_ms());
        let kept = self.kept();
        let line = |(target, kept): (&NodeId, &Kept)| HintsFor {
            name: view.name_of(*target),
            count: kept.count,
            bytes: kept.bytes,
            oldest_ms: kept.oldest_ms.map_or(0, |oldest| now.saturating_sub(oldest)),
            marked: kept.marked.len() as u64,
        };
        let lines = kept.iter().filter(|(_, kept)| !kept.is_nothing()).map(line).collect();
        (lines, view.members().keys().all(|node| *node == core.id || kept.contains_key(node)))
    }

    /// Keeps hints for a record that is on this node.
    pub(crate) async fn keep(&self, core: &Core, slot: Slot, targets: Vec<NodeId>) {
        if targets.is_empty() {
            return;
        }
        core.meters.hints_kept.count(targets.len());
        let places = self.places(core, &slot, &targets);
        let outcome = core.replica.hint(slot, places).await;
        self.stored(&targets);
        if let Err(error) = outcome {
            core.meters.hints_refused.one();
            tracing::warn!(%error, "a hint could not be kept; anti-entropy has to find what the owner missed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use bytes::Bytes;

    #[test]
    fn what_is_kept_while_hints_are_counted_is_not_lost_from_the_count() {
        let budget = HintBudget::new(10);
        let slot = Slot { bucket: Bucket(1), key: Bytes::from_static(b"key") };
        assert!(budget.admit(NodeId(1), &slot, 700));
        budget.begin_count(NodeId(1));
        assert!(budget.admit(NodeId(1), &slot, 900));
        budget.end_count(NodeId(1), Kept { count: 5, bytes: 100, oldest_ms: Some(800), ..Kept::default() });
        let bytes = 100 + marker::size(&slot) as u64;
        let kept = Kept { count: 6, bytes, oldest_ms: Some(800), marked: BTreeSet::new() };
        assert_eq!(budget.kept()[&NodeId(1)], kept);
        budget.begin_count(NodeId(1));
        budget.end_count(NodeId(1), Kept::default());
        assert_eq!(budget.total(), 0);
    }

    #[test]
    fn a_spent_budget_takes_no_more_hints_for_its_target_until_some_are_delivered() {
        let budget = HintBudget::new(10);
        let slot = Slot { bucket: Bucket(1), key: Bytes::from_static(b"key") };
        budget.end_count(NodeId(1), Kept { count: 10 - 1, ..Kept::default() });
        assert!(!budget.is_spent(NodeId(1)) && budget.admit(NodeId(1), &slot, 700));
        assert!(budget.is_spent(NodeId(1)) && !budget.admit(NodeId(1), &slot, 700));
        assert_eq!((budget.total(), budget.marked()), (10, 1), "what collapsed is one mark");
        assert!(budget.admit(NodeId(2), &slot, 700), "others have a budget of their own");
        budget.begin_count(NodeId(1));
        budget.end_count(NodeId(1), Kept::default());
        assert_eq!(budget.marked(), 0);
        assert!(budget.admit(NodeId(1), &slot, 700));
    }

    #[test]
    fn what_was_kept_for_a_member_that_is_gone_is_not_counted_for_ever() {
        let budget = HintBudget::new(1);
        let slot = Slot { bucket: Bucket(1), key: Bytes::from_static(b"key") };
        for target in [NodeId(1), NodeId(1), NodeId(2)] {
            budget.admit(target, &slot, 700);
            budget.stored(&[target]);
        }
        budget.retain(|target| *target == NodeId(2));
        assert_eq!((budget.total(), budget.marked()), (1, 0));
        assert!(!budget.has_some(NodeId(1)) && budget.has_some(NodeId(2)));
    }

    #[test]
    fn marks_that_are_made_while_hints_are_counted_count_and_keep_a_target_from_being_left_alone() {
        let budget = HintBudget::new(0);
        let slot = |bucket| Slot { bucket: Bucket(bucket), key: Bytes::from_static(b"key") };
        assert!(!budget.admit(NodeId(1), &slot(1), 700) && budget.has_some(NodeId(1)));
        budget.begin_count(NodeId(1));
        assert!(!budget.admit(NodeId(1), &slot(2), 800) && !budget.admit(NodeId(1), &slot(2), 900));
        let mut counted = Kept::default();
        counted.mark(Bucket(1), 700);
        budget.end_count(NodeId(1), counted);
        assert_eq!((budget.total(), budget.marked()), (0, 2));
        assert_eq!(budget.kept()[&NodeId(1)].oldest_ms, Some(700));
        let _delivering = budget.begin_delivery(NodeId(1));
        assert!(!budget.is_delivering(NodeId(1)), "comparing trees is the quicker way");
    }
}
