//! How a node is, as it tells clients.
//!
//! See [`crate::wire::rpc`] for the rules of messages.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::layout::Stage;
use crate::meter::Distribution;
use crate::types::{Epoch, NodeName};
use crate::wire::hints::HintsFor;
use crate::wire::sync::SyncStatus;

/// How a node is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub node: NodeName,
    /// The program's version.
    pub version: String,
    /// Seconds since it began to serve.
    pub uptime_s: u64,
    /// The kind of its storage.
    pub engine: String,
    /// The life of its storage.
    pub epoch: Epoch,
    /// The storage's health in a word, with the reason when it is not `ok`.
    pub health: String,
    /// Keys in the storage, tombstones and hints among them.
    pub keys: u64,
    /// Bytes in the storage, as the engine counts them.
    pub bytes: u64,
    /// Hints this node keeps for others.
    pub hints: u64,
    /// The peers as this node sees them.
    pub peers: Vec<PeerStatus>,
    /// Counts since the start, by name.
    pub counters: Vec<(String, u64)>,
    /// The members it knows by gossip, in a few words; `off` without gossip.
    pub gossip: String,
    /// What its process takes; `None` where the system does not say.
    pub process: Option<ProcessUsage>,
    /// Connections it has, of both directions.
    pub connections: u64,
    /// Requests it works on.
    pub in_flight: u64,
    /// Why it is not ready to serve; empty when it is.
    pub not_ready: Vec<String>,
    /// How long requests took since the start, by kind, from arrival to answer.
    pub requests: Vec<(String, Distribution)>,
    /// How long calls of the storage took since the start, by kind.
    pub storage: Vec<(String, Distribution)>,
    /// How its anti-entropy stands.
    pub sync: SyncStatus,
    /// The hints it keeps, by whom they are for.
    pub hints_for: Vec<HintsFor>,
    /// Whether all hints have been counted since it started; until then there may be more.
    pub hints_counted: bool,
    /// Which layout it works by.
    pub layout: LayoutStatus,
}

/// A node's part in who owns data, in short.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayoutStatus {
    /// The version of the layout.
    pub version: u64,
    /// The change under way; `None` when there is none.
    pub change: Option<ChangeStatus>,
    /// Namespaces of which the node's configuration says another number of copies than the layout, which it goes by.
    pub overruled: Vec<String>,
}

/// A change of owners, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeStatus {
    /// The version in which it began.
    pub since: u64,
    /// How far it has come.
    pub stage: Stage,
    /// What it does, in a few words for each member concerned.
    pub what: Vec<String>,
    /// Partitions that the node has still to fetch for it, counted once for each number of copies.
    pub copies_left: u64,
}

/// What a process takes of its machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessUsage {
    /// Its number.
    pub pid: u32,
    /// User and system CPU time since its start.
    pub cpu: Duration,
    /// Bytes of memory that are resident.
    pub resident: u64,
    /// Bytes of its address space.
    pub virtual_bytes: u64,
    /// Files, sockets among them, that it has open.
    pub open_files: u64,
    /// Most it may have open.
    pub open_files_max: u64,
    /// Its threads.
    pub threads: u64,
    /// Seconds since the Unix epoch when it started.
    pub started_s: u64,
}

/// A peer as a node sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name.
    pub name: NodeName,
    /// Its address.
    pub quic: String,
    /// `up`, `connecting`, or `down` with the last error.
    pub state: String,
    /// Round-trip time in microseconds, when connected.
    pub rtt_us: Option<u64>,
}
