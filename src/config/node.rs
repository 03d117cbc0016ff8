//! A node's configuration: plain values that are already valid, and how they are made from settled settings.
//!
//! Serialisation is not known here; a test or `dev` may build a [`NodeConfig`] directly.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::Problem;
use crate::config::problem::Source;
use crate::config::redis;
use crate::config::redis::RedisConfig;
use crate::config::settle::Settled;
use crate::config::settle::Sourced;
use crate::config::value::HostPort;
use crate::config::value::Value;
use crate::config::value::parse_span;
use crate::limits;
use crate::net::TlsFiles;
use crate::types::ClusterName;
use crate::types::ConflictPolicy;
use crate::types::Namespace;
use crate::types::NamespacePolicy;
use crate::types::NodeName;
use crate::types::Partitions;
use crate::types::Zone;

/// Everything a node is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// The cluster it belongs to.
    pub cluster: ClusterName,
    /// Parts of the hash space.
    pub partitions: Partitions,
    /// Its name.
    pub name: NodeName,
    /// Its failure zone.
    pub zone: Zone,
    /// Its share of the data.
    pub weight: u32,
    /// Where it keeps all its state.
    pub data_dir: PathBuf,
    /// Where it listens.
    pub listen: Listen,
    /// Where others reach it.
    pub advertise: Advertise,
    /// How it stores records.
    pub storage: StorageConfig,
    /// Policies by namespace; `default` is always there.
    pub namespaces: BTreeMap<Namespace, NamespacePolicy>,
    /// Its certificate.
    pub tls: TlsFiles,
    /// How long it waits for things.
    pub timeouts: Timeouts,
    /// QUIC streams per connection that requests share.
    pub lanes: u32,
    /// Hints that it keeps one by one for each other node.
    pub hints_max: u64,
    /// Largest UDP payload that path discovery tries, in bytes.
    pub mtu_max: u16,
    /// Pace of gossip.
    pub gossip: GossipConfig,
    /// What is logged.
    pub log: LogConfig,
    /// Threads that serve the network; `None` means one per core.
    pub threads: Option<usize>,
    /// Where to find the cluster: QUIC addresses of other nodes.
    pub seeds: Vec<HostPort>,
    /// Whether a new node asks for its share of the data by itself.
    pub joins_by_itself: bool,
    /// The founding members of the cluster, this node among them, ordered by name. Empty for a node that learns them from
    /// its seeds, and for one that is alone and whose port the system chooses.
    pub members: Vec<MemberConfig>,
}

/// Addresses to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// UDP, for QUIC.
    pub quic: SocketAddr,
    /// UDP, for gossip.
    pub gossip: SocketAddr,
    /// TCP, for administration.
    pub admin: SocketAddr,
}

/// Addresses that others use. `None` where the listen address has port 0, so that only the running node knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertise {
    /// For QUIC.
    pub quic: Option<HostPort>,
    /// For gossip.
    pub gossip: Option<HostPort>,
}

/// Storage of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageConfig {
    /// Where records are kept.
    pub engine: EngineConfig,
    /// When the embedded engine syncs to disk.
    pub durability: Durability,
    /// Memory of the embedded engine's cache, in bytes.
    pub cache_bytes: usize,
}

/// Where records are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineConfig {
    /// In files below the data directory.
    Embedded,
    /// In a Redis of this node's own.
    Redis(Box<RedisConfig>),
    /// In memory, for tests.
    Memory,
}

/// When the embedded engine syncs to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When the system likes.
    Off,
    /// This often.
    Interval(Duration),
    /// Before each batch is acknowledged.
    EveryBatch,
}

/// How long a node waits for things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// For a request that carries no deadline.
    pub request: Duration,
    /// For one replica.
    pub replica: Duration,
    /// Before a read is sent to one replica more.
    pub hedge: Duration,
    /// Silence after which a connection counts as lost.
    pub idle: Duration,
    /// Between signs of life on a quiet connection.
    pub keepalive: Duration,
    /// Age at which deleted and expired records may be dropped; `None` keeps them.
    pub reap_after: Option<Duration>,
    /// The 99th percentile of requests that work in the background yields to.
    pub background: Duration,
    /// For work under way at shutdown.
    pub shutdown: Duration,
}

