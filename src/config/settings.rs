//! The tables of settings: the one home of every key, its type, default, help, and of the names derived from it.
//!
//! Parsing, unknown-key errors, environment names, flags, provenance and the README's table all come from here. The
//! tables say what one value may be; how values must fit each other is checked where the configuration is built.

use std::str::FromStr;

use crate::limits;
use crate::types::ClusterName;
use crate::types::Namespace;
use crate::types::NodeName;
use crate::types::Zone;

/// What a setting's value may be.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Text that passes a check; the second field names its shape in documentation.
    Text(fn(&str) -> Result<(), String>, &'static str),
    /// A whole number that passes a check; the second field names its shape in documentation.
    Number(fn(&str) -> Result<(), String>, &'static str),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A whole number within bounds, both included.
    Integer(u64, u64),
    /// Milliseconds within bounds, both included: a number, or text such as `"5s"`.
    Millis(u64, u64),
    /// `true` or `false`.
    Bool,
    /// A span of time such as `"30s"` or `"7d"`, or `"never"`.
    Span,
    /// A path; in a file, relative to that file.
    Path,
    /// Text that is never shown.
    Secret,
    /// `one`, `quorum`, `all`, or a number of replicas.
    Consistency,
    /// The address and port to listen on; port 0 lets the system choose.
    Listen,
    /// A host name or address, and a port.
    HostPort,
    /// One or more of them.
    HostPorts,
}

impl Kind {
    /// The shape of a value, for documentation.
    pub fn shape(&self) -> String {
        match self {
            Self::Text(_, shape) | Self::Number(_, shape) => (*shape).to_owned(),
            Self::Choice(words) => words.join(" \\| "),
            Self::Integer(min, max) => format!("{min} to {max}"),
            Self::Millis(min, max) => format!("{min} to {max} ms"),
            Self::Bool => "true \\| false".to_owned(),
            Self::Span => "span such as 30s, 12h, 7d, or never".to_owned(),
            Self::Path => "path".to_owned(),
            Self::Secret => "text, never shown".to_owned(),
            Self::Consistency => format!("one \\| quorum \\| all \\| 1 to {}", limits::REPLICAS_MAX),
            Self::Listen => "address:port".to_owned(),
            Self::HostPort => "host:port".to_owned(),
            Self::HostPorts => "list of host:port".to_owned(),
        }
    }

    /// What a flag's value is called in `--help`.
    pub fn placeholder(&self) -> &'static str {
        match self {
            Self::Text(..) => "NAME",
            Self::Choice(_) => "WORD",
            Self::Integer(..) | Self::Number(..) => "NUMBER",
            Self::Millis(..) => "MS|SPAN",
            Self::Bool => "BOOL",
            Self::Span => "SPAN",
            Self::Path => "PATH",
            Self::Secret => "SECRET",
            Self::Consistency => "LEVEL",
            Self::Listen => "ADDRESS:PORT",
            Self::HostPort | Self::HostPorts => "HOST:PORT",
        }
    }
}

/// What holds when nobody sets a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// This value, as text.
    Value(&'static str),
    /// Nothing, or what the help says.
    Absent,
    /// The configuration is refused.
    Required,
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its dotted name.
    pub key: &'static str,
    /// What its value may be.
    pub kind: Kind,
    /// What holds when nobody sets it.
    pub fallback: Fallback,
    /// One sentence or two for people.
    pub help: &'static str,
    /// The flag, where it is not just the key with dashes.
    flag: Option<&'static str>,
}

impl Setting {
    const fn new(key: &'static str, kind: Kind, fallback: Fallback, help: &'static str) -> Self {
        Self { key, kind, fallback, help, flag: None }
    }

    const fn with_flag(mut self, flag: &'static str) -> Self {
        self.flag = Some(flag);
        self
    }

    /// The name of its flag, without the dashes in front.
    pub fn flag(&self) -> String {
        self.flag.map_or_else(|| self.key.replace(['.', '_'], "-"), str::to_owned)
    }
}

/// A program's whole set of settings.
#[derive(Debug)]
pub struct Catalogue {
    /// What the configuration is called in messages.
    pub title: &'static str,
    /// The settings that are single values, in the order of documentation.
    pub settings: &'static [Setting],
    /// The settings of one `[[members]]` table; empty where there are none.
    pub members: &'static [Setting],
    /// What the environment names begin with.
    pub env_prefix: &'static str,
}

