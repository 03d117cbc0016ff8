//! Placement: which nodes own which partition, and in which order.
//!
//! The hash space is cut into Q equal partitions ([`Partitions`]). A [`Ring`] gives each of them an ordered list of
//! distinct owners. It is a pure function of the cluster's hash key, Q, the replica count and the *set* of members: every
//! node that knows the same members computes the same ring, in whatever order it heard of them, so concurrent joins
//! commute and nothing has to be agreed on.
//!
//! How it is computed:
//!
//! 1. `share` works out how many partitions each node ought to own, by weight and within what zones allow, and from
//!    that a capacity: 5 % above the ideal, or one partition where that is more.
//! 2. `score` gives every (partition, node) pair a number, as weighted rendezvous hashing does.
//! 3. `place` lets partitions propose to nodes by score, and a full node keep its best (deferred acceptance). The
//!    outcome does not depend on the order of proposals, and a join or leave disturbs little beyond what must move.
//! 4. `order` orders each list so that first positions are spread as evenly as copies are.
//!
//! # What holds
//!
//! - Lists are `min(replicas, members with weight)` long. Copies are spread over zones as evenly as the sizes of the
//!   zones allow: distinct zones whenever there are enough.
//! - No node owns more than 5 % above its ideal, or one partition above it where that is more.
//! - A join or leave moves on average at most 1.3 times the least possible while Q is at least 4 times the number of
//!   nodes to the power of 1.5 ([`Partitions::suits_nodes`]; three replicas: 1024 for 40 nodes, 2048 for 64, 4096 for
//!   101, 8192 for 161, 16384 for 256). With fewer partitions the tight capacity costs movement: at Q = 1024 about twice
//!   the least at 100 nodes, and 1.5 to 5 times at 200, most where the ideal passes a whole number. A function of the set
//!   alone cannot remember where slack was used, so balance has the precedence; more partitions give both.
//!   Somewhat more, up to 1.4, is moved where there are a few more zones than replicas.
//! - Lists for different replica counts are computed apart: the one for three need not be a prefix of the one for five,
//!   because capacities kept rank by rank would leave each rank less slack.
//!
//! An empty ring, or one whose members all have weight 0, is valid: its lists are empty.
//!
//! # Partitions that were cut
//!
//! Q may be doubled ([`Counts`]). The ring for 2Q leaves half of the data where the one for Q has it, and keeps what holds
//! above as if there had been 2Q from the beginning; a function that kept all of it would keep its unevenness, too. Until
//! owners are placed by the new count, both halves of a partition go where the whole went ([`Ring::cut_into`]).
//!
//! It deliberately knows nothing of who is alive, of transfers, or of how members are learnt.

mod balance;
mod order;
mod place;
mod score;
mod share;

#[cfg(test)]
mod tests;

pub use balance::Balance;
pub use balance::Moves;
pub use balance::NodeLoad;

use std::collections::BTreeSet;

use crate::hash::ClusterHash;
use crate::limits;
use crate::types::Namespace;
use crate::types::NodeId;
use crate::types::PartitionId;
use crate::types::Partitions;
use crate::types::Zone;

/// A member as far as placement is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingMember {
    /// The node.
    pub id: NodeId,
    /// Whom it is placed like: itself, or the node whose place it has taken. With another node in the same seat, a ring is
    /// the same but for that node.
    pub seat: NodeId,
    /// Its failure zone.
    pub zone: Zone,
    /// Its capacity relative to the others, up to [`limits::WEIGHT_MAX`]; with 0 it owns nothing.
    pub weight: u32,
}

