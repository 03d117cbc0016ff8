//! The quorum of a write, with stand-ins for owners that do not answer (sloppy quorum, Dynamo §4.6).

use std::collections::VecDeque;

use crate::quorum::Miss;
use crate::types::NodeId;

/// A record to be sent to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Send {
    /// The receiver.
    pub to: NodeId,
    /// The owner it stands in for; it keeps a hint then.
    pub hint: Option<NodeId>,
}

/// What to do after a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutStep {
    /// Wait for more replies.
    Wait,
    /// Enough replicas have it: tell the client.
    Answer,
    /// No more than too few replicas can have it any more: tell the client.
    GiveUp,
}

/// One write on its way to its replicas.
#[derive(Debug, Clone)]
pub struct PutQuorum {
    needed: usize,
    /// `None` until the first is wanted: mostly none is, and finding them takes time in a large cluster.
    stand_ins: Option<VecDeque<NodeId>>,
    waiting: Vec<Send>,
    acked: Vec<Send>,
    missed: Vec<Miss>,
    /// Owners that nobody stands in for yet.
    uncovered: Vec<NodeId>,
    /// While ownership changes: those before and those after, with how many of each are to have it. Empty otherwise.
    groups: Vec<(usize, Vec<NodeId>)>,
    decided: bool,
}

impl PutQuorum {
    /// A write that must be on `needed` replicas. `owners` is the preference list; `stand_ins` gives those who may take
    /// an owner's place now, best first, and nobody for a strict quorum; `is_up` is what is known of each owner's
    /// health. Returns the decision record and what to send first.
    pub fn start(
        needed: u8,
        owners: &[NodeId],
        is_up: impl Fn(NodeId) -> bool,
        stand_ins: impl FnOnce() -> Vec<NodeId>,
    ) -> (Self, Vec<Send>) {
        let mut find = Some(stand_ins);
        let mut put = Self {
            needed: usize::from(needed),
            stand_ins: None,
            waiting: Vec::new(),
            acked: Vec::new(),
            missed: Vec::new(),
            uncovered: Vec::new(),
            groups: Vec::new(),
            decided: false,
        };
        let mut sends = Vec::with_capacity(owners.len());
        for &owner in owners {
            if is_up(owner) {
                sends.push(Send { to: owner, hint: None });
            } else {
                if let Some(find) = find.take() {
                    put.stand_ins = Some(find().into());
                }
                let why = "is known to be down".to_owned();
                put.missed.push(Miss { node: owner, why, maybe: false });
                sends.extend(put.cover(owner));
            }
        }
        put.waiting.clone_from(&sends);
        (put, sends)
    }

    /// The same while ownership changes: `needed` replicas, or all where there are fewer, of the `owners` and of the
    /// `others`, in this order, must have the write; those in both count for both.
    pub fn start_in_both(
        needed: [u8; 2],
        owners: &[NodeId],
        others: &[NodeId],
        is_up: impl Fn(NodeId) -> bool,
        stand_ins: impl FnOnce() -> Vec<NodeId>,
    ) -> (Self, Vec<Send>) {
        if others.is_empty() {
            return Self::start(needed[0], owners, is_up, stand_ins);
        }
        let mut all = owners.to_vec();
        all.extend(others.iter().filter(|node| !owners.contains(node)));
        let (mut put, sends) = Self::start(needed[0], &all, is_up, stand_ins);
        let groups = [owners, others].into_iter().zip(needed);
        put.groups = groups.map(|(group, needed)| (usize::from(needed).min(group.len()), group.to_vec())).collect();
        (put, sends)
    }

    /// A replica has the write.
    pub fn ack(&mut self, node: NodeId) -> PutStep {
        if let Some(send) = self.take(node) {
            self.acked.push(send);
        }
        self.step()
    }

    /// A replica failed or did not answer. `maybe` tells whether it may have the write nonetheless. Returns the next
    /// step, and what to send to a stand-in if there is one; `stand_ins` as for [`PutQuorum::start`].
    pub fn fail(
        &mut self,
        node: NodeId,
        why: impl Into<String>,
        maybe: bool,
        stand_ins: impl FnOnce() -> Vec<NodeId>,
    ) -> (PutStep, Option<Send>) {
        let Some(send) = self.take(node) else { return (self.step(), None) };
        self.stand_ins.get_or_insert_with(|| stand_ins().into());
        self.missed.push(Miss { node, why: why.into(), maybe });
        let next = self.cover(send.hint.unwrap_or(node));
        self.waiting.extend(next.clone());
        (self.step(), next)
    }

