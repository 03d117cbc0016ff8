//! The messages by which nodes agree to drop a dead record: one whose versions are all deleted or expired.

use serde::{Deserialize, Serialize};

use crate::types::{Epoch, NodeId};
use crate::version::Context;
use crate::wire::past::Landmark;
use crate::wire::rpc::SlotRef;

/// A step towards dropping dead records.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReapOrder {
    /// The digest of the cluster that the asker knows; the answerer must know the same.
    pub view: u64,
    /// Absent to ask whether the owner holds just this record, on disk, and anybody else nothing. Present to have it
    /// dropped, by the life of the owner that agreed.
    pub life: Option<Life>,
    /// The records, at most [`crate::limits::REAP_MESSAGE_KEYS_MAX`].
    pub keys: Vec<DeadRecord>,
    /// With an order to drop: how far the members' storages had come when they agreed. Kept before anything is dropped, so
    /// that an older copy of one of them is known for what it is.
    pub landmarks: Vec<(NodeId, Landmark)>,
}

/// A dead record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadRecord {
    /// Its place.
    pub slot: SlotRef,
    /// Its digest.
    pub digest: u64,
    /// What it has seen.
    pub seen: Context,
}

/// One life of a node's process and storage: what it agreed to in another means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// Drawn when the process started.
    pub process: u64,
    /// The storage's epoch.
    pub epoch: Epoch,
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReapAnswer {
    /// The life that answers.
    pub life: Life,
    /// For each record, in order, whether it is so, or was dropped.
    pub agreed: Vec<bool>,
    /// How far the answerer's storage has come, on its disk.
    pub landmark: Landmark,
}
