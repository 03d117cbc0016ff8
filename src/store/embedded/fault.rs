//! How the embedded engine fails, and what of it means that the disk is full or the data damaged.
//!
//! It only sorts errors; what follows from them is decided in [`super::core`].

use std::io;
use std::io::ErrorKind;

use fjall::LsmError;

use crate::store::StoreError;

/// Why an operation on the database failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// The engine refused it; the database is as it was.
    Refused(StoreError),
    /// The database or the disk failed.
    Disk(fjall::Error),
    /// The database holds what it cannot hold.
    Damaged(String),
}

impl From<fjall::Error> for Fault {
    fn from(error: fjall::Error) -> Self {
        Self::Disk(error)
    }
}

impl Fault {
    /// The error of the system that it came from, if the database passes it on.
    pub(super) fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Disk(fjall::Error::Io(error) | fjall::Error::Storage(LsmError::Io(error))) => Some(error),
            _ => None,
        }
    }

    /// Whether the database gave up because of something that happened before.
    pub(super) fn gave_up(&self) -> bool {
        matches!(self, Self::Disk(fjall::Error::Poisoned))
    }

    /// Whether the disk had no room for more.
    pub(super) fn is_full(&self) -> bool {
        self.io().is_some_and(no_room)
    }

    /// Whether stored data cannot be read for what it holds, not for the disk's sake.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Self::Refused(_) => false,
            Self::Damaged(_) => true,
            Self::Disk(fjall::Error::Poisoned | fjall::Error::Locked | fjall::Error::KeyspaceDeleted) => false,
            Self::Disk(_) => self.io().is_none_or(damage),
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(error) => write!(f, "{error}"),
            Self::Disk(fjall::Error::Poisoned) => {
                write!(f, "a write to the disk failed, or a file could not be read in the background")
            }
            Self::Disk(fjall::Error::Storage(error)) => match self.io() {
                Some(error) => write!(f, "{error}"),
                None => write!(f, "{error:?}"),
            },
            Self::Disk(fjall::Error::Io(error)) => write!(f, "{error}"),
            Self::Disk(error) => write!(f, "{error:?}"),
            Self::Damaged(reason) => write!(f, "{reason}"),
        }
    }
}

/// Whether this says that there was no room on the disk.
pub(super) fn no_room(error: &io::Error) -> bool {
    use ErrorKind::FileTooLarge;
    use ErrorKind::QuotaExceeded;
    use ErrorKind::StorageFull;
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// Whether this says that a file is not what it was, rather than that the disk failed.
pub(super) fn damage(error: &io::Error) -> bool {
    use ErrorKind::AlreadyExists;
    use ErrorKind::InvalidData;
    // Of a place before the beginning: the file is shorter than what it ends with.
    use ErrorKind::InvalidInput;
    use ErrorKind::NotFound;
    use ErrorKind::UnexpectedEof;
    matches!(error.kind(), AlreadyExists | InvalidData | InvalidInput | NotFound | UnexpectedEof)
}
