//! Requests and replies, whoever sends them: what may be asked of a node, and what it may answer.
//!
//! Messages are postcard, which is positional: variants and fields are only ever added at the end, and the golden bytes
//! in the tests hold that. The lanes carry the deadline, so it is not repeated here. What only some part of a node
//! understands is in a module of that name beside this one.

mod cluster;
mod data;
mod error;
mod replica;

use serde::{Deserialize, Serialize};

use crate::types::TraceId;
use crate::version::Context;
use crate::wire::blob::Blob;
use crate::wire::gossip::{GossipReply, GossipRequest, KeyOrder, KeysReport, MembersReport};
use crate::wire::layout::{LayoutReply, LayoutRequest};
use crate::wire::past::{DroppedAnswer, DroppedRequest, Landmark, Sight};
use crate::wire::reap::{ReapAnswer, ReapOrder};
use crate::wire::status::NodeStatus;
use crate::wire::sync::TreeRoot;
use crate::wire::sync::{RecordsPage, RecordsRequest, RepairProgress, RepairRequest, RootVerdict, SumsRequest};
use crate::wire::tasks::{TasksReport, TasksRequest};

pub use cluster::{ClusterInfo, MemberInfo};
pub use data::{
    GetDone, GetRequest, KeyContext, PutDone, PutItem, PutRequest, ScanCursor, ScanDone, ScanRequest, SiblingInfo,
};
pub use error::{QuorumError, ServeError, Verb, check_key, check_value};
pub use replica::{Fetched, PageRequest, ReplicaWrite, ReserveRequest, SlotRef};

/// A request as it travels: with the number under which every node concerned logs it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Traced<R = Request> {
    /// The number.
    pub trace: TraceId,
    /// The version of the layout that the asker works by; none where that does not matter.
    pub layout: Option<u64>,
    /// What is asked.
    pub request: R,
}

impl<R> Traced<R> {
    /// A request that belongs to nothing that was asked for.
    pub fn untraced(request: R) -> Self {
        Self { trace: TraceId::NONE, layout: None, request }
    }
}

/// What may be asked of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Write keys of one namespace; each stands and fails alone.
    Put(PutRequest),
    /// Read keys of one namespace.
    Get(GetRequest),
    /// Read a page of a namespace in the order of partitions, then keys.
    Scan(ScanRequest),
    /// The cluster as this node knows it: what a client needs for routing.
    View,
    /// How this node is.
    Status,
    /// Peers only: merge records into this replica.
    Apply(Vec<ReplicaWrite>),
    /// Peers only: the records of these keys as this replica holds them.
    Fetch {
        /// The keys.
        slots: Vec<SlotRef>,
        /// Whether only the digests are wanted.
        digest_only: bool,
    },
    /// Peers only: a page of one partition as this replica holds it.
    FetchPage(PageRequest),
    /// Peers only: reserve a key for a conditional write, if its condition holds here.
    Reserve(ReserveRequest),
    /// Peers only: a reservation is not needed any more.
    Release {
        /// The key.
        slot: SlotRef,
        /// Whose reservation.
        token: u64,
    },
    /// Nodes only, members or not: what gossip says over a connection.
    Gossip(GossipRequest),
    /// The members as this node sees them.
    Members,
    /// Administrators only: the keys of gossip.
    Keys(KeyOrder),
    /// Administrators only: what the node logs, after it was set to these filters if there are any; at most
    /// [`crate::limits::LOG_FILTER_MAX`] bytes.
    Log(Option<String>),
    /// The cluster, once it is another than the one with this digest; [`Reply::Unchanged`] shortly before the deadline.
    Watch {
        /// The digest of what the asker knows.
        known: u64,
    },
    /// Peers only: compare the roots of hash trees.
    SyncRoots(Vec<TreeRoot>),
    /// Peers only: sums inside a hash tree.
    SyncSums(SumsRequest),
    /// Peers only: the records in which two hash trees differ.
    SyncRecords(RecordsRequest),
    /// Administrators only: compare with the other owners now, or tell how far that has come.
    Repair(RepairRequest),
    /// Peers only: a step towards dropping dead records.
    Reap(ReapOrder),
    /// Peers only: answered when all work has ended that the node had begun when this came.
    Settle,
    /// Peers only: what was last seen of the asker's storage, before this is kept.
    Landmark(Option<Landmark>),
    /// Peers only: which versions the answerer has dropped.
    Dropped(DroppedRequest),
    /// Who owns data: between nodes, and orders of administrators.
    Layout(LayoutRequest),
    /// What the node works on for a while, and orders of administrators about it.
    Tasks(TasksRequest),
}

