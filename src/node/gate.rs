//! Keeps clients waiting for a moment when a node has just started: until it is connected to the others, it can meet no quorum,
//! and whoever asks it would wait longer. Other nodes are served at once, or those that start together would wait for each
//! other.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::node::core::Core;

/// Longest wait for the others, of which some may be down.
const PATIENCE: Duration = Duration::from_millis(300);
/// How often they are looked at.
const LOOK: Duration = Duration::from_millis(2);

/// Shut at first, then open for ever.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    open: AtomicBool,
    opened: CancellationToken,
}

impl Gate {
    /// Waits until it is open.
    pub(crate) async fn pass(&self) {
        // One load for all requests but the first.
        if !self.open.load(Ordering::Acquire) {
            self.opened.cancelled().await;
        }
    }

    fn open(&self) {
        self.open.store(true, Ordering::Release);
        self.opened.cancel();
    }
}

/// Opens the gate once each peer was reached, or was not.
pub(crate) async fn open_when_connected(core: Arc<Core>) {
    let began = Instant::now();
    while core.peers.is_connecting() && began.elapsed() < PATIENCE && !core.rest.is_stopping() {
        sleep(LOOK).await;
    }
    core.gate.open();
    tracing::debug!(waited = ?began.elapsed(), "clients are served");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_comes_before_it_opens_waits_and_who_comes_later_does_not() {
        let gate = Gate::default();
        let mut early = std::pin::pin!(gate.pass());
        assert!(futures_util::poll!(early.as_mut()).is_pending());
        gate.open();
        early.await;
        gate.pass().await;
    }
}