    /// The nodes that have the write.
    pub fn acked(&self) -> impl Iterator<Item = NodeId> {
        self.acked.iter().map(|send| send.to)
    }

    /// The nodes that do not, and why.
    pub fn missed(&self) -> &[Miss] {
        &self.missed
    }

    /// The nodes that have not answered yet.
    pub fn waiting(&self) -> impl Iterator<Item = NodeId> {
        self.waiting.iter().map(|send| send.to)
    }

    /// Whether some replica has the write or may have it.
    pub fn may_appear(&self) -> bool {
        !self.acked.is_empty() || !self.waiting.is_empty() || self.missed.iter().any(|miss| miss.maybe)
    }

    /// The owners that neither have the write nor have a stand-in that does: once nothing is waited for any more,
    /// whoever has the record must keep a hint for them.
    pub fn uncovered(&self) -> &[NodeId] {
        &self.uncovered
    }

    /// Picks a stand-in for an owner.
    fn cover(&mut self, owner: NodeId) -> Option<Send> {
        match self.stand_ins.as_mut().and_then(VecDeque::pop_front) {
            Some(to) => Some(Send { to, hint: Some(owner) }),
            None => {
                self.uncovered.push(owner);
                None
            }
        }
    }

    fn take(&mut self, node: NodeId) -> Option<Send> {
        let at = self.waiting.iter().position(|send| send.to == node)?;
        Some(self.waiting.swap_remove(at))
    }

    /// Whether the quorum is met once these have the write, too.
    fn is_met_with(&self, more: &[Send]) -> bool {
        self.lacking(more) == 0
    }

    /// Whether it can still be met, with all that are waited for and so many stand-ins.
    fn is_met_with_more(&self, spare: usize) -> bool {
        self.lacking(&self.waiting) <= spare
    }

    /// How many replicas more a quorum takes, where most are lacking.
    fn lacking(&self, more: &[Send]) -> usize {
        if self.groups.is_empty() {
            return self.needed.saturating_sub(self.acked.len() + more.len());
        }
        let have = |group: &[NodeId]| {
            let of = |send: &&Send| group.contains(&send.hint.unwrap_or(send.to));
            self.acked.iter().chain(more).filter(of).count()
        };
        let lacking = |(needed, group): &(usize, Vec<NodeId>)| needed.saturating_sub(have(group));
        self.groups.iter().map(lacking).max().unwrap_or(0)
    }

