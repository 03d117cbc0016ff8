//! Finding dead records: reading the partitions of which this node is the first owner, at leisure.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use crate::limits;
use crate::node::core::{Core, slot_ref};
use crate::node::reap::cluster::round;
use crate::node::reap::obey::{Dead, dead};
use crate::record;
use crate::store::{Slot, StoreError};
use crate::types::{NodeId, PartitionId};
use crate::wire::reap::DeadRecord;
use crate::wire::sync::TreeId;

/// Pause after each page, in times of what it took.
const PAUSE: u32 = 9;

/// Reads each partition once, and tries to drop what is dead.
pub(crate) async fn seek(core: &Arc<Core>) -> Result<(), StoreError> {
    let mut found = Vec::new();
    for partition in core.view().partitions().iter() {
        let mut after: Option<Bytes> = None;
        while is_first_somewhere(core, partition) {
            let began = Instant::now();
            let (most, bytes) = (limits::TREE_PAGE_MAX, limits::TREE_PAGE_BYTES);
            let page = core.scan(partition, &[], after.as_deref(), (most, bytes)).await?;
            after = page.items.last().map(|(key, _)| key.clone());
            for (key, record) in page.items {
                let Some(slot) = core.slot_in(partition, key) else { continue };
                let first = owners(core, &slot)
                    .is_some_and(|(owners, tree)| owners.first() == Some(&core.id) && agree(core, tree));
                if let Some(Dead { digest, seen }) = dead(core, &slot, &record).filter(|_| first) {
                    found.push(DeadRecord { slot: slot_ref(&slot), digest, seen });
                }
                if found.len() >= limits::REAP_KEYS_MAX {
                    round(core, std::mem::take(&mut found)).await;
                }
            }
            sleep(began.elapsed() * PAUSE).await;
            if !page.more {
                break;
            }
        }
    }
    if !found.is_empty() {
        round(core, found).await;
    }
    Ok(())
}

/// Whether all owners of a tree were found to hold the same since what is old enough to be dropped had died.
fn agree(core: &Core, tree: TreeId) -> bool {
    let Some(after) = core.timeouts.reap_after else { return false };
    // A comparison of a process that is younger than that was made since, in any case.
    let since = Instant::now().checked_sub(after).unwrap_or(core.started).max(core.started);
    core.sync.agreed_since(tree, since)
}

fn is_first_somewhere(core: &Core, partition: PartitionId) -> bool {
    let view = core.view();
    let first = |copies| view.ring(copies)?.preference_list(partition).first().copied();
    view.all_copies().any(|copies| first(copies) == Some(core.id))
}

/// The owners of a record, and the tree that it is in.
pub(crate) fn owners(core: &Core, slot: &Slot) -> Option<(Vec<NodeId>, TreeId)> {
    let (namespace, _) = record::split_storage_key(&slot.key)?;
    let view = core.view();
    let copies = view.copies(&namespace)?;
    let ring = view.ring(copies)?;
    let partition = core.partition_in(ring, slot);
    Some((ring.preference_list(partition).to_vec(), TreeId { partition, copies }))
}
