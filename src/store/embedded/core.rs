//! The embedded engine proper, blocking: transactions, and what follows when the disk fails.
//!
//! redb stops for good at the first failure of its disk, so the engine closes and reopens it ("mending"). What was
//! not synced is gone then, and the epoch is renewed if anything acknowledged was among it. Every durable commit
//! carries a seal with the epoch and a number of its own, so after mending it is known whether a failed commit
//! landed. Nothing here is async: [`super::Embedded`] calls it on threads that may block.

use std::io;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::RwLockReadGuard;
use std::sync::RwLockWriteGuard;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use redb::Database;
use redb::WriteTransaction;

use crate::env::Env;
use crate::hash::ClusterHash;
use crate::limits;
use crate::store::Durability;
use crate::store::MemoFile;
use crate::store::Mutation;
use crate::store::StoreError;
use crate::store::embedded::EmbeddedOptions;
use crate::store::embedded::OpenDisk;
use crate::store::embedded::tables;
use crate::store::embedded::tables::Seal;
use crate::store::embedded::tables::Sync;
use crate::store::epoch;
use crate::store::epoch::Mark;
use crate::store::epoch::Memo;
use crate::store::health::Pulse;
use crate::store::health::Trouble;
use crate::types::Epoch;
use crate::types::PartitionId;

pub(super) struct Core {
    pub(super) disk: OpenDisk,
    pub(super) memo: MemoFile,
    pub(super) options: EmbeddedOptions,
    pub(super) hash: ClusterHash,
    pub(super) env: Env,
    pub(super) length: Arc<AtomicU64>,
    pub(super) pulse: Pulse,
    pub(super) boot: u64,
    pub(super) epoch: AtomicU64,
    /// Number of the last durable commit that was tried; changed only inside a write transaction.
    pub(super) tried: AtomicU64,
    /// Number of the last durable commit that succeeded.
    pub(super) landed: AtomicU64,
    /// Whether there may be commits that a crash would lose; changed only inside a write transaction.
    pub(super) unsynced: AtomicBool,
    /// Failed tries to recover since the last that did not, and ticks of upkeep to let pass before the next.
    pub(super) failures: AtomicU32,
    pub(super) pause: AtomicU32,
    pub(super) open: RwLock<Open>,
}

pub(super) struct Open {
    /// `None` after closing, or when reopening failed.
    pub(super) db: Option<Database>,
    /// Counts the mendings, so that of many calls that met one failure only the first mends.
    pub(super) generation: u64,
    pub(super) closed: bool,
}

/// How a transaction can fail.
enum Fault {
    Refused(StoreError),
    Disk(redb::Error),
}

impl From<redb::Error> for Fault {
    fn from(error: redb::Error) -> Self {
        Self::Disk(error)
    }
}

impl Core {
    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    /// Runs a transaction that only reads.
    pub(super) fn read<T>(&self, op: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let _beat = self.pulse.begin();
        let (result, generation) = {
            let open = self.lock();
            (op(self.db(&open)?), open.generation)
        };
        result.map_err(|error| {
            if needs_reopening(&error) {
                self.mend(generation);
            }
            read_error(&error)
        })
    }

    /// Applies a batch at the given epoch.
    pub(super) fn write(&self, epoch: Epoch, batch: &[Mutation]) -> Result<(), StoreError> {
        self.check_writable()?;
        self.commit(self.write_sync(), |tx| {
            if self.epoch() != epoch {
                return Err(Fault::Refused(StoreError::EpochChanged));
            }
            Ok(tables::apply(tx, batch)?)
        })
    }

    /// Deletes some of a partition; returns how many.
    pub(super) fn delete_some(&self, partition: PartitionId) -> Result<u64, StoreError> {
        self.check_writable()?;
        self.commit(self.write_sync(), |tx| Ok(tables::delete_some(tx, partition)?))
    }

    /// Makes a new epoch durable.
    pub(super) fn renew_epoch(&self) -> Result<Epoch, StoreError> {
        let epoch = self.commit(self.full_sync(), |_| {
            // Inside the transaction, so that no batch decided under the old epoch can come after it.
            let epoch = epoch::fresh(&self.env, &[Some(self.epoch())]);
            self.epoch.store(epoch.0, Ordering::Release);
            Ok(epoch)
        })?;
        self.save_memo(false).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        Ok(epoch)
    }

