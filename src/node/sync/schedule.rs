//! Whom to compare which tree with next: what was verified least recently, unless there is a reason to hurry.
//!
//! Pure: time is an argument. It knows nothing of what a comparison finds, nor whether a peer can be reached.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::time::Instant;

use crate::limits;
use crate::types::{Copies, NodeId, PartitionId};
use crate::wire::sync::TreeId;

/// Pause where nothing is wrong but one side is not ready.
const LATER: Duration = Duration::from_secs(1);
/// First pause after a comparison that did not end with equal trees; doubled with each that follows.
const PAUSE: Duration = Duration::from_millis(500);
/// How long before it is due a comparison may be made along with others.
const EARLY: Duration = Duration::from_secs(8);
/// Longest such pause, as a power of two of the first.
const PAUSE_DOUBLED_MAX: u32 = 6;

/// One tree, compared with one other owner.
#[derive(Debug, Clone, Copy)]
struct Mark {
    verified: Option<Instant>,
    /// What both sides held then. `None` when it is to be compared, whatever this side holds.
    root: Option<u128>,
    due: Instant,
    failures: u32,
    /// Whether it may come a little before it is due, with others.
    early: bool,
}

/// All comparisons that this node has to make, again and again.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    marks: BTreeMap<(NodeId, TreeId), Mark>,
    /// Until when none is due. `None` once any may have become due sooner than was found.
    calm_until: Option<Instant>,
}

/// How far the comparisons of some trees have come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Comparisons there are.
    pub(crate) pairs: u32,
    /// Those that have found the trees equal, or made them so.
    pub(crate) verified: u32,
    /// Those since the time that was asked about.
    pub(crate) done: u32,
    /// When the least recent was; `None` while one never was.
    pub(crate) oldest: Option<Instant>,
}

impl Schedule {
    /// Goes on with these comparisons; new ones are due at once.
    pub(crate) fn follow(&mut self, wanted: &BTreeSet<(NodeId, TreeId)>, now: Instant) {
        self.calm_until = None;
        self.marks.retain(|pair, _| wanted.contains(pair));
        for pair in wanted {
            let mark = Mark { verified: None, root: None, due: now, failures: 0, early: false };
            self.marks.entry(*pair).or_insert(mark);
        }
    }

    /// The trees were equal, with this root if that is known. The next comparison comes after the interval and a bit that
    /// spreads them.
    pub(crate) fn verified(&mut self, peer: NodeId, tree: TreeId, root: Option<u128>, now: Instant, spread: Duration) {
        self.calm_until = None;
        if let Some(mark) = self.marks.get_mut(&(peer, tree)) {
            let due = now + limits::SYNC_INTERVAL + spread;
            *mark = Mark { verified: Some(now), root, due, failures: 0, early: true };
        }
    }

    /// Passes over a comparison that is due when this side's tree is what it was when both were equal, and that is not long
    /// ago: if the other side's is not, that one asks. Returns whether it does.
    pub(crate) fn pass_over(&mut self, peer: NodeId, tree: TreeId, root: u128, now: Instant) -> bool {
        let Some(mark) = self.marks.get_mut(&(peer, tree)) else { return false };
        let fresh = mark.verified.is_some_and(|verified| now < verified + limits::SYNC_INTERVAL_UNCHANGED);
        let passes = fresh && mark.root == Some(root);
        if passes {
            mark.due = now + limits::SYNC_INTERVAL;
        }
        passes
    }

    /// They could not be compared, or are not equal yet; the more often in a row, the longer the pause.
    pub(crate) fn postpone(&mut self, peer: NodeId, tree: TreeId, now: Instant, spread: Duration) {
        self.calm_until = None;
        if let Some(mark) = self.marks.get_mut(&(peer, tree)) {
            mark.due = now + PAUSE * (1 << mark.failures.min(PAUSE_DOUBLED_MAX)) + spread;
            (mark.failures, mark.early) = (mark.failures.saturating_add(1), false);
        }
    }

    /// One side is not ready to compare.
    pub(crate) fn later(&mut self, peer: NodeId, tree: TreeId, now: Instant, spread: Duration) {
        self.calm_until = None;
        if let Some(mark) = self.marks.get_mut(&(peer, tree)) {
            (mark.due, mark.early) = (now + LATER + spread, false);
        }
    }

    /// Makes comparisons due at once: of a partition or of all, with a peer or with all.
    pub(crate) fn hurry(&mut self, peer: Option<NodeId>, partition: Option<PartitionId>, now: Instant) {
        self.calm_until = None;
        for ((of, tree), mark) in &mut self.marks {
            if peer.is_none_or(|peer| peer == *of) && partition.is_none_or(|partition| partition == tree.partition) {
                (mark.root, mark.due, mark.failures) = (None, mark.due.min(now), 0);
            }
        }
    }

