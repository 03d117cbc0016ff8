//! The part of every member: to say what it has, and to drop what it is told to, if that is still so.

use std::sync::Arc;

use futures_util::future::join_all;

use crate::limits;
use crate::node::core::Core;
use crate::node::past;
use crate::node::reap::seek::owners;
use crate::node::replica::{Reap, Step, storage_error};
use crate::node::timeouts::millis;
use crate::record;
use crate::store::{Health, Slot};
use crate::version::Context;
use crate::wire::reap::{DeadRecord, Life, ReapAnswer, ReapOrder};
use crate::wire::rpc::ServeError;

/// A record that is dead.
pub(crate) struct Dead {
    pub(crate) digest: u64,
    pub(crate) seen: Context,
}

/// What is dead here for long enough to be dropped.
pub(crate) fn dead(core: &Core, slot: &Slot, record: &bytes::Bytes) -> Option<Dead> {
    let since = core.rest.wall_ms().checked_sub(millis(core.timeouts.reap_after?))?;
    let state = record::decode(&core.hash, &slot.key, record).ok()?;
    state
        .is_dead(since)
        .then(|| record::digest(record))
        .flatten()
        .map(|digest| Dead { digest, seen: state.context().clone() })
}

/// This life of the node.
fn life(core: &Core) -> Life {
    Life { process: core.life, epoch: core.engine.epoch() }
}

/// Takes a step that the first owner of some dead records asks for.
pub(crate) async fn obey(core: &Arc<Core>, order: ReapOrder) -> Result<ReapAnswer, ServeError> {
    if order.keys.len() > limits::REAP_MESSAGE_KEYS_MAX {
        let text = format!("{} records, the limit is {}", order.keys.len(), limits::REAP_MESSAGE_KEYS_MAX);
        return Err(ServeError::Limit(text));
    }
    if !past::is_whole(core) {
        return Err(ServeError::Unavailable("this node has not caught up".to_owned()));
    }
    let before = life(core);
    if order.view != core.view().digest() || order.life.is_some_and(|life| life != before) {
        return Err(ServeError::Unavailable("this node knows another cluster, or has begun another life".to_owned()));
    }
    let dropping = order.life.is_some();
    // What was seen of these records is no evidence from here on; the marks that are raised below are.
    core.past.witness.clear();
    if dropping {
        past::keep(core, &order.landmarks).await.map_err(|error| storage_error(&error))?;
    }
    let agreed = join_all(order.keys.into_iter().map(|key| step(core, key, dropping))).await;
    let agreed = agreed.into_iter().collect::<Result<Vec<bool>, ServeError>>()?;
    if dropping {
        core.meters.reaped.count(agreed.iter().filter(|dropped| **dropped).count());
    } else {
        // What all owners are found to have, no crash may take back from one of them.
        core.engine.flush().await.map_err(|error| storage_error(&error))?;
    }
    // From here on a copy from before is known for what it is.
    let landmark = if dropping { Ok(core.past.own()) } else { past::advance(core).await };
    let landmark = landmark.map_err(|error| storage_error(&error))?;
    if life(core) != before {
        return Err(ServeError::Unavailable("the storage has begun another epoch".to_owned()));
    }
    Ok(ReapAnswer { life: before, agreed, landmark })
}

async fn step(core: &Arc<Core>, key: DeadRecord, dropping: bool) -> Result<bool, ServeError> {
    let slot = core.slot_of(key.slot)?;
    let (Some((owners, tree)), true) = (owners(core, &slot), key.seen.is_valid() && core.is_in_place(&slot)) else {
        return Ok(false);
    };
    let owner = owners.contains(&core.id);
    let Some(after) = core.timeouts.reap_after.filter(|_| !owner || keeps(core)) else { return Ok(false) };
    let (digest, dead_ms) = (key.digest, millis(after));
    let step = match (owner, dropping) {
        (true, true) => Step::Drop { digest, dead_ms },
        (true, false) => Step::Confirm { digest, dead_ms },
        (false, false) => Step::Bury,
        (false, true) => return Ok(false),
    };
    core.replica.reap(Reap { slot, partition: tree.partition, owners, step, seen: key.seen }).await
}

/// Whether the storage is well. It need not keep what it has flushed, as Redis does not, which syncs by rules of its own: one
/// that comes back with less is noticed, and catches up.
pub(super) fn keeps(core: &Core) -> bool {
    matches!(core.engine.health(), Health::Ok | Health::Slow { .. })
}
