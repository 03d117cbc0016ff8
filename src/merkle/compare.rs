//! Comparing one tree on two nodes: first sums, level by level, then the records of the leaves that differ.
//!
//! The asking side drives a [`Descent`] and sends what it holds; the answering side sets that against its own records
//! with [`Held`]. Neither keeps anything between two exchanges: whoever is interrupted begins again, with what is still
//! different.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::limits;
use crate::merkle::tree::Shape;

/// The leaves in which two trees differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leaves {
    /// These.
    Some(BTreeSet<u32>),
    /// So many that all are taken.
    All,
}

impl Leaves {
    /// Whether a leaf is among them.
    pub fn contains(&self, leaf: u32) -> bool {
        match self {
            Self::Some(leaves) => leaves.contains(&leaf),
            Self::All => true,
        }
    }

    /// Reads the form in which messages carry them: none stands for all.
    pub fn from_list(list: &[u32]) -> Self {
        if list.is_empty() { Self::All } else { Self::Some(list.iter().copied().collect()) }
    }

    /// The form in which messages carry them.
    pub fn to_list(&self) -> Vec<u32> {
        match self {
            Self::Some(leaves) => leaves.iter().copied().collect(),
            Self::All => Vec::new(),
        }
    }
}

/// What a descent comes to after one answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Ask for the next sums.
    Deeper,
    /// Nothing differs any more: a write that was under way has arrived.
    Equal,
    /// The records of these leaves differ.
    Differ(Leaves),
}

/// One descent from two different roots to the leaves that differ.
#[derive(Debug, Clone)]
pub struct Descent {
    shape: Shape,
    level: u32,
    nodes: Vec<u32>,
}

impl Descent {
    /// Begins below the root.
    pub fn new(shape: Shape) -> Self {
        Self { shape, level: 1, nodes: (0..1 << shape.level_bits(1)).collect() }
    }

    /// The level whose sums are wanted.
    pub fn level(&self) -> u32 {
        self.level
    }

    /// The nodes of that level whose sums are wanted, at most [`limits::SYNC_SUMS_MAX`].
    pub fn nodes(&self) -> &[u32] {
        &self.nodes
    }

    /// Takes the sums of both sides. `None` when there are not as many as were asked for.
    pub fn take(&mut self, own: &[u128], theirs: &[u128]) -> Option<Step> {
        if own.len() != self.nodes.len() || theirs.len() != self.nodes.len() {
            return None;
        }
        let pairs = own.iter().zip(theirs);
        let differ: Vec<u32> =
            self.nodes.iter().zip(pairs).filter(|(_, (own, theirs))| own != theirs).map(|(node, _)| *node).collect();
        if differ.is_empty() {
            return Some(Step::Equal);
        }
        if self.level == self.shape.depth() {
            let most = usize::try_from(self.shape.leaves()).unwrap_or(usize::MAX) / 2;
            let leaves = if differ.len() > most { Leaves::All } else { Leaves::Some(differ.into_iter().collect()) };
            return Some(Step::Differ(leaves));
        }
        let fan = self.shape.level_bits(self.level + 1) - self.shape.level_bits(self.level);
        if differ.len() << fan > limits::SYNC_SUMS_MAX {
            return Some(Step::Differ(Leaves::All));
        }
        self.level += 1;
        self.nodes = differ.iter().flat_map(|node| (node << fan)..((node + 1) << fan)).collect();
        Some(Step::Deeper)
    }
}

/// What the asking side holds of a page, seen from the answering side.
#[derive(Debug, Clone, Default)]
pub struct Held {
    digests: BTreeMap<u64, u64>,
}

impl Held {
    /// Of a list of tree keys and digests.
    pub fn new(list: &[(u64, u64)]) -> Self {
        Self { digests: list.iter().copied().collect() }
    }

    /// Takes note of a record on this side. Whether the other side lacks it, in this form or at all.
    pub fn lacks(&mut self, tree_key: u64, digest: u64) -> bool {
        if self.digests.get(&tree_key) == Some(&digest) {
            self.digests.remove(&tree_key);
            return false;
        }
        true
    }

    /// What this side lacks, in that form or at all, once all its records were noted.
    pub fn wanted(self) -> Vec<u64> {
        self.digests.into_keys().collect()
    }
}
