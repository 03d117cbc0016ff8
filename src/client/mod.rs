//! The client library: partition-aware access to a cluster over mutually authenticated QUIC.
//!
//! A [`Client`] holds the cluster's ring and a connection to each node it needs. It sends each request to an owner of
//! its key, tries other nodes until the deadline when one does not answer, and marks what it repeats, so that a write
//! whose reply was lost is not applied twice. It needs a tokio runtime and nothing of a server.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use dynamomini::client::{Client, PutOptions};
//! use dynamomini::net::{TlsFiles, TlsMaterial};
//!
//! let files = TlsFiles { ca: "ca.crt".into(), cert: "app.crt".into(), key: "app.key".into() };
//! let tls = TlsMaterial::load(&files)?;
//! let client = Client::builder(tls).node("10.0.0.1:7600").connect().await?;
//!
//! client.put("cart:7", "2 apples", PutOptions::default()).await?;
//! let found = client.get("cart:7").await?;
//! for sibling in &found.siblings {
//!     println!("{:?}", sibling.value);
//! }
//! // Carrying the context of the read makes this write replace what was read.
//! client.put("cart:7", "3 apples", PutOptions::after(&found.context)).await?;
//! client.close().await;
//! # Ok(())
//! # }
//! ```

mod call;
mod error;
mod route;
mod scan;
mod value;

pub use error::{ClientError, Unreachable};
pub use scan::{Scan, ScanOptions};
pub use value::{CausalContext, Found, GetOptions, PutOptions, Sibling, Written};

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use rand::Rng;
use tokio::time::Instant;

use crate::client::call::{Call, unexpected};
use crate::client::route::Routes;
use crate::env::Env;
use crate::limits;
use crate::net::link::LinkSettings;
use crate::net::{BindConfig, Endpoint, EndpointKeys, Socket, TlsMaterial, TransportSettings, tls};
use crate::types::{Namespace, NodeName};
use crate::version::RequestId;
use crate::view::ClusterView;
use crate::wire::blob::Blob;
use crate::wire::rpc::{GetRequest, NodeStatus, PutItem, PutRequest, Reply, Request};

/// How long the last replies are waited for when a client closes.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// Settings of a client.
#[derive(Debug)]
pub struct ClientBuilder {
    tls: TlsMaterial,
    seeds: Vec<String>,
    namespace: Namespace,
    timeout: Duration,
    pinned: Option<NodeName>,
    links: LinkSettings,
    transport: TransportSettings,
    edges: Option<(Endpoint, Env)>,
}

impl ClientBuilder {
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
        let Self { tls, seeds, namespace, timeout, pinned, links, transport, edges } = self;
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
        let session = env.rng("client-session").next_u64();
        let inner = Inner {
            routes: Routes::new(endpoint, &seeds, &links, &env),
            env,
            session,
            sequence: AtomicU64::new(1),
            timeout,
            pinned,
        };
        let client = Client { inner: Arc::new(inner), namespace };
        client.refresh().await?;
        if let Some(name) = &client.inner.pinned
            && client.inner.routes.node(name).is_none()
        {
            let view = client.view();
            let known: Vec<String> = view.members().values().map(|member| member.name.to_string()).collect();
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

/// Access to one cluster. Clones share connections; any number of operations may be under way at once.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
    namespace: Namespace,
}

#[derive(Debug)]
struct Inner {
    routes: Routes,
    env: Env,
    /// Together with the sequence this names each write of this client, for ever.
    session: u64,
    sequence: AtomicU64,
    timeout: Duration,
    pinned: Option<NodeName>,
}

/// One write of a batch.
#[derive(Debug, Clone)]
pub struct BatchPut {
    /// The key.
    pub key: Bytes,
    /// The value; `None` deletes.
    pub value: Option<Bytes>,
    /// What was read of this key before.
    pub context: CausalContext,
    /// Life of the value from now on.
    pub ttl: Option<Duration>,
}

impl Client {
    /// Settings of a new client.
    pub fn builder(tls: TlsMaterial) -> ClientBuilder {
        ClientBuilder {
            tls,
            seeds: Vec::new(),
            namespace: Namespace::default(),
            timeout: Duration::from_secs(5),
            pinned: None,
            links: LinkSettings::default(),
            transport: TransportSettings::default(),
            edges: None,
        }
    }

