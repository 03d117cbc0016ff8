//! The status of a node as JSON: the same at `/status` and in `dynamomini status --json`.

use std::time::Duration;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::meter::Distribution;
use crate::wire::hints::HintsFor;
use crate::wire::status::LayoutStatus;
use crate::wire::status::NodeStatus;
use crate::wire::sync::SyncStatus;

/// The status as one JSON object.
pub fn report(status: &NodeStatus) -> Value {
    let peers = status
        .peers
        .iter()
        .map(|peer| json!({"id": peer.name.as_str(), "quic": peer.quic, "state": peer.state, "rtt_us": peer.rtt_us}));
    let counters = status.counters.iter().map(|(name, count)| (name.clone(), json!(count)));
    let process = status.process.map(|usage| {
        json!({
            "pid": usage.pid,
            "cpu_s": usage.cpu.as_secs_f64(),
            "rss_bytes": usage.resident,
            "open_files": usage.open_files,
            "threads": usage.threads,
            "started_s": usage.started_s,
        })
    });
    json!({
        "id": status.node.as_str(),
        "version": status.version,
        "uptime_s": status.uptime_s,
        "engine": status.engine,
        "epoch": status.epoch.to_string(),
        "health": status.health,
        "ready": status.not_ready.is_empty(),
        "not_ready": status.not_ready,
        "keys": status.keys,
        "bytes": status.bytes,
        "hints": status.hints,
        "hints_counted": status.hints_counted,
        "hints_for": status.hints_for.iter().map(hints_for).collect::<Vec<_>>(),
        "gossip": status.gossip,
        "connections": status.connections,
        "in_flight": status.in_flight,
        "pid": status.process.map(|usage| usage.pid),
        "process": process,
        "peers": peers.collect::<Vec<_>>(),
        "counters": counters.collect::<Map<_, _>>(),
        "requests": latencies(&status.requests),
        "storage": latencies(&status.storage),
        "sync": sync(&status.sync),
        "layout": layout(&status.layout),
    })
}

/// The hints that a node keeps for another one.
pub fn hints_for(hints: &HintsFor) -> Value {
    json!({
        "id": hints.name.as_str(), "count": hints.count, "bytes": hints.bytes, "oldest_ms": hints.oldest_ms,
        "marked": hints.marked,
    })
}

/// Which layout a node works by, and the change that is under way.
fn layout(layout: &LayoutStatus) -> Value {
    let change = layout.change.as_ref().map(|change| {
        json!({
            "task": format!("layout-{}", change.since), "stage": change.stage.as_str(), "what": change.what,
            "copies_left": change.copies_left,
        })
    });
    json!({"version": layout.version, "change": change, "overruled": layout.overruled})
}

/// How a node's anti-entropy stands.
pub fn sync(sync: &SyncStatus) -> Value {
    let peers = sync.peers.iter().map(|peer| {
        json!({
            "id": peer.name.as_str(), "trees": peer.trees, "verified": peer.verified, "oldest_ms": peer.oldest_ms,
            "records_in": peer.records_in, "records_out": peer.records_out,
            "bytes_in": peer.bytes_in, "bytes_out": peer.bytes_out,
        })
    });
    json!({"partitions": sync.partitions, "known": sync.known, "peers": peers.collect::<Vec<_>>()})
}

/// Count and latencies of each kind.
fn latencies(distributions: &[(String, Distribution)]) -> Map<String, Value> {
    distributions.iter().map(|(name, held)| (name.clone(), latency(held))).collect()
}

/// Count and latencies of one distribution, in microseconds.
pub(crate) fn latency(held: &Distribution) -> Value {
    let micros = |took: Duration| u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let share = |per_mille| held.per_mille(per_mille).map(micros);
    json!({"count": held.count(), "p50_us": share(500), "p99_us": share(990), "p999_us": share(999)})
}