    /// The peer with the comparison that is due longest, and the trees that are due with it or almost are, most overdue
    /// first: one message carries many.
    pub(crate) fn next(&mut self, now: Instant, usable: impl Fn(NodeId) -> bool) -> Option<(NodeId, Vec<TreeId>)> {
        if self.calm_until.is_some_and(|until| now < until) {
            return None;
        }
        self.calm_until = self.marks.values().map(|mark| mark.due).min();
        let mut known: BTreeMap<NodeId, bool> = BTreeMap::new();
        let due = self
            .marks
            .iter()
            .filter(|((peer, _), mark)| mark.due <= now && *known.entry(*peer).or_insert_with(|| usable(*peer)));
        let (_, peer) = due.map(|((peer, _), mark)| (mark.due, *peer)).min()?;
        let with_peer = self.marks.range(all_with(peer));
        let soon = with_peer.filter(|(_, mark)| mark.due <= now || (mark.early && mark.due <= now + EARLY));
        let mut trees: Vec<(Instant, TreeId)> = soon.map(|((_, tree), mark)| (mark.due, *tree)).collect();
        trees.sort_unstable();
        trees.truncate(limits::SYNC_ROOTS_MAX);
        Some((peer, trees.into_iter().map(|(_, tree)| tree).collect()))
    }

    /// How far the comparisons with a peer have come.
    pub(crate) fn with_peer(&self, peer: NodeId) -> Progress {
        progress(self.marks.range(all_with(peer)).map(|(_, mark)| mark), None)
    }

    /// Whether the comparisons that count were made since then; one of them at least, if there are comparisons at all.
    pub(crate) fn is_done(&self, since: Instant, counts: impl Fn(NodeId, TreeId) -> bool) -> bool {
        let fresh = |mark: &Mark| mark.verified.is_some_and(|verified| verified >= since);
        let mut counted =
            self.marks.iter().filter(|((peer, tree), mark)| fresh(mark) || counts(*peer, *tree)).peekable();
        (self.marks.is_empty() || counted.peek().is_some()) && counted.all(|(_, mark)| fresh(mark))
    }

    /// How far those of each tree have come.
    pub(crate) fn by_tree(&self, partition: Option<PartitionId>, since: Instant) -> BTreeMap<TreeId, Progress> {
        let mut marks: BTreeMap<TreeId, Vec<&Mark>> = BTreeMap::new();
        for ((_, tree), mark) in &self.marks {
            if partition.is_none_or(|partition| partition == tree.partition) {
                marks.entry(*tree).or_default().push(mark);
            }
        }
        marks.into_iter().map(|(tree, marks)| (tree, progress(marks, Some(since)))).collect()
    }
}

/// The places of all comparisons with a peer.
fn all_with(peer: NodeId) -> RangeInclusive<(NodeId, TreeId)> {
    let first = TreeId { partition: PartitionId(0), copies: Copies::settled(0) };
    let last = TreeId { partition: PartitionId(u32::MAX), copies: Copies::settled(u8::MAX) };
    (peer, first)..=(peer, last)
}

