//! `dynamomini node`: runs one node until it is told to stop.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::admin::Admin;
use crate::cli::Context;
use crate::cli::ThisProcess;
use crate::cli::lock::Lock;
use crate::cli::parent::Parent;
use crate::cli::renewal::Renewal;
use crate::cli::start_logging;
use crate::config::node::{Durability, EngineConfig, GossipConfig, Preset};
use crate::config::redis::{RedisEndpoint, Secret};
use crate::config::value::HostPort;
use crate::config::{HostChecks, NodeConfig, NodeFlags, judge_node};
use crate::layout::Layout;
use crate::net::link::LinkSettings;
use crate::net::{BindConfig, Datagrams, Endpoint, Socket, TlsMaterial, TransportSettings, Udp, tls};
use crate::node::gossip::{Founding, GossipParts};
use crate::node::ownership::Joining;
use crate::node::{Bounds, Node, Oversight, OwnershipParts, Parts, Timeouts, keys};
use crate::store::{self, Engine, RedisTls, RedisTlsIdentity, StoreConfig, StoreIdentity};
use crate::swim;
use crate::types::Namespace;
use crate::wire::rpc::{ClusterInfo, MemberInfo};

/// How far a stamp of another node may lead this one's wall clock before it is not followed.
const CLOCK_DRIFT: Duration = Duration::from_secs(60);

/// The file in the data directory whose lock a running node holds.
pub(crate) const LOCK: &str = "lock";

/// The file in the data directory that keeps the hash trees while the node is down.
const TREES: &str = "trees";

/// Arguments of `node`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  dynamomini node --config n1.toml")]
pub(crate) struct Args {
    #[command(flatten)]
    flags: NodeFlags,
    /// Stop in order when standard input, a pipe, ends: so no node outlives the `dev` that started it.
    #[arg(long, hide = true)]
    stop_on_stdin_eof: bool,
}

impl Args {
    /// Checks the configuration as a whole, then runs until SIGTERM or SIGINT.
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let judged = judge_node(&self.flags.inputs(), HostChecks::All, context.env.wall_ms());
        let warnings: Vec<String> = judged.settled.warnings.iter().map(ToString::to_string).collect();
        let config = judged.into_result()?;
        let host = start_logging(&config.log)?;
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        context.block_on(config.threads, serve(context, &config, host, self.stop_on_stdin_eof))
    }
}

async fn serve(context: &Context, config: &NodeConfig, host: ThisProcess, with_parent: bool) -> anyhow::Result<()> {
    // From here on a signal ends the node in order, also while it starts.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let renewal = Renewal::new(&config.tls);
    let mut parent = if with_parent { Some(Parent::on_stdin()?) } else { None };
    let orphaned = async {
        match &mut parent {
            Some(parent) => parent.gone().await,
            None => std::future::pending().await,
        }
    };
    let data_dir = &config.data_dir;
    make_data_dir(data_dir).with_context(|| format!("node.data_dir {}", data_dir.display()))?;
    // Two processes with one node's name and keys would be taken for one.
    let lock = Lock::take(&data_dir.join(LOCK));
    let _lock = lock.with_context(|| format!("node.data_dir {} cannot be used", data_dir.display()))?;
    // Answers from the beginning on: a storage that is being walked after a crash is no reason to be started again.
    let admin = Admin::bind(config.listen.admin).await?;
    let address = admin.local_addr()?;
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "listen.admin can be reached from other hosts, and asks nobody who he is");
    }
    let watching = context.env.child();
    let desk = admin.serve(&watching);
    let material = TlsMaterial::load(&config.tls)?;
    let oversight = Oversight { host: Arc::new(host), slow: config.log.slow };
    let endpoint = bind(context, config, material)?;
    // Without a list of members this may take until another node is there.
    let cluster = tokio::select! {
        biased;
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
        cluster = cluster(context, config, &endpoint) => cluster?,
    };
    let node = start(context, config, endpoint, cluster, oversight, address).await?;
    desk.open(node.observer());
    tracing::info!(
        node = %config.name, cluster = %config.cluster, quic = %config.listen.quic, admin = %address,
        version = env!("CARGO_PKG_VERSION"), "node serves"
    );
    let mut conflict = false;
    tokio::select! {
        biased;
        _ = terminate.recv() => tracing::info!("told to terminate"),
        _ = interrupt.recv() => tracing::info!("interrupted"),
        () = orphaned => tracing::info!("the process that started this node is gone"),
        () = node.yielded() => conflict = true,
        () = renewal.keep_up(&node, &mut hangup, &context.env) => {}
    }
    let closed = node.shutdown().await;
    // Until here it said that it is not ready.
    watching.shutdown(Duration::ZERO).await;
    closed.context("the storage was not closed cleanly")?;
    tracing::info!("node stopped");
    if conflict {
        bail!(
            "another process runs as node {} with the same certificate: give this one a name of its own",
            config.name
        );
    }
    Ok(())
}

