//! One batch of writes, decided in memory: what was stored and what is asked go in, mutations and outcomes come out.
//!
//! Pure and synchronous. Operations on one key in one batch see each other's effects in order, and each outcome carries
//! the state after the whole batch, which contains what the operation did.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::hash::ClusterHash;
use crate::limits;
use crate::node::past::kept;
use crate::node::replica::forgotten::Forgotten;
use crate::node::replica::marker::{self, Marker};
use crate::node::replica::op::{Apply, Forget, HintDone, Mint, Minted, Op, Reap, Step};
use crate::record::{self, RecordError};
use crate::store::{Mutation, Slot};
use crate::types::{Bucket, Epoch, NodeId};
use crate::version::{Actor, Clock, Context, Dot, NewVersion, Put, Siblings, Stamp};
use crate::wire::rpc::ServeError;

/// Who names versions here, and when.
pub(crate) struct Minter<'a> {
    /// The cluster's hashes.
    pub(crate) hash: &'a ClusterHash,
    /// This node.
    pub(crate) node: NodeId,
    /// The life of its storage.
    pub(crate) epoch: Epoch,
    /// Its clock.
    pub(crate) clock: &'a mut Clock,
    /// The wall clock now, in milliseconds since the Unix epoch.
    pub(crate) wall_ms: u64,
    /// What counts begin above since the node was started.
    pub(crate) since_start: u64,
    /// What it remembers of records that were dropped.
    pub(crate) forgotten: &'a mut Forgotten,
}

/// What one operation came to.
pub(crate) enum Outcome {
    /// A version was named.
    Minted(Dot),
    /// Done.
    Done,
    /// Whether a step towards dropping a record was taken, or something was forgotten.
    Reaped(bool),
}

/// What a batch does to one record, for the hash trees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Changed {
    /// The record's place.
    pub(crate) slot: Slot,
    /// What was there.
    pub(crate) before: Before,
    /// The digest of what will be there.
    pub(crate) after: Option<u64>,
}

/// What was stored at a place before a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Before {
    /// Nothing.
    #[default]
    Nothing,
    /// A record with this digest.
    Digest(u64),
    /// Something that cannot be read.
    Unreadable,
}

/// What a batch came to, before it is stored.
pub(crate) struct Plan {
    /// What to store, all or nothing.
    pub(crate) mutations: Vec<Mutation>,
    /// One outcome for each operation, in order.
    pub(crate) outcomes: Vec<Result<Outcome, ServeError>>,
    /// The records among what is stored.
    pub(crate) changed: Vec<Changed>,
    cells: BTreeMap<Slot, Cell>,
}

impl Plan {
    /// What the coordinator gets for a version it minted.
    pub(crate) fn minted(&self, slot: &Slot, dot: Dot) -> Option<Minted> {
        let cell = self.cells.get(slot)?;
        Some(Minted { dot, record: cell.record.clone()? })
    }
}

/// The state of one record or marker within the batch.
#[derive(Default)]
struct Cell {
    /// The record as it is stored, or as it will be; `None` where nothing is, and while it is to be encoded anew.
    record: Option<Bytes>,
    /// The decoded record.
    state: Option<Siblings>,
    /// Why the stored record must not be touched: a later version of the program wrote it.
    newer: Option<RecordError>,
    /// Whether it has to be written.
    dirty: bool,
    /// Whether it has to be deleted.
    drop: bool,
    /// What is stored, as it was read.
    before: Before,
}

impl Cell {
    /// Whether anything will be there after the batch, as far as it is decided.
    fn is_there(&self) -> bool {
        self.record.is_some() && !self.drop
    }

    fn new(stored: Stored) -> Self {
        let (state, newer) = match stored.state {
            Some(Ok(state)) => (Some(state), None),
            Some(Err(newer @ RecordError::UnknownFormat(_))) => (None, Some(newer)),
            // A damaged record counts as absent and is overwritten.
            Some(Err(RecordError::Damaged | RecordError::Malformed)) | None => (None, None),
        };
        let before = match stored.bytes.as_deref().map(record::digest) {
            None => Before::Nothing,
            Some(Some(digest)) if state.is_some() || newer.is_some() => Before::Digest(digest),
            Some(_) => Before::Unreadable,
        };
        Self { record: stored.bytes, state, newer, before, ..Self::default() }
    }
}

