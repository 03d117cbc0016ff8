//! Coordinating a put: name the version here, send it to the other owners, answer at W, finish the rest in the
//! background.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, timeout_at};

use crate::limits;
use crate::net::Identity;
use crate::node::ask::{Ask, By};
use crate::node::coordinate::conditional::{self, Reserved};
use crate::node::coordinate::{get, needed, policy, quorum_error, ring, silent};
use crate::node::core::{Core, Place, slot_ref};
use crate::node::meters::Stage;
use crate::node::past;
use crate::node::peers::PeerError;
use crate::node::replica::{Mint, Minted};
use crate::node::timeouts::millis;
use crate::quorum::{Miss, PutQuorum, PutStep, Send};
use crate::store::Health;
use crate::types::{Condition, ConflictPolicy, Consistency, Copies, Namespace, NamespacePolicy, NodeId, PartitionId};
use crate::view::ClusterView;
use crate::wire::blob::Blob;
use crate::wire::rpc::{
    self, KeyContext, PutDone, PutItem, PutRequest, ReplicaWrite, Reply, Request, ReserveRequest, ServeError, Verb,
};

/// Writes each item; one outcome each, in order.
pub(crate) async fn put(
    core: &Arc<Core>,
    from: &Identity,
    request: PutRequest,
    ask: Ask<'_>,
) -> Result<Vec<Result<PutDone, ServeError>>, ServeError> {
    if request.items.len() > limits::BATCH_KEYS_MAX {
        let text = format!("{} keys in one request, the limit is {}", request.items.len(), limits::BATCH_KEYS_MAX);
        return Err(ServeError::Limit(text));
    }
    let bytes = |item: &PutItem| item.key.len() + item.value.as_ref().map_or(0, |value| value.len());
    let total: usize = request.items.iter().map(bytes).sum();
    // A single write has limits of its own, with errors that say more.
    if request.items.len() > 1 && total > limits::BATCH_BYTES_MAX {
        let most = limits::BATCH_BYTES_MAX;
        let text = format!("the keys and values of one request hold {total} bytes, the limit is {most}: send fewer");
        return Err(ServeError::Limit(text));
    }
    let view = core.view();
    let policy = policy(&view, &request.namespace)?;
    let copies = view.copies(&request.namespace).unwrap_or(Copies::settled(policy.n));
    let needed = needed_in_both(&view, &request.namespace, policy, request.w)?;
    let sloppy = request.sloppy.unwrap_or(policy.sloppy);
    core.meters.puts.count(request.items.len());
    let forwarded = matches!(from, Identity::Node(_));
    let PutRequest { namespace, items, w, retry, .. } = request;
    let head = PutRequest { namespace, items: Vec::new(), w, sloppy: Some(sloppy), retry };
    let one = Coordination { core, view: &view, policy, copies, needed, sloppy, forwarded, ask, head: &head };
    // Mostly there is one.
    match <[PutItem; 1]>::try_from(items) {
        Ok([item]) => Ok(vec![one.put(item).await]),
        Err(items) => Ok(join_all(items.into_iter().map(|item| one.put(item))).await),
    }
}

/// What the items of one request have in common.
struct Coordination<'a> {
    core: &'a Arc<Core>,
    view: &'a Arc<ClusterView>,
    policy: &'a NamespacePolicy,
    copies: Copies,
    /// Of those whom reads ask, and of the other owners while ownership changes.
    needed: [u8; 2],
    sloppy: bool,
    /// Whether another node sent the request here; it is not sent on again then.
    forwarded: bool,
    ask: Ask<'a>,
    /// The request without its items.
    head: &'a PutRequest,
}

