//! A model of an engine on a disk, for tests: it keeps what the embedded engine promises, on a [`Disk`] that fails from a
//! seed. Only tests have it (feature `simulation`).
//!
//! It keeps the contract of all engines and asks the same judgement about its epoch. What it is not is the embedded
//! engine's code: how that one reads torn files is tested on real files.

mod disk;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::Weak;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use tokio::time::MissedTickBehavior;

use crate::env::Env;
use crate::limits;
use crate::store::Durability;
use crate::store::Health;
use crate::store::Mutation;
use crate::store::OpenError;
use crate::store::ScanPage;
use crate::store::ScanRange;
use crate::store::Slot;
use crate::store::StoreError;
use crate::store::StoreIdentity;
use crate::store::StoreSize;
use crate::store::Warning;
use crate::store::epoch;
use crate::store::epoch::Mark;
use crate::store::epoch::Memo;
use crate::store::epoch::Seal;
use crate::store::health::Pulse;
use crate::store::health::Trouble;
use crate::types::Bucket;
use crate::types::Epoch;
use crate::types::Partitions;

pub use disk::Damage;
pub use disk::Disk;
pub use disk::DiskCopy;
pub use disk::DiskFaults;
use disk::Platter;

/// An open storage on a simulated disk. Clones share it; an engine that is dropped without
/// [`super::Engine::close`] counts as crashed.
#[derive(Debug, Clone)]
pub struct Simulated(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    disk: Disk,
    durability: Durability,
    buckets: Partitions,
    /// Which opening of the disk this is.
    life: u64,
    run: String,
    pulse: Pulse,
    env: Env,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.env.stop();
    }
}

impl Simulated {
    /// Opens the storage on this disk, making one when it is empty, and decides whether its epoch may stay. Whatever had the
    /// disk open before is a dead process from now on.
    ///
    /// # Errors
    /// [`OpenError::Foreign`] when it is somebody else's.
    pub fn open(
        disk: &Disk,
        durability: Durability,
        identity: &StoreIdentity,
        env: &Env,
    ) -> Result<(Self, Vec<Warning>), OpenError> {
        let env = env.child();
        let platter = &mut *disk.lock();
        if let Some(owner) = platter.seen.owner.as_ref().filter(|owner| *owner != identity) {
            let (found, expected) = (owner.to_string(), identity.to_string());
            return Err(OpenError::Foreign { what: "the simulated disk".to_owned(), found, expected });
        }
        let (old, run) = (platter.seen.seal, platter.run());
        let (mark, verdict) = epoch::succeed_on_disk(&env, old, platter.memo.as_ref(), &run, true);
        let warning = verdict.warning().filter(|_| old.is_some() || platter.memo.is_some());
        platter.life += 1;
        platter.seen.owner = Some(identity.clone());
        let synced = durability == Durability::EveryBatch;
        platter.write(Vec::new(), Seal { mark, clean: false, synced });
        platter.sync(platter.last());
        platter.save_memo(Memo { mark, clean: false, synced, run: run.clone() });
        let inner = Inner {
            disk: disk.clone(),
            durability,
            buckets: identity.buckets,
            life: platter.life,
            run,
            pulse: Pulse::default(),
            env: env.clone(),
        };
        let inner = Arc::new(inner);
        env.spawn("store.keeper", keep(Arc::downgrade(&inner), env.clone()));
        Ok((Self(inner), warning.into_iter().collect()))
    }

    pub(super) fn buckets(&self) -> Partitions {
        self.0.buckets
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.0.disk.lock().seen.seal.map_or(Epoch(0), |seal| seal.mark.epoch)
    }

