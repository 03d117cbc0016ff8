//! All trees of one node, kept in step with its storage.
//!
//! The storage's writer announces each batch before it is stored and says afterwards what became of it. In between, and
//! after an outcome that is not known, nothing here claims to know what the storage holds: a partition whose content is
//! in doubt has no trees until it was read anew (see [`super::check`]).

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::hash::ClusterHash;
use crate::merkle::check::Check;
use crate::merkle::tree::Shape;
use crate::merkle::tree::Tree;
use crate::types::Copies;
use crate::types::Epoch;
use crate::types::PartitionId;
use crate::types::Partitions;

/// The trees of one partition, by copies: owners of one and the same partition differ with them.
pub(crate) type Trees = BTreeMap<Copies, Tree>;

/// What a batch does to one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its position in the hash space.
    pub position: u64,
    /// Its storage key.
    pub key: Bytes,
    /// The copies of its namespace.
    pub copies: Copies,
    /// The digest of the record that was there.
    pub old: Option<u64>,
    /// The digest of the record that will be there.
    pub new: Option<u64>,
    /// Whether what was there could be read. If not, nobody knows what the tree says of it.
    pub readable: bool,
}

/// A batch that was announced and whose outcome is awaited.
#[derive(Debug)]
#[must_use = "the forest waits for the outcome"]
pub struct Flight(u64);

/// All trees of one node.
#[derive(Debug)]
pub struct Forest {
    pub(super) hash: ClusterHash,
    pub(super) partitions: Partitions,
    pub(super) shape: Shape,
    epoch: Epoch,
    /// By partition; `None` while nobody knows what it holds.
    pub(super) live: Vec<Option<Trees>>,
    pub(super) flights: BTreeMap<u64, Vec<Change>>,
    pub(super) serial: u64,
    pub(super) check: Option<Check>,
    empty: Tree,
}

impl Forest {
    /// A forest that knows nothing yet of a storage in this epoch.
    pub fn new(hash: ClusterHash, partitions: Partitions, epoch: Epoch) -> Self {
        let shape = Shape::of(partitions);
        let live = partitions.iter().map(|_| None).collect();
        let (flights, empty) = (BTreeMap::new(), Tree::new(shape));
        Self { hash, partitions, shape, epoch, live, flights, serial: 0, check: None, empty }
    }

    /// The shape of the trees.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The epoch of the storage that the trees speak of.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Forgets everything, because the storage began another epoch: it may hold anything. An earlier epoch is ignored.
    /// Returns whether it did.
    pub fn reset(&mut self, epoch: Epoch) -> bool {
        let is_new = epoch > self.epoch;
        if is_new {
            self.epoch = epoch;
            self.clear();
        }
        is_new
    }

    /// Goes on under another epoch of a storage that holds what it held.
    pub fn carry(&mut self, from: Epoch, to: Epoch) {
        if self.epoch == from {
            self.epoch = to;
        }
    }

    /// Forgets everything that is known of the records. What is under way now was announced for trees that are gone, so
    /// its outcome will put its partitions in doubt once more.
    pub fn clear(&mut self) {
        self.live.fill(None);
        self.check = None;
        self.flights.values_mut().flatten().for_each(|change| change.readable = false);
    }

    /// How many partitions there are.
    pub fn partitions(&self) -> Partitions {
        self.partitions
    }

    /// Goes on with another count of partitions, of which nothing is known yet.
    pub fn repartition(&mut self, partitions: Partitions) {
        (self.partitions, self.shape) = (partitions, Shape::of(partitions));
        (self.live, self.empty) = (partitions.iter().map(|_| None).collect(), Tree::new(self.shape));
        self.clear();
    }

    /// Forgets what is known of one partition.
    pub fn forget(&mut self, partition: PartitionId) {
        if let Some(entry) = self.entry(partition) {
            *entry = None;
        }
        if self.check.as_ref().is_some_and(|check| check.partition == partition) {
            self.check = None;
        }
    }

    /// Announces a batch, decided under an epoch of the storage, before it is stored.
    pub fn begin(&mut self, epoch: Epoch, changes: Vec<Change>) -> Flight {
        self.reset(epoch);
        if let Some(check) = &mut self.check {
            changes.iter().for_each(|change| check.announce(change));
        }
        self.serial += 1;
        self.flights.insert(self.serial, changes);
        Flight(self.serial)
    }

    /// The batch was stored.
    pub fn stored(&mut self, flight: &Flight) {
        for change in self.flights.remove(&flight.0).into_iter().flatten() {
            if change.readable {
                self.apply(&change);
            } else {
                self.forget(self.partitions.of(change.position));
            }
        }
    }

    /// The batch was surely not stored.
    pub fn refused(&mut self, flight: &Flight) {
        // What was announced before all was forgotten may have been counted since as it was announced.
        let changes = self.flights.remove(&flight.0).into_iter().flatten();
        changes.filter(|change| !change.readable).for_each(|change| self.forget(self.partitions.of(change.position)));
    }

    /// Nobody knows whether the batch was stored.
    pub fn in_doubt(&mut self, flight: &Flight) {
        for change in self.flights.remove(&flight.0).into_iter().flatten() {
            self.forget(self.partitions.of(change.position));
        }
    }

    /// Whether the content of a partition is known.
    pub fn is_known(&self, partition: PartitionId) -> bool {
        self.trees(partition).is_some()
    }

    /// A tree. `None` while its partition is not known.
    pub fn tree(&self, partition: PartitionId, copies: Copies) -> Option<&Tree> {
        self.trees(partition).map(|trees| trees.get(&copies).unwrap_or(&self.empty))
    }

    /// The trees of each partition that is known, for keeping them.
    pub fn known(&self) -> impl Iterator<Item = (PartitionId, &BTreeMap<Copies, Tree>)> {
        self.partitions.iter().zip(&self.live).filter_map(|(partition, trees)| Some((partition, trees.as_ref()?)))
    }

    /// Takes trees that were kept, unless the partition is known already.
    pub fn restore(&mut self, partition: PartitionId, trees: BTreeMap<Copies, Tree>) {
        if let Some(entry @ None) = self.entry(partition) {
            *entry = Some(trees);
        }
    }

    /// The leaf and the worth of a record.
    pub(super) fn item(&self, key: &[u8], digest: u64) -> (u64, u128) {
        let tree_key = self.hash.tree_key(key);
        (tree_key, self.hash.tree_item(tree_key, digest))
    }

    fn trees(&self, partition: PartitionId) -> Option<&Trees> {
        self.live.get(self.partitions.place(partition)?)?.as_ref()
    }

    pub(super) fn entry(&mut self, partition: PartitionId) -> Option<&mut Option<Trees>> {
        self.live.get_mut(self.partitions.place(partition)?)
    }

    fn apply(&mut self, change: &Change) {
        let (shape, hash) = (self.shape, self.hash);
        let tree_key = hash.tree_key(&change.key);
        let replace = |trees: &mut Trees| {
            let tree = trees.entry(change.copies).or_insert_with(|| Tree::new(shape));
            if let Some(old) = change.old {
                tree.remove(tree_key, hash.tree_item(tree_key, old));
            }
            if let Some(new) = change.new {
                tree.add(tree_key, hash.tree_item(tree_key, new));
            }
        };
        if let Some(Some(trees)) = self.entry(self.partitions.of(change.position)) {
            replace(trees);
        }
        if let Some(trees) = self.check.as_mut().and_then(|check| check.stored(change)) {
            replace(trees);
        }
    }
}