impl Coordination<'_> {
    async fn put(&self, item: PutItem) -> Result<PutDone, ServeError> {
        rpc::check_key(&item.key)?;
        rpc::check_value(item.value.as_ref().map_or(0, |value| value.len()))?;
        let core = self.core;
        let place = core.place(&self.head.namespace, &item.key);
        check_context(&item.context, &place)?;
        let ring = ring(self.view, &self.head.namespace)?;
        let partition = ring.partitions().of(place.position);
        let owners = ring.preference_list(partition);
        let others = self.view.other_owners(self.copies, partition);
        let owner = owners.contains(&core.id);
        if owner {
            past::decided(core, self.ask.deadline).await?;
        }
        // What it has may be old, and what it names would take that along to the others.
        let trusted = |node: NodeId| node != core.id && core.is_reachable(node) && !core.is_catching_up(node);
        if owner && !past::is_whole(core) && owners.iter().any(|owner| trusted(*owner)) {
            return self.forward(item, owners).await;
        }
        if !owner {
            if owners.iter().any(|owner| core.is_reachable(*owner)) || item.condition.is_some() || !self.may_stand_in()
            {
                return self.forward(item, owners).await;
            }
            past::decided(core, self.ask.deadline).await?;
            core.meters.stand_ins.one();
        } else if !self.forwarded && self.is_better_elsewhere(owners) {
            return self.forward(item, owners).await;
        }
        if self.head.retry {
            // An earlier attempt may have reached others but not this node: knowing of it keeps it from being
            // written a second time.
            get::learn(core, &place.slot, owners, others, self.ask).await;
        }
        let reserved = match item.condition {
            Some(condition) => Some(self.reserve(condition, &item, &place, owners, others).await?),
            None => None,
        };
        // What the writer knows afterwards is what it had read, and its own write; not what the coordinator has beside.
        let mut known = KeyContext { position: place.position, ..item.context.clone() };
        known.note(item.request);
        let began = Instant::now();
        let minted = {
            let begin = |reserved: &Reserved| core.reservations.begin(place.slot.clone(), reserved.token);
            let _writing = reserved.as_ref().map(begin).transpose()?;
            // While ownership changes, a stand-in may be one of those others itself.
            let lacking = owners.iter().chain(others).copied().filter(|node| !owner && *node != core.id);
            self.mint(self.version(item, &place, reserved.as_ref()), lacking.collect()).await?
        };
        let began = core.passed(self.ask.stages, Stage::PutLocal, began);
        let sloppy = self.sloppy && reserved.is_none();
        let (view, copies) = (self.view.clone(), sloppy.then_some(self.copies));
        let coordinates = !owner && !others.contains(&core.id);
        let stand_ins = StandIns { view, copies, partition, coordinates };
        let takes = |node: NodeId| match &reserved {
            Some(reserved) => reserved.granted.contains(&node),
            None => core.takes_writes(node),
        };
        let needed = reserved.as_ref().map_or(of_both(self.needed, others), |reserved| reserved.needed);
        let begun = PutQuorum::start_in_both(needed, owners, others, takes, || stand_ins.reachable(core));
        let token = reserved.map(|reserved| reserved.token);
        let spread =
            Spread::start(core.clone(), self.ask.until(self.ask.deadline), &place, minted, token, stand_ins, begun);
        self.finish(spread, needed[0], known, began).await
    }

    /// Names and stores a version here, with hints for those that it stands in for.
    async fn mint(&self, mut mint: Mint, stand_in_for: Vec<NodeId>) -> Result<Minted, ServeError> {
        let core = self.core;
        mint.hints = core.hints.places(core, &mint.slot, &stand_in_for);
        let minted = timeout_at(self.ask.deadline, core.replica.mint(mint)).await;
        core.hints.stored(&stand_in_for);
        minted.map_err(|_| {
            ServeError::Deadline("the coordinator's storage is slow; the write may still appear".to_owned())
        })?
    }

    /// The version to be named for an item.
    fn version(&self, item: PutItem, place: &Place, reserved: Option<&Reserved>) -> Mint {
        let expires_at = item.ttl.or(self.policy.ttl).map(|ttl| self.core.rest.wall_ms().saturating_add(millis(ttl)));
        // A delete that names nothing means all that is here: a tombstone beside the values would delete none of them.
        let deletes_all = item.value.is_none() && item.context.is_empty();
        let names_what_it_saw = self.policy.conflict == ConflictPolicy::Siblings && !deletes_all;
        let seen = match (names_what_it_saw, reserved) {
            // What the condition was checked against: the tombstones of a key that has no value.
            (_, Some(reserved)) if item.condition == Some(Condition::IfAbsent) => Some(reserved.seen.clone()),
            (true, _) => Some(item.context.context),
            // Not all that is here by now: what came since the condition was checked is not superseded.
            (false, reserved) => reserved.map(|reserved| reserved.seen.clone()),
        };
        Mint {
            slot: place.slot.clone(),
            seen,
            request: item.request,
            after: item.context.wrote,
            expires_at,
            value: item.value.map(|value| value.0),
            hints: Vec::new(),
        }
    }

    /// Reserves the key at a majority of its owners, which find the condition met.
    async fn reserve(
        &self,
        condition: Condition,
        item: &PutItem,
        place: &Place,
        owners: &[NodeId],
        others: &[NodeId],
    ) -> Result<Reserved, ServeError> {
        let lease = self.ask.deadline.saturating_duration_since(Instant::now());
        let ask = ReserveRequest {
            slot: slot_ref(&place.slot),
            condition,
            seen: item.context.context.clone(),
            after: item.context.wrote.clone(),
            request: item.request,
            token: 0,
            lease_ms: millis(lease),
        };
        // Two majorities of owners share one.
        let majority = |policy: &NamespacePolicy| policy.n / 2 + 1;
        let other = self.view.other_policy(&self.head.namespace);
        let other = other.as_ref().map_or(0, majority);
        let needed = of_both([self.needed[0].max(majority(self.policy)), self.needed[1].max(other)], others);
        let began = Instant::now();
        let reserved =
            conditional::reserve(self.core, [owners, others], needed, ask, self.ask.until(self.ask.deadline)).await;
        self.core.passed(self.ask.stages, Stage::PutReserve, began);
        reserved
    }

    /// Whether this node, which does not own the key, may take it by itself. One without weight keeps nothing.
    fn may_stand_in(&self) -> bool {
        self.sloppy && self.view.members().get(&self.core.id).is_some_and(|member| member.weight > 0)
    }

    /// Waits for the decision, answers, and leaves the rest to the background.
    async fn finish(
        &self,
        mut spread: Spread,
        needed: u8,
        known: KeyContext,
        began: Instant,
    ) -> Result<PutDone, ServeError> {
        let core = self.core;
        let decided = timeout_at(self.ask.deadline, spread.decide()).await;
        let began = core.passed(self.ask.stages, Stage::PutQuorum, began);
        let quorum = &spread.quorum;
        let result = match decided {
            Ok(PutStep::Answer) => Ok(PutDone {
                context: known,
                dot: spread.minted.dot,
                acks: u8::try_from(quorum.acked().count()).unwrap_or(u8::MAX),
            }),
            Ok(_) => Err(quorum_error(core, Verb::Write, needed, quorum.acked(), quorum.missed(), quorum.may_appear())),
            Err(_) => {
                let mut missed = quorum.missed().to_vec();
                missed.extend(quorum.waiting().map(|node| silent(node, true)));
                Err(quorum_error(core, Verb::Write, needed, quorum.acked(), &missed, true))
            }
        };
        if !spread.is_done() {
            // Where there is no room for it, the client waits for the slow replicas: that slows it down.
            if let Some(rest) = core.finish_later("put-rest", self.ask.work, spread.rest()) {
                rest.await;
                core.passed(self.ask.stages, Stage::PutRest, began);
            }
        }
        result
    }

    /// Whether the storage of this owner is known to take no writes, and that of another to take them.
    fn is_better_elsewhere(&self, owners: &[NodeId]) -> bool {
        let sick = !matches!(self.core.engine.health(), Health::Ok | Health::Slow { .. } | Health::LosingData { .. });
        sick && owners.iter().any(|owner| *owner != self.core.id && self.core.takes_writes(*owner))
    }

    /// Hands the write to another owner, and to the next where it certainly was not executed. Where it may have been, only
    /// the client goes on elsewhere: it knows whether it still waits, and this node could bring a write that the client
    /// has replaced since.
    async fn forward(&self, item: PutItem, owners: &[NodeId]) -> Result<PutDone, ServeError> {
        let core = self.core;
        if self.forwarded {
            let text = "this node coordinates no writes of the key now: it catches up, or is no owner and the sender \
                        thought so, since their configurations differ";
            return Err(ServeError::Unavailable(text.to_owned()));
        }
        core.meters.forwarded.one();
        let request = PutRequest { items: vec![item], ..self.head.clone() };
        let mut missed = Vec::new();
        let others = owners.iter().filter(|owner| **owner != core.id);
        let well =
            |owner: &&NodeId| core.peers.is_up(**owner) && core.takes_writes(**owner) && !core.is_catching_up(**owner);
        let (well, rest): (Vec<NodeId>, Vec<NodeId>) = others.partition(well);
        for owner in well.into_iter().chain(rest) {
            let began = Instant::now();
            // Silence must leave the client time for others.
            let by = self.ask.until(began + self.ask.deadline.saturating_duration_since(began) / 2);
            let answer = core.peers.request(owner, Request::Put(request.clone()), by).await;
            core.passed(self.ask.stages, Stage::PutForward, began);
            let PeerError { why, maybe } = match answer {
                Ok(Reply::Put(mut outcomes)) if outcomes.len() == 1 => match outcomes.remove(0) {
                    Err(ServeError::Unavailable(why) | ServeError::Overloaded(why)) => PeerError { why, maybe: false },
                    outcome => return outcome,
                },
                Ok(Reply::Error(ServeError::Unavailable(why) | ServeError::Overloaded(why))) => {
                    PeerError { why, maybe: false }
                }
                Ok(Reply::Error(error)) => return Err(error),
                Ok(_) => PeerError { why: "sent a reply of the wrong kind".to_owned(), maybe: true },
                Err(error) => error,
            };
            missed.push(Miss { node: owner, why, maybe });
            if maybe {
                break;
            }
        }
        let maybe = missed.iter().any(|miss| miss.maybe);
        Err(quorum_error(core, Verb::Write, self.needed[0], [], &missed, maybe))
    }
}

