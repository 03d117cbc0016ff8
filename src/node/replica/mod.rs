//! The only door into the storage: one loop that writes, one that reads.
//!
//! The write loop takes what is waiting, reads the records concerned, decides in memory ([`batch`]), and stores the
//! result as one atomic batch. So the read-merge-write of a key is never interleaved with another, storage is asked in
//! batches, and no lock is needed. Coordinated puts, replicated puts, read repair and hints all come through here.

pub(crate) mod batch;
pub(crate) mod forgotten;
pub(crate) mod marker;
mod op;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::Instrument;

use crate::env::Env;
use crate::hash::ClusterHash;
use crate::limits;
use crate::node::meters::{Call, Meters, Stage};
use crate::node::past::Past;
use crate::node::replica::batch::{Minter, Outcome, Plan};
use crate::node::replica::forgotten::{Forgotten, decode_floor};
pub(crate) use crate::node::replica::op::{Apply, Forget, HintDone, Mint, Minted, Reap, Step};
use crate::node::replica::op::{Op, ReplyTo};
use crate::node::timeouts::millis;
use crate::node::trees::Trees;
use crate::record::{self, RecordError};
use crate::store::{Engine, Mutation, Slot, StoreError};
use crate::types::{Epoch, NodeId, PartitionId};
use crate::version::{Clock, Dot, Siblings};
use crate::wire::rpc::ServeError;

/// Bytes one storage batch may hold beyond its first operation.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Places one storage batch may touch beyond its last operation.
const SLOTS_MAX: usize = limits::STORE_CALL_MAX - limits::REPLICAS_MAX - 2;
/// How often other tasks get a turn before a batch is closed that is not full.
const GATHERING_TURNS: usize = 3;
/// How often a batch is tried anew because the storage lost its epoch meanwhile.
const EPOCH_TRIES: usize = 3;

/// A handle on this node's storage. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Replica {
    writes: mpsc::Sender<Write>,
    reads: mpsc::Sender<Read>,
    meters: Arc<Meters>,
    trees: Arc<Trees>,
}

/// A write that waits.
struct Write {
    op: Op,
    since: Instant,
}

/// A read of some records.
struct Read {
    slots: Vec<Slot>,
    since: Instant,
    /// When nobody waits for it any more, if that is known.
    until: Option<Instant>,
    reply: ReplyTo<Vec<Option<Bytes>>>,
}

impl Replica {
    /// Starts both loops in the scope of `env`; they end, once it is stopped, after what was asked before.
    pub(crate) fn start(
        engine: Engine,
        identity: (ClusterHash, NodeId),
        drift: Duration,
        meters: Arc<Meters>,
        (trees, past): (Arc<Trees>, Arc<Past>),
        env: &Env,
    ) -> Self {
        let (hash, node) = identity;
        let (writes, inbox) = mpsc::channel(limits::REPLICA_QUEUE_MAX);
        let (reads, reading) = mpsc::channel(limits::REPLICA_QUEUE_MAX);
        let drift_ms = millis(drift);
        let clock = Clock::new(drift_ms);
        let writer = Writer {
            engine: engine.clone(),
            hash,
            node,
            clock,
            env: env.clone(),
            meters: meters.clone(),
            trees: trees.clone(),
            past,
            forgotten: Forgotten::default(),
            floor_known: false,
            unsynced: false,
        };
        env.spawn("replica-writes", writer.run(inbox));
        env.spawn("replica-reads", serve_reads(engine, reading, meters.clone(), env.clone()));
        Self { writes, reads, meters, trees }
    }

    /// Writes and reads that wait.
    pub(crate) fn waiting(&self) -> [usize; 2] {
        let length = |capacity: usize| limits::REPLICA_QUEUE_MAX - capacity.min(limits::REPLICA_QUEUE_MAX);
        [length(self.writes.capacity()), length(self.reads.capacity())]
    }

    /// Names and stores a new version.
    pub(crate) async fn mint(&self, mint: Mint) -> Result<Minted, ServeError> {
        self.ask(|reply| Op::Mint(mint, reply)).await
    }

