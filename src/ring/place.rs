//! Which nodes own which partition: deferred acceptance between partitions and nodes with capacities.
//!
//! Each partition takes the nodes that score best for it and do not turn it down; a node that is full turns down the
//! partitions that score worst for it, and these look further. Both sides rank by the same score, so there is exactly one
//! outcome in which no partition and node would rather have each other, and it does not depend on who proposed first.
//! Zones are respected throughout: which sets of owners are allowed has the structure of a matroid, so a partition that
//! is turned down replaces that one owner and keeps the others.
//!
//! The order of owners is not decided here.

use std::collections::BTreeMap;
use std::collections::BinaryHeap;
use std::collections::VecDeque;

use crate::hash::ClusterHash;
use crate::limits;
use crate::ring::Counts;
use crate::ring::RingMember;
use crate::ring::score::Scores;
use crate::ring::score::Use;
use crate::ring::share::Shares;
use crate::types::Partitions;

/// The owners (indices of `members`) of each partition, in no particular order.
pub(super) fn place(hash: &ClusterHash, counts: Counts, members: &[&RingMember], shares: &Shares) -> Vec<Vec<usize>> {
    let partitions = counts.placed;
    let scores = members.iter().map(|m| Scores::new(hash, counts, m.seat, m.weight, Use::Own)).collect();
    let mut placement = Placement::new(scores, partitions, shares);
    let mut unplaced = Vec::new();
    for partition in 0..partitions.count() {
        placement.settle(partition, &mut unplaced);
    }
    unplaced.sort_unstable();
    for partition in unplaced {
        placement.force(partition);
    }
    placement.relieve();
    placement.owners
}

/// A partition's place among those that a node holds: the greatest is the first to be turned down.
type Held = (u64, u32);

struct Placement<'a> {
    shares: &'a Shares,
    scores: Vec<Scores>,
    owners: Vec<Vec<usize>>,
    held: Vec<BinaryHeap<Held>>,
    /// Scores of all nodes for the partition at hand.
    row: Vec<u64>,
    /// Owners of the partition at hand in each zone.
    in_zone: Vec<usize>,
}

impl<'a> Placement<'a> {
    fn new(scores: Vec<Scores>, partitions: Partitions, shares: &'a Shares) -> Self {
        let nodes = scores.len();
        Self {
            shares,
            scores,
            owners: partitions.iter().map(|_| Vec::with_capacity(shares.width)).collect(),
            held: vec![BinaryHeap::new(); nodes],
            row: vec![0; nodes],
            in_zone: vec![0; shares.zones.len()],
        }
    }

    /// Finds owners for a partition and for those that it displaces. Those that every node turns down are reported.
    fn settle(&mut self, partition: u32, unplaced: &mut Vec<u32>) {
        let mut waiting = vec![partition];
        while let Some(partition) = waiting.pop() {
            self.look_at(partition);
            while self.owners_of(partition).len() < self.shares.width {
                let Some(node) = self.best(partition, |this, node| this.accepts(node, partition)) else {
                    // It may come by here more than once, so what is missing is filled in once at the end.
                    unplaced.push(partition);
                    break;
                };
                self.give(partition, node);
                if self.held[node].len() > self.shares.capacity[node] {
                    waiting.extend(self.turn_down(node));
                }
            }
        }
    }

    /// Completes a partition that every node turned down, beyond capacities if need be.
    fn force(&mut self, partition: u32) {
        self.look_at(partition);
        while self.owners_of(partition).len() < self.shares.width {
            let roomy = self.best(partition, |this, node| this.held[node].len() < this.shares.limit[node]);
            let Some(node) = roomy.or_else(|| self.best(partition, |_, _| true)) else { break };
            self.give(partition, node);
        }
    }

    /// Makes the partition the one at hand.
    fn look_at(&mut self, partition: u32) {
        for (slot, scores) in self.row.iter_mut().zip(&self.scores) {
            *slot = scores.of(partition);
        }
        self.in_zone.fill(0);
        for &node in &self.owners[index(partition)] {
            self.in_zone[self.shares.zone_of[node]] += 1;
        }
    }

    fn owners_of(&self, partition: u32) -> &[usize] {
        &self.owners[index(partition)]
    }

    /// The best node for the partition at hand that it does not have, that its zones allow and that is `willing`.
    fn best(&self, partition: u32, willing: impl Fn(&Self, usize) -> bool) -> Option<usize> {
        let owners = self.owners_of(partition);
        let extras = self.shares.extras - extras_used(self.shares, &self.in_zone);
        let mut best: Option<usize> = None;
        for node in 0..self.row.len() {
            if best.is_some_and(|best| self.row[node] >= self.row[best]) || owners.contains(&node) {
                continue;
            }
            let (zone, taken) = (self.shares.zone_of[node], self.in_zone[self.shares.zone_of[node]]);
            let bounds = self.shares.zones[zone];
            let allowed = taken < bounds.least || (taken < bounds.most && extras > 0);
            if allowed && willing(self, node) {
                best = Some(node);
            }
        }
        best
    }