impl Catalogue {
    /// The setting of a full key such as `storage.engine`, `namespaces.orders.n` or `members[0].quic`.
    pub fn find(&self, key: &str) -> Option<&'static Setting> {
        if let Some(found) = self.settings.iter().find(|setting| setting.key == key) {
            return Some(found);
        }
        if let Some((_, field)) = key.strip_prefix("members[").and_then(|rest| rest.split_once("].")) {
            return self.members.iter().find(|setting| setting.key == field);
        }
        let (_, field) = key.strip_prefix("namespaces.")?.rsplit_once('.')?;
        self.settings.iter().find(|setting| setting.key.strip_prefix(NAMESPACE_DEFAULT) == Some(field))
    }

    /// The name of a key in the environment.
    pub fn env_name(&self, key: &str) -> String {
        format!("{}{}", self.env_prefix, key.to_uppercase().replace(['.', '-'], "_"))
    }
}

/// What the keys of the default namespace begin with.
pub const NAMESPACE_DEFAULT: &str = "namespaces.default.";

/// What every name of ours in the environment begins with.
pub const ENV_PREFIX: &str = "DYNAMOMINI_";

fn checked<T: FromStr<Err = E>, E: ToString>(text: &str) -> Result<(), String> {
    text.parse::<T>().map(drop).map_err(|invalid| invalid.to_string())
}

fn partitions(text: &str) -> Result<(), String> {
    let count = text.parse::<u32>().map_err(|_| format!("{text:?} is not a whole number"))?;
    crate::types::Partitions::new(count).map(drop).map_err(|invalid| invalid.to_string())
}

fn any_text(_: &str) -> Result<(), String> {
    Ok(())
}

/// Refuses log filters that are malformed, or would be taken for something else than they were meant.
///
/// # Errors
/// What is wrong, and what is allowed.
pub fn log_level(text: &str) -> Result<(), String> {
    let allowed = "error, warn, info, debug, trace, or filters such as info,dynamomini::net=debug";
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let shaped = text.split(',').all(|part| part.contains('=') || levels.contains(&part));
    match tracing_subscriber::EnvFilter::builder().parse(text) {
        Ok(_) if shaped => Ok(()),
        _ => Err(format!("log level {text:?} is not valid: {allowed}")),
    }
}

const CLUSTER: Kind = Kind::Text(checked::<ClusterName, _>, "cluster name");
const NODE_NAME: Kind = Kind::Text(checked::<NodeName, _>, "node name");
const ZONE: Kind = Kind::Text(checked::<Zone, _>, "zone name");
const NAMESPACE: Kind = Kind::Text(checked::<Namespace, _>, "namespace");
const WEIGHT: Kind = Kind::Integer(1, limits::WEIGHT_MAX as u64);

use Fallback::Absent;
use Fallback::Required;
use Fallback::Value;