    pub(super) async fn renew_epoch(&self, from: Epoch, _reason: &str) -> Result<Epoch, StoreError> {
        let epoch = epoch::fresh(&self.0.env, &[Some(self.epoch())]);
        self.0
            .write(true, |inner, platter| {
                if inner.seal(platter, None, false)?.mark.epoch != from {
                    return Err(StoreError::EpochChanged);
                }
                let seal = inner.seal(platter, Some(epoch), false)?;
                Ok((Vec::new(), seal))
            })
            .await?;
        self.0.save_memo(false)?;
        Ok(epoch)
    }

    pub(super) async fn get_many(&self, slots: &[Slot]) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.0.read(|platter| platter.seen.records.get_many(slots)).await
    }

    pub(super) async fn write(&self, epoch: Epoch, batch: Vec<Mutation>, synced: bool) -> Result<(), StoreError> {
        let synced = synced && self.0.durability == Durability::EveryBatch;
        self.0
            .write(synced, |inner, platter| {
                let seal = inner.seal(platter, None, false)?;
                if seal.mark.epoch == epoch { Ok((batch, seal)) } else { Err(StoreError::EpochChanged) }
            })
            .await
    }

    pub(super) async fn scan(&self, range: ScanRange) -> Result<ScanPage, StoreError> {
        self.0.read(|platter| platter.seen.records.scan(range)).await
    }

    pub(super) async fn delete_bucket(&self, bucket: Bucket) -> Result<u64, StoreError> {
        let mut gone = 0;
        self.0
            .write(self.0.durability == Durability::EveryBatch, |inner, platter| {
                let keys = platter.seen.records.keys(bucket);
                gone = keys.len() as u64;
                let batch = keys.into_iter().map(|key| Mutation::Delete { slot: Slot { bucket, key } }).collect();
                Ok((batch, inner.seal(platter, None, false)?))
            })
            .await?;
        Ok(gone)
    }

    pub(super) async fn flush(&self) -> Result<(), StoreError> {
        let last = self.0.read(|platter| platter.last()).await?;
        self.0.open()?;
        self.0.disk.lock().sync(last);
        Ok(())
    }

    pub(super) async fn size(&self) -> Result<StoreSize, StoreError> {
        self.0.read(|platter| platter.seen.records.size()).await
    }

    pub(super) fn health(&self) -> Health {
        match self.0.open() {
            Ok(()) => self.0.pulse.health(),
            Err(error) => Health::Down { reason: error.to_string() },
        }
    }

    pub(super) async fn close(self) -> Result<(), StoreError> {
        self.0.write(true, |inner, platter| Ok((Vec::new(), inner.seal(platter, None, true)?))).await?;
        self.0.save_memo(true)?;
        self.0.disk.lock().life += 1;
        Ok(())
    }
}

impl Inner {
    async fn read<T>(&self, op: impl FnOnce(&Platter) -> T) -> Result<T, StoreError> {
        let _beat = self.pulse.begin();
        let (delay, fails) = {
            let platter = &mut *self.disk.lock();
            let chance = platter.faults.failing_reads;
            (platter.delay(), platter.rng.random_bool(chance))
        };
        wait(delay).await;
        self.open()?;
        if fails {
            return Err(StoreError::Unavailable("the simulated disk failed to read".to_owned()));
        }
        Ok(op(&self.disk.lock()))
    }

    /// Makes a batch. Where nothing else is said, it is seen after half the time that it takes, and synced after all of it.
    async fn write(
        &self,
        synced: bool,
        change: impl FnOnce(&Self, &Platter) -> Result<(Vec<Mutation>, Seal), StoreError>,
    ) -> Result<(), StoreError> {
        let _beat = self.pulse.begin();
        if let Some(Trouble::Full(reason)) = self.pulse.trouble() {
            return Err(StoreError::Full(reason));
        }
        let delay = self.disk.lock().delay();
        wait(delay / 2).await;
        self.open()?;
        let (last, fails) = self.apply(change)?;
        wait(delay / 2).await;
        self.open()?;
        if fails {
            return Err(StoreError::Unavailable("the simulated disk failed to write".to_owned()));
        }
        if synced {
            self.disk.lock().sync(last);
        }
        Ok(())
    }

