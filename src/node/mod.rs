//! A node: storage, the other members, and the services between them, started and shut down in order.
//!
//! `replica` is the only door into the storage, `coordinate` drives one request, `hints` hands over what owners missed,
//! `sync` compares what they hold, `serve` is the door for requests. Nothing here reads files of configuration or prints.

mod admission;
mod ask;
mod coordinate;
mod core;
mod gate;
mod gauge;
pub mod gossip;
mod hedge;
mod hints;
mod kept;
pub mod keys;
mod meters;
mod metrics;
mod observer;
mod oversight;
pub mod ownership;
mod pace;
mod pages;
mod past;
mod peers;
mod readiness;
mod reap;
mod replica;
mod reservations;
mod rights;
mod serve;
mod status;
mod sync;
mod tasks;
mod timeouts;
mod trees;
mod watch;
mod works;

pub use admission::Bounds;
pub use observer::Observer;
pub use oversight::{Host, NoHost, Oversight};
pub use timeouts::Timeouts;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::sync::Semaphore;

use crate::env::Env;
use crate::hash::ClusterHash;
use crate::limits;
use crate::net::Endpoint;
use crate::net::Identity;
use crate::net::TlsMaterial;
use crate::net::link::LinkSettings;
use crate::net::tls::TlsError;
use crate::node::admission::Admission;
use crate::node::core::{Core, Views};
use crate::node::gate::Gate;
use crate::node::gossip::{Gossip, GossipError, GossipParts, Order};
use crate::node::hedge::ReadHedge;
use crate::node::hints::HintBudget;
use crate::node::meters::Meters;
use crate::node::oversight::SlowLog;
use crate::node::ownership::{Joining, Ownership};
use crate::node::pace::Pace;
use crate::node::past::Past;
use crate::node::peers::Peers;
use crate::node::replica::Replica;
use crate::node::reservations::Reservations;
use crate::node::serve::Serve;
use crate::node::sync::Sync;
use crate::node::timeouts::Budget;
use crate::node::trees::Trees;
use crate::node::watch::Watchers;
use crate::node::works::Works;
use crate::store::{Engine, StoreError};
use crate::types::{ClusterName, NodeName};
use crate::view::{ClusterView, ViewError};
use crate::wire::gossip::MembersReport;
use crate::wire::layout::Shown;
use crate::wire::rpc::{ClusterInfo, MemberInfo, ServeError};

/// Longest time that is spent on telling the others how far the storage has come.
const LAST_WORD: Duration = Duration::from_millis(500);

/// What a node is made of besides its own services: plain values and the two edges, open already.
#[derive(Debug)]
pub struct Parts {
    /// The cluster, with this node among its members and its name in [`ClusterInfo::node`].
    pub cluster: ClusterInfo,
    /// The open storage.
    pub engine: Engine,
    /// The open network.
    pub endpoint: Endpoint,
    /// How it connects to the other members.
    pub links: LinkSettings,
    /// Limits of waiting.
    pub timeouts: Timeouts,
    /// How much clients may have it do at the same time.
    pub bounds: Bounds,
    /// Hints that it keeps one by one for each other node, at most [`limits::HINTS_PER_TARGET_MAX`]; beyond, partitions are marked.
    pub hints_max: u64,
    /// How far a stamp of another node may lead this one's wall clock before it is not followed.
    pub clock_drift: Duration,
    /// Membership by gossip. Without it the members are those of `cluster`, and only connections say who is up.
    pub gossip: Option<GossipParts>,
    /// How it takes part in who owns data.
    pub ownership: OwnershipParts,
    /// How it is watched.
    pub oversight: Oversight,
    /// The file in which the hash trees are kept while the node is down. Without one, the storage is read at each start.
    pub trees: Option<PathBuf>,
}

