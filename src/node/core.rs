//! What the services of one node share.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tracing::Instrument;

use crate::env::Env;
use crate::hash::ClusterHash;
use crate::layout::Layout;
use crate::limits;
use crate::node::admission::Admission;
use crate::node::ask::Stages;
use crate::node::gate::Gate;
use crate::node::gauge::SizeGauge;
use crate::node::gossip::Gossip;
use crate::node::hedge::ReadHedge;
use crate::node::hints::HintBudget;
use crate::node::meters::{Meters, Stage};
use crate::node::oversight::{Oversight, SlowLog};
use crate::node::ownership::Ownership;
use crate::node::pace::Pace;
use crate::node::past::Past;
use crate::node::peers::Peers;
use crate::node::replica::Replica;
use crate::node::reservations::Reservations;
use crate::node::status;
use crate::node::sync::Sync;
use crate::node::timeouts::Timeouts;
use crate::node::trees::Trees;
use crate::node::watch::Watchers;
use crate::node::works::Work;
use crate::node::works::Works;
use crate::record;
use crate::ring::Ring;
use crate::store::{Engine, Slot};
use crate::swim::StorageHealth;
use crate::types::{Namespace, NodeId, NodeName, PartitionId, Partitions};
use crate::view::{ClusterView, ViewError};
use crate::wire::blob::Blob;
use crate::wire::rpc::{ClusterInfo, MemberInfo, ServeError, SlotRef};
use crate::wire::sync::TreeId;

/// The shared parts.
pub(crate) struct Core {
    pub(crate) id: NodeId,
    /// The cluster's hashes, which never change.
    pub(crate) hash: ClusterHash,
    /// How many buckets storages have: as many as there were partitions at the founding.
    pub(crate) buckets: Partitions,
    pub(crate) views: Views,
    pub(crate) replica: Replica,
    pub(crate) engine: Engine,
    pub(crate) peers: Arc<Peers>,
    pub(crate) hints: HintBudget,
    pub(crate) reservations: Reservations,
    /// What anti-entropy compares, kept by the replica.
    pub(crate) trees: Arc<Trees>,
    pub(crate) sync: Sync,
    /// Whether the storage went back, and what may be asked of this node.
    pub(crate) past: Arc<Past>,
    /// What this node is doing with records.
    pub(crate) works: Works,
    /// What goes by a layout: requests that this node coordinates, writes of other coordinators that it let through.
    pub(crate) by_layout: Works,
    /// This node's part in who owns data.
    pub(crate) ownership: Ownership,
    /// Tells this life of the process from any other.
    pub(crate) life: u64,
    pub(crate) timeouts: Timeouts,
    /// When reads ask one replica more.
    pub(crate) read_hedge: ReadHedge,
    /// Keeps clients waiting at the start.
    pub(crate) gate: Gate,
    /// The door for what clients ask this node to coordinate.
    pub(crate) clients: Admission,
    /// The door for what other nodes ask.
    pub(crate) nodes: Admission,
    /// How fast work in the background goes.
    pub(crate) pace: Pace,
    pub(crate) meters: Arc<Meters>,
    pub(crate) oversight: Oversight,
    pub(crate) slow_log: SlowLog,
    pub(crate) size: Arc<SizeGauge>,
    pub(crate) started: Instant,
    /// Room for work in the background.
    pub(crate) background: Arc<Semaphore>,
    /// Membership by gossip. `None` where members are only those of the configuration.
    pub(crate) gossip: Option<Arc<Gossip>>,
    /// Clients that wait for news of the cluster.
    pub(crate) watchers: Watchers,
    /// The scope of work that outlives the request it belongs to: slow replicas, read repair, hints.
    pub(crate) rest: Env,
}

/// The cluster as this node knows it now. It is replaced as a whole; a request works with the one it began with.
pub(crate) struct Views {
    latest: RwLock<Arc<ClusterView>>,
    /// Held while the next view is worked out.
    changing: Mutex<()>,
    changed: Notify,
}

impl Views {
    pub(crate) fn new(first: ClusterView) -> Self {
        Self { latest: RwLock::new(Arc::new(first)), changing: Mutex::default(), changed: Notify::new() }
    }

    pub(crate) fn latest(&self) -> Arc<ClusterView> {
        self.latest.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn replace(&self, next: Arc<ClusterView>) {
        *self.latest.write().unwrap_or_else(PoisonError::into_inner) = next;
        self.changed.notify_waiters();
    }

    /// Waits until the view is another than the one with this digest.
    pub(crate) async fn other_than(&self, known: u64) -> Arc<ClusterView> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            let latest = self.latest();
            if latest.digest() != known {
                return latest;
            }
            changed.await;
        }
    }
}

