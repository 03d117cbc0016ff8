//! Finding dead records: reading the partitions of which this node is the first owner, at leisure.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use crate::limits;
use crate::node::core::{Core, slot_ref};
use crate::node::reap::obey::{Dead, dead};
use crate::node::reap::round::round;
use crate::store::{Slot, StoreError};
use crate::types::PartitionId;
use crate::wire::reap::DeadRecord;

/// Pause after each page, in times of what it took.
const PAUSE: u32 = 9;

/// Reads each partition once, and tries to drop what is dead.
pub(crate) async fn seek(core: &Arc<Core>) -> Result<(), StoreError> {
    let mut found = Vec::new();
    for partition in core.partitions.iter() {
        let mut after: Option<Bytes> = None;
        while is_first_somewhere(core, partition) {
            let began = Instant::now();
            let (most, bytes) = (limits::TREE_PAGE_MAX, limits::TREE_PAGE_BYTES);
            let page = core.engine.scan(partition, &[], after.as_deref(), most, bytes).await?;
            after = page.items.last().map(|(key, _)| key.clone());
            for (key, record) in page.items {
                let slot = Slot { partition, key };
                let first = owners(core, &slot).is_some_and(|owners| owners.first() == Some(&core.id));
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

fn is_first_somewhere(core: &Core, partition: PartitionId) -> bool {
    let view = core.view();
    let first = |copies| view.ring(copies)?.preference_list(partition).first().copied();
    view.namespaces().any(|(_, policy)| first(policy.n) == Some(core.id))
}

/// The owners of a record.
pub(crate) fn owners(core: &Core, slot: &Slot) -> Option<Vec<crate::types::NodeId>> {
    let (namespace, _) = crate::record::split_storage_key(&slot.key)?;
    let view = core.view();
    Some(view.ring(view.policy(&namespace)?.n)?.preference_list(slot.partition).to_vec())
}