    /// Whether the node would take the partition at hand, if need be by turning down another.
    fn accepts(&self, node: usize, partition: u32) -> bool {
        let held = &self.held[node];
        held.len() < self.shares.capacity[node] || held.peek().is_some_and(|&worst| (self.row[node], partition) < worst)
    }

    fn give(&mut self, partition: u32, node: usize) {
        self.held[node].push((self.row[node], partition));
        self.owners[index(partition)].push(node);
        self.in_zone[self.shares.zone_of[node]] += 1;
    }

    /// Takes from the node what scores worst for it.
    fn turn_down(&mut self, node: usize) -> Option<u32> {
        let (_, partition) = self.held[node].pop()?;
        self.owners[index(partition)].retain(|&owner| owner != node);
        Some(partition)
    }

    /// Moves partitions off nodes that were forced above their limits, along chains of swaps if need be.
    fn relieve(&mut self) {
        let overfull: Vec<usize> =
            (0..self.held.len()).filter(|&node| self.held[node].len() > self.shares.limit[node]).collect();
        if overfull.is_empty() {
            return;
        }
        let mut chains = Chains::new(self.shares, &mut self.owners);
        let mut failed = 0;
        for node in overfull {
            while failed < limits::RING_SEARCHES_FAILED_MAX && chains.owned[node].len() > self.shares.limit[node] {
                if !chains.relieve(node) {
                    failed += 1;
                    break;
                }
            }
        }
    }
}

/// How many owners lie in zones beyond what these must have.
fn extras_used(shares: &Shares, in_zone: &[usize]) -> usize {
    in_zone.iter().zip(&shares.zones).map(|(&taken, zone)| taken.saturating_sub(zone.least)).sum()
}

fn index(partition: u32) -> usize {
    partition as usize
}

/// Search for chains of handovers that end at a node with room.
struct Chains<'a> {
    shares: &'a Shares,
    owners: &'a mut Vec<Vec<usize>>,
    /// Partitions of each node, ascending.
    owned: Vec<Vec<usize>>,
}

impl<'a> Chains<'a> {
    fn new(shares: &'a Shares, owners: &'a mut Vec<Vec<usize>>) -> Self {
        let mut owned = vec![Vec::new(); shares.ideal.len()];
        for (partition, nodes) in owners.iter().enumerate() {
            nodes.iter().for_each(|&node| owned[node].push(partition));
        }
        Self { shares, owners, owned }
    }

    /// Takes one partition off the node by the shortest chain; false when there is none.
    fn relieve(&mut self, start: usize) -> bool {
        // How each node was reached: by which partition, from which node.
        let mut reached: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(from) = queue.pop_front() {
            for &partition in &self.owned[from] {
                if on_chain(&reached, start, from, partition) {
                    continue;
                }
                for to in 0..self.owned.len() {
                    if to == start || reached.contains_key(&to) || !self.may_hand_over(partition, from, to) {
                        continue;
                    }
                    reached.insert(to, (partition, from));
                    if self.owned[to].len() < self.shares.limit[to] {
                        self.apply(&reached, start, to);
                        return true;
                    }
                    queue.push_back(to);
                }
            }
        }
        false
    }

    /// Whether the partition may have `to` as an owner in place of `from`.
    fn may_hand_over(&self, partition: usize, from: usize, to: usize) -> bool {
        let owners = &self.owners[partition];
        if owners.contains(&to) {
            return false;
        }
        let (old, new) = (self.shares.zone_of[from], self.shares.zone_of[to]);
        if old == new {
            return true;
        }
        let mut in_zone = vec![0; self.shares.zones.len()];
        owners.iter().for_each(|&node| in_zone[self.shares.zone_of[node]] += 1);
        in_zone[old] -= 1;
        in_zone[new] += 1;
        in_zone[old] >= self.shares.zones[old].least
            && in_zone[new] <= self.shares.zones[new].most
            && extras_used(self.shares, &in_zone) <= self.shares.extras
    }

    fn apply(&mut self, reached: &BTreeMap<usize, (usize, usize)>, start: usize, end: usize) {
        let mut to = end;
        while to != start {
            let (partition, from) = reached[&to];
            self.owners[partition].iter_mut().filter(|owner| **owner == from).for_each(|owner| *owner = to);
            self.owned[from].retain(|&other| other != partition);
            let at = self.owned[to].partition_point(|&other| other < partition);
            self.owned[to].insert(at, partition);
            to = from;
        }
    }
}

/// Whether the chain that reached `node` uses the partition already: two swaps of one partition are not checked together.
fn on_chain(reached: &BTreeMap<usize, (usize, usize)>, start: usize, mut node: usize, partition: usize) -> bool {
    while node != start {
        let (used, from) = reached[&node];
        if used == partition {
            return true;
        }
        node = from;
    }
    false
}