/// Makes the data directory for the node's own user, or takes the one that is there.
fn make_data_dir(path: &Path) -> std::io::Result<()> {
    store::create_directory(path)?;
    if is_open_to_others(path)? {
        tracing::warn!(
            path = %path.display(),
            "other users of this host may look into node.data_dir, which holds all values: run chmod 700 on it"
        );
    }
    Ok(())
}

/// Whether users beyond this one and its group may look into a directory.
fn is_open_to_others(path: &Path) -> std::io::Result<bool> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o007 != 0)
}

/// Opens the network.
fn bind(context: &Context, config: &NodeConfig, material: TlsMaterial) -> anyhow::Result<Endpoint> {
    let settings = TransportSettings {
        keep_alive: config.timeouts.keepalive,
        idle_timeout: config.timeouts.idle,
        mtu_upper_bound: config.mtu_max,
        ..TransportSettings::default()
    };
    let bind = BindConfig {
        socket: Socket::Address(config.listen.quic),
        material,
        provider: tls::ring_provider(),
        keys: keys::load_or_create(&config.data_dir, &context.env)?,
        settings,
    };
    Ok(Endpoint::bind(bind, &context.env)?)
}

/// Opens the storage, and starts the node on it and on the network.
async fn start(
    context: &Context,
    config: &NodeConfig,
    endpoint: Endpoint,
    cluster: ClusterInfo,
    oversight: Oversight,
    admin: SocketAddr,
) -> anyhow::Result<Node> {
    let env = &context.env;
    let gossip = gossip(config, &endpoint, admin)?;
    let identity =
        StoreIdentity { cluster: config.cluster.clone(), node: config.name.clone(), buckets: cluster.partitions };
    let (engine, warnings) = Engine::open(&store_config(config)?, &identity, env).await?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let given = &config.timeouts;
    let timeouts = Timeouts {
        replica: given.replica,
        hedge: given.hedge,
        reap_after: given.reap_after,
        background: given.background,
        shutdown: given.shutdown,
    };
    let lanes = usize::try_from(config.lanes).unwrap_or(1);
    let links = LinkSettings { lanes, ..LinkSettings::default() };
    let trees = Some(config.data_dir.join(TREES));
    let ownership = ownership(config, &gossip);
    let parts = Parts {
        cluster,
        engine,
        endpoint,
        links,
        timeouts,
        bounds: Bounds::CLIENTS,
        hints_max: config.hints_max,
        clock_drift: CLOCK_DRIFT,
        gossip: Some(gossip),
        ownership,
        oversight,
        trees,
    };
    Ok(Node::start(parts, env).await?)
}

/// What the node's part in who owns data is made of.
fn ownership(config: &NodeConfig, gossip: &GossipParts) -> OwnershipParts {
    let GossipParts { quic, zone, weight, .. } = gossip;
    let joining = Joining { quic: quic.clone(), zone: zone.clone(), weight: *weight };
    let joining = (config.joins_by_itself && *weight > 0).then_some(joining);
    OwnershipParts { data_dir: Some(config.data_dir.clone()), joining }
}

/// What gossip is made of.
fn gossip(config: &NodeConfig, endpoint: &Endpoint, admin: SocketAddr) -> anyhow::Result<GossipParts> {
    let socket = Udp::bind(config.listen.gossip)?;
    let quic = match &config.advertise.quic {
        Some(told) => told.clone(),
        None => endpoint.local_addr()?.into(),
    };
    let gossip = match &config.advertise.gossip {
        Some(told) => told.clone(),
        None => quic.with_port(socket.local_addr()?.port()),
    };
    Ok(GossipParts {
        config: pace(&config.gossip),
        seeds: config.seeds.iter().map(ToString::to_string).collect(),
        socket: Arc::new(socket),
        quic: quic.to_string(),
        gossip: gossip.to_string(),
        admin: reachable(admin, &quic),
        zone: config.zone.clone(),
        weight: config.weight,
        material: TlsMaterial::load(&config.tls)?,
        provider: tls::ring_provider(),
        data_dir: Some(config.data_dir.clone()),
    })
}

/// Where others reach the admin listener of a node whose data plane they reach at `quic`: nowhere, if it serves this host
/// alone and they may be on another.
fn reachable(admin: SocketAddr, quic: &HostPort) -> Option<String> {
    let here = |host: &str| host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    match admin.ip() {
        ip if ip.is_unspecified() => Some(quic.with_port(admin.port()).to_string()),
        ip if ip.is_loopback() && !here(quic.host()) => None,
        _ => Some(admin.to_string()),
    }
}

