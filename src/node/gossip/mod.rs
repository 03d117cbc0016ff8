//! Gossip of this node: the one task that owns the membership state machine, its socket, and what it needs of the
//! world.
//!
//! `driver` moves datagrams and time, `greet` exchanges keys and certificates over connections, `upkeep` keeps this
//! member's record true, `report` tells about it. What follows from membership is decided in [`crate::swim`]; who owns
//! data, nowhere here.

mod driver;
#[cfg(test)]
mod fixture;
mod founding;
mod greet;
mod keys;
mod members;
mod notary;
mod orders;
mod report;
mod serve;
mod tally;
mod upkeep;
mod warn;

pub use founding::Founding;
pub use founding::FoundingError;
pub(crate) use orders::Order;
pub(crate) use report::without_gossip;
pub(crate) use serve::keys as serve_keys;
pub(crate) use serve::serve;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::RngExt;
use rustls::crypto::CryptoProvider;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::env::Env;
use crate::limits;
use crate::net::tls::TlsError;
use crate::net::{Datagrams, TlsMaterial};
use crate::node::core::Core;
use crate::node::gossip::greet::Met;
use crate::node::gossip::keys::Keys;
use crate::node::gossip::members::{Kept, MembersFile};
use crate::node::gossip::notary::CertificateNotary;
use crate::node::gossip::tally::Tally;
use crate::seal::Boot;
use crate::swim::Config;
use crate::types::{ClusterName, NodeId, NodeName, Zone};

/// What gossip is made of.
#[derive(Debug)]
pub struct GossipParts {
    /// Its pace.
    pub config: Config,
    /// Where to find the cluster: `HOST:PORT` of QUIC; a name may stand for several.
    pub seeds: Vec<String>,
    /// Moves the datagrams.
    pub socket: Arc<dyn Datagrams>,
    /// Where others reach this node's data plane.
    pub quic: String,
    /// Where others send this node's datagrams: `HOST:PORT`.
    pub gossip: String,
    /// Where its admin listener is, if others can reach it.
    pub admin: Option<String>,
    /// Its failure zone, for a node that is not among the founding members.
    pub zone: Zone,
    /// Its share of the data, for the same.
    pub weight: u32,
    /// Its certificate, and whom it trusts.
    pub material: TlsMaterial,
    /// The cryptography that the certificates are checked with.
    pub provider: Arc<CryptoProvider>,
    /// Where membership and keys are kept. `None` keeps nothing, as in a simulation.
    pub data_dir: Option<PathBuf>,
}