/// What a node's part in who owns data is made of.
#[derive(Debug, Clone, Default)]
pub struct OwnershipParts {
    /// Where the layout and this node's votes are kept. `None` keeps nothing.
    pub data_dir: Option<PathBuf>,
    /// As what it asks for a share of its own when it has none; `None` waits to be given one.
    pub joining: Option<Joining>,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The cluster's description contradicts itself.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The node is not in its own cluster.
    #[error("{0} is not among the members: add it to [[members]]")]
    NotAMember(NodeName),
    /// Gossip cannot begin.
    #[error(transparent)]
    Gossip(#[from] GossipError),
    /// The layout cannot be read.
    #[error("the layout in the data directory cannot be read: {0}; it must be readable for the node's user")]
    Layout(io::Error),
    /// The kept hash trees cannot be put out of use, so that a later start would believe them when they are old.
    #[error("the kept hash trees in {path} can be neither emptied nor removed ({error}): remove them by hand", path = path.display())]
    Trees {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Name, partitions or node differ, which are fixed for a node's life.
    #[error("this is not the description of the running cluster, but of {0}")]
    Another(ClusterName),
}

/// Why a node does not take other certificates. It goes on with those it has.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// They are somebody else's.
    #[error("the certificate is that of {found}, and this is node {node}: issue one for this node")]
    Another {
        /// Whose it is.
        found: Identity,
        /// Whose it should be.
        node: NodeName,
    },
    /// No member would accept it.
    #[error("the authority of tls.ca does not stand for the certificate now ({0}): renew it with that authority")]
    Untrusted(String),
    /// It cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The node is starting or ending.
    #[error("gossip does not answer, so that members could not be told; it is tried again")]
    Busy,
}

/// Takes the hash trees that were kept while the node was down.
async fn load_trees(path: PathBuf, hash: ClusterHash, trees: &Arc<Trees>, env: &Env) -> Result<(), StartError> {
    let loaded = env.blocking({
        let (path, trees) = (path.clone(), trees.clone());
        move || sync::file::load(&path, &hash, &trees)
    });
    let broken = || Err(io::Error::other("reading them broke off"));
    let known = loaded.await.unwrap_or_else(broken).map_err(|error| StartError::Trees { path, error })?;
    tracing::debug!(known, "partitions whose hash trees were kept");
    Ok(())
}

/// A running node.
pub struct Node {
    core: Arc<Core>,
    endpoint: Endpoint,
    /// The scope of the replica's loops, which outlive every service that may write.
    storage: Env,
    /// Where the trees are kept.
    trees: Option<PathBuf>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("node", &self.core.view().info().node).finish_non_exhaustive()
    }
}

/// Starts what works in the background.
fn start_services(core: &Arc<Core>, joining: Option<Joining>) {
    let rest = &core.rest;
    rest.spawn("gate", gate::open_when_connected(core.clone()));
    rest.spawn("hints", hints::deliver(core.clone()));
    rest.spawn("trees", sync::check::run(core.clone()));
    rest.spawn("sync", sync::run(core.clone()));
    rest.spawn("reap", reap::run(core.clone()));
    if core.gossip.is_none() {
        rest.spawn("patrol", core.peers.clone().patrol(rest.clone()));
    }
    ownership::start(core, joining);
    past::start(core);
}

impl Node {
    /// Starts the services; requests are answered when this returns.
    ///
    /// # Errors
    /// [`StartError`] when the configuration makes no cluster with this node in it.
    pub async fn start(parts: Parts, env: &Env) -> Result<Self, StartError> {
        let Parts { cluster, engine, endpoint, links, timeouts, bounds, clock_drift, hints_max, .. } = parts;
        let Parts { gossip, oversight, trees: kept, ownership: OwnershipParts { data_dir, joining }, .. } = parts;
        let (ownership, known) = Ownership::open(data_dir.as_deref(), &cluster).map_err(StartError::Layout)?;
        let later = known.filter(|known| known.version > cluster.layout.version);
        let cluster = later.map_or_else(|| cluster.clone(), |known| cluster.by(known));
        let id = ClusterHash::node_id(&cluster.node);
        let view = ClusterView::new(cluster)?;
        status::overruled(&view).into_iter().for_each(|text| tracing::warn!("{text}"));
        if gossip.is_none() && !view.members().contains_key(&id) {
            return Err(StartError::NotAMember(view.info().node.clone()));
        }
        let (name, cluster) = (&view.info().node, &view.info().cluster);
        let gossip = gossip.map(|parts| Gossip::prepare(name, cluster, parts, env)).transpose()?;
        let (gossip, prepared) = gossip.unzip();
        let (storage, rest) = (env.child(), env.child());
        let trees = Arc::new(Trees::new(&view, engine.epoch()));
        if let Some(path) = kept.clone() {
            load_trees(path, *view.hash(), &trees, env).await?;
        }
        let past = Arc::new(Past::new(engine.epoch()));
        let (meters, identity) = (Arc::new(Meters::default()), (*view.hash(), id));
        let known = (trees.clone(), past.clone());
        let replica = Replica::start(engine.clone(), identity, clock_drift, meters.clone(), known, &storage);
        let peers = Peers::new(&endpoint, &links, id, env);
        peers.follow(&view);
        let core = Arc::new(Core {
            id,
            hash: *view.hash(),
            buckets: view.info().partitions,
            views: Views::new(view),
            replica,
            engine,
            peers,
            hints: HintBudget::new(hints_max),
            reservations: Reservations::default(),
            trees,
            sync: Sync::new(env.rng("sync")),
            past,
            works: Works::default(),
            by_layout: Works::default(),
            ownership,
            life: env.rng("life").next_u64(),
            read_hedge: ReadHedge::new(timeouts.hedge),
            gate: Gate::default(),
            clients: Admission::new(bounds),
            nodes: Admission::new(Bounds::NODES),
            meters,
            oversight,
            slow_log: SlowLog::default(),
            size: Arc::default(),
            pace: Pace::new(timeouts.background),
            timeouts,
            started: tokio::time::Instant::now(),
            watchers: Watchers::default(),
            background: Arc::new(Semaphore::new(limits::BACKGROUND_MAX)),
            gossip,
            rest: rest.clone(),
        });
        start_services(&core, joining);
        endpoint.serve(Serve(core.clone()));
        if let (Some(gossip), Some(prepared)) = (&core.gossip, prepared) {
            Gossip::start(&core, gossip, prepared);
        }
        Ok(Self { core, endpoint, storage, trees: kept })
    }

