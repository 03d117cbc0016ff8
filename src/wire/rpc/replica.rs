//! What coordinators ask of replicas: to keep, reserve and hand out records. Knows nothing of what records mean.

use serde::{Deserialize, Serialize};

use crate::types::{Bucket, Condition, NodeId, PartitionId};
use crate::version::{Context, RequestId};
use crate::wire::blob::Blob;

/// The place of a record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlotRef {
    /// The part of the storage.
    pub bucket: Bucket,
    /// The storage key within it.
    pub key: Blob,
}

/// A record for a replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplicaWrite {
    /// Its place.
    pub slot: SlotRef,
    /// The encoded record (see [`crate::record`]).
    pub record: Blob,
    /// The owners for whom the receiver stands in; it keeps a hint for each.
    pub hints: Vec<NodeId>,
    /// The reservation without which it must not be written.
    pub reservation: Option<u64>,
}

/// A key that is to be reserved for a conditional write.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReserveRequest {
    /// The key.
    pub slot: SlotRef,
    /// What must hold here.
    pub condition: Condition,
    /// What the writer has seen.
    pub seen: Context,
    /// The writer's own write before this one.
    pub after: Vec<RequestId>,
    /// The write itself: its own earlier attempt does not count against it.
    pub request: RequestId,
    /// What the reservation is known by.
    pub token: u64,
    /// Milliseconds after which it lapses if its write has not begun.
    pub lease_ms: u64,
}

/// A request for one page of a partition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PageRequest {
    /// The partition.
    pub partition: PartitionId,
    /// Storage keys that begin with this.
    pub prefix: Blob,
    /// Storage keys after this one.
    pub after: Option<Blob>,
    /// Most records wanted.
    pub limit: u32,
}

/// What a replica holds of one key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Fetched {
    /// Nothing.
    Missing,
    /// The record.
    Record(Blob),
    /// The record's digest.
    Digest(u64),
}
