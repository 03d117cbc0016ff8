//! The engine that keeps everything in memory: for tests, trials, and as the model the others are measured against.
//!
//! It survives nothing, so each opening is a new epoch.

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
use crate::store::records::Records;
use crate::types::Bucket;
use crate::types::Epoch;
use crate::types::Partitions;

/// Records in memory.
#[derive(Debug, Clone)]
pub struct Memory {
    buckets: Partitions,
    env: Env,
    state: Arc<Mutex<State>>,
}

/// What a storage held at some time.
#[derive(Debug, Clone)]
pub struct MemoryCopy {
    epoch: Epoch,
    records: Records,
}

#[derive(Debug)]
struct State {
    epoch: Epoch,
    closed: bool,
    records: Records,
}

impl Memory {
    /// An empty storage.
    pub fn new(identity: &StoreIdentity, env: &Env) -> Self {
        let state = State { epoch: epoch::fresh(env, &[]), closed: false, records: Records::default() };
        Self { buckets: identity.buckets, env: env.clone(), state: Arc::new(Mutex::new(state)) }
    }

    /// All it holds now, to be put back one day.
    pub fn copy(&self) -> MemoryCopy {
        let state = self.lock();
        MemoryCopy { epoch: state.epoch, records: state.records.clone() }
    }

    /// A storage that was put back to an older copy, with whatever could have told: its epoch stays.
    pub fn put_back(copy: MemoryCopy, identity: &StoreIdentity, env: &Env) -> Self {
        let MemoryCopy { epoch, records } = copy;
        let state = State { epoch, closed: false, records };
        Self { buckets: identity.buckets, env: env.clone(), state: Arc::new(Mutex::new(state)) }
    }

    /// Loses everything, as a disk that was replaced: the epoch is new.
    pub fn wipe(&self) -> Epoch {
        let mut state = self.lock();
        state.records = Records::default();
        state.epoch = epoch::fresh(&self.env, &[Some(state.epoch)]);
        state.epoch
    }

    pub(super) fn buckets(&self) -> Partitions {
        self.buckets
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.lock().epoch
    }

    pub(super) async fn renew_epoch(&self, from: Epoch, _reason: &str) -> Result<Epoch, StoreError> {
        let mut state = self.open()?;
        if state.epoch != from {
            return Err(StoreError::EpochChanged);
        }
        state.epoch = epoch::fresh(&self.env, &[Some(state.epoch)]);
        Ok(state.epoch)
    }

    pub(super) async fn get_many(&self, slots: &[Slot]) -> Result<Vec<Option<Bytes>>, StoreError> {
        Ok(self.open()?.records.get_many(slots))
    }

    pub(super) async fn write(&self, epoch: Epoch, batch: Vec<Mutation>) -> Result<(), StoreError> {
        let mut state = self.open()?;
        if state.epoch != epoch {
            return Err(StoreError::EpochChanged);
        }
        state.records.apply(batch);
        Ok(())
    }

    pub(super) async fn scan(&self, range: ScanRange) -> Result<ScanPage, StoreError> {
        Ok(self.open()?.records.scan(range))
    }

    pub(super) async fn delete_bucket(&self, bucket: Bucket) -> Result<u64, StoreError> {
        let mut state = self.open()?;
        let keys = state.records.keys(bucket);
        let gone = keys.len() as u64;
        state.records.apply(keys.into_iter().map(|key| Mutation::Delete { slot: Slot { bucket, key } }).collect());
        Ok(gone)
    }

    pub(super) async fn flush(&self) -> Result<(), StoreError> {
        self.open().map(drop)
    }

    pub(super) async fn size(&self) -> Result<StoreSize, StoreError> {
        Ok(self.open()?.records.size())
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
        state.records = Records::default();
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
