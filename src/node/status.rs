//! The status report of a node.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::node::core::Core;
use crate::store::{Engine, Health, StoreSize};
use crate::wire::rpc::NodeStatus;

/// How this node is, now.
pub(crate) async fn status(core: &Core) -> NodeStatus {
    let size = core.engine.size().await.unwrap_or_else(|error| {
        tracing::debug!(%error, "the storage's size is not known");
        StoreSize::default()
    });
    let view = core.view();
    NodeStatus {
        node: view.info().node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_s: core.started.elapsed().as_secs(),
        engine: engine(&core.engine).to_owned(),
        epoch: core.engine.epoch(),
        health: health(&core.engine.health()),
        keys: size.keys,
        bytes: size.bytes,
        hints: core.hints.total(),
        peers: core.peers.status(&view),
        counters: counters(core),
        gossip: match &core.gossip {
            Some(gossip) => gossip.summary().await,
            None => "off".to_owned(),
        },
    }
}

fn engine(engine: &Engine) -> &'static str {
    match engine {
        Engine::Memory(_) => "memory",
        Engine::Embedded(_) => "embedded",
        #[cfg(feature = "redis")]
        Engine::Redis(_) => "redis",
    }
}

fn health(health: &Health) -> String {
    match health {
        Health::Ok => "ok".to_owned(),
        Health::Slow { average } => format!("slow: {} ms a call", average.as_millis()),
        Health::ReadOnly { reason } => format!("read-only: {reason}"),
        Health::LosingData { reason } => format!("losing data: {reason}"),
        Health::Down { reason } => format!("down: {reason}"),
    }
}

fn counters(core: &Core) -> Vec<(String, u64)> {
    let (counters, replica) = (&core.counters, core.replica.counters());
    let named: [(&str, &AtomicU64); 16] = [
        ("puts", &counters.puts),
        ("gets", &counters.gets),
        ("scans", &counters.scans),
        ("forwarded", &counters.forwarded),
        ("quorum_failures", &counters.quorum_failures),
        ("digest_mismatches", &counters.digest_mismatches),
        ("read_repairs", &counters.read_repairs),
        ("hedges", &counters.hedges),
        ("stand_ins", &counters.stand_ins),
        ("hints_kept", &counters.hints_kept),
        ("hints_delivered", &counters.hints_delivered),
        ("hints_refused", &counters.hints_refused),
        ("store_batches", &replica.batches),
        ("store_operations", &replica.operations),
        ("records_damaged", &replica.damaged),
        ("epoch_retries", &replica.epoch_retries),
    ];
    named.iter().map(|(name, count)| ((*name).to_owned(), count.load(Ordering::Relaxed))).collect()
}