    /// Merges a record.
    pub(crate) async fn apply(&self, apply: Apply) -> Result<(), ServeError> {
        self.ask(|reply| Op::Apply(apply, reply)).await
    }

    /// Makes markers or marks, at these places, for a record that is here.
    pub(crate) async fn hint(&self, slot: Slot, hints: Vec<Slot>) -> Result<(), ServeError> {
        self.ask(|reply| Op::Hint(slot, hints, reply)).await
    }

    /// Forgets a hint that was delivered.
    pub(crate) async fn hint_done(&self, done: HintDone) -> Result<(), ServeError> {
        self.ask(|reply| Op::HintDone(done, reply)).await
    }

    /// Takes a step towards dropping a dead record; false where it is not as it must be.
    pub(crate) async fn reap(&self, reap: Reap) -> Result<bool, ServeError> {
        self.ask(|reply| Op::Reap(reap, reply)).await
    }

    /// Removes versions that the other owners have dropped. Returns whether any were here.
    pub(crate) async fn forget(&self, slot: Slot, dots: Vec<Dot>) -> Result<bool, ServeError> {
        self.ask(|reply| Op::Forget(Forget { slot, dots }, reply)).await
    }

    /// The records of these places as stored, unchecked.
    pub(crate) async fn fetch(&self, slots: Vec<Slot>) -> Result<Vec<Option<Bytes>>, ServeError> {
        self.fetch_until(slots, None).await
    }

    /// The same for somebody who waits only so long: what has not begun by then is not done.
    pub(crate) async fn fetch_until(
        &self,
        slots: Vec<Slot>,
        until: Option<Instant>,
    ) -> Result<Vec<Option<Bytes>>, ServeError> {
        let span = tracing::debug_span!("storage_read", keys = slots.len());
        let (reply, answer) = oneshot::channel();
        let read = Read { slots, since: Instant::now(), until, reply };
        let answered = async {
            self.reads.send(read).await.map_err(|_| stopping())?;
            answer.await.map_err(|_| stopping())?
        };
        answered.instrument(span).await
    }

    /// Checks a record that was read. An unreadable one is counted and reported as if the replica could not answer.
    pub(crate) fn verify(&self, hash: &ClusterHash, key: &[u8], record: &Bytes) -> Result<(), ServeError> {
        record::check(hash, key, record).map_err(|error| self.unreadable(key, &error))
    }

    /// Decodes a record that was read, with the same care.
    pub(crate) fn decode(&self, hash: &ClusterHash, key: &[u8], record: &Bytes) -> Result<Siblings, ServeError> {
        record::decode(hash, key, record).map_err(|error| self.unreadable(key, &error))
    }

    fn unreadable(&self, key: &[u8], error: &RecordError) -> ServeError {
        self.note_unreadable(self.trees.partition_of(key), error);
        ServeError::Unavailable(format!("the record stored here cannot be read: {error}"))
    }

    /// Counts and logs a record that cannot be read.
    pub(crate) fn note_unreadable(&self, partition: PartitionId, error: &RecordError) {
        self.meters.records_damaged.one();
        self.trees.suspect(partition);
        tracing::warn!(%partition, %error, "a record cannot be read; the other replicas repair it");
    }

    async fn ask<T>(&self, op: impl FnOnce(ReplyTo<T>) -> Op) -> Result<T, ServeError> {
        let (reply, answer) = oneshot::channel();
        let write = Write { op: op(reply), since: Instant::now() };
        let span = tracing::debug_span!("storage_write", op = write.op.label());
        let killed = || ServeError::Uncertain("the node was stopped in the middle of the write".to_owned());
        let answered = async {
            self.writes.send(write).await.map_err(|_| stopping())?;
            answer.await.map_err(|_| killed())?
        };
        answered.instrument(span).await
    }
}

fn stopping() -> ServeError {
    ServeError::Unavailable("the node is shutting down".to_owned())
}

/// What a storage error means to whoever asked, where nothing was written.
pub(crate) fn storage_error(error: &StoreError) -> ServeError {
    ServeError::Unavailable(format!("storage: {error}"))
}

