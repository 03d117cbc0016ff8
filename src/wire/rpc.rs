//! Requests and replies of the data plane: client to coordinator, and coordinator to replica.
//!
//! Messages are postcard, which is positional: variants and fields are only ever added at the end, and the golden bytes
//! in the tests hold that. The lanes carry deadline and request number, so they are not repeated here.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::layout::Layout;
use crate::layout::Placement;
use crate::layout::Role;
use crate::limits;
use crate::types::Bucket;
use crate::types::{ClusterName, Condition, Consistency, Namespace, NamespacePolicy, NodeId, NodeName, PartitionId};
use crate::types::{Partitions, TraceId, Zone};
use crate::version::{Context, Dot, RequestId, Stamp};
use crate::wire::blob::Blob;
use crate::wire::gossip::{GossipReply, GossipRequest, KeyOrder, KeysReport, MembersReport};
use crate::wire::layout::{LayoutReply, LayoutRequest};
use crate::wire::past::{DroppedAnswer, DroppedRequest, Landmark, Sight};
use crate::wire::reap::{ReapAnswer, ReapOrder};
use crate::wire::status::NodeStatus;
use crate::wire::sync::TreeRoot;
use crate::wire::sync::{RecordsPage, RecordsRequest, RepairProgress, RepairRequest, RootVerdict, SumsRequest};
use crate::wire::tasks::{TasksReport, TasksRequest};

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
    /// [`limits::LOG_FILTER_MAX`] bytes.
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

/// The place of a record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlotRef {
    /// The part of the storage.
    pub bucket: Bucket,
    /// The storage key within it.
    pub key: Blob,
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

/// A page of a scan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScanDone {
    /// Keys with what was found under them.
    pub items: Vec<(Blob, GetDone)>,
    /// Where to go on; `None` at the end.
    pub next: Option<ScanCursor>,
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

/// The cluster: members, placement and namespaces.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterInfo {
    /// Its name.
    pub cluster: ClusterName,
    /// Partitions of the hash space when the cluster was founded.
    pub partitions: Partitions,
    /// The members, sorted by name.
    pub members: Vec<MemberInfo>,
    /// The namespaces, sorted by name.
    pub namespaces: Vec<(Namespace, NamespacePolicy)>,
    /// The node that answers.
    pub node: NodeName,
    /// Who owns data, and who will.
    pub layout: Layout,
}

impl ClusterInfo {
    /// The same cluster as it is founded: every member owns its share.
    #[must_use]
    pub fn founding(mut self) -> Self {
        let role = |member: &MemberInfo| {
            let MemberInfo { name, quic, zone, weight } = member.clone();
            (name.clone(), Role { quic, zone, weight, seat: name })
        };
        let roles = self.members.iter().map(role).collect();
        let copies = self.namespaces.iter().map(|(name, policy)| (name.clone(), policy.n)).collect();
        self.layout = Layout::founding(Placement { roles, copies, partitions: self.partitions });
        self
    }

    /// The same cluster by another layout. Members stay where they are known to be.
    #[must_use]
    pub fn by(&self, layout: Layout) -> Self {
        let known: BTreeMap<&NodeName, &str> =
            self.members.iter().map(|member| (&member.name, &*member.quic)).collect();
        let member = |(name, role): (&NodeName, &Role)| MemberInfo {
            name: name.clone(),
            quic: known.get(name).map_or_else(|| role.quic.clone(), |quic| (*quic).to_owned()),
            zone: role.zone.clone(),
            weight: role.weight,
        };
        let members = layout.members().into_iter().map(member).collect();
        Self { members, layout, ..self.clone() }
    }
}

/// One member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// Its name.
    pub name: NodeName,
    /// Where others and clients reach its data plane: host and port.
    pub quic: String,
    /// Its failure zone.
    pub zone: Zone,
    /// Its share of the data against others.
    pub weight: u32,
}

