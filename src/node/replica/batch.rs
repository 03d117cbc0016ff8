//! One batch of writes, decided in memory: what was stored and what is asked go in, mutations and outcomes come out.
//!
//! Pure and synchronous. Operations on one key in one batch see each other's effects in order, and each outcome carries
//! the state after the whole batch, which contains what the operation did.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::hash::ClusterHash;
use crate::limits;
use crate::node::replica::marker::{self, Marker};
use crate::node::replica::op::{Apply, HintDone, Mint, Minted, Op};
use crate::record::{self, RecordError};
use crate::store::{Mutation, Slot};
use crate::types::{Epoch, NodeId, PartitionId};
use crate::version::{Actor, Clock, Context, Dot, NewVersion, Put, Siblings};
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
}

/// What one operation came to.
pub(crate) enum Outcome {
    /// A version was named.
    Minted(Dot),
    /// Done.
    Done,
}

/// What a batch came to, before it is stored.
pub(crate) struct Plan {
    /// What to store, all or nothing.
    pub(crate) mutations: Vec<Mutation>,
    /// One outcome for each operation, in order.
    pub(crate) outcomes: Vec<Result<Outcome, ServeError>>,
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
    /// The decoded record, once it was needed.
    state: Option<Siblings>,
    /// Whether it has to be written.
    dirty: bool,
    /// Whether it has to be deleted.
    drop: bool,
    /// Whether the stored bytes fail their checksum.
    damaged: bool,
}

/// The places a batch has to read.
pub(crate) fn slots(ops: &[Op]) -> Vec<Slot> {
    let mut slots = Vec::with_capacity(ops.len());
    for op in ops {
        let (slot, targets): (&Slot, &[NodeId]) = match op {
            Op::Mint(mint, _) => (&mint.slot, &mint.stand_in_for),
            Op::Apply(apply, _) => (&apply.slot, &apply.hints),
            Op::Hint(slot, targets, _) => (slot, targets),
            Op::HintDone(done, _) => {
                slots.push(marker::slot(done.target, &done.slot));
                (&done.slot, done.drop_with.as_deref().unwrap_or_default())
            }
        };
        slots.push(slot.clone());
        slots.extend(targets.iter().map(|target| marker::slot(*target, slot)));
    }
    slots.sort_unstable();
    slots.dedup();
    slots
}

/// Whether any of the stored records fails its checksum. Overwriting one forgets what this node named in it, so the
/// caller must renew the epoch first.
pub(crate) fn any_damaged(hash: &ClusterHash, slots: &[Slot], stored: &[Option<Bytes>]) -> bool {
    let records = slots.iter().zip(stored).filter(|(slot, _)| slot.partition != PartitionId::HINTS);
    records.filter_map(|(slot, stored)| Some((slot, stored.as_ref()?))).any(|(slot, stored)| {
        matches!(record::check(hash, &slot.key, stored), Err(RecordError::Damaged | RecordError::Malformed))
    })
}

/// Decides a batch. `stored` holds what is at each of `slots`.
pub(crate) fn plan(ops: &[Op], slots: Vec<Slot>, stored: Vec<Option<Bytes>>, minter: &mut Minter<'_>) -> Plan {
    let cells = slots.into_iter().zip(stored).map(|(slot, record)| (slot, Cell { record, ..Cell::default() }));
    let mut batch = Batch { cells: cells.collect(), minter };
    let outcomes = ops.iter().map(|op| batch.apply(op)).collect();
    let mut mutations = Vec::new();
    let mut cells = batch.cells;
    for (slot, cell) in &mut cells {
        if let (None, Some(state)) = (&cell.record, &cell.state) {
            cell.record = Some(record::encode(minter.hash, &slot.key, state));
        }
    }
    renew_markers(ops, &mut cells);
    for (slot, cell) in &cells {
        match &cell.record {
            _ if cell.drop => mutations.push(Mutation::Delete { slot: slot.clone() }),
            Some(record) if cell.dirty => mutations.push(Mutation::Put { slot: slot.clone(), value: record.clone() }),
            _ => {}
        }
    }
    Plan { mutations, outcomes, cells }
}

/// Sets the digests of the markers this batch makes, now that their records have their final form.
fn renew_markers(ops: &[Op], cells: &mut BTreeMap<Slot, Cell>) {
    for op in ops {
        let (slot, targets) = match op {
            Op::Mint(mint, _) => (&mint.slot, &mint.stand_in_for),
            Op::Apply(apply, _) => (&apply.slot, &apply.hints),
            Op::Hint(slot, targets, _) => (slot, targets),
            Op::HintDone(..) => continue,
        };
        let Some(digest) = cells.get(slot).and_then(|cell| record::digest(cell.record.as_ref()?)) else { continue };
        for target in targets {
            let cell = cells.entry(marker::slot(*target, slot)).or_default();
            let minted = cell.record.as_deref().and_then(Marker::decode).and_then(|marker| marker.minted);
            cell.record = Some(Marker { digest, minted }.encode());
            (cell.dirty, cell.drop) = (true, false);
        }
    }
}

