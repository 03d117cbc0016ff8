//! What the others last saw of this node, asked at its start and told from then on; and what it keeps of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use rand::Rng;
use tokio::time::{Instant, sleep, timeout};

use crate::hash::ClusterHash;
use crate::limits;
use crate::net::Identity;
use crate::node::ask::By;
use crate::node::core::Core;
use crate::node::past::kept::{self, Own};
use crate::node::past::{Phase, TICK, witness};
use crate::node::replica::storage_error;
use crate::store::{Mutation, StoreError};
use crate::types::{Bucket, NodeId};
use crate::wire::past::{Held, Landmark, Sight};
use crate::wire::rpc::{Reply, Request, ServeError};

/// How long the others are asked at the start, when not all of them can be reached.
const ASKING: Duration = Duration::from_secs(3);
/// When it is enough that half of them have answered.
const HALF: Duration = Duration::from_millis(500);
/// Pause between two rounds of asking.
const PAUSE: Duration = Duration::from_millis(10);
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the mark is raised while there are writes.
const MARK: Duration = Duration::from_secs(60);

/// Why a storage is not trusted that holds less than was seen in it.
const PUT_BACK: &str = "its storage was put back to an older copy";
/// The mark of a node that was no member when something was dropped: whatever it comes back with is behind.
const MISSED: u64 = u64::MAX;

/// Asks at the start; from then on tells everybody, and notices when the storage has lost something.
pub(super) async fn run(core: &Core) {
    decide(core).await;
    let mut told: BTreeMap<NodeId, Landmark> = BTreeMap::new();
    let mut mark_at = Instant::now() + MARK;
    loop {
        notice_loss(core).await;
        if Instant::now() >= mark_at {
            mark_at = Instant::now() + MARK;
            if let Err(error) = advance(core).await {
                tracing::debug!(%error, "the storage's mark cannot be raised now");
            }
        }
        told.retain(|peer, _| core.peers.is_connected(*peer));
        tell(core, &mut told).await;
        core.rest.look(limits::LOOK_EVERY).await;
    }
}

/// The other members, which can be asked or not.
fn others(core: &Core) -> Vec<NodeId> {
    core.view().members().keys().copied().filter(|node| *node != core.id).collect()
}

/// What one member last saw of this node, before it is told `now`.
async fn ask(core: &Core, peer: NodeId, now: Option<Landmark>) -> Option<Sight> {
    match core.peers.request(peer, Request::Landmark(now), By::itself(PATIENCE)).await {
        Ok(Reply::Landmark(seen)) => Some(seen),
        Ok(_) => None,
        Err(error) => {
            tracing::debug!(%peer, why = error.why, "a member does not say what it saw of this node's storage");
            None
        }
    }
}

/// What others saw of this storage.
#[derive(Default)]
struct Seen {
    landmarks: Vec<Landmark>,
    held: Vec<Held>,
}

impl Seen {
    fn of(sights: impl Iterator<Item = Sight>) -> Self {
        let mut seen = Self::default();
        for sight in sights {
            seen.landmarks.extend(sight.landmark);
            seen.held.extend(sight.held);
        }
        seen
    }
}

/// What those who can be reached last saw of this node.
async fn ask_all(core: &Core) -> (Seen, bool) {
    let began = Instant::now();
    let mut answers: BTreeMap<NodeId, Sight> = BTreeMap::new();
    loop {
        let others = others(core);
        let left = others.iter().filter(|peer| !answers.contains_key(peer) && core.peers.is_connected(**peer));
        let asked = join_all(left.map(|peer| async { (*peer, ask(core, *peer, None).await) })).await;
        answers.extend(asked.into_iter().filter_map(|(peer, answer)| Some((peer, answer?))));
        let half = !answers.is_empty() && 2 * answers.len() >= others.len() && began.elapsed() >= HALF;
        if answers.len() >= others.len() || half || began.elapsed() >= ASKING {
            let alone = answers.is_empty() && !others.is_empty();
            return (Seen::of(answers.into_values()), alone);
        }
        sleep(PAUSE).await;
    }
}

