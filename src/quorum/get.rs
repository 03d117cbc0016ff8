//! The quorum of a read: records from one replica, digests from the others, more replicas when some are slow or fail.

use std::collections::VecDeque;

use crate::quorum::Miss;
use crate::types::NodeId;

/// What to do after a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GetStep {
    /// Wait for more replies.
    Wait,
    /// Enough replicas answered, and all that did agree: the record at hand is the answer.
    Agreed,
    /// Enough replicas answered, but these hold something else than the record at hand: fetch their records and merge.
    Differ(Vec<NodeId>),
    /// Too few replicas can answer any more.
    GiveUp,
}

/// Why a node may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It owns the key and can be reached.
    Owner,
    /// It owns the key and is thought to be down.
    LostOwner,
    /// It stands in for an owner that is down. What it says counts only once no reachable owner is left to wait for: it
    /// answers fast that it has nothing.
    StandIn,
}

/// One read on its way to its replicas. A digest of `None` says that the replica holds nothing.
#[derive(Debug, Clone)]
pub struct GetQuorum {
    needed: usize,
    candidates: VecDeque<(NodeId, Role)>,
    waiting: Vec<(NodeId, Role)>,
    replies: Vec<(NodeId, Option<u64>)>,
    /// Replies of stand-ins, until they count.
    reserve: Vec<(NodeId, Option<u64>)>,
    missed: Vec<Miss>,
}

impl GetQuorum {
    /// A read that needs `needed` answers from `candidates`, best first. Returns the decision record and whom to ask
    /// first.
    pub fn start(needed: u8, candidates: impl IntoIterator<Item = (NodeId, Role)>) -> (Self, Vec<NodeId>) {
        let mut get = Self {
            needed: usize::from(needed),
            candidates: candidates.into_iter().collect(),
            waiting: Vec::new(),
            replies: Vec::new(),
            reserve: Vec::new(),
            missed: Vec::new(),
        };
        let first: Vec<NodeId> = (0..needed).filter_map(|_| get.more()).collect();
        (get, first)
    }

    /// The next replica to ask beside those that are slow, if there is one left.
    pub fn more(&mut self) -> Option<NodeId> {
        let next = self.candidates.pop_front()?;
        self.waiting.push(next);
        Some(next.0)
    }

    /// A replica answered.
    pub fn reply(&mut self, node: NodeId, digest: Option<u64>) -> GetStep {
        let counts = match self.take(node) {
            Some(Role::StandIn) => &mut self.reserve,
            _ => &mut self.replies,
        };
        counts.push((node, digest));
        self.step()
    }

    /// A replica failed or did not answer. Returns the next step and whom to ask instead.
    pub fn fail(&mut self, node: NodeId, why: impl Into<String>) -> (GetStep, Option<NodeId>) {
        self.take(node);
        self.missed.push(Miss { node, why: why.into(), maybe: false });
        let under_way = self.replies.len() + self.reserve.len() + self.waiting.len();
        let next = if under_way < self.needed { self.more() } else { None };
        (self.step(), next)
    }

    fn take(&mut self, node: NodeId) -> Option<Role> {
        let at = self.waiting.iter().position(|(waiting, _)| *waiting == node)?;
        Some(self.waiting.swap_remove(at).1)
    }

    /// The replicas that answered, with the digests they hold.
    pub fn replies(&self) -> &[(NodeId, Option<u64>)] {
        &self.replies
    }

    /// The replicas that were asked and have not answered yet.
    pub fn waiting(&self) -> impl Iterator<Item = NodeId> {
        self.waiting.iter().map(|(node, _)| *node)
    }

    /// The replicas that did not, and why.
    pub fn missed(&self) -> &[Miss] {
        &self.missed
    }

