//! Hinted handoff: what an owner missed is sent to it once it is back.
//!
//! Markers and marks (see [`crate::node::replica::marker`]) are made by the write path; [`budget`] counts them and says which,
//! this delivers them, paced, one page after another, and [`marked`] what is kept under marks. A node that only stood in
//! forgets the record with its last hint.

mod budget;
mod marked;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::Instant;

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
use crate::wire::blob::Blob;
use crate::wire::rpc::{Fetched, ReplicaWrite, Reply, Request, ServeError};

pub(crate) use budget::HintBudget;
use budget::Kept;

/// How often the markers of reachable targets are looked at while there are any.
const TICK: Duration = Duration::from_millis(500);
/// How long a target that took no hint is left alone.
const REST: Duration = Duration::from_secs(3);
/// How long a target may take for a message of hints.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the markers of a target are read though nothing is known of any, or its budget seems spent.
const RECOUNT: Duration = Duration::from_secs(60);

/// Delivers hints until the scope of `core` is stopped.
pub(crate) async fn deliver(core: Arc<Core>) {
    let mut counted: BTreeMap<NodeId, Instant> = BTreeMap::new();
    let mut refused: BTreeMap<NodeId, Instant> = BTreeMap::new();
    loop {
        let view = core.view();
        counted.retain(|target, _| view.members().contains_key(target));
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

/// Walks the hints for one target; delivers while it answers, and counts what is left. Returns whether it took them.
async fn deliver_to(core: &Arc<Core>, target: NodeId) -> bool {
    let prefix = marker::prefix(target);
    let (mut after, mut left, mut took): (Option<Bytes>, _, _) = (None, Kept::default(), true);
    core.hints.begin_count(target);
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
                core.hints.stored(&[target]);
                return false;
            }
        };
        after = page.items.last().map(|(key, _)| key.clone());
        if delivering.is_none() && !page.items.is_empty() && takes_hints(core, target) {
            delivering = Some(core.hints.begin_delivery(target));
        }
        let is_mark = |key: &Bytes| marker::record_slot(key).is_some_and(|of| marker::is_all(&of));
        let (marks, markers): (Vec<_>, Vec<_>) = page.items.into_iter().partition(|(key, _)| is_mark(key));
        for (key, value) in marks {
            took &= deliver_mark(core, target, &key, &value, &mut left).await;
        }
        if !markers.is_empty() && !deliver_markers(core, target, markers, &mut left).await {
            core.hints.stored(&[target]);
            return false;
        }
        if !page.more || core.rest.is_stopping() {
            break;
        }
    }
    core.hints.end_count(target, left);
    drop(delivering);
    took
}

/// Whether hints can be delivered to a target now. What a storage that went back holds for others may have been dropped since.
fn takes_hints(core: &Core, target: NodeId) -> bool {
    core.peers.is_connected(target) && past::is_whole(core)
}

/// Delivers what is kept under a mark, or counts it. Returns whether the target took it.
async fn deliver_mark(core: &Arc<Core>, target: NodeId, key: &Bytes, value: &Bytes, left: &mut Kept) -> bool {
    let Some(Slot { bucket, .. }) = marker::record_slot(key) else { return true };
    let mark = Marker::decode(value);
    let made_ms = mark.map_or(0, |mark| mark.made_ms);
    if !takes_hints(core, target) {
        left.mark(bucket, made_ms);
        return true;
    }
    let delivered = tokio::select! {
        biased;
        () = core.rest.stopped() => Err("this node is stopping".to_owned()),
        delivered = marked::deliver(core, target, bucket, mark) => delivered,
    };
    if let Err(why) = &delivered {
        tracing::debug!(%target, %bucket, why, "what is marked for an owner was not delivered whole");
        left.mark(bucket, made_ms);
    }
    delivered.is_ok()
}