/// Why a storage cannot be trusted to hold what this node has seen of it; `None` when it can.
/// `lacks` says that a record is missing that was seen in it.
fn judge(stored: Option<&Own>, epoch_kept: bool, known: &[Landmark], lacks: bool) -> Option<&'static str> {
    match stored {
        // Of a node that nobody has seen, this is the first start.
        None => (!known.is_empty()).then_some("its storage was lost"),
        Some(stored) if lacks || known.iter().any(|known| known.is_beyond(&stored.landmark)) => Some(PUT_BACK),
        Some(_) if !epoch_kept => Some("its storage may have lost writes"),
        Some(stored) => (!stored.served).then_some("it had not caught up when it was stopped"),
    }
}

async fn decide(core: &Core) {
    let (seen, alone) = ask_all(core).await;
    loop {
        match try_decide(core, &seen, alone).await {
            Ok(()) => return,
            Err(error) => {
                tracing::debug!(%error, "the storage cannot be asked how far it has come");
                sleep(TICK).await;
            }
        }
    }
}

async fn try_decide(core: &Core, seen: &Seen, alone: bool) -> Result<(), StoreError> {
    let mut epoch = core.engine.epoch();
    let stored = core.engine.get_many(&[kept::own_slot(core.id)]).await?.pop().flatten();
    let stored: Option<Own> = stored.and_then(|stored| kept::decode(&core.hash, &stored));
    let lacks = witness::lacks(core, &seen.held).await?;
    let reason = judge(stored.as_ref(), stored.is_some_and(|stored| stored.epoch == epoch), &seen.landmarks, lacks);
    // An older copy that looks whole, or one of which nobody can say anything, may have named versions since.
    let in_doubt = reason.is_some() || alone;
    if in_doubt && stored.is_some_and(|stored| stored.epoch == epoch && stored.served) {
        let why = reason.unwrap_or("nobody could say how far this storage had come");
        epoch = core.past.renew(&core.engine, &core.trees, epoch, why).await?;
    }
    let starts =
        stored.map(|stored| stored.landmark).iter().chain(&seen.landmarks).map(|landmark| landmark.starts).max();
    let own =
        Landmark { starts: starts.unwrap_or(0).saturating_add(1), life: core.rest.rng("life").next_u64(), mark: 0 };
    save(core, Own { landmark: own, epoch, served: reason.is_none() }).await?;
    match reason {
        None => core.past.enter(Phase::Serving, epoch, own),
        Some(reason) => {
            tracing::warn!(reason, "this node takes writes and answers no reads until it has caught up");
            core.past.enter(Phase::CatchingUp(reason), epoch, own);
        }
    }
    Ok(())
}

/// Stores how far the storage has come; on disk when this returns.
async fn save(core: &Core, own: Own) -> Result<(), StoreError> {
    let put = Mutation::Put { slot: kept::own_slot(core.id), value: kept::encode(&core.hash, &own) };
    core.engine.write(own.epoch, vec![put]).await?;
    core.engine.flush().await
}

/// Notices a storage that began another epoch by itself.
async fn notice_loss(core: &Core) {
    let (known, own) = {
        let state = core.past.state();
        if state.renewing > 0 {
            return;
        }
        (state.epoch, state.own)
    };
    let epoch = core.engine.epoch();
    if epoch != known {
        fall(core, "its storage lost writes while it ran", own.starts).await;
    }
}

/// Begins to catch up. Tried again, by whoever noticed, until it can be stored.
async fn fall(core: &Core, reason: &'static str, starts: u64) {
    core.past.stop_answering(reason);
    let _keeping = core.past.keeping.lock().await;
    let epoch = core.engine.epoch();
    let own = Landmark { starts: starts.saturating_add(1), life: core.rest.rng("life").next_u64(), mark: 0 };
    match save(core, Own { landmark: own, epoch, served: false }).await {
        Ok(()) => {
            tracing::warn!(reason, "this node takes writes and answers no reads until it has caught up");
            core.past.enter(Phase::CatchingUp(reason), epoch, own);
        }
        Err(error) => tracing::debug!(%error, "that this node catches up cannot be stored yet"),
    }
}