    /// Applies a batch, or not although nobody will know. Returns its number, and whether it is to fail.
    fn apply(
        &self,
        change: impl FnOnce(&Self, &Platter) -> Result<(Vec<Mutation>, Seal), StoreError>,
    ) -> Result<(u64, bool), StoreError> {
        let platter = &mut *self.disk.lock();
        if platter.faults.full {
            let reason = "there is no room on the simulated disk".to_owned();
            self.pulse.report(Some(Trouble::Full(reason.clone())));
            return Err(StoreError::Full(reason));
        }
        let (batch, seal) = change(self, platter)?;
        let chance = platter.faults.failing_writes;
        let (fails, happens) = (platter.rng.random_bool(chance), platter.rng.random_bool(0.5));
        if !fails || happens {
            platter.write(batch, seal);
        }
        Ok((platter.last(), fails))
    }

    /// The seal of the next batch.
    fn seal(&self, platter: &Platter, epoch: Option<Epoch>, clean: bool) -> Result<Seal, StoreError> {
        let damaged = || StoreError::Damaged("the simulated disk has lost its seal".to_owned());
        let mark = platter.seen.seal.ok_or_else(damaged)?.mark;
        let mark = Mark { epoch: epoch.unwrap_or(mark.epoch), commits: mark.commits + 1, ..mark };
        Ok(Seal { mark, clean, synced: self.durability == Durability::EveryBatch })
    }

    /// Notes beside the storage how far it has come.
    fn save_memo(&self, clean: bool) -> Result<(), StoreError> {
        let platter = &mut *self.disk.lock();
        let synced = self.durability == Durability::EveryBatch;
        if platter.faults.full {
            return Err(StoreError::Full("there is no room for the memo".to_owned()));
        }
        if let Some(Seal { mark, .. }) = platter.seen.seal {
            platter.save_memo(Memo { mark, clean, synced, run: self.run.clone() });
        }
        Ok(())
    }

    /// Whether this is still the engine that has the disk open.
    fn open(&self) -> Result<(), StoreError> {
        if self.disk.lock().life == self.life {
            return Ok(());
        }
        Err(StoreError::Unavailable("it was closed, or its process is dead".to_owned()))
    }
}

/// Syncs and remembers at the embedded engine's times, and looks whether there is room again.
async fn keep(inner: Weak<Inner>, env: Env) {
    let Some(durability) = inner.upgrade().map(|inner| inner.durability) else { return };
    let sync_every = match durability {
        Durability::Interval(interval) => interval,
        Durability::Off | Durability::EveryBatch => limits::STORE_UNSYNCED_MAX,
    };
    let timer = |period| {
        let mut timer = tokio::time::interval(period);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        timer
    };
    let (mut sync, mut upkeep) = (timer(sync_every), timer(limits::STORE_UPKEEP));
    let mut memo = timer(limits::STORE_MEMO_INTERVAL);
    loop {
        let job: fn(&Inner) = tokio::select! {
            biased;
            () = env.stopped() => return,
            _ = sync.tick() => sync_now,
            _ = upkeep.tick() => look_for_room,
            _ = memo.tick() => remember,
        };
        let Some(inner) = inner.upgrade().filter(|inner| inner.open().is_ok()) else { return };
        job(&inner);
    }
}

fn sync_now(inner: &Inner) {
    let platter = &mut *inner.disk.lock();
    platter.sync(platter.last());
}

fn look_for_room(inner: &Inner) {
    if inner.pulse.trouble().is_some() && !inner.disk.lock().faults.full {
        inner.pulse.report(None);
    }
}

fn remember(inner: &Inner) {
    if let Err(error) = inner.save_memo(false) {
        tracing::warn!(%error, "writing the storage's memo");
    }
}

/// A timer of no time would still let others run first.
async fn wait(delay: Duration) {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}