/// Pace of gossip: a preset, and what differs from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GossipConfig {
    /// `local`, `lan` or `wan`.
    pub preset: Preset,
    /// Between probes.
    pub interval: Option<Duration>,
    /// For the answer to a direct probe.
    pub probe_timeout: Option<Duration>,
    /// Members asked to probe a silent one.
    pub indirect_probes: Option<u32>,
    /// What a suspect has to answer when several suspect it.
    pub suspicion_min: Option<Duration>,
    /// What it has when one does.
    pub suspicion_max: Option<Duration>,
    /// Between exchanges of full state.
    pub push_pull: Option<Duration>,
}

/// How far the members are from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// On one machine.
    Local,
    /// At one site.
    Lan,
    /// On several continents.
    Wan,
}

/// What is logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// A level, or filters by module.
    pub level: String,
    /// JSON lines instead of text.
    pub json: bool,
    /// Requests that take longer are logged; `None` logs none.
    pub slow: Option<Duration>,
}

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemberConfig {
    /// Its name.
    pub name: NodeName,
    /// Where it is reached by QUIC.
    pub quic: HostPort,
    /// Where it is reached by gossip.
    pub gossip: Option<HostPort>,
    /// Its failure zone.
    pub zone: Zone,
    /// Its share of the data.
    pub weight: u32,
}

/// Makes the configuration; `None` when something essential is missing, which is then among the problems. The caller
/// uses the result only if there are no problems.
pub(crate) fn build(settled: &mut Settled) -> Option<NodeConfig> {
    let members = members(settled);
    let own = settled.parsed::<NodeName>("node.name");
    if let Some(own) = &own {
        adopt_from_members(settled, own, &members);
    }
    warn_of_few_partitions(settled, members.len());
    let timeouts = timeouts(settled);
    let gossip = gossip(settled);
    let namespaces = namespaces(settled);
    let storage = storage(settled);
    let listen = listen(settled);
    let advertise = advertise(settled);
    let tls = tls(settled);
    let name = own?;
    let zone: Zone = settled.parsed("node.zone")?;
    let weight = narrow(settled.number("node.weight"));
    let seeds = match settled.get("cluster.seeds").map(|found| &found.value) {
        Some(Value::List(texts)) => texts.iter().filter_map(|text| text.parse().ok()).collect(),
        _ => Vec::new(),
    };
    let members = match (&advertise.quic, members.is_empty() && seeds.is_empty()) {
        (Some(quic), true) => {
            let (gossip, zone) = (advertise.gossip.clone(), zone.clone());
            vec![MemberConfig { name: name.clone(), quic: quic.clone(), gossip, zone, weight }]
        }
        _ => members.into_iter().map(|(_, member)| member).collect(),
    };
    let threads = usize::try_from(settled.number("runtime.threads")).ok().filter(|threads| *threads > 0);
    Some(NodeConfig {
        cluster: settled.parsed("cluster.name")?,
        partitions: Partitions::new(settled.parsed("cluster.partitions")?).ok()?,
        name,
        zone,
        weight,
        data_dir: settled.path("node.data_dir")?,
        listen: listen?,
        advertise,
        storage: storage?,
        namespaces,
        tls: tls?,
        timeouts,
        lanes: narrow(settled.number("net.lanes")),
        hints_max: settled.number("storage.hints_max"),
        mtu_max: u16::try_from(settled.number("net.mtu_max")).ok()?,
        gossip,
        log: LogConfig {
            level: settled.text("log.level")?.to_owned(),
            json: settled.text("log.format") == Some("json"),
            slow: Some(millis(settled, "log.slow_ms")).filter(|slow| !slow.is_zero()),
        },
        threads,
        seeds,
        joins_by_itself: settled.text("cluster.join") != Some("approve"),
        members,
    })
}