/// The places a batch of this node has to read.
pub(crate) fn slots(ops: &[Op], node: NodeId) -> Vec<Slot> {
    let mut slots = Vec::with_capacity(ops.len());
    for op in ops {
        let (slot, hints): (&Slot, &[Slot]) = match op {
            Op::Mint(mint, _) => (&mint.slot, &mint.hints),
            Op::Apply(apply, _) => (&apply.slot, &apply.hints),
            Op::Hint(slot, hints, _) => (slot, hints),
            Op::Forget(forget, _) => (&forget.slot, &[]),
            Op::Reap(reap, _) => {
                slots.push(reap.frontier(node));
                slots.extend(reap.owners.iter().map(|owner| marker::slot(*owner, &reap.slot)));
                (&reap.slot, &[])
            }
            Op::HintDone(done, _) => {
                let owners = done.drop_with.iter().flatten().chain([&done.target]);
                slots.extend(owners.flat_map(|owner| hints_of(*owner, &done.slot)));
                (&done.slot, &[])
            }
        };
        slots.extend_from_slice(hints);
        if !marker::is_all(slot) {
            slots.push(slot.clone());
        }
    }
    slots.sort_unstable();
    slots.dedup();
    slots
}

/// Where it may be kept in mind that a target lacks a record: its marker, and the mark of its bucket.
fn hints_of(target: NodeId, slot: &Slot) -> [Slot; 2] {
    [slot, &marker::all_of(slot.bucket)].map(|of| marker::slot(target, of))
}

/// What is stored at a place, decoded once.
pub(crate) struct Stored {
    bytes: Option<Bytes>,
    /// The decoded record; `None` for markers and where nothing is.
    state: Option<Result<Siblings, RecordError>>,
}

/// Decodes what was read.
pub(crate) fn decode(hash: &ClusterHash, slots: &[Slot], stored: Vec<Option<Bytes>>) -> Vec<Stored> {
    let decode = |(slot, bytes): (&Slot, Option<Bytes>)| {
        let record = bytes.as_ref().filter(|_| slot.bucket != Bucket::HINTS);
        let state = record.map(|record| record::decode(hash, &slot.key, record));
        Stored { bytes, state }
    };
    slots.iter().zip(stored).map(decode).collect()
}

/// How many of the stored records cannot be read. Overwriting one forgets what this node named in it, so the caller
/// must renew the epoch first.
pub(crate) fn damaged(stored: &[Stored]) -> usize {
    let damaged = |stored: &&Stored| matches!(stored.state, Some(Err(RecordError::Damaged | RecordError::Malformed)));
    stored.iter().filter(damaged).count()
}

/// Decides a batch. `stored` holds what is at each of `slots`.
pub(crate) fn plan(ops: &[Op], slots: Vec<Slot>, stored: Vec<Stored>, minter: &mut Minter<'_>) -> Plan {
    let cells = slots.into_iter().zip(stored).map(|(slot, stored)| (slot, Cell::new(stored)));
    let mut batch = Batch { cells: cells.collect(), minter, forgets: false };
    let outcomes: Vec<_> = ops.iter().map(|op| batch.apply(op)).collect();
    let (mut mutations, mut changed) = (Vec::new(), Vec::new());
    let (mut cells, forgets) = (batch.cells, batch.forgets);
    for (slot, cell) in &mut cells {
        if let (None, Some(state)) = (&cell.record, &cell.state) {
            cell.record = Some(record::encode(minter.hash, &slot.key, state));
        }
    }
    renew_markers(ops, &mut cells, minter.wall_ms);
    // Also where it is stored already: a storage that was flushed under the node has lost it.
    if forgets {
        let slot = marker::floor_slot(minter.node);
        mutations.push(Mutation::Put { slot, value: minter.forgotten.encode_floor(minter.hash) });
    }
    for (slot, cell) in &cells {
        let after = match &cell.record {
            _ if cell.drop => None,
            Some(record) if cell.dirty => Some(record),
            _ => continue,
        };
        mutations.push(match after {
            Some(record) => Mutation::Put { slot: slot.clone(), value: record.clone() },
            None => Mutation::Delete { slot: slot.clone() },
        });
        if slot.bucket != Bucket::HINTS {
            let after = after.and_then(|record| record::digest(record));
            changed.push(Changed { slot: slot.clone(), before: cell.before, after });
        }
    }
    Plan { mutations, outcomes, changed, cells }
}