/// Why gossip cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum GossipError {
    /// A file of the data directory cannot be read.
    #[error("the state of gossip in the data directory cannot be read: {0}; it must be readable for the node's user")]
    Kept(#[from] io::Error),
    /// The certificate's key cannot sign.
    #[error(transparent)]
    Certificate(#[from] TlsError),
}

/// Gossip as the rest of the node sees it.
pub(crate) struct Gossip {
    pub(crate) name: NodeName,
    pub(crate) cluster: ClusterName,
    pub(crate) boot: Boot,
    pub(crate) keys: Arc<Keys>,
    pub(crate) notary: Arc<CertificateNotary>,
    pub(crate) tally: Tally,
    pub(crate) orders: mpsc::Sender<Order>,
    /// Where this node's datagrams are to be sent, once its name was resolved.
    pub(crate) address: Mutex<Option<SocketAddr>>,
    /// What greetings brought.
    pub(crate) met: Mutex<BTreeMap<NodeId, Met>>,
    /// There is somebody to greet.
    pub(crate) greet: Notify,
    /// Set once this node's own address is known and orders are carried out.
    pub(crate) begun: CancellationToken,
    /// Set when another process with this node's name was there first.
    pub(crate) yielded: CancellationToken,
    /// Room for requests over connections.
    pub(crate) streams: Arc<Semaphore>,
    pub(crate) started: Instant,
    /// The scope of its tasks.
    pub(crate) env: Env,
}

/// What only the tasks of gossip need.
pub(crate) struct Prepared {
    parts: GossipParts,
    file: MembersFile,
    kept: Kept,
    inbox: mpsc::Receiver<Order>,
}

impl Gossip {
    /// Reads what is on disk. Nothing is sent yet.
    pub(crate) fn prepare(
        name: &NodeName,
        cluster: &ClusterName,
        parts: GossipParts,
        env: &Env,
    ) -> Result<(Arc<Self>, Prepared), GossipError> {
        let env = env.child();
        let (file, kept) = MembersFile::open(parts.data_dir.as_deref())?;
        let random = env.rng("gossip/boot").random();
        let boot = Boot::after(kept.boot.map(Boot), env.wall_ms(), random);
        let notary = CertificateNotary::new(cluster, &parts.material, &parts.provider, &env)?;
        notary.learn(&kept.credentials);
        let (orders, inbox) = mpsc::channel(limits::GOSSIP_QUEUE_MAX);
        let gossip = Self {
            name: name.clone(),
            cluster: cluster.clone(),
            boot,
            keys: Arc::new(Keys::open(parts.data_dir.as_deref())?),
            notary: Arc::new(notary),
            tally: Tally::default(),
            orders,
            address: Mutex::default(),
            met: Mutex::default(),
            greet: Notify::new(),
            begun: CancellationToken::new(),
            yielded: CancellationToken::new(),
            streams: Arc::new(Semaphore::new(limits::GOSSIP_STREAMS_MAX)),
            started: Instant::now(),
            env,
        };
        Ok((Arc::new(gossip), Prepared { parts, file, kept, inbox }))
    }

    /// Starts the tasks.
    pub(crate) fn start(core: &Arc<Core>, gossip: &Arc<Self>, prepared: Prepared) {
        let Prepared { parts, file, kept, inbox } = prepared;
        for seed in parts.seeds.iter().take(limits::SEEDS_MAX) {
            gossip.env.spawn("gossip/seed", greet::seek(core.clone(), gossip.clone(), seed.clone()));
        }
        let alone = parts.seeds.is_empty();
        gossip.env.spawn("gossip/greet", greet::greet_all(core.clone(), gossip.clone()));
        gossip.env.spawn("gossip/keys", upkeep::make_first_key(core.clone(), gossip.clone(), alone));
        gossip.env.spawn("gossip/upkeep", upkeep::run(core.clone(), gossip.clone()));
        gossip
            .env
            .spawn("gossip/driver", driver::run(core.clone(), gossip.clone(), Prepared { parts, file, kept, inbox }));
    }

    /// Time on the clock of the state machine.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Hands something to the task that owns the state machine, and waits for room in its queue: for gossip's own tasks.
    /// Without that task it is lost, as the node is ending.
    pub(crate) async fn order(&self, order: Order) {
        if self.orders.send(order).await.is_err() {
            tracing::debug!("gossip has ended");
        }
    }

    /// Hands something over without waiting, for those who answer a request. Without room it is dropped and counted.
    pub(crate) fn tell(&self, order: Order) {
        match self.orders.try_send(order) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.tally.orders_crowded.one(),
            Err(TrySendError::Closed(_)) => tracing::debug!("gossip has ended"),
        }
    }

    /// Asks the task that owns the state machine. `None` when it does not answer soon: it has not begun, has too much to
    /// do, or is ending.
    pub(crate) async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Option<T> {
        let answer = async {
            // Until then nobody reads the queue, and questions that nobody waits for any more would fill it.
            self.begun.cancelled().await;
            let (reply, answer) = oneshot::channel();
            self.order(order(reply)).await;
            answer.await.ok()
        };
        tokio::time::timeout(limits::GOSSIP_ANSWER_PATIENCE, answer).await.ok().flatten()
    }

    /// Tells the others that this node leaves, and gives them time to hear it.
    pub(crate) async fn leave(&self, patience: Duration) {
        if !self.begun.is_cancelled() {
            return;
        }
        let farewell = async {
            if let Some(until) = self.ask(Order::Leave).await {
                tokio::time::sleep(until.saturating_sub(self.now())).await;
            }
        };
        if tokio::time::timeout(patience, farewell).await.is_err() {
            tracing::debug!("no time to tell everybody of leaving");
        }
    }
}
