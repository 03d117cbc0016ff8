//! Coordinating a get: the record from the nearest replica and digests from as many others as R asks for; when they
//! differ, records from all of them, merged, and written back to those that were behind.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{self, FuturesUnordered, Stream};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::limits;
use crate::node::ask::{Ask, By};
use crate::node::coordinate::{needed, policy, quorum_error, ring, silent};
use crate::node::core::{Core, Place, slot_ref};
use crate::node::meters::Stage;
use crate::node::past;
use crate::node::peers::PeerError;
use crate::node::replica::Apply;
use crate::quorum::{GetQuorum, GetStep, Miss, Role};
use crate::record;
use crate::ring::Ring;
use crate::store::Slot;
use crate::types::{ConflictPolicy, NamespacePolicy, NodeId, TraceId};
use crate::version::{Siblings, Version};
use crate::wire::blob::Blob;
use crate::wire::rpc::{self, Fetched, GetDone, GetRequest, KeyContext, ReplicaWrite, ServeError, SiblingInfo, Verb};

/// Share of the time left that is spent on learning of an earlier attempt before a write is retried.
const LEARN_SHARE: u32 = 3;
/// How many times as long as the first answers took further ones are waited for, when learning of an earlier attempt.
const STRAGGLER_FACTOR: u32 = 3;
/// How long they are waited for at least; at most the time after which reads are hedged.
const STRAGGLER_GRACE: Duration = Duration::from_millis(5);
/// Keys of one request that are read at the same time.
const AT_ONCE: usize = 16;

/// Reads each key; one outcome each, in order.
pub(crate) async fn get(
    core: &Arc<Core>,
    request: GetRequest,
    ask: Ask<'_>,
) -> Result<Vec<Result<GetDone, ServeError>>, ServeError> {
    if request.keys.len() > limits::BATCH_KEYS_MAX {
        let text = format!("{} keys in one request, the limit is {}", request.keys.len(), limits::BATCH_KEYS_MAX);
        return Err(ServeError::Limit(text));
    }
    let view = core.view();
    let policy = policy(&view, &request.namespace)?;
    let needed = needed(&view, policy, Verb::Read, request.r)?;
    core.meters.gets.count(request.keys.len());
    let read_one = async |key: &Blob| {
        rpc::check_key(key)?;
        let place = core.place(&request.namespace, key);
        let level = Level { needed, strict: request.strict };
        let state = read(core, ring(&view, &request.namespace)?, policy, &place.slot, level, ask).await?;
        Ok(found(policy, &place, &state, core.rest.wall_ms()))
    };
    if let [key] = &request.keys[..] {
        return Ok(vec![read_one(key).await]);
    }
    let reads = stream::iter(request.keys.iter().map(read_one)).buffered(AT_ONCE);
    Ok(within_bounds(reads, request.keys.len()).await)
}

/// Takes the outcomes of several keys until their values are too large for one reply; the rest is neither read nor kept.
/// A single key has limits of its own.
async fn within_bounds(
    reads: impl Stream<Item = Result<GetDone, ServeError>>,
    asked: usize,
) -> Vec<Result<GetDone, ServeError>> {
    let mut reads = std::pin::pin!(reads);
    let mut outcomes = Vec::with_capacity(asked);
    let mut total = 0;
    while let Some(outcome) = reads.next().await {
        let values = outcome.iter().flat_map(|done| &done.siblings);
        total += values.map(|sibling| sibling.value.len()).sum::<usize>();
        if total > limits::BATCH_BYTES_MAX {
            break;
        }
        outcomes.push(outcome);
    }
    outcomes.resize_with(asked, || {
        let most = limits::BATCH_BYTES_MAX;
        Err(ServeError::Limit(format!("the values of one request hold over {most} bytes: ask for fewer")))
    });
    outcomes
}

/// What a client sees of a key's state.
pub(crate) fn found(policy: &NamespacePolicy, place: &Place, state: &Siblings, wall_ms: u64) -> GetDone {
    let info = |version: &Version| SiblingInfo {
        value: Blob(version.value.clone().unwrap_or_default()),
        expires_at: version.expires_at,
        dot: version.dot,
        stamp: version.stamp,
    };
    let siblings = match policy.conflict {
        ConflictPolicy::Siblings => state.live(wall_ms).map(info).collect(),
        ConflictPolicy::LastWriteWins => state.latest(wall_ms).map(info).into_iter().collect(),
    };
    let mut context = KeyContext { position: place.position, context: state.context().clone(), wrote: Vec::new() };
    state.writes_seen().into_iter().for_each(|write| context.note(write));
    GetDone { siblings, context }
}

