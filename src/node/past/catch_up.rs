//! Catching up: first what the others have dropped leaves this node, then its trees are brought together with theirs.
//!
//! Of each tree each other owner is asked what it has dropped ([`super::dropped`]); until all were, nothing of the tree
//! is given to anyone. What nobody says was dropped stays and goes to those who lack it, since it may be a write that
//! was acknowledged and that others lost. The rest is anti-entropy's.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::limits;
use crate::merkle::Leaves;
use crate::node::ask::By;
use crate::node::core::Core;
use crate::node::past::{TICK, decide};
use crate::node::peers::unexpected;
use crate::node::sync::records::{Found, Range, walk};
use crate::node::sync::{Descended, descend};
use crate::record;
use crate::types::NodeId;
use crate::version::{Dot, Stamp};
use crate::wire::blob::Blob;
use crate::wire::past::{DroppedAnswer, DroppedRequest};
use crate::wire::rpc::{Reply, Request};
use crate::wire::sync::TreeId;

/// How long owners are waited for that cannot be reached.
const GRACE: Duration = Duration::from_secs(60);
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A tree and another owner of it.
type Pair = (TreeId, NodeId);

/// Catches up, whenever there is a reason to.
pub(super) async fn run(core: &Arc<Core>) {
    loop {
        core.past.until(|past| past.catching_up().is_some()).await;
        let (began, life) = (Instant::now(), core.past.own().life);
        if let Err(why) = catch_up(core, began, life).await {
            tracing::debug!(why, "catching up begins anew");
        }
        sleep(TICK).await;
    }
}

async fn catch_up(core: &Arc<Core>, began: Instant, life: u64) -> Result<(), String> {
    check_all(core, began, life).await?;
    core.sync.compare_all();
    let since = Instant::now();
    loop {
        same_life(core, life)?;
        let waits_for = |peer: NodeId| core.peers.is_connected(peer) || began.elapsed() < GRACE;
        if unchecked(core).await?.is_empty() && core.sync.is_equal_since(core, since, waits_for) {
            break;
        }
        sleep(TICK).await;
    }
    if decide::caught_up(core, life).await.map_err(|error| error.to_string())? {
        tracing::info!(took = ?began.elapsed(), "this node has caught up and answers reads");
    }
    Ok(())
}

/// Refuses to go on with what was begun before the storage was lost once more.
fn same_life(core: &Core, life: u64) -> Result<(), String> {
    if core.past.own().life == life { Ok(()) } else { Err("the storage was lost once more".to_owned()) }
}

/// Has each tree checked against what each other owner has dropped.
async fn check_all(core: &Arc<Core>, began: Instant, life: u64) -> Result<(), String> {
    let mut done: BTreeSet<Pair> = BTreeSet::new();
    loop {
        same_life(core, life)?;
        let trees = unchecked(core).await?;
        if trees.is_empty() {
            return Ok(());
        }
        for tree in trees {
            let mut left = false;
            for peer in other_owners(core, tree) {
                if done.contains(&(tree, peer)) {
                    continue;
                }
                let patient = began.elapsed() < GRACE;
                if !patient && !core.peers.is_connected(peer) {
                    done.insert((tree, peer));
                    continue;
                }
                match check(core, tree, peer, patient).await {
                    Ok(()) => drop(done.insert((tree, peer))),
                    Err(why) => {
                        tracing::debug!(%peer, partition = %tree.partition, why, "not known yet what was dropped");
                        left = true;
                    }
                }
            }
            if !left {
                core.past.state().checked.insert(tree);
            }
        }
        sleep(TICK / 5).await;
    }
}

fn other_owners(core: &Core, tree: TreeId) -> Vec<NodeId> {
    let view = core.view();
    let owners = view.ring(tree.copies).map(|ring| ring.preference_list(tree.partition)).unwrap_or_default();
    owners.iter().copied().filter(|node| *node != core.id).collect()
}

