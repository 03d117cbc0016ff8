//! The embedded engine proper, blocking: batches, and what follows when the disk fails.
//!
//! fjall takes no more writes after the first failure of its disk, so the engine closes and reopens it ("mending").
//! Every batch carries a seal with the epoch and a number of its own. By it a batch that failed half-way is taken back
//! before the database is reopened, and it shows whether anything acknowledged is gone; then, and when anything was
//! not synced, the epoch is renewed. Nothing here is async: [`super::Embedded`] calls it on threads that may block.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::RwLockReadGuard;
use std::sync::RwLockWriteGuard;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use fjall::PersistMode;

use crate::env::Env;
use crate::hash::ClusterHash;
use crate::limits;
use crate::store::Durability;
use crate::store::Mutation;
use crate::store::ScanPage;
use crate::store::ScanRange;
use crate::store::Slot;
use crate::store::StoreError;
use crate::store::UNREADABLE;
use crate::store::embedded::EmbeddedOptions;
use crate::store::embedded::database::Batch;
use crate::store::embedded::database::Db;
use crate::store::embedded::fault;
use crate::store::embedded::fault::Fault;
use crate::store::embedded::journal;
use crate::store::embedded::recent::Recent;
use crate::store::embedded::recent::Value;
use crate::store::epoch;
use crate::store::epoch::Mark;
use crate::store::epoch::Memo;
use crate::store::epoch::Seal;
use crate::store::health::Pulse;
use crate::store::health::Trouble;
use crate::store::memo::MemoFile;
use crate::types::Bucket;
use crate::types::Epoch;
use crate::types::Partitions;

pub(super) struct Core {
    /// The database's own directory.
    pub(super) directory: PathBuf,
    pub(super) memo: MemoFile,
    pub(super) options: EmbeddedOptions,
    pub(super) hash: ClusterHash,
    pub(super) buckets: Partitions,
    pub(super) env: Env,
    pub(super) pulse: Pulse,
    pub(super) boot: u64,
    /// The machine's run, see [`epoch::succeed_on_disk`].
    pub(super) run: String,
    pub(super) epoch: AtomicU64,
    /// Number of the last batch that succeeded; changed only by the writer.
    pub(super) commits: AtomicU64,
    /// Whether there may be batches that a power cut would lose.
    pub(super) unsynced: AtomicBool,
    /// Held while these are synced by themselves.
    pub(super) syncing: Mutex<()>,
    /// Whether writers should wait until tables were written and merged.
    pub(super) crowded: AtomicBool,
    /// Mendings since the storage was last well for long, and ticks of upkeep since the last of them.
    pub(super) mendings: AtomicU32,
    pub(super) well: AtomicU32,
    /// Ticks of upkeep to let pass before the next try to recover.
    pub(super) pause: AtomicU32,
    /// How often the database was written anew.
    pub(super) rebuilds: AtomicU64,
    /// Held by the one writer from the look at the epoch to the end of its batch.
    pub(super) writer: Mutex<()>,
    pub(super) recent: Recent,
    pub(super) open: RwLock<Open>,
}

pub(super) struct Open {
    /// `None` after closing, or when reopening failed.
    pub(super) db: Option<Db>,
    /// Keeps other processes out; `None` after closing.
    pub(super) lock: Option<File>,
    /// Counts the mendings, so that of many calls that met one failure only the first mends.
    pub(super) generation: u64,
}

