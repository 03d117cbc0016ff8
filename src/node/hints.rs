//! Hinted handoff: what an owner missed is sent to it once it is back.
//!
//! Markers (see [`crate::node::replica::marker`]) are made by the write path; this counts them against a budget and
//! delivers them, paced, one page after another. A node that only stood in forgets the record with its last marker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::limits;
use crate::node::ask::By;
use crate::node::core::{Core, slot_ref};
use crate::node::past;
use crate::node::peers::unexpected;
use crate::node::replica::HintDone;
use crate::node::replica::marker::{self, Marker};
use crate::record;
use crate::store::Slot;
use crate::types::{Bucket, NodeId};
use crate::view::ClusterView;
use crate::wire::blob::Blob;
use crate::wire::hints::HintsFor;
use crate::wire::rpc::{Fetched, ReplicaWrite, Reply, Request, ServeError};

/// How often the markers of reachable targets are looked at while there are any.
const TICK: Duration = Duration::from_millis(500);
/// How long a target that took no hint is left alone.
const REST: Duration = Duration::from_secs(3);
/// How long a target may take for a message of hints.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the markers of a target are read though nothing is known of any, or its budget seems spent.
const RECOUNT: Duration = Duration::from_secs(60);

/// The hints for one target, as they were last counted and have grown since.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// How many there are.
    pub(crate) count: u64,
    /// What their markers take.
    pub(crate) bytes: u64,
    /// When the oldest was made, by this node's clock, in milliseconds since the Unix epoch.
    pub(crate) oldest_ms: Option<u64>,
}

impl Kept {
    fn add(&mut self, bytes: usize, made_ms: u64) {
        self.count += 1;
        self.bytes += bytes as u64;
        self.oldest_ms = Some(self.oldest_ms.map_or(made_ms, |oldest| oldest.min(made_ms)));
    }
}

/// How many hints are kept for each target. A renewed hint counts anew until the markers are next counted, so this may
/// be too high for a while, never too low.
#[derive(Debug, Default)]
pub(crate) struct HintBudget {
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
struct Delivering<'a>(&'a HintBudget, NodeId);

impl Drop for Delivering<'_> {
    fn drop(&mut self) {
        self.0.delivering().remove(&self.1);
    }
}