struct Batch<'a, 'b> {
    cells: BTreeMap<Slot, Cell>,
    minter: &'a mut Minter<'b>,
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
        }
    }

    /// The decoded state of a record; a damaged one counts as absent.
    fn load(&mut self, slot: &Slot) -> Result<&mut Cell, ServeError> {
        let cell = self.cells.entry(slot.clone()).or_default();
        if cell.state.is_none() {
            let state = match &cell.record {
                None => Siblings::new(),
                Some(stored) => match record::decode(self.minter.hash, &slot.key, stored) {
                    Ok(state) => state,
                    Err(RecordError::Damaged | RecordError::Malformed) => {
                        cell.damaged = true;
                        Siblings::new()
                    }
                    Err(newer @ RecordError::UnknownFormat(_)) => {
                        return Err(ServeError::Unavailable(newer.to_string()));
                    }
                },
            };
            cell.state = Some(state);
        }
        Ok(cell)
    }

    fn mint(&mut self, mint: &Mint) -> Result<Dot, ServeError> {
        let actor = Actor { node: self.minter.node, epoch: self.minting_epoch(mint) };
        let stamp = self.minter.clock.tick(self.minter.wall_ms);
        let cell = self.load(&mint.slot)?;
        let state = cell.state.as_mut().expect("load leaves a state");
        let all = state.context().clone();
        let seen: &Context = mint.seen.as_ref().unwrap_or(&all);
        check_limits(state, seen, mint)?;
        let new = NewVersion {
            request: mint.request,
            after: mint.after,
            stamp,
            expires_at: mint.expires_at,
            value: mint.value.clone(),
        };
        match state.put(seen, new, actor) {
            Put::Added(dot) => {
                (cell.record, cell.dirty, cell.drop) = (None, true, false);
                Ok(dot)
            }
            Put::Repeated(dot) => Ok(dot),
        }
    }

    /// The epoch to name a version under: the storage's, or the stay's when this node only stands in.
    fn minting_epoch(&mut self, mint: &Mint) -> Epoch {
        if mint.stand_in_for.is_empty() {
            return self.minter.epoch;
        }
        let markers: Vec<Slot> = mint.stand_in_for.iter().map(|target| marker::slot(*target, &mint.slot)).collect();
        let known = markers.iter().find_map(|slot| {
            let cell = self.cells.get(slot).filter(|cell| !cell.drop)?;
            Marker::decode(cell.record.as_ref()?)?.minted
        });
        // A stamp of this node's clock is unique in its life, and the clock starts beyond the storage's epoch.
        let epoch = known.unwrap_or_else(|| Epoch(self.minter.clock.tick(self.minter.wall_ms).0));
        for slot in markers {
            let cell = self.cells.entry(slot).or_default();
            cell.record = Some(Marker { digest: 0, minted: Some(epoch) }.encode());
        }
        epoch
    }

    fn merge(&mut self, apply: &Apply) -> Result<(), ServeError> {
        let hash = self.minter.hash;
        let incoming = record::decode(hash, &apply.slot.key, &apply.record)
            .map_err(|error| ServeError::Invalid(format!("the record sent by a peer is not valid: {error}")))?;
        if let Some(stamp) = incoming.latest_stamp() {
            self.minter.clock.observe(stamp, self.minter.wall_ms);
        }
        let cell = self.load(&apply.slot)?;
        let state = cell.state.as_mut().expect("load leaves a state");
        if *state == incoming && !cell.damaged && !cell.drop {
            return Ok(());
        }
        state.merge(&incoming);
        // Mostly the incoming record supersedes what is here, and its bytes can be stored as they are.
        cell.record = (*state == incoming).then(|| apply.record.clone());
        (cell.dirty, cell.drop, cell.damaged) = (true, false, false);
        Ok(())
    }

    fn hint_done(&mut self, done: &HintDone) {
        let slot = marker::slot(done.target, &done.slot);
        let Some(cell) = self.cells.get_mut(&slot) else { return };
        let marker = cell.record.as_deref().and_then(Marker::decode);
        let renewed = cell.dirty || marker.is_some_and(|marker| marker.digest != done.marked);
        if cell.record.is_none() || renewed {
            return;
        }
        (cell.drop, cell.dirty) = (true, false);
        let Some(owners) = &done.drop_with else { return };
        let waiting = owners.iter().any(|owner| {
            let other = self.cells.get(&marker::slot(*owner, &done.slot));
            other.is_some_and(|cell| cell.record.is_some() && !cell.drop)
        });
        if let Some(cell) = self.cells.get_mut(&done.slot)
            && !waiting
            && !cell.dirty
            && cell.record.as_ref().and_then(|record| record::digest(record)) == done.delivered
            && cell.record.is_some()
        {
            cell.drop = true;
        }
    }
}

/// Refuses a version that would take the key beyond its limits.
fn check_limits(state: &Siblings, seen: &Context, mint: &Mint) -> Result<(), ServeError> {
    if state.versions().iter().any(|version| version.request == mint.request) {
        return Ok(());
    }
    let kept = state.versions().iter().filter(|version| !seen.covers(version.dot));
    let (count, bytes) =
        kept.fold((1, 0), |(count, bytes), kept| (count + 1, bytes + kept.value.as_ref().map_or(0, Bytes::len)));
    let bytes = bytes + mint.value.as_ref().map_or(0, Bytes::len);
    if count > limits::SIBLINGS_MAX {
        return Err(ServeError::Limit(format!(
            "the key has {} siblings, the most there may be: read it and write with the context you got, which \
             replaces them",
            limits::SIBLINGS_MAX
        )));
    }
    if bytes > limits::SIBLINGS_BYTES_MAX {
        return Err(ServeError::Limit(format!(
            "the key's siblings would hold {bytes} bytes, the limit is {}: read it and write with the context you \
             got, which replaces them",
            limits::SIBLINGS_BYTES_MAX
        )));
    }
    if state.context().len().max(seen.len()) >= limits::CONTEXT_ACTORS_MAX {
        return Err(ServeError::Limit(format!("the key's context names {} actors, the limit", seen.len())));
    }
    Ok(())
}