/// Delivers a page of markers, or counts them. Returns whether the target took any.
async fn deliver_markers(core: &Arc<Core>, target: NodeId, items: Vec<(Bytes, Bytes)>, left: &mut Kept) -> bool {
    let count = items.len();
    let made = |value: &Bytes| Marker::decode(value).map_or(0, |marker| marker.made_ms);
    let markers: Vec<(usize, u64)> = items.iter().map(|(key, value)| (key.len() + value.len(), made(value))).collect();
    let began = Instant::now();
    let done = if takes_hints(core, target) { deliver_page(core, target, items, true).await } else { Page::default() };
    tokio::select! {
        biased;
        () = core.rest.stopped() => {}
        () = core.pace.rest(&core.meters, began.elapsed()) => {}
    }
    // Which of a page are left is not looked at again: a page that is not delivered whole counts whole.
    if done.delivered < count {
        markers.into_iter().for_each(|(bytes, made_ms)| left.add(bytes, made_ms));
    }
    done.refused == 0 || done.delivered > 0
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
    /// The owners, where the record may go with its last hint, since this node is none of them.
    drop_with: Option<Vec<NodeId>>,
}

/// Delivers one page, message by message. `drops` says whether a stand-in forgets what arrived and has no other hint.
async fn deliver_page(core: &Arc<Core>, target: NodeId, items: Vec<(Bytes, Bytes)>, drops: bool) -> Page {
    let mut page = Page::default();
    let work = core.works.begin();
    let hints = match hints(core, target, items, drops).await {
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
async fn hints(core: &Core, target: NodeId, items: Vec<(Bytes, Bytes)>, drops: bool) -> Result<Vec<Hint>, ServeError> {
    let places: Vec<(Slot, Option<Marker>)> = items
        .into_iter()
        .filter_map(|(key, value)| Some((marker::record_slot(&key)?, Marker::decode(&value))))
        .collect();
    let records = core.replica.fetch(places.iter().map(|(slot, _)| slot.clone()).collect()).await?;
    let mut hints = Vec::with_capacity(places.len());
    for ((slot, marker), record) in places.into_iter().zip(records) {
        let marked = marker.map_or(0, |marker| marker.digest);
        let owners = drop_with(core, &slot);
        let stands_in = owners.is_some();
        let drop_with = owners.filter(|_| drops);
        if record.as_ref().is_some_and(|record| core.replica.verify(&core.hash, &slot.key, record).is_err()) {
            if stands_in {
                // Nobody compares what a stand-in holds, so what it cannot read would lie here for ever.
                tracing::warn!(%target, bucket = %slot.bucket, "what was kept for an owner cannot be read and is dropped");
                hints.push(Hint { slot, marked, record: None, drop_with });
            }
        } else if marker.is_none() && record.is_some() {
            // Its place says all that is needed to make it anew; without a record it has nothing to hand over, and goes.
            tracing::warn!(%target, bucket = %slot.bucket, "a damaged hint is made anew");
            let place = marker::slot(target, &slot);
            core.replica.hint(slot, vec![place]).await?;
        } else {
            hints.push(Hint { slot, marked, record, drop_with });
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
            let Hint { slot, marked, drop_with, .. } = hint;
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
    fn a_message_of_hints_is_bounded_in_count_and_bytes() {
        let hint = |size: usize| Hint {
            slot: Slot { bucket: Bucket(1), key: Bytes::from_static(b"key") },
            marked: 0,
            record: Some(Bytes::from(vec![0; size])),
            drop_with: None,
        };
        let counts = |sizes: &[usize]| -> Vec<usize> {
            messages(sizes.iter().map(|size| hint(*size)).collect()).iter().map(Vec::len).collect()
        };
        assert_eq!(counts(&[limits::SYNC_BYTES; 3]), [1, 1, 1], "large records travel together");
        assert_eq!(counts(&[10, limits::SYNC_BYTES, 10]), [2, 1]);
        assert_eq!(counts(&[1; limits::HINTS_IN_MESSAGE_MAX + 1]), [limits::HINTS_IN_MESSAGE_MAX, 1]);
    }
}