    /// Makes everything durable.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        if self.unsynced.load(Ordering::Acquire) { self.commit(self.full_sync(), |_| Ok(())) } else { Ok(()) }
    }

    /// Tries whether what is broken works again. Each failing try means to reopen the database, and perhaps to walk
    /// it, so the pauses between them double.
    pub(super) fn recover(&self) {
        if self.pause.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok() {
            return;
        }
        if matches!(self.pulse.trouble(), Some(Trouble::Full(_))) && self.disk.check_room().is_err() {
            return;
        }
        let failures = if self.try_again() { 0 } else { self.failures.load(Ordering::Acquire) + 1 };
        self.failures.store(failures, Ordering::Release);
        let pause = 1u32.checked_shl(failures).map_or(limits::STORE_RECOVERY_PAUSE_MAX, |pause| pause - 1);
        self.pause.store(pause.min(limits::STORE_RECOVERY_PAUSE_MAX), Ordering::Release);
    }

    fn try_again(&self) -> bool {
        let _beat = self.pulse.begin();
        let (generation, missing) = {
            let open = self.lock();
            if open.closed {
                return true;
            }
            (open.generation, open.db.is_none())
        };
        if missing && self.mend(generation).is_none() {
            return false;
        }
        let (probe, generation) = {
            let open = self.lock();
            let Some(db) = &open.db else { return false };
            (tables::probe_room(db), open.generation)
        };
        match probe {
            Ok(()) => {
                self.pulse.report(None);
                true
            }
            Err(error) => {
                self.mend(generation);
                self.report_write(&error);
                false
            }
        }
    }

    /// Writes down how far the storage has come.
    pub(super) fn save_memo(&self, clean: bool) -> io::Result<()> {
        let mark = Mark { epoch: self.epoch(), boot: self.boot, commits: self.landed.load(Ordering::Acquire) };
        let memo = Memo { mark, clean, synced: self.synced(), run: String::new() };
        self.memo.save(&memo, &self.hash)
    }

    /// Closes the database in order.
    pub(super) fn close(&self) -> Result<(), StoreError> {
        let mut open = self.lock_alone();
        open.closed = true;
        let Some(db) = open.db.take() else {
            return Err(StoreError::Unavailable("it was closed, or had failed, before".to_owned()));
        };
        let commits = self.tried.fetch_add(1, Ordering::AcqRel) + 1;
        let mark = Mark { epoch: self.epoch(), boot: self.boot, commits };
        let sealed = tables::begin(&db, Sync::Quick).and_then(|tx| {
            tables::put_seal(&tx, &Seal { mark, clean: true, synced: self.synced() })?;
            Ok(tx.commit()?)
        });
        let closed = db.close().map_err(redb::Error::from);
        sealed.and(closed).map_err(|error| read_error(&error))?;
        self.landed.store(commits, Ordering::Release);
        self.save_memo(true).map_err(|error| StoreError::Unavailable(error.to_string()))
    }

    /// Runs a write transaction. It is sealed if it is durable.
    fn commit<T>(
        &self,
        sync: Sync,
        change: impl FnOnce(&WriteTransaction) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let _beat = self.pulse.begin();
        let mut number = None;
        let mut done = None;
        let (result, generation) = {
            let open = self.lock();
            let db = self.db(&open)?;
            (self.transact(db, sync, &mut number, &mut done, change), open.generation)
        };
        let error = match result {
            Ok(()) => None,
            Err(Fault::Refused(error)) => return Err(error),
            Err(Fault::Disk(error)) => Some(error),
        };
        if let Some(error) = error {
            self.failed(generation, number, &error)?;
        }
        done.ok_or_else(|| StoreError::Unavailable("a transaction ended without a result".to_owned()))
    }

    fn transact<T>(
        &self,
        db: &Database,
        sync: Sync,
        number: &mut Option<u64>,
        done: &mut Option<T>,
        change: impl FnOnce(&WriteTransaction) -> Result<T, Fault>,
    ) -> Result<(), Fault> {
        let tx = tables::begin(db, sync)?;
        *done = Some(change(&tx)?);
        if sync == Sync::No {
            self.unsynced.store(true, Ordering::Release);
            return Ok(tx.commit().map_err(redb::Error::from)?);
        }
        let commits = self.tried.fetch_add(1, Ordering::AcqRel) + 1;
        let mark = Mark { epoch: self.epoch(), boot: self.boot, commits };
        tables::put_seal(&tx, &Seal { mark, clean: false, synced: self.synced() })?;
        let unsynced = self.unsynced.swap(false, Ordering::AcqRel);
        *number = Some(commits);
        if let Err(error) = tx.commit() {
            self.unsynced.fetch_or(unsynced, Ordering::AcqRel);
            return Err(Fault::Disk(error.into()));
        }
        self.landed.fetch_max(commits, Ordering::AcqRel);
        Ok(())
    }

    /// After a failed write: mends, and returns `Ok` if the commit with this number turns out to be on disk.
    fn failed(&self, generation: u64, number: Option<u64>, error: &redb::Error) -> Result<(), StoreError> {
        let seal = self.mend(generation);
        if let (Some(number), Some(seal)) = (number, seal)
            && seal.mark.commits == number
        {
            return Ok(());
        }
        let refused = self.report_write(error);
        // Without the seal nobody knows whether a durable commit landed.
        if number.is_some() && seal.is_none() {
            return Err(StoreError::Unavailable(error.to_string()));
        }
        Err(refused)
    }

    /// Reports that the disk refuses writes, unless it is worse, and returns the error for the caller.
    fn report_write(&self, error: &redb::Error) -> StoreError {
        if matches!(error, redb::Error::Corrupted(_)) {
            self.pulse.report(Some(Trouble::ReadOnly(error.to_string())));
            return StoreError::Damaged(error.to_string());
        }
        let full = is_full(error);
        // A call that only heard of an earlier failure knows less than whoever met it.
        let known = self.pulse.trouble();
        if known.is_none() || (full && !matches!(known, Some(Trouble::Down(_)))) {
            let reason = error.to_string();
            self.pulse.report(Some(if full { Trouble::Full(reason) } else { Trouble::ReadOnly(reason) }));
        }
        self.check_writable().err().unwrap_or_else(|| StoreError::Unavailable(error.to_string()))
    }

    /// Closes and reopens the database, if nobody did since `generation`. Returns the seal that was found.
    fn mend(&self, generation: u64) -> Option<Seal> {
        let mut open = self.lock_alone();
        if open.generation != generation || open.closed {
            return None;
        }
        open.generation += 1;
        if let Some(db) = open.db.take()
            && let Err(error) = db.close()
        {
            tracing::debug!(%error, "closing the failed database");
        }
        match self.reopen() {
            Ok((db, seal)) => {
                open.db = Some(db);
                Some(seal)
            }
            Err(error) => {
                self.pulse.report(Some(Trouble::Down(error.to_string())));
                None
            }
        }
    }

    fn reopen(&self) -> Result<(Database, Seal), redb::Error> {
        let disk = self.disk.open(self.length.clone())?;
        let db = super::open::builder(self.options.cache_bytes).create_with_backend(disk)?;
        let seal = tables::seal(&db)?.ok_or_else(|| redb::Error::Corrupted("the storage is empty now".to_owned()))?;
        let ours = (seal.mark.epoch, seal.mark.boot) == (self.epoch(), self.boot);
        let lost = self.unsynced.swap(false, Ordering::AcqRel);
        if lost || !ours || seal.mark.commits < self.landed.load(Ordering::Acquire) {
            // It need not be on disk yet: no durable commit under it goes without a seal that has it, and if there
            // is none before the process ends, then the next open finds a reason for a new epoch by itself.
            let epoch = epoch::fresh(&self.env, &[Some(self.epoch()), Some(seal.mark.epoch)]);
            self.epoch.store(epoch.0, Ordering::Release);
            tracing::warn!(%epoch, "storage epoch renewed: a failure of the disk lost writes");
        }
        Ok((db, seal))
    }

    fn check_writable(&self) -> Result<(), StoreError> {
        match self.pulse.trouble() {
            Some(Trouble::Full(reason)) => Err(StoreError::Full(reason)),
            Some(Trouble::ReadOnly(reason)) => Err(StoreError::ReadOnly(reason)),
            Some(Trouble::Down(reason)) => Err(StoreError::Unavailable(reason)),
            Some(Trouble::LosingData(_)) | None => Ok(()),
        }
    }

    fn synced(&self) -> bool {
        self.options.durability == Durability::EveryBatch
    }

    fn write_sync(&self) -> Sync {
        if self.synced() { self.full_sync() } else { Sync::No }
    }

    fn full_sync(&self) -> Sync {
        if self.synced() { Sync::Walk } else { Sync::Quick }
    }

    fn lock(&self) -> RwLockReadGuard<'_, Open> {
        self.open.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_alone(&self) -> RwLockWriteGuard<'_, Open> {
        self.open.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn db<'a>(&self, open: &'a Open) -> Result<&'a Database, StoreError> {
        open.db.as_ref().ok_or_else(|| match self.pulse.trouble() {
            Some(Trouble::Down(reason)) => StoreError::Unavailable(reason),
            _ => StoreError::Unavailable("it was closed".to_owned()),
        })
    }
}

fn needs_reopening(error: &redb::Error) -> bool {
    matches!(
        error,
        redb::Error::Io(_) | redb::Error::Backend(_) | redb::Error::PreviousIo | redb::Error::LockPoisoned(_)
    )
}

fn is_full(error: &redb::Error) -> bool {
    use io::ErrorKind::FileTooLarge;
    use io::ErrorKind::QuotaExceeded;
    use io::ErrorKind::StorageFull;
    matches!(error, redb::Error::Io(error) if matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge))
}

fn read_error(error: &redb::Error) -> StoreError {
    match error {
        redb::Error::Corrupted(what) => StoreError::Damaged(what.clone()),
        other => StoreError::Unavailable(other.to_string()),
    }
}
