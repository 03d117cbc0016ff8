//! What nodes say to each other to bring replicas together, and what administrators ask about it.
//!
//! See [`crate::wire::rpc`] for the rules of messages. Nothing is remembered between two of these: each stands alone.

use serde::{Deserialize, Serialize};

use crate::types::{Copies, NodeName, PartitionId};
use crate::wire::blob::Blob;

/// Names one hash tree: records of one partition, in namespaces of which there are so many copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TreeId {
    /// The partition.
    pub partition: PartitionId,
    /// Copies of each record.
    pub copies: Copies,
}

/// The root of one of the asker's trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeRoot {
    /// The tree.
    pub tree: TreeId,
    /// The sum of all that is in it.
    pub root: u128,
}

/// How the answerer's tree compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootVerdict {
    /// Both hold the same records.
    Equal,
    /// They do not.
    Differs,
    /// The answerer does not know yet what it holds, or is busy with this partition.
    Later,
    /// The answerer owns no such records.
    NotOwner,
}

/// A question for sums inside a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SumsRequest {
    /// The tree.
    pub tree: TreeId,
    /// The level, counted from the root.
    pub level: u32,
    /// The nodes of that level.
    pub nodes: Vec<u32>,
}

/// A question for the records in which two trees differ, within a range of keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordsRequest {
    /// The tree.
    pub tree: TreeId,
    /// Its leaves that differ; none stands for all.
    pub leaves: Vec<u32>,
    /// Storage keys after this one.
    pub after: Option<Blob>,
    /// Storage keys up to this one, itself included.
    pub until: Option<Blob>,
    /// What the asker holds in these leaves and this range: hash of the key within the tree, digest of the record.
    pub held: Vec<(u64, u64)>,
}

/// What the answerer holds that the asker does not, and the other way round.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordsPage {
    /// Storage keys and records, in order.
    pub records: Vec<(Blob, Blob)>,
    /// The last key that was looked at, when that is not yet the end of the range.
    pub covered: Option<Blob>,
    /// Hashes of the keys whose records the answerer lacks, in this form or at all. Those behind `covered` mean nothing.
    pub wanted: Vec<u64>,
}

/// Asks a node to compare its trees with the other owners' now, or how far that has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairRequest {
    /// The partition; all that the node owns when absent.
    pub partition: Option<PartitionId>,
    /// The beginning of a repair that is under way; absent to begin one.
    pub since_ms: Option<u64>,
}

/// How far a repair has come at one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairProgress {
    /// When it began, by the node's own count.
    pub since_ms: u64,
    /// The trees concerned.
    pub trees: Vec<TreeAge>,
    /// All that the node knows of its anti-entropy.
    pub sync: SyncStatus,
}

/// When a tree was last found equal, or made so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeAge {
    /// The tree.
    pub tree: TreeId,
    /// Other owners.
    pub peers: u32,
    /// Those among them with which it was compared since the repair began.
    pub done: u32,
    /// Milliseconds since the least recent comparison; absent when there was none with one of them.
    pub age_ms: Option<u64>,
    /// Those among the others with which it cannot be made equal, since one of the two did not take over records.
    pub refused: u32,
}

/// How a node's anti-entropy stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncStatus {
    /// Partitions that the node owns, for any number of copies.
    pub partitions: u64,
    /// Those whose trees are known; the others are being read.
    pub known: u64,
    /// The other owners.
    pub peers: Vec<PeerSync>,
}

/// The same with one other owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerSync {
    /// Its name.
    pub name: NodeName,
    /// Trees both own.
    pub trees: u64,
    /// Those found equal, or made so, since this node started.
    pub verified: u64,
    /// Milliseconds since the least recent of these comparisons; absent while some tree was not compared yet.
    pub oldest_ms: Option<u64>,
    /// Records that came from it.
    pub records_in: u64,
    /// Records that went to it.
    pub records_out: u64,
    /// Bytes of all answers and requests that came from it in exchanges that this node began.
    pub bytes_in: u64,
    /// Bytes that went to it in the same.
    pub bytes_out: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::golden::hex;

    #[test]
    fn messages_are_pinned_because_other_versions_read_them() {
        let tree = TreeId { partition: PartitionId(7), copies: Copies::settled(3) };
        assert_eq!(hex(&TreeRoot { tree, root: 300 }), "070303ac02");
        let verdicts = [RootVerdict::Equal, RootVerdict::Differs, RootVerdict::Later, RootVerdict::NotOwner];
        assert_eq!(hex(&verdicts), "00010203");
        assert_eq!(hex(&SumsRequest { tree, level: 1, nodes: vec![2] }), "070303010102");
        let after = Some(Blob::copy(b"k"));
        let request = RecordsRequest { tree, leaves: vec![5], after, until: None, held: vec![(1, 2)] };
        assert_eq!(hex(&request), "070303010501016b00010102");
        let records = vec![(Blob::copy(b"k"), Blob::copy(b"r"))];
        let page = RecordsPage { records, covered: None, wanted: vec![9] };
        assert_eq!(hex(&page), "01016b0172000109");
        assert_eq!(hex(&RepairRequest { partition: None, since_ms: Some(5) }), "000105");
    }
}