fn progress<'a>(marks: impl IntoIterator<Item = &'a Mark>, since: Option<Instant>) -> Progress {
    let mut progress = Progress::default();
    let mut oldest: Option<Instant> = None;
    for mark in marks {
        progress.pairs += 1;
        let Some(verified) = mark.verified else { continue };
        progress.verified += 1;
        progress.done += u32::from(since.is_some_and(|since| verified >= since));
        oldest = Some(oldest.map_or(verified, |oldest| oldest.min(verified)));
    }
    progress.oldest = oldest.filter(|_| progress.verified == progress.pairs);
    progress
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(partition: u32) -> TreeId {
        TreeId { partition: PartitionId(partition), copies: Copies::settled(3) }
    }

    fn schedule(now: Instant) -> Schedule {
        let mut schedule = Schedule::default();
        let pairs = [1, 2].into_iter().flat_map(|peer| (0..3).map(move |at| (NodeId(peer), tree(at))));
        schedule.follow(&pairs.collect(), now);
        schedule
    }

    const NONE: Duration = Duration::ZERO;
    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn what_was_verified_least_recently_is_next_and_peers_that_cannot_be_reached_are_passed_over() {
        let now = Instant::now();
        let mut schedule = schedule(now);
        assert_eq!(schedule.next(now, |_| true).unwrap(), (NodeId(1), vec![tree(0), tree(1), tree(2)]));
        assert_eq!(schedule.next(now, |peer| peer == NodeId(2)).unwrap().0, NodeId(2));
        assert_eq!(schedule.next(now, |_| false), None);
        for (late, (peer, at)) in [(2, 1), (1, 0), (1, 2), (2, 2), (1, 1), (2, 0)].into_iter().enumerate() {
            let at_time = now + SECOND * u32::try_from(late).unwrap();
            schedule.verified(NodeId(peer), tree(at), None, at_time, NONE);
        }
        assert_eq!(schedule.next(now + limits::SYNC_INTERVAL - SECOND, |_| true), None);
        let later = now + limits::SYNC_INTERVAL;
        assert_eq!(schedule.next(later, |_| true).unwrap(), (NodeId(2), vec![tree(1), tree(2), tree(0)]));
        schedule.postpone(NodeId(2), tree(2), now + limits::SYNC_INTERVAL, NONE);
        assert_eq!(schedule.next(later, |_| true).unwrap(), (NodeId(2), vec![tree(1), tree(0)]), "it was to wait");
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_waits_longer_each_time_unless_there_is_a_hurry() {
        let now = Instant::now();
        let mut schedule = schedule(now);
        schedule.follow(&BTreeSet::from([(NodeId(1), tree(0))]), now);
        schedule.postpone(NodeId(1), tree(0), now, NONE);
        assert!(schedule.next(now + PAUSE, |_| true).is_some());
        schedule.postpone(NodeId(1), tree(0), now, NONE);
        assert!(schedule.next(now + PAUSE, |_| true).is_none());
        for _ in 0..100 {
            schedule.postpone(NodeId(1), tree(0), now, NONE);
        }
        assert!(schedule.next(now + Duration::from_secs(60), |_| true).is_some(), "it is never given up");
        schedule.hurry(Some(NodeId(2)), None, now);
        schedule.hurry(None, Some(PartitionId(9)), now);
        assert!(schedule.next(now, |_| true).is_none(), "that was not about this one");
        schedule.hurry(Some(NodeId(1)), Some(PartitionId(0)), now);
        assert!(schedule.next(now, |_| true).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_tree_that_did_not_change_is_passed_over_for_a_while_unless_there_is_a_hurry() {
        let now = Instant::now();
        let mut schedule = schedule(now);
        let later = now + limits::SYNC_INTERVAL;
        let verified = |schedule: &mut Schedule| schedule.verified(NodeId(1), tree(0), Some(7), now, NONE);
        assert!(!schedule.pass_over(NodeId(1), tree(0), 7, later), "it was never compared");
        verified(&mut schedule);
        assert!(!schedule.pass_over(NodeId(1), tree(0), 8, later), "it changed");
        assert!(schedule.pass_over(NodeId(1), tree(0), 7, later));
        let due = |schedule: &mut Schedule, at| {
            schedule.next(at, |peer| peer == NodeId(1)).is_some_and(|(_, trees)| trees.contains(&tree(0)))
        };
        (1..3).for_each(|at| schedule.verified(NodeId(1), tree(at), None, later, NONE));
        assert!(!due(&mut schedule, later) && due(&mut schedule, later + limits::SYNC_INTERVAL));
        assert!(!schedule.pass_over(NodeId(1), tree(0), 7, now + limits::SYNC_INTERVAL_UNCHANGED), "it was long ago");
        schedule.hurry(None, None, later);
        assert!(!schedule.pass_over(NodeId(1), tree(0), 7, later), "somebody wants to know");
        verified(&mut schedule);
        assert!(schedule.pass_over(NodeId(1), tree(0), 7, later), "that was compared");
    }

    #[tokio::test(start_paused = true)]
    async fn progress_counts_what_was_done_since_and_an_age_needs_all() {
        let now = Instant::now();
        let mut schedule = schedule(now);
        schedule.verified(NodeId(1), tree(0), None, now, NONE);
        let progress = schedule.by_tree(Some(PartitionId(0)), now)[&tree(0)];
        assert_eq!(progress, Progress { pairs: 2, verified: 1, done: 1, oldest: None });
        schedule.verified(NodeId(2), tree(0), None, now + SECOND, NONE);
        let progress = schedule.by_tree(None, now + SECOND)[&tree(0)];
        assert_eq!(progress, Progress { pairs: 2, verified: 2, done: 1, oldest: Some(now) });
        let only = |peer: u64| move |of: NodeId, _: TreeId| of == NodeId(peer);
        assert!(!schedule.is_done(now, |_, _| true) && !schedule.is_done(now, only(1)));
        assert!(schedule.is_done(now, |_, at| at == tree(0)) && schedule.is_done(now, |_, _| false));
        assert!(!schedule.is_done(now + 2 * SECOND, |_, _| false), "nothing was compared since");
        assert!(Schedule::default().is_done(now, |_, _| true), "there is nothing to compare");
        assert_eq!(schedule.with_peer(NodeId(2)), Progress { pairs: 3, verified: 1, done: 0, oldest: None });
    }
}
