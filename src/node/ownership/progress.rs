//! How far this node's work on trees has come: the fetching of those it is to own, the dropping of those it owns no more.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::types::Epoch;
use crate::wire::sync::TreeId;

/// Work of one kind. It says nothing before it first begins.
#[derive(Debug, Default)]
pub(crate) struct Work(Mutex<Option<State>>);

#[derive(Debug)]
struct State {
    told: Progress,
    /// The life of the storage that it is in.
    epoch: Epoch,
    done: BTreeSet<TreeId>,
    /// Since when it is being worked on, while it is.
    running: Option<Instant>,
}

/// What is to be told of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The version of the layout in which the change began that it is for.
    pub(crate) since: u64,
    /// The layout that it goes by.
    pub(crate) version: u64,
    /// Trees to work on.
    pub(crate) total: usize,
    /// Those that are done with.
    pub(crate) done: usize,
    /// Records that came or went.
    pub(crate) records: u64,
    /// Bytes of these.
    pub(crate) bytes: u64,
    /// When it began, in milliseconds since the Unix epoch.
    pub(crate) began_ms: u64,
    /// For how long it was worked on.
    pub(crate) active: Duration,
}

impl Work {
    fn state(&self) -> MutexGuard<'_, Option<State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins work for a change, or goes on with it, by a layout and in a life of the storage.
    pub(super) fn begin(&self, since: u64, (version, epoch): (u64, Epoch), wall_ms: u64) {
        let mut guard = self.state();
        if guard.as_ref().is_none_or(|state| state.told.since != since) {
            let told = Progress { since, version, began_ms: wall_ms, ..Progress::default() };
            *guard = Some(State { told, epoch, done: BTreeSet::new(), running: None });
        }
        let Some(state) = guard.as_mut() else { return };
        if (state.told.version, state.epoch) != (version, epoch) {
            // By another layout other trees are to be worked on, and a storage that was lost has none of them; what has
            // moved has moved.
            state.done.clear();
            (state.told.version, state.epoch) = (version, epoch);
        }
        state.running.get_or_insert_with(Instant::now);
    }

    /// So many trees are not done with yet.
    pub(super) fn expect(&self, left: usize) {
        if let Some(state) = self.state().as_mut() {
            state.told.total = state.done.len() + left;
        }
    }

    /// Nothing is being done for now.
    pub(super) fn rest(&self) {
        if let Some(state) = self.state().as_mut()
            && let Some(since) = state.running.take()
        {
            state.told.active += since.elapsed();
        }
    }

    /// A tree is done with.
    pub(super) fn done(&self, tree: TreeId) {
        if let Some(state) = self.state().as_mut() {
            state.done.insert(tree);
        }
    }

    /// Whether a tree is done with for this layout.
    pub(super) fn is_done(&self, version: u64, tree: TreeId) -> bool {
        self.state().as_ref().is_some_and(|state| state.told.version == version && state.done.contains(&tree))
    }

    /// Records came or went.
    pub(crate) fn moved(&self, records: u64, bytes: u64) {
        if let Some(state) = self.state().as_mut() {
            state.told.records += records;
            state.told.bytes += bytes;
        }
    }

    /// How far it is; `None` when it never began.
    pub(crate) fn progress(&self) -> Option<Progress> {
        let guard = self.state();
        let state = guard.as_ref()?;
        let running = state.running.map_or(Duration::ZERO, |since| since.elapsed());
        Some(Progress { done: state.done.len(), active: state.told.active + running, ..state.told })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Copies, PartitionId};

    fn tree(partition: u32) -> TreeId {
        TreeId { partition: PartitionId(partition), copies: Copies::settled(3) }
    }

    #[tokio::test(start_paused = true)]
    async fn only_time_that_was_worked_counts_and_a_change_that_begins_again_keeps_what_has_moved() {
        let work = Work::default();
        assert_eq!(work.progress(), None);
        work.begin(3, (4, Epoch(1)), 1000);
        work.expect(2);
        work.done(tree(1));
        work.moved(5, 50);
        tokio::time::advance(Duration::from_secs(2)).await;
        work.rest();
        tokio::time::advance(Duration::from_secs(60)).await;
        work.begin(3, (4, Epoch(1)), 9000);
        work.expect(1);
        let told = work.progress().unwrap();
        assert_eq!((told.total, told.done, told.began_ms, told.active), (2, 1, 1000, Duration::from_secs(2)));
        assert!(work.is_done(4, tree(1)) && !work.is_done(6, tree(1)));
        work.begin(3, (6, Epoch(1)), 9000);
        work.expect(9);
        let told = work.progress().unwrap();
        assert_eq!((told.total, told.done, told.records, told.bytes), (9, 0, 5, 50));
        work.begin(8, (9, Epoch(1)), 9500);
        let told = work.progress().unwrap();
        assert_eq!((told.since, told.records, told.began_ms), (8, 0, 9500));
        work.done(tree(1));
        work.begin(8, (9, Epoch(2)), 9600);
        assert!(!work.is_done(9, tree(1)), "it was in a storage that is gone");
    }
}