/// How sure a read is to be.
#[derive(Debug, Clone, Copy)]
struct Level {
    /// Replicas that must answer.
    needed: u8,
    /// Whether so many must hold what is returned before it is.
    strict: bool,
}

/// Reads a key.
async fn read(
    core: &Arc<Core>,
    ring: &Ring,
    policy: &NamespacePolicy,
    slot: &Slot,
    Level { needed, strict }: Level,
    by: Ask<'_>,
) -> Result<Siblings, ServeError> {
    let (candidates, trip) = candidates(core, ring, policy, slot, needed);
    core.read_hedge.began();
    let began = Instant::now();
    let mut fast = Asking::start(core, slot, by, (needed, began, trip), &candidates, false);
    if core.read_hedge.is_far(trip) {
        // This node's own record is not lost on the way, so others need not send theirs.
        let is_own = candidates.first().is_some_and(|(node, _)| *node == core.id);
        fast.ask_another(is_own, began);
    }
    let step = fast.decide().await;
    let began = core.passed(by.stages, Stage::GetQuorum, began);
    match step {
        GetStep::Agreed => {
            if let Some(state) = fast.state() {
                return Ok(state);
            }
        }
        GetStep::Differ(_) => core.meters.digest_mismatches.one(),
        GetStep::Wait | GetStep::GiveUp => return Err(fast.error(needed)),
    }
    // Some replicas differ, or the one that had the record failed: take records from all, those that answered first.
    let answered: Vec<NodeId> = fast.quorum.replies().iter().map(|(node, _)| *node).collect();
    let (mut first, others): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|(node, _)| answered.contains(node));
    first.extend(others);
    let candidates = first;
    let mut full = Asking::start(core, slot, by, (needed, began, trip), &candidates, true);
    let step = full.decide().await;
    core.passed(by.stages, Stage::GetMerge, began);
    match step {
        GetStep::Agreed | GetStep::Differ(_) => {}
        GetStep::Wait | GetStep::GiveUp => return Err(full.error(needed)),
    }
    let state = full.merged();
    let owners = ring.preference_list(core.partition_in(ring, slot));
    if strict {
        full.repair_now(owners, &state, needed).await?;
    } else {
        full.repair_later(owners, &state);
    }
    Ok(state)
}

/// Whom to ask, best first: this node, near owners, owners that were silent of late, stand-ins for owners that are down,
/// owners that are down. And the longest round trip to those of them that are asked first.
fn candidates(
    core: &Core,
    ring: &Ring,
    policy: &NamespacePolicy,
    slot: &Slot,
    needed: u8,
) -> (Vec<(NodeId, Role)>, Duration) {
    let partition = core.partition_in(ring, slot);
    let owners = ring.preference_list(partition);
    let (mut up, mut down) = (Vec::with_capacity(owners.len()), Vec::new());
    for &node in owners {
        match core.read_rank(node) {
            Some(rank) => up.push((rank, node)),
            None => down.push(node),
        }
    }
    up.sort_by_key(|(rank, _)| *rank);
    let first = up.iter().take(usize::from(needed));
    let trip = first.filter_map(|((.., trip), _)| *trip).max().unwrap_or_default();
    let mut candidates: Vec<(NodeId, Role)> = up.into_iter().map(|(_, node)| (node, Role::Owner)).collect();
    if policy.sloppy && !down.is_empty() {
        // For one that catches up nobody stands in: it takes its writes itself.
        let lost = down.iter().filter(|node| !core.is_catching_up(**node)).count();
        let stand_ins = ring.stand_ins(partition).into_iter().filter(|node| core.is_up(*node));
        candidates.extend(stand_ins.take(lost).map(|node| (node, Role::StandIn)));
    }
    candidates.extend(down.into_iter().map(|node| (node, Role::LostOwner)));
    (candidates, trip)
}