/// How many of those whom reads ask must have a write, and of the other owners while ownership changes: all where what is
/// asked for is above their number of copies.
fn needed_in_both(
    view: &ClusterView,
    namespace: &Namespace,
    policy: &NamespacePolicy,
    asked: Option<Consistency>,
) -> Result<[u8; 2], ServeError> {
    let first = needed(view, policy, Verb::Write, asked)?;
    let Some(other) = view.other_policy(namespace).filter(|other| other.n != policy.n) else { return Ok([first; 2]) };
    Ok([first, needed(view, &other, Verb::Write, asked.map(|asked| asked.within(other.n)))?])
}

/// Where there are no others, since both are the same nodes, the more of both is needed.
fn of_both(needed: [u8; 2], others: &[NodeId]) -> [u8; 2] {
    if others.is_empty() { [needed[0].max(needed[1]); 2] } else { needed }
}

/// Who may take an owner's place, found when it is wanted.
struct StandIns {
    view: Arc<ClusterView>,
    /// The copies of the namespace; `None` when nobody may stand in.
    copies: Option<Copies>,
    partition: PartitionId,
    /// Whether the coordinator itself stands in: it comes first then, since it has the record already.
    coordinates: bool,
}

impl StandIns {
    fn reachable(&self, core: &Core) -> Vec<NodeId> {
        let Some(copies) = self.copies else { return self.coordinates.then_some(core.id).into_iter().collect() };
        let all = self.view.ring(copies).map(|ring| ring.stand_ins(self.partition)).unwrap_or_default();
        let owners = self.view.other_owners(copies, self.partition);
        let free = |node: &NodeId| *node != core.id && !owners.contains(node) && core.takes_writes(*node);
        let others = all.into_iter().filter(free);
        self.coordinates.then_some(core.id).into_iter().chain(others).collect()
    }
}