/// Why no ring can be made of these members. An existing ring is never changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// Two members have the same identifier.
    #[error("node {0} is a member twice: give each node a name of its own")]
    DuplicateNode(NodeId),
    /// Two members are placed like the same node.
    #[error("nodes {0} and {1} have the same place in the ring")]
    DuplicateSeat(NodeId, NodeId),
    /// The node to remove is not in the ring.
    #[error("node {0} is not a member of the ring: check its name")]
    NotAMember(NodeId),
    /// A weight is above the limit.
    #[error("node {node} has weight {weight}: choose 0 to {}", limits::WEIGHT_MAX)]
    Weight {
        /// The node.
        node: NodeId,
        /// The weight that was refused.
        weight: u32,
    },
    /// There are more members than a cluster may have.
    #[error("there are too many members: a cluster has at most {}", limits::MEMBERS_MAX)]
    TooManyMembers,
    /// The replica count is 0 or above the limit.
    #[error("{given} replicas are not possible: choose 1 to {}", limits::REPLICAS_MAX)]
    Replicas {
        /// The count that was refused.
        given: u8,
    },
}

/// How many partitions owners are placed by, and how many there were when the cluster was founded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// At the founding.
    pub founded: Partitions,
    /// Now; no fewer.
    pub placed: Partitions,
}

impl Counts {
    /// Of a cluster whose partitions were never cut.
    pub fn new(partitions: Partitions) -> Self {
        Self { founded: partitions, placed: partitions }
    }
}

/// The owners of every partition for one set of members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ring {
    hash: ClusterHash,
    counts: Counts,
    /// How many there are: those that owners are placed by, or parts of them.
    partitions: Partitions,
    replicas: u8,
    members: Vec<RingMember>,
    /// Length of every preference list.
    width: usize,
    /// The lists, one after the other.
    owners: Vec<NodeId>,
}

impl Ring {
    /// Computes the ring of these members, whose order does not matter.
    ///
    /// # Errors
    /// When a node occurs twice, a weight or the number of members is above its limit, or `replicas` is not between 1
    /// and [`limits::REPLICAS_MAX`]. Fewer nodes or zones than replicas are no error: see the module's documentation.
    pub fn new(
        hash: ClusterHash,
        counts: Counts,
        replicas: u8,
        members: impl IntoIterator<Item = RingMember>,
    ) -> Result<Self, RingError> {
        // One more than the limit is enough to see that there are too many.
        let mut members: Vec<RingMember> = members.into_iter().take(limits::MEMBERS_MAX + 1).collect();
        members.sort_by_key(|member| member.seat);
        check(replicas, &members)?;
        let usable: Vec<&RingMember> = members.iter().filter(|member| member.weight > 0).collect();
        let width = usable.len().min(usize::from(replicas));
        let shares = share::Shares::new(&hash, counts.placed, width, &usable);
        let sets = place::place(&hash, counts, &usable, &shares);
        let lists = order::order(&hash, counts, &usable, &shares, sets);
        let owners = lists.into_iter().flatten().map(|node| usable[node].id).collect();
        Ok(Self { hash, counts, partitions: counts.placed, replicas, members, width, owners })
    }

    /// Whether this is the ring of these arguments, but for how often it was cut since.
    pub(crate) fn is_of(&self, hash: &ClusterHash, counts: Counts, replicas: u8, members: &[RingMember]) -> bool {
        (self.hash, self.counts, self.replicas) == (*hash, counts, replicas)
            && self.members.len() == members.len()
            && members.iter().all(|member| self.members.contains(member))
    }

    /// The same owners for so many partitions, where those were cut: each part goes where the whole went.
    #[must_use]
    pub fn cut_into(mut self, partitions: Partitions) -> Self {
        let owners = partitions.iter().flat_map(|partition| self.preference_list(partition).to_vec()).collect();
        (self.partitions, self.owners) = (partitions, owners);
        self
    }

    /// The ring with one more member.
    ///
    /// # Errors
    /// As [`Ring::new`]; [`RingError::DuplicateNode`] when the node is a member already.
    pub fn add(&self, member: RingMember) -> Result<Self, RingError> {
        let members = self.members.iter().cloned().chain([member]);
        self.of(members)
    }

    /// The ring without one member; without its last member a ring is empty.
    ///
    /// # Errors
    /// [`RingError::NotAMember`] when there is no such member.
    pub fn remove(&self, node: NodeId) -> Result<Self, RingError> {
        if self.members.iter().all(|member| member.id != node) {
            return Err(RingError::NotAMember(node));
        }
        let members = self.members.iter().filter(|member| member.id != node).cloned();
        self.of(members)
    }