/// Makes and renews the markers and marks of this batch, now that their records have their final form.
fn renew_markers(ops: &[Op], cells: &mut BTreeMap<Slot, Cell>, wall_ms: u64) {
    for op in ops {
        let (slot, hints) = match op {
            Op::Mint(mint, _) => (&mint.slot, &mint.hints),
            Op::Apply(apply, _) => (&apply.slot, &apply.hints),
            Op::Hint(slot, hints, _) => (slot, hints),
            Op::HintDone(..) | Op::Reap(..) | Op::Forget(..) => continue,
        };
        let Some(cell) = cells.get_mut(slot).filter(|_| !hints.is_empty()) else { continue };
        let Some(digest) = cell.record.as_deref().and_then(record::digest) else { continue };
        // What was to go with a hint that is done in this batch, before or after this one was asked for, stays for this one.
        cell.drop = false;
        for hint in hints {
            let cell = cells.entry(hint.clone()).or_default();
            let before = cell.record.as_deref().filter(|_| !cell.drop).and_then(Marker::decode);
            let made_ms = before.map_or(wall_ms, |before| before.made_ms);
            let is_mark = marker::record_slot(&hint.key).is_some_and(|of| marker::is_all(&of));
            let times = || before.map_or(1, |before| before.digest.wrapping_add(1));
            let digest = if is_mark { times() } else { digest };
            cell.record = Some(Marker { digest, made_ms }.encode());
            (cell.dirty, cell.drop) = (true, false);
        }
    }
}

struct Batch<'a, 'b> {
    cells: BTreeMap<Slot, Cell>,
    minter: &'a mut Minter<'b>,
    /// Whether counts of this node's own dots go with a record.
    forgets: bool,
}

impl Batch<'_, '_> {
    fn apply(&mut self, op: &Op) -> Result<Outcome, ServeError> {
        match op {
            Op::Mint(mint, _) => self.mint(mint).map(Outcome::Minted),
            Op::Apply(apply, _) => self.merge(apply).map(|()| Outcome::Done),
            // The markers themselves are made once the records have their final form.
            Op::Hint(..) => Ok(Outcome::Done),
            Op::HintDone(done, _) => {
                self.hint_done(done);
                Ok(Outcome::Done)
            }
            Op::Reap(reap, _) => Ok(Outcome::Reaped(self.reap(reap))),
            Op::Forget(forget, _) => Ok(Outcome::Reaped(self.forget(forget))),
        }
    }

    /// The state of a record, ready to be changed; a damaged one counts as absent.
    fn load(&mut self, slot: &Slot) -> Result<(&mut Cell, Siblings), ServeError> {
        let cell = self.cells.entry(slot.clone()).or_default();
        if let Some(newer) = &cell.newer {
            return Err(ServeError::Unavailable(newer.to_string()));
        }
        // What was dropped here lately has been seen: whatever is left of it on its way comes to nothing.
        let forgotten = || self.minter.forgotten.seen(slot).map(Siblings::seen);
        let state = cell.state.clone().or_else(forgotten).unwrap_or_default();
        Ok((cell, state))
    }

