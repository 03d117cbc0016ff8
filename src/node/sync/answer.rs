//! The answering side of an exchange. Everything a peer sends is bounded and checked; nothing is remembered but that the
//! partition is busy.

use std::sync::Arc;

use bytes::Bytes;
use rand::RngExt;
use tokio::time::Instant;

use crate::hash::ClusterHash;
use crate::limits;
use crate::merkle::{Held, Leaves};
use crate::net::Identity;
use crate::node::core::Core;
use crate::node::replica::storage_error;
use crate::node::sync::records::{Range, walk};
use crate::types::NodeId;
use crate::wire::blob::Blob;
use crate::wire::rpc::ServeError;
use crate::wire::sync::{RecordsPage, RecordsRequest, RootVerdict, SumsRequest, TreeId, TreeRoot};

/// Compares a peer's roots with this node's.
pub(crate) fn roots(core: &Core, from: &Identity, roots: &[TreeRoot]) -> Result<Vec<RootVerdict>, ServeError> {
    let peer = node(from)?;
    bounded(roots.len(), limits::SYNC_ROOTS_MAX)?;
    Ok(roots.iter().map(|root| verdict(core, peer, root)).collect())
}

fn verdict(core: &Core, peer: NodeId, root: &TreeRoot) -> RootVerdict {
    let tree = root.tree;
    core.sync.busy.take_back(tree.partition, peer);
    if check_owned(core, tree).is_err() {
        return RootVerdict::NotOwner;
    }
    match core.root(tree) {
        Some(own) if own == root.root => {
            let spread = core.sync.random(|rng| rng.random_range(super::SPREAD));
            core.sync.schedule().verified(peer, tree, Some(own), Instant::now(), spread);
            RootVerdict::Equal
        }
        Some(_)
            if core.past.may_offer(tree)
                && !core.sync.busy.is_taken(tree.partition, peer)
                && !core.hints.is_delivering(peer) =>
        {
            RootVerdict::Differs
        }
        _ => RootVerdict::Later,
    }
}

/// Sums inside one of this node's trees.
pub(crate) fn sums(core: &Core, from: &Identity, request: &SumsRequest) -> Result<Vec<u128>, ServeError> {
    begin(core, node(from)?, request.tree)?;
    bounded(request.nodes.len(), limits::SYNC_SUMS_MAX)?;
    if core.root(request.tree).is_none() {
        return Err(ServeError::Unavailable("this node does not know yet what it holds of the partition".to_owned()));
    }
    let sums = core.trees.sums(request.tree, request.level, &request.nodes);
    sums.ok_or_else(|| ServeError::Invalid("there are no such nodes in a tree of this cluster".to_owned()))
}

/// What this node holds in some leaves that the peer does not, and what it wants from the peer.
pub(crate) async fn records(
    core: &Arc<Core>,
    from: &Identity,
    request: RecordsRequest,
) -> Result<RecordsPage, ServeError> {
    begin(core, node(from)?, request.tree)?;
    if !core.past.may_offer(request.tree) {
        return Err(ServeError::Unavailable("this node catches up, and may hold what others have dropped".to_owned()));
    }
    bounded(request.held.len(), limits::SYNC_HELD_MAX)?;
    bounded(request.leaves.len(), limits::SYNC_SUMS_MAX)?;
    // Fails only when the semaphore is closed, which nobody does.
    let turn = core.sync.answers.acquire().await;
    let began = Instant::now();
    let bytes = |key: Option<Blob>| key.map(|key| Bytes::copy_from_slice(&key));
    let range = Range {
        tree: request.tree,
        leaves: Leaves::from_list(&request.leaves),
        after: bytes(request.after),
        until: bytes(request.until),
    };
    let mut held = Held::new(&request.held);
    let (mut records, mut size) = (Vec::new(), 0);
    let covered = walk(core, &range, |found| {
        if held.lacks(found.tree_key, found.digest) {
            size += found.key.len() + found.record.len();
            records.push((Blob(found.key), Blob(found.record)));
        }
        records.len() < limits::SYNC_RECORDS_MAX && size < limits::SYNC_BYTES
    });
    let covered = covered.await.map_err(|error| storage_error(&error))?;
    drop(turn);
    core.pace.rest(&core.meters, began.elapsed()).await;
    Ok(RecordsPage { records, covered: covered.map(Blob), wanted: held.wanted() })
}

/// What every question inside a tree begins with.
fn begin(core: &Core, peer: NodeId, tree: TreeId) -> Result<(), ServeError> {
    core.check_partition(tree.partition)?;
    check_owned(core, tree)?;
    if core.sync.busy.lend(tree.partition, peer) {
        return Ok(());
    }
    Err(ServeError::Unavailable(format!("partition {} is busy with another exchange", tree.partition)))
}

/// Refuses a tree that this node does not own. The peer need not: it may be about to own it, or have owned it.
fn check_owned(core: &Core, tree: TreeId) -> Result<(), ServeError> {
    core.check_partition(tree.partition)?;
    let view = core.view();
    let owners = view.ring(tree.copies).map(|ring| ring.preference_list(tree.partition)).unwrap_or_default();
    if owners.contains(&core.id) || view.other_owners(tree.copies, tree.partition).contains(&core.id) {
        return Ok(());
    }
    let TreeId { partition, copies } = tree;
    Err(ServeError::Invalid(format!("owns none of the {copies} copies of partition {partition}")))
}

fn node(from: &Identity) -> Result<NodeId, ServeError> {
    match from {
        Identity::Node(name) => Ok(ClusterHash::node_id(name)),
        Identity::Admin(_) | Identity::Client { .. } => {
            Err(ServeError::Forbidden("only nodes compare trees with nodes".to_owned()))
        }
    }
}

fn bounded(count: usize, most: usize) -> Result<(), ServeError> {
    if count <= most {
        return Ok(());
    }
    Err(ServeError::Limit(format!("{count} entries in one message of anti-entropy, the limit is {most}")))
}
