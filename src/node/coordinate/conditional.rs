//! Conditional puts: the key is reserved at a majority of its owners, each of which checks the condition, before the
//! write begins (see [`crate::node::reservations`] for why two cannot both succeed).
//!
//! Only owners take part: stand-ins are no quorum of a condition.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use rand::{Rng, RngExt};
use tokio::time::{Instant, sleep, timeout_at};

use crate::node::ask::By;
use crate::node::coordinate::{quorum_error, silent};
use crate::node::core::Core;
use crate::node::past;
use crate::node::peers::PeerError;
use crate::node::replica::marker;
use crate::quorum::Miss;
use crate::store::Slot;
use crate::types::{Condition, NodeId, TraceId};
use crate::version::Causality::{After, Equal};
use crate::version::{Context, Siblings};
use crate::wire::rpc::{Reply, Request, ReserveRequest, ServeError, Verb};

/// First pause before a key that another conditional write holds is asked for again; doubled each time, with jitter.
const PAUSE: Duration = Duration::from_millis(5);
/// How long owners are waited for beyond a majority, at least: one that grants too late gets the write by a hint only.
const STRAGGLERS: Duration = Duration::from_millis(5);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// A key that is reserved for one write.
pub(crate) struct Reserved {
    /// What the owners know the write by.
    pub(crate) token: u64,
    /// How many owners must have the write, and how many of the other ones while ownership changes.
    pub(crate) needed: [u8; 2],
    /// Who granted it, this node among them.
    pub(crate) granted: Vec<NodeId>,
    /// What this node's record had seen when the condition was checked here.
    pub(crate) seen: Context,
}

/// Reserves a key at so many owners, and while ownership changes at so many of the other ones, that all find the condition
/// met; tries again while others hold it.
pub(crate) async fn reserve(
    core: &Arc<Core>,
    owners: [&[NodeId]; 2],
    needed: [u8; 2],
    ask: ReserveRequest,
    by: By,
) -> Result<Reserved, ServeError> {
    let mut rng = core.rest.rng("conditional");
    let mut longest = PAUSE;
    loop {
        let ask = ReserveRequest { token: rng.next_u64(), ..ask.clone() };
        let outcome = Round::start(core, owners, ask, by).run(needed).await;
        match outcome {
            Err(Failure::Contended(_)) if Instant::now() + longest < by.deadline => {}
            Err(Failure::Contended(error) | Failure::Final(error)) => return Err(error),
            Ok(reserved) => return Ok(reserved),
        }
        sleep(longest.mul_f64(rng.random_range(0.0..1.0))).await;
        longest = (longest * 2).min(PAUSE_MAX);
    }
}

/// Why a round brought no reservation.
enum Failure {
    /// Another round may.
    Contended(ServeError),
    /// No round will.
    Final(ServeError),
}

type Asked = BoxFuture<'static, (NodeId, Result<Context, Refusal>)>;

/// Why an owner does not grant.
enum Refusal {
    /// The condition does not hold.
    Condition(ServeError),
    /// Another write holds the key.
    Held,
    /// It cannot now.
    Not(PeerError),
}

/// One round of asking all owners.
struct Round<'a> {
    core: &'a Arc<Core>,
    owners: [&'a [NodeId]; 2],
    ask: ReserveRequest,
    by: By,
    asked: FuturesUnordered<Asked>,
    waiting: Vec<NodeId>,
    granted: Vec<NodeId>,
    seen: Option<Context>,
}

impl<'a> Round<'a> {
    fn start(core: &'a Arc<Core>, owners: [&'a [NodeId]; 2], ask: ReserveRequest, by: By) -> Self {
        let asked: FuturesUnordered<Asked> = FuturesUnordered::new();
        let mut waiting = owners.concat();
        waiting.sort_unstable();
        waiting.dedup();
        for &node in &waiting {
            let (core, ask) = (core.clone(), ask.clone());
            asked.push(Box::pin(async move { (node, ask_one(&core, node, ask, by).await) }));
        }
        Self { core, owners, ask, by, asked, waiting, granted: Vec::new(), seen: None }
    }

    /// Waits for enough grants, this node's among them, and a moment longer for the others; what was granted in vain is
    /// released.
    async fn run(mut self, needed: [u8; 2]) -> Result<Reserved, Failure> {
        let (began, deadline) = (Instant::now(), self.by.deadline);
        let (mut missed, mut held, mut until) = (Vec::new(), false, deadline);
        while let Ok(Some((node, answer))) = timeout_at(until, self.asked.next()).await {
            self.waiting.retain(|waiting| *waiting != node);
            match answer {
                Ok(seen) => {
                    self.granted.push(node);
                    if node == self.core.id {
                        self.seen = Some(seen);
                    }
                }
                Err(Refusal::Condition(error)) => {
                    self.release();
                    return Err(Failure::Final(error));
                }
                Err(Refusal::Held) => {
                    held = true;
                    let why = "has promised the key to another conditional write".to_owned();
                    missed.push(Miss { node, why, maybe: false });
                }
                Err(Refusal::Not(error)) => missed.push(Miss { node, why: error.why, maybe: false }),
            }
            if self.is_enough(needed) && until == deadline {
                until = deadline.min(Instant::now() + began.elapsed().max(STRAGGLERS));
            }
        }
        if self.is_enough(needed)
            && let Some(seen) = self.seen.take()
        {
            let (token, granted) = (self.ask.token, std::mem::take(&mut self.granted));
            self.release();
            return Ok(Reserved { token, needed, granted, seen });
        }
        missed.extend(self.waiting.iter().map(|node| silent(*node, false)));
        let error = quorum_error(self.core, Verb::Write, needed[0], self.granted.clone(), &missed, false);
        self.release();
        Err(if held { Failure::Contended(error) } else { Failure::Final(error) })
    }

    fn is_enough(&self, needed: [u8; 2]) -> bool {
        let has_enough = |(owners, needed): (&&[NodeId], u8)| {
            let granted = owners.iter().filter(|owner| self.granted.contains(owner)).count();
            owners.is_empty() || granted >= usize::from(needed)
        };
        self.owners.iter().zip(needed).all(has_enough) && self.seen.is_some()
    }

    /// Takes back what was granted, and what will be, in the background; what is not released lapses.
    fn release(self) {
        let Self { core, ask, by, mut asked, granted, .. } = self;
        let core = core.clone();
        let background = core.clone();
        let release = async move {
            for node in granted {
                release_one(&core, node, &ask, by.trace).await;
            }
            while let Some((node, answer)) = asked.next().await {
                if answer.is_ok() {
                    release_one(&core, node, &ask, by.trace).await;
                }
            }
        };
        if background.finish_later("release", &background.works.begin(), release).is_some() {
            tracing::debug!("no room to release a reservation; it lapses");
        }
    }
}