/// Fewer partitions than suit the members cost movement at each join, until they are cut.
fn warn_of_few_partitions(settled: &mut Settled, members: usize) {
    const KEY: &str = "cluster.partitions";
    let Some(partitions) = settled.parsed(KEY).and_then(|count| Partitions::new(count).ok()) else { return };
    if members > partitions.suits_nodes() {
        let (count, suits) = (partitions.count(), partitions.suits_nodes());
        let what = format!(
            "{count} partitions suit up to {suits} nodes, and there are {members}: joins and leaves will move more data than they must"
        );
        let enough = Partitions::for_nodes(members).count();
        let fix = format!(
            "choose {enough} for a new cluster of this size; one that runs, and has fewer, is helped by `dynamomini cluster split`"
        );
        settled.warnings.push(Problem::new(&settled.source(KEY), KEY, what, fix));
    }
}

/// Bounds in the table of settings keep these numbers far below the end of `u32`.
fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn millis(settled: &Settled, key: &str) -> Duration {
    Duration::from_millis(settled.number(key))
}

/// The members with their numbers, ordered by name; duplicates are reported and left out.
fn members(settled: &mut Settled) -> Vec<(usize, MemberConfig)> {
    let mut found: Vec<(usize, MemberConfig)> = Vec::new();
    if settled.members.len() > limits::MEMBERS_MAX {
        let what = format!("lists {} members, more than {}", settled.members.len(), limits::MEMBERS_MAX);
        settled.report("members", what, "split the cluster");
        return found;
    }
    for index in 0..settled.members.len() {
        let key = |field: &str| format!("members[{index}].{field}");
        let (Some(name), Some(quic), Some(zone)) =
            (settled.parsed::<NodeName>(&key("name")), settled.parsed(&key("quic")), settled.parsed(&key("zone")))
        else {
            continue;
        };
        let weight = narrow(settled.number(&key("weight")));
        let member = MemberConfig { name, quic, gossip: settled.parsed(&key("gossip")), zone, weight };
        let clash = found.iter().find_map(|(other, one)| {
            let same_name = (one.name == member.name).then_some(("name", member.name.to_string()));
            let same_quic = (one.quic == member.quic).then_some(("quic", member.quic.to_string()));
            same_name.or(same_quic).map(|(field, value)| (*other, field, value))
        });
        match clash {
            Some((other, field, value)) => {
                let what = format!("{value} is also the {field} of members[{other}]");
                settled.report(&key(field), what, "give every member a name and an address of its own");
            }
            None => found.push((index, member)),
        }
    }
    found.sort_by(|a, b| a.1.cmp(&b.1));
    found
}

/// Finds this node among the members, takes from there what it was not told otherwise, and reports what disagrees:
/// all nodes must see the same zone, weight and address of it, or they would compute different rings.
fn adopt_from_members(settled: &mut Settled, own: &NodeName, members: &[(usize, MemberConfig)]) {
    if members.is_empty() {
        return;
    }
    let Some((index, _)) = members.iter().find(|(_, member)| member.name == *own) else {
        let names: Vec<&str> = members.iter().map(|(_, member)| member.name.as_str()).collect();
        let what = format!("{own} is not among the members ({})", names.join(", "));
        settled.report("node.name", what, "add a [[members]] table for it, or correct the name");
        return;
    };
    for (field, key) in
        [("zone", "node.zone"), ("weight", "node.weight"), ("quic", "advertise.quic"), ("gossip", "advertise.gossip")]
    {
        let theirs = format!("members[{index}].{field}");
        let Some(told) = settled.get(&theirs).cloned() else { continue };
        match settled.get(key).filter(|found| found.source != Source::Default) {
            Some(mine) if mine.value != told.value => {
                let what = format!("{} differs from {} in {theirs}", mine.value, told.value);
                settled.report(key, what, "make them equal on every node, or leave this key out");
            }
            Some(_) => {}
            None => {
                let source = Source::Derived(theirs);
                settled.values.insert(key.to_owned(), Sourced { value: told.value, source });
            }
        }
    }
}

