//! Hints for members that are gone: what was kept for one that will not come back goes to those who own it now.
//!
//! A hint for a member that is there, but does not own the record any more, is delivered all the same: that one hands over
//! what it does not own.

use std::sync::Arc;

use crate::limits;
use crate::node::core::Core;
use crate::node::reap;
use crate::node::replica::HintDone;
use crate::node::replica::marker::{self, Marker};
use crate::types::{Bucket, NodeId};
use crate::view::ClusterView;
use crate::wire::rpc::ServeError;

/// Turns all hints for members that are gone to the present owners. Returns whether none is left.
pub(super) async fn redirect(core: &Arc<Core>, view: &ClusterView) -> bool {
    let outcome = async {
        for target in targets(core).await? {
            if target != core.id && !view.members().contains_key(&target) {
                let redirected = redirect_one(core, target).await?;
                tracing::info!(%target, redirected, "hints for a member that is gone go to the present owners");
            }
        }
        Ok::<(), ServeError>(())
    };
    if let Err(error) = outcome.await {
        tracing::debug!(%error, "hints for members that are gone cannot be redirected now");
        return false;
    }
    let present = core.view();
    core.hints.retain(|target| present.members().contains_key(target));
    true
}

/// All for whom there are hints here.
async fn targets(core: &Core) -> Result<Vec<NodeId>, ServeError> {
    let mut targets = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = core.engine.scan(Bucket::HINTS, &[], after.as_deref(), 1, limits::SCAN_PAGE_BYTES).await;
        let page = page.map_err(|error| ServeError::Unavailable(error.to_string()))?;
        let Some((key, _)) = page.items.first() else { return Ok(targets) };
        let Some(target) = key.first_chunk::<8>() else { return Ok(targets) };
        targets.push(NodeId(u64::from_be_bytes(*target)));
        // Behind all markers of this one: what follows its identifier in them is a partition, which begins with a zero.
        after = Some([target.as_slice(), &[0xFF]].concat());
    }
}

async fn redirect_one(core: &Arc<Core>, target: NodeId) -> Result<usize, ServeError> {
    let prefix = marker::prefix(target);
    let (mut after, mut redirected) = (None, 0);
    loop {
        let (most, bytes) = (limits::HINT_PAGE_MAX, limits::SCAN_PAGE_BYTES);
        let page = core.engine.scan(Bucket::HINTS, &prefix, after.as_deref(), most, bytes).await;
        let page = page.map_err(|error| ServeError::Unavailable(error.to_string()))?;
        after = page.items.last().map(|(key, _)| key.clone());
        for (key, value) in page.items {
            let Some(slot) = marker::record_slot(&key) else { continue };
            let owners = reap::owners(core, &slot).map(|(owners, _)| owners).unwrap_or_default();
            // What an owner holds, anti-entropy spreads; what a mark speaks of and this node does not own, it compares with
            // its owners before it drops it.
            if !owners.contains(&core.id) && !owners.is_empty() {
                let places = core.hints.places(core, &slot, &owners);
                core.replica.hint(slot.clone(), places).await?;
                core.hints.stored(&owners);
            }
            let marked = Marker::decode(&value).map_or(0, |marker| marker.digest);
            let done = HintDone { slot, target, marked, delivered: None, drop_with: None };
            core.replica.hint_done(done).await?;
            redirected += 1;
        }
        if !page.more {
            return Ok(redirected);
        }
    }
}