    fn mint(&mut self, mint: &Mint) -> Result<Dot, ServeError> {
        let actor = self.own();
        let floor = self.minter.forgotten.floor.max(self.minter.since_start);
        let stamp = self.minter.clock.tick(self.minter.wall_ms);
        let (cell, mut state) = self.load(&mint.slot)?;
        let all = if mint.seen.is_none() { state.context().clone() } else { Context::new() };
        let seen = mint.seen.as_ref().unwrap_or(&all);
        let new = NewVersion {
            request: mint.request,
            after: mint.after.clone(),
            stamp,
            expires_at: mint.expires_at,
            value: mint.value.clone(),
        };
        match state.put(seen, new, actor, floor) {
            Put::Added(dot) => {
                check_limits(&state)?;
                *cell = Cell { state: Some(state), dirty: true, before: cell.before, ..Cell::default() };
                Ok(dot)
            }
            Put::Repeated(dot) => Ok(dot),
        }
    }

    /// Under which name this node counts its versions.
    fn own(&self) -> Actor {
        Actor { node: self.minter.node, epoch: self.minter.epoch }
    }

    /// Notes that a record goes with this count of own versions: none is named below again.
    fn raise_floor(&mut self, count: u64) {
        self.minter.forgotten.raise(count);
        self.forgets = true;
    }

    fn merge(&mut self, apply: &Apply) -> Result<(), ServeError> {
        let hash = self.minter.hash;
        let incoming = record::decode(hash, &apply.slot.key, &apply.record)
            .map_err(|error| ServeError::Invalid(format!("the record sent by a peer is not valid: {error}")))?;
        if let Some(stamp) = incoming.latest_stamp() {
            self.minter.clock.observe(stamp, self.minter.wall_ms);
        }
        let (cell, mut state) = self.load(&apply.slot)?;
        if cell.state.as_ref() == Some(&incoming) && !cell.drop {
            return Ok(());
        }
        state.merge(&incoming);
        if !state.context().is_valid() || state.value_bytes() > limits::RECORD_MAX - limits::RECORD_OVERHEAD_MAX {
            return Err(ServeError::Limit("the merged record of this key is beyond the limits of a record".to_owned()));
        }
        // Mostly the incoming record supersedes what is here, and its bytes can be stored as they are.
        let record = (state == incoming).then(|| apply.record.clone());
        *cell = Cell { record, state: Some(state), dirty: true, before: cell.before, ..Cell::default() };
        Ok(())
    }

    fn hint_done(&mut self, done: &HintDone) {
        if !self.is_hinted(done.target, &done.slot) {
            return;
        }
        if let Some(cell) = self.cells.get_mut(&marker::slot(done.target, &done.slot)).filter(|cell| cell.is_there()) {
            let marker = cell.record.as_deref().and_then(Marker::decode);
            if cell.dirty || marker.is_some_and(|marker| marker.digest != done.marked) {
                return;
            }
            (cell.drop, cell.dirty) = (true, false);
        }
        // A mark of this target need not be looked at: it has the record, as it is here, and the mark stays for the others.
        let Some(owners) = &done.drop_with else { return };
        let waiting = owners.iter().any(|owner| *owner != done.target && self.is_hinted(*owner, &done.slot));
        let own = self.own();
        let Some(cell) = self.cells.get_mut(&done.slot).filter(|cell| !waiting && !cell.dirty) else { return };
        let digest = cell.record.as_ref().and_then(|record| record::digest(record));
        let handed_over = done.delivered.is_some() && digest == done.delivered;
        let count = cell.state.as_ref().map_or(0, |state| state.context().count(own));
        if (handed_over || cell.before == Before::Unreadable) && count <= limits::REAP_COUNT_MAX {
            cell.drop = true;
            self.raise_floor(count);
        }
    }

    /// Whether it is kept in mind that this target lacks a record, or all that a bucket holds.
    fn is_hinted(&self, target: NodeId, slot: &Slot) -> bool {
        hints_of(target, slot).iter().any(|place| self.cells.get(place).is_some_and(Cell::is_there))
    }
}

