//! The files of a dev cluster: certificates, made once; configurations, written at each start; `cluster.json`.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;
use toml::Table;

use crate::certs::Authority;
use crate::certs::Subject;
use crate::certs::authority;
use crate::certs::store;
use crate::cli::Context;
use crate::cli::dev::Storage;
use crate::cli::dev::folder;
use crate::cli::dev::folder::Spec;
use crate::cli::dev::layout::Layout;
use crate::cli::dev::layout::node_name;
use crate::cli::dev::ports::NodePorts;
use crate::cli::dev::ports::Ports;
use crate::cli::dev::settings;
use crate::config::settings::Kind;
use crate::config::settings::NODE;
use crate::config::value::Value;
use crate::limits;
use crate::net::TlsFiles;
use crate::store::create_directory;
use crate::types::ClusterName;
use crate::types::NodeName;

/// The name of every dev cluster: its authority, not its name, keeps it apart from others.
const CLUSTER: &str = "dev";
/// The name of the one client, who may do everything.
const ADMIN: &str = "admin";
/// Validity of certificates, in days.
const DAYS: u32 = 3650;

/// Seeds that each node is given.
const SEEDS: usize = 3;

/// Settings that suit nodes which share one machine; those of the user go over them. Packets as large as loopback takes
/// save much of the cost of sending; a connection to a node that was killed is given up soon, but not while a busy
/// machine makes a living one wait; many nodes' caches must fit into memory beside each other.
const SUITED: [(&str, u64); 4] =
    [("net.mtu_max", 16_384), ("timeouts.keepalive_ms", 500), ("timeouts.idle_ms", 2_000), ("storage.cache_mib", 64)];

/// The files of a node's or client's identity.
fn identity(layout: &Layout, name: &str) -> TlsFiles {
    let certs = layout.certs();
    let [cert, key] = ["crt", "key"].map(|ending| certs.join(format!("{name}.{ending}")));
    TlsFiles { ca: certs.join(authority::CA_CERT), cert, key }
}

/// The files of the one that may do everything.
pub(super) fn admin(layout: &Layout) -> TlsFiles {
    identity(layout, ADMIN)
}

fn set_identity(table: &mut Table, files: &TlsFiles) {
    for (key, path) in [("tls.ca", &files.ca), ("tls.cert", &files.cert), ("tls.key", &files.key)] {
        set(table, key, text(path));
    }
}

/// Makes the authority and the certificates that are not there yet.
pub(super) fn certificates(context: &Context, layout: &Layout, spec: &Spec) -> anyhow::Result<()> {
    let dir = layout.certs();
    if !dir.join(authority::CA_CERT).exists() {
        // A key alone is what a start that was interrupted has left: nothing was signed with it.
        Authority::create(&context.env, &CLUSTER.parse::<ClusterName>()?, DAYS)?.save(&dir, true)?;
    }
    let authority = Authority::load(&dir)?;
    let mut subjects = vec![Subject::admin(ADMIN)?];
    for index in 0..spec.total() {
        subjects.push(Subject::node(node_name(index), &["127.0.0.1", "localhost"])?);
    }
    for subject in subjects {
        let files = identity(layout, subject.identity().name());
        if !(files.cert.exists() && files.key.exists()) {
            let issued = authority.issue(&context.env, &subject, DAYS)?;
            store::write_pair((&files.cert, &issued.cert_pem), (&files.key, &issued.key_pem), true)?;
        }
    }
    Ok(())
}

/// Writes the configurations of all nodes and of the client.
pub(super) fn configurations(layout: &Layout, spec: &Spec, ports: &Ports) -> anyhow::Result<()> {
    (0..spec.total()).try_for_each(|index| configuration(layout, spec, ports, index))?;
    client_configuration(layout, spec, ports)
}

/// Writes that of one node.
pub(super) fn configuration(layout: &Layout, spec: &Spec, ports: &Ports, index: u16) -> anyhow::Result<()> {
    let values = settings::values(&spec.settings)?;
    let name = node_name(index);
    create_directory(&layout.node(&name))?;
    let table = node_table(layout, spec, ports, index, &values);
    let note = "# Written by `dynamomini dev` at each start: give settings to it, after --.\n";
    folder::write_whole(&layout.node_config(&name), &format!("{note}\n{}", toml::to_string(&table)?))
}

/// Writes that of the client.
pub(super) fn client_configuration(layout: &Layout, spec: &Spec, ports: &Ports) -> anyhow::Result<()> {
    let mut table = Table::new();
    set(&mut table, "cluster.name", CLUSTER.into());
    let nodes = (0..spec.total()).map(|index| local(ports.of(index).quic).into());
    set(&mut table, "nodes", toml::Value::Array(nodes.collect()));
    set_identity(&mut table, &admin(layout));
    folder::write_whole(&layout.client_config(), &toml::to_string(&table)?)
}

