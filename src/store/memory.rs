//! The engine that keeps everything in memory: for tests, trials, and as the model the others are measured against.
//!
//! It survives nothing, so each opening is a new epoch.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use bytes::Bytes;

use crate::env::Env;
use crate::store::Health;
use crate::store::Mutation;
use crate::store::ScanPage;
use crate::store::ScanRange;
use crate::store::Slot;
use crate::store::StoreError;
use crate::store::StoreIdentity;
use crate::store::StoreSize;
use crate::store::epoch;
use crate::types::Epoch;
use crate::types::PartitionId;
use crate::types::Partitions;

/// Records in memory.
#[derive(Debug, Clone)]
pub struct Memory {
    partitions: Partitions,
    env: Env,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    epoch: Epoch,
    closed: bool,
    bytes: u64,
    records: BTreeMap<(PartitionId, Bytes), Bytes>,
}

impl Memory {
    /// An empty storage.
    pub fn new(identity: &StoreIdentity, env: &Env) -> Self {
        let state = State { epoch: epoch::fresh(env, &[]), closed: false, bytes: 0, records: BTreeMap::new() };
        Self { partitions: identity.partitions, env: env.clone(), state: Arc::new(Mutex::new(state)) }
    }

    /// Loses everything, as a disk that was replaced: the epoch is new.
    pub fn wipe(&self) -> Epoch {
        let mut state = self.lock();
        state.records.clear();
        state.bytes = 0;
        state.epoch = epoch::fresh(&self.env, &[Some(state.epoch)]);
        state.epoch
    }

    pub(super) fn partitions(&self) -> Partitions {
        self.partitions
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.lock().epoch
    }

    pub(super) async fn renew_epoch(&self, _reason: &str) -> Result<Epoch, StoreError> {
        let mut state = self.open()?;
        state.epoch = epoch::fresh(&self.env, &[Some(state.epoch)]);
        Ok(state.epoch)
    }

    pub(super) async fn get_many(&self, slots: &[Slot]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let state = self.open()?;
        Ok(slots.iter().map(|slot| state.records.get(&(slot.partition, slot.key.clone())).cloned()).collect())
    }

    pub(super) async fn write(&self, epoch: Epoch, batch: Vec<Mutation>) -> Result<(), StoreError> {
        let mut state = self.open()?;
        if state.epoch != epoch {
            return Err(StoreError::EpochChanged);
        }
        for mutation in batch {
            match mutation {
                Mutation::Put { slot, value } => state.put((slot.partition, slot.key), value),
                Mutation::Delete { slot } => state.delete(&(slot.partition, slot.key)),
            }
        }
        Ok(())
    }

    pub(super) async fn scan(&self, range: ScanRange) -> Result<ScanPage, StoreError> {
        let state = self.open()?;
        let lower = match range.after {
            Some(after) => Bound::Excluded((range.partition, after)),
            None => Bound::Included((range.partition, range.prefix.clone())),
        };
        let mut page = ScanPage::default();
        let mut bytes = 0;
        for ((partition, key), value) in state.records.range((lower, Bound::Unbounded)) {
            if *partition != range.partition || !key.starts_with(&range.prefix) {
                return Ok(page);
            }
            if page.items.len() == range.limit || bytes >= range.bytes.max(1) {
                page.more = true;
                return Ok(page);
            }
            bytes += key.len() + value.len();
            page.items.push((key.clone(), value.clone()));
        }
        Ok(page)
    }

    pub(super) async fn delete_partition(&self, partition: PartitionId) -> Result<u64, StoreError> {
        let mut state = self.open()?;
        let mut gone = 0;
        let range = (partition, Bytes::new())..(PartitionId(partition.0 + 1), Bytes::new());
        let keys: Vec<_> = state.records.range(range).map(|(key, _)| key.clone()).collect();
        for key in keys {
            state.delete(&key);
            gone += 1;
        }
        Ok(gone)
    }

    pub(super) async fn flush(&self) -> Result<(), StoreError> {
        self.open().map(drop)
    }

    pub(super) async fn size(&self) -> Result<StoreSize, StoreError> {
        let state = self.open()?;
        Ok(StoreSize { keys: state.records.len() as u64, bytes: state.bytes })
    }

    pub(super) fn health(&self) -> Health {
        match self.open() {
            Ok(_) => Health::Ok,
            Err(error) => Health::Down { reason: error.to_string() },
        }
    }

    pub(super) async fn close(self) -> Result<(), StoreError> {
        let mut state = self.open()?;
        state.closed = true;
        state.records.clear();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let state = self.lock();
        if state.closed { Err(StoreError::Unavailable("it was closed".to_owned())) } else { Ok(state) }
    }
}

impl State {
    fn put(&mut self, key: (PartitionId, Bytes), value: Bytes) {
        self.bytes += (key.1.len() + value.len()) as u64;
        if let Some(old) = self.records.insert(key.clone(), value) {
            self.bytes -= (key.1.len() + old.len()) as u64;
        }
    }

    fn delete(&mut self, key: &(PartitionId, Bytes)) {
        if let Some(old) = self.records.remove(key) {
            self.bytes -= (key.1.len() + old.len()) as u64;
        }
    }
}