/// Whether an error leaves it open whether a batch was applied.
pub(crate) fn leaves_open(error: &StoreError) -> bool {
    match error {
        StoreError::Unavailable(_) | StoreError::Timeout(_) | StoreError::Damaged(_) => true,
        StoreError::EpochChanged | StoreError::Full(_) | StoreError::ReadOnly(_) | StoreError::Misuse(_) => false,
    }
}

/// What a storage error means to whoever wrote.
fn write_error(error: &StoreError) -> ServeError {
    if leaves_open(error) { ServeError::Uncertain(format!("storage: {error}")) } else { storage_error(error) }
}

/// The write loop's state.
struct Writer {
    engine: Engine,
    hash: ClusterHash,
    node: NodeId,
    clock: Clock,
    env: Env,
    meters: Arc<Meters>,
    trees: Arc<Trees>,
    past: Arc<Past>,
    forgotten: Forgotten,
    /// Whether the floor was read.
    floor_known: bool,
    /// Whether the last batches may not be on disk.
    unsynced: bool,
}

impl Writer {
    async fn run(mut self, mut inbox: mpsc::Receiver<Write>) {
        let env = self.env.clone();
        while let Some(first) = next(&env, &mut inbox).await {
            let gathered = gather(first, &mut inbox).await;
            let now = Instant::now();
            for write in &gathered {
                self.meters.passed(Stage::WriteQueue, now.saturating_duration_since(write.since));
            }
            let ops: Vec<Op> = gathered.into_iter().map(|write| write.op).collect();
            let span = tracing::debug_span!("write_batch", operations = ops.len());
            self.write(ops).instrument(span).await;
        }
    }

    /// Decides and stores one batch, then tells everyone.
    async fn write(&mut self, mut ops: Vec<Op>) {
        // A put whose coordinator has given up already would be a version that nobody spreads.
        ops.retain(|op| !op.is_abandoned());
        self.meters.store_batches.one();
        self.meters.store_operations.count(ops.len());
        let mut result = Ok(None);
        for _ in 0..EPOCH_TRIES {
            result = self.try_write(&ops).await;
            if !matches!(result, Ok(None)) {
                break;
            }
            self.meters.epoch_retries.one();
        }
        let error = match result {
            Ok(Some(plan)) => return answer(ops, plan),
            Ok(None) => storage_error(&StoreError::EpochChanged),
            Err(error) => error,
        };
        ops.into_iter().for_each(|op| refuse(op, &error));
    }

    /// Reads the floor, before anything is named. False when the storage lost its epoch meanwhile. From then on it is
    /// kept here: in a storage that went back it may be less, but there the epoch is another.
    async fn read_floor(&mut self) -> Result<bool, ServeError> {
        let epoch = self.engine.epoch();
        let read = match self.engine.get_many(&[marker::floor_slot(self.node)]).await {
            Err(StoreError::EpochChanged) => return Ok(false),
            read => read.map_err(|error| storage_error(&error))?,
        };
        if let Some(stored) = read.into_iter().flatten().next() {
            match decode_floor(&self.hash, &stored) {
                Some(floor) => self.forgotten.raise(floor),
                None => {
                    if self.renew(epoch, "the least count of new versions is damaged").await?.is_none() {
                        return Ok(false);
                    }
                    self.forgotten.raise(1);
                }
            }
        }
        self.floor_known = true;
        Ok(true)
    }

    /// Renews the epoch of a storage that has kept what it holds. `None` when it has begun another one by itself.
    async fn renew(&self, from: Epoch, reason: &str) -> Result<Option<Epoch>, ServeError> {
        match self.past.renew(&self.engine, &self.trees, from, reason).await {
            Ok(epoch) => Ok(Some(epoch)),
            Err(StoreError::EpochChanged) => Ok(None),
            Err(error) => Err(storage_error(&error)),
        }
    }

