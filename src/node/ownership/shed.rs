//! Dropping what this node owns no more, once every owner has compared its tree with this node's and has all that is here.
//!
//! Records that this node keeps hints for stay until these are delivered, also where it stands in.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;
use tokio::time::{Instant, sleep};

use crate::limits;
use crate::node::core::Core;
use crate::node::ownership::news;
use crate::node::ownership::orphans;
use crate::node::ownership::tasks;
use crate::node::replica::{Reap, Step};
use crate::node::sync;
use crate::record;
use crate::types::NodeId;
use crate::version::Context;
use crate::view::ClusterView;
use crate::wire::sync::TreeId;

/// Pause between looks, while nothing can be dropped.
const CALM: Duration = Duration::from_secs(10);
/// The same after something was dropped: what stood in the way of the rest, mostly another exchange, is soon over. It doubles
/// up to the other one.
const SOON: Duration = Duration::from_millis(250);
/// For how long a layout has been settled before anything is dropped: coordinators that hear of it late find those who
/// owned data before as they were.
const SETTLING: Duration = Duration::from_secs(2);

/// Until the scope of `core` is stopped.
pub(super) async fn run(core: Arc<Core>) {
    tokio::select! {
        biased;
        () = core.rest.stopped() => {}
        () = shed_on(&core) => {}
    }
}

async fn shed_on(core: &Arc<Core>) {
    let (mut redirected, mut pause) = (0, CALM);
    let mut looked_at = core.view();
    loop {
        news(core, &looked_at, pause).await;
        pause = (pause * 2).min(CALM);
        let view = core.view();
        let is_other = view.version() != looked_at.version();
        looked_at = view.clone();
        // Nobody owns more than it needs in a cluster as it was founded.
        if view.version() == 0 || view.layout().next.is_some() {
            continue;
        }
        if is_other {
            sleep(SETTLING).await;
            pause = SOON;
        }
        // Nothing that goes by an earlier layout is let in any more, or under way.
        if let Err(error) = core.ownership.confirm(core, view.version()).await {
            tracing::debug!(%error, "nothing is dropped now");
            continue;
        }
        if redirected < view.version() && orphans::redirect(core, &view).await {
            redirected = view.version();
        }
        if !tasks::holds_shedding(core, view.version()) && round(core, &view).await {
            pause = SOON;
        }
    }
}

/// Drops all that can be dropped now. Returns whether that was anything.
async fn round(core: &Arc<Core>, view: &ClusterView) -> bool {
    let (version, trees) = (view.version(), not_owned(core, view));
    let shedding = &core.ownership.shedding;
    if !trees.is_empty() {
        shedding.begin(version, (version, core.engine.epoch()), core.rest.wall_ms());
        shedding.expect(trees.len());
    }
    let one = async |tree| {
        let is_over = core.view().version() != version || tasks::holds_shedding(core, version);
        let gone = !is_over && shed(core, view, tree).await;
        if gone {
            shedding.done(tree);
        }
        gone
    };
    let gone = stream::iter(trees.into_iter().map(one)).buffer_unordered(limits::COPIES_AT_ONCE);
    let any = gone.fold(false, async |any, gone| any | gone).await;
    shedding.rest();
    let is_news = core.ownership.state().shed != version;
    if is_news && sync::knows_all(core) && not_owned(core, view).is_empty() && core.view().version() == version {
        core.ownership.state().shed = version;
        if shedding.progress().is_some_and(|progress| progress.since == version) {
            tasks::shed_ended(core).await;
        }
    }
    any
}

/// The trees of records that this node holds and does not own.
fn not_owned(core: &Core, view: &ClusterView) -> Vec<TreeId> {
    let mut trees = Vec::new();
    for (copies, ring) in view.all_copies().filter_map(|copies| Some((copies, view.ring(copies)?))) {
        for partition in ring.partitions().iter() {
            let tree = TreeId { partition, copies };
            let owned = ring.preference_list(partition).contains(&core.id);
            if !owned && core.root(tree).is_some_and(|root| root != 0) {
                trees.push(tree);
            }
        }
    }
    trees
}

/// Drops one tree, if that can be. Returns whether nothing of it is left.
async fn shed(core: &Arc<Core>, view: &ClusterView, tree: TreeId) -> bool {
    let Some(ring) = view.ring(tree.copies) else { return false };
    let owners = ring.preference_list(tree.partition);
    let before = core.root(tree);
    for owner in owners {
        if let Err(error) = sync::hand_over(core, *owner, tree).await {
            tracing::debug!(node = %owner, partition = %tree.partition, %error, "an owner does not have all yet; nothing is dropped");
            return false;
        }
    }
    if core.root(tree) != before {
        tracing::debug!(partition = %tree.partition, "something came in that the owners were not given; nothing is dropped");
        return false;
    }
    match drop_records(core, view, tree).await {
        Ok(0) => {}
        Ok(dropped) => tracing::debug!(partition = %tree.partition, dropped, "what its owners have was dropped"),
        Err(why) => tracing::debug!(partition = %tree.partition, why, "not all was dropped that could be"),
    }
    core.root(tree) == Some(0)
}

/// Drops what the tree counts; returns how many records.
async fn drop_records(core: &Arc<Core>, view: &ClusterView, tree: TreeId) -> Result<usize, String> {
    let members: Vec<NodeId> = view.members().keys().copied().filter(|node| *node != core.id).collect();
    let copies = core.trees.copies();
    let (mut after, mut dropped) = (None, 0);
    loop {
        let began = Instant::now();
        // Whoever has a later layout confirmed waits for this page: by that layout the records may be this node's own.
        let by_layout = core.by_layout.begin();
        if core.view().version() != view.version() {
            return Err("owners are changing".to_owned());
        }
        let (most, bytes) = (limits::DROPPED_RECORDS, limits::SYNC_BYTES);
        let page = core.scan(tree.partition, &[], after.as_deref(), (most, bytes)).await;
        let page = page.map_err(|error| error.to_string())?;
        after = page.items.last().map(|(key, _)| key.clone());
        let counted = |key: &[u8]| crate::node::trees::copies_of(&copies, key) == Some(tree.copies);
        let drops = page.items.into_iter().filter(|(key, _)| counted(key)).filter_map(|(key, stored)| {
            let (digest, size) = (record::digest(&stored)?, key.len() + stored.len());
            let slot = core.slot_in(tree.partition, key)?;
            let (owners, step) = (members.clone(), Step::Shed { digest });
            Some((size, Reap { slot, partition: tree.partition, owners, step, seen: Context::new() }))
        });
        let (sizes, drops): (Vec<usize>, Vec<Reap>) = drops.unzip();
        let outcomes = join_all(drops.into_iter().map(|reap| core.replica.reap(reap))).await;
        let gone = outcomes.iter().zip(sizes).filter(|(outcome, _)| matches!(outcome, Ok(true)));
        let (records, bytes) = gone.fold((0, 0), |(records, bytes), (_, size)| (records + 1, bytes + size));
        dropped += records;
        core.ownership.shedding.moved(records as u64, bytes as u64);
        core.meters.shed.count(records);
        if let Some(Err(error)) = outcomes.into_iter().find(Result::is_err) {
            return Err(error.to_string());
        }
        drop(by_layout);
        core.pace.rest(&core.meters, began.elapsed()).await;
        if !page.more {
            return Ok(dropped);
        }
    }
}
