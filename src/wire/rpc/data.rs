//! Puts, gets and scans, as clients ask for them and are answered. What becomes of them at replicas is in `replica`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::types::{Bucket, Condition, Consistency, Namespace};
use crate::version::{Context, Dot, RequestId, Stamp};
use crate::wire::blob::Blob;

/// A write of one or more keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PutRequest {
    /// Where the keys live.
    pub namespace: Namespace,
    /// The writes, at most [`limits::BATCH_KEYS_MAX`].
    pub items: Vec<PutItem>,
    /// Replicas that must hold each write before it is acknowledged; the namespace's W when absent.
    pub w: Option<Consistency>,
    /// Whether stand-ins may count; the namespace's rule when absent.
    pub sloppy: Option<bool>,
    /// Set when the client has sent these requests before and does not know what became of them.
    pub retry: bool,
}

/// The write of one key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PutItem {
    /// The key.
    pub key: Blob,
    /// The value; `None` deletes.
    pub value: Option<Blob>,
    /// What the writer has read; empty for a blind write.
    pub context: KeyContext,
    /// The client's name for this write, the same in every retry.
    pub request: RequestId,
    /// Life of the value from now on; the namespace's when absent.
    pub ttl: Option<Duration>,
    /// What must hold for the write to happen.
    pub condition: Option<Condition>,
}

/// A write that was acknowledged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PutDone {
    /// The context after the write: carrying it makes the next write supersede this one and what it had seen.
    pub context: KeyContext,
    /// The name of the write.
    pub dot: Dot,
    /// Replicas that had it when it was acknowledged.
    pub acks: u8,
}

/// A causal context, bound to the key it was read from: under another key it would supersede what nobody has read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyContext {
    /// The key's position in the hash space.
    pub position: u64,
    /// What has been seen.
    pub context: Context,
    /// The writes whose values were read, and the reader's own, the latest last: at most [`limits::SUPERSEDED_MAX`]. A write
    /// that was coordinated twice has two names, of which the context may cover one; by these the other is superseded too,
    /// wherever it is.
    pub wrote: Vec<RequestId>,
}

impl KeyContext {
    /// Whether it keeps the limits of a context.
    pub fn is_valid(&self) -> bool {
        self.context.is_valid() && self.wrote.len() <= limits::SUPERSEDED_MAX
    }

    /// Adds the latest write that was read or made; beyond the limit the earliest is forgotten.
    pub fn note(&mut self, write: RequestId) {
        self.wrote.retain(|one| *one != write);
        self.wrote.push(write);
        self.wrote.drain(..self.wrote.len().saturating_sub(limits::SUPERSEDED_MAX));
    }

    /// Whether it names nothing.
    pub fn is_empty(&self) -> bool {
        self.context.is_empty() && self.wrote.is_empty()
    }
}

/// A read of one or more keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GetRequest {
    /// Where the keys live.
    pub namespace: Namespace,
    /// The keys, at most [`limits::BATCH_KEYS_MAX`].
    pub keys: Vec<Blob>,
    /// Replicas that must answer; the namespace's R when absent.
    pub r: Option<Consistency>,
    /// Whether so many must hold what is returned before it is: those of them that are behind are repaired first.
    pub strict: bool,
}

/// What a read found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GetDone {
    /// The concurrent values, none when the key does not exist.
    pub siblings: Vec<SiblingInfo>,
    /// What was seen; carry it into the next write of this key.
    pub context: KeyContext,
}

/// One of the concurrent values of a key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SiblingInfo {
    /// The value.
    pub value: Blob,
    /// Milliseconds since the Unix epoch from which on it is gone.
    pub expires_at: Option<u64>,
    /// The name of the write.
    pub dot: Dot,
    /// When it was coordinated.
    pub stamp: Stamp,
}

/// A request for one page of a scan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScanRequest {
    /// Where the keys live.
    pub namespace: Namespace,
    /// Keys that begin with this.
    pub prefix: Blob,
    /// Where the previous page ended; `None` for the first.
    pub cursor: Option<ScanCursor>,
    /// Most keys wanted.
    pub limit: u32,
    /// Replicas that must answer for each partition; the namespace's R when absent.
    pub r: Option<Consistency>,
    /// Whether values are left out.
    pub keys_only: bool,
}

/// A place in a scan: it stays valid when owners change and when partitions are cut, since neither moves a key in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanCursor {
    /// The part of the hash space to go on with.
    pub bucket: Bucket,
    /// The last key that was returned from it, if any.
    pub after: Option<Blob>,
}

/// A page of a scan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScanDone {
    /// Keys with what was found under them.
    pub items: Vec<(Blob, GetDone)>,
    /// Where to go on; `None` at the end.
    pub next: Option<ScanCursor>,
}
