//! What a node did between two reports of its status. Pure: it asks nobody and knows no time but what it is given.

use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use crate::meter::Distribution;
use crate::wire::status::NodeStatus;

/// A node's work in an interval.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Rates {
    /// Keys written in a second.
    pub(crate) puts: f64,
    /// Keys read in a second.
    pub(crate) gets: f64,
    /// Pages scanned in a second.
    pub(crate) scans: f64,
    /// Requests of other coordinators in a second.
    pub(crate) replica: f64,
    /// Quorums not met in a second.
    pub(crate) failures: f64,
    /// Cores kept busy.
    pub(crate) cores: Option<f64>,
    /// How long puts took.
    pub(crate) put: Distribution,
    /// How long gets took.
    pub(crate) get: Distribution,
    /// How long reads of the storage took.
    pub(crate) read: Distribution,
    /// How long writes of the storage took.
    pub(crate) write: Distribution,
}

impl Rates {
    /// What was done between two reports. `None` when they are not of one life of the node.
    pub(crate) fn between(before: &NodeStatus, after: &NodeStatus, elapsed: Duration) -> Option<Self> {
        let pid = |status: &NodeStatus| status.process.map(|usage| usage.pid);
        if after.uptime_s < before.uptime_s || pid(after) != pid(before) || elapsed.is_zero() {
            return None;
        }
        let seconds = elapsed.as_secs_f64();
        let counter = |status: &NodeStatus, name: &str| {
            status.counters.iter().find(|(counter, _)| counter == name).map_or(0, |(_, count)| *count)
        };
        let rate = |name| counter(after, name).saturating_sub(counter(before, name)) as f64 / seconds;
        let request = |kind| since(&before.requests, &after.requests, kind);
        let storage = |call| since(&before.storage, &after.storage, call);
        let replica: u64 = ["apply", "fetch", "fetch_page", "upkeep"].iter().map(|kind| request(kind).count()).sum();
        let cores = before.process.zip(after.process);
        Some(Self {
            puts: rate("puts"),
            gets: rate("gets"),
            scans: rate("scans"),
            replica: replica as f64 / seconds,
            failures: rate("quorum_failures"),
            cores: cores.map(|(before, after)| after.cpu.saturating_sub(before.cpu).as_secs_f64() / seconds),
            put: request("put"),
            get: request("get"),
            read: storage("read"),
            write: storage("write"),
        })
    }

    /// Operations of clients in a second.
    pub(crate) fn operations(&self) -> f64 {
        self.puts + self.gets + self.scans
    }

    /// The slower of puts and gets: the latency that 1 in 100 exceeds.
    pub(crate) fn slowest(&self) -> Duration {
        self.put.per_mille(990).max(self.get.per_mille(990)).unwrap_or_default()
    }

    /// For programs.
    pub(crate) fn object(&self) -> Value {
        json!({
            "puts_per_s": self.puts,
            "gets_per_s": self.gets,
            "scans_per_s": self.scans,
            "replica_requests_per_s": self.replica,
            "quorum_failures_per_s": self.failures,
            "cpu_cores": self.cores,
            "put": latency(&self.put),
            "get": latency(&self.get),
            "storage_read": latency(&self.read),
            "storage_write": latency(&self.write),
        })
    }
}

/// What was added to a named distribution.
fn since(before: &[(String, Distribution)], after: &[(String, Distribution)], name: &str) -> Distribution {
    let find = |all: &[(String, Distribution)]| all.iter().find(|(kind, _)| kind == name).map(|(_, held)| held.clone());
    find(after).unwrap_or_default().since(&find(before).unwrap_or_default())
}

fn latency(held: &Distribution) -> Value {
    let micros = |per_mille| held.per_mille(per_mille).and_then(|took| u64::try_from(took.as_micros()).ok());
    json!({"count": held.count(), "p50_us": micros(500), "p99_us": micros(990)})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Histogram;
    use crate::types::Epoch;
    use crate::types::NodeName;
    use crate::wire::status::ProcessUsage;
    use crate::wire::sync::SyncStatus;

    fn status(uptime_s: u64, puts: u64, histogram: &Histogram, cpu: Duration) -> NodeStatus {
        NodeStatus {
            node: NodeName::new("n1").unwrap(),
            version: String::new(),
            uptime_s,
            engine: "memory".to_owned(),
            epoch: Epoch(1),
            health: "ok".to_owned(),
            keys: 0,
            bytes: 0,
            hints: 0,
            peers: Vec::new(),
            counters: vec![("puts".to_owned(), puts)],
            process: Some(ProcessUsage { pid: 7, cpu, ..ProcessUsage::default() }),
            connections: 0,
            in_flight: 0,
            not_ready: Vec::new(),
            gossip: String::new(),
            requests: vec![("put".to_owned(), histogram.read())],
            storage: Vec::new(),
            sync: SyncStatus::default(),
            hints_for: Vec::new(),
            hints_counted: true,
            layout: Default::default(),
        }
    }

    #[test]
    fn rates_are_of_the_interval_and_not_of_the_nodes_life() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_secs(5));
        let before = status(10, 100, &histogram, Duration::from_secs(3));
        for _ in 0..50 {
            histogram.record(Duration::from_millis(1));
        }
        let after = status(12, 150, &histogram, Duration::from_secs(4));
        let rates = Rates::between(&before, &after, Duration::from_secs(2)).unwrap();
        assert_eq!((rates.puts, rates.gets, rates.operations(), rates.cores), (25.0, 0.0, 25.0, Some(0.5)));
        assert_eq!(rates.put.count(), 50);
        assert!(rates.slowest() < Duration::from_millis(2), "{:?}", rates.slowest());
        assert_eq!(Rates::between(&after, &before, Duration::from_secs(2)), None, "it was started anew");
    }
}
