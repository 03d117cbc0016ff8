//! The records that this node saw last in each other storage: by these a storage that was put back is known for what it is
//! even when its mark was not raised since the copy was made.
//!
//! Kept in memory only, and one of each kind for each node, so it costs a write next to nothing. It goes with this process;
//! what is older than the last mark needs no witness.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::limits;
use crate::node::core::{Core, slot_ref};
use crate::node::reap::owners;
use crate::record;
use crate::store::{Slot, StoreError};
use crate::types::NodeId;
use crate::version::{Context, Dot};
use crate::wire::past::Held;

/// What was seen last.
#[derive(Debug, Default)]
pub(crate) struct Witness(Mutex<BTreeMap<NodeId, Seen>>);

#[derive(Debug, Default)]
struct Seen {
    /// A version that the node acknowledged as an owner.
    took: Option<(Slot, Dot)>,
    /// Where the node itself wrote something, of which this one has a copy.
    wrote: Option<Slot>,
}

impl Witness {
    fn all(&self) -> MutexGuard<'_, BTreeMap<NodeId, Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, node: NodeId, change: impl FnOnce(&mut Seen)) {
        let mut all = self.all();
        if all.len() < limits::MEMBERS_MAX || all.contains_key(&node) {
            change(all.entry(node).or_default());
        }
    }

    /// An owner has acknowledged a version.
    pub(crate) fn took(&self, node: NodeId, slot: &Slot, dot: Dot) {
        self.note(node, |seen| seen.took = Some((copy(slot), dot)));
    }

    /// An owner has sent what may be a write of its own, and this node has stored it.
    pub(crate) fn wrote(&self, node: NodeId, slot: &Slot) {
        self.note(node, |seen| seen.wrote = Some(copy(slot)));
    }

    /// Forgets all: records are about to be dropped, and marks are raised for that.
    pub(crate) fn clear(&self) {
        self.all().clear();
    }
}

/// Not a part of a whole message, which would be kept with it.
fn copy(slot: &Slot) -> Slot {
    Slot { bucket: slot.bucket, key: Bytes::copy_from_slice(&slot.key) }
}

/// What a node's storage held when this node last saw anything of it.
pub(super) async fn held_by(core: &Core, node: NodeId) -> Result<Vec<Held>, StoreError> {
    let (took, wrote) = {
        let all = core.past.witness.all();
        let Some(seen) = all.get(&node) else { return Ok(Vec::new()) };
        (seen.took.clone(), seen.wrote.clone())
    };
    let mut held: Vec<Held> =
        took.into_iter().map(|(slot, dot)| Held { slot: slot_ref(&slot), dots: vec![dot] }).collect();
    if let Some(slot) = wrote {
        // What the node named, it had. What others named it need not have heard of.
        let seen = context(core, &slot).await?.unwrap_or_default();
        let own = seen.entries().iter().filter(|(actor, _)| actor.node == node);
        let dots = own.map(|(actor, counter)| Dot { actor: *actor, counter: *counter }).collect();
        held.push(Held { slot: slot_ref(&slot), dots });
    }
    Ok(held)
}

/// Whether this storage lacks any of what others saw in it.
pub(super) async fn lacks(core: &Core, held: &[Held]) -> Result<bool, StoreError> {
    for Held { slot, dots } in held {
        let Ok(slot) = core.slot_of(slot.clone()) else { continue };
        // What is not this node's to keep may have left it.
        if !owners(core, &slot).is_some_and(|(owners, _)| owners.contains(&core.id)) {
            continue;
        }
        // One that is damaged says nothing about the others.
        let Some(seen) = context(core, &slot).await? else { continue };
        if dots.iter().any(|dot| !seen.covers(*dot)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What the record in a slot has seen; `None` when it cannot be read.
async fn context(core: &Core, slot: &Slot) -> Result<Option<Context>, StoreError> {
    let stored = core.engine.get_many(std::slice::from_ref(slot)).await?.pop().flatten();
    let Some(stored) = stored else { return Ok(Some(Context::new())) };
    Ok(record::decode(&core.hash, &slot.key, &stored).ok().map(|state| state.context().clone()))
}
