//! Whether this node's storage went back in time, and what follows from that: it takes writes and answers no reads until it
//! has caught up with the other owners.
//!
//! A storage that was put back to an older copy, whole, cannot tell by itself. So each node tells the others how far its
//! storage has come ([`Landmark`]), they keep it on their disks, and remember what they saw in it since ([`witness`]); a node
//! that starts asks what they last saw of it before it answers reads and names versions ([`decide`]). One that is behind, or that knows by itself that it may have
//! lost writes, takes a new epoch and *catches up* ([`catch_up`]): what the others have dropped since leaves it, what they
//! lack stays, and once its trees were found equal to theirs it answers reads again. Nothing here moves records by itself
//! but for that.

mod catch_up;
mod decide;
mod dropped;
pub(crate) mod kept;
mod witness;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::limits;
use crate::node::core::Core;
use crate::node::trees::Trees;
use crate::store::{Engine, StoreError};
use crate::types::Epoch;
use crate::wire::past::Landmark;
use crate::wire::rpc::ServeError;
use crate::wire::sync::TreeId;

pub(crate) use decide::{advance, answer, keep, last_word};
pub(crate) use dropped::answer as answer_dropped;
use witness::Witness;

/// Pause between looks while something is not as it should be.
const TICK: Duration = Duration::from_millis(500);

/// What may be asked of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// The others are being asked what they last saw of it.
    Asking,
    /// All.
    Serving,
    /// No reads, for this reason.
    CatchingUp(&'static str),
}

/// What this node knows of its storage's past.
#[derive(Debug)]
pub(crate) struct Past {
    /// The epoch under which reads are answered; zero while they are not.
    serving: AtomicU64,
    state: Mutex<State>,
    changed: Notify,
    /// Held while what is kept of landmarks is read and written.
    keeping: tokio::sync::Mutex<()>,
    /// What was seen in the others' storages.
    pub(crate) witness: Witness,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// The epoch of the storage of which all this is said.
    epoch: Epoch,
    /// How many renewals, on this node's own request, are under way.
    renewing: u32,
    own: Landmark,
    /// Batches that had been written when the mark was last raised.
    marked_at: u64,
    /// Trees that hold nothing any more that others have dropped.
    checked: BTreeSet<TreeId>,
}

/// A renewal of the epoch is under way until this is dropped.
struct Renewing<'a>(&'a Past);

impl Drop for Renewing<'_> {
    fn drop(&mut self) {
        self.0.state().renewing -= 1;
    }
}