/// Merges into this replica what the other owners hold of a key, as far as they answer.
pub(crate) async fn learn(core: &Arc<Core>, slot: &Slot, owners: &[NodeId], others: &[NodeId], by: Ask<'_>) {
    let asked: BTreeSet<NodeId> = owners.iter().chain(others).copied().collect();
    let others: Vec<NodeId> =
        asked.into_iter().filter(|node| *node != core.id && core.peers.is_connected(*node)).collect();
    // One that is silent, perhaps the reason for the retry, must leave time for the write itself.
    let now = Instant::now();
    let patience = (by.deadline.saturating_duration_since(now) / LEARN_SHARE).min(core.timeouts.replica / 2);
    let until = by.until(now + patience);
    let answers = others.iter().map(|node| ask(core.clone(), *node, slot.clone(), false, until));
    let mut answers: FuturesUnordered<_> = answers.collect();
    let mut give_up = now + patience;
    // What is missed is recognised later, by its request id: better a version too many for a while than a long wait.
    while let Ok(Some((node, answer))) = timeout_at(give_up, answers.next()).await {
        let grace = (now.elapsed() * STRAGGLER_FACTOR).max(STRAGGLER_GRACE).min(core.timeouts.hedge);
        give_up = (now + patience).min(Instant::now() + grace);
        match answer {
            Ok(Fetched::Record(record)) => {
                let apply = Apply { slot: slot.clone(), record: record.0, hints: Vec::new(), unsynced: false };
                if let Err(error) = core.replica.apply(apply).await {
                    tracing::debug!(request = %by.trace, %node, %error, "could not learn a record before a retried write");
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(request = %by.trace, %node, error = error.why, "could not ask before a retried write");
            }
        }
    }
    core.passed(by.stages, Stage::PutLearn, now);
}

type Asked = BoxFuture<'static, (NodeId, Result<Fetched, PeerError>)>;

/// A read under way at several replicas.
struct Asking<'a> {
    core: &'a Arc<Core>,
    slot: &'a Slot,
    by: Ask<'a>,
    quorum: GetQuorum,
    began: Instant,
    /// The longest round trip to those that were asked first.
    trip: Duration,
    asked: FuturesUnordered<Asked>,
    /// The records that came, decoded, with their digests.
    records: Vec<(u64, Siblings)>,
}

impl<'a> Asking<'a> {
    /// Asks the first `needed` candidates: all for their records, or, unless `full`, all but one for digests.
    fn start(
        core: &'a Arc<Core>,
        slot: &'a Slot,
        by: Ask<'a>,
        (needed, began, trip): (u8, Instant, Duration),
        candidates: &[(NodeId, Role)],
        full: bool,
    ) -> Self {
        let (quorum, first) = GetQuorum::start(needed, candidates.iter().copied());
        let mut asking =
            Self { core, slot, by, quorum, began, trip, asked: FuturesUnordered::new(), records: Vec::new() };
        for (place, node) in first.into_iter().enumerate() {
            asking.ask(node, !full && place > 0, began);
        }
        asking
    }

    fn ask(&mut self, node: NodeId, digest_only: bool, now: Instant) {
        let by = self.by.until(now + self.core.timeouts.replica);
        self.asked.push(Box::pin(ask(self.core.clone(), node, self.slot.clone(), digest_only, by)));
    }

    /// Goes on until enough have answered or too few can, or until the deadline; asks one more whenever the patience
    /// passes in silence.
    async fn decide(&mut self) -> GetStep {
        let (deadline, hedge) = (self.by.deadline, &self.core.read_hedge);
        let (mut since, mut patience) = (self.began, hedge.patience(self.trip));
        // One timer for both, which is moved.
        let mut silence = std::pin::pin!(sleep_until(deadline.min(since + patience)));
        loop {
            tokio::select! {
                biased;
                answer = self.asked.next() => {
                    let step = match answer {
                        Some((node, answer)) => self.take(node, answer),
                        None => GetStep::GiveUp,
                    };
                    if step != GetStep::Wait {
                        return step;
                    }
                    since = Instant::now();
                }
                () = &mut silence => {
                    if silence.deadline() >= deadline {
                        return GetStep::Wait;
                    }
                    if hedge.may(patience) {
                        since = Instant::now();
                        // The slow one may be the one that was asked for the record.
                        self.ask_another(false, since);
                    }
                    patience = hedge.longest(self.trip);
                }
            }
            silence.as_mut().reset(deadline.min(since + patience));
        }
    }