/// The trees that are not checked yet: those that this node owns, and those it holds something of for others.
async fn unchecked(core: &Core) -> Result<Vec<TreeId>, String> {
    let view = core.view();
    let mut trees = Vec::new();
    for partition in view.partitions().iter() {
        let wanted: Vec<TreeId> = view.all_copies().map(|copies| TreeId { partition, copies }).collect();
        let wanted: Vec<TreeId> = {
            let state = core.past.state();
            wanted.into_iter().filter(|tree| !state.checked.contains(tree)).collect()
        };
        let owns = |tree: &TreeId| {
            view.ring(tree.copies).is_some_and(|ring| ring.preference_list(partition).contains(&core.id))
        };
        let (owned, others): (Vec<TreeId>, Vec<TreeId>) = wanted.into_iter().partition(owns);
        trees.extend(owned);
        if !others.is_empty() {
            let page = core.scan(partition, &[], None, (1, 1)).await.map_err(|error| error.to_string())?;
            if page.items.is_empty() {
                core.past.state().checked.extend(others);
            } else {
                trees.extend(others);
            }
        }
    }
    Ok(trees)
}

/// Asks one owner what it has dropped of what this node holds, and forgets that.
async fn check(core: &Arc<Core>, tree: TreeId, peer: NodeId, patient: bool) -> Result<(), String> {
    let frontier = ask(core, tree, peer, Vec::new()).await?.frontier;
    if frontier == Stamp::default() {
        return Ok(());
    }
    let leaves = match descend(core, peer, tree).await {
        Descended::Equal => return Ok(()),
        Descended::Differ(leaves) => leaves,
        Descended::Unknown(why) if patient => return Err(why),
        Descended::Unknown(_) | Descended::NotComparable => Leaves::All,
    };
    let mut range = Range { tree, leaves, after: None, until: None };
    loop {
        let mut found: Vec<Found> = Vec::new();
        let covered = walk(core, &range, |one| {
            found.push(one);
            found.len() < limits::DROPPED_KEYS_MAX
        });
        let covered = covered.await.map_err(|error| error.to_string())?;
        let keys = found.into_iter().filter_map(|one| older(core, one, frontier)).collect();
        forget(core, tree, peer, keys).await?;
        match covered {
            Some(covered) => range.after = Some(covered),
            None => return Ok(()),
        }
    }
}

/// The versions of a record that may have been dropped.
fn older(core: &Core, found: Found, frontier: Stamp) -> Option<(Blob, Vec<(Dot, Stamp)>)> {
    let state = record::decode(&core.hash, &found.key, &found.record).ok()?;
    let versions = state.versions().iter().map(|version| (version.dot, version.stamp));
    let versions: Vec<(Dot, Stamp)> = versions.filter(|(_, stamp)| *stamp <= frontier).collect();
    (!versions.is_empty()).then(|| (Blob(found.key), versions))
}

async fn forget(core: &Core, tree: TreeId, peer: NodeId, keys: Vec<(Blob, Vec<(Dot, Stamp)>)>) -> Result<(), String> {
    if keys.is_empty() {
        return Ok(());
    }
    let answer = ask(core, tree, peer, keys.clone()).await?;
    if answer.dropped.len() != keys.len() {
        return Err("it answered for other keys".to_owned());
    }
    for ((key, _), dots) in keys.into_iter().zip(answer.dropped) {
        if dots.is_empty() {
            continue;
        }
        let Some(slot) = core.slot_in(tree.partition, key.0) else { continue };
        let forgotten = core.replica.forget(slot, dots).await.map_err(|error| error.to_string())?;
        core.meters.went_back_dropped.count(usize::from(forgotten));
    }
    Ok(())
}

async fn ask(
    core: &Core,
    tree: TreeId,
    peer: NodeId,
    keys: Vec<(Blob, Vec<(Dot, Stamp)>)>,
) -> Result<DroppedAnswer, String> {
    let request = DroppedRequest { partition: tree.partition, copies: tree.copies, keys };
    match core.peers.request(peer, Request::Dropped(request), By::itself(PATIENCE)).await {
        Ok(Reply::Dropped(answer)) => Ok(answer),
        Ok(other) => Err(unexpected(other).why),
        Err(error) => Err(error.why),
    }
}