#[rustfmt::skip]
const NODE_SETTINGS: &[Setting] = &[
    Setting::new("cluster.name", CLUSTER, Required, "The cluster this node belongs to, fixed at its creation. Nodes and clients of another cluster are refused."),
    Setting::new("cluster.seeds", Kind::HostPorts, Absent, "QUIC addresses of nodes to find the cluster by. A name may stand for several. Tried for ever, so that start order does not matter."),
    Setting::new("cluster.partitions", Kind::Number(partitions, "power of two, 16 to 65536"), Value("1024"), "Equal parts of the hash space at the cluster's creation; it stays as it is when `cluster split` makes more of them. Without [[members]] learnt from the seeds. 1024 suit up to 40 nodes, 4096 101, 16384 256, 65536 645."),
    Setting::new("cluster.join", Kind::Choice(&["auto", "approve"]), Value("auto"), "Whether this node asks for its share of the data by itself when it is new, or owns none until an administrator runs `dynamomini cluster join`."),
    Setting::new("node.name", NODE_NAME, Required, "This node's name: a DNS label, unique in the cluster, and the same as in its certificate."),
    Setting::new("node.zone", ZONE, Value("default"), "The failure zone (rack, hall, region); replicas are spread over zones. By default as in [[members]]."),
    Setting::new("node.weight", WEIGHT, Value("100"), "This node's share of the data in proportion to the other nodes' weights. By default as in [[members]]."),
    Setting::new("node.data_dir", Kind::Path, Value("data"), "Where the node keeps all its state. Made, for its user only, if it is not there."),
    Setting::new("listen.quic", Kind::Listen, Value("0.0.0.0:7400"), "UDP address for nodes and clients (QUIC)."),
    Setting::new("listen.gossip", Kind::Listen, Value("0.0.0.0:7401"), "UDP address for gossip."),
    Setting::new("listen.admin", Kind::Listen, Value("127.0.0.1:7402"), "TCP address for health, metrics and administration over HTTP. It has no authentication of its own: keep it local."),
    Setting::new("advertise.quic", Kind::HostPort, Absent, "Where others reach listen.quic. By default this node's entry in [[members]], else the listen address."),
    Setting::new("advertise.gossip", Kind::HostPort, Absent, "Where others reach listen.gossip. By default this node's entry in [[members]], else the listen address, else the host of advertise.quic."),
    Setting::new("storage.engine", Kind::Choice(&["embedded", "redis", "memory"]), Value("embedded"), "Where this node keeps its records: files in data_dir, a Redis of its own, or memory only (for tests)."),
    Setting::new("storage.durability", Kind::Choice(&["off", "interval", "every-batch"]), Value("every-batch"), "When the embedded engine syncs to disk: never by itself, every interval_ms, or before each batch is acknowledged."),
    Setting::new("storage.interval_ms", Kind::Millis(1, 60_000), Value("100"), "Time between syncs with durability interval: what a power cut may cost."),
    Setting::new("storage.cache_mib", Kind::Integer(1, 1 << 20), Value("256"), "Memory for the embedded engine's cache, half for records used lately, half for blocks of its files. New records take up to another third of it, at most 80 MiB."),
    Setting::new("storage.reap_after_ms", Kind::Millis(0, 31_536_000_000), Value("86400000"), "Age at which a deleted or expired record is dropped, once all members have agreed; at least 600000, and 0 keeps them for ever."),
    Setting::new("storage.hints_max", Kind::Integer(0, limits::HINTS_PER_TARGET_MAX), Value("1000000"), "Hints kept one by one for each node that is away. Beyond, the partition is marked, and all that is kept of it is delivered."),
    Setting::new("storage.redis.url", Kind::Secret, Value("redis://127.0.0.1:6379"), "redis://, rediss:// (TLS) or unix:// address of this node's own Redis. A password in it is never shown."),
    Setting::new("storage.redis.username", Kind::Text(any_text, "text"), Absent, "Redis user (ACL)."),
    Setting::new("storage.redis.password", Kind::Secret, Absent, "Redis password. Better in a file or the environment."),
    Setting::new("storage.redis.password_file", Kind::Path, Absent, "File that holds the Redis password, readable by its owner only."),
    Setting::new("storage.redis.database", Kind::Integer(0, 1_000_000), Absent, "Redis database number, 0 unless the url says otherwise."),
    Setting::new("storage.redis.ca", Kind::Path, Absent, "Authority that signs Redis's certificate (rediss:// only). By default the public authorities."),
    Setting::new("storage.redis.cert", Kind::Path, Absent, "Certificate shown to Redis (rediss:// only)."),
    Setting::new("storage.redis.key", Kind::Path, Absent, "Its private key, readable by its owner only."),
    Setting::new("storage.redis.connect_timeout_ms", Kind::Millis(10, 60_000), Value("1000"), "Longest wait for a connection to Redis."),
    Setting::new("storage.redis.response_timeout_ms", Kind::Millis(10, 60_000), Value("2000"), "Longest wait for an answer of Redis."),
    Setting::new("storage.redis.prefix", Kind::Text(any_text, "text"), Value("dm:"), "What all keys in Redis begin with."),
    Setting::new("namespaces.default.n", Kind::Integer(1, limits::REPLICAS_MAX as u64), Value("3"), "Copies of each key when the cluster is founded; later `cluster copies` changes it. What [namespaces.default] sets holds for namespaces that do not say otherwise."),
    Setting::new("namespaces.default.r", Kind::Consistency, Value("quorum"), "Replicas that answer a read unless the request says otherwise; at most N."),
    Setting::new("namespaces.default.w", Kind::Consistency, Value("quorum"), "Replicas that hold a write before it is acknowledged, unless the request says otherwise; at most N."),
    Setting::new("namespaces.default.conflict", Kind::Choice(&["siblings", "last-write-wins"]), Value("siblings"), "What becomes of concurrent writes: all are kept, or the latest is read."),
    Setting::new("namespaces.default.ttl", Kind::Span, Value("never"), "Expiry of a put that names none."),
    Setting::new("namespaces.default.sloppy", Kind::Bool, Value("true"), "Whether a healthy node stands in for an owner that does not answer."),
    Setting::new("tls.ca", Kind::Path, Required, "Certificate of the authority (PEM) whose nodes and clients are trusted."),
    Setting::new("tls.cert", Kind::Path, Required, "This node's certificate (PEM)."),
    Setting::new("tls.key", Kind::Path, Required, "Its private key (PEM, not encrypted), readable by its owner only."),
    Setting::new("timeouts.request_ms", Kind::Millis(10, 300_000), Value("5000"), "Deadline of a request that carries none."),
    Setting::new("timeouts.replica_ms", Kind::Millis(10, 300_000), Value("1500"), "Longest wait for one replica; at most request_ms."),
    Setting::new("timeouts.hedge_ms", Kind::Millis(1, 300_000), Value("50"), "Longest wait before a read is sent to one replica more, a fifth of it at least; less than replica_ms."),
    Setting::new("timeouts.idle_ms", Kind::Millis(500, 600_000), Value("3000"), "Silence after which a connection on which an answer is awaited counts as lost; others after 330 s."),
    Setting::new("timeouts.keepalive_ms", Kind::Millis(100, 300_000), Value("1000"), "Time between signs of life while an answer is awaited; at most half of idle_ms. Connections at rest send one every 100 s."),
    Setting::new("timeouts.background_p99_ms", Kind::Millis(1, 60_000), Value("50"), "Work in the background (moving partitions, repair, hints) is slowed down, to a twentieth of the time at the least, while the 99th percentile of this node's puts or gets is above this, or a quarter above what it is without such work."),
    Setting::new("timeouts.shutdown_ms", Kind::Millis(0, 600_000), Value("10000"), "Time that work under way gets to finish at shutdown."),
    Setting::new("net.lanes", Kind::Integer(0, limits::LANES_MAX as u64), Value("0"), "QUIC streams per connection that requests share; more suffer less from lost packets, fewer cost less. 0 uses one where a round trip is under 5 ms, and 16 elsewhere."),
    Setting::new("net.mtu_max", Kind::Integer(1_200, 65_527), Value("1452"), "Largest UDP payload that path discovery tries, in bytes."),
    Setting::new("gossip.preset", Kind::Choice(&["local", "lan", "wan"]), Value("lan"), "Pace of gossip for one machine, for a site, or for several continents; the keys below change single values of it."),
    Setting::new("gossip.interval_ms", Kind::Millis(50, 60_000), Absent, "Time between two probes of other members. The preset's: 400 local, 800 lan, 2500 wan."),
    Setting::new("gossip.probe_timeout_ms", Kind::Millis(10, 60_000), Absent, "Wait for the answer to a probe before others are asked to try. The preset's: 200 local, 300 lan, 1000 wan."),
    Setting::new("gossip.indirect_probes", Kind::Integer(0, 16), Absent, "Members asked to try one that did not answer. The preset's: 3."),
    Setting::new("gossip.suspicion_min_ms", Kind::Millis(100, 600_000), Absent, "Time a suspect has to answer when several members suspect it. The preset's: 1000 local, 1800 lan, 5000 wan."),
    Setting::new("gossip.suspicion_max_ms", Kind::Millis(100, 600_000), Absent, "Time a suspect has when only one member suspects it. The preset's: 5000 local, 8000 lan, 30000 wan."),
    Setting::new("gossip.push_pull_ms", Kind::Millis(100, 3_600_000), Absent, "Shortest time between two exchanges of full state that one member begins. The preset's: 1000 local and lan, 3000 wan."),
    Setting::new("log.level", Kind::Text(log_level, "level or filters"), Value("info"), "error, warn, info, debug, trace, or filters such as info,dynamomini::net=debug."),
    Setting::new("log.slow_ms", Kind::Millis(0, 600_000), Value("500"), "Requests that take longer are logged, up to ten a second, with the time of their stages; 0 logs none."),
    Setting::new("log.format", Kind::Choice(&["text", "json"]), Value("text"), "How log lines are written to standard error."),
    Setting::new("runtime.threads", Kind::Integer(0, 1_024), Value("0"), "Threads that serve the network; 0 means one per core."),
];

