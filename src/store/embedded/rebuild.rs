//! Writing the database anew from what can be read of it: a table with a damaged place cannot be merged with others, and a
//! database that cannot merge takes no more writes.
//!
//! What cannot be read is left out, so the new database has less than was acknowledged: it gets another epoch, and its node
//! fetches the rest from the other replicas. Nothing here decides when; the files are swapped by [`super::core`]'s mending.

use std::fs;
use std::io;
use std::io::ErrorKind;
use std::path::Path;
use std::path::PathBuf;

use bytes::Bytes;
use fjall::PersistMode;

use crate::limits;
use crate::store::Mutation;
use crate::store::ScanRange;
use crate::store::Slot;
use crate::store::UNREADABLE;
use crate::store::embedded::core::Core;
use crate::store::embedded::database::Db;
use crate::store::embedded::fault::Fault;
use crate::store::epoch;
use crate::store::epoch::Mark;
use crate::store::epoch::Seal;
use crate::store::files::create_directory;
use crate::types::Bucket;

impl Core {
    /// Writes what can be read of a database into a new one beside it. Returns how many places could not be read; none
    /// means that the database is as good as a new one, and that there is none.
    pub(super) fn copy_readable(&self, old: &Db) -> Result<u64, Fault> {
        let path = self.beside("new");
        discard(&path).and_then(|()| create_directory(&path)).map_err(fjall::Error::Io)?;
        let copied = self.copy(old, &path);
        if !matches!(copied, Ok(1..)) {
            discard(&path).map_err(fjall::Error::Io)?;
        }
        copied
    }

    fn copy(&self, old: &Db, path: &Path) -> Result<u64, Fault> {
        let new = Db::open(path, self.options)?;
        let mut lost = 0;
        for bucket in self.buckets.buckets().chain([Bucket::HINTS]) {
            lost += copy_bucket(old, &new, bucket)?;
        }
        if lost == 0 {
            return Ok(0);
        }
        let mut batch = new.batch(PersistMode::SyncAll);
        batch.put_identity(&old.identity()?.ok_or_else(|| Fault::Damaged("nobody knows whose it is".to_owned()))?);
        // Not the epoch of what it was copied from, whoever opens it next.
        let mark = Mark { epoch: epoch::fresh(&self.env, &[Some(self.epoch())]), ..self.mark() };
        batch.put_seal(&Seal { mark, clean: false, synced: self.synced() })?;
        batch.commit()?;
        Ok(lost)
    }

    /// Puts the new database in the place of the old one. Both are closed. A crash on the way leaves one of them, or none,
    /// which is another way to have lost everything.
    pub(super) fn swap(&self) -> io::Result<()> {
        let old = self.beside("old");
        discard(&old)?;
        fs::rename(&self.directory, &old)?;
        fs::rename(self.beside("new"), &self.directory)?;
        discard(&old)
    }

    fn beside(&self, extension: &str) -> PathBuf {
        self.directory.with_extension(extension)
    }
}

/// Copies one bucket; returns how many places of it could not be read.
fn copy_bucket(old: &Db, new: &Db, bucket: Bucket) -> Result<u64, Fault> {
    let (mut lost, mut after) = (0, None);
    loop {
        let (limit, bytes) = (limits::STORE_DELETE_STEP, limits::SCAN_PAGE_BYTES);
        let page = old.scan(&ScanRange { bucket, prefix: Bytes::new(), after, limit, bytes })?;
        lost += page.damaged;
        after = page.items.last().map(|(key, _)| key.clone());
        let (good, bad): (Vec<_>, Vec<_>) = page.items.into_iter().partition(|(_, value)| *value != UNREADABLE);
        lost += bad.len() as u64;
        let put = |(key, value)| Mutation::Put { slot: Slot { bucket, key }, value };
        while new.make_room()? {
            // What waits anyway; and it fails when the worker that makes room has.
            new.sync()?;
        }
        let mut batch = new.batch(PersistMode::Buffer);
        batch.apply(&good.into_iter().map(put).collect::<Vec<Mutation>>());
        batch.commit()?;
        if !page.more {
            return Ok(lost);
        }
    }
}

/// Removes what a crash left while a database was written anew.
pub(super) fn clean_up(directory: &Path) -> io::Result<()> {
    discard(&directory.with_extension("new"))?;
    discard(&directory.with_extension("old"))
}

/// Removes a folder, if it is there.
fn discard(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
