//! Telling clients that the cluster has changed: a request that is answered when there is news. It sends nothing unasked, and
//! says nothing of who is up.

use tokio::time::{Instant, sleep_until};

use crate::limits;
use crate::net::Peer;
use crate::node::core::Core;
use crate::wire::rpc::{Reply, ServeError};

/// Waits for another cluster than the one the asker knows, until the deadline, the end of the connection or of this node.
pub(crate) async fn watch(core: &Core, peer: &Peer, known: u64, deadline: Instant) -> Result<Reply, ServeError> {
    let Ok(_place) = core.watchers.try_acquire() else {
        let text = format!("{} clients wait for news of the cluster here already", limits::WATCHERS_MAX);
        return Err(ServeError::Unavailable(text));
    };
    tokio::select! {
        biased;
        () = core.rest.stopped() => Ok(Reply::Unchanged),
        () = peer.gone() => Ok(Reply::Unchanged),
        view = core.views.other_than(known) => Ok(Reply::View(view.info().clone())),
        () = sleep_until(deadline.min(Instant::now() + limits::WATCH_MAX)) => Ok(Reply::Unchanged),
    }
}