    /// Decides and stores a batch. `None` when the storage lost its epoch meanwhile: nothing was written.
    async fn try_write(&mut self, ops: &[Op]) -> Result<Option<Plan>, ServeError> {
        if !self.floor_known && !self.read_floor().await? {
            return Ok(None);
        }
        let slots = batch::slots(ops, self.node);
        let mut epoch = self.engine.epoch();
        let began = Instant::now();
        let read = self.engine.get_many(&slots).await;
        self.meters.stored(Call::Read, began.elapsed(), &read);
        let stored = match read {
            Err(StoreError::EpochChanged) => return Ok(None),
            stored => stored.map_err(|error| storage_error(&error))?,
        };
        let stored = batch::decode(&self.hash, &slots, stored);
        let damaged = batch::damaged(&stored);
        if damaged > 0 {
            self.meters.records_damaged.count(damaged);
            tracing::warn!(damaged, "records that cannot be read are overwritten");
            let Some(renewed) = self.renew(epoch, "a damaged record is overwritten").await? else { return Ok(None) };
            epoch = renewed;
        }
        let wall_ms = self.env.wall_ms();
        let (clock, forgotten) = (&mut self.clock, &mut self.forgotten);
        let since_start = self.past.floor();
        let mut minter = Minter { hash: &self.hash, node: self.node, epoch, clock, wall_ms, since_start, forgotten };
        let mut plan = batch::plan(ops, slots, stored, &mut minter);
        let mutations = std::mem::take(&mut plan.mutations);
        let synced = !ops.iter().all(Op::may_be_unsynced);
        if !mutations.is_empty() {
            self.unsynced |= !synced;
            let landing = self.trees.begin(epoch, std::mem::take(&mut plan.changed));
            let written = store(&self.engine, &self.meters, epoch, mutations, synced).await;
            landing.end(&written);
            match written {
                Err(StoreError::EpochChanged) => return Ok(None),
                written => written.map_err(|error| write_error(&error))?,
            }
            self.unsynced = !synced;
        } else if synced && self.unsynced {
            // What is here already, and need not be written, may have come in one of these batches.
            self.engine.flush().await.map_err(|error| write_error(&error))?;
            self.unsynced = false;
        }
        Ok(Some(plan))
    }
}

/// Stores a batch, and counts how long that took.
async fn store(
    engine: &Engine,
    meters: &Meters,
    epoch: Epoch,
    mutations: Vec<Mutation>,
    synced: bool,
) -> Result<(), StoreError> {
    let began = Instant::now();
    let written = match synced {
        true => engine.write(epoch, mutations).await,
        false => engine.write_unsynced(epoch, mutations).await,
    };
    meters.stored(Call::Write, began.elapsed(), &written);
    written
}

/// What goes into one batch with the first operation: whatever else is waiting, also after the tasks that are ready have
/// had their turns. For operations come in bunches, and whoever begins with the first of a bunch lets all others wait
/// for a write, perhaps to disk, that serves one.
async fn gather(first: Write, inbox: &mut mpsc::Receiver<Write>) -> Vec<Write> {
    let (mut weight, mut slots) = (first.op.weight(), first.op.slots());
    let mut writes = vec![first];
    for turn in 0..=GATHERING_TURNS {
        if turn > 0 {
            tokio::task::yield_now().await;
        }
        loop {
            if writes.len() >= limits::STORE_BATCH_MAX || weight >= BATCH_BYTES || slots >= SLOTS_MAX {
                return writes;
            }
            let Ok(write) = inbox.try_recv() else { break };
            weight += write.op.weight();
            slots += write.op.slots();
            writes.push(write);
        }
    }
    writes
}

/// What is asked next. Once the scope is stopped nothing more is taken in; `None` when what was asked before is done.
async fn next<T>(env: &Env, inbox: &mut mpsc::Receiver<T>) -> Option<T> {
    if !inbox.is_closed() {
        tokio::select! {
            biased;
            () = env.stopped() => inbox.close(),
            asked = inbox.recv() => return asked,
        }
    }
    inbox.recv().await
}

