//! Having the next layout agreed on, by the votes of a majority of those who own data in the present one. What others ask
//! for is judged here first.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use rand::RngExt;
use tokio::time::{Instant, sleep, timeout_at};

use crate::hash::ClusterHash;
use crate::layout::{Ballot, Change, ChangeError, Layout, Refusal};
use crate::node::core::Core;
use crate::node::ownership::impose::impose;
use crate::node::ownership::{ask, serve};
use crate::plan::{Facts, Plan, PlanError};
use crate::types::NodeName;
use crate::wire::layout::{ChangeOrder, Despite, LayoutReply, LayoutRequest};

/// Longest wait for one vote.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// Longest pause between two attempts.
const PAUSE: Duration = Duration::from_millis(300);

/// Why there is no agreement.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProposeError {
    /// What is asked for cannot be.
    #[error(transparent)]
    Impossible(#[from] ChangeError),
    /// It is open: it may still be decided, or never.
    #[error("{0}")]
    Undecided(String),
}

/// Has the layout changed as somebody else asks for, unless that is not safe and it is not asked for despite that.
pub(crate) async fn carry_out(core: &Arc<Core>, order: &ChangeOrder, until: Instant) -> Result<Layout, ProposeError> {
    let make = |known: &Layout| {
        core.view().check_change(&order.change)?;
        if order.despite == Despite::Nothing {
            judge(core, &order.change)?;
        }
        order.change.apply(known)
    };
    if order.despite == Despite::NoMajority {
        return impose(core, &order.change, make).await;
    }
    change(core, &order.change, make, until).await
}

/// Has the layout changed by this node itself, which asks for its own share only.
pub(super) async fn join(core: &Arc<Core>, order: &Change, until: Instant) -> Result<Layout, ProposeError> {
    change(core, order, |known| order.apply(known), until).await
}

/// Waits while the change before is being completed.
async fn change(
    core: &Arc<Core>,
    order: &Change,
    make: impl Fn(&Layout) -> Result<Layout, ChangeError>,
    until: Instant,
) -> Result<Layout, ProposeError> {
    let mut given_up = None;
    loop {
        match (decide(core, &make, until).await, given_up.take()) {
            (Err(ProposeError::Impossible(ChangeError::Busy)), before) if Instant::now() + PAUSE < until => {
                given_up = before
            }
            // It was leaving anyhow.
            (Err(ProposeError::Impossible(ChangeError::NotAMember(_))), Some(layout)) => return Ok(layout),
            (outcome, _) => return outcome,
        }
        match decide(core, |known| order.give_up(known), until).await {
            Ok(layout) => given_up = Some(layout),
            Err(ProposeError::Impossible(_)) => sleep(PAUSE).await,
            Err(error) => return Err(error),
        }
    }
}

/// Refuses what `plan` finds dangerous, as the command line does before it asks: others may ask, too.
fn judge(core: &Core, change: &Change) -> Result<(), ChangeError> {
    let view = core.view();
    let answers = |name: &&NodeName| {
        let node = ClusterHash::node_id(name);
        node == core.id || !core.peers.seen(node).is_failed()
    };
    let new = match change {
        Change::Join { name, .. } | Change::Replace { new: name, .. } => Some(name),
        _ => None,
    };
    let alive = view.members().values().map(|member| &member.name).chain(new).filter(answers).cloned().collect();
    // What it takes is not asked for.
    match Plan::of(&view, change, &Facts { alive, rate: 1, ..Facts::default() }) {
        Ok(plan) if plan.dangers.is_empty() => Ok(()),
        Ok(plan) => Err(ChangeError::Unsafe(plan.dangers)),
        Err(PlanError::Change(error)) => Err(error),
        Err(PlanError::View(error)) => Err(ChangeError::Limit(error.to_string())),
    }
}

/// Has the layout agreed on that `make` makes of the present one.
pub(super) async fn decide(
    core: &Arc<Core>,
    make: impl Fn(&Layout) -> Result<Layout, ChangeError>,
    until: Instant,
) -> Result<Layout, ProposeError> {
    let mut rng = core.rest.rng("ownership");
    let (mut highest, mut proposed) = (Ballot::default(), false);
    loop {
        let known = core.view().layout().clone();
        let wanted = match make(&known) {
            Ok(wanted) => wanted,
            // Somebody else may have completed what this node began.
            Err(ChangeError::Nothing(_) | ChangeError::Member(_) | ChangeError::NotAMember(_)) if proposed => {
                return Ok(known);
            }
            Err(error) => return Err(error.into()),
        };
        let mut attempt = Attempt { core, known: &known, highest, missing: BTreeSet::new() };
        let outcome = timeout_at(until, attempt.run(wanted.clone())).await;
        (highest, proposed) = (attempt.highest, true);
        match outcome {
            Ok(Some(decided)) => {
                spread(core, &known, &decided).await;
                if decided == wanted {
                    return Ok(decided);
                }
            }
            Ok(None) if core.view().version() > known.version => {}
            Ok(None) if Instant::now() + PAUSE < until => {
                sleep(PAUSE.mul_f64(rng.random_range(0.1..1.0))).await;
            }
            Ok(None) | Err(_) => {
                let missing: Vec<String> = attempt.missing.iter().map(ToString::to_string).collect();
                let why = format!(
                    "no majority of the {} members with a vote has agreed in time; not heard from: {} (if they are gone for good: `dynamomini cluster remove NODE --without-majority`, see the README)",
                    known.voters().count(),
                    if missing.is_empty() { "nobody in particular".to_owned() } else { missing.join(", ") }
                );
                return Err(ProposeError::Undecided(why));
            }
        }
    }
}