    /// Asks one replica more than are needed, if there is one left.
    fn ask_another(&mut self, digest_only: bool, now: Instant) {
        if let Some(node) = self.quorum.more() {
            self.core.meters.hedges.one();
            self.ask(node, digest_only, now);
        }
    }

    fn take(&mut self, node: NodeId, answer: Result<Fetched, PeerError>) -> GetStep {
        let digest = match answer {
            Ok(Fetched::Missing) => None,
            Ok(Fetched::Digest(digest)) => Some(digest),
            // A replica whose record cannot be read has not answered: it must not pass for one that has nothing.
            Ok(Fetched::Record(record)) => match record::decode(&self.core.hash, &self.slot.key, &record.0) {
                Ok(state) => {
                    let digest = record::digest(&record);
                    self.records.extend(digest.map(|digest| (digest, state)));
                    digest
                }
                Err(error) => {
                    if node == self.core.id {
                        let partition = self.core.trees.partition_of(&self.slot.key);
                        self.core.replica.note_unreadable(partition, &error);
                    }
                    return self.fail(node, format!("holds a record that cannot be read: {error}"));
                }
            },
            Err(error) => return self.fail(node, error.why),
        };
        self.quorum.reply(node, digest)
    }

    fn fail(&mut self, node: NodeId, why: String) -> GetStep {
        let (step, next) = self.quorum.fail(node, why);
        if let Some(node) = next {
            self.ask(node, false, Instant::now());
        }
        step
    }

    /// The state all agree on. `None` when no record came, though they have one.
    fn state(&mut self) -> Option<Siblings> {
        let Some(digest) = self.quorum.replies().first()?.1 else { return Some(Siblings::new()) };
        let at = self.records.iter().position(|(of, _)| *of == digest)?;
        Some(self.records.swap_remove(at).1)
    }

    /// All that was received, merged.
    fn merged(&self) -> Siblings {
        let mut states = self.records.iter().map(|(_, state)| state);
        let mut merged = states.next().cloned().unwrap_or_default();
        states.for_each(|state| merged.merge(state));
        merged
    }

    /// The merged record, and the owners that answered with less. A stand-in that holds nothing need not hold anything.
    fn behind(&self, owners: &[NodeId], state: &Siblings) -> (Bytes, Vec<NodeId>) {
        let merged = record::encode(&self.core.hash, &self.slot.key, state);
        let digest = record::digest(&merged);
        let behind = self.quorum.replies().iter().filter(|(node, held)| *held != digest && owners.contains(node));
        let behind = behind.map(|(node, _)| *node).collect();
        (merged, behind)
    }

    /// Sends the merged state to the replicas that answered with less, without keeping the reader waiting.
    fn repair_later(&self, owners: &[NodeId], state: &Siblings) {
        let (merged, behind) = self.behind(owners, state);
        if behind.is_empty() {
            return;
        }
        let count = behind.len();
        let repair = repair(self.core.clone(), self.by.trace, self.slot.clone(), merged, behind);
        // Where there is no room for it, the next read repairs.
        if self.core.finish_later("read-repair", self.by.work, repair).is_none() {
            self.core.meters.read_repairs.count(count);
        }
    }

    /// The same before the reader has its answer, which it gets only if enough of those that answered hold it then.
    async fn repair_now(self, owners: &[NodeId], state: &Siblings, needed: u8) -> Result<(), ServeError> {
        let (merged, behind) = self.behind(owners, state);
        let replied: Vec<NodeId> = self.quorum.replies().iter().map(|(node, _)| *node).collect();
        let Self { core, slot, by, .. } = self;
        core.meters.read_repairs.count(behind.len());
        let by = by.until(Instant::now() + core.timeouts.replica);
        let one = async |node: &NodeId| {
            let outcome = repair_one(core, *node, slot, &merged, by).await;
            let why = format!("could not be repaired: {}", outcome.err()?.why);
            Some(Miss { node: *node, why, maybe: false })
        };
        let failed: Vec<Miss> = join_all(behind.iter().map(one)).await.into_iter().flatten().collect();
        let hold = replied.into_iter().filter(|node| failed.iter().all(|miss| miss.node != *node));
        let hold: Vec<NodeId> = hold.collect();
        if hold.len() >= usize::from(needed) {
            return Ok(());
        }
        Err(quorum_error(core, Verb::Read, needed, hold, &failed, false))
    }