/// The preset, and what was told otherwise.
fn pace(told: &GossipConfig) -> swim::Config {
    let preset = match told.preset {
        Preset::Local => swim::Config::local(),
        Preset::Lan => swim::Config::lan(),
        Preset::Wan => swim::Config::wan(),
    };
    let relays = told.indirect_probes.and_then(|relays| usize::try_from(relays).ok());
    swim::Config {
        probe_interval: told.interval.unwrap_or(preset.probe_interval),
        ping_timeout: told.probe_timeout.unwrap_or(preset.ping_timeout),
        relays: relays.unwrap_or(preset.relays),
        suspicion_min: told.suspicion_min.unwrap_or(preset.suspicion_min),
        suspicion_max: told.suspicion_max.unwrap_or(preset.suspicion_max),
        sync_interval: told.push_pull.unwrap_or(preset.sync_interval),
        ..preset
    }
}

/// The cluster as the configuration lists it, or else as the seeds describe it.
async fn cluster(context: &Context, config: &NodeConfig, endpoint: &Endpoint) -> anyhow::Result<ClusterInfo> {
    let founding = Founding::at(&config.data_dir, &config.cluster, &config.name);
    if config.members.is_empty() {
        let seeds: Vec<String> = config.seeds.iter().map(ToString::to_string).collect();
        return Ok(founding.learn(endpoint, &seeds, &context.env).await?);
    }
    let listed = listed(config);
    founding.keep(&listed)?;
    Ok(listed)
}

fn listed(config: &NodeConfig) -> ClusterInfo {
    let members = config.members.iter().map(|member| MemberInfo {
        name: member.name.clone(),
        quic: member.quic.to_string(),
        zone: member.zone.clone(),
        weight: member.weight,
    });
    let namespaces: Vec<(Namespace, _)> =
        config.namespaces.iter().map(|(name, policy)| (name.clone(), policy.clone())).collect();
    ClusterInfo {
        cluster: config.cluster.clone(),
        partitions: config.partitions,
        members: members.collect(),
        namespaces,
        node: config.name.clone(),
        layout: Layout::default(),
    }
    .founding()
}

fn store_config(config: &NodeConfig) -> anyhow::Result<StoreConfig> {
    let storage = &config.storage;
    let durability = match storage.durability {
        Durability::Off => store::Durability::Off,
        Durability::Interval(interval) => store::Durability::Interval(interval),
        Durability::EveryBatch => store::Durability::EveryBatch,
    };
    Ok(match &storage.engine {
        EngineConfig::Memory => StoreConfig::Memory,
        EngineConfig::Embedded => {
            StoreConfig::Embedded { path: config.data_dir.join("store"), durability, cache_bytes: storage.cache_bytes }
        }
        EngineConfig::Redis(redis) => {
            let read = |path: &Path| fs::read(path).with_context(|| path.display().to_string());
            let url = match &redis.endpoint {
                RedisEndpoint::Tcp(at) => format!("redis://{at}"),
                RedisEndpoint::Tls(at) => format!("rediss://{at}"),
                RedisEndpoint::Unix(path) => format!("unix://{}", path.display()),
            };
            let identity = match &redis.identity {
                Some((cert, key)) => Some(RedisTlsIdentity { certificate: read(cert)?, key: read(key)? }),
                None => None,
            };
            StoreConfig::Redis(store::RedisConfig {
                username: redis.username.clone(),
                password: redis.password.as_ref().map(|password: &Secret| password.expose().to_owned()),
                database: Some(redis.database),
                tls: RedisTls { ca: redis.ca.as_deref().map(read).transpose()?, identity },
                connect_timeout: redis.connect_timeout,
                response_timeout: redis.response_timeout,
                key_prefix: redis.prefix.clone(),
                ..store::RedisConfig::new(url, config.data_dir.join("redis.state"))
            })
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_told_of_the_admin_listener_where_they_can_reach_it() {
        let told = |admin: &str, quic: &str| reachable(admin.parse().unwrap(), &quic.parse().unwrap());
        assert_eq!(told("127.0.0.1:7402", "10.0.0.1:7400"), None);
        assert_eq!(told("127.0.0.1:7402", "localhost:7400").as_deref(), Some("127.0.0.1:7402"));
        assert_eq!(told("10.9.0.1:7402", "db1:7400").as_deref(), Some("10.9.0.1:7402"));
        assert_eq!(told("0.0.0.0:7402", "db1:7400").as_deref(), Some("db1:7402"));
    }

    #[test]
    fn a_data_directory_is_made_for_this_user_and_one_that_exists_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        make_data_dir(&data).unwrap();
        assert!(!is_open_to_others(&data).unwrap());
        fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
        make_data_dir(&data).unwrap();
        assert!(is_open_to_others(&data).unwrap());
    }
}