impl Past {
    /// Of a storage in this epoch, of which nobody was asked yet.
    pub(crate) fn new(epoch: Epoch) -> Self {
        let own = Landmark::default();
        let state = State { phase: Phase::Asking, epoch, renewing: 0, own, marked_at: 0, checked: BTreeSet::new() };
        Self {
            serving: AtomicU64::new(0),
            state: Mutex::new(state),
            changed: Notify::new(),
            keeping: tokio::sync::Mutex::default(),
            witness: Witness::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether reads of a storage in this epoch are answered.
    pub(crate) fn answers(&self, epoch: Epoch) -> bool {
        self.serving.load(Ordering::Acquire) == epoch.0
    }

    /// Why no reads are answered, while the node catches up.
    pub(crate) fn catching_up(&self) -> Option<&'static str> {
        match self.state().phase {
            Phase::CatchingUp(reason) => Some(reason),
            Phase::Asking | Phase::Serving => None,
        }
    }

    /// Whether it is not known yet what the others last saw of this node.
    pub(crate) fn is_asking(&self) -> bool {
        self.state().phase == Phase::Asking
    }

    /// How far the storage has come.
    pub(crate) fn own(&self) -> Landmark {
        self.state().own
    }

    /// What this node's counts begin above since it was started. What an earlier start from the same copy may have named
    /// counts below.
    pub(crate) fn floor(&self) -> u64 {
        self.state().own.starts.saturating_sub(1).min(limits::STARTS_MAX) << limits::COUNTS_PER_START_BITS
    }

    /// Whether what the tree holds may be given to others: not while it may hold what they have dropped.
    pub(crate) fn may_offer(&self, tree: TreeId) -> bool {
        let state = self.state();
        match state.phase {
            Phase::Serving => true,
            Phase::Asking => false,
            Phase::CatchingUp(_) => state.checked.contains(&tree),
        }
    }

    /// Whether this node is renewing the epoch itself just now.
    pub(crate) fn is_renewing(&self) -> bool {
        self.state().renewing > 0
    }

    /// Renews the epoch of a storage that holds what it held. The trees stay as they are.
    ///
    /// # Errors
    /// As [`Engine::renew_epoch`].
    pub(crate) async fn renew(
        &self,
        engine: &Engine,
        trees: &Trees,
        from: Epoch,
        reason: &str,
    ) -> Result<Epoch, StoreError> {
        self.state().renewing += 1;
        let renewing = Renewing(self);
        let epoch = engine.renew_epoch(from, reason).await?;
        trees.with(|forest| forest.carry(from, epoch));
        let mut state = self.state();
        if state.epoch == from {
            state.epoch = epoch;
            if state.phase == Phase::Serving {
                self.serving.store(epoch.0, Ordering::Release);
            }
        }
        drop(state);
        drop(renewing);
        Ok(epoch)
    }

    fn enter(&self, phase: Phase, epoch: Epoch, own: Landmark) {
        let mut state = self.state();
        let serving = if phase == Phase::Serving { epoch.0 } else { 0 };
        if phase != state.phase {
            state.checked.clear();
        }
        (state.phase, state.epoch, state.own) = (phase, epoch, own);
        self.serving.store(serving, Ordering::Release);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Stops answering reads at once.
    fn stop_answering(&self, reason: &'static str) {
        let (epoch, own) = {
            let mut state = self.state();
            state.checked.clear();
            (state.epoch, state.own)
        };
        self.enter(Phase::CatchingUp(reason), epoch, own);
    }

    /// Waits until the others were asked.
    async fn decided(&self, deadline: Instant) {
        // Whoever runs out of time is told why below.
        drop(timeout_at(deadline, self.until(|past| !past.is_asking())).await);
    }

    /// Waits until something holds.
    async fn until(&self, holds: impl Fn(&Self) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            if holds(self) {
                return;
            }
            changed.await;
        }
    }
}

/// What a reader is told that cannot be answered.
fn no_reads(core: &Core) -> ServeError {
    let why = core.past.catching_up().unwrap_or("it is not known yet whether its storage is up to date");
    ServeError::Unavailable(format!("this node cannot be relied on for what it stores now: {why}"))
}

/// Waits until it is known whether this node answers reads, and refuses them when it does not. Returns the epoch of what is
/// read; [`still_reads`] says afterwards whether it was that.
pub(crate) async fn reads(core: &Core, deadline: Instant) -> Result<Epoch, ServeError> {
    let epoch = core.engine.epoch();
    if core.past.answers(epoch) {
        return Ok(epoch);
    }
    core.past.decided(deadline).await;
    let epoch = core.engine.epoch();
    if core.past.answers(epoch) { Ok(epoch) } else { Err(no_reads(core)) }
}

/// Refuses what was read of a storage that has begun another epoch meanwhile: it may have lost what it held.
pub(crate) fn still_reads(core: &Core, epoch: Epoch) -> Result<(), ServeError> {
    if core.past.answers(epoch) && core.engine.epoch() == epoch { Ok(()) } else { Err(no_reads(core)) }
}

/// Waits until it is known how far this storage had come: nothing may be named before.
pub(crate) async fn decided(core: &Core, deadline: Instant) -> Result<(), ServeError> {
    if core.past.is_asking() {
        core.past.decided(deadline).await;
        if core.past.is_asking() {
            return Err(no_reads(core));
        }
    }
    Ok(())
}

/// Whether the storage holds all that this node has seen of it.
pub(crate) fn is_whole(core: &Core) -> bool {
    core.past.answers(core.engine.epoch())
}

/// Asks, tells, and catches up until the scope of `core` is stopped.
pub(crate) fn start(core: &Arc<Core>) {
    let look_after = |core: Arc<Core>| async move {
        tokio::select! {
            biased;
            () = core.rest.stopped() => {}
            () = decide::run(&core) => {}
        }
    };
    let catch_up = |core: Arc<Core>| async move {
        tokio::select! {
            biased;
            () = core.rest.stopped() => {}
            () = catch_up::run(&core) => {}
        }
    };
    core.rest.spawn("past", look_after(core.clone()));
    core.rest.spawn("catch-up", catch_up(core.clone()));
}