impl HintBudget {
    fn kept(&self) -> MutexGuard<'_, BTreeMap<NodeId, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn delivering(&self) -> MutexGuard<'_, BTreeSet<NodeId>> {
        self.delivering.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fresh(&self) -> MutexGuard<'_, BTreeSet<NodeId>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Markers for these targets were stored.
    pub(crate) fn stored(&self, targets: &[NodeId]) {
        if !targets.is_empty() {
            self.fresh().extend(targets);
            self.news.notify_one();
        }
    }

    /// Whether there are, or may be, markers of a target.
    fn has_some(&self, target: NodeId) -> bool {
        self.kept().get(&target).is_some_and(|kept| kept.count > 0) || self.fresh().contains(&target)
    }

    /// Waits until it is time to look at them again.
    async fn rest(&self, core: &Core, view: &ClusterView) {
        if self.total() == 0 && self.fresh().is_empty() {
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
        let few = self.kept().get(&target).is_none_or(|kept| kept.count <= limits::HINTS_BEFORE_SYNC_MAX);
        few && self.delivering().contains(&target)
    }

    /// Hints kept in all.
    pub(crate) fn total(&self) -> u64 {
        self.kept().values().map(|kept| kept.count).sum()
    }

    /// Takes room for one more hint; false when the target's budget is spent.
    pub(crate) fn admit(&self, target: NodeId, slot: &Slot, wall_ms: u64) -> bool {
        let mut budget = self.kept();
        if !budget.contains_key(&target) && budget.len() >= limits::MEMBERS_MAX {
            return false;
        }
        let kept = budget.entry(target).or_default();
        let admitted = kept.count < limits::HINTS_PER_TARGET_MAX;
        if admitted {
            kept.add(marker::size(slot), wall_ms);
            if let Some(counting) = self.counting().get_mut(&target) {
                counting.add(marker::size(slot), wall_ms);
            }
        }
        admitted
    }

    fn is_spent(&self, target: NodeId) -> bool {
        self.kept().get(&target).is_some_and(|kept| kept.count >= limits::HINTS_PER_TARGET_MAX)
    }

    fn counting(&self) -> MutexGuard<'_, BTreeMap<NodeId, Kept>> {
        self.counting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on a target's hints are being counted.
    fn begin_count(&self, target: NodeId) {
        self.counting().insert(target, Kept::default());
    }

    /// So many were counted; what came meanwhile counts, too, perhaps twice until the next count.
    fn end_count(&self, target: NodeId, mut counted: Kept) {
        let mut kept = self.kept();
        let fresh = self.counting().remove(&target).unwrap_or_default();
        counted.count += fresh.count;
        counted.bytes += fresh.bytes;
        counted.oldest_ms = counted.oldest_ms.into_iter().chain(fresh.oldest_ms).min();
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
        };
        let lines = kept.iter().filter(|(_, kept)| kept.count > 0).map(line).collect();
        (lines, view.members().keys().all(|node| *node == core.id || kept.contains_key(node)))
    }

    /// Keeps hints for a record that is on this node.
    pub(crate) async fn keep(&self, core: &Core, slot: Slot, targets: Vec<NodeId>) {
        let wall_ms = core.rest.wall_ms();
        let (admitted, refused): (Vec<NodeId>, Vec<NodeId>) =
            targets.into_iter().partition(|node| self.admit(*node, &slot, wall_ms));
        core.meters.hints_refused.count(refused.len());
        // Nothing is forgotten: their trees differ from this node's now.
        refused.iter().for_each(|target| core.sync.hurry(*target, core.trees.partition_of(&slot.key)));
        if admitted.is_empty() {
            return;
        }
        core.meters.hints_kept.count(admitted.len());
        let outcome = core.replica.hint(slot, admitted.clone()).await;
        self.stored(&admitted);
        if let Err(error) = outcome {
            core.meters.hints_refused.one();
            tracing::warn!(%error, "a hint could not be kept; anti-entropy has to find what the owner missed");
        }
    }
}

/// Delivers hints until the scope of `core` is stopped.
pub(crate) async fn deliver(core: Arc<Core>) {
    let mut counted: BTreeMap<NodeId, Instant> = BTreeMap::new();
    let mut refused: BTreeMap<NodeId, Instant> = BTreeMap::new();
    loop {
        let view = core.view();
        for target in view.members().keys().filter(|node| **node != core.id) {
            // An unreachable target is looked at once, so that what was kept before a restart is known, and again when
            // renewals may have spent its budget. A reachable one for which nothing is kept is looked at as seldom.
            let (connected, some) = (core.peers.is_connected(*target), core.hints.has_some(*target));
            let due = match counted.get(target) {
                None => true,
                Some(at) => at.elapsed() >= RECOUNT && (connected || core.hints.is_spent(*target)),
            };
            let resting = refused.get(target).is_some_and(|at| at.elapsed() < REST);
            if due || (connected && some && past::is_whole(&core) && !resting) {
                if deliver_to(&core, *target).await {
                    refused.remove(target);
                } else {
                    refused.insert(*target, Instant::now());
                }
                counted.insert(*target, Instant::now());
            }
        }
        tokio::select! {
            biased;
            () = core.rest.stopped() => return,
            () = core.hints.rest(&core, &view) => {}
        }
    }
}

/// Walks the markers of one target; delivers while it answers, and counts what is left. Returns whether it answered.
async fn deliver_to(core: &Arc<Core>, target: NodeId) -> bool {
    let prefix = marker::prefix(target);
    let mut after: Option<Bytes> = None;
    let mut left = Kept::default();
    core.hints.begin_count(target);
    // What a storage that went back holds for others may have been dropped since.
    let reachable = core.peers.is_connected(target) && past::is_whole(core);
    // What is stored from here on is said to be, so that the next walk is not left out.
    core.hints.fresh().remove(&target);
    let mut delivering = None;
    loop {
        let page = core
            .engine
            .scan(Bucket::HINTS, &prefix, after.as_deref(), limits::HINT_PAGE_MAX, limits::SCAN_PAGE_BYTES)
            .await;
        let page = match page {
            Ok(page) => page,
            Err(error) => {
                tracing::debug!(%error, "hints cannot be read now");
                return false;
            }
        };
        after = page.items.last().map(|(key, _)| key.clone());
        let count = page.items.len();
        let made = |value: &Bytes| Marker::decode(value).map_or(0, |marker| marker.made_ms);
        let markers: Vec<(usize, u64)> =
            page.items.iter().map(|(key, value)| (key.len() + value.len(), made(value))).collect();
        if reachable && count > 0 && delivering.is_none() {
            core.hints.delivering().insert(target);
            delivering = Some(Delivering(&core.hints, target));
        }
        let began = Instant::now();
        let done = if reachable { deliver_page(core, target, page.items).await } else { Page::default() };
        tokio::select! {
            biased;
            () = core.rest.stopped() => {}
            () = core.pace.rest(&core.meters, began.elapsed()) => {}
        }
        if done.refused > 0 && done.delivered == 0 {
            return false;
        }
        // Which of a page are left is not looked at again: a page that is not delivered whole counts whole.
        if done.delivered < count {
            markers.into_iter().for_each(|(bytes, made_ms)| left.add(bytes, made_ms));
        }
        if !page.more || core.rest.is_stopping() {
            break;
        }
    }
    core.hints.end_count(target, left);
    drop(delivering);
    true
}

/// What became of a page of hints.
#[derive(Default)]
struct Page {
    delivered: usize,
    /// The target did not take them.
    refused: usize,
}

/// A marker and the record that it speaks of.
struct Hint {
    slot: Slot,
    marked: u64,
    record: Option<Bytes>,
}

/// Delivers one page, message by message.
async fn deliver_page(core: &Arc<Core>, target: NodeId, items: Vec<(Bytes, Bytes)>) -> Page {
    let mut page = Page::default();
    let work = core.works.begin();
    let hints = match hints(core, target, items).await {
        Ok(hints) => hints,
        Err(error) => {
            tracing::debug!(%target, %error, "hints cannot be read now");
            return Page { refused: 1, ..page };
        }
    };
    for message in messages(hints) {
        for outcome in deliver_message(core, target, message).await {
            match outcome {
                Ok(()) => page.delivered += 1,
                Err(ServeError::Unavailable(why)) => {
                    page.refused += 1;
                    tracing::debug!(%target, why, "a hint was not delivered");
                }
                // A record that is not taken over: others behind it can be delivered all the same.
                Err(error) => tracing::warn!(%target, %error, "a hint cannot be delivered"),
            }
        }
        if page.refused > 0 && page.delivered == 0 {
            break;
        }
    }
    drop(work);
    core.meters.hints_delivered.count(page.delivered);
    if page.delivered > 0 {
        tracing::debug!(%target, delivered = page.delivered, "hints delivered");
    }
    page
}

/// The hints of a page with their records, in order. What is damaged is made anew, or left to others that repair it.
async fn hints(core: &Core, target: NodeId, items: Vec<(Bytes, Bytes)>) -> Result<Vec<Hint>, ServeError> {
    let places: Vec<(Slot, Option<Marker>)> = items
        .into_iter()
        .filter_map(|(key, value)| Some((marker::record_slot(&key)?, Marker::decode(&value))))
        .collect();
    let records = core.replica.fetch(places.iter().map(|(slot, _)| slot.clone()).collect()).await?;
    let mut hints = Vec::with_capacity(places.len());
    for ((slot, marker), record) in places.into_iter().zip(records) {
        let marked = marker.map_or(0, |marker| marker.digest);
        if record.as_ref().is_some_and(|record| core.replica.verify(&core.hash, &slot.key, record).is_err()) {
            if drop_with(core, &slot).is_some() {
                // Nobody compares what a stand-in holds, so what it cannot read would lie here for ever.
                tracing::warn!(%target, bucket = %slot.bucket, "what was kept for an owner cannot be read and is dropped");
                hints.push(Hint { slot, marked, record: None });
            }
        } else if marker.is_none() && record.is_some() {
            // Its place says all that is needed to make it anew; without a record it has nothing to hand over, and goes.
            tracing::warn!(%target, bucket = %slot.bucket, "a damaged hint is made anew");
            core.replica.hint(slot, vec![target]).await?;
        } else {
            hints.push(Hint { slot, marked, record });
        }
    }
    Ok(hints)
}

/// Shares hints out to messages of bounded count and size, in order: each ends with the record that fills it.
fn messages(hints: Vec<Hint>) -> Vec<Vec<Hint>> {
    let (mut messages, mut bytes) = (vec![Vec::new()], 0);
    for hint in hints {
        let full = |message: &Vec<Hint>| message.len() >= limits::HINTS_IN_MESSAGE_MAX || bytes >= limits::SYNC_BYTES;
        if messages.last().is_some_and(full) {
            messages.push(Vec::new());
            bytes = 0;
        }
        bytes += hint.record.as_ref().map_or(0, Bytes::len);
        if let Some(message) = messages.last_mut() {
            message.push(hint);
        }
    }
    messages
}

/// Delivers hints in one message, and forgets those that arrived. One outcome each.
async fn deliver_message(core: &Arc<Core>, target: NodeId, hints: Vec<Hint>) -> Vec<Result<(), ServeError>> {
    let held = if large(&hints) { digests(core, target, &hints).await } else { BTreeMap::new() };
    let digest = |hint: &Hint| hint.record.as_deref().and_then(record::digest);
    let to_send = |hint: &&Hint| hint.record.is_some() && held.get(&hint.slot).copied().flatten() != digest(hint);
    let sent: Vec<&Hint> = hints.iter().filter(to_send).collect();
    let mut refused: BTreeMap<Slot, ServeError> = BTreeMap::new();
    if !sent.is_empty() {
        let write = |hint: &&Hint| {
            let record = Blob(hint.record.clone().unwrap_or_default());
            ReplicaWrite { slot: slot_ref(&hint.slot), record, hints: Vec::new(), reservation: None }
        };
        let writes = Request::Apply(sent.iter().map(write).collect());
        let outcomes = match core.peers.request_in_bulk(target, writes, Instant::now() + PATIENCE).await {
            Ok((Reply::Apply(outcomes), _)) if outcomes.len() == sent.len() => outcomes,
            Ok((other, _)) => vec![Err(ServeError::Unavailable(unexpected(other).why)); sent.len()],
            Err(error) => vec![Err(ServeError::Unavailable(error.why)); sent.len()],
        };
        let failed = sent.iter().zip(outcomes).filter_map(|(hint, outcome)| Some((hint.slot.clone(), outcome.err()?)));
        refused.extend(failed);
    }
    let forgotten = hints.into_iter().map(|hint| {
        let delivered = hint.record.as_deref().and_then(record::digest);
        let refused = refused.remove(&hint.slot);
        async move {
            if let Some(error) = refused {
                return Err(error);
            }
            let Hint { slot, marked, .. } = hint;
            let drop_with = drop_with(core, &slot);
            core.replica.hint_done(HintDone { slot, target, marked, delivered, drop_with }).await
        }
    });
    join_all(forgotten).await
}

/// Whether it is worth asking first which of these records the target has already.
fn large(hints: &[Hint]) -> bool {
    hints.iter().filter_map(|hint| hint.record.as_ref()).map(Bytes::len).sum::<usize>() >= limits::HINTS_ASKED_BYTES
}

/// The digests of what the target holds of these records, as far as it says.
async fn digests(core: &Core, target: NodeId, hints: &[Hint]) -> BTreeMap<Slot, Option<u64>> {
    let slots = hints.iter().map(|hint| slot_ref(&hint.slot)).collect();
    let asked = core.peers.fetch(target, slots, true, By::itself(core.timeouts.replica)).await;
    let digest = |fetched| if let Ok(Fetched::Digest(digest)) = fetched { Some(digest) } else { None };
    let digests = asked.unwrap_or_default().into_iter().map(digest);
    hints.iter().map(|hint| hint.slot.clone()).zip(digests).collect()
}

/// The owners of a record, when this node is none of them.
fn drop_with(core: &Core, slot: &Slot) -> Option<Vec<NodeId>> {
    let (namespace, _) = record::split_storage_key(&slot.key)?;
    let view = core.view();
    let copies = view.copies(&namespace)?;
    let ring = view.ring(copies)?;
    let partition = core.partition_in(ring, slot);
    let owners = [ring.preference_list(partition), view.other_owners(copies, partition)].concat();
    (!owners.contains(&core.id)).then_some(owners)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_while_hints_are_counted_is_not_lost_from_the_count() {
        let budget = HintBudget::default();
        let slot = Slot { bucket: Bucket(1), key: Bytes::from_static(b"key") };
        assert!(budget.admit(NodeId(1), &slot, 700));
        budget.begin_count(NodeId(1));
        assert!(budget.admit(NodeId(1), &slot, 900));
        budget.end_count(NodeId(1), Kept { count: 5, bytes: 100, oldest_ms: Some(800) });
        let bytes = 100 + marker::size(&slot) as u64;
        assert_eq!(budget.kept()[&NodeId(1)], Kept { count: 6, bytes, oldest_ms: Some(800) });
        budget.begin_count(NodeId(1));
        budget.end_count(NodeId(1), Kept::default());
        assert_eq!(budget.total(), 0);
    }

    #[test]
    fn a_spent_budget_takes_no_more_hints_for_its_target_until_some_are_delivered() {
        let budget = HintBudget::default();
        let slot = Slot { bucket: Bucket(1), key: Bytes::from_static(b"key") };
        budget.end_count(NodeId(1), Kept { count: limits::HINTS_PER_TARGET_MAX - 1, ..Kept::default() });
        assert!(!budget.is_spent(NodeId(1)) && budget.admit(NodeId(1), &slot, 700));
        assert!(budget.is_spent(NodeId(1)) && !budget.admit(NodeId(1), &slot, 700));
        assert_eq!(budget.total(), limits::HINTS_PER_TARGET_MAX, "what is refused is not counted");
        assert!(budget.admit(NodeId(2), &slot, 700), "others have a budget of their own");
        budget.begin_count(NodeId(1));
        budget.end_count(NodeId(1), Kept::default());
        assert!(budget.admit(NodeId(1), &slot, 700));
    }

    #[test]
    fn a_message_of_hints_is_bounded_in_count_and_bytes() {
        let hint = |size: usize| Hint {
            slot: Slot { bucket: Bucket(1), key: Bytes::from_static(b"key") },
            marked: 0,
            record: Some(Bytes::from(vec![0; size])),
        };
        let counts = |sizes: &[usize]| -> Vec<usize> {
            messages(sizes.iter().map(|size| hint(*size)).collect()).iter().map(Vec::len).collect()
        };
        assert_eq!(counts(&[limits::SYNC_BYTES; 3]), [1, 1, 1], "large records travel together");
        assert_eq!(counts(&[10, limits::SYNC_BYTES, 10]), [2, 1]);
        assert_eq!(counts(&[1; limits::HINTS_IN_MESSAGE_MAX + 1]), [limits::HINTS_IN_MESSAGE_MAX, 1]);
    }
}
