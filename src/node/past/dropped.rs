//! What was dropped in a tree, said to an owner whose storage went back and may hold it still.
//!
//! The proof: the *frontier* of a namespace in a partition is the latest stamp of anything that this node dropped in it. It
//! was dropped only while the trees of all owners were found equal, after all of that had died (see `node::reap`); so then this node
//! had every version with a stamp up to the frontier that any owner had. Such a version that it has neither now, nor in the
//! context of what it has, was dropped by all. Of a version with a later stamp nothing is said: it may be an
//! acknowledged write that others have lost. The frontier lies in the storage of which it speaks, so a storage that went
//! back itself, or lost everything, says less, and nothing wrong.

use std::collections::BTreeMap;
use std::iter::successors;

use bytes::Bytes;

use crate::limits;
use crate::node::core::Core;
use crate::node::past::kept;
use crate::node::replica::storage_error;
use crate::record;
use crate::store::Slot;
use crate::types::{PartitionId, Partitions};
use crate::version::{Dot, Siblings, Stamp};
use crate::wire::past::{DroppedAnswer, DroppedRequest};
use crate::wire::rpc::ServeError;
use crate::wire::sync::TreeId;

/// Says which of the versions were dropped.
pub(crate) async fn answer(core: &Core, request: DroppedRequest) -> Result<DroppedAnswer, ServeError> {
    let DroppedRequest { partition, copies, keys } = request;
    core.check_partition(partition)?;
    if keys.len() > limits::DROPPED_KEYS_MAX {
        let text = format!("{} keys in one message, the limit is {}", keys.len(), limits::DROPPED_KEYS_MAX);
        return Err(ServeError::Limit(text));
    }
    let owners = core.view().ring(copies).map(|ring| ring.preference_list(partition).contains(&core.id));
    if owners != Some(true) {
        let text = format!("this node does not own the {copies} copies of partition {partition}");
        return Err(ServeError::Invalid(text));
    }
    let epoch = core.engine.epoch();
    let frontiers = frontiers(core, TreeId { partition, copies }).await?;
    let slot = |key: &[u8]| core.slot_in(partition, Bytes::copy_from_slice(key));
    let slots: Option<Vec<Slot>> = keys.iter().map(|(key, _)| slot(key)).collect();
    let slots = slots.ok_or_else(|| ServeError::Invalid(format!("some keys are not of partition {partition}")))?;
    // In this order: what is dropped between the two is not found, and not behind the frontier.
    let records = core.replica.fetch(slots.clone()).await?;
    let held = slots.iter().zip(records).map(|(slot, record)| match record {
        None => Some(Siblings::new()),
        Some(record) => record::decode(&core.hash, &slot.key, &record).ok(),
    });
    let of = |key: &[u8]| record::namespace_of(key).and_then(|name| frontiers.get(name)).copied().unwrap_or_default();
    let dropped = keys.iter().zip(held).map(|((key, versions), held)| dropped(versions, held.as_ref(), of(key)));
    let dropped = dropped.collect();
    let frontier = frontiers.values().copied().max().unwrap_or_default();
    if core.engine.epoch() != epoch {
        return Err(ServeError::Unavailable("the storage has begun another epoch".to_owned()));
    }
    Ok(DroppedAnswer { frontier, dropped })
}

/// The frontiers in a tree, by namespace.
async fn frontiers(core: &Core, tree: TreeId) -> Result<BTreeMap<String, Stamp>, ServeError> {
    let view = core.view();
    let in_tree = view.copies_of_each().filter(|(_, copies)| *copies == tree.copies);
    let names = in_tree.map(|(namespace, _)| namespace.to_string());
    let places = names.flat_map(|name| {
        let wholes = lineage(tree.partition, core.buckets);
        wholes.map(move |partition| (name.clone(), kept::frontier_slot(core.id, partition, &name)))
    });
    let (names, slots): (Vec<String>, Vec<Slot>) = places.unzip();
    let stored = core.engine.get_many(&slots).await.map_err(|error| storage_error(&error))?;
    let mut frontiers: BTreeMap<String, Stamp> = BTreeMap::new();
    for (name, stored) in names.into_iter().zip(stored) {
        let frontier = frontiers.entry(name).or_default();
        *frontier = kept::decode_frontier(&core.hash, stored.as_ref()).max(*frontier);
    }
    Ok(frontiers)
}

/// The partition and those that it was cut from, back to the founding: what was said of a partition is true of its parts.
fn lineage(partition: PartitionId, founded: Partitions) -> impl Iterator<Item = PartitionId> {
    let cut_from =
        move |partition: &PartitionId| Some(partition.parent()).filter(|whole| founded.around(*whole).is_some());
    successors(Some(partition), cut_from)
}

/// Which of these versions were dropped, by an owner that holds this; nothing is known of what cannot be read.
fn dropped(versions: &[(Dot, Stamp)], held: Option<&Siblings>, frontier: Stamp) -> Vec<Dot> {
    let Some(held) = held else { return Vec::new() };
    let gone = |(dot, stamp): &&(Dot, Stamp)| *stamp <= frontier && !held.context().covers(*dot);
    versions.iter().filter(gone).map(|(dot, _)| *dot).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Epoch, NodeId};
    use crate::version::{Actor, Context};

    #[test]
    fn what_was_dropped_before_a_partition_was_cut_was_dropped_from_its_parts() {
        let founded = Partitions::new(16).unwrap();
        let part = PartitionId(4 * founded.nth(5).0 + 3);
        let all: Vec<PartitionId> = lineage(part, founded).collect();
        assert_eq!(all, [part, part.parent(), founded.nth(5)]);
        assert_eq!(lineage(founded.nth(5), founded).count(), 1);
    }

    #[test]
    fn only_what_is_behind_the_frontier_and_was_never_seen_there_was_dropped() {
        let dot = |counter| Dot { actor: Actor { node: NodeId(1), epoch: Epoch(2) }, counter };
        let mut context = Context::new();
        context.add(dot(1));
        let held = Siblings::seen(context);
        let versions = [(dot(1), Stamp(3)), (dot(2), Stamp(5)), (dot(3), Stamp(6))];
        assert_eq!(dropped(&versions, Some(&held), Stamp(5)), [dot(2)]);
        assert_eq!(dropped(&versions, Some(&Siblings::new()), Stamp(9)), [dot(1), dot(2), dot(3)]);
        assert_eq!(dropped(&versions, Some(&Siblings::new()), Stamp(0)), []);
        assert_eq!(dropped(&versions, None, Stamp(9)), [], "what cannot be read proves nothing");
    }
}
