//! Settings of a client, and its first connection.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use rand::Rng;

use crate::client::call::Calls;
use crate::client::hedge::Patience;
use crate::client::route::Routes;
use crate::client::{Client, ClientError, Hedging, Inner, watch};
use crate::env::Env;
use crate::net::link::LinkSettings;
use crate::net::{BindConfig, Endpoint, EndpointKeys, Socket, TlsMaterial, TransportSettings, tls};
use crate::types::{ClusterName, Namespace, NodeName, Zone};

/// Time for one operation unless something else is said.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Settings of a client.
#[derive(Debug)]
pub struct ClientBuilder {
    tls: TlsMaterial,
    seeds: Vec<String>,
    namespace: Namespace,
    timeout: Duration,
    pinned: Option<NodeName>,
    cluster: Option<ClusterName>,
    zone: Option<Zone>,
    hedging: Option<Hedging>,
    links: LinkSettings,
    transport: TransportSettings,
    edges: Option<(Endpoint, Env)>,
}

impl ClientBuilder {
    pub(crate) fn new(tls: TlsMaterial) -> Self {
        Self {
            tls,
            seeds: Vec::new(),
            namespace: Namespace::default(),
            timeout: TIMEOUT,
            pinned: None,
            cluster: None,
            zone: None,
            hedging: Some(Hedging::default()),
            links: LinkSettings::default(),
            transport: TransportSettings::default(),
            edges: None,
        }
    }

    /// Adds a node to begin with: host and port. One that answers is enough; it names the others.
    #[must_use]
    pub fn node(mut self, address: impl Into<String>) -> Self {
        self.seeds.push(address.into());
        self
    }

    /// The namespace of all operations.
    #[must_use]
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.namespace = namespace;
        self
    }

    /// Time for one operation with all its retries, unless its options say otherwise. 5 s by default.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sends everything to this one node, whether it owns the key or not.
    #[must_use]
    pub fn pin(mut self, node: NodeName) -> Self {
        self.pinned = Some(node);
        self
    }

    /// Talks to no other cluster than this one, whatever the nodes' certificates allow.
    #[must_use]
    pub fn cluster(mut self, cluster: ClusterName) -> Self {
        self.cluster = Some(cluster);
        self
    }

    /// The zone of this client: nodes of it are asked before others.
    #[must_use]
    pub fn zone(mut self, zone: Zone) -> Self {
        self.zone = Some(zone);
        self
    }

    /// When a second node is asked for what the first has not answered yet, or `None` for never: then a node that falls
    /// silent holds up what it was asked until its connection counts as lost.
    #[must_use]
    pub fn hedging(mut self, hedging: Option<Hedging>) -> Self {
        self.hedging = hedging;
        self
    }

    /// How nodes are connected to, and by how many lanes.
    #[must_use]
    pub fn links(mut self, links: LinkSettings) -> Self {
        self.links = links;
        self
    }

    /// Settings of the connections.
    #[must_use]
    pub fn transport(mut self, transport: TransportSettings) -> Self {
        self.transport = transport;
        self
    }

    /// Uses an endpoint and a scope of tasks that exist already, as a simulation does.
    #[must_use]
    pub fn on(mut self, endpoint: Endpoint, env: Env) -> Self {
        self.edges = Some((endpoint, env));
        self
    }

    /// Connects to the first node that answers and learns the cluster from it.
    ///
    /// # Errors
    /// When no node answers in time, or one refuses this client.
    pub async fn connect(self) -> Result<Client, ClientError> {
        let Self { tls, seeds, namespace, timeout, pinned, cluster, zone, hedging, links, transport, edges } = self;
        if seeds.is_empty() {
            return Err(ClientError::Config("no node to connect to: give the address of one or more".to_owned()));
        }
        let (endpoint, env) = match edges {
            Some(edges) => edges,
            None => {
                let env = Env::real();
                (bind(tls, transport, &env)?, env)
            }
        };
        let scope = env.child();
        let session = env.rng("client-session").next_u64();
        let routes = Arc::new(Routes::new(endpoint, seeds, zone, links, &scope));
        let inner = Inner {
            calls: Calls::new(routes.clone(), Patience::new(hedging), scope.clone()),
            env,
            scope: scope.clone(),
            session,
            sequence: AtomicU64::new(1),
            asked: AtomicU64::new(0),
            timeout,
            pinned,
            cluster: cluster.clone(),
        };
        let client = Client { inner: Arc::new(inner), namespace, resolver: None };
        client.refresh().await?;
        scope.spawn("client/watch", watch::follow(routes, cluster, scope.clone()));
        if let Some(name) = &client.inner.pinned
            && client.view().members().values().all(|member| member.name != *name)
        {
            let view = client.view();
            let mut known: Vec<&str> = view.members().values().map(|member| member.name.as_str()).collect();
            known.sort_unstable();
            let text = format!("there is no node {name}: the cluster has {}", known.join(", "));
            return Err(ClientError::Config(text));
        }
        Ok(client)
    }
}

/// A socket of either address family, and TLS as this client.
fn bind(material: TlsMaterial, settings: TransportSettings, env: &Env) -> Result<Endpoint, ClientError> {
    let bind = |address| {
        let config = BindConfig {
            socket: Socket::Address(address),
            material: material.clone(),
            provider: tls::ring_provider(),
            keys: EndpointKeys::generate(env),
            settings: settings.clone(),
        };
        Endpoint::bind(config, env)
    };
    // A host without IPv6 still has IPv4.
    let endpoint = bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))).or_else(|_| bind(([0, 0, 0, 0], 0).into()));
    endpoint.map_err(|error| ClientError::Config(error.to_string()))
}
