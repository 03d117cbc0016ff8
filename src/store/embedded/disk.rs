//! What lies under the embedded engine: a file, or a disk that a test or simulation provides.
//!
//! It only forwards, and keeps count of the length. What a failure means is decided above.

use std::fmt;
use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use redb::BackendError;
use redb::StorageBackend;
use redb::backends::FileBackend;

use crate::limits;

type Opener = dyn Fn() -> io::Result<Box<dyn StorageBackend>> + Send + Sync;

/// How to get at the disk: called when the engine opens, and again when it reopens after a failure of the disk.
#[derive(Clone)]
pub struct OpenDisk {
    open: Arc<Opener>,
    /// A file that may be written and deleted beside the disk.
    room: Option<PathBuf>,
}

impl OpenDisk {
    /// The disk that this function gives; each call is to give the same contents.
    pub fn new(open: impl Fn() -> io::Result<Box<dyn StorageBackend>> + Send + Sync + 'static) -> Self {
        Self { open: Arc::new(open), room: None }
    }

    /// One disk that outlives the engines opened on it.
    pub fn shared(disk: Arc<dyn StorageBackend>) -> Self {
        Self::new(move || Ok(Box::new(Shared(disk.clone()))))
    }

    /// A file, created when missing, and locked against other processes.
    pub(super) fn file(path: PathBuf) -> Self {
        let room = path.with_extension("room");
        let open = Self::new(move || {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
            Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
        });
        Self { room: Some(room), ..open }
    }

    /// Whether there may be room for more, found out without touching the disk itself.
    pub(super) fn check_room(&self) -> io::Result<()> {
        let Some(path) = &self.room else { return Ok(()) };
        let written = File::create(path).and_then(|mut file| {
            file.write_all(&vec![0x5a; limits::STORE_ROOM_FILE])?;
            file.sync_all()
        });
        let removed = fs::remove_file(path);
        written.and(removed)
    }

    /// Opens the disk; its length is kept in `length` from now on.
    pub(super) fn open(&self, length: Arc<AtomicU64>) -> io::Result<Disk> {
        let inner = (self.open)()?;
        length.store(inner.len()?, Ordering::Relaxed);
        Ok(Disk { inner, length })
    }
}

impl fmt::Debug for OpenDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenDisk").finish_non_exhaustive()
    }
}

/// A disk whose length can be told without asking it.
#[derive(Debug)]
pub(super) struct Disk {
    inner: Box<dyn StorageBackend>,
    length: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Shared(Arc<dyn StorageBackend>);

/// Forwards the methods of a backend; `$after` sees each new length.
macro_rules! forward {
    ($type:ty, $inner:ident => $disk:expr, $after:expr) => {
        impl StorageBackend for $type {
            fn len(&self) -> io::Result<u64> {
                let $inner = self;
                $disk.len()
            }
            fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
                let $inner = self;
                $disk.read(offset, out)
            }
            fn set_len(&self, len: u64) -> io::Result<()> {
                let $inner = self;
                $disk.set_len(len)?;
                $after(self, len);
                Ok(())
            }
            fn sync_data(&self) -> io::Result<()> {
                let $inner = self;
                $disk.sync_data()
            }
            fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
                let $inner = self;
                $disk.write(offset, data)
            }
            fn close(&self) -> io::Result<()> {
                let $inner = self;
                $disk.close()
            }
            fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
                let $inner = self;
                $disk.try_lock_range(start, end)
            }
            fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
                let $inner = self;
                $disk.try_lock_shared_range(start, end)
            }
            fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
                let $inner = self;
                $disk.lock_range(start, end)
            }
            fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
                let $inner = self;
                $disk.lock_shared_range(start, end)
            }
            fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
                let $inner = self;
                $disk.unlock_range(start, end)
            }
            fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
                let $inner = self;
                $disk.query_lock_range(start, end)
            }
        }
    };
}

forward!(Disk, this => this.inner, |this: &Disk, len| this.length.store(len, Ordering::Relaxed));
forward!(Shared, this => this.0, |_: &Shared, _| {});
