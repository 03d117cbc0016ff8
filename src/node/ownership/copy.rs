//! Fetching what this node is to own, from those who own it: each partition's hash tree is brought together with theirs.
//!
//! Begun anew after whatever broke it off; what is here already is seen by the trees and does not travel again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::sleep;

use crate::hash::ClusterHash;
use crate::layout::Stage;
use crate::limits;
use crate::node::core::Core;
use crate::node::ownership::news;
use crate::node::ownership::{ask, tasks};
use crate::node::sync;
use crate::types::{Copies, NodeId};
use crate::view::ClusterView;
use crate::wire::layout::{LayoutReply, LayoutRequest};
use crate::wire::sync::TreeId;

/// Pause before what was not to be had is asked for again.
const PAUSE: Duration = Duration::from_millis(500);
/// Pause before it is looked again whether what is here of a tree has been read.
const READING: Duration = Duration::from_millis(50);
/// Pause while there is nothing to do.
const CALM: Duration = Duration::from_secs(10);
/// Longest wait for an owner to work by the layout.
const CONFIRM_PATIENCE: Duration = Duration::from_secs(15);

/// Until the scope of `core` is stopped.
pub(super) async fn run(core: Arc<Core>) {
    tokio::select! {
        biased;
        () = core.rest.stopped() => {}
        () = copy_on(&core) => {}
    }
}

async fn copy_on(core: &Arc<Core>) {
    loop {
        let view = core.view();
        let is_due = view.layout().stage() == Some(Stage::Copying)
            && core.ownership.report(core).copied < view.version()
            && view.layout().next.as_ref().is_some_and(|next| next.placement.has(&core.own_name()))
            && !tasks::holds_copying(core);
        let pause = if is_due { if copy(core, &view).await { Duration::ZERO } else { PAUSE } } else { CALM };
        core.ownership.copying.rest();
        news(core, &view, pause).await;
    }
}

/// Fetches all. Returns whether all is here.
async fn copy(core: &Arc<Core>, view: &Arc<ClusterView>) -> bool {
    // What this node was dropping by an earlier layout must be gone before its trees count.
    if let Err(error) = core.ownership.confirm(core, view.version()).await {
        tracing::debug!(%error, "nothing is copied yet");
        return false;
    }
    let epoch = core.engine.epoch();
    let gained = gained(core.id, view);
    let version = view.version();
    let since = view.layout().next.as_ref().map_or(version, |next| next.since);
    core.ownership.copying.begin(since, (version, epoch), core.rest.wall_ms());
    let left = gained.iter().filter(|want| !core.ownership.copying.is_done(version, want.tree)).count();
    core.ownership.copying.expect(left);
    let ready = confirmed_owners(core, view, &gained).await;
    let one = async |want: Gained| {
        let done = fetch(core, view, &want, &ready).await;
        if done {
            core.ownership.copying.done(want.tree);
        }
        done
    };
    let open = gained.into_iter().filter(|want| !core.ownership.copying.is_done(version, want.tree));
    let mut outcomes = std::pin::pin!(stream::iter(open.map(one)).buffer_unordered(limits::COPIES_AT_ONCE));
    let mut all = true;
    while let Some(done) = outcomes.next().await {
        all &= done;
        if core.view().version() != view.version() {
            return false;
        }
    }
    // A storage that was lost meanwhile has to be filled anew.
    if !all || core.engine.epoch() != epoch {
        return false;
    }
    // What was fetched need not be on disk yet.
    if let Err(error) = core.engine.flush().await {
        tracing::warn!(%error, "what was fetched cannot be made safe; tried again");
        return false;
    }
    match core.ownership.note_copied(core, view.version(), epoch).await {
        Ok(()) => {
            tracing::info!(version = view.version(), "all that this node is to own is here");
            true
        }
        Err(error) => {
            tracing::warn!(%error, "that all is here cannot be noted; tried again");
            false
        }
    }
}

/// A tree to fetch.
#[derive(Debug, Clone)]
pub(super) struct Gained {
    tree: TreeId,
    /// The present owners that are not given up, without this node.
    owners: Vec<NodeId>,
    /// With how many of them the tree has to be compared, so that one is among them of each quorum that took a write.
    enough: usize,
}

/// How many trees this node is to own and may lack, while they are still to be fetched.
pub(super) fn wanted(core: &Core) -> usize {
    let view = core.view();
    match view.layout().stage() {
        Some(Stage::Spreading | Stage::Copying) => gained(core.id, &view).len(),
        Some(Stage::Reading) | None => 0,
    }
}

/// What this node is to own and may lack.
///
/// A present owner may lack what N - W of them lack. That is as good for the next quorums as it was for the present ones
/// while N stays: so it fetches only where the number of copies changes.
pub(super) fn gained(own: NodeId, view: &ClusterView) -> Vec<Gained> {
    let dead: BTreeSet<NodeId> = view.layout().dead().map(ClusterHash::node_id).collect();
    let mut gained = Vec::new();
    for copies in view.all_copies() {
        let (Some(now), Some(next)) = (view.ring(copies), view.other_ring(copies)) else { continue };
        let w = least_write_quorum(view, copies);
        for partition in next.owned(own) {
            let before = now.preference_list(partition);
            let owns = before.contains(&own);
            if owns && !copies.is_changing() {
                continue;
            }
            let needed = (before.len() + 1).saturating_sub(w).max(1) - usize::from(owns);
            let others = before.iter().copied().filter(|node| *node != own && !dead.contains(node));
            let owners: Vec<NodeId> = others.collect();
            let enough = needed.min(owners.len());
            if enough > 0 || !owns {
                gained.push(Gained { tree: TreeId { partition, copies }, owners, enough });
            }
        }
    }
    gained
}