type Sent = BoxFuture<'static, (NodeId, Result<(), PeerError>)>;

/// A version on its way to its replicas.
struct Spread {
    core: Arc<Core>,
    by: By,
    write: ReplicaWrite,
    minted: Minted,
    place: Place,
    stand_ins: StandIns,
    quorum: PutQuorum,
    sends: FuturesUnordered<Sent>,
    step: PutStep,
}

impl Spread {
    fn start(
        core: Arc<Core>,
        by: By,
        place: &Place,
        minted: Minted,
        reservation: Option<u64>,
        stand_ins: StandIns,
        (quorum, sends): (PutQuorum, Vec<Send>),
    ) -> Self {
        let write = ReplicaWrite {
            slot: slot_ref(&place.slot),
            record: Blob(minted.record.clone()),
            hints: Vec::new(),
            reservation,
        };
        let sending = FuturesUnordered::new();
        let step = PutStep::Wait;
        let mut spread =
            Self { core, by, write, minted, place: place.clone(), stand_ins, quorum, sends: sending, step };
        sends.into_iter().for_each(|send| spread.send(send));
        spread
    }

    fn send(&mut self, send: Send) {
        if send.to == self.core.id {
            // This node has the record already.
            let step = self.quorum.ack(send.to);
            self.note(step);
            return;
        }
        if send.hint.is_some() {
            self.core.meters.stand_ins.one();
        }
        let core = self.core.clone();
        let mut write = self.write.clone();
        write.hints.extend(send.hint);
        let by = By { deadline: Instant::now() + core.timeouts.replica, ..self.by };
        let (slot, dot) = (self.place.slot.clone(), self.minted.dot);
        self.sends.push(Box::pin(async move {
            let outcome = core.peers.apply(send.to, vec![write], by).await;
            let outcome = outcome.and_then(|mut outcomes| match outcomes.pop() {
                Some(outcome) => outcome.map_err(PeerError::from),
                None => Err(PeerError { why: "sent an empty reply".to_owned(), maybe: true }),
            });
            // A stand-in keeps it for a while only.
            if outcome.is_ok() && send.hint.is_none() {
                core.past.witness.took(send.to, &slot, dot);
            }
            (send.to, outcome)
        }));
    }