    fn step(&mut self) -> GetStep {
        let is_owner = |(_, role): &(NodeId, Role)| *role == Role::Owner;
        if !self.waiting.iter().any(is_owner) && !self.candidates.iter().any(is_owner) {
            self.replies.append(&mut self.reserve);
        }
        if self.replies.len() >= self.needed {
            let first = self.replies[0].1;
            let differ: Vec<NodeId> =
                self.replies.iter().filter(|(_, digest)| *digest != first).map(|(node, _)| *node).collect();
            if differ.is_empty() { GetStep::Agreed } else { GetStep::Differ(differ) }
        } else if self.waiting.is_empty() && self.candidates.is_empty() {
            GetStep::GiveUp
        } else {
            GetStep::Wait
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(ids: &[u64]) -> Vec<(NodeId, Role)> {
        ids.iter().map(|id| (NodeId(*id), Role::Owner)).collect()
    }

    fn nodes(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn asks_no_more_than_needed_while_all_is_well() {
        let (mut get, first) = GetQuorum::start(2, owners(&[1, 2, 3]));
        assert_eq!(first, nodes(&[1, 2]));
        assert_eq!(get.reply(NodeId(1), Some(7)), GetStep::Wait);
        assert_eq!(get.reply(NodeId(2), Some(7)), GetStep::Agreed);
    }

    #[test]
    fn a_failure_moves_on_to_the_next_and_the_end_is_told() {
        let (mut get, _) = GetQuorum::start(2, owners(&[1, 2, 3]));
        assert_eq!(get.fail(NodeId(1), "lost"), (GetStep::Wait, Some(NodeId(3))));
        assert_eq!(get.reply(NodeId(2), None), GetStep::Wait);
        assert_eq!(get.fail(NodeId(3), "lost"), (GetStep::GiveUp, None));
        assert_eq!(get.missed().len(), 2);
    }

    #[test]
    fn a_slow_replica_is_hedged_and_the_first_to_come_count() {
        let (mut get, _) = GetQuorum::start(2, owners(&[1, 2, 3]));
        assert_eq!(get.more(), Some(NodeId(3)));
        assert_eq!(get.reply(NodeId(3), None), GetStep::Wait);
        assert_eq!(get.reply(NodeId(1), None), GetStep::Agreed);
    }

    #[test]
    fn those_who_differ_from_the_first_are_named() {
        let (mut get, _) = GetQuorum::start(3, owners(&[1, 2, 3]));
        get.reply(NodeId(1), Some(1));
        get.reply(NodeId(2), None);
        assert_eq!(get.reply(NodeId(3), Some(1)), GetStep::Differ(nodes(&[2])));
    }

    #[test]
    fn too_few_candidates_give_up_after_the_last_answer() {
        let (mut get, first) = GetQuorum::start(2, owners(&[1]));
        assert_eq!(first, nodes(&[1]));
        assert_eq!(get.reply(NodeId(1), Some(1)), GetStep::GiveUp);
    }

    /// The write was acknowledged by two owners; one of them died, the other is slow, the reader is the third.
    #[test]
    fn a_stand_in_that_has_nothing_does_not_outrun_a_slow_owner() {
        let candidates = [(NodeId(3), Role::Owner), (NodeId(1), Role::Owner), (NodeId(9), Role::StandIn)];
        let (mut get, first) = GetQuorum::start(2, candidates);
        assert_eq!(first, nodes(&[3, 1]));
        assert_eq!(get.reply(NodeId(3), None), GetStep::Wait);
        assert_eq!(get.more(), Some(NodeId(9)));
        assert_eq!(get.reply(NodeId(9), None), GetStep::Wait);
        assert_eq!(get.reply(NodeId(1), Some(7)), GetStep::Differ(nodes(&[1])));
    }

    #[test]
    fn a_stand_in_counts_when_no_reachable_owner_is_left() {
        let candidates = [(NodeId(3), Role::Owner), (NodeId(9), Role::StandIn), (NodeId(1), Role::LostOwner)];
        let (mut get, _) = GetQuorum::start(2, candidates);
        assert_eq!(get.reply(NodeId(9), None), GetStep::Wait);
        assert_eq!(get.reply(NodeId(3), None), GetStep::Agreed);
    }
}