/// The least W of the namespaces with so many copies.
fn least_write_quorum(view: &ClusterView, copies: Copies) -> usize {
    let alike = view.namespaces().filter(|(name, _)| view.copies(name) == Some(copies));
    alike.map(|(_, policy)| policy.w.needed(policy.n).map_or(1, usize::from)).min().unwrap_or(1)
}

/// The owners that work by the layout: they refuse writes of coordinators that do not write to this node, too.
async fn confirmed_owners(core: &Arc<Core>, view: &ClusterView, gained: &[Gained]) -> BTreeSet<NodeId> {
    let owners: BTreeSet<NodeId> = gained.iter().flat_map(|want| want.owners.iter().copied()).collect();
    let mut ready = BTreeSet::new();
    for owner in owners {
        let name = view.name_of(owner);
        let told = ask(core, &name, LayoutRequest::Tell(Box::new(view.layout().clone())), CONFIRM_PATIENCE).await;
        let answer = match told {
            Ok(_) => ask(core, &name, LayoutRequest::Confirm(view.version()), CONFIRM_PATIENCE).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(LayoutReply::Report(report)) if report.confirmed >= view.version() => {
                ready.insert(owner);
            }
            Ok(_) => tracing::debug!(%name, "an owner does not work by the layout yet"),
            Err(error) => tracing::debug!(%name, error = error.why, "an owner cannot be copied from now"),
        }
    }
    ready
}

/// Brings a tree together with enough of its owners.
async fn fetch(core: &Arc<Core>, view: &ClusterView, want: &Gained, ready: &BTreeSet<NodeId>) -> bool {
    let is_over = || core.view().version() != view.version() || tasks::holds_copying(core);
    // At a cluster's first change, and after a split, what is here has still to be read.
    while core.root(want.tree).is_none() {
        if is_over() {
            return false;
        }
        sleep(READING).await;
    }
    let mut compared = 0;
    for owner in want.owners.iter().filter(|owner| ready.contains(owner)) {
        if is_over() {
            return false;
        }
        match sync::fetch(core, *owner, want.tree).await {
            Ok(_) => compared += 1,
            Err(error) => {
                tracing::debug!(node = %owner, partition = %want.tree.partition, %error, "not copied yet");
                sleep(PAUSE).await;
            }
        }
    }
    compared >= want.enough
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    use crate::layout::{Layout, Next};
    use crate::types::{Namespace, NamespacePolicy, Partitions};
    use crate::wire::rpc::{ClusterInfo, MemberInfo};

    fn view(nodes: usize, now: u8, next: u8) -> ClusterView {
        let member = |number| MemberInfo {
            name: format!("n{number}").parse().unwrap(),
            quic: format!("n{number}:1"),
            zone: "z".parse().unwrap(),
            weight: 100,
        };
        let mut info = ClusterInfo {
            cluster: "test".parse().unwrap(),
            partitions: Partitions::new(16).unwrap(),
            members: (1..=nodes).map(member).collect(),
            namespaces: vec![(Namespace::default(), NamespacePolicy::default().with_copies(now))],
            node: "n1".parse().unwrap(),
            layout: Layout::default(),
        }
        .founding();
        let mut placement = info.layout.current.clone();
        placement.copies.insert(Namespace::default(), next);
        info.layout.next = Some(Next { since: 1, placement, stage: Stage::Copying, dead: BTreeSet::new() });
        ClusterView::new(info).unwrap()
    }

    /// A write is at W of the present owners, whichever. Once the next ones have fetched, a quorum of them must have it.
    #[test]
    fn whatever_the_numbers_of_copies_no_quorum_of_the_next_owners_lacks_a_write() {
        for (nodes, pair) in [2, 4, 6].into_iter().flat_map(|nodes| (0..25).map(move |pair| (nodes, pair))) {
            let (now, next) = (pair / 5 + 1, pair % 5 + 1);
            let view = view(nodes, now, next);
            let copies = Copies { now, next };
            let (quorum, r) = (usize::from(now / 2 + 1), usize::from(next / 2 + 1));
            let wants = |owner: &NodeId| (*owner, gained(*owner, &view));
            let wants: BTreeMap<NodeId, Vec<Gained>> = view.members().keys().map(wants).collect();
            for partition in view.info().partitions.iter() {
                let before = view.ring(copies).unwrap().preference_list(partition);
                let after = view.other_ring(copies).unwrap().preference_list(partition);
                let may_lack = before.len().saturating_sub(quorum);
                let lacking = after.iter().filter(|owner| {
                    let wanted = wants[*owner].iter().find(|want| want.tree.partition == partition);
                    let compared = wanted.map_or(0, |want| want.enough) + usize::from(before.contains(owner));
                    compared <= may_lack
                });
                let lacking = lacking.count().min(may_lack);
                assert!(r.min(after.len()) > lacking, "{nodes} nodes, {now} to {next}: {before:?} {after:?}");
            }
        }
    }
}