async fn release_one(core: &Arc<Core>, node: NodeId, ask: &ReserveRequest, trace: TraceId) {
    if node == core.id {
        core.reservations.release(&Slot { bucket: ask.slot.bucket, key: ask.slot.key.0.clone() }, ask.token);
        return;
    }
    let request = Request::Release { slot: ask.slot.clone(), token: ask.token };
    let by = By { trace, ..By::itself(core.timeouts.replica) };
    if let Err(error) = core.peers.request(node, request, by).await {
        tracing::debug!(request = %trace, %node, error = error.why, "a reservation was not released; it lapses");
    }
}

async fn ask_one(core: &Arc<Core>, node: NodeId, ask: ReserveRequest, by: By) -> Result<Context, Refusal> {
    let answer = if node == core.id {
        match past::reads(core, by.deadline).await {
            Ok(_) => grant(core, &ask).await,
            Err(error) => Err(error),
        }
    } else {
        match core.peers.request(node, Request::Reserve(ask), by).await.map_err(Refusal::Not)? {
            Reply::Reserved(granted) => Ok(granted),
            Reply::Error(error) => Err(error),
            _ => Err(ServeError::Unavailable("sent a reply of the wrong kind".to_owned())),
        }
    };
    match answer {
        Ok(granted) => granted.ok_or(Refusal::Held),
        Err(error @ ServeError::Condition(_)) => Err(Refusal::Condition(error)),
        Err(other) => Err(Refusal::Not(other.into())),
    }
}

/// Reserves a key here if its condition holds here; returns what this replica's record has seen. `None` while another
/// write holds it.
pub(crate) async fn grant(core: &Core, ask: &ReserveRequest) -> Result<Option<Context>, ServeError> {
    let slot = core.slot_of(ask.slot.clone())?;
    // First the reservation, then the look: what was written under an earlier one is seen.
    if !core.reservations.reserve(&slot, ask.token, Duration::from_millis(ask.lease_ms))? {
        return Ok(None);
    }
    let checked = check(core, &slot, ask).await;
    if checked.is_err() {
        core.reservations.release(&slot, ask.token);
    }
    checked.map(Some)
}

/// Refuses a condition that names what was read, where nothing is here and records were dropped before: the record may have
/// been deleted since it was read, and its tombstone be forgotten.
async fn check_forgotten(core: &Core, ask: &ReserveRequest) -> Result<(), ServeError> {
    let names_nothing = ask.seen.is_empty() && ask.after.is_empty();
    if ask.condition != Condition::IfCurrent || names_nothing {
        return Ok(());
    }
    match core.replica.fetch(vec![marker::floor_slot(core.id)]).await?.pop().flatten() {
        None => Ok(()),
        Some(_) => Err(ServeError::Unavailable(
            "nothing is stored here of a key that was read: it may have been deleted since; read it again".to_owned(),
        )),
    }
}

async fn check(core: &Core, slot: &Slot, ask: &ReserveRequest) -> Result<Context, ServeError> {
    let record = core.replica.fetch(vec![slot.clone()]).await?.pop().flatten();
    let state = match record {
        None => {
            check_forgotten(core, ask).await?;
            Siblings::new()
        }
        Some(record) => core.replica.decode(&core.hash, &slot.key, &record)?,
    };
    let met = match ask.condition {
        Condition::IfAbsent => state.live(core.rest.wall_ms()).next().is_none(),
        Condition::IfCurrent => {
            let gone = state.versions().is_empty() && !matches!(ask.seen.compare(state.context()), After | Equal);
            !gone && state.unseen(&ask.seen, &ask.after).next().is_none()
        }
    };
    // An earlier attempt at this very write is no reason against it, nor is what came after it.
    let met = met || state.has_done(ask.request);
    if met {
        return Ok(state.context().clone());
    }
    Err(ServeError::Condition(match ask.condition {
        Condition::IfAbsent => "the key exists: the write was to be done only if it does not".to_owned(),
        Condition::IfCurrent => "the key was written since it was read: read it again".to_owned(),
    }))
}
