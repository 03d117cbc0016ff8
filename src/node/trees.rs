//! This node's hash trees, shared by the write loop, which keeps them, and anti-entropy, which compares them.
//!
//! The lock is held for the arithmetic of one batch or one page, never while anything is waited for. What the trees are is
//! [`crate::merkle`]'s; this knows which namespace has how many copies, and reads records no further than their digests.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::hash::ClusterHash;
use crate::merkle::{Change, Flight, Forest, Item, Shape};
use crate::node::replica::batch::{Before, Changed};
use crate::node::replica::leaves_open;
use crate::record::{self, RecordError};
use crate::store::StoreError;
use crate::types::{Copies, Epoch, Namespace, PartitionId};
use crate::view::ClusterView;
use crate::wire::sync::TreeId;

/// How long a partition in which damage was met is left alone if more is met: reading it again takes a while, and its
/// repair, too.
const SUSPECT_REST: Duration = Duration::from_secs(60);

/// The trees of this node.
#[derive(Debug)]
pub(crate) struct Trees {
    hash: ClusterHash,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    forest: Forest,
    /// The copies of each namespace, sorted by name.
    copies: Vec<(Namespace, Copies)>,
    /// When damage was last met.
    suspected: BTreeMap<PartitionId, Instant>,
}

impl Trees {
    /// Trees of a storage that nothing is known of yet.
    pub(crate) fn new(view: &ClusterView, epoch: Epoch) -> Self {
        let forest = Forest::new(*view.hash(), view.partitions(), epoch);
        let state = State { forest, copies: copies(view), suspected: BTreeMap::new() };
        Self { hash: *view.hash(), state: Mutex::new(state) }
    }

    /// Goes on with another description of the cluster, before anything works by it. Where a namespace is to have another
    /// number of copies, or has it now, or partitions were cut, all trees are made anew.
    pub(crate) fn follow(&self, view: &ClusterView) {
        let mut state = self.lock();
        let next = copies(view);
        if state.copies != next {
            state.copies = next;
            state.forest.clear();
        }
        if state.forest.partitions() != view.partitions() {
            state.forest.repartition(view.partitions());
        }
    }

    /// The partition of a stored key, as the trees have them.
    pub(crate) fn partition_of(&self, key: &[u8]) -> PartitionId {
        let partitions = self.lock().forest.partitions();
        record::position(&self.hash, key).map_or(PartitionId::NONE, |position| partitions.of(position))
    }

    /// The copies of each namespace, as the trees are arranged by them.
    pub(crate) fn copies(&self) -> Vec<(Namespace, Copies)> {
        self.lock().copies.clone()
    }

    /// The shape of all trees.
    pub(crate) fn shape(&self) -> Shape {
        self.lock().forest.shape()
    }

    /// Announces a batch to the trees before it is stored.
    pub(crate) fn begin(&self, epoch: Epoch, changed: Vec<Changed>) -> Landing<'_> {
        let mut state = self.lock();
        let changes = changed.into_iter().filter_map(|changed| state.change(&self.hash, changed)).collect();
        let flight = state.forest.begin(epoch, changes);
        drop(state);
        Landing { trees: self, flight: Some(flight) }
    }

    /// Learns that a record of this partition cannot be read: the tree may claim what cannot be served.
    pub(crate) fn suspect(&self, partition: PartitionId) {
        let mut state = self.lock();
        let resting = state.suspected.get(&partition).is_some_and(|at| at.elapsed() < SUSPECT_REST);
        if !resting {
            state.suspected.retain(|_, at| at.elapsed() < SUSPECT_REST);
            state.suspected.insert(partition, Instant::now());
            state.forest.forget(partition);
        }
    }

    /// The root of a tree; `None` while its partition is not known.
    pub(crate) fn root(&self, tree: TreeId) -> Option<u128> {
        self.lock().forest.tree(tree.partition, tree.copies).map(|tree| tree.root())
    }

    /// Sums inside a tree; `None` while its partition is not known, and for nodes that do not exist.
    pub(crate) fn sums(&self, tree: TreeId, level: u32, nodes: &[u32]) -> Option<Vec<u128>> {
        self.lock().forest.tree(tree.partition, tree.copies)?.sums(level, nodes)
    }

    /// Works with the forest itself.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Forest) -> T) -> T {
        work(&mut self.lock().forest)
    }

    /// What the trees count of a record read from the storage, with the error when it cannot be read. `None` for a
    /// record of a namespace that the cluster does not have.
    pub(crate) fn item(
        &self,
        copies: &[(Namespace, Copies)],
        key: &Bytes,
        record: &Bytes,
    ) -> Option<(Item, Option<RecordError>)> {
        let number = copies_of(copies, key)?;
        let (digest, error) = match record::check(&self.hash, key, record) {
            // What a later version of the program wrote is whole.
            Ok(()) | Err(RecordError::UnknownFormat(_)) => (record::digest(record), None),
            Err(error) => (None, Some(error)),
        };
        Some((Item { key: key.clone(), copies: number, digest }, error))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn change(&self, hash: &ClusterHash, changed: Changed) -> Option<Change> {
        let Changed { slot, before, after } = changed;
        let copies = copies_of(&self.copies, &slot.key)?;
        let old = match before {
            Before::Digest(digest) => Some(digest),
            Before::Nothing | Before::Unreadable => None,
        };
        let readable = before != Before::Unreadable;
        let position = record::position(hash, &slot.key)?;
        Some(Change { position, key: slot.key, copies, old, new: after, readable })
    }
}

fn copies(view: &ClusterView) -> Vec<(Namespace, Copies)> {
    view.copies_of_each().map(|(name, copies)| (name.clone(), copies)).collect()
}

/// The copies of a stored key's namespace.
pub(crate) fn copies_of(copies: &[(Namespace, Copies)], key: &[u8]) -> Option<Copies> {
    let name = record::namespace_of(key)?;
    let at = copies.binary_search_by(|(namespace, _)| namespace.as_str().cmp(name)).ok()?;
    Some(copies[at].1)
}

/// A batch on its way into the storage. Dropped without an outcome, it is in doubt.
#[derive(Debug)]
pub(crate) struct Landing<'a> {
    trees: &'a Trees,
    flight: Option<Flight>,
}

impl Landing<'_> {
    /// Tells the trees what became of it.
    pub(crate) fn end(mut self, written: &Result<(), StoreError>) {
        let Some(flight) = self.flight.take() else { return };
        let forest = &mut self.trees.lock().forest;
        match written {
            Ok(()) => forest.stored(&flight),
            Err(error) if leaves_open(error) => forest.in_doubt(&flight),
            Err(_) => forest.refused(&flight),
        }
    }
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        if let Some(flight) = self.flight.take() {
            self.trees.lock().forest.in_doubt(&flight);
        }
    }
}