fn listen(settled: &mut Settled) -> Option<Listen> {
    let listen = Listen {
        quic: settled.parsed("listen.quic")?,
        gossip: settled.parsed("listen.gossip")?,
        admin: settled.parsed("listen.admin")?,
    };
    let overlap = listen.quic.port() == listen.gossip.port()
        && listen.quic.port() != 0
        && (listen.quic.ip() == listen.gossip.ip()
            || listen.quic.ip().is_unspecified()
            || listen.gossip.ip().is_unspecified());
    if overlap {
        let what = format!("{} is the UDP port of listen.quic, too", listen.gossip);
        settled.report("listen.gossip", what, "give gossip a port of its own");
    }
    Some(listen)
}

fn advertise(settled: &mut Settled) -> Advertise {
    let [quic, gossip] = ["quic", "gossip"].map(|name| {
        let (key, listen_key) = (format!("advertise.{name}"), format!("listen.{name}"));
        if let Some(given) = settled.parsed::<HostPort>(&key) {
            return Some(given);
        }
        let listen: SocketAddr = settled.parsed(&listen_key)?;
        if listen.port() == 0 || settled.refused.contains(&listen_key) {
            return None;
        }
        if listen.ip().is_unspecified() {
            if name == "quic" {
                let what = format!("is missing, and {listen_key} {listen} is not an address that others can reach");
                let fix = "set it to the host and port that others use, or list this node in [[members]]";
                settled.report(&key, what, fix);
                return None;
            }
            // The host that is good for one protocol is good for the other.
            let quic = settled.parsed::<HostPort>("advertise.quic")?;
            let value = quic.with_port(listen.port());
            let sourced =
                Sourced { value: Value::Text(value.to_string()), source: Source::Derived("advertise.quic".to_owned()) };
            settled.values.insert(key, sourced);
            return Some(value);
        }
        let value = HostPort::from(listen);
        let sourced = Sourced { value: Value::Text(value.to_string()), source: Source::Derived(listen_key) };
        settled.values.insert(key, sourced);
        Some(value)
    });
    Advertise { quic, gossip }
}

fn storage(settled: &mut Settled) -> Option<StorageConfig> {
    let redis = redis::build(settled);
    let engine = match settled.text("storage.engine")? {
        "redis" => EngineConfig::Redis(Box::new(redis?)),
        "memory" => EngineConfig::Memory,
        _ => EngineConfig::Embedded,
    };
    let durability = match settled.text("storage.durability")? {
        "off" => Durability::Off,
        "interval" => Durability::Interval(millis(settled, "storage.interval_ms")),
        _ => Durability::EveryBatch,
    };
    let cache_bytes = usize::try_from(settled.number("storage.cache_mib")).ok()?.checked_mul(1 << 20);
    Some(StorageConfig { engine, durability, cache_bytes: cache_bytes? })
}

fn namespaces(settled: &mut Settled) -> BTreeMap<Namespace, NamespacePolicy> {
    let mut policies = BTreeMap::new();
    if settled.namespaces.len() > limits::NAMESPACES_MAX {
        let what = format!("lists {} namespaces, more than {}", settled.namespaces.len(), limits::NAMESPACES_MAX);
        settled.report("namespaces", what, "put some of them together under prefixes of their keys");
        return policies;
    }
    for text in settled.namespaces.clone() {
        let Ok(name) = Namespace::new(&text) else { continue };
        let key = |field: &str| format!("namespaces.{text}.{field}");
        let (Some(r), Some(w)) = (consistency(settled, &key("r")), consistency(settled, &key("w"))) else { continue };
        let ttl = settled.text(&key("ttl")).and_then(|text| parse_span(text).ok());
        let policy = NamespacePolicy {
            n: u8::try_from(settled.number(&key("n"))).unwrap_or(u8::MAX),
            r,
            w,
            conflict: settled.parsed::<ConflictPolicy>(&key("conflict")).unwrap_or_default(),
            ttl,
            sloppy: settled.get(&key("sloppy")).is_none_or(|found| found.value == Value::Bool(true)),
        };
        let mut report = |field: &str, level: crate::types::Consistency| {
            let given_here = !matches!(settled.source(&key(field)), Source::Derived(_))
                || !matches!(settled.source(&key("n")), Source::Derived(_));
            if level.needed(policy.n).is_err() && given_here {
                let what = format!("{level} is above N = {} of this namespace", policy.n);
                settled.report(&key(field), what, format!("use 1 to {}, one, quorum or all, or raise n", policy.n));
            }
        };
        report("r", r);
        report("w", w);
        if policy.ttl.is_some_and(|ttl| ttl.is_zero()) {
            settled.report(&key("ttl"), "0 would expire every key at once", "use \"never\", or a longer span");
        }
        policies.insert(name, policy);
    }
    policies
}

