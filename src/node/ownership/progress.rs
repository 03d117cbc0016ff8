//! How far this node's copying has come.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::types::Epoch;
use crate::wire::sync::TreeId;

/// The copying of what this node is to own.
#[derive(Debug, Default)]
pub(crate) struct Copying(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    version: u64,
    /// The life of the storage that it goes into.
    epoch: Option<Epoch>,
    total: usize,
    done: BTreeSet<TreeId>,
    records: u64,
    began: Option<Instant>,
}

/// What is to be told of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Copied {
    /// The layout it is for.
    pub(crate) version: u64,
    /// Trees to fetch.
    pub(crate) total: usize,
    /// Those that are here.
    pub(crate) done: usize,
    /// Records that came.
    pub(crate) records: u64,
    /// When it began.
    pub(crate) began: Instant,
}

impl Copying {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins for a version and a life of the storage, or goes on with it.
    pub(super) fn begin(&self, (version, epoch): (u64, Epoch), total: usize) {
        let mut state = self.state();
        if (state.version, state.epoch) != (version, Some(epoch)) {
            *state = State { version, epoch: Some(epoch), began: Some(Instant::now()), ..State::default() };
        }
        state.total = total;
    }

    /// A tree is here.
    pub(super) fn done(&self, tree: TreeId) {
        self.state().done.insert(tree);
    }

    /// Whether a tree is here.
    pub(super) fn is_done(&self, tree: TreeId) -> bool {
        self.state().done.contains(&tree)
    }

    /// Records came.
    pub(super) fn moved(&self, records: u64) {
        self.state().records += records;
    }

    /// How far it is; `None` when this node never copied anything.
    pub(crate) fn report(&self) -> Option<Copied> {
        let state = self.state();
        let State { version, total, records, .. } = *state;
        Some(Copied { version, total, done: state.done.len(), records, began: state.began? })
    }
}
