//! The disk under the simulated engine: what a process sees, what a power cut leaves of it, and which faults it has.
//!
//! It outlives the engines that are opened on it, as a disk outlives the processes of its host. It decides nothing about
//! epochs; all chance comes from the seed it was made with.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::store::Mutation;
use crate::store::Slot;
use crate::store::StoreIdentity;
use crate::store::UNREADABLE;
use crate::store::epoch::Memo;
use crate::store::epoch::Seal;
use crate::store::records::Records;
use crate::types::Bucket;

/// The faults that a disk has now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DiskFaults {
    /// Least and most time that a call takes; none by default.
    pub slow: Option<(Duration, Duration)>,
    /// Probability that a batch fails and may have been applied or not.
    pub failing_writes: f64,
    /// Probability that a read fails.
    pub failing_reads: f64,
    /// Syncs say that they are done and do nothing: a power cut may take what was "synced".
    pub lying_syncs: bool,
    /// There is no room: batches are refused, reads go on.
    pub full: bool,
}

/// How a record is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// One of its bits is another.
    Flipped,
    /// The engine finds that its block is damaged, and gives it as [`UNREADABLE`].
    Unreadable,
}

/// What a disk held once. It holds records only: what the node notes beside its storage is not put back with it.
#[derive(Debug, Clone)]
pub struct DiskCopy {
    kept: Kept,
}

/// A disk of one simulated host. Clones share it.
#[derive(Debug, Clone)]
pub struct Disk(Arc<Mutex<Platter>>);

/// A state of the storage, of which each batch makes the next.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept {
    pub(super) owner: Option<StoreIdentity>,
    pub(super) records: Records,
    pub(super) seal: Option<Seal>,
}

/// What is on the disk and on its way there.
#[derive(Debug)]
pub(super) struct Platter {
    /// What processes see.
    pub(super) seen: Kept,
    /// What is surely there after a power cut.
    durable: Kept,
    /// What was written since, oldest first: of this a power cut leaves some beginning.
    unsynced: VecDeque<(Vec<Mutation>, Seal)>,
    /// Batches that were ever synced, so that a sync that began before others ended covers no more than it should.
    synced: u64,
    pub(super) memo: Option<Memo>,
    durable_memo: Option<Memo>,
    /// The engine that has it open: earlier ones are dead processes.
    pub(super) life: u64,
    /// Power cuts so far.
    runs: u64,
    pub(super) faults: DiskFaults,
    pub(super) rng: StdRng,
}

impl Disk {
    /// An empty disk.
    pub fn new(seed: [u8; 32]) -> Self {
        let platter = Platter {
            seen: Kept::default(),
            durable: Kept::default(),
            unsynced: VecDeque::new(),
            synced: 0,
            memo: None,
            durable_memo: None,
            life: 0,
            runs: 0,
            faults: DiskFaults::default(),
            rng: StdRng::from_seed(seed),
        };
        Self(Arc::new(Mutex::new(platter)))
    }

    /// Lets it have these faults from now on, and no others.
    pub fn set_faults(&self, faults: DiskFaults) {
        self.lock().faults = faults;
    }

    /// Ends the process that has it open, as SIGKILL does: the system keeps what it was given.
    pub fn kill(&self) {
        self.lock().life += 1;
    }

    /// Ends the machine: of the batches that were not synced a beginning is left, as long as chance wants. Returns how
    /// many batches are gone.
    pub fn power_cut(&self) -> usize {
        let platter = &mut *self.lock();
        platter.life += 1;
        platter.runs += 1;
        let left = platter.rng.random_range(0..=platter.unsynced.len());
        let gone = platter.unsynced.len() - left;
        platter.harden(left);
        platter.unsynced.clear();
        platter.seen = platter.durable.clone();
        if platter.rng.random_bool(0.5) {
            platter.durable_memo = platter.memo.clone();
        }
        platter.memo = platter.durable_memo.clone();
        gone
    }

