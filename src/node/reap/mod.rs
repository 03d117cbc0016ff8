//! Dropping dead records (all versions deleted or expired) once it is proven that nothing they supersede can come back.
//!
//! The first owner of a partition looks for dead records and drops those of which, in this order,
//!
//! 1. each owner has just this record, on disk, and everybody else has nothing of it, nobody has a hint for it, and
//!    whoever has nothing will take nothing that the record has seen;
//! 2. all work has ended that any member had begun before ([`works`](crate::node::works)): from then on nobody has
//!    an older state of the record in memory, and nobody can have read one since;
//! 3. the first is still so, in the same lives of all members.
//!
//! A single member that is away holds up all of this: it may have what nobody knows. Time decides nothing here; the age
//! of what is looked at only keeps a round from being in vain. What is left undone at some owner comes back from there,
//! as dead as it was. What this does not know: a storage that is put back to an older copy after the drop.

mod cluster;
mod obey;
pub(crate) mod round;
mod seek;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::node::core::Core;
use crate::node::past;
use crate::node::reap::obey::keeps;
use crate::node::reap::seek::seek;

pub(crate) use obey::obey;
pub(crate) use seek::owners;

/// Passes through what this node owns in the time after which a record may be dropped.
const PASSES: u32 = 4;

/// Looks for dead records, over and over, until the scope of `core` is stopped.
pub(crate) async fn run(core: Arc<Core>) {
    let Some(after) = core.timeouts.reap_after else { return };
    tokio::select! {
        biased;
        () = core.rest.stopped() => {}
        () = pass_on(&core, after) => {}
    }
}

async fn pass_on(core: &Arc<Core>, after: Duration) {
    loop {
        sleep(after / PASSES).await;
        if !keeps(core) || !past::is_whole(core) {
            continue;
        }
        if let Err(error) = seek(core).await {
            tracing::debug!(%error, "dead records cannot be looked for now");
        }
    }
}
