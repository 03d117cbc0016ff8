//! What is kept under a mark: all that this node holds of a bucket, which its target may lack.
//!
//! What both own is compared by its hash trees, and what the target lacks is sent. What this node only keeps for others is
//! delivered record by record, as if each had a marker. The mark goes last, and only if it was not renewed meanwhile: so
//! whatever breaks this off, it is begun again. Which hints collapse to marks is not decided here.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use crate::limits;
use crate::node::core::Core;
use crate::node::hints::deliver_page;
use crate::node::replica::HintDone;
use crate::node::replica::marker::{self, Marker};
use crate::node::sync;
use crate::node::trees::copies_of;
use crate::record;
use crate::types::{Bucket, NodeId};
use crate::view::ClusterView;
use crate::wire::sync::TreeId;

/// Delivers all that is kept of a bucket to a target, and removes the mark. An error says what is in the way.
pub(super) async fn deliver(
    core: &Arc<Core>,
    target: NodeId,
    bucket: Bucket,
    mark: Option<Marker>,
) -> Result<(), String> {
    let view = core.view();
    for partition in view.partitions().within(bucket, core.buckets) {
        for copies in view.all_copies() {
            let Some(ring) = view.ring(copies) else { continue };
            let owners = [ring.preference_list(partition), view.other_owners(copies, partition)].concat();
            let tree = TreeId { partition, copies };
            match (owners.contains(&target), owners.contains(&core.id)) {
                (true, true) => drop(sync::hand_over(core, target, tree).await.map_err(|error| error.to_string())?),
                (true, false) => deliver_kept(core, &view, target, tree).await?,
                (false, _) => {}
            }
        }
    }
    if core.view().version() != view.version() {
        return Err("owners are changing".to_owned());
    }
    let marked = mark.map_or(0, |mark| mark.digest);
    let done = HintDone { slot: marker::all_of(bucket), target, marked, delivered: None, drop_with: None };
    core.replica.hint_done(done).await.map_err(|error| error.to_string())
}

/// Delivers what this node keeps of a tree that others own. It forgets what arrived if that is all that it can hold of it:
/// what it owned before goes only by comparison with all owners.
async fn deliver_kept(core: &Arc<Core>, view: &ClusterView, target: NodeId, tree: TreeId) -> Result<(), String> {
    let (copies, drops) = (core.trees.copies(), core.ownership.has_shed(view.version()));
    let mut after: Option<Bytes> = None;
    loop {
        let began = Instant::now();
        // Whoever has a later layout confirmed waits for this page: by that layout the records may be this node's own.
        let by_layout = core.by_layout.begin();
        if core.view().version() != view.version() {
            return Err("owners are changing".to_owned());
        }
        let (most, bytes) = (limits::HINT_PAGE_MAX, limits::SYNC_BYTES);
        let page = core.scan(tree.partition, &[], after.as_deref(), (most, bytes)).await;
        let page = page.map_err(|error| error.to_string())?;
        after = page.items.last().map(|(key, _)| key.clone());
        let as_marker = |(key, stored): (Bytes, Bytes)| {
            copies_of(&copies, &key).filter(|number| *number == tree.copies)?;
            let slot = core.slot_in(tree.partition, key)?;
            let marker = Marker { digest: record::digest(&stored).unwrap_or_default(), made_ms: 0 };
            Some((marker::slot(target, &slot).key, marker.encode()))
        };
        let items: Vec<(Bytes, Bytes)> = page.items.into_iter().filter_map(as_marker).collect();
        let count = items.len();
        let done = deliver_page(core, target, items, drops).await;
        drop(by_layout);
        core.pace.rest(&core.meters, began.elapsed()).await;
        if done.delivered < count {
            return Err(format!("{} of {count} records were delivered", done.delivered));
        }
        if !page.more {
            return Ok(());
        }
    }
}
