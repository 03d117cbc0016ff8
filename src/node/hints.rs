//! Hinted handoff: what an owner missed is sent to it once it is back.
//!
//! Markers (see [`crate::node::replica::marker`]) are made by the write path; this counts them against a budget and
//! delivers them, paced, one page after another. A node that only stood in forgets the record with its last marker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::Instant;

use crate::limits;
use crate::node::ask::By;
use crate::node::core::{Core, slot_ref};
use crate::node::replica::HintDone;
use crate::node::replica::marker::{self, Marker};
use crate::record;
use crate::store::Slot;
use crate::types::{NodeId, PartitionId};
use crate::wire::blob::Blob;
use crate::wire::rpc::{ReplicaWrite, ServeError};

/// How often the markers of reachable targets are looked at.
const TICK: Duration = Duration::from_millis(500);
/// How long a target that took no hint is left alone.
const REST: Duration = Duration::from_secs(3);
/// How often the markers of a target are read though nothing is known of any, or its budget seems spent.
const RECOUNT: Duration = Duration::from_secs(60);

/// How many hints are kept for each target. A renewed hint counts anew until the markers are next counted, so this may
/// be too high for a while, never too low.
#[derive(Debug, Default)]
pub(crate) struct HintBudget {
    kept: Mutex<BTreeMap<NodeId, u64>>,
    /// Targets for which there may be markers that were not counted yet.
    fresh: Mutex<BTreeSet<NodeId>>,
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
    fn kept(&self) -> MutexGuard<'_, BTreeMap<NodeId, u64>> {
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
        }
    }

    /// Whether there are, or may be, markers of a target.
    fn has_some(&self, target: NodeId) -> bool {
        self.kept().get(&target).is_some_and(|kept| *kept > 0) || self.fresh().contains(&target)
    }

    /// Whether what a node lacks is about to come by hints: they are on their way, and not so many that comparing trees
    /// is the quicker way.
    pub(crate) fn is_delivering(&self, target: NodeId) -> bool {
        let few = self.kept().get(&target).is_none_or(|kept| *kept <= limits::HINTS_BEFORE_SYNC_MAX);
        few && self.delivering().contains(&target)
    }

    /// Hints kept in all.
    pub(crate) fn total(&self) -> u64 {
        self.kept().values().sum()
    }

    /// Takes room for one more hint; false when the target's budget is spent.
    pub(crate) fn admit(&self, target: NodeId) -> bool {
        let mut budget = self.kept();
        if !budget.contains_key(&target) && budget.len() >= limits::MEMBERS_MAX {
            return false;
        }
        let kept = budget.entry(target).or_default();
        let admitted = *kept < limits::HINTS_PER_TARGET_MAX;
        *kept += u64::from(admitted);
        admitted
    }

    fn is_spent(&self, target: NodeId) -> bool {
        self.kept().get(&target).is_some_and(|kept| *kept >= limits::HINTS_PER_TARGET_MAX)
    }

    fn set(&self, target: NodeId, kept: u64) {
        self.kept().insert(target, kept);
    }

    /// Keeps hints for a record that is on this node.
    pub(crate) async fn keep(&self, core: &Core, slot: Slot, targets: Vec<NodeId>) {
        let (admitted, refused): (Vec<NodeId>, Vec<NodeId>) = targets.into_iter().partition(|node| self.admit(*node));
        core.meters.hints_refused.count(refused.len());
        // Nothing is forgotten: their trees differ from this node's now.
        refused.iter().for_each(|target| core.sync.hurry(*target, slot.partition));
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
                Some(at) => at.elapsed() > RECOUNT && (connected || core.hints.is_spent(*target)),
            };
            let resting = refused.get(target).is_some_and(|at| at.elapsed() < REST);
            if due || (connected && some && !resting) {
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
            () = core.rest.beat(TICK) => {}
        }
    }
}

