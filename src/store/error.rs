//! What can go wrong with a storage, named by what the caller can do about it.
//!
//! Two edges: opening ([`OpenError`], [`Warning`]), whose texts are for the operator and name the remedy, and working
//! ([`StoreError`]), whose variants are for the replica. Nothing here knows how an engine found out.

use std::fmt;
use std::path::PathBuf;

/// Why a call to the storage failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The storage is not at the caller's epoch any more: it was flushed, replaced, rolled back or found damaged.
    /// Nothing was written. Take the new epoch and decide anew.
    #[error("the storage changed its epoch; nothing was written: read again and retry")]
    EpochChanged,
    /// The storage does not answer now. A write may or may not have happened; a later read tells. Retry elsewhere.
    #[error("the storage is unavailable: {0}")]
    Unavailable(String),
    /// The storage has no room for more. Nothing was written; reads work. Retry elsewhere.
    #[error("the storage is full: {0}")]
    Full(String),
    /// The storage takes no writes for another reason. Nothing was written; reads work. Retry elsewhere.
    #[error("the storage is read-only: {0}")]
    ReadOnly(String),
    /// No answer in time. A write may or may not have happened; a later read tells.
    #[error("the storage did not answer in time: {0}")]
    Timeout(String),
    /// The storage contradicts itself. What was asked for cannot be had here; repair from other replicas.
    #[error("the storage is damaged: {0}")]
    Damaged(String),
    /// The call breaks a rule of the interface: a bug of the caller. Nothing was done.
    #[error("the storage was used wrongly: {0}")]
    Misuse(String),
}

/// Why a storage was not opened; the text names the remedy. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file or directory could not be created, read or written.
    #[error("{path}: {error}; make sure that the directory exists and that the node's user may write to it", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Another process has the storage open.
    #[error("{what} is in use by another process; stop that node, or give this one a directory of its own")]
    InUse {
        /// What is in use.
        what: String,
    },
    /// The storage belongs to another node, cluster or partition count.
    #[error(
        "{what} belongs to {found}, but this is {expected}; give each node a storage of its own, or empty this one \
         if its data is not needed any more"
    )]
    Foreign {
        /// Which storage.
        what: String,
        /// Whose it is.
        found: String,
        /// Who asked.
        expected: String,
    },
    /// The stored data cannot be read. Whether others have it, this node cannot know.
    #[error(
        "the storage in {directory} cannot be read: {reason}. Where other nodes hold what it held, as they do unless a \
         namespace has one copy, type mv '{directory}/db' '{directory}/db.damaged' and start the node again: they fill it. \
         Where they do not, that folder is all there is",
        directory = directory.display()
    )]
    Damaged {
        /// Where it is.
        directory: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The server does not answer, or refuses to let the node in.
    #[error("cannot use {what}: {reason}; {remedy}")]
    Unreachable {
        /// Which server.
        what: String,
        /// What happened.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// The server is set up in a way that would lose data or cannot work.
    #[error("{what} is not suitable: {reason}; {remedy}")]
    Unsuitable {
        /// Which server.
        what: String,
        /// What is wrong.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// The configuration of the storage cannot be right.
    #[error("the storage's configuration is not valid: {0}")]
    Config(String),
    /// The process is going down.
    #[error("the storage was not opened because the process is stopping")]
    Stopping,
}

/// Something that the operator should know about a storage that was opened all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// What was found, and what it may cost.
    pub finding: String,
    /// What to do about it.
    pub remedy: String,
}

impl Warning {
    pub(crate) fn new(finding: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { finding: finding.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.finding, self.remedy)
    }
}