fn consistency(settled: &Settled, key: &str) -> Option<crate::types::Consistency> {
    settled.parsed(key)
}

/// The TLS files; what is missing is reported already.
pub(crate) fn tls(settled: &Settled) -> Option<TlsFiles> {
    Some(TlsFiles { ca: settled.path("tls.ca")?, cert: settled.path("tls.cert")?, key: settled.path("tls.key")? })
}

fn timeouts(settled: &mut Settled) -> Timeouts {
    let timeouts = Timeouts {
        request: millis(settled, "timeouts.request_ms"),
        replica: millis(settled, "timeouts.replica_ms"),
        hedge: millis(settled, "timeouts.hedge_ms"),
        idle: millis(settled, "timeouts.idle_ms"),
        keepalive: millis(settled, "timeouts.keepalive_ms"),
        background: millis(settled, "timeouts.background_p99_ms"),
        reap_after: Some(millis(settled, "storage.reap_after_ms")).filter(|after| !after.is_zero()),
        shutdown: millis(settled, "timeouts.shutdown_ms"),
    };
    if let Some(after) = timeouts.reap_after.filter(|after| *after < limits::REAP_AFTER_MIN) {
        let (least, key) = (limits::REAP_AFTER_MIN.as_millis(), "storage.reap_after_ms");
        let what = format!("{key} = {} is less than {least}, by which every request has ended", after.as_millis());
        settled.report(key, what, format!("write at least {least}, or 0 to keep what is deleted"));
    }
    at_most(settled, "timeouts.replica_ms", "timeouts.request_ms", 1);
    at_most(settled, "timeouts.hedge_ms", "timeouts.replica_ms", 1);
    at_most(settled, "timeouts.keepalive_ms", "timeouts.idle_ms", 2);
    timeouts
}

/// Reports a span that is longer than another one divided by `divisor`.
fn at_most(settled: &mut Settled, shorter: &str, longer: &str, divisor: u64) {
    let (given, bound) = (settled.number(shorter), settled.number(longer) / divisor);
    // The blame is on the one that somebody set.
    let key = if settled.source(shorter) == Source::Default { longer } else { shorter };
    if given > bound {
        let half = if divisor == 2 { "half of " } else { "" };
        let what = format!("{shorter} = {given} is more than {half}{longer} = {}", settled.number(longer));
        settled.report(key, what, format!("lower {shorter} or raise {longer}"));
    }
}

fn gossip(settled: &mut Settled) -> GossipConfig {
    let number = |settled: &Settled, key: &str| settled.get(key).map(|_| settled.number(key));
    let span = |settled: &Settled, key: &str| number(settled, key).map(Duration::from_millis);
    for (shorter, longer) in
        [("gossip.probe_timeout_ms", "gossip.interval_ms"), ("gossip.suspicion_min_ms", "gossip.suspicion_max_ms")]
    {
        if settled.get(shorter).is_some() && settled.get(longer).is_some() {
            at_most(settled, shorter, longer, 1);
        }
    }
    GossipConfig {
        preset: match settled.text("gossip.preset") {
            Some("local") => Preset::Local,
            Some("wan") => Preset::Wan,
            _ => Preset::Lan,
        },
        interval: span(settled, "gossip.interval_ms"),
        probe_timeout: span(settled, "gossip.probe_timeout_ms"),
        indirect_probes: number(settled, "gossip.indirect_probes").map(narrow),
        suspicion_min: span(settled, "gossip.suspicion_min_ms"),
        suspicion_max: span(settled, "gossip.suspicion_max_ms"),
        push_pull: span(settled, "gossip.push_pull_ms"),
    }
}
