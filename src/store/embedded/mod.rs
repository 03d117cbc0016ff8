//! The embedded engine: fjall, a log-structured merge tree, in a directory of the node's own.
//!
//! Each call is one batch, or one read, on one hop to a thread that may block. A keeper task syncs at the configured
//! interval, tries broken disks again, and writes down how far the storage has come. Batches reach the system before
//! they are acknowledged, and the disk when [`Durability`] says; only under [`Durability::EveryBatch`] does the epoch
//! survive a sudden end. One thread of fjall's own writes and merges tables; a simulation uses the memory engine.

mod core;
mod database;
mod fault;
mod journal;
mod open;
mod rebuild;
mod recent;
mod salvage;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod process_tests;
#[cfg(test)]
mod salvage_tests;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::MissedTickBehavior;

use crate::env::Env;
use crate::env::StopOnDrop;
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
use crate::store::embedded::core::Core;
use crate::types::Bucket;
use crate::types::Epoch;
use crate::types::Partitions;

/// How long closing waits for the keeper to finish what it is doing.
const CLOSE_PATIENCE: Duration = Duration::from_secs(30);

/// How the embedded engine is to work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbeddedOptions {
    /// When writes are safe.
    pub durability: Durability,
    /// Memory for what was used lately, in bytes: half for records, half for blocks of tables. Beside it, new records
    /// are collected in memory until they fill a table: a sixteenth of this, at most [`limits::STORE_MEMTABLE_MAX`],
    /// in up to [`limits::STORE_MEMTABLES_WAITING`] + 2 pieces.
    pub cache_bytes: usize,
}

/// An open embedded storage. Clones share it; when the last is dropped without [`super::Engine::close`], the storage
/// counts as crashed.
#[derive(Clone)]
pub struct Embedded {
    core: Arc<Core>,
    /// Ends the keeper with the engine.
    scope: Arc<StopOnDrop>,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded").field("epoch", &self.epoch()).field("health", &self.health()).finish_non_exhaustive()
    }
}

impl Embedded {
    pub(super) async fn open(
        directory: &Path,
        options: EmbeddedOptions,
        identity: &StoreIdentity,
        env: &Env,
    ) -> Result<(Self, Vec<Warning>), OpenError> {
        let scope = env.child();
        let opening =
            open::Opening { directory: directory.to_owned(), options, identity: identity.clone(), env: scope.clone() };
        let opened = env.blocking(move || opening.run()).await;
        let (core, warnings) = match opened {
            Some(result) => result?,
            None if env.is_stopping() => return Err(OpenError::Stopping),
            // fjall panics over some files that are not as it left them.
            None => {
                return Err(OpenError::Damaged {
                    directory: directory.to_owned(),
                    reason: "reading it failed".to_owned(),
                });
            }
        };
        let core = Arc::new(core);
        scope.spawn("store.keeper", keep(Arc::downgrade(&core), scope.clone()));
        Ok((Self { core, scope: Arc::new(StopOnDrop(scope)) }, warnings))
    }

    pub(super) fn buckets(&self) -> Partitions {
        self.core.buckets
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.core.epoch()
    }

    pub(super) async fn renew_epoch(&self, from: Epoch, _reason: &str) -> Result<Epoch, StoreError> {
        self.run(move |core| core.renew_epoch(from)).await
    }

    pub(super) async fn get_many(&self, slots: &[Slot]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let found = self.core.recent.find(slots);
        // Whoever asks for nothing wants to know whether the storage is there.
        if !found.is_empty() && found.iter().all(Option::is_some) {
            return Ok(found.into_iter().map(Option::flatten).collect());
        }
        let slots = slots.to_vec();
        self.run(move |core| core.get_many(&slots, found)).await
    }