/// One ballot.
struct Attempt<'a> {
    core: &'a Arc<Core>,
    known: &'a Layout,
    highest: Ballot,
    /// Voters that did not answer.
    missing: BTreeSet<NodeName>,
}

impl Attempt<'_> {
    /// The layout that is decided in this ballot; `None` when none is, or a later one is known by now.
    async fn run(&mut self, wanted: Layout) -> Option<Layout> {
        let (version, ballot) = (self.known.version + 1, self.highest.above(self.core.id));
        self.highest = ballot;
        self.missing.clear();
        let mut promises = 0;
        let mut value: Option<(Ballot, Layout)> = None;
        let prepare = LayoutRequest::Prepare { version, ballot };
        for reply in self.ask_all(&prepare, |reply| matches!(reply, LayoutReply::Prepared(_))).await {
            if let LayoutReply::Prepared(prepared) = reply {
                promises += 1;
                value = value.into_iter().chain(prepared.accepted).max_by_key(|(ballot, _)| *ballot);
            }
        }
        if promises < self.majority() {
            return None;
        }
        let layout = value.map_or(wanted, |(_, layout)| layout);
        let accept = LayoutRequest::Accept { ballot, layout: Box::new(layout.clone()) };
        let replies = self.ask_all(&accept, |reply| *reply == LayoutReply::Accepted).await;
        let votes = replies.iter().filter(|reply| **reply == LayoutReply::Accepted).count();
        (votes >= self.majority()).then_some(layout)
    }

    fn majority(&self) -> usize {
        self.known.voters().count() / 2 + 1
    }

    /// Asks all voters until a majority goes along, and heeds what those say who refuse.
    async fn ask_all(
        &mut self,
        request: &LayoutRequest,
        goes_along: impl Fn(&LayoutReply) -> bool,
    ) -> Vec<LayoutReply> {
        let (core, known) = (self.core, self.known);
        let one = async |name: &NodeName| {
            let answer = if *name == core.own_name() {
                serve(core, request.clone(), Instant::now() + PATIENCE).await.map_err(|error| error.to_string())
            } else {
                ask(core, name, request.clone(), PATIENCE).await.map_err(|error| error.why)
            };
            (name.clone(), answer)
        };
        let mut answers: FuturesUnordered<_> = known.voters().map(|name| Box::pin(one(name))).collect();
        let (mut replies, mut along) = (Vec::new(), 0);
        while along < self.majority()
            && let Some((name, answer)) = answers.next().await
        {
            match answer {
                Ok(LayoutReply::Refused(refusal)) => self.heed(&name, refusal).await,
                Ok(reply) => {
                    along += usize::from(goes_along(&reply));
                    replies.push(reply);
                }
                Err(error) => {
                    tracing::debug!(member = %name, error, "no vote on the next layout");
                    self.missing.insert(name);
                }
            }
        }
        replies
    }

    async fn heed(&mut self, name: &NodeName, refusal: Refusal) {
        match refusal {
            Refusal::Promised(ballot) => self.highest = self.highest.max(ballot),
            Refusal::Decided(layout) => {
                if let Err(error) = self.core.ownership.adopt(self.core, *layout).await {
                    tracing::warn!(member = %name, %error, "the layout that a member knows cannot be used");
                }
            }
            Refusal::Behind(_) => tell(self.core, name, self.known).await,
        }
    }
}

/// Goes on by what was decided, and has everybody concerned told of it, without waiting for those that are slow.
pub(super) async fn spread(core: &Arc<Core>, before: &Layout, decided: &Layout) {
    if let Err(error) = core.ownership.adopt(core, decided.clone()).await {
        tracing::warn!(%error, "the layout that was decided cannot be used");
    }
    let mut concerned: BTreeSet<NodeName> = before.members().into_keys().cloned().collect();
    concerned.extend(decided.members().into_keys().cloned());
    concerned.remove(&core.own_name());
    concerned.retain(|name| core.is_reachable(ClusterHash::node_id(name)));
    let (telling, decided) = (core.clone(), decided.clone());
    core.rest.spawn("ownership/tell", async move {
        join_all(concerned.iter().map(|name| tell(&telling, name, &decided))).await;
    });
}

async fn tell(core: &Core, name: &NodeName, layout: &Layout) {
    if let Err(error) = ask(core, name, LayoutRequest::Tell(Box::new(layout.clone())), PATIENCE).await {
        tracing::debug!(member = %name, error = error.why, "a member was not told of the layout; it will ask");
    }
}
