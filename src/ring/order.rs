//! The order of each partition's owners: first positions are spread evenly, the rest is shuffled by partition.
//!
//! Order costs no data: a change of it moves requests, not copies.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;

use crate::hash::ClusterHash;
use crate::ring::Counts;
use crate::ring::RingMember;
use crate::ring::score::Scores;
use crate::ring::score::Use;
use crate::ring::share;
use crate::ring::share::Shares;

/// Orders the owners of each partition, which are indices of `members`.
pub(super) fn order(
    hash: &ClusterHash,
    counts: Counts,
    members: &[&RingMember],
    shares: &Shares,
    mut sets: Vec<Vec<usize>>,
) -> Vec<Vec<usize>> {
    if shares.width < 2 {
        return sets;
    }
    // Weights have had their say in who owns how much; among owners of a partition all are equal.
    let scores: Vec<Scores> =
        members.iter().map(|member| Scores::new(hash, counts, member.seat, 1, Use::Order)).collect();
    for (partition, owners) in (0..).zip(&mut sets) {
        owners.sort_by_cached_key(|&node| (scores[node].of(partition), node));
    }
    let mut firsts = Firsts::new(shares, &sets);
    for partition in 0..counts.placed.count() {
        firsts.settle(partition, &sets, &scores);
    }
    firsts.complete(&sets);
    for (owners, first) in sets.iter_mut().zip(&firsts.of) {
        if let Some(at) = first.and_then(|first| owners.iter().position(|&node| node == first)) {
            owners[..=at].rotate_right(1);
        }
    }
    sets
}

/// The first owners, and how many each node may be.
struct Firsts {
    capacity: Vec<usize>,
    /// Partitions each node is first of, by score: the last is the first to be turned down.
    held: Vec<BTreeSet<(u64, u32)>>,
    /// How many of its owners have turned a partition down.
    asked: Vec<usize>,
    of: Vec<Option<usize>>,
}

impl Firsts {
    fn new(shares: &Shares, sets: &[Vec<usize>]) -> Self {
        let width = shares.width;
        let mut owned = vec![0_usize; shares.ideal.len()];
        sets.iter().flatten().for_each(|&node| owned[node] += 1);
        // A node that is first of every `width`th partition it owns is never asked too much, so a spread within these
        // capacities exists.
        let capacity = shares
            .ideal
            .iter()
            .zip(&owned)
            .map(|(&ideal, &owned)| share::floor(share::allowed(ideal / width as f64)).max(owned.div_ceil(width)))
            .collect();
        Self {
            capacity,
            held: vec![BTreeSet::new(); shares.ideal.len()],
            asked: vec![0; sets.len()],
            of: vec![None; sets.len()],
        }
    }

    /// Finds a first owner for a partition and for those that it displaces, by deferred acceptance.
    fn settle(&mut self, partition: u32, sets: &[Vec<usize>], scores: &[Scores]) {
        let mut waiting = Some(partition);
        while let Some(partition) = waiting.take() {
            let at = partition as usize;
            while let Some(&node) = sets[at].get(self.asked[at]) {
                self.held[node].insert((scores[node].of(partition), partition));
                self.of[at] = Some(node);
                if self.held[node].len() <= self.capacity[node] {
                    break;
                }
                let Some((_, refused)) = self.held[node].pop_last() else { break };
                self.of[refused as usize] = None;
                self.asked[refused as usize] += 1;
                if refused != partition {
                    waiting = Some(refused);
                    break;
                }
            }
        }
    }

    /// Gives the partitions that all their owners turned down a first owner, along shortest chains of exchanges.
    fn complete(&mut self, sets: &[Vec<usize>]) {
        let mut firsts: Vec<Vec<usize>> =
            self.held.iter().map(|held| held.iter().map(|&(_, partition)| partition as usize).collect()).collect();
        let mut count: Vec<usize> = firsts.iter().map(Vec::len).collect();
        firsts.iter_mut().for_each(|partitions| partitions.sort_unstable());
        let missing: Vec<usize> = (0..sets.len()).filter(|&partition| self.of[partition].is_none()).collect();
        for partition in missing {
            let Some(end) = self.exchange(partition, sets, &mut firsts, &count) else { continue };
            count[end] += 1;
        }
    }

    /// Makes room for one partition; returns the node that is first of one more partition than before.
    fn exchange(
        &mut self,
        partition: usize,
        sets: &[Vec<usize>],
        firsts: &mut [Vec<usize>],
        count: &[usize],
    ) -> Option<usize> {
        // The partition that would go to each node reached.
        let mut reached: BTreeMap<usize, usize> = BTreeMap::new();
        let mut queue = VecDeque::from([partition]);
        while let Some(moving) = queue.pop_front() {
            for &node in &sets[moving] {
                if reached.contains_key(&node) || self.of[moving] == Some(node) {
                    continue;
                }
                reached.insert(node, moving);
                if count[node] < self.capacity[node] {
                    self.apply(&reached, firsts, node);
                    return Some(node);
                }
                queue.extend(&firsts[node]);
            }
        }
        None
    }

    fn apply(&mut self, reached: &BTreeMap<usize, usize>, firsts: &mut [Vec<usize>], end: usize) {
        let mut to = Some(end);
        while let Some(node) = to {
            let moving = reached[&node];
            to = self.of[moving].replace(node);
            if let Some(from) = to {
                firsts[from].retain(|&other| other != moving);
            }
            firsts[node].push(moving);
        }
    }
}
