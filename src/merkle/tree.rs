//! One hash tree: a row of leaves, each a sum; inner nodes are sums of their leaves, computed when asked for.

use crate::limits;
use crate::types::Partitions;

/// Children of an inner node, as a power of two.
const FAN_BITS: u32 = 4;

/// How many leaves the trees of a cluster have. All nodes compute it from the number of partitions, so that trees can be
/// compared, and so that all trees of a node together stay within bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// The number of leaves, as a power of two.
    bits: u32,
}

impl Shape {
    /// The shape for so many partitions.
    pub fn of(partitions: Partitions) -> Self {
        let bits = limits::TREE_LEAVES_MAX.trailing_zeros().saturating_sub(partitions.count().trailing_zeros());
        Self { bits: bits.max(limits::TREE_LEAVES_MIN.trailing_zeros()) }
    }

    /// Leaves of one tree.
    pub fn leaves(self) -> u32 {
        1 << self.bits
    }

    /// The leaf of the key with this hash.
    pub fn leaf(self, tree_key: u64) -> u32 {
        u32::try_from(tree_key >> (u64::BITS - self.bits)).expect("a shape has fewer than 32 bits")
    }

    /// Levels below the root; the last is the leaves'.
    pub fn depth(self) -> u32 {
        self.bits.div_ceil(FAN_BITS)
    }

    /// Nodes on a level, as a power of two; level 0 is the root.
    pub(crate) fn level_bits(self, level: u32) -> u32 {
        level.saturating_mul(FAN_BITS).min(self.bits)
    }
}

/// The sums of one set of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    shape: Shape,
    leaves: Vec<u128>,
    root: u128,
    records: u64,
}

impl Tree {
    /// The tree of no records.
    pub fn new(shape: Shape) -> Self {
        let leaves = vec![0; usize::try_from(shape.leaves()).unwrap_or(usize::MAX)];
        Self { shape, leaves, root: 0, records: 0 }
    }

    /// The sum of everything; 0 of no records.
    pub fn root(&self) -> u128 {
        self.root
    }

    /// Records in it.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Adds what a record of this key is worth.
    pub fn add(&mut self, tree_key: u64, item: u128) {
        let leaf = self.leaf_mut(tree_key);
        *leaf = leaf.wrapping_add(item);
        self.root = self.root.wrapping_add(item);
        self.records = self.records.wrapping_add(1);
    }

    /// Takes away what was added.
    pub fn remove(&mut self, tree_key: u64, item: u128) {
        let leaf = self.leaf_mut(tree_key);
        *leaf = leaf.wrapping_sub(item);
        self.root = self.root.wrapping_sub(item);
        self.records = self.records.wrapping_sub(1);
    }

    /// The sums of these nodes of a level. `None` when the level or a node does not exist.
    pub fn sums(&self, level: u32, nodes: &[u32]) -> Option<Vec<u128>> {
        if level > self.shape.depth() {
            return None;
        }
        let width = self.leaves.len() >> self.shape.level_bits(level);
        let sum = |node: &u32| {
            let first = usize::try_from(*node).ok()?.checked_mul(width)?;
            let leaves = self.leaves.get(first..first.checked_add(width)?)?;
            Some(leaves.iter().fold(0_u128, |sum, leaf| sum.wrapping_add(*leaf)))
        };
        nodes.iter().map(sum).collect()
    }

    /// All leaves, for keeping them.
    pub fn leaves(&self) -> &[u128] {
        &self.leaves
    }

    /// The tree with these leaves. `None` when they do not fit the shape or add up to something else.
    pub fn from_leaves(shape: Shape, leaves: Vec<u128>, root: u128, records: u64) -> Option<Self> {
        let sum = leaves.iter().fold(0_u128, |sum, leaf| sum.wrapping_add(*leaf));
        let fits = leaves.len() == usize::try_from(shape.leaves()).ok()? && sum == root;
        fits.then_some(Self { shape, leaves, root, records })
    }

    fn leaf_mut(&mut self, tree_key: u64) -> &mut u128 {
        let at = usize::try_from(self.shape.leaf(tree_key)).expect("a shape has fewer than 32 bits");
        &mut self.leaves[at]
    }
}