/// Why a request, or one key of it, failed. The kinds differ by what the client can do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
pub enum ServeError {
    /// The request breaks a rule; it will never succeed as it is.
    #[error("{0}")]
    Invalid(String),
    /// A limit was met; the text names it.
    #[error("{0}")]
    Limit(String),
    /// The certificate does not allow this.
    #[error("not permitted: {0}")]
    Forbidden(String),
    /// Too few replicas answered.
    #[error(transparent)]
    Quorum(#[from] Box<QuorumError>),
    /// The node cannot serve this now; another may.
    #[error("{0}; try another node")]
    Unavailable(String),
    /// The deadline passed; a write may have been applied.
    #[error("the deadline passed before an answer: {0}")]
    Deadline(String),
    /// A defect of the store.
    #[error("internal error, please report: {0}")]
    Internal(String),
    /// Something failed in the middle of a write, which may have been applied.
    #[error("{0}; the write may still appear")]
    Uncertain(String),
    /// The condition of a write does not hold: nothing was written.
    #[error("{0}")]
    Condition(String),
    /// The node has more to do than it can and did nothing of this; another may do it, or this one later.
    #[error("overloaded: {0}; try another node, or later")]
    Overloaded(String),
    /// The asker works by a layout before this version, which is not served any more: nothing was done.
    #[error("the coordinator works by an old layout of the cluster, the present one is version {0}; try again")]
    OldLayout(u64),
}

impl ServeError {
    /// Whether the same request may succeed at another time or node.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Quorum(_)
            | Self::Unavailable(_)
            | Self::Deadline(_)
            | Self::Uncertain(_)
            | Self::Overloaded(_)
            | Self::OldLayout(_) => true,
            Self::Invalid(_) | Self::Limit(_) | Self::Forbidden(_) | Self::Internal(_) | Self::Condition(_) => false,
        }
    }
}

/// Refuses a key that cannot be one.
///
/// # Errors
/// [`ServeError::Invalid`] when it is empty, [`ServeError::Limit`] when it is longer than [`limits::KEY_MAX`].
pub fn check_key(key: &[u8]) -> Result<(), ServeError> {
    match key.len() {
        0 => Err(ServeError::Invalid("the key is empty: keys have 1 byte or more".to_owned())),
        len if len > limits::KEY_MAX => {
            Err(ServeError::Limit(format!("the key has {len} bytes, the limit is {}", limits::KEY_MAX)))
        }
        _ => Ok(()),
    }
}

/// Refuses a value of more than [`limits::VALUE_MAX`] bytes.
///
/// # Errors
/// [`ServeError::Limit`] says how long it is and may be.
pub fn check_value(len: usize) -> Result<(), ServeError> {
    if len > limits::VALUE_MAX {
        return Err(ServeError::Limit(format!("the value has {len} bytes, the limit is {}", limits::VALUE_MAX)));
    }
    Ok(())
}

/// A quorum that was not met: who answered, who did not and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuorumError {
    /// `read` or `write`.
    pub verb: Verb,
    /// Answers needed.
    pub needed: u8,
    /// Nodes that answered.
    pub got: Vec<NodeName>,
    /// Nodes that did not, with the reason.
    pub missing: Vec<(NodeName, String)>,
    /// Whether a write may still appear, since some replica took it or may have.
    pub may_appear: bool,
    /// The request that failed, where its client knows it; it is not sent back.
    #[serde(skip)]
    pub trace: Option<TraceId>,
}

/// Reading or writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    /// A read.
    Read,
    /// A write.
    Write,
}

impl std::error::Error for QuorumError {}

impl std::fmt::Display for QuorumError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verb = match self.verb {
            Verb::Read => "read",
            Verb::Write => "write",
        };
        write!(f, "{verb} quorum not met: needed {}, got {}", self.needed, self.got.len())?;
        for (at, node) in self.got.iter().enumerate() {
            write!(f, "{}{node}", if at == 0 { " from " } else { ", " })?;
        }
        for (at, (node, why)) in self.missing.iter().enumerate() {
            write!(f, "{}{node} ({why})", if at == 0 { "; not from " } else { ", " })?;
        }
        match (self.verb, self.may_appear) {
            (Verb::Write, true) => f.write_str("; the write may still appear")?,
            (Verb::Write, false) => f.write_str("; the write was not applied anywhere")?,
            (Verb::Read, _) => {}
        }
        self.trace.iter().try_for_each(|trace| write!(f, " (request {trace})"))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
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

    #[test]
    fn a_quorum_error_tells_all() {
        let name = |name| NodeName::new(name).unwrap();
        let error = QuorumError {
            verb: Verb::Write,
            needed: 2,
            got: vec![name("n1")],
            missing: vec![(name("n2"), "connection lost".into()), (name("n3"), "timed out".into())],
            may_appear: true,
            trace: Some(TraceId(0xab)),
        };
        assert_eq!(
            error.to_string(),
            "write quorum not met: needed 2, got 1 from n1; not from n2 (connection lost), n3 (timed out); \
             the write may still appear (request 00000000000000ab)"
        );
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