/// Tells each operation its outcome.
fn answer(ops: Vec<Op>, mut plan: Plan) {
    let outcomes = std::mem::take(&mut plan.outcomes);
    for (op, outcome) in ops.into_iter().zip(outcomes) {
        match (op, outcome) {
            (Op::Mint(mint, reply), Ok(Outcome::Minted(dot))) => {
                let minted = plan.minted(&mint.slot, dot);
                let minted = minted.ok_or_else(|| ServeError::Internal("a minted version has no record".to_owned()));
                drop(reply.send(minted));
            }
            (Op::Apply(_, reply) | Op::Hint(_, _, reply) | Op::HintDone(_, reply), Ok(Outcome::Done)) => {
                drop(reply.send(Ok(())))
            }
            (Op::Reap(_, reply) | Op::Forget(_, reply), Ok(Outcome::Reaped(done))) => drop(reply.send(Ok(done))),
            (op, Err(error)) => refuse(op, &error),
            (op, Ok(_)) => refuse(op, &ServeError::Internal("an operation has no outcome".to_owned())),
        }
    }
}

fn refuse(op: Op, error: &ServeError) {
    match op {
        Op::Mint(_, reply) => drop(reply.send(Err(error.clone()))),
        Op::Reap(_, reply) | Op::Forget(_, reply) => drop(reply.send(Err(error.clone()))),
        Op::Apply(_, reply) | Op::Hint(_, _, reply) | Op::HintDone(_, reply) => drop(reply.send(Err(error.clone()))),
    }
}

/// Reads whatever is asked for in one go; while one batch is read, the next gathers.
async fn serve_reads(engine: Engine, mut inbox: mpsc::Receiver<Read>, meters: Arc<Meters>, env: Env) {
    while let Some(first) = next(&env, &mut inbox).await {
        let now = Instant::now();
        let mut reads = vec![first];
        let mut count = reads[0].slots.len();
        while count < limits::STORE_BATCH_MAX {
            let Ok(read) = inbox.try_recv() else { break };
            count += read.slots.len();
            reads.push(read);
        }
        for read in &reads {
            meters.passed(Stage::ReadQueue, now.saturating_duration_since(read.since));
        }
        let reads = still_wanted(reads, now, &meters);
        if reads.is_empty() {
            continue;
        }
        let slots: Vec<Slot> = reads.iter().flat_map(|read| read.slots.iter().cloned()).collect();
        let span = tracing::debug_span!("read_batch", keys = slots.len());
        let records = read_all(&engine, &slots).instrument(span).await;
        meters.stored(Call::Read, now.elapsed(), &records);
        match records {
            Ok(records) => {
                let mut records = records.into_iter();
                for read in reads {
                    let own = records.by_ref().take(read.slots.len()).collect();
                    drop(read.reply.send(Ok(own)));
                }
            }
            Err(error) => {
                let error = storage_error(&error);
                for read in reads {
                    drop(read.reply.send(Err(error.clone())));
                }
            }
        }
    }
}

/// Those that somebody still waits for; the others are told, if they can be.
fn still_wanted(reads: Vec<Read>, now: Instant, meters: &Meters) -> Vec<Read> {
    let is_wanted = |read: &Read| !read.reply.is_closed() && read.until.is_none_or(|until| now < until);
    if reads.iter().all(is_wanted) {
        return reads;
    }
    let (wanted, others): (Vec<_>, Vec<_>) = reads.into_iter().partition(is_wanted);
    meters.reads_dropped.count(others.len());
    for read in others {
        let late = ServeError::Deadline("the read waited in the replica's queue until nobody wanted it".to_owned());
        drop(read.reply.send(Err(late)));
    }
    wanted
}

async fn read_all(engine: &Engine, slots: &[Slot]) -> Result<Vec<Option<Bytes>>, StoreError> {
    let mut records = Vec::with_capacity(slots.len());
    for chunk in slots.chunks(limits::STORE_CALL_MAX) {
        let mut result = engine.get_many(chunk).await;
        for _ in 1..EPOCH_TRIES {
            if !matches!(result, Err(StoreError::EpochChanged)) {
                break;
            }
            result = engine.get_many(chunk).await;
        }
        records.extend(result?);
    }
    Ok(records)
}
