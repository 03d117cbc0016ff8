//! Opening the embedded engine: whose storage is it, is it sound, and may its epoch stay.

use std::fs;
use std::fs::File;
use std::fs::TryLockError;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::RwLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;

use fjall::LsmError;
use fjall::PersistMode;

use crate::env::Env;
use crate::hash::ClusterHash;
use crate::store::Durability;
use crate::store::OpenError;
use crate::store::StoreIdentity;
use crate::store::Warning;
use crate::store::embedded::EmbeddedOptions;
use crate::store::embedded::core::Core;
use crate::store::embedded::core::Open;
use crate::store::embedded::database::Db;
use crate::store::embedded::fault;
use crate::store::embedded::fault::Fault;
use crate::store::embedded::journal;
use crate::store::embedded::journal::Tail;
use crate::store::embedded::rebuild;
use crate::store::embedded::recent::Recent;
use crate::store::epoch;
use crate::store::epoch::Seal;
use crate::store::files::create_directory;
use crate::store::health::Pulse;
use crate::store::memo::Found;
use crate::store::memo::MemoFile;

/// Everything that opening needs.
pub(super) struct Opening {
    pub(super) directory: PathBuf,
    pub(super) options: EmbeddedOptions,
    pub(super) identity: StoreIdentity,
    pub(super) env: Env,
}

/// The storage in this directory, for messages.
fn name(directory: &Path) -> String {
    format!("the storage in {}", directory.display())
}

impl Opening {
    pub(super) fn run(self) -> Result<(Core, Vec<Warning>), OpenError> {
        let directory = self.directory.join("db");
        create_directory(&directory).map_err(|error| self.file_error(error))?;
        // Locked before anything is looked at, so that two processes share neither the database nor the memo.
        let lock = self.lock()?;
        rebuild::clean_up(&directory).map_err(|error| self.file_error(error))?;
        let tail = journal::trim(&directory, None).map_err(|error| self.fault(Fault::Disk(error.into())))?;
        let db = Db::open(&directory, self.options).map_err(|fault| self.fault(fault))?;
        let hash = ClusterHash::new(&self.identity.cluster);
        let memo_file = MemoFile::at(self.directory.join("store.memo"));
        let memo = memo_file.load(&hash);
        let memo = memo.map_err(|error| OpenError::File { path: memo_file.path().to_owned(), error })?;

        let run = machine_run();
        let (seal, warnings) = self.admit(&db, &memo, tail, &run)?;
        let core = Core {
            directory,
            memo: memo_file,
            options: self.options,
            hash,
            buckets: self.identity.buckets,
            env: self.env,
            pulse: Pulse::default(),
            boot: seal.mark.boot,
            run,
            epoch: AtomicU64::new(seal.mark.epoch.0),
            commits: AtomicU64::new(seal.mark.commits),
            unsynced: AtomicBool::new(false),
            syncing: Mutex::new(()),
            crowded: AtomicBool::new(false),
            mendings: AtomicU32::new(0),
            well: AtomicU32::new(0),
            pause: AtomicU32::new(0),
            rebuilds: AtomicU64::new(0),
            writer: Mutex::new(()),
            recent: Recent::new(self.options.cache_bytes / 2),
            open: RwLock::new(Open { db: Some(db), lock: Some(lock), generation: 0 }),
        };
        core.save_memo(false).map_err(|error| OpenError::File { path: core.memo.path().to_owned(), error })?;
        Ok((core, warnings))
    }

    fn lock(&self) -> Result<File, OpenError> {
        let lock = File::create(self.directory.join("store.lock")).map_err(|error| self.file_error(error))?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse { what: name(&self.directory) }),
            Err(TryLockError::Error(error)) => Err(self.file_error(error)),
        }
    }

    /// Checks whose storage it is, decides on the epoch, and seals the storage for this session.
    fn admit(&self, db: &Db, memo: &Found, tail: Tail, run: &str) -> Result<(Seal, Vec<Warning>), OpenError> {
        let fault = |fault| self.fault(fault);
        let (owner, old) = (db.identity().map_err(fault)?, db.seal().map_err(fault)?);
        let expected = identity_text(&self.identity);
        if let Some(owner) = owner
            && owner != expected.as_bytes()
        {
            return Err(self.foreign(&owner));
        }
        let (seal, warnings) = self.seal(old, memo, tail, run);
        let mut batch = db.batch(PersistMode::SyncAll);
        batch.put_identity(expected.as_bytes());
        batch.put_seal(&seal).and_then(|()| batch.commit()).map_err(fault)?;
        Ok((seal, warnings))
    }

    fn seal(&self, old: Option<Seal>, memo: &Found, tail: Tail, run: &str) -> (Seal, Vec<Warning>) {
        let remembered = if let Found::Memo(memo) = memo { Some(memo) } else { None };
        let (mark, verdict) = epoch::succeed_on_disk(&self.env, old, remembered, run, tail != Tail::Several);
        let synced = self.options.durability == Durability::EveryBatch;
        let new = old.is_none() && *memo == Found::Nothing;
        let warning = verdict.warning().filter(|_| !new);
        (Seal { mark, clean: false, synced }, warning.into_iter().collect())
    }

    fn foreign(&self, owner: &[u8]) -> OpenError {
        let owner = String::from_utf8_lossy(owner).into_owned();
        OpenError::Foreign { what: name(&self.directory), found: owner, expected: identity_text(&self.identity) }
    }

    fn file_error(&self, error: io::Error) -> OpenError {
        OpenError::File { path: self.directory.clone(), error }
    }

    fn fault(&self, fault: Fault) -> OpenError {
        match fault {
            Fault::Disk(fjall::Error::Locked) => OpenError::InUse { what: name(&self.directory) },
            Fault::Disk(fjall::Error::Io(error) | fjall::Error::Storage(LsmError::Io(error)))
                if !fault::damage(&error) =>
            {
                self.file_error(error)
            }
            other => OpenError::Damaged { directory: self.directory.clone(), reason: other.to_string() },
        }
    }
}

/// Whose storage it is, as it is written into the storage. The number in front is the version of the format.
fn identity_text(identity: &StoreIdentity) -> String {
    format!("{identity}, storage format 1")
}

/// The name that the system gives to the time since it started; empty where it gives none.
fn machine_run() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    name.trim().to_owned()
}