    /// Answers and gives up once; replies that come later only wait.
    fn step(&mut self) -> PutStep {
        let spare = self.stand_ins.as_ref().map_or(0, VecDeque::len);
        let step = if self.decided {
            PutStep::Wait
        } else if self.is_met_with(&[]) {
            PutStep::Answer
        } else if !self.is_met_with_more(spare) || self.waiting.is_empty() {
            PutStep::GiveUp
        } else {
            PutStep::Wait
        };
        self.decided |= step != PutStep::Wait;
        step
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OWNERS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

    fn send(to: u64, hint: Option<u64>) -> Send {
        Send { to: NodeId(to), hint: hint.map(NodeId) }
    }

    #[test]
    fn answers_at_w_and_hints_for_the_owner_that_fails_later() {
        let (mut put, sends) = PutQuorum::start(2, &OWNERS, |_| true, Vec::new);
        assert_eq!(sends, [send(1, None), send(2, None), send(3, None)]);
        assert_eq!(put.ack(NodeId(1)), PutStep::Wait);
        assert_eq!(put.ack(NodeId(3)), PutStep::Answer);
        assert_eq!(put.fail(NodeId(2), "timed out", true, Vec::new), (PutStep::Wait, None));
        assert_eq!(put.uncovered(), [NodeId(2)]);
    }

    #[test]
    fn a_dead_owner_gets_a_stand_in_at_once_and_a_failing_one_later() {
        let (mut put, sends) = PutQuorum::start(3, &OWNERS, |node| node != NodeId(2), || vec![NodeId(8), NodeId(9)]);
        assert_eq!(sends, [send(1, None), send(8, Some(2)), send(3, None)]);
        put.ack(NodeId(1));
        assert_eq!(put.fail(NodeId(3), "lost", true, Vec::new), (PutStep::Wait, Some(send(9, Some(3)))));
        assert_eq!(put.fail(NodeId(9), "lost", true, Vec::new), (PutStep::GiveUp, None));
        assert_eq!(put.uncovered(), [NodeId(3)]);
        assert!(put.may_appear());
    }

    #[test]
    fn a_strict_quorum_gives_up_as_soon_as_it_cannot_be_met() {
        let (mut put, sends) = PutQuorum::start(2, &OWNERS, |node| node == NodeId(1), Vec::new);
        assert_eq!(sends, [send(1, None)]);
        assert_eq!(put.ack(NodeId(1)), PutStep::GiveUp);
        assert_eq!(put.missed().len(), 2);
        assert!(put.may_appear());
    }

    #[test]
    fn nothing_appears_when_nothing_was_sent() {
        let (mut put, sends) = PutQuorum::start(2, &OWNERS, |node| node == NodeId(1), Vec::new);
        assert_eq!(sends.len(), 1);
        assert_eq!(put.fail(NodeId(1), "is full", false, Vec::new).0, PutStep::GiveUp);
        assert!(!put.may_appear());
    }

    proptest! {
        /// Whatever fails in whatever order: exactly one decision, it is right, and every owner ends with the write,
        /// with a stand-in that has it, or uncovered.
        #[test]
        fn every_course_decides_once_and_forgets_no_owner(
            n in 1..6u64, spare in 0..4u64, up in prop::collection::vec(any::<bool>(), 10),
            fates in prop::collection::vec(any::<bool>(), 12), needed in 1..6u8,
        ) {
            let needed = needed.min(u8::try_from(n).unwrap());
            let owners: Vec<NodeId> = (0..n).map(NodeId).collect();
            let is_up = |node: NodeId| up[usize::try_from(node.0).unwrap() % up.len()];
            let stand_ins = || (n..n + spare).map(NodeId).filter(|node| is_up(*node)).collect();
            let (mut put, mut queue) = PutQuorum::start(needed, &owners, is_up, stand_ins);
            let (mut decisions, mut fates) = (Vec::new(), fates.into_iter().cycle());
            let nothing_sent = queue.is_empty();
            while let Some(send) = queue.pop() {
                let step = if fates.next() == Some(true) {
                    put.ack(send.to)
                } else {
                    let (step, next) = put.fail(send.to, "failed", true, stand_ins);
                    queue.extend(next);
                    step
                };
                if step != PutStep::Wait { decisions.push(step); }
            }
            let met = put.acked().count() >= usize::from(needed);
            let expected = if nothing_sent { vec![] } else if met { vec![PutStep::Answer] } else { vec![PutStep::GiveUp] };
            // A quorum may be given up when it only becomes certain that it cannot be met; never the reverse.
            prop_assert_eq!(decisions, expected);
            for owner in owners {
                let direct = put.acked.iter().any(|send| send.to == owner && send.hint.is_none());
                let stood_in = put.acked.iter().any(|send| send.hint == Some(owner));
                prop_assert_eq!(direct || stood_in, !put.uncovered().contains(&owner));
            }
        }
    }

    /// A stand-in counts for the owner whose place it takes, in each group that this one is in.
    #[test]
    fn while_ownership_changes_a_quorum_of_both_groups_is_needed_and_a_node_in_both_counts_twice() {
        let others = [NodeId(2), NodeId(3), NodeId(4)];
        let (mut put, sends) = PutQuorum::start_in_both([2; 2], &OWNERS, &others, |_| true, Vec::new);
        assert_eq!(sends, [send(1, None), send(2, None), send(3, None), send(4, None)]);
        assert_eq!(put.ack(NodeId(1)), PutStep::Wait);
        assert_eq!(put.ack(NodeId(2)), PutStep::Wait, "the others have one only");
        assert_eq!(put.ack(NodeId(4)), PutStep::Answer);
        let (mut put, sends) =
            PutQuorum::start_in_both([2; 2], &OWNERS, &others, |node| node.0 > 2, || vec![NodeId(8), NodeId(9)]);
        assert_eq!(sends, [send(8, Some(1)), send(9, Some(2)), send(3, None), send(4, None)]);
        assert_eq!(put.ack(NodeId(8)), PutStep::Wait);
        assert_eq!(put.ack(NodeId(9)), PutStep::Wait, "only one of them is for one of the others");
        assert_eq!(put.ack(NodeId(3)), PutStep::Answer);
        // One copy becomes three: the first owner alone is a quorum of those before only.
        let (mut put, _) = PutQuorum::start_in_both([1, 2], &OWNERS[..1], &OWNERS, |_| true, Vec::new);
        assert_eq!([put.ack(NodeId(1)), put.ack(NodeId(3))], [PutStep::Wait, PutStep::Answer]);
        let (put, _) = PutQuorum::start_in_both([2; 2], &OWNERS, &[], |_| true, Vec::new);
        assert!(put.groups.is_empty());
    }

    /// How many of a group have a write, themselves or by a stand-in, if these have it.
    fn have<'a>(group: &[NodeId], sends: impl Iterator<Item = &'a Send>) -> usize {
        sends.filter(|send| group.contains(&send.hint.unwrap_or(send.to))).count()
    }