    /// Applies a batch; `synced` says whether it is safe on return, if the configuration wants that.
    pub(super) async fn write(&self, epoch: Epoch, batch: Vec<Mutation>, synced: bool) -> Result<(), StoreError> {
        self.wait_for_room().await?;
        self.run(move |core| core.write(epoch, &batch, synced)).await
    }

    pub(super) async fn scan(&self, range: ScanRange) -> Result<ScanPage, StoreError> {
        self.run(move |core| core.scan(&range)).await
    }

    pub(super) async fn delete_bucket(&self, bucket: Bucket) -> Result<u64, StoreError> {
        let (mut gone, mut after) = (0, None);
        loop {
            self.wait_for_room().await?;
            // One hop per step, so that writes that wait get their turn between them.
            let (step, last) = self.run(move |core| core.delete_some(bucket, after)).await?;
            gone += step;
            if last.is_none() {
                return Ok(gone);
            }
            after = last;
        }
    }

    pub(super) async fn flush(&self) -> Result<(), StoreError> {
        self.run(Core::flush).await
    }

    pub(super) async fn size(&self) -> Result<StoreSize, StoreError> {
        self.run(|core| core.read(|db| Ok(StoreSize { keys: db.count()?, bytes: db.bytes() }))).await
    }

    pub(super) fn health(&self) -> Health {
        self.core.pulse.health()
    }

    pub(super) fn rebuilds(&self) -> u64 {
        self.core.rebuilds.load(Ordering::Relaxed)
    }

    pub(super) async fn close(self) -> Result<(), StoreError> {
        let left = self.scope.0.shutdown(CLOSE_PATIENCE).await;
        if left > 0 {
            tracing::warn!("the storage's keeper did not end in time");
        }
        self.run(Core::close).await
    }

    /// Holds a writer back while the tables of earlier ones are being written and merged.
    async fn wait_for_room(&self) -> Result<(), StoreError> {
        while self.core.crowded.load(Ordering::Acquire) {
            tokio::time::sleep(limits::STORE_CROWDED_PAUSE).await;
            self.run(Core::look_at_backlog).await?;
        }
        Ok(())
    }

    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Core) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let core = self.core.clone();
        let result = self.core.env.blocking(move || job(&core)).await;
        result.unwrap_or_else(|| Err(StoreError::Damaged("a transaction ended in a panic".to_owned())))
    }
}

/// Looks after the storage until it is dropped or told to stop.
async fn keep(core: Weak<Core>, env: Env) {
    let (options, jobs) = match core.upgrade() {
        Some(core) => (core.options, core.env.clone()),
        None => return,
    };
    let sync_every = match options.durability {
        Durability::Interval(interval) => interval.max(limits::STORE_SYNC_INTERVAL_MIN),
        Durability::Off | Durability::EveryBatch => limits::STORE_UNSYNCED_MAX,
    };
    let timer = |period| {
        let mut timer = tokio::time::interval_at(env.next_beat(period), period);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        timer
    };
    let (mut sync, mut upkeep) = (timer(sync_every), timer(limits::STORE_UPKEEP));
    let mut memo = timer(limits::STORE_MEMO_INTERVAL);
    loop {
        let job: fn(&Core) = tokio::select! {
            biased;
            () = env.stopped() => return,
            _ = sync.tick() => sync_now,
            _ = upkeep.tick() => Core::look_after,
            _ = memo.tick() => remember,
        };
        let Some(core) = core.upgrade() else { return };
        if jobs.blocking(move || job(&core)).await.is_none() && !env.is_stopping() {
            tracing::error!("the storage's upkeep ended in a panic");
        }
    }
}

fn sync_now(core: &Core) {
    // A failure is reported to the health by the transaction itself.
    if core.pulse.trouble().is_none()
        && let Err(error) = core.flush()
    {
        tracing::warn!(%error, "syncing the storage");
    }
}

fn remember(core: &Core) {
    if let Err(error) = core.save_memo(false) {
        tracing::warn!(%error, path = %core.memo.path().display(), "writing the storage's memo");
    }
}