    fn error(&self, needed: u8) -> ServeError {
        let got: Vec<NodeId> = self.quorum.replies().iter().map(|(node, _)| *node).collect();
        let mut missed = self.quorum.missed().to_vec();
        missed.extend(self.quorum.waiting().map(|node| silent(node, false)));
        quorum_error(self.core, Verb::Read, needed, got, &missed, false)
    }
}

/// Asks one replica, which may be this node's own.
async fn ask(
    core: Arc<Core>,
    node: NodeId,
    slot: Slot,
    digest_only: bool,
    by: By,
) -> (NodeId, Result<Fetched, PeerError>) {
    let answers = if node == core.id {
        own(&core, slot, digest_only, by).await.map_err(PeerError::from)
    } else {
        let began = Instant::now();
        let answer = core.peers.fetch(node, vec![slot_ref(&slot)], digest_only, by).await;
        if answer.is_ok() {
            core.read_hedge.answered(began.elapsed());
        }
        answer
    };
    let answer = answers.and_then(|mut answers| match answers.pop() {
        Some(answer) => answer.map_err(PeerError::from),
        None => Err(PeerError { why: "sent an empty reply".to_owned(), maybe: false }),
    });
    (node, answer)
}

/// Asks this node's own replica, if it answers reads. A record is checked where it is decoded.
async fn own(
    core: &Core,
    slot: Slot,
    digest_only: bool,
    by: By,
) -> Result<Vec<Result<Fetched, ServeError>>, ServeError> {
    let epoch = past::reads(core, by.deadline).await?;
    let fetched = if digest_only {
        fetch(core, vec![slot], digest_only, by.deadline).await
    } else {
        let fetched = |record: Option<Bytes>| record.map_or(Fetched::Missing, |record| Fetched::Record(Blob(record)));
        let records = core.replica.fetch_until(vec![slot], Some(by.deadline)).await?;
        records.into_iter().map(|record| Ok(fetched(record))).collect()
    };
    past::still_reads(core, epoch).map(|()| fetched)
}

/// What this node's replica holds of these keys, checked, for somebody who waits until then; one outcome each.
pub(crate) async fn fetch(
    core: &Core,
    slots: Vec<Slot>,
    digest_only: bool,
    until: Instant,
) -> Vec<Result<Fetched, ServeError>> {
    let records = match core.replica.fetch_until(slots.clone(), Some(until)).await {
        Ok(records) => records,
        Err(error) => return slots.iter().map(|_| Err(error.clone())).collect(),
    };
    let answer = |(slot, record): (&Slot, Option<Bytes>)| {
        let Some(record) = record else { return Ok(Fetched::Missing) };
        core.replica.verify(&core.hash, &slot.key, &record)?;
        match record::digest(&record) {
            Some(digest) if digest_only => Ok(Fetched::Digest(digest)),
            _ => Ok(Fetched::Record(Blob(record))),
        }
    };
    slots.iter().zip(records).map(answer).collect()
}

/// Writes a merged record to replicas that were behind.
async fn repair(core: Arc<Core>, trace: TraceId, slot: Slot, merged: Bytes, behind: Vec<NodeId>) {
    let by = By { trace, ..By::itself(core.timeouts.replica) };
    for node in behind {
        if let Err(error) = repair_one(&core, node, &slot, &merged, by).await {
            tracing::debug!(request = %trace, %node, error = error.why, "read repair failed; the next read tries again");
        }
    }
}

async fn repair_one(core: &Arc<Core>, node: NodeId, slot: &Slot, merged: &Bytes, by: By) -> Result<(), PeerError> {
    if node == core.id {
        let apply = Apply { slot: slot.clone(), record: merged.clone(), hints: Vec::new(), unsynced: false };
        return core.replica.apply(apply).await.map(drop).map_err(PeerError::from);
    }
    let record = Blob(merged.clone());
    let write = ReplicaWrite { slot: slot_ref(slot), record, hints: Vec::new(), reservation: None };
    let outcomes = core.peers.apply(node, vec![write], by).await?;
    outcomes.into_iter().find_map(Result::err).map_or(Ok(()), |error| Err(PeerError::from(error)))
}
