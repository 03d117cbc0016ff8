//! Carrying a change through its stages: the member that owns data and is up with the lowest identifier asks all the
//! others how far they are, and has the next stage agreed on. Two that think so do no harm. Every node also asks now and
//! then whether there is a layout it has not heard of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rand::RngExt;
use tokio::time::{Instant, sleep};

use crate::hash::ClusterHash;
use crate::layout::{self, ChangeError, Layout, Obstacle, Progress, Report, Watch};
use crate::node::core::Core;
use crate::node::ownership::{ask, ask_node, copy, propose};
use crate::types::{Consistency, NodeId, NodeName};
use crate::view::ClusterView;
use crate::wire::layout::{LayoutReply, LayoutRequest};

/// Pause between looks while a change is under way.
const TICK: Duration = Duration::from_millis(250);
/// The same while none is.
const CALM: Duration = Duration::from_secs(10);
/// Longest wait for a report.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest wait for a member to end what it began by an earlier layout.
const CONFIRM_PATIENCE: Duration = Duration::from_secs(15);
/// Longest wait for an agreement on the next stage.
const DECIDE_PATIENCE: Duration = Duration::from_secs(10);

/// Until the scope of `core` is stopped.
pub(super) async fn run(core: Arc<Core>) {
    tokio::select! {
        biased;
        () = core.rest.stopped() => {}
        () = lead_on(&core) => {}
    }
}

async fn lead_on(core: &Arc<Core>) {
    let mut leader = Leader::default();
    // Somebody may have decided something while this node was away.
    sleep(TICK).await;
    let mut heard = None;
    loop {
        let calm = leader.step(core).await;
        let pause = if calm { CALM } else { TICK };
        if calm || heard.is_none_or(|at: Instant| at.elapsed() > PATIENCE) {
            refresh(core).await;
            heard = Some(Instant::now());
        }
        tokio::select! {
            biased;
            () = core.ownership.news.notified() => {}
            () = core.peers.outdated.notified() => heard = None,
            () = sleep(pause) => {}
        }
    }
}

/// Asks another node for its layout. It need not be a member: all that this node knows as members may have left meanwhile.
async fn refresh(core: &Arc<Core>) {
    let others = core.peers.connected();
    if others.is_empty() {
        return;
    }
    let other = others[core.rest.rng("ownership/refresh").random_range(0..others.len())];
    if let Ok(LayoutReply::Show(shown)) = ask_node(core, other, LayoutRequest::Show, PATIENCE).await
        && let Err(error) = core.ownership.adopt(core, shown.layout).await
    {
        tracing::warn!(node = %other, %error, "the layout of a member cannot be used");
    }
}

/// What the leader knows.
#[derive(Default)]
struct Leader {
    /// The version that the reports are about.
    version: u64,
    reports: BTreeMap<NodeName, Report>,
    settled: bool,
}

impl Leader {
    /// Does what is next. Returns whether there is nothing to do for now.
    async fn step(&mut self, core: &Arc<Core>) -> bool {
        let view = core.view();
        let layout = view.layout();
        if layout.version != self.version {
            *self = Self { version: layout.version, ..Self::default() };
        }
        if self.settled || layout.version == 0 {
            return true;
        }
        if first_that_is_up(core, &view) != Some(core.id) {
            return layout.next.is_none();
        }
        self.ask_members(core, layout).await;
        let failed: Vec<NodeName> = view
            .members()
            .iter()
            .filter(|(node, _)| **node != core.id && core.peers.seen(**node).is_failed())
            .map(|(_, member)| member.name.clone())
            .collect();
        let gains = |name: &&NodeName| !copy::gained(ClusterHash::node_id(name), &view).is_empty();
        let gaining = failed.iter().filter(gains).cloned().collect();
        let watch = Watch { reports: self.reports.clone(), failed, gaining };
        match layout::advance(layout, &watch, |down| is_crowd(&view, down)) {
            Progress::Settled => {
                self.settled = true;
                core.ownership.note_obstacles(Vec::new());
            }
            Progress::Confirm(members) => self.have_confirmed(core, layout.version, members).await,
            Progress::Wait(obstacles) => core.ownership.note_obstacles(obstacles),
            Progress::Advance(next) => advance(core, layout, *next).await,
        }
        self.settled
    }

    async fn ask_members(&mut self, core: &Arc<Core>, layout: &Layout) {
        let own = core.own_name();
        let tell = LayoutRequest::Tell(Box::new(layout.clone()));
        let members: Vec<NodeName> =
            layout.members().into_keys().filter(|name| !layout.is_dead(name)).cloned().collect();
        let one = async |name: &NodeName| match ask(core, name, tell.clone(), PATIENCE).await {
            Ok(LayoutReply::Report(report)) => Some(report),
            _ => None,
        };
        let others = members.iter().filter(|name| **name != own);
        let answers = join_all(others.map(async |name| (name.clone(), one(name).await))).await;
        self.reports = answers.into_iter().filter_map(|(name, report)| Some((name, report?))).collect();
        self.reports.insert(own, core.ownership.report(core));
    }

    async fn have_confirmed(&mut self, core: &Arc<Core>, version: u64, members: Vec<NodeName>) {
        let own = core.own_name();
        join_all(members.iter().map(async |name| {
            let outcome = if *name == own {
                core.ownership.confirm(core, version).await.map(drop).map_err(|error| error.to_string())
            } else {
                let answer = ask(core, name, LayoutRequest::Confirm(version), CONFIRM_PATIENCE).await;
                answer.map(drop).map_err(|error| error.why)
            };
            if let Err(error) = outcome {
                tracing::debug!(member = %name, error, "a layout was not confirmed yet");
            }
        }))
        .await;
    }
}

async fn advance(core: &Arc<Core>, from: &Layout, next: Layout) {
    // Made for this layout only; if another was agreed on meanwhile, everything is looked at anew.
    let make = |known: &Layout| if known == from { Ok(next.clone()) } else { Err(ChangeError::Busy) };
    match propose::decide(core, make, Instant::now() + DECIDE_PATIENCE).await {
        Err(propose::ProposeError::Undecided(why)) => {
            tracing::info!(why, "the change of ownership does not get on now; tried again");
            core.ownership.note_obstacles(vec![Obstacle::NoMajority(why)]);
        }
        Err(error) => tracing::debug!(%error, "somebody else has changed the layout meanwhile"),
        Ok(_) => {}
    }
}

/// Who leads.
fn first_that_is_up(core: &Core, view: &ClusterView) -> Option<NodeId> {
    let voters = view.layout().voters().map(ClusterHash::node_id);
    voters.filter(|node| core.is_reachable(*node)).min()
}

/// Whether these members make a quorum among the owners of some partition before the change.
fn is_crowd(view: &ClusterView, down: &[&NodeName]) -> bool {
    if down.is_empty() {
        return false;
    }
    let down: Vec<NodeId> = down.iter().map(|name| ClusterHash::node_id(name)).collect();
    view.namespaces().any(|(name, policy)| {
        let Some(copies) = view.copies(name) else { return false };
        let Some(ring) = view.ring_before(copies) else { return false };
        let answers = |asked: Consistency| asked.within(copies.now).needed(copies.now).map_or(1, usize::from);
        let quorum = answers(policy.r).min(answers(policy.w));
        ring.partitions().iter().any(|partition| {
            let owners = ring.preference_list(partition);
            owners.iter().filter(|owner| down.contains(owner)).count() >= quorum.min(owners.len())
        })
    })
}