    /// Puts an empty disk in its place. The process that had it open is ended.
    pub fn lose(&self) {
        let platter = &mut *self.lock();
        platter.life += 1;
        (platter.seen, platter.durable) = (Kept::default(), Kept::default());
        platter.unsynced.clear();
        (platter.memo, platter.durable_memo) = (None, None);
    }

    /// A copy of the storage as processes see it.
    pub fn copy(&self) -> DiskCopy {
        DiskCopy { kept: self.lock().seen.clone() }
    }

    /// Puts an older copy of the storage in its place; what the node notes beside it stays. The process that had it open is
    /// ended.
    pub fn put_back(&self, copy: DiskCopy) {
        let platter = &mut *self.lock();
        platter.life += 1;
        platter.unsynced.clear();
        platter.durable = copy.kept.clone();
        platter.seen = copy.kept;
    }

    /// All places that hold something, in order.
    pub fn slots(&self) -> Vec<Slot> {
        let platter = self.lock();
        let Some(owner) = &platter.seen.owner else { return Vec::new() };
        let buckets = owner.buckets.buckets().chain([Bucket::HINTS]);
        let slots = |bucket| platter.seen.records.keys(bucket).into_iter().map(move |key| Slot { bucket, key });
        buckets.flat_map(slots).collect()
    }

    /// Damages a record where it lies. Returns whether there was one.
    pub fn damage(&self, slot: &Slot, damage: Damage) -> bool {
        let platter = &mut *self.lock();
        let Some(value) = platter.seen.records.get_many(std::slice::from_ref(slot)).pop().flatten() else {
            return false;
        };
        let value = match damage {
            Damage::Unreadable => UNREADABLE,
            Damage::Flipped => platter.flipped(&value),
        };
        let put = vec![Mutation::Put { slot: slot.clone(), value }];
        // What was on its way there is damaged as it arrives.
        platter.harden(platter.unsynced.len());
        platter.seen.records.apply(put.clone());
        platter.durable.records.apply(put);
        true
    }

    /// Batches that a power cut may take.
    pub fn unsynced(&self) -> usize {
        self.lock().unsynced.len()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Platter {
    /// Applies a batch where processes see it.
    pub(super) fn write(&mut self, batch: Vec<Mutation>, seal: Seal) {
        self.seen.records.apply(batch.clone());
        self.seen.seal = Some(seal);
        self.unsynced.push_back((batch, seal));
    }

    /// The number of the batch that was written last.
    pub(super) fn last(&self) -> u64 {
        self.synced + self.unsynced.len() as u64
    }

    /// Makes all batches up to this one durable, or says so.
    pub(super) fn sync(&mut self, last: u64) {
        if !self.faults.lying_syncs {
            let count = last.saturating_sub(self.synced);
            self.harden(usize::try_from(count).unwrap_or(usize::MAX));
        }
    }

    pub(super) fn save_memo(&mut self, memo: Memo) {
        if !self.faults.lying_syncs {
            self.durable_memo = Some(memo.clone());
        }
        self.memo = Some(memo);
    }

    /// The name of the machine's run.
    pub(super) fn run(&self) -> String {
        format!("run {}", self.runs)
    }

    /// How long the next call takes.
    pub(super) fn delay(&mut self) -> Duration {
        let Some((least, most)) = self.faults.slow else { return Duration::ZERO };
        self.rng.random_range(least..=most)
    }

    fn harden(&mut self, count: usize) {
        let count = count.min(self.unsynced.len());
        for (batch, seal) in self.unsynced.drain(..count) {
            self.durable.records.apply(batch);
            self.durable.seal = Some(seal);
            self.synced += 1;
        }
        self.durable.owner.clone_from(&self.seen.owner);
    }

    fn flipped(&mut self, value: &Bytes) -> Bytes {
        let mut bytes = value.to_vec();
        if !bytes.is_empty() {
            let at = self.rng.random_range(0..bytes.len());
            bytes[at] ^= 1 << self.rng.random_range(0..8);
        }
        bytes.into()
    }
}
