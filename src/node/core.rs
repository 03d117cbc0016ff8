//! What the services of one node share.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::time::Instant;

use crate::env::Env;
use crate::limits;
use crate::node::hints::HintBudget;
use crate::node::peers::Peers;
use crate::node::replica::Replica;
use crate::node::timeouts::Timeouts;
use crate::record;
use crate::store::{Engine, Slot};
use crate::types::{Namespace, NodeId};
use crate::view::ClusterView;
use crate::wire::blob::Blob;
use crate::wire::rpc::SlotRef;

/// The shared parts.
pub(crate) struct Core {
    pub(crate) id: NodeId,
    pub(crate) view: ClusterView,
    pub(crate) replica: Replica,
    pub(crate) engine: Engine,
    pub(crate) peers: Arc<Peers>,
    pub(crate) hints: HintBudget,
    pub(crate) timeouts: Timeouts,
    pub(crate) counters: Counters,
    pub(crate) started: Instant,
    /// The scope of work that outlives the request it belongs to: slow replicas, read repair, hints.
    pub(crate) rest: Env,
}

/// Counts of what the coordinator met.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) puts: AtomicU64,
    pub(crate) gets: AtomicU64,
    pub(crate) scans: AtomicU64,
    pub(crate) forwarded: AtomicU64,
    pub(crate) quorum_failures: AtomicU64,
    pub(crate) digest_mismatches: AtomicU64,
    pub(crate) read_repairs: AtomicU64,
    pub(crate) hedges: AtomicU64,
    pub(crate) stand_ins: AtomicU64,
    pub(crate) hints_kept: AtomicU64,
    pub(crate) hints_delivered: AtomicU64,
    pub(crate) hints_refused: AtomicU64,
}

/// A key's place: position in the hash space, and where its record lies.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) position: u64,
    pub(crate) slot: Slot,
}

impl Core {
    /// Where a key lies.
    pub(crate) fn place(&self, namespace: &Namespace, key: &[u8]) -> Place {
        let (position, partition) = self.view.place(namespace, key);
        Place { position, slot: Slot { partition, key: record::storage_key(namespace, key) } }
    }

    /// Whether a node is connected and answered in time of late; this one always is and did.
    pub(crate) fn is_up(&self, node: NodeId) -> bool {
        node == self.id || self.peers.is_up(node)
    }

    /// Whether a node is connected, however slowly it answers; this one always is.
    pub(crate) fn is_reachable(&self, node: NodeId) -> bool {
        node == self.id || self.peers.is_connected(node)
    }
}

/// A slot in a message.
pub(crate) fn slot_ref(slot: &Slot) -> SlotRef {
    SlotRef { partition: slot.partition, key: Blob(slot.key.clone()) }
}

/// The slot of a message. `None` when it cannot be one.
pub(crate) fn slot_of(reference: SlotRef) -> Option<Slot> {
    let fits = reference.key.len() <= limits::KEY_MAX + limits::NAMESPACE_NAME_MAX + 1 && !reference.key.is_empty();
    fits.then_some(Slot { partition: reference.partition, key: reference.key.0 })
}
