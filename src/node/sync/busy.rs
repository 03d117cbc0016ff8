//! Which partitions are being brought together right now, and with whom: never with two peers at once, or both would
//! send the same records.
//!
//! What this node began it holds until it ends; what a peer began is lent to it, and free again when it says so or has
//! been silent for a while.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::types::{NodeId, PartitionId};

/// How long a partition stays lent to a silent peer.
const LEASE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy)]
enum Holder {
    Own,
    Peer(NodeId, Instant),
}

/// The partitions that are busy.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    held: Mutex<BTreeMap<PartitionId, Holder>>,
}

/// A partition that this node is at work on; free again when dropped.
#[derive(Debug)]
pub(crate) struct Hold<'a> {
    busy: &'a Busy,
    partition: PartitionId,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.busy.held().remove(&self.partition);
    }
}

impl Busy {
    fn held(&self) -> MutexGuard<'_, BTreeMap<PartitionId, Holder>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a partition for an exchange that this node begins. `None` when it is busy.
    pub(crate) fn hold(&self, partition: PartitionId) -> Option<Hold<'_>> {
        let mut held = self.held();
        if is_taken(&held, partition, None) {
            return None;
        }
        held.insert(partition, Holder::Own);
        Some(Hold { busy: self, partition })
    }

    /// Lends a partition to a peer that asks about it. False when it is busy otherwise.
    pub(crate) fn lend(&self, partition: PartitionId, peer: NodeId) -> bool {
        let mut held = self.held();
        if is_taken(&held, partition, Some(peer)) {
            return false;
        }
        held.insert(partition, Holder::Peer(peer, Instant::now() + LEASE));
        true
    }

    /// Takes back what was lent to a peer.
    pub(crate) fn take_back(&self, partition: PartitionId, peer: NodeId) {
        let mut held = self.held();
        if matches!(held.get(&partition), Some(Holder::Peer(of, _)) if *of == peer) {
            held.remove(&partition);
        }
    }

    /// Whether a partition is busy with somebody else than this peer.
    pub(crate) fn is_taken(&self, partition: PartitionId, peer: NodeId) -> bool {
        is_taken(&self.held(), partition, Some(peer))
    }
}

fn is_taken(held: &BTreeMap<PartitionId, Holder>, partition: PartitionId, peer: Option<NodeId>) -> bool {
    match held.get(&partition) {
        Some(Holder::Own) => true,
        Some(Holder::Peer(of, until)) => Some(*of) != peer && *until > Instant::now(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_partition_is_worked_on_with_one_peer_at_a_time() {
        let (busy, at) = (Busy::default(), PartitionId(1));
        let hold = busy.hold(at).unwrap();
        assert!(busy.hold(at).is_none());
        assert!(!busy.lend(at, NodeId(1)));
        drop(hold);
        assert!(busy.lend(at, NodeId(1)) && busy.lend(at, NodeId(1)));
        assert!(!busy.lend(at, NodeId(2)));
        assert!(busy.hold(at).is_none());
        busy.take_back(at, NodeId(2));
        assert!(busy.hold(at).is_none(), "it was not that peer's");
        tokio::time::advance(LEASE * 2).await;
        assert!(busy.lend(at, NodeId(2)), "a silent peer keeps it for ever");
        busy.take_back(at, NodeId(2));
        assert!(busy.hold(at).is_some());
    }
}