fn node_table(layout: &Layout, spec: &Spec, ports: &Ports, index: u16, values: &BTreeMap<String, Value>) -> Table {
    let (name, NodePorts { quic, gossip, admin }) = (node_name(index), ports.of(index));
    let mut table = Table::new();
    for (key, number) in SUITED {
        set(&mut table, key, integer(number));
    }
    // With fewer nodes than copies no quorum could ever be met.
    set(&mut table, "namespaces.default.n", integer(u64::from(spec.nodes.min(3))));
    set(&mut table, "gossip.preset", "local".into());
    for (key, value) in values {
        set(&mut table, key, to_toml(key, value));
    }
    // A node that was added knows of no others, and any of those may be gone.
    let most = if spec.added(index).is_some() { limits::SEEDS_MAX } else { SEEDS };
    let seeds = (0..spec.total()).filter(|seed| *seed != index).take(most);
    let seeds: Vec<toml::Value> = seeds.map(|seed| local(ports.of(seed).quic).into()).collect();
    if !seeds.is_empty() {
        set(&mut table, "cluster.seeds", toml::Value::Array(seeds));
    }
    set(&mut table, "cluster.name", CLUSTER.into());
    set(&mut table, "node.name", name.as_str().into());
    set(&mut table, "node.data_dir", text(&layout.node_data(&name)));
    set(&mut table, "listen.quic", local(quic).into());
    set(&mut table, "listen.gossip", local(gossip).into());
    set(&mut table, "listen.admin", local(admin).into());
    set(&mut table, "storage.engine", spec.storage.name().into());
    if spec.storage == Storage::Redis {
        set(&mut table, "storage.redis.url", format!("unix://{}", layout.redis_socket(&name).display()).into());
    }
    set_identity(&mut table, &identity(layout, name.as_str()));
    match spec.added(index) {
        None => drop(table.insert("members".to_owned(), members(spec, ports))),
        Some(added) => {
            let in_turn = || (spec.zones > 1).then(|| zone(spec, index));
            if let Some(zone) = added.zone.clone().or_else(in_turn) {
                set(&mut table, "node.zone", zone.into());
            }
            if let Some(weight) = added.weight {
                set(&mut table, "node.weight", integer(weight.into()));
            }
            if added.approve {
                set(&mut table, "cluster.join", "approve".into());
            }
        }
    }
    table
}

/// The zone of a node, dealt out in turn.
fn zone(spec: &Spec, index: u16) -> String {
    format!("z{}", index % spec.zones + 1)
}

fn members(spec: &Spec, ports: &Ports) -> toml::Value {
    let member = |index| {
        let NodePorts { quic, gossip, .. } = ports.of(index);
        let mut member = Table::new();
        member.insert("name".to_owned(), node_name(index).as_str().into());
        member.insert("quic".to_owned(), local(quic).into());
        member.insert("gossip".to_owned(), local(gossip).into());
        if spec.zones > 1 {
            member.insert("zone".to_owned(), zone(spec, index).into());
        }
        toml::Value::Table(member)
    };
    toml::Value::Array((0..spec.nodes).map(member).collect())
}

/// Sets a dotted key, making the tables on the way.
fn set(table: &mut Table, key: &str, value: toml::Value) {
    match key.split_once('.') {
        None => drop(table.insert(key.to_owned(), value)),
        Some((first, rest)) => {
            let inner = table.entry(first).or_insert_with(|| toml::Value::Table(Table::new()));
            if let toml::Value::Table(inner) = inner {
                set(inner, rest, value);
            }
        }
    }
}

fn to_toml(key: &str, value: &Value) -> toml::Value {
    // What was given as text is kept as text, and a file wants a number.
    let is_number = NODE.settings.iter().any(|setting| setting.key == key && matches!(setting.kind, Kind::Number(..)));
    match value {
        Value::Text(text) if is_number => text.parse().map_or_else(|_| text.as_str().into(), integer),
        Value::Text(text) => text.as_str().into(),
        Value::Integer(number) => integer(*number),
        Value::Bool(yes) => (*yes).into(),
        Value::List(texts) => texts.clone().into(),
    }
}

/// Bounds in the table of settings keep numbers far below the end of `i64`.
fn integer(number: u64) -> toml::Value {
    toml::Value::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

fn text(path: &Path) -> toml::Value {
    path.display().to_string().into()
}

/// An address of this machine.
pub(super) fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// One node in `cluster.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct NodeEntry {
    pub(super) id: NodeName,
    pub(super) pid: u32,
    pub(super) quic: String,
    pub(super) gossip: String,
    pub(super) admin: String,
    pub(super) dir: PathBuf,
    pub(super) config: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) redis_pid: Option<u32>,
}

impl NodeEntry {
    /// The node with this number, which does not run yet.
    pub(super) fn of(layout: &Layout, ports: &Ports, index: u16) -> Self {
        let (name, NodePorts { quic, gossip, admin }) = (node_name(index), ports.of(index));
        Self {
            pid: 0,
            quic: local(quic),
            gossip: local(gossip),
            admin: local(admin),
            dir: layout.node(&name),
            config: layout.node_config(&name),
            id: name,
            redis_pid: None,
        }
    }
}

/// The whole of `cluster.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ClusterFile {
    pub(super) nodes: Vec<NodeEntry>,
    pub(super) client_config: PathBuf,
}

impl ClusterFile {
    /// Writes it anew.
    pub(super) fn write(&self, layout: &Layout) -> anyhow::Result<()> {
        folder::write_whole(&layout.cluster_json(), &serde_json::to_string_pretty(self)?)
    }
}