impl Core {
    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    /// Reads the records that `found` does not tell, in order.
    pub(super) fn get_many(&self, slots: &[Slot], found: Vec<Option<Value>>) -> Result<Vec<Value>, StoreError> {
        self.read(|db| {
            let unknown = slots.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(slot, _)| slot);
            let unknown: Vec<_> = unknown.map(|slot| (slot, self.recent.note(slot))).collect();
            let read = db.get_many(unknown.iter().map(|(slot, _)| *slot))?;
            for ((slot, noted), value) in unknown.iter().zip(&read) {
                if value.as_ref() != Some(&UNREADABLE) {
                    self.recent.keep(slot, value, *noted);
                }
            }
            let mut read = read.into_iter();
            Ok(found.into_iter().map(|found| found.unwrap_or_else(|| read.next().flatten())).collect())
        })
    }

    /// Reads a page of a bucket.
    pub(super) fn scan(&self, range: &ScanRange) -> Result<ScanPage, StoreError> {
        let page = self.read(|db| db.scan(range))?;
        if page.is_damaged() {
            // Whoever overwrites what the files have lost must not be told that it is here all the same.
            self.recent.forget(range.bucket);
        }
        Ok(page)
    }

    /// Runs an operation that only reads.
    pub(super) fn read<T>(&self, op: impl FnOnce(&Db) -> Result<T, Fault>) -> Result<T, StoreError> {
        let _beat = self.pulse.begin();
        let open = self.lock();
        op(self.db(&open)?).map_err(|fault| read_error(&fault))
    }

    /// Applies a batch at the given epoch; one that need not be synced goes to disk with the next that is.
    pub(super) fn write(&self, epoch: Epoch, mutations: &[Mutation], synced: bool) -> Result<(), StoreError> {
        self.check_writable()?;
        let mode = if synced { self.write_mode() } else { PersistMode::Buffer };
        self.commit(mode, mutations, |batch| {
            if self.epoch() != epoch {
                return Err(Fault::Refused(StoreError::EpochChanged));
            }
            batch.apply(mutations);
            Ok(())
        })
    }

    /// Deletes up to [`limits::STORE_DELETE_STEP`] records of a bucket from behind a key. Returns how many there
    /// were, and the last of them.
    pub(super) fn delete_some(&self, bucket: Bucket, after: Option<Bytes>) -> Result<(u64, Option<Bytes>), StoreError> {
        self.check_writable()?;
        let range =
            ScanRange { bucket, prefix: Bytes::new(), after, limit: limits::STORE_DELETE_STEP, bytes: usize::MAX };
        let keys = self.read(|db| db.keys(&range))?;
        let Some(last) = keys.last().cloned() else { return Ok((0, None)) };
        let deletions: Vec<_> = keys.into_iter().map(|key| Mutation::Delete { slot: Slot { bucket, key } }).collect();
        self.commit(self.write_mode(), &deletions, |batch| {
            batch.apply(&deletions);
            Ok(())
        })?;
        Ok((deletions.len() as u64, Some(last)))
    }

    /// Makes a new epoch durable, in place of this one.
    pub(super) fn renew_epoch(&self, from: Epoch) -> Result<Epoch, StoreError> {
        let epoch = self.commit(PersistMode::SyncData, &[], |_| {
            // By the one writer, so that no batch decided under the old epoch can come after it.
            if self.epoch() != from {
                return Err(Fault::Refused(StoreError::EpochChanged));
            }
            let epoch = epoch::fresh(&self.env, &[Some(self.epoch())]);
            self.epoch.store(epoch.0, Ordering::Release);
            Ok(epoch)
        })?;
        self.save_memo(false).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        Ok(epoch)
    }

    /// Makes everything durable.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        // Whoever finds nothing to sync must not be told so while another's sync is still under way.
        let _syncing = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.unsynced.swap(false, Ordering::AcqRel) {
            return self.read(|_| Ok(()));
        }
        self.attempt(|db| {
            let synced = db.sync();
            if synced.is_err() {
                self.unsynced.store(true, Ordering::Release);
            }
            synced
        })
    }

    /// Looks whether writers may go on, while they wait.
    pub(super) fn look_at_backlog(&self) -> Result<(), StoreError> {
        self.attempt(|db| {
            db.check()?;
            let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            self.crowded.store(db.make_room()?, Ordering::Release);
            Ok(())
        })
    }

    /// Finds out whether the database has given up although nobody writes, and whether it works again when it had.
    pub(super) fn look_after(&self) {
        if self.pulse.trouble().is_some() {
            self.recover();
        } else if let Err(error) = self.attempt(Db::check) {
            tracing::warn!(%error, "looking after the storage");
        } else if self.well.fetch_add(1, Ordering::AcqRel) >= limits::STORE_RECOVERY_PAUSE_MAX {
            self.mendings.store(0, Ordering::Release);
        }
    }

    fn recover(&self) {
        if self.pause.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok() {
            return;
        }
        if matches!(self.pulse.trouble(), Some(Trouble::Full(_))) && self.check_room().is_err() {
            return;
        }
        self.try_again();
    }

    fn try_again(&self) {
        let _beat = self.pulse.begin();
        let (generation, missing) = {
            let open = self.lock();
            (open.generation, open.db.is_none())
        };
        if missing && !self.mend(generation, false) {
            return;
        }
        let (probe, generation) = {
            let open = self.lock();
            let Some(db) = &open.db else { return };
            let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            (db.probe_room(), open.generation)
        };
        match probe {
            Ok(()) => self.pulse.report(None),
            Err(fault) => drop(self.failed(generation, &fault)),
        }
    }

    /// Writes down how far the storage has come.
    pub(super) fn save_memo(&self, clean: bool) -> io::Result<()> {
        let memo = Memo { mark: self.mark(), clean, synced: self.synced(), run: self.run.clone() };
        self.memo.save(&memo, &self.hash)
    }

    /// Closes the database in order.
    pub(super) fn close(&self) -> Result<(), StoreError> {
        let mut open = self.lock_alone();
        let lock = open.lock.take();
        let Some(db) = open.db.take() else {
            return Err(StoreError::Unavailable("it was closed, or had failed, before".to_owned()));
        };
        let seal = self.next_seal(true);
        let mut batch = db.batch(PersistMode::SyncAll);
        let sealed = batch.put_seal(&seal).and_then(|()| batch.commit());
        // This waits for the worker to end.
        drop(db);
        self.recent.clear();
        sealed.map_err(|fault| read_error(&fault))?;
        self.commits.store(seal.mark.commits, Ordering::Release);
        let saved = self.save_memo(true).map_err(|error| StoreError::Unavailable(error.to_string()));
        drop(lock);
        saved
    }

    /// Makes a batch, with its seal. The mutations are those that `change` puts into it.
    fn commit<T>(
        &self,
        mode: PersistMode,
        mutations: &[Mutation],
        change: impl FnOnce(&mut Batch<'_>) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        self.attempt(|db| {
            let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            self.crowded.store(db.make_room()?, Ordering::Release);
            let mut batch = db.batch(mode);
            let done = change(&mut batch)?;
            let seal = self.next_seal(false);
            batch.put_seal(&seal)?;
            let covered = mode != PersistMode::Buffer;
            self.unsynced.fetch_or(!covered, Ordering::AcqRel);
            let changing = self.recent.change(mutations);
            batch.commit()?;
            changing.finish();
            self.commits.store(seal.mark.commits, Ordering::Release);
            // Again, or for the first time: a sync may have passed between the flag and the batch.
            self.unsynced.store(!covered, Ordering::Release);
            Ok(done)
        })
    }

    /// Runs an operation that may find the database broken.
    fn attempt<T>(&self, op: impl FnOnce(&Db) -> Result<T, Fault>) -> Result<T, StoreError> {
        let _beat = self.pulse.begin();
        let (result, generation) = {
            let open = self.lock();
            (op(self.db(&open)?), open.generation)
        };
        result.map_err(|fault| self.failed(generation, &fault))
    }

    /// After a failure: mends, and returns the error for the caller. Nothing of a batch that failed is left.
    fn failed(&self, generation: u64, fault: &Fault) -> StoreError {
        if let Fault::Refused(error) = fault {
            return error.clone();
        }
        // Its worker can neither write tables nor merge them, and it does not say why.
        let gave_up = fault.gave_up() && self.check_room().is_ok();
        if !self.mend(generation, gave_up) {
            return StoreError::Unavailable(fault.to_string());
        }
        if fault.is_damage() {
            self.pulse.report(Some(Trouble::ReadOnly(fault.to_string())));
            return StoreError::Damaged(fault.to_string());
        }
        // The database does not say why its worker gave up.
        let full = fault.is_full() || (fault.gave_up() && self.check_room().is_err_and(|error| fault::no_room(&error)));
        // A call that only heard of an earlier failure knows less than whoever met it.
        let known = self.pulse.trouble();
        if known.is_none() || (full && !matches!(known, Some(Trouble::Down(_)))) {
            let reason = fault.to_string();
            self.pulse.report(Some(if full { Trouble::Full(reason) } else { Trouble::ReadOnly(reason) }));
        }
        self.check_writable().err().unwrap_or_else(|| StoreError::Unavailable(fault.to_string()))
    }

    /// Closes and reopens the database, if nobody did since `generation`. Returns whether it is open now. That takes a
    /// while, and in some modes an epoch: so each mending doubles the pause before what is left of the trouble is
    /// looked at again, until the storage has been well for long. A database that gave up more than once is looked through for
    /// damage, and written anew if there is any.
    fn mend(&self, generation: u64, gave_up: bool) -> bool {
        let mut open = self.lock_alone();
        if open.generation != generation || open.lock.is_none() {
            return open.db.is_some();
        }
        open.generation += 1;
        let mendings = self.mendings.fetch_add(1, Ordering::AcqRel);
        let pause = 1u32.checked_shl(mendings).map_or(limits::STORE_RECOVERY_PAUSE_MAX, |pause| pause - 1);
        self.pause.store(pause.min(limits::STORE_RECOVERY_PAUSE_MAX), Ordering::Release);
        self.well.store(0, Ordering::Release);
        drop(open.db.take());
        self.recent.clear();
        let opened = self.reopen();
        let opened = if gave_up && mendings > 0 { opened.and_then(|db| self.without_damage(db)) } else { opened };
        match opened {
            Ok(db) => open.db = Some(db),
            Err(fault) => self.pulse.report(Some(Trouble::Down(fault.to_string()))),
        }
        open.db.is_some()
    }

    fn reopen(&self) -> Result<Db, Fault> {
        let commits = self.commits.load(Ordering::Acquire);
        journal::trim(&self.directory, Some(commits)).map_err(fjall::Error::Io)?;
        let db = Db::open(&self.directory, self.options)?;
        let seal = db.seal()?.ok_or_else(|| Fault::Damaged("the storage is empty now".to_owned()))?;
        self.crowded.store(false, Ordering::Release);
        let ours = (seal.mark.epoch, seal.mark.boot) == (self.epoch(), self.boot);
        let lost = self.unsynced.swap(false, Ordering::AcqRel);
        if lost || !ours || seal.mark.commits < commits {
            // It need not be on disk yet: no batch under it goes without a seal that has it, and if there is none
            // before the process ends, then the next open finds a reason for a new epoch by itself.
            let epoch = epoch::fresh(&self.env, &[Some(self.epoch()), Some(seal.mark.epoch)]);
            self.epoch.store(epoch.0, Ordering::Release);
            tracing::warn!(%epoch, "storage epoch renewed: a failure of the disk may have lost writes");
        }
        Ok(db)
    }

    /// The database itself, or a new one of what can be read of it.
    fn without_damage(&self, db: Db) -> Result<Db, Fault> {
        let lost = match self.copy_readable(&db) {
            Ok(0) => return Ok(db),
            Ok(lost) => lost,
            Err(fault) => {
                tracing::warn!(%fault, "the storage's tables may be damaged, and cannot be written anew now");
                return Ok(db);
            }
        };
        drop(db);
        self.swap().map_err(fjall::Error::Io)?;
        self.rebuilds.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(
            lost,
            "a damaged table could not be merged: the storage was written anew, without what was lost"
        );
        self.reopen()
    }

    /// Whether there may be room for more, found out without touching the database.
    fn check_room(&self) -> io::Result<()> {
        let path = self.directory.with_extension("room");
        let written = File::create(&path).and_then(|mut file| {
            file.write_all(&vec![0x5a; limits::STORE_ROOM_FILE])?;
            file.sync_all()
        });
        let removed = fs::remove_file(&path);
        written.and(removed)
    }

    fn check_writable(&self) -> Result<(), StoreError> {
        match self.pulse.trouble() {
            Some(Trouble::Full(reason)) => Err(StoreError::Full(reason)),
            Some(Trouble::ReadOnly(reason)) => Err(StoreError::ReadOnly(reason)),
            Some(Trouble::Down(reason)) => Err(StoreError::Unavailable(reason)),
            Some(Trouble::LosingData(_)) | None => Ok(()),
        }
    }

    pub(super) fn mark(&self) -> Mark {
        Mark { epoch: self.epoch(), boot: self.boot, commits: self.commits.load(Ordering::Acquire) }
    }

    fn next_seal(&self, clean: bool) -> Seal {
        let mark = self.mark();
        Seal { mark: Mark { commits: mark.commits + 1, ..mark }, clean, synced: self.synced() }
    }

    pub(super) fn synced(&self) -> bool {
        self.options.durability == Durability::EveryBatch
    }

    fn write_mode(&self) -> PersistMode {
        if self.synced() { PersistMode::SyncData } else { PersistMode::Buffer }
    }

    fn lock(&self) -> RwLockReadGuard<'_, Open> {
        self.open.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_alone(&self) -> RwLockWriteGuard<'_, Open> {
        self.open.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn db<'a>(&self, open: &'a Open) -> Result<&'a Db, StoreError> {
        open.db.as_ref().ok_or_else(|| match self.pulse.trouble() {
            Some(Trouble::Down(reason)) => StoreError::Unavailable(reason),
            _ => StoreError::Unavailable("it was closed".to_owned()),
        })
    }
}

fn read_error(fault: &Fault) -> StoreError {
    match fault {
        Fault::Refused(error) => error.clone(),
        fault if fault.is_damage() => StoreError::Damaged(fault.to_string()),
        fault => StoreError::Unavailable(fault.to_string()),
    }
}
