//! Who owns data, as this node takes part in it: it works by the latest layout it has heard of, votes on the next, fetches
//! what it is to own, and drops what it owns no more.
//!
//! `propose` has a layout agreed on, `lead` carries a change through its stages, `join` asks for this node's own share,
//! `copy` fetches, `shed` drops. What a layout means, and when a change goes on, is [`crate::layout`]'s to say.

mod copy;
mod impose;
mod join;
mod kept;
mod lead;
mod orphans;
mod progress;
mod propose;
mod shed;
pub(crate) mod tasks;

pub use join::Joining;
pub(crate) use propose::ProposeError;
pub(crate) use propose::carry_out;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::hash::ClusterHash;
use crate::layout::{Ballot, Layout, Obstacle, Prepared, Refusal, Report, Vote};
use crate::node::ask::By;
use crate::node::core::Core;
use crate::node::ownership::kept::{Files, KeptLayout, Turn};
use crate::node::ownership::progress::Work;
use crate::node::ownership::tasks::Tasks;
use crate::node::peers::{PeerError, unexpected};
use crate::swim::ClusterState;
use crate::types::{Epoch, NodeId, NodeName};
use crate::view::ClusterView;
use crate::wire::layout::{LayoutReply, LayoutRequest, Shown};
use crate::wire::rpc::{ClusterInfo, Reply, Request, ServeError};

/// For how long a node that lost its votes gives none: whatever it may have voted on is decided or given up by then.
const ABSTINENCE: Duration = Duration::from_secs(30);

/// This node's part in who owns data.
#[derive(Debug)]
pub(crate) struct Ownership {
    state: Mutex<State>,
    files: Files,
    /// Held while votes and layouts are written, so that they are written in their order.
    writing: Arc<tokio::sync::Mutex<()>>,
    /// How far this node is with fetching what it is to own.
    pub(crate) copying: Work,
    /// How far it is with dropping what it owns no more.
    shedding: Work,
    /// What administrators see and hold of it.
    pub(crate) tasks: Tasks,
    /// There is a new layout, or a reason to look for one.
    pub(crate) news: Notify,
    /// A task was paused or goes on.
    held: Notify,
}

#[derive(Debug, Default)]
struct State {
    vote: Vote,
    /// Requests of coordinators that work by an earlier version are refused.
    floor: u64,
    confirmed: u64,
    copied: u64,
    /// The life of the storage that what was copied is in.
    copied_in: Option<Epoch>,
    /// Whether this node has had a role at any time: if it has none now, it was taken away.
    was_member: bool,
    abstains_until: Option<Instant>,
    obstacles: Vec<Obstacle>,
    /// When this node heard of the change under way, in milliseconds since the Unix epoch; 0 when it was before its start.
    change_began_ms: u64,
    /// The version of the layout by which this node holds nothing any more that it does not own.
    shed: u64,
}