    fn of(&self, members: impl IntoIterator<Item = RingMember>) -> Result<Self, RingError> {
        Ok(Self::new(self.hash, self.counts, self.replicas, members)?.cut_into(self.partitions))
    }

    /// How many partitions the hash space has.
    pub fn partitions(&self) -> Partitions {
        self.partitions
    }

    /// How many copies of each key are wanted; lists are shorter where there are fewer members with weight.
    pub fn replicas(&self) -> u8 {
        self.replicas
    }

    /// All members, ordered by seat.
    pub fn members(&self) -> &[RingMember] {
        &self.members
    }

    /// The partition of a key.
    pub fn partition(&self, namespace: &Namespace, key: &[u8]) -> PartitionId {
        self.partitions.of(self.hash.position(namespace, key))
    }

    /// The owners of a partition, or of the one that it was cut from: distinct, the first being the preferred coordinator.
    /// Empty when the ring has no member with weight, and for a partition that is more than one of this ring's.
    pub fn preference_list(&self, partition: PartitionId) -> &[NodeId] {
        let around = self.partitions.around(partition);
        let Some(index) = around.and_then(|partition| self.partitions.place(partition)) else { return &[] };
        let start = index.saturating_mul(self.width);
        self.owners.get(start..start.saturating_add(self.width)).unwrap_or(&[])
    }

    /// All members with weight that do not own the partition, in the order in which they stand in for owners that do
    /// not answer: zones that have no owner first, and spread by partition and weight, so that the load of a failed node
    /// is shared by all.
    pub fn stand_ins(&self, partition: PartitionId) -> Vec<NodeId> {
        let owners = self.preference_list(partition);
        let Some(placed) = self.counts.placed.around(partition) else { return Vec::new() };
        let zones: Vec<&Zone> = self.members.iter().filter(|m| owners.contains(&m.id)).map(|m| &m.zone).collect();
        let mut others: Vec<(bool, u64, NodeId, NodeId)> = self
            .members
            .iter()
            .filter(|m| m.weight > 0 && !owners.contains(&m.id))
            .map(|m| (zones.contains(&&m.zone), score::stand_in(&self.hash, placed, m), m.seat, m.id))
            .collect();
        others.sort_unstable();
        others.into_iter().map(|(.., id)| id).collect()
    }

    /// The partitions whose preference list has the node, in order.
    pub fn owned(&self, node: NodeId) -> impl Iterator<Item = PartitionId> {
        self.partitions.iter().filter(move |&partition| self.preference_list(partition).contains(&node))
    }

    /// How evenly partitions are spread.
    pub fn balance(&self) -> Balance {
        Balance::of(self)
    }

    /// What has to be copied when this ring becomes `next`.
    pub fn moves_to(&self, next: &Self) -> Moves {
        Moves::between(self, next)
    }
}

/// Checks what is asked for; `members` are sorted by seat.
fn check(replicas: u8, members: &[RingMember]) -> Result<(), RingError> {
    if replicas == 0 || usize::from(replicas) > limits::REPLICAS_MAX {
        return Err(RingError::Replicas { given: replicas });
    }
    if members.len() > limits::MEMBERS_MAX {
        return Err(RingError::TooManyMembers);
    }
    if let Some(member) = members.iter().find(|member| member.weight > limits::WEIGHT_MAX) {
        return Err(RingError::Weight { node: member.id, weight: member.weight });
    }
    let mut nodes = BTreeSet::new();
    if let Some(twin) = members.iter().find(|member| !nodes.insert(member.id)) {
        return Err(RingError::DuplicateNode(twin.id));
    }
    match members.windows(2).find(|pair| pair[0].seat == pair[1].seat) {
        Some(pair) => Err(RingError::DuplicateSeat(pair[0].id, pair[1].id)),
        None => Ok(()),
    }
}
