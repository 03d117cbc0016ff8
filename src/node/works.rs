//! Whether all work that had begun by some time has ended.
//!
//! Work is whatever may hold a record in memory that it read or was sent: requests, what they leave to the background,
//! deliveries of hints, exchanges of anti-entropy. Each piece belongs to the generation in which it began, also what it
//! leaves behind. Nothing is cancelled or held up here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The work of one node. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Works(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    open: Mutex<Open>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct Open {
    generation: u64,
    /// Pieces of work under way, by generation; none where there is none.
    pieces: BTreeMap<u64, u64>,
}

impl Works {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a piece of work, which ends when what is returned, and every clone of it, is dropped.
    pub(crate) fn begin(&self) -> Work {
        let generation = self.open().generation;
        self.join(generation)
    }

    fn join(&self, generation: u64) -> Work {
        *self.open().pieces.entry(generation).or_default() += 1;
        Work { works: self.clone(), generation }
    }

    /// Waits until all work has ended that began before this was called.
    pub(crate) async fn settled(&self) {
        let before = {
            let mut open = self.open();
            open.generation += 1;
            open.generation
        };
        loop {
            let mut ended = std::pin::pin!(self.0.ended.notified());
            // From here on no end is missed.
            ended.as_mut().enable();
            if self.open().pieces.first_key_value().is_none_or(|(generation, _)| *generation >= before) {
                return;
            }
            ended.await;
        }
    }
}

/// A piece of work that is under way. Its clones are as old as it is.
#[derive(Debug)]
pub(crate) struct Work {
    works: Works,
    generation: u64,
}

impl Clone for Work {
    fn clone(&self) -> Self {
        self.works.join(self.generation)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let mut open = self.works.open();
        let Some(pieces) = open.pieces.get_mut(&self.generation) else { return };
        *pieces -= 1;
        if *pieces == 0 {
            open.pieces.remove(&self.generation);
            drop(open);
            self.works.0.ended.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn what_began_before_is_waited_for_with_what_it_left_behind_and_nothing_else() {
        let works = Works::default();
        works.settled().await;
        let old = works.begin();
        let mut settled = std::pin::pin!(works.settled());
        assert!(settled.as_mut().now_or_never().is_none());
        let later = works.begin();
        let rest = old.clone();
        drop(old);
        assert!(settled.as_mut().now_or_never().is_none(), "its rest is under way");
        drop(rest);
        assert!(settled.as_mut().now_or_never().is_some());
        drop(later);
        assert!(works.open().pieces.is_empty(), "nothing is remembered of work that has ended");
    }
}