/// This node has caught up: stores that, and answers reads again. False when there is something new to catch up with.
pub(super) async fn caught_up(core: &Core, life: u64) -> Result<bool, StoreError> {
    let _keeping = core.past.keeping.lock().await;
    let (epoch, own) = {
        let state = core.past.state();
        (state.epoch, state.own)
    };
    if own.life != life || core.engine.epoch() != epoch {
        return Ok(false);
    }
    save(core, Own { landmark: own, epoch, served: true }).await?;
    core.past.enter(Phase::Serving, epoch, own);
    Ok(true)
}

/// Tells everybody how far the storage has come who does not know it; they say what they knew before.
async fn tell(core: &Core, told: &mut BTreeMap<NodeId, Landmark>) {
    let own = core.past.own();
    let left = others(core).into_iter();
    let left = left.filter(|peer| told.get(peer) != Some(&own) && core.peers.is_connected(*peer));
    let answers = join_all(left.map(|peer| async move { (peer, ask(core, peer, Some(own)).await) })).await;
    for (peer, seen) in answers {
        let Some(seen) = seen else { continue };
        if let Some(known) = seen.landmark.filter(|known| known.is_beyond(&own)) {
            // It was not there at the start, and knows better than those who were.
            let from = core.engine.epoch();
            core.past.stop_answering(PUT_BACK);
            match core.past.renew(&core.engine, &core.trees, from, PUT_BACK).await {
                Ok(_) => fall(core, PUT_BACK, known.starts.max(own.starts)).await,
                Err(error) => tracing::debug!(%error, "the epoch cannot be renewed yet"),
            }
            return;
        }
        told.insert(peer, own);
    }
}

/// Raises the mark, if anything was written since it was last raised; on disk when this returns.
pub(crate) async fn advance(core: &Core) -> Result<Landmark, StoreError> {
    let _keeping = core.past.keeping.lock().await;
    let (mut own, epoch, served, marked_at) = {
        let state = core.past.state();
        (state.own, state.epoch, state.phase == Phase::Serving, state.marked_at)
    };
    let batches = core.meters.store_batches.get();
    if batches == marked_at && own.mark > 0 {
        return Ok(own);
    }
    own.mark += 1;
    save(core, Own { landmark: own, epoch, served }).await?;
    let mut state = core.past.state();
    if state.own.life == own.life {
        (state.own, state.marked_at) = (own, batches);
    }
    Ok(own)
}

/// Tells the others at the end how far the storage has come.
pub(crate) async fn last_word(core: &Core, patience: Duration) {
    let told = async {
        if advance(core).await.is_ok() {
            tell(core, &mut BTreeMap::new()).await;
        }
    };
    if !core.past.is_asking() && timeout(patience, told).await.is_err() {
        tracing::debug!("no time to tell the others how far the storage has come");
    }
}

/// Says what this node last saw of another one's storage, and keeps what it is told.
pub(crate) async fn answer(core: &Core, from: &Identity, now: Option<Landmark>) -> Result<Sight, ServeError> {
    let Identity::Node(name) = from else {
        return Err(ServeError::Forbidden("only nodes have storages that are seen".to_owned()));
    };
    let peer = ClusterHash::node_id(name);
    let answered = async {
        let _keeping = core.past.keeping.lock().await;
        let slot = kept::seen_slot(core.id, peer);
        let epoch = core.engine.epoch();
        let stored = core.engine.get_many(std::slice::from_ref(&slot)).await?.pop().flatten();
        let known: Option<Landmark> = stored.and_then(|stored| kept::decode(&core.hash, &stored));
        if let Some(now) = now.filter(|now| known.is_none_or(|known| now.is_beyond(&known) && !known.is_beyond(now))) {
            let value = kept::encode(&core.hash, &now);
            core.engine.write(epoch, vec![Mutation::Put { slot, value }]).await?;
        }
        Ok(Sight { landmark: known, held: witness::held_by(core, peer).await? })
    };
    answered.await.map_err(|error: StoreError| storage_error(&error))
}