#[rustfmt::skip]
const MEMBER_SETTINGS: &[Setting] = &[
    Setting::new("name", NODE_NAME, Required, "The member's node.name."),
    Setting::new("quic", Kind::HostPort, Required, "Where it is reached by QUIC."),
    Setting::new("gossip", Kind::HostPort, Absent, "Where it is reached by gossip."),
    Setting::new("zone", ZONE, Value("default"), "Its failure zone."),
    Setting::new("weight", WEIGHT, Value("100"), "Its share of the data."),
];

#[rustfmt::skip]
const CLIENT_SETTINGS: &[Setting] = &[
    Setting::new("cluster.name", CLUSTER, Required, "The cluster to talk to."),
    Setting::new("nodes", Kind::HostPorts, Required, "Nodes to ask first; the others are learnt from them."),
    Setting::new("tls.ca", Kind::Path, Required, "Certificate of the authority (PEM) whose nodes are trusted."),
    Setting::new("tls.cert", Kind::Path, Required, "This client's certificate (PEM)."),
    Setting::new("tls.key", Kind::Path, Required, "Its private key (PEM, not encrypted), readable by its owner only."),
    Setting::new("namespace", NAMESPACE, Value("default"), "The namespace of keys."),
    Setting::new("zone", ZONE, Absent, "The zone of this client, whose nodes are asked before others. By default those that are not much farther than the nearest.").with_flag("client-zone"),
    Setting::new("timeout_ms", Kind::Millis(1, 300_000), Value("5000"), "Deadline of one request.").with_flag("timeout"),
    Setting::new("r", Kind::Consistency, Absent, "Replicas that answer a read; by default as the namespace says."),
    Setting::new("w", Kind::Consistency, Absent, "Replicas that hold a write before it is acknowledged; by default as the namespace says."),
];