    proptest! {
        /// Whatever fails in whatever order: it answers only when both groups have their quorum, and as soon as they have;
        /// it gives up only when one of them cannot have it any more; every owner is provided for.
        #[test]
        fn in_a_change_every_course_ends_in_a_quorum_of_both_groups_or_in_the_certainty_that_there_is_none(
            n in 1..6u64, shift in 0..6u64, m in 1..6u64, spare in 0..4u64, needed in prop::array::uniform2(1..6u8),
            up in prop::collection::vec(any::<bool>(), 16),
            fates in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 24),
        ) {
            let owners: Vec<NodeId> = (0..n).map(NodeId).collect();
            let others: Vec<NodeId> = (shift..shift + m).map(NodeId).collect();
            let last = n.max(shift + m);
            let is_up = |node: NodeId| up[usize::try_from(node.0).unwrap() % up.len()];
            let stand_ins = || (last..last + spare).map(NodeId).filter(|node| is_up(*node)).collect();
            let (mut put, mut queue) = PutQuorum::start_in_both(needed, &owners, &others, is_up, stand_ins);
            let groups = [(needed[0], owners.as_slice()), (needed[1], others.as_slice())];
            let is_met = |sends: &[Send]| {
                groups.iter().all(|(needed, group)| have(group, sends.iter()) >= usize::from(*needed).min(group.len()))
            };
            let (mut decisions, mut fates, any) = (Vec::new(), fates.into_iter().cycle(), !queue.is_empty());
            while !queue.is_empty() {
                let (succeeds, at) = fates.next().unwrap();
                let send = queue.swap_remove(at.index(queue.len()));
                let step = if succeeds {
                    put.ack(send.to)
                } else {
                    let (step, next) = put.fail(send.to, "failed", true, stand_ins);
                    queue.extend(next);
                    step
                };
                let met = is_met(&put.acked);
                let can_be = is_met(&[put.acked.as_slice(), &queue].concat());
                prop_assert!(put.decided || !met, "both have a quorum, and it waits");
                match step {
                    PutStep::Answer => prop_assert!(met, "it answers too early"),
                    PutStep::GiveUp => prop_assert!(!can_be, "it gives up too early"),
                    PutStep::Wait => {}
                }
                if step != PutStep::Wait { decisions.push(step); }
            }
            prop_assert_eq!(decisions.len(), usize::from(any), "{:?}", decisions);
            let mut receivers: Vec<NodeId> = put.acked().collect();
            receivers.sort_unstable();
            receivers.dedup();
            prop_assert_eq!(receivers.len(), put.acked.len(), "a node counts twice in one group");
            for owner in [owners, others].concat() {
                let direct = put.acked.iter().any(|send| send.to == owner && send.hint.is_none());
                let stood_in = put.acked.iter().any(|send| send.hint == Some(owner));
                prop_assert_eq!(direct || stood_in, !put.uncovered().contains(&owner));
            }
        }
    }
}
