//! Opening the embedded engine: whose storage is it, is it sound, and may its epoch stay.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::RwLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;

use redb::Builder;
use redb::Database;
use redb::DatabaseError;
use redb::StorageError;

use crate::env::Env;
use crate::hash::ClusterHash;
use crate::store::Durability;
use crate::store::MemoFile;
use crate::store::OpenError;
use crate::store::StoreIdentity;
use crate::store::Warning;
use crate::store::embedded::EmbeddedOptions;
use crate::store::embedded::OpenDisk;
use crate::store::embedded::core::Core;
use crate::store::embedded::core::Open;
use crate::store::embedded::tables;
use crate::store::embedded::tables::Seal;
use crate::store::embedded::tables::Sync;
use crate::store::epoch;
use crate::store::epoch::Mark;
use crate::store::epoch::Verdict;
use crate::store::health::Pulse;
use crate::store::memo::Found;

/// Everything that opening needs.
pub(super) struct Opening {
    pub(super) disk: OpenDisk,
    pub(super) memo: MemoFile,
    pub(super) options: EmbeddedOptions,
    pub(super) identity: StoreIdentity,
    pub(super) env: Env,
    /// For messages.
    pub(super) name: PathBuf,
}

/// A database with the settings that are the same for opening and reopening.
pub(super) fn builder(cache_bytes: usize) -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(cache_bytes);
    builder.set_repair_callback(|repair| {
        tracing::info!(percent = repair.progress() * 100.0, "walking the storage after a crash");
    });
    builder
}

impl Opening {
    pub(super) fn run(self) -> Result<(Core, Vec<Warning>), OpenError> {
        let length = Arc::new(AtomicU64::new(0));
        let disk = self.disk.open(length.clone()).map_err(|error| self.file_error(error))?;
        // The database is opened first: its lock keeps two processes from one memo, too.
        let db =
            builder(self.options.cache_bytes).create_with_backend(disk).map_err(|error| self.database_error(error))?;
        let hash = ClusterHash::new(&self.identity.cluster);
        let memo = self.memo.load(&hash);
        let memo = memo.map_err(|error| OpenError::File { path: self.memo.path().to_owned(), error })?;

        let (seal, warnings) = self.admit(&db, &memo)?;
        let core = Core {
            disk: self.disk,
            memo: self.memo,
            options: self.options,
            hash,
            env: self.env,
            length,
            pulse: Pulse::default(),
            boot: seal.mark.boot,
            epoch: AtomicU64::new(seal.mark.epoch.0),
            tried: AtomicU64::new(seal.mark.commits),
            landed: AtomicU64::new(seal.mark.commits),
            unsynced: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            pause: AtomicU32::new(0),
            open: RwLock::new(Open { db: Some(db), generation: 0, closed: false }),
        };
        core.save_memo(false).map_err(|error| OpenError::File { path: core.memo.path().to_owned(), error })?;
        Ok((core, warnings))
    }

    /// Checks whose storage it is, decides on the epoch, and seals the storage for this session.
    fn admit(&self, db: &Database, memo: &Found) -> Result<(Seal, Vec<Warning>), OpenError> {
        let damaged = |error: redb::Error| self.redb_error(error);
        let tx = tables::begin(db, Sync::Quick).map_err(damaged)?;
        let (owner, old) = tables::create(&tx).map_err(damaged)?;
        let expected = identity_text(&self.identity);
        match owner {
            Some(owner) if owner != expected.as_bytes() => return Err(self.foreign(&owner)),
            Some(_) => {}
            None => tables::put_identity(&tx, expected.as_bytes()).map_err(damaged)?,
        }
        let (seal, warnings) = self.seal(old, memo);
        tables::put_seal(&tx, &seal).map_err(damaged)?;
        tx.commit().map_err(|error| damaged(error.into()))?;
        Ok((seal, warnings))
    }

    fn seal(&self, old: Option<Seal>, memo: &Found) -> (Seal, Vec<Warning>) {
        let remembered = if let Found::Memo(memo) = memo { Some(memo) } else { None };
        let mark = old.map(|old| old.mark);
        let whole = old.is_some_and(|old| old.clean || old.synced);
        let verdict = epoch::judge(mark.as_ref(), remembered, whole);
        let known = [mark, remembered.map(|memo| memo.mark)];
        let epoch = match verdict {
            Verdict::Keep(epoch) => epoch,
            Verdict::Renew(_) => epoch::fresh(&self.env, &known.map(|mark| mark.map(|mark| mark.epoch))),
        };
        let above = |part: fn(Mark) -> u64| known.into_iter().flatten().map(part).max().unwrap_or(0) + 1;
        let mark = Mark { epoch, boot: above(|mark| mark.boot), commits: above(|mark| mark.commits) };
        let synced = self.options.durability == Durability::EveryBatch;
        let new = old.is_none() && *memo == Found::Nothing;
        let warnings = match verdict {
            Verdict::Renew(reason) if !new => vec![Warning::new(
                format!("the storage epoch was renewed: {reason}"),
                "nothing is to be done; what is missing comes back from the other replicas",
            )],
            Verdict::Renew(_) | Verdict::Keep(_) => Vec::new(),
        };
        (Seal { mark, clean: false, synced }, warnings)
    }

    fn foreign(&self, owner: &[u8]) -> OpenError {
        let owner = String::from_utf8_lossy(owner).into_owned();
        OpenError::Foreign { what: self.what(), found: owner, expected: identity_text(&self.identity) }
    }

    fn what(&self) -> String {
        format!("the storage in {}", self.name.display())
    }

    fn file_error(&self, error: io::Error) -> OpenError {
        OpenError::File { path: self.name.clone(), error }
    }

    fn database_error(&self, error: DatabaseError) -> OpenError {
        match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
                OpenError::InUse { what: self.what() }
            }
            DatabaseError::Storage(StorageError::Io(error)) if error.kind() != io::ErrorKind::InvalidData => {
                self.file_error(error)
            }
            other => OpenError::Damaged { what: self.what(), reason: other.to_string() },
        }
    }

    fn redb_error(&self, error: redb::Error) -> OpenError {
        match error {
            redb::Error::Io(error) => self.file_error(error),
            other => OpenError::Damaged { what: self.what(), reason: other.to_string() },
        }
    }
}

/// Whose storage it is, as it is written into the storage. The number in front is the version of the format.
fn identity_text(identity: &StoreIdentity) -> String {
    format!("{identity}, storage format 1")
}