/// The settings of a node.
pub static NODE: Catalogue =
    Catalogue { title: "node", settings: NODE_SETTINGS, members: MEMBER_SETTINGS, env_prefix: ENV_PREFIX };

/// The settings of a client.
pub static CLIENT: Catalogue =
    Catalogue { title: "client", settings: CLIENT_SETTINGS, members: &[], env_prefix: "DYNAMOMINI_CLIENT_" };

/// The known word that is nearest to a mistaken one, if any is near enough to be what was meant.
pub fn closest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |word: &str| strsim::damerau_levenshtein(given, word);
    let nearest = known.into_iter().map(|word| (distance(word), word)).min()?;
    (nearest.0 <= (given.len() / 4).clamp(1, 4)).then_some(nearest.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_default_is_a_value_its_own_setting_takes() {
        for setting in NODE.settings.iter().chain(NODE.members).chain(CLIENT.settings) {
            if let Value(text) = setting.fallback {
                assert!(crate::config::value::from_text(&setting.kind, text).is_ok(), "{}", setting.key);
            }
        }
    }

    #[test]
    fn environment_names_and_flags_are_unique() {
        let mut names = BTreeSet::new();
        for catalogue in [&NODE, &CLIENT] {
            let mut flags = BTreeSet::new();
            for setting in catalogue.settings {
                assert!(flags.insert(setting.flag()), "{}", setting.key);
                assert!(names.insert(catalogue.env_name(setting.key)), "{}", setting.key);
            }
        }
        assert!(names.contains("DYNAMOMINI_STORAGE_REDIS_URL"));
        assert!(names.contains("DYNAMOMINI_CLIENT_TLS_CA"));
    }

    #[test]
    fn keys_of_tables_with_a_name_or_number_are_found() {
        assert_eq!(NODE.find("namespaces.orders.n").map(|found| found.key), Some("namespaces.default.n"));
        assert_eq!(NODE.find("members[3].quic").map(|found| found.key), Some("quic"));
        assert!(NODE.find("namespaces.orders.m").is_none());
        assert!(CLIENT.find("members[0].quic").is_none());
    }

    #[test]
    fn a_typo_is_near_its_word_and_nonsense_is_near_none() {
        assert_eq!(closest("storge.engine", ["storage.engine", "node.name"]), Some("storage.engine"));
        assert_eq!(closest("frobnicate", ["storage.engine", "node.name"]), None);
    }
}