    /// Goes on until the quorum is met or cannot be met.
    async fn decide(&mut self) -> PutStep {
        while self.step == PutStep::Wait {
            match self.sends.next().await {
                Some((node, outcome)) => self.take(node, outcome),
                None => self.step = PutStep::GiveUp,
            }
        }
        self.step
    }

    fn take(&mut self, node: NodeId, outcome: Result<(), PeerError>) {
        let step = match outcome {
            Ok(()) => self.quorum.ack(node),
            Err(error) => {
                let stand_ins = || self.stand_ins.reachable(&self.core);
                let (step, next) = self.quorum.fail(node, error.why, error.maybe, stand_ins);
                if let Some(send) = next {
                    self.send(send);
                }
                step
            }
        };
        self.note(step);
    }

    /// A decision is made once and stays.
    fn note(&mut self, step: PutStep) {
        if self.step == PutStep::Wait {
            self.step = step;
        }
    }

    /// Whether every replica has answered and every owner is provided for.
    fn is_done(&self) -> bool {
        self.sends.is_empty() && self.quorum.uncovered().is_empty()
    }

    /// Waits for the slow replicas, then keeps hints for the owners that nobody else keeps them for.
    async fn rest(mut self) {
        while let Some((node, outcome)) = self.sends.next().await {
            self.take(node, outcome);
        }
        let targets = self.quorum.uncovered().iter().copied().filter(|owner| *owner != self.core.id).collect();
        self.core.hints.keep(&self.core, self.place.slot, targets).await;
    }
}

/// Refuses a context that was not read from this key: it would supersede versions that nobody has seen.
fn check_context(context: &KeyContext, place: &Place) -> Result<(), ServeError> {
    if context.is_empty() {
        return Ok(());
    }
    if !context.is_valid() {
        return Err(ServeError::Invalid("the causal context is malformed: use one that a read returned".to_owned()));
    }
    if context.position != place.position {
        return Err(ServeError::Invalid("the causal context belongs to another key: read this key first".to_owned()));
    }
    Ok(())
}
