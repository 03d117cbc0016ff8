//! How anti-entropy stands, for administrators, and their wish to have it now.

use std::time::Duration;

use tokio::time::Instant;

use crate::node::core::Core;
use crate::node::sync::lock;
use crate::node::sync::schedule::Progress;
use crate::node::timeouts::millis;
use crate::types::{NodeId, PartitionId};
use crate::wire::rpc::ServeError;
use crate::wire::sync::{PeerSync, RepairProgress, RepairRequest, SyncStatus, TreeAge, TreeId};
use crate::wire::tasks::{Task, TaskKind, TaskState};

/// A repair that an administrator asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    /// Its beginning by this node's own count.
    since_ms: u64,
    partition: Option<PartitionId>,
    /// The same in milliseconds since the Unix epoch.
    wall_ms: u64,
}

/// Whether the trees of all partitions are known that this node may have to compare.
pub(crate) fn knows_all(core: &Core) -> bool {
    let kept = core.sync.known();
    core.trees.with(|forest| kept.iter().all(|partition| forest.is_known(*partition)))
}

/// The last repair that an administrator asked for, as a task.
pub(crate) fn repair_task(core: &Core) -> Option<Task> {
    let asked = (*lock(&core.sync.repair))?;
    let since = core.started.checked_add(Duration::from_millis(asked.since_ms))?;
    let trees = core.sync.schedule().by_tree(asked.partition, since);
    let (done, total) = trees
        .values()
        .fold((0, 0), |(done, total), progress| (done + u64::from(progress.done), total + u64::from(progress.pairs)));
    let name = core.own_name();
    let ends = done >= total;
    let whose = asked.partition.map_or_else(|| "all it owns".to_owned(), |partition| format!("partition {partition}"));
    Some(Task {
        id: format!("repair-{}-{name}", asked.since_ms),
        kind: TaskKind::Repair,
        what: format!("{name} compares {whose} with the other owners"),
        node: name,
        state: if ends { TaskState::Done } else { TaskState::Running },
        change: 0,
        done,
        total,
        records: 0,
        bytes: 0,
        active_ms: millis(core.started.elapsed()).saturating_sub(asked.since_ms),
        began_ms: asked.wall_ms,
        ended_ms: 0,
        waits_for: Vec::new(),
    })
}

/// Begins a repair, or tells how far one has come.
pub(crate) fn repair(core: &Core, request: RepairRequest) -> Result<RepairProgress, ServeError> {
    if let Some(partition) = request.partition {
        core.check_partition(partition)?;
    }
    let now = Instant::now();
    // A beginning that is still to come was told by the process before this one.
    let running_ms = millis(now - core.started);
    let since_ms = request.since_ms.filter(|since| *since <= running_ms).unwrap_or_else(|| {
        // What was refused before is tried again.
        core.sync.forget_refused(request.partition);
        core.sync.schedule().hurry(None, request.partition, now);
        let asked = Asked { since_ms: running_ms, partition: request.partition, wall_ms: core.rest.wall_ms() };
        *lock(&core.sync.repair) = Some(asked);
        running_ms
    });
    let since = core.started.checked_add(Duration::from_millis(since_ms));
    let since = since.ok_or_else(|| ServeError::Invalid("the repair's beginning is no time".to_owned()))?;
    let trees = core.sync.schedule().by_tree(request.partition, since);
    let age = |(tree, progress): (TreeId, Progress)| TreeAge {
        tree,
        peers: progress.pairs,
        done: progress.done,
        age_ms: progress.oldest.map(|oldest| millis(now - oldest)),
        refused: core.sync.refused(tree),
    };
    Ok(RepairProgress { since_ms, trees: trees.into_iter().map(age).collect(), sync: status(core) })
}

/// How anti-entropy stands.
pub(crate) fn status(core: &Core) -> SyncStatus {
    let owned = core.sync.owned();
    let known = core.trees.with(|forest| owned.iter().filter(|partition| forest.is_known(**partition)).count());
    let view = core.view();
    let peers = view.members().keys().filter(|peer| **peer != core.id).filter_map(|peer| with_peer(core, *peer));
    SyncStatus { partitions: owned.len() as u64, known: known as u64, peers: peers.collect() }
}

fn with_peer(core: &Core, peer: NodeId) -> Option<PeerSync> {
    let progress = core.sync.schedule().with_peer(peer);
    let traffic = lock(&core.sync.traffic).get(&peer).copied().unwrap_or_default();
    (progress.pairs > 0).then(|| PeerSync {
        name: core.view().name_of(peer),
        trees: progress.pairs.into(),
        verified: progress.verified.into(),
        oldest_ms: progress.oldest.map(|oldest| millis(oldest.elapsed())),
        records_in: traffic.records_in,
        records_out: traffic.records_out,
        bytes_in: traffic.bytes_in,
        bytes_out: traffic.bytes_out,
    })
}