/// A key's place: position in the hash space, and where its record lies.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) position: u64,
    pub(crate) slot: Slot,
}

impl Core {
    /// Finishes work in the background. `None` hands it back when too much is under way there.
    pub(crate) fn finish_later<T: Future<Output = ()> + Send + 'static>(
        &self,
        name: &'static str,
        part_of: &Work,
        work: T,
    ) -> Option<T> {
        let Ok(permit) = self.background.clone().try_acquire_owned() else { return Some(work) };
        let part_of = part_of.clone();
        let span = tracing::debug_span!("rest", work = name);
        self.rest.spawn(name, work.map(move |()| drop((permit, part_of))).instrument(span));
        None
    }

    /// Notes that a stage of a request has ended, and returns when.
    pub(crate) fn passed(&self, stages: &Stages, stage: Stage, began: Instant) -> Instant {
        let now = Instant::now();
        let took = now.saturating_duration_since(began);
        self.meters.passed(stage, took);
        stages.note(stage, took);
        now
    }

    /// The cluster as known now.
    pub(crate) fn view(&self) -> Arc<ClusterView> {
        self.views.latest()
    }

    /// Where a key lies.
    pub(crate) fn place(&self, namespace: &Namespace, key: &[u8]) -> Place {
        let position = self.hash.position(namespace, key);
        let bucket = self.buckets.bucket_of(position);
        Place { position, slot: Slot { bucket, key: record::storage_key(namespace, key) } }
    }

    /// The slot of a message.
    pub(crate) fn slot_of(&self, reference: SlotRef) -> Result<Slot, ServeError> {
        if reference.bucket.0 >= self.buckets.count() {
            return Err(self.unknown_part(format!("bucket {}", reference.bucket)));
        }
        let longest = limits::KEY_MAX + limits::NAMESPACE_NAME_MAX + 1;
        if reference.key.is_empty() || reference.key.len() > longest {
            return Err(ServeError::Invalid(format!("a storage key of {} bytes", reference.key.len())));
        }
        Ok(Slot { bucket: reference.bucket, key: reference.key.0 })
    }

    /// Whether a stored record is in the bucket that its key belongs to.
    pub(crate) fn is_in_place(&self, slot: &Slot) -> bool {
        record::position(&self.hash, &slot.key).is_some_and(|position| self.buckets.bucket_of(position) == slot.bucket)
    }

    /// Where a record of this partition lies. `None` when its key belongs to another.
    pub(crate) fn slot_in(&self, partition: PartitionId, key: Bytes) -> Option<Slot> {
        let position = record::position(&self.hash, &key).filter(|position| partition.holds(*position))?;
        Some(Slot { bucket: self.buckets.bucket_of(position), key })
    }

    /// The partition of a record, as a ring has them.
    pub(crate) fn partition_in(&self, ring: &Ring, slot: &Slot) -> PartitionId {
        record::position(&self.hash, &slot.key).map_or(PartitionId::NONE, |position| ring.partitions().of(position))
    }

    /// Forgets the trees of a storage that has begun another epoch since. Returns whether it has.
    pub(crate) fn follow_epoch(&self) -> bool {
        if self.past.is_renewing() {
            return false;
        }
        let epoch = self.engine.epoch();
        self.trees.with(|forest| forest.reset(epoch))
    }

    /// The root of a tree; `None` while its partition is not known in the storage's present epoch.
    pub(crate) fn root(&self, tree: TreeId) -> Option<u128> {
        self.follow_epoch();
        self.trees.root(tree)
    }

    /// Refuses a partition that this cluster does not have.
    pub(crate) fn check_partition(&self, partition: PartitionId) -> Result<(), ServeError> {
        let is_known = self.buckets.around(partition).is_some() && !partition.is_finer_than_any();
        if is_known { Ok(()) } else { Err(self.unknown_part(format!("partition {partition}"))) }
    }

    fn unknown_part(&self, what: String) -> ServeError {
        let count = self.buckets.count();
        let text = format!("there is no {what} where there were {count} at the founding");
        ServeError::Invalid(format!("{text}: cluster.partitions must be the same on all nodes"))
    }

    /// Whether a node is connected and answered in time of late; this one always is and did.
    pub(crate) fn is_up(&self, node: NodeId) -> bool {
        node == self.id || self.peers.is_up(node)
    }

    /// Whether a node can take a write now; this one finds out by trying.
    pub(crate) fn takes_writes(&self, node: NodeId) -> bool {
        node == self.id || {
            let seen = self.peers.seen(node);
            seen.is_connected() && !matches!(seen.storage(), StorageHealth::ReadOnly | StorageHealth::Down)
        }
    }

    /// Whether a node answers no reads because it catches up, as far as is known.
    pub(crate) fn is_catching_up(&self, node: NodeId) -> bool {
        if node == self.id {
            return self.past.catching_up().is_some();
        }
        self.peers.seen(node).storage() == StorageHealth::CatchingUp
    }

    /// How this node's storage is.
    pub(crate) fn storage_grade(&self) -> StorageHealth {
        let grade = status::grade(&self.engine.health());
        let catching_up = self.past.catching_up().map_or(StorageHealth::Ok, |_| StorageHealth::CatchingUp);
        if catching_up.rank() > grade.rank() { catching_up } else { grade }
    }

    /// Whether a node can be read from now; this one finds out by trying.
    pub(crate) fn takes_reads(&self, node: NodeId) -> bool {
        node == self.id || self.peers.seen(node).takes_reads()
    }

    /// The place of a replica in the order in which they are read, best first: sound storages, this node, those that
    /// answered in time of late, the nearest. A storage that takes no writes reads well. `None` for a node that cannot
    /// be read from now; this one finds out by trying.
    pub(crate) fn read_rank(&self, node: NodeId) -> Option<ReadRank> {
        if node == self.id {
            let rank = (status::grade(&self.engine.health()).read_rank(), false, false, None);
            return self.past.catching_up().is_none().then_some(rank);
        }
        let seen = self.peers.seen(node);
        seen.takes_reads().then(|| (seen.storage().read_rank(), true, !seen.is_prompt(), seen.rtt()))
    }

    /// Goes on with another description of the cluster, made from the present one: whoever is new is connected to. `None`
    /// leaves it as it is. Returns whether it is another now.
    pub(crate) fn change_view(
        &self,
        change: impl FnOnce(&ClusterInfo) -> Option<ClusterInfo>,
    ) -> Result<bool, ViewError> {
        let _changing = self.views.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let present = self.view();
        let Some(info) = change(present.info()) else { return Ok(false) };
        let next = Arc::new(present.becoming(info)?);
        let known = status::overruled(&present);
        for text in status::overruled(&next).into_iter().filter(|text| !known.contains(text)) {
            tracing::warn!("{text}");
        }
        self.peers.follow(&next);
        self.trees.follow(&next);
        self.views.replace(next);
        Ok(true)
    }

    /// Goes on with another layout, if it is later than the present one.
    pub(crate) fn adopt_layout(&self, layout: Layout) -> Result<bool, ViewError> {
        self.change_view(|info| (layout.version > info.layout.version).then(|| info.by(layout)))
    }

    /// A member says where its data plane is. Returns whether that changed the view.
    pub(crate) fn moved(&self, node: NodeId, quic: &str) -> bool {
        let changed = self.change_view(|info| {
            let is_elsewhere = |member: &MemberInfo| ClusterHash::node_id(&member.name) == node && member.quic != quic;
            let at = info.members.iter().position(is_elsewhere)?;
            let mut info = info.clone();
            let member = &mut info.members[at];
            tracing::info!(member = %member.name, from = member.quic, to = quic, "a member has moved");
            member.quic = quic.to_owned();
            Some(info)
        });
        changed.unwrap_or_else(|error| {
            tracing::warn!(%error, "the cluster cannot be described with a member's new address");
            false
        })
    }

    /// This node's name.
    pub(crate) fn own_name(&self) -> NodeName {
        self.view().info().node.clone()
    }

    /// A hash of the settings that must be equal on all nodes.
    pub(crate) fn settings_hash(&self) -> u64 {
        let view = self.view();
        // Of the copies, the configuration is right only about those that the layout does not know.
        let settled = |name| view.copies(name).map(|copies| copies.next);
        let namespaces: Vec<_> = view
            .info()
            .namespaces
            .iter()
            .map(|(name, policy)| (name, policy.with_copies(settled(name).unwrap_or(policy.n))))
            .collect();
        let settings = (view.info().partitions, namespaces);
        let bytes = postcard::to_stdvec(&settings).expect("numbers and names always encode into memory");
        self.hash.checksum(b"settings", &bytes)
    }

    /// Whether a node is connected, however slowly it answers; this one always is.
    pub(crate) fn is_reachable(&self, node: NodeId) -> bool {
        node == self.id || self.peers.is_connected(node)
    }
}

/// See [`Core::read_rank`]: the storage, whether it is another node, whether it was silent of late, the round trip.
pub(crate) type ReadRank = (u8, bool, bool, Option<Duration>);

/// A slot in a message.
pub(crate) fn slot_ref(slot: &Slot) -> SlotRef {
    SlotRef { bucket: slot.bucket, key: Blob(slot.key.clone()) }
}