impl Batch<'_, '_> {
    /// Takes a step towards dropping a record; false where it is not as it must be.
    fn reap(&mut self, reap: &Reap) -> bool {
        // Marks need not be looked at: of what a stand-in keeps under one, it holds the record, and an owner that may lack it
        // is asked itself.
        let hinted = |owner: &NodeId| self.cells.get(&marker::slot(*owner, &reap.slot)).is_some_and(Cell::is_there);
        if reap.owners.iter().any(hinted) {
            return false;
        }
        let own = self.own();
        let Some(cell) = self.cells.get_mut(&reap.slot) else { return false };
        let (digest, dead_ms) = match reap.step {
            Step::Bury => {
                let nothing = cell.before == Before::Nothing && !cell.dirty;
                return nothing && self.minter.forgotten.bury(&reap.slot, &reap.seen);
            }
            Step::Shed { digest } => {
                let Some(state) = cell.state.as_ref().filter(|_| !cell.dirty && !cell.drop) else { return false };
                let count = state.context().count(own);
                let goes = cell.before == Before::Digest(digest) && count <= limits::REAP_COUNT_MAX;
                if goes {
                    (cell.drop, cell.state, cell.record) = (true, None, None);
                    self.raise_floor(count);
                }
                return goes;
            }
            Step::Confirm { digest, dead_ms } | Step::Drop { digest, dead_ms } => (digest, dead_ms),
        };
        let Some(state) = cell.state.as_ref().filter(|_| !cell.dirty && !cell.drop) else { return false };
        let count = state.context().count(own);
        let as_told = cell.before == Before::Digest(digest) && *state.context() == reap.seen;
        let dead = self.minter.wall_ms.checked_sub(dead_ms).is_some_and(|since| state.is_dead(since));
        // A record that came back lately may have more behind it.
        let fresh = self.minter.forgotten.seen(&reap.slot).is_some();
        if !as_told || !dead || fresh || count > limits::REAP_COUNT_MAX {
            return false;
        }
        if let Step::Drop { .. } = reap.step {
            if !self.minter.forgotten.bury(&reap.slot, &reap.seen) {
                return false;
            }
            let latest = state.latest_stamp().unwrap_or_default();
            (cell.drop, cell.state, cell.record) = (true, None, None);
            self.raise_floor(count);
            self.advance_frontier(reap.frontier(self.minter.node), latest);
        }
        true
    }

    /// Notes, in the batch that drops it, how late the latest is of what was dropped.
    fn advance_frontier(&mut self, slot: Slot, latest: Stamp) {
        let hash = self.minter.hash;
        let cell = self.cells.entry(slot).or_default();
        let before = kept::decode_frontier(hash, cell.record.as_ref());
        if latest > before {
            (cell.record, cell.dirty) = (Some(kept::encode_frontier(hash, latest)), true);
        }
    }

    /// Removes versions, and the record with its last. Returns whether any were there.
    fn forget(&mut self, forget: &Forget) -> bool {
        let own = self.own();
        let Some(cell) = self.cells.get_mut(&forget.slot) else { return false };
        let Some(mut state) = cell.state.clone().filter(|_| !cell.drop) else { return false };
        if !state.forget(&forget.dots) {
            return false;
        }
        if state.versions().is_empty() {
            (cell.drop, cell.dirty, cell.state, cell.record) = (true, false, None, None);
            self.raise_floor(state.context().count(own));
        } else {
            *cell = Cell { state: Some(state), dirty: true, before: cell.before, ..Cell::default() };
        }
        true
    }
}

/// Refuses a state, as it would be after a put, that is beyond the limits of a key.
fn check_limits(state: &Siblings) -> Result<(), ServeError> {
    let remedy = "read it and write with the context you got, which replaces them";
    let (writes, bytes) = state.writes();
    if writes > limits::SIBLINGS_MAX {
        let most = limits::SIBLINGS_MAX;
        return Err(ServeError::Limit(format!("the key has {most} siblings, the most there may be: {remedy}")));
    }
    let most = limits::SIBLINGS_BYTES_MAX;
    if bytes > most {
        let text = format!("the key's siblings would hold {bytes} bytes, the limit is {most}: {remedy}");
        return Err(ServeError::Limit(text));
    }
    if !state.context().is_valid() {
        let text = "the key's causal context is beyond its limits: use a context that a read of this cluster returned";
        return Err(ServeError::Limit(text.to_owned()));
    }
    Ok(())
}