/// Walks the markers of one target; delivers while it answers, and counts what is left. Returns whether it answered.
async fn deliver_to(core: &Arc<Core>, target: NodeId) -> bool {
    let prefix = marker::prefix(target);
    let mut after: Option<Bytes> = None;
    let mut left = 0;
    let reachable = core.peers.is_connected(target);
    // What is stored from here on is said to be, so that the next walk is not left out.
    core.hints.fresh().remove(&target);
    let mut delivering = None;
    loop {
        let page = core
            .engine
            .scan(PartitionId::HINTS, &prefix, after.as_deref(), limits::HINT_PAGE_MAX, limits::SCAN_PAGE_BYTES)
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
        if reachable && count > 0 && delivering.is_none() {
            core.hints.delivering().insert(target);
            delivering = Some(Delivering(&core.hints, target));
        }
        let done = if reachable { deliver_page(core, target, page.items).await } else { Page::default() };
        if done.refused > 0 && done.delivered == 0 {
            return false;
        }
        left += count.saturating_sub(done.delivered) as u64;
        if !page.more || core.rest.is_stopping() {
            break;
        }
    }
    core.hints.set(target, left);
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

/// Delivers one page, a few at a time.
async fn deliver_page(core: &Arc<Core>, target: NodeId, items: Vec<(Bytes, Bytes)>) -> Page {
    let deliveries = items.into_iter().map(|(key, value)| deliver_one(core, target, key, value));
    let mut outcomes = std::pin::pin!(stream::iter(deliveries).buffer_unordered(limits::HINTS_AT_ONCE));
    let mut page = Page::default();
    while let Some(outcome) = outcomes.next().await {
        match outcome {
            Ok(()) => page.delivered += 1,
            Err(ServeError::Unavailable(why)) => {
                page.refused += 1;
                tracing::debug!(%target, why, "a hint was not delivered");
            }
            // A damaged marker or record: others behind it can be delivered all the same.
            Err(error) => tracing::warn!(%target, %error, "a hint cannot be delivered"),
        }
    }
    core.meters.hints_delivered.count(page.delivered);
    if page.delivered > 0 {
        tracing::debug!(%target, delivered = page.delivered, "hints delivered");
    }
    page
}

async fn deliver_one(core: &Arc<Core>, target: NodeId, key: Bytes, value: Bytes) -> Result<(), ServeError> {
    let broken = || ServeError::Internal("a hint marker is damaged".to_owned());
    let _work = core.works.begin();
    let slot = marker::record_slot(&key).ok_or_else(broken)?;
    let record = core.replica.fetch(vec![slot.clone()]).await?.pop().flatten();
    let drop_with = drop_with(core, &slot);
    if let Some(record) = &record
        && let Err(error) = core.replica.verify(&core.hash, slot.partition, &slot.key, record)
    {
        if drop_with.is_none() {
            // The other owners repair it; then it can be handed over.
            return Err(ServeError::Internal(error.to_string()));
        }
        // Nobody compares what a stand-in holds, so what it cannot read would lie here for ever.
        tracing::warn!(%target, partition = %slot.partition, "what was kept for an owner cannot be read and is dropped");
        let marked = Marker::decode(&value).map_or(0, |marker| marker.digest);
        return core.replica.hint_done(HintDone { slot, target, marked, delivered: None, drop_with }).await;
    }
    let Some(Marker { digest: marked, .. }) = Marker::decode(&value) else {
        // Its place says all that is needed to make it anew, or to forget it when there is nothing to hand over.
        tracing::warn!(%target, partition = %slot.partition, "a damaged hint is made anew");
        return match record {
            Some(_) => core.replica.hint(slot, vec![target]).await.and(Err(broken())),
            None => {
                core.replica.hint_done(HintDone { slot, target, marked: 0, delivered: None, drop_with: None }).await
            }
        };
    };
    if let Some(record) = &record {
        let write =
            ReplicaWrite { slot: slot_ref(&slot), record: Blob(record.clone()), hints: Vec::new(), reservation: None };
        let by = By::itself(core.timeouts.replica);
        let outcomes = core.peers.apply(target, vec![write], by).await;
        let outcomes = outcomes.map_err(|error| ServeError::Unavailable(error.why))?;
        outcomes.into_iter().collect::<Result<Vec<()>, ServeError>>()?;
    }
    let delivered = record.as_deref().and_then(record::digest);
    core.replica.hint_done(HintDone { slot, target, marked, delivered, drop_with }).await
}

/// The owners of a record, when this node is none of them.
fn drop_with(core: &Core, slot: &Slot) -> Option<Vec<NodeId>> {
    let (namespace, _) = record::split_storage_key(&slot.key)?;
    let view = core.view();
    let ring = view.ring(view.policy(&namespace)?.n)?;
    let owners = [ring.preference_list(slot.partition), view.other_owners(ring.replicas(), slot.partition)].concat();
    (!owners.contains(&core.id)).then_some(owners)
}