impl Ownership {
    /// Reads what is kept in a data directory, if one is used. Returns the layout that was known last, too. `told` is what the
    /// cluster says of itself to a node that has nothing.
    pub(crate) fn open(data_dir: Option<&Path>, told: &ClusterInfo) -> io::Result<(Self, Option<Layout>)> {
        let (files, layout, vote) = Files::open(data_dir)?;
        let mut state = State::default();
        if let Some(kept) = &layout {
            state.was_member = kept.was_member;
            (state.floor, state.copied, state.copied_in) = (kept.layout.version, kept.copied, kept.copied_in);
        }
        let had_a_vote = told.layout.version > 0 && told.layout.current.has(&told.node);
        if vote.is_none() && (had_a_vote || layout.as_ref().is_some_and(|kept| kept.layout.version > 0)) {
            state.abstains_until = Some(Instant::now() + ABSTINENCE);
        }
        state.vote = vote.unwrap_or_default();
        let (state, writing) = (Mutex::new(state), Arc::default());
        let (copying, shedding) = (Work::default(), Work::default());
        let tasks = Tasks::open(data_dir)?;
        let ownership =
            Self { state, files, writing, copying, shedding, tasks, news: Notify::new(), held: Notify::new() };
        Ok((ownership, layout.map(|kept| kept.layout)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses a coordinator that works by a layout from before the one that this node has confirmed.
    pub(crate) fn check(&self, works_by: Option<u64>) -> Result<(), ServeError> {
        let floor = self.state().floor;
        match works_by {
            Some(version) if version < floor => Err(ServeError::OldLayout(floor)),
            _ => Ok(()),
        }
    }

    /// Whether this node holds nothing any more that it owned before this layout and does not own by it.
    pub(crate) fn has_shed(&self, version: u64) -> bool {
        self.state().shed == version
    }

    /// How far this node has come.
    pub(crate) fn report(&self, core: &Core) -> Report {
        let state = self.state();
        // A storage that has begun another epoch may have lost it.
        let copied = if state.copied_in == Some(core.engine.epoch()) { state.copied } else { 0 };
        Report { adopted: core.view().version(), confirmed: state.confirmed, copied }
    }

    /// The layout, and how this node is with it.
    pub(crate) fn show(&self, core: &Core) -> Shown {
        let report = self.report(core);
        Shown { layout: core.view().layout().clone(), report, obstacles: self.state().obstacles.clone() }
    }

    /// This node's part in owning data.
    pub(crate) fn part(&self, core: &Core) -> ClusterState {
        let (view, own) = (core.view(), core.own_name());
        let state = self.state();
        let before = match (state.was_member, state.shed == view.version()) {
            (false, _) => ClusterState::Joining,
            (true, false) => ClusterState::Leaving,
            (true, true) => ClusterState::Removed,
        };
        part(view.layout(), &own, before)
    }

    fn note_obstacles(&self, obstacles: Vec<Obstacle>) {
        self.state().obstacles = obstacles;
    }

    /// Works by this layout from now on, if it is later than the one it works by.
    pub(crate) async fn adopt(&self, core: &Core, layout: Layout) -> Result<(), ServeError> {
        if !layout.is_sound() {
            return Err(ServeError::Invalid("this is no layout of a cluster".to_owned()));
        }
        let turn = self.writing.clone().lock_owned().await;
        if layout.version <= core.view().version() {
            return Ok(());
        }
        let (own, before) = (core.own_name(), core.view());
        let (was_member, copied, copied_in) = {
            let mut state = self.state();
            state.was_member |= layout.members().contains_key(&own) || before.layout().members().contains_key(&own);
            // Perhaps a node that lost its disk, and with it a vote on the layout after this one: one that was running when
            // the first layout came has no such vote, nor has one that has just got its share.
            let is_late = layout.version > 1 || core.started.elapsed() < ABSTINENCE;
            let may_have_voted = layout.current.has(&own);
            if before.version() == 0 && state.vote == Vote::default() && is_late && may_have_voted {
                state.abstains_until = Some(Instant::now() + ABSTINENCE);
            }
            (state.was_member, state.copied, state.copied_in)
        };
        let turn = self.keep_first_vote(core, turn).await?;
        let kept = KeptLayout { layout: layout.clone(), was_member, copied, copied_in };
        let turn = self.files.keep(kept, turn, &core.rest).await?;
        let (version, stage) = (layout.version, layout.stage());
        let ended = tasks::ended_by(core, before.layout(), &layout);
        let began = |layout: &Layout| layout.next.as_ref().map(|next| next.since);
        if began(&layout) != began(before.layout()) {
            self.state().change_began_ms = core.rest.wall_ms();
        }
        core.adopt_layout(layout).map_err(|error| ServeError::Invalid(error.to_string()))?;
        drop(turn);
        if !ended.is_empty() {
            self.tasks.end(core, ended).await;
        }
        tracing::info!(version, stage = stage.map_or("settled", |stage| stage.as_str()), "working by a new layout");
        self.note_obstacles(Vec::new());
        self.news.notify_one();
        Ok(())
    }

    /// Writes down that this node has not voted yet, before there is a layout on disk: one without a vote is taken for a vote that
    /// was lost.
    async fn keep_first_vote(&self, core: &Core, turn: Turn) -> Result<Turn, ServeError> {
        let first = {
            let state = self.state();
            (state.vote == Vote::default() && state.abstains_until.is_none()).then(Vote::default)
        };
        match first {
            Some(vote) => self.files.keep_vote(vote, turn, &core.rest).await,
            None => Ok(turn),
        }
    }

    /// Refuses coordinators that work by an earlier layout, and waits until this one has ended all that it began by one.
    pub(crate) async fn confirm(&self, core: &Core, version: u64) -> Result<Report, ServeError> {
        let known = core.view().version();
        if known < version {
            return Err(ServeError::Unavailable(format!("knows the layout of version {known} only, not {version}")));
        }
        {
            let mut state = self.state();
            state.floor = state.floor.max(version);
        }
        core.by_layout.settled().await;
        {
            let mut state = self.state();
            state.confirmed = state.confirmed.max(version);
        }
        Ok(self.report(core))
    }

    /// All that this node is to own by this version is here, in this life of its storage.
    async fn note_copied(&self, core: &Core, copied: u64, epoch: Epoch) -> Result<(), ServeError> {
        let copied_in = Some(epoch);
        let turn = self.writing.clone().lock_owned().await;
        let was_member = self.state().was_member;
        let layout = core.view().layout().clone();
        let kept = KeptLayout { layout, was_member, copied, copied_in };
        let _turn = self.files.keep(kept, turn, &core.rest).await?;
        let mut state = self.state();
        (state.copied, state.copied_in) = (copied, copied_in);
        Ok(())
    }

    /// Changes this node's vote; it is on disk when this returns.
    async fn vote<T>(
        &self,
        core: &Core,
        change: impl FnOnce(&mut Vote, &Layout) -> Result<T, Refusal>,
    ) -> Result<Result<T, Refusal>, ServeError> {
        let turn = self.writing.clone().lock_owned().await;
        let view = core.view();
        let mut vote = {
            let state = self.state();
            if state.abstains_until.is_some_and(|until| Instant::now() < until) {
                return Err(ServeError::Unavailable("has lost its votes and gives none for 30 seconds".to_owned()));
            }
            state.vote.clone()
        };
        if !view.layout().voters().any(|name| *name == core.own_name()) {
            return Err(ServeError::Forbidden("owns no data, or is given up, so has no vote on the layout".to_owned()));
        }
        let outcome = change(&mut vote, view.layout());
        if outcome.is_ok() {
            let _turn = self.files.keep_vote(vote.clone(), turn, &core.rest).await?;
            self.state().vote = vote;
        }
        Ok(outcome)
    }

    async fn prepare(
        &self,
        core: &Core,
        version: u64,
        ballot: Ballot,
    ) -> Result<Result<Prepared, Refusal>, ServeError> {
        self.vote(core, |vote, known| vote.prepare(known, version, ballot)).await
    }

    async fn accept(&self, core: &Core, ballot: Ballot, layout: Layout) -> Result<Result<(), Refusal>, ServeError> {
        if !layout.is_sound() {
            return Err(ServeError::Invalid("this is no layout of a cluster".to_owned()));
        }
        self.vote(core, |vote, known| vote.accept(known, ballot, layout)).await
    }
}

/// The part of a node in owning data; of one without a role, what it says itself.
pub(crate) fn part(layout: &Layout, name: &NodeName, said: ClusterState) -> ClusterState {
    let next = layout.next.as_ref().map(|next| next.placement.has(name));
    match (layout.current.has(name), next) {
        (true, None | Some(true)) => ClusterState::Active,
        (true, Some(false)) => ClusterState::Leaving,
        (false, Some(true)) => ClusterState::Joining,
        // It was removed while it was away, and has not heard of it.
        (false, _) if said == ClusterState::Active => ClusterState::Removed,
        (false, _) => said,
    }
}

/// Waits until there is another view than this one, or a task was paused or goes on, but no longer than that.
async fn news(core: &Core, view: &ClusterView, patience: Duration) {
    let held = core.ownership.held.notified();
    let news = async {
        tokio::select! {
            biased;
            _ = core.views.other_than(view.digest()) => {}
            () = held => {}
        }
    };
    tokio::select! {
        biased;
        () = news => {}
        () = core.rest.beat(patience) => {}
    }
}

/// Starts what works on ownership in the background.
pub(crate) fn start(core: &Arc<Core>, joining: Option<Joining>) {
    core.rest.spawn("ownership/lead", lead::run(core.clone()));
    core.rest.spawn("ownership/copy", copy::run(core.clone()));
    core.rest.spawn("ownership/shed", shed::run(core.clone()));
    if let Some(joining) = joining {
        core.rest.spawn("ownership/join", join::run(core.clone(), joining));
    }
}

/// Answers a question or order about the layout. Who may ask what is checked before.
pub(crate) async fn serve(core: &Arc<Core>, request: LayoutRequest, until: Instant) -> Result<LayoutReply, ServeError> {
    let ownership = &core.ownership;
    let refused = LayoutReply::Refused;
    Ok(match request {
        LayoutRequest::Show => LayoutReply::Show(Box::new(ownership.show(core))),
        LayoutRequest::Tell(layout) => {
            ownership.adopt(core, *layout).await?;
            LayoutReply::Report(ownership.report(core))
        }
        LayoutRequest::Confirm(version) => LayoutReply::Report(ownership.confirm(core, version).await?),
        LayoutRequest::Prepare { version, ballot } => {
            ownership.prepare(core, version, ballot).await?.map_or_else(refused, LayoutReply::Prepared)
        }
        LayoutRequest::Accept { ballot, layout } => {
            ownership.accept(core, ballot, *layout).await?.map_or_else(refused, |()| LayoutReply::Accepted)
        }
        LayoutRequest::Change(order) => match carry_out(core, &order, until).await {
            Ok(layout) => LayoutReply::Changed(Box::new(layout)),
            Err(ProposeError::Impossible(error)) => LayoutReply::Impossible(error),
            Err(ProposeError::Undecided(why)) => return Err(ServeError::Unavailable(why)),
        },
    })
}

/// Asks another node about the layout.
async fn ask(
    core: &Core,
    name: &NodeName,
    request: LayoutRequest,
    patience: Duration,
) -> Result<LayoutReply, PeerError> {
    ask_node(core, ClusterHash::node_id(name), request, patience).await
}

async fn ask_node(
    core: &Core,
    node: NodeId,
    request: LayoutRequest,
    patience: Duration,
) -> Result<LayoutReply, PeerError> {
    match core.peers.request(node, Request::Layout(request), By::itself(patience)).await? {
        Reply::Layout(reply) => Ok(reply),
        other => Err(unexpected(other)),
    }
}
