//! Measures of rings: how evenly partitions are spread, and what a change of ring moves.

use std::collections::BTreeMap;

use crate::ring::Ring;
use crate::ring::RingMember;
use crate::ring::share::Shares;
use crate::types::NodeId;

/// What one node holds, against what it ought to hold.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeLoad {
    /// The node.
    pub node: NodeId,
    /// Its weight.
    pub weight: u32,
    /// Partitions it owns, in any position.
    pub owned: u32,
    /// Partitions in whose list it is first.
    pub first: u32,
    /// Partitions it ought to own: by weight, as far as zones and one copy per node allow.
    pub ideal: f64,
    /// `owned` as a part of `ideal`; 1.0 for a node that ought to own nothing and does not.
    pub ratio: f64,
}

/// How evenly partitions are spread over the members.
#[derive(Debug, Clone, PartialEq)]
pub struct Balance {
    /// Every member, ordered by seat.
    pub nodes: Vec<NodeLoad>,
    /// The largest ratio of what a node owns to its ideal: the weighted maximum over the mean. 1.0 for an empty ring.
    pub max_over_mean: f64,
    /// The same of first positions.
    pub first_max_over_mean: f64,
}

impl Balance {
    pub(super) fn of(ring: &Ring) -> Self {
        let usable: Vec<&RingMember> = ring.members.iter().filter(|member| member.weight > 0).collect();
        let shares = Shares::new(&ring.hash, ring.partitions, ring.width, &usable);
        let ideals: BTreeMap<NodeId, f64> = usable.iter().map(|member| member.id).zip(shares.ideal).collect();
        let owned = count(ring.owners.iter());
        let first = count(ring.owners.chunks(ring.width.max(1)).filter_map(|list| list.first()));
        let nodes: Vec<NodeLoad> = ring
            .members
            .iter()
            .map(|member| {
                let ideal = ideals.get(&member.id).copied().unwrap_or(0.0);
                let owned = owned.get(&member.id).copied().unwrap_or(0);
                let first = first.get(&member.id).copied().unwrap_or(0);
                let ratio = ratio(owned, ideal);
                NodeLoad { node: member.id, weight: member.weight, owned, first, ideal, ratio }
            })
            .collect();
        let greatest = |of: &dyn Fn(&NodeLoad) -> f64| nodes.iter().map(of).reduce(f64::max).unwrap_or(1.0);
        let max_over_mean = greatest(&|load| load.ratio);
        let first_max_over_mean = greatest(&|load| ratio(load.first, load.ideal / ring.width.max(1) as f64));
        Self { nodes, max_over_mean, first_max_over_mean }
    }
}

fn ratio(count: u32, ideal: f64) -> f64 {
    if ideal > 0.0 { f64::from(count) / ideal } else { 1.0 }
}

fn count<'a>(nodes: impl Iterator<Item = &'a NodeId>) -> BTreeMap<NodeId, u32> {
    let mut counts = BTreeMap::new();
    for &node in nodes {
        *counts.entry(node).or_insert(0) += 1;
    }
    counts
}

/// What has to be copied for one ring to become another. Changes of order alone cost nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moves {
    /// Partitions that each node has to receive; nodes that receive none are left out.
    pub gained: BTreeMap<NodeId, u32>,
    /// Copies of partitions to make in all.
    pub total: u64,
    /// The copies that no ring with the next one's loads could avoid: what nodes own in the next ring beyond what they
    /// own in this one.
    pub least: u64,
}

impl Moves {
    /// Rings with different partition counts share nothing: all copies of the next one count as gained.
    pub(super) fn between(from: &Ring, to: &Ring) -> Self {
        let comparable = from.partitions == to.partitions;
        let mut gained = BTreeMap::new();
        for partition in to.partitions.iter() {
            let before = if comparable { from.preference_list(partition) } else { &[] };
            for node in to.preference_list(partition).iter().filter(|node| !before.contains(node)) {
                *gained.entry(*node).or_insert(0) += 1;
            }
        }
        let before = if comparable { count(from.owners.iter()) } else { BTreeMap::new() };
        let after = count(to.owners.iter());
        let growth = |(node, &now): (&NodeId, &u32)| now.saturating_sub(before.get(node).copied().unwrap_or(0));
        let least = after.iter().map(|load| u64::from(growth(load))).sum();
        let total = gained.values().map(|&copies| u64::from(copies)).sum();
        Self { gained, total, least }
    }
}