/// What a node answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// One outcome for each write, in order.
    Put(Vec<Result<PutDone, ServeError>>),
    /// One outcome for each key, in order.
    Get(Vec<Result<GetDone, ServeError>>),
    /// A page.
    Scan(ScanDone),
    /// The cluster.
    View(ClusterInfo),
    /// The node.
    Status(Box<NodeStatus>),
    /// One outcome for each record, in order.
    Apply(Vec<Result<(), ServeError>>),
    /// One outcome for each key, in order.
    Fetch(Vec<Result<Fetched, ServeError>>),
    /// A page of a partition: storage keys and records in order, and whether more follow.
    FetchPage {
        /// The records.
        items: Vec<(Blob, Blob)>,
        /// Whether the partition holds more behind them.
        more: bool,
    },
    /// The request as a whole was refused or failed.
    Error(ServeError),
    /// The key is reserved, and this is what the record there has seen; `None` while another write holds it.
    Reserved(Option<Context>),
    /// Done, and there is nothing to say.
    Done,
    /// What gossip answers.
    Gossip(GossipReply),
    /// The members.
    Members(Box<MembersReport>),
    /// The keys of gossip.
    Keys(KeysReport),
    /// The filters of the node's log that are in force now.
    Log(String),
    /// The cluster is still the one that the asker knows.
    Unchanged,
    /// One verdict for each root, in order.
    SyncRoots(Vec<RootVerdict>),
    /// One sum for each node, in order.
    SyncSums(Vec<u128>),
    /// What differs.
    SyncRecords(RecordsPage),
    /// How far a repair has come.
    Repair(Box<RepairProgress>),
    /// What became of a step towards dropping dead records.
    Reap(ReapAnswer),
    /// What was seen of the asker's storage.
    Landmark(Sight),
    /// What was dropped.
    Dropped(DroppedAnswer),
    /// What is to be said of who owns data.
    Layout(LayoutReply),
    /// The tasks.
    Tasks(Box<TasksReport>),
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::types::{Consistency, Namespace};
    use crate::version::RequestId;
    use crate::wire::blob;
    use crate::wire::golden::hex;

    fn put() -> Request {
        let item = PutItem {
            key: Blob::copy(b"k"),
            value: Some(Blob::copy(b"v")),
            context: KeyContext::default(),
            request: RequestId { client: 1, sequence: 2 },
            ttl: None,
            condition: None,
        };
        Request::Put(PutRequest {
            namespace: Namespace::default(),
            items: vec![item],
            w: Some(Consistency::Quorum),
            sloppy: None,
            retry: false,
        })
    }

    #[test]
    fn messages_are_pinned_because_other_versions_read_them() {
        assert_eq!(hex(&put()), "000764656661756c7401016b0101760000000102000001010000");
        assert_eq!(hex(&Request::View), "03");
        assert_eq!(hex(&Request::Status), "04");
        assert_eq!(hex(&Request::Apply(Vec::new())), "0500");
        assert_eq!(hex(&Request::Gossip(GossipRequest::Ping(Blob::copy(b"p")))), "0a000170");
        assert_eq!(hex(&Request::Members), "0b");
        assert_eq!(hex(&Request::Keys(KeyOrder::Use { id: [1; 8], force: true })), "0c02010101010101010101");
        assert_eq!(hex(&Reply::Gossip(GossipReply::Sync(Blob::copy(b"s")))), "0b010173");
        assert_eq!(hex(&Request::Watch { known: 300 }), "0eac02");
        assert_eq!(hex(&Reply::Unchanged), "0f");
        assert_eq!(hex(&Reply::Fetch(vec![Ok(Fetched::Digest(1))])), "0601000201");
        assert_eq!(hex(&Reply::Error(ServeError::Invalid("x".into()))), "08000178");
        assert_eq!(hex(&Traced { trace: TraceId(300), layout: Some(5), request: Request::View }), "ac02010503");
        assert_eq!(hex(&Request::Log(Some("info".into()))), "0d0104696e666f");
        assert_eq!(hex(&Reply::Log("info".into())), "0e04696e666f");
        assert_eq!(hex(&Request::SyncRoots(Vec::new())), "0f00");
        let repair = RepairRequest { partition: None, since_ms: None };
        assert_eq!(hex(&Request::Repair(repair)), "120000");
        assert_eq!(hex(&Reply::SyncSums(vec![1])), "110101");
        assert_eq!(hex(&Request::Settle), "14");
        let order = ReapOrder { view: 1, life: None, keys: Vec::new(), landmarks: Vec::new() };
        assert_eq!(hex(&Request::Reap(order)), "1301000000");
        let tasks = TasksRequest { order: crate::wire::tasks::TaskOrder::List, everywhere: true };
        assert_eq!(hex(&Request::Tasks(tasks)), "180001");
        assert_eq!(hex(&Reply::Tasks(Box::default())), "18000000");
        let life = crate::wire::reap::Life { process: 1, epoch: crate::types::Epoch(2) };
        let landmark = Landmark { starts: 3, life: 4, mark: 5 };
        assert_eq!(hex(&Reply::Reap(ReapAnswer { life, agreed: vec![true], landmark })), "1401020101030405");
        assert_eq!(hex(&Request::Landmark(Some(landmark))), "1501030405");
        assert_eq!(hex(&Reply::Landmark(Sight::default())), "150000");
    }

    proptest! {
        #[test]
        fn junk_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            drop(blob::decode::<Request>(&Bytes::from(bytes.clone())));
            drop(blob::decode::<Reply>(&Bytes::from(bytes)));
        }

        #[test]
        fn damaged_messages_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = postcard::to_stdvec(&put()).unwrap();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            drop(blob::decode::<Request>(&Bytes::from(bytes)));
        }
    }
}