    /// The same client for keys of another namespace.
    #[must_use]
    pub fn in_namespace(&self, namespace: Namespace) -> Self {
        Self { inner: self.inner.clone(), namespace }
    }

    /// Writes a key.
    ///
    /// # Errors
    /// [`ClientError`] says whether trying again can help and whether the write may have happened.
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        options: PutOptions,
    ) -> Result<Written, ClientError> {
        self.write(key.into(), Some(value.into()), options).await
    }

    /// Deletes a key: what the context has seen, or, with an empty context, whatever the coordinator has.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn delete(&self, key: impl Into<Bytes>, options: PutOptions) -> Result<Written, ClientError> {
        self.write(key.into(), None, options).await
    }

    async fn write(&self, key: Bytes, value: Option<Bytes>, options: PutOptions) -> Result<Written, ClientError> {
        let PutOptions { context, ttl, w, sloppy, timeout } = options;
        let item = self.item(BatchPut { key: key.clone(), value, context, ttl });
        let put = PutRequest { namespace: self.namespace.clone(), items: vec![item], w, sloppy, retry: false };
        let deadline = self.deadline(timeout);
        let reply = self.call(&key, deadline).send(Request::Put(put)).await?;
        let Reply::Put(mut outcomes) = reply else { return Err(unexpected()) };
        Ok(outcomes.pop().ok_or_else(unexpected)??.into())
    }

    /// Reads a key at the namespace's R.
    ///
    /// # Errors
    /// [`ClientError`]; a key that does not exist is no error, it has no siblings.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Found, ClientError> {
        self.get_with(key, GetOptions::default()).await
    }

    /// Reads a key.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_with(&self, key: impl Into<Bytes>, options: GetOptions) -> Result<Found, ClientError> {
        let key = key.into();
        let get = GetRequest { namespace: self.namespace.clone(), keys: vec![Blob(key.clone())], r: options.r };
        let reply = self.call(&key, self.deadline(options.timeout)).send(Request::Get(get)).await?;
        let Reply::Get(mut outcomes) = reply else { return Err(unexpected()) };
        Ok(outcomes.pop().ok_or_else(unexpected)??.into())
    }

    /// Reads several keys, with one request to each owner concerned; one outcome each, in order.
    pub async fn multi_get(&self, keys: &[Bytes], options: GetOptions) -> Vec<Result<Found, ClientError>> {
        let deadline = self.deadline(options.timeout);
        let ask = |group: Vec<usize>| {
            let blobs = group.iter().map(|at| Blob(keys[*at].clone())).collect();
            let get = GetRequest { namespace: self.namespace.clone(), keys: blobs, r: options.r };
            async move {
                let reply = self.call(&keys[group[0]], deadline).send(Request::Get(get)).await;
                let outcomes = match reply {
                    Ok(Reply::Get(outcomes)) if outcomes.len() == group.len() => {
                        outcomes.into_iter().map(|outcome| Ok(outcome?.into())).collect()
                    }
                    Ok(_) => group.iter().map(|_| Err(unexpected())).collect(),
                    Err(error) => group.iter().map(|_| Err(error.clone())).collect::<Vec<_>>(),
                };
                group.into_iter().zip(outcomes)
            }
        };
        in_order(join_all(self.by_owner(keys.iter()).into_iter().map(ask)).await.into_iter().flatten())
    }

    /// Writes several keys, with one request to each owner concerned; each stands and fails alone, one outcome each,
    /// in order. The options' context and ttl are not used: each item has its own.
    pub async fn multi_put(&self, puts: Vec<BatchPut>, options: PutOptions) -> Vec<Result<Written, ClientError>> {
        let deadline = self.deadline(options.timeout);
        let groups = self.by_owner(puts.iter().map(|put| &put.key));
        let ask = |group: Vec<usize>| {
            let items = group.iter().map(|at| self.item(puts[*at].clone())).collect();
            let namespace = self.namespace.clone();
            let put = PutRequest { namespace, items, w: options.w, sloppy: options.sloppy, retry: false };
            let first = puts[group[0]].key.clone();
            async move {
                let reply = self.call(&first, deadline).send(Request::Put(put)).await;
                let outcomes = match reply {
                    Ok(Reply::Put(outcomes)) if outcomes.len() == group.len() => {
                        outcomes.into_iter().map(|outcome| Ok(outcome?.into())).collect()
                    }
                    Ok(_) => group.iter().map(|_| Err(unexpected())).collect(),
                    Err(error) => group.iter().map(|_| Err(error.clone())).collect::<Vec<_>>(),
                };
                group.into_iter().zip(outcomes)
            }
        };
        in_order(join_all(groups.into_iter().map(ask)).await.into_iter().flatten())
    }

    /// Reads all keys with a prefix, page by page.
    pub fn scan(&self, prefix: impl Into<Bytes>, options: ScanOptions) -> Scan {
        Scan::new(self.clone(), prefix.into(), options)
    }

    /// The cluster as last learnt: members, namespaces, owners of keys.
    pub fn view(&self) -> Arc<ClusterView> {
        self.inner.routes.view().expect("a client exists only once it has learnt the cluster")
    }

    /// Learns the cluster anew from any node that answers.
    ///
    /// # Errors
    /// When none does.
    pub async fn refresh(&self) -> Result<Arc<ClusterView>, ClientError> {
        let deadline = self.deadline(None);
        let targets = self.inner.routes.any();
        let reply = Call::new(targets, deadline, &self.inner.env).send(Request::View).await?;
        let Reply::View(info) = reply else { return Err(unexpected()) };
        Ok(self.inner.routes.learn(ClusterView::new(info)?))
    }

    /// How a node is.
    ///
    /// # Errors
    /// When it does not answer, or there is no such node.
    pub async fn status(&self, node: &NodeName) -> Result<NodeStatus, ClientError> {
        let target = self.inner.routes.node(node);
        let target = target.ok_or_else(|| ClientError::Config(format!("there is no node {node}")))?;
        let deadline = self.deadline(None);
        match Call::new(vec![target], deadline, &self.inner.env).once().send(Request::Status).await? {
            Reply::Status(status) => Ok(*status),
            _ => Err(unexpected()),
        }
    }

    /// Closes all connections, once the operations under way have ended or a second has passed.
    pub async fn close(self) {
        self.inner.routes.endpoint().close(CLOSE_PATIENCE).await;
        self.inner.env.shutdown(CLOSE_PATIENCE).await;
    }

    fn item(&self, put: BatchPut) -> PutItem {
        let sequence = self.inner.sequence.fetch_add(1, Ordering::Relaxed);
        PutItem {
            key: Blob(put.key),
            value: put.value.map(Blob),
            context: put.context.0,
            request: RequestId { client: self.inner.session, sequence },
            ttl: put.ttl,
        }
    }

    fn deadline(&self, timeout: Option<Duration>) -> Instant {
        Instant::now() + timeout.unwrap_or(self.inner.timeout).min(limits::DEADLINE_MAX)
    }

    /// A call to whoever is best for a key, or to the pinned node.
    fn call(&self, key: &[u8], deadline: Instant) -> Call<'_> {
        let pinned = self.inner.pinned.as_ref().and_then(|name| self.inner.routes.node(name));
        let targets = pinned.map_or_else(|| self.inner.routes.for_key(&self.namespace, key), |node| vec![node]);
        Call::new(targets, deadline, &self.inner.env)
    }

    /// Groups keys, by their places in the list, by the node to ask, within the bounds of one request.
    fn by_owner<'a>(&self, keys: impl Iterator<Item = &'a Bytes>) -> Vec<Vec<usize>> {
        let mut groups: BTreeMap<String, Vec<Vec<usize>>> = BTreeMap::new();
        for (at, key) in keys.enumerate() {
            let targets = self.inner.routes.for_key(&self.namespace, key);
            let label = targets.first().map(|target| target.label.clone()).unwrap_or_default();
            let group = groups.entry(label).or_default();
            match group.last_mut() {
                Some(last) if last.len() < limits::BATCH_KEYS_MAX => last.push(at),
                _ => group.push(vec![at]),
            }
        }
        groups.into_values().flatten().collect()
    }
}

/// Brings outcomes of groups back into the order that was asked for.
fn in_order<T>(outcomes: impl Iterator<Item = (usize, T)>) -> Vec<T> {
    let sorted: BTreeMap<usize, T> = outcomes.collect();
    sorted.into_values().collect()
}