    /// Looks at the node from outside, also while it shuts down.
    pub fn observer(&self) -> Observer {
        Observer(self.core.clone())
    }

    /// Goes on with another description of the cluster: connects to members that are new or have moved, and forgets
    /// those that are gone. Requests under way end with the one they began with.
    ///
    /// # Errors
    /// When it contradicts itself, or is of another cluster than the node was started in; nothing has changed then.
    pub fn update(&self, cluster: ClusterInfo) -> Result<(), StartError> {
        let view = self.core.view();
        let (old, new) = (view.info(), &cluster);
        if (&old.cluster, old.partitions, &old.node) != (&new.cluster, new.partitions, &new.node) {
            return Err(StartError::Another(new.cluster.clone()));
        }
        let own = |member: &MemberInfo| member.name == cluster.node;
        if self.core.gossip.is_none() && !cluster.members.iter().any(own) {
            return Err(StartError::NotAMember(cluster.node));
        }
        self.core.change_view(|_| Some(cluster))?;
        Ok(())
    }

    /// Shows other certificates from now on, and trusts what they trust: in new connections, in its record, in
    /// credentials. Connections that exist stay as they are, so no request notices.
    ///
    /// # Errors
    /// [`RenewError`] when they are not this node's or nobody would accept them; the old ones then stay in use.
    pub async fn renew(&self, material: &TlsMaterial) -> Result<(), RenewError> {
        let node = self.core.view().info().node.clone();
        if *material.identity() != Identity::Node(node.clone()) {
            return Err(RenewError::Another { found: material.identity().clone(), node });
        }
        let (provider, wall_ms) = (self.endpoint.provider(), self.core.rest.wall_ms());
        let untrusted = |error: rustls::Error| RenewError::Untrusted(error.to_string());
        material.trusts(material.chain(), provider, wall_ms).map_err(untrusted)?;
        self.endpoint.reload(material)?;
        let Some(gossip) = &self.core.gossip else { return Ok(()) };
        let told = gossip.ask(|reply| Order::Renew(Box::new(material.clone()), reply)).await;
        Ok(told.ok_or(RenewError::Busy)??)
    }

    /// The layout by which this node works, and how far it has come with it.
    pub fn layout(&self) -> Shown {
        self.core.ownership.show(&self.core)
    }

    /// The members as this node sees them.
    ///
    /// # Errors
    /// When the node is ending.
    pub async fn members(&self) -> Result<MembersReport, ServeError> {
        status::members(&self.core).await
    }

    /// Waits until it turns out that another process runs under this node's name and was there first: this one should
    /// end. Never, in health.
    pub async fn yielded(&self) {
        match &self.core.gossip {
            Some(gossip) => gossip.yielded.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// Ends in order: the others are told, then no new requests, those in flight answered, what they left behind finished or kept as hints, the
    /// storage closed cleanly.
    ///
    /// # Errors
    /// [`StoreError`] when the storage could not be closed cleanly: nothing acknowledged is lost, but it will have a
    /// new epoch at the next start.
    pub async fn shutdown(self) -> Result<(), StoreError> {
        let budget = Budget::new(self.core.timeouts.shutdown);
        past::last_word(&self.core, (budget.left() / 8).min(LAST_WORD)).await;
        let mut dropped = 0;
        if let Some(gossip) = &self.core.gossip {
            if !gossip.yielded.is_cancelled() {
                // Most who hear it ask others from then on, so it is worth half of the time.
                gossip.leave(budget.left() / 2).await;
            }
            dropped += gossip.env.shutdown(budget.left() / 4).await;
        }
        self.core.rest.stop();
        self.endpoint.close(budget.left() / 2).await;
        dropped += self.core.rest.shutdown(budget.left() / 2).await;
        dropped += self.storage.shutdown(budget.left() / 2).await;
        if dropped > 0 {
            tracing::warn!(dropped, "tasks did not end in time and were dropped");
        }
        if let Some(path) = self.trees {
            let (hash, trees) = (self.core.hash, self.core.trees.clone());
            // Nothing is written any more. Without the file the storage is read at the next start, and that is all.
            let saving = self.core.rest.blocking(move || sync::file::save(&path, &hash, &trees));
            match tokio::time::timeout(budget.left(), saving).await {
                Ok(Some(Err(error))) => tracing::warn!(%error, "the hash trees could not be kept"),
                Ok(_) => {}
                Err(_) => tracing::warn!("no time to keep the hash trees"),
            }
        }
        self.core.engine.clone().close().await
    }
}
