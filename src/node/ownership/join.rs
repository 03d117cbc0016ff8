//! Asking for this node's own share, when it has none.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::layout::Change;
use crate::node::core::Core;
use crate::node::ownership::propose;
use crate::types::Zone;

/// First and longest pause between attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// Longest wait for an agreement.
const PATIENCE: Duration = Duration::from_secs(10);

/// As what a node asks for its share.
#[derive(Debug, Clone)]
pub struct Joining {
    /// Where others reach its data plane: host and port.
    pub quic: String,
    /// Its failure zone.
    pub zone: Zone,
    /// Its share against others.
    pub weight: u32,
}

/// Asks until this node has a share; not if it had one before, since then it was taken away.
pub(super) async fn run(core: Arc<Core>, joining: Joining) {
    tokio::select! {
        biased;
        () = core.rest.stopped() => {}
        () = join(&core, joining) => {}
    }
}

async fn join(core: &Arc<Core>, Joining { quic, zone, weight }: Joining) {
    let name = core.own_name();
    let order = Change::Join { name: name.clone(), quic, zone, weight };
    let mut pause = PAUSE.0;
    loop {
        if core.view().layout().members().contains_key(&name) {
            return;
        }
        if core.ownership.state().was_member {
            tracing::warn!(
                "this node has no share of the data any more, and does not ask for one by itself: `dynamomini cluster join {name}`"
            );
            return;
        }
        match propose::join(core, &order, Instant::now() + PATIENCE).await {
            Ok(layout) => return tracing::info!(version = layout.version, "this node is to get its share of the data"),
            Err(error) => tracing::info!(%error, "this node has no share of the data yet; it asks again"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}