/// Keeps how far the members' storages had come when something was dropped, before it is dropped here. A node that was seen
/// but is no member has missed it: that is kept, too.
pub(crate) async fn keep(core: &Core, landmarks: &[(NodeId, Landmark)]) -> Result<(), StoreError> {
    let _keeping = core.past.keeping.lock().await;
    let epoch = core.engine.epoch();
    let members: BTreeSet<NodeId> = core.view().members().keys().copied().collect();
    let known = seen(core).await?;
    let beyond = |node: &NodeId, now: &Landmark| known.get(node).is_none_or(|known| now.is_beyond(known));
    let told = landmarks.iter().filter(|(node, _)| *node != core.id && members.contains(node));
    let mut changed: Vec<(NodeId, Landmark)> = told.filter(|(node, now)| beyond(node, now)).copied().collect();
    let gone = known.iter().filter(|(node, landmark)| !members.contains(node) && landmark.mark != MISSED);
    changed.extend(gone.map(|(node, landmark)| (*node, Landmark { mark: MISSED, ..*landmark })));
    for changed in changed.chunks(limits::STORE_CALL_MAX) {
        let put = |(node, landmark): &(NodeId, Landmark)| Mutation::Put {
            slot: kept::seen_slot(core.id, *node),
            value: kept::encode(&core.hash, landmark),
        };
        core.engine.write(epoch, changed.iter().map(put).collect()).await?;
    }
    Ok(())
}

/// All that is kept of others.
async fn seen(core: &Core) -> Result<BTreeMap<NodeId, Landmark>, StoreError> {
    let prefix = kept::seen_prefix(core.id);
    let (mut all, mut after): (BTreeMap<NodeId, Landmark>, Option<Bytes>) = (BTreeMap::new(), None);
    loop {
        let (most, bytes) = (limits::SCAN_PAGE_MAX, limits::SCAN_PAGE_BYTES);
        let page = core.engine.scan(Bucket::HINTS, &prefix, after.as_deref(), most, bytes).await?;
        after = page.items.last().map(|(key, _)| key.clone());
        let read = |(key, stored): (Bytes, Bytes)| Some((kept::seen_of(&key)?, kept::decode(&core.hash, &stored)?));
        all.extend(page.items.into_iter().filter_map(read));
        if !page.more {
            return Ok(all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Epoch;

    #[test]
    fn only_a_storage_that_surely_holds_what_was_seen_of_it_is_trusted() {
        let at = |starts, life, mark| Landmark { starts, life, mark };
        let own = |served| Own { landmark: at(3, 7, 5), epoch: Epoch(1), served };
        let trusted = [
            judge(None, false, &[], false),
            judge(Some(&own(true)), true, &[], false),
            judge(Some(&own(true)), true, &[at(3, 7, 4), at(2, 1, 9)], false),
        ];
        assert_eq!(trusted, [None; 3]);
        let doubted = [
            judge(None, false, &[at(1, 1, 0)], false),
            judge(Some(&own(true)), true, &[at(3, 7, 5)], true),
            judge(Some(&own(true)), true, &[at(2, 1, 9), at(4, 1, 0)], false),
            judge(Some(&own(true)), true, &[at(3, 7, 6)], false),
            judge(Some(&own(true)), true, &[at(3, 8, 0)], false),
            judge(Some(&own(true)), true, &[at(1, 7, 0), Landmark { mark: MISSED, ..at(3, 7, 0) }], false),
            judge(Some(&own(true)), false, &[], false),
            judge(Some(&own(false)), true, &[], false),
        ];
        assert!(doubted.iter().all(Option::is_some), "{doubted:?}");
    }
}
