//! The causal contexts that a run has seen, so that its writes replace what they should instead of becoming siblings.
//!
//! Writes of one key that are under way together do become siblings. A key that has gathered some is read before it is
//! written again, so that hot keys do not fill up with them.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use crate::client::CausalContext;
use crate::limits;

/// Writes of one key that may have met others before it is read again; a key holds far more siblings than these.
const CONTESTED_MOST: u32 = 8;

/// Contexts by the numbers of their keys, at most [`limits::BENCH_CONTEXTS_MAX`].
#[derive(Debug, Default)]
pub(super) struct Contexts {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    keys: BTreeMap<u64, Entry>,
    /// Keys whose contexts found no room.
    refused: u64,
}

#[derive(Debug, Default)]
struct Entry {
    context: CausalContext,
    writing: u32,
    contested: u32,
}

/// How a write should be made.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Start {
    /// The context it should carry.
    pub(super) context: CausalContext,
    /// Whether the key should be read first.
    pub(super) settle: bool,
}

impl Contexts {
    fn table(&self) -> MutexGuard<'_, Table> {
        // A panic elsewhere leaves the contexts as good as they were.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A write of this key begins; [`Contexts::wrote`] tells how it ended.
    pub(super) fn begin(&self, key: u64) -> Start {
        let mut table = self.table();
        let Some(entry) = table.entry(key) else { return Start::default() };
        if entry.writing > 0 {
            entry.contested += 1;
        }
        entry.writing += 1;
        Start { context: entry.context.clone(), settle: entry.contested >= CONTESTED_MOST }
    }

    /// A write has ended, with this context unless it failed.
    pub(super) fn wrote(&self, key: u64, context: Option<&CausalContext>) {
        let mut table = self.table();
        let Some(entry) = table.keys.get_mut(&key) else { return };
        entry.writing = entry.writing.saturating_sub(1);
        match context {
            Some(context) => entry.context = context.clone(),
            // It may have been applied all the same.
            None => entry.contested += 1,
        }
    }

    /// A key was read: a write with this context replaces all that was there.
    pub(super) fn read(&self, key: u64, context: &CausalContext) {
        if let Some(entry) = self.table().entry(key) {
            entry.context = context.clone();
            entry.contested = 0;
        }
    }

    /// How often there was no room for a key.
    pub(super) fn refused(&self) -> u64 {
        self.table().refused
    }
}

impl Table {
    fn entry(&mut self, key: u64) -> Option<&mut Entry> {
        if self.keys.len() >= limits::BENCH_CONTEXTS_MAX && !self.keys.contains_key(&key) {
            self.refused += 1;
            return None;
        }
        Some(self.keys.entry(key).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::rpc::KeyContext;

    fn context(position: u64) -> CausalContext {
        CausalContext(KeyContext { position, ..KeyContext::default() })
    }

    #[test]
    fn a_write_carries_what_was_read_or_written_last() {
        let contexts = Contexts::default();
        assert_eq!(contexts.begin(1), Start::default());
        contexts.wrote(1, Some(&context(5)));
        assert_eq!(contexts.begin(1), Start { context: context(5), settle: false });
        contexts.wrote(1, None);
        contexts.read(1, &context(6));
        assert_eq!(contexts.begin(1).context, context(6));
        assert_eq!(contexts.begin(2).context, CausalContext::default());
    }

    #[test]
    fn a_key_whose_writes_met_is_read_before_it_is_full() {
        let contexts = Contexts::default();
        let settled = (0..CONTESTED_MOST + 1).map(|_| contexts.begin(1).settle).collect::<Vec<_>>();
        assert_eq!(settled.iter().position(|settle| *settle), Some(settled.len() - 1));
        contexts.read(1, &context(7));
        assert!(!contexts.begin(1).settle);
        assert!(usize::try_from(2 * CONTESTED_MOST).unwrap() < limits::SIBLINGS_MAX);
    }
}
