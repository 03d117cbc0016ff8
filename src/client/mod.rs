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

mod batch;
mod builder;
mod call;
mod error;
mod route;
mod scan;
mod value;

pub use batch::BatchPut;
pub use builder::ClientBuilder;
pub use error::{ClientError, Unreachable};
pub use scan::{Scan, ScanOptions};
pub use value::{CausalContext, Found, GetOptions, PutOptions, Sibling, Written};

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::client::batch::{Each, Gets, Puts};
use crate::client::call::{Call, unexpected};
use crate::client::route::{Routes, Target};
use crate::env::Env;
use crate::limits;
use crate::net::TlsMaterial;
use crate::types::{ClusterName, Namespace, NodeName, TraceId};
use crate::version::RequestId;
use crate::view::ClusterView;
use crate::wire::blob::Blob;
use crate::wire::gossip::{KeyOrder, KeysReport, MembersReport};
use crate::wire::rpc::{self, NodeStatus, PutItem, Reply, Request};
use crate::wire::sync::{RepairProgress, RepairRequest};

/// How long the last replies are waited for when a client closes.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

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
    /// Requests so far, of any kind.
    asked: AtomicU64,
    timeout: Duration,
    pinned: Option<NodeName>,
    /// The cluster to talk to, if only one will do.
    cluster: Option<ClusterName>,
}

impl Client {
    /// Settings of a new client.
    pub fn builder(tls: TlsMaterial) -> ClientBuilder {
        ClientBuilder::new(tls)
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
        let PutOptions { context, ttl, condition, w, sloppy, timeout } = options;
        // Known to be refused, it need not be sent.
        rpc::check_key(&key)?;
        rpc::check_value(value.as_ref().map_or(0, Bytes::len))?;
        let batch = Puts { namespace: self.namespace.clone(), w, sloppy };
        let each = Each::new(batch, [self.item(BatchPut { key: key.clone(), value, context, ttl, condition })]);
        self.settle(each, &key, self.deadline(timeout)).await.pop().unwrap_or_else(|| Err(unexpected()))
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
        rpc::check_key(&key)?;
        let each = Each::new(Gets { namespace: self.namespace.clone(), r: options.r }, [Blob(key.clone())]);
        self.settle(each, &key, self.deadline(options.timeout)).await.pop().unwrap_or_else(|| Err(unexpected()))
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
        let targets = self.inner.routes.any();
        let reply = self.call(self.deadline(None)).send(&targets, Request::View).await?;
        let Reply::View(info) = reply else { return Err(unexpected()) };
        if let Some(expected) = &self.inner.cluster
            && *expected != info.cluster
        {
            let text = format!(
                "node {} is of cluster {}, not {expected}: correct the one or the other",
                info.node, info.cluster
            );
            return Err(ClientError::Config(text));
        }
        Ok(self.inner.routes.learn(ClusterView::new(info)?))
    }

    /// How a node is.
    ///
    /// # Errors
    /// When it does not answer, or there is no such node.
    pub async fn status(&self, node: &NodeName) -> Result<NodeStatus, ClientError> {
        match self.ask_node(node, Request::Status).await? {
            Reply::Status(status) => Ok(*status),
            _ => Err(unexpected()),
        }
    }

    /// The members, as the pinned node, or else any, sees them.
    ///
    /// # Errors
    /// When no node answers.
    pub async fn members(&self) -> Result<MembersReport, ClientError> {
        match self.call(self.deadline(None)).send(&self.anybody(), Request::Members).await? {
            Reply::Members(report) => Ok(*report),
            _ => Err(unexpected()),
        }
    }

    /// Gives an order to the keys of gossip through the pinned node, or else any. For administrators only.
    ///
    /// # Errors
    /// When it is refused or no node answers. An addition that was not answered may have happened.
    pub async fn gossip_keys(&self, order: KeyOrder) -> Result<KeysReport, ClientError> {
        // One node only: a key that was added twice would do no harm, but would have to be removed again.
        let targets = self.anybody();
        let call = Call { once: true, ..self.call(self.deadline(None)) };
        match call.send(targets.get(..1).unwrap_or_default(), Request::Keys(order)).await? {
            Reply::Keys(report) => Ok(report),
            _ => Err(unexpected()),
        }
    }

    /// Makes a node compare what it owns with the other owners now, or tells how far that has come. Only for
    /// administrators.
    ///
    /// # Errors
    /// When it does not answer, there is no such node, or the certificate does not allow it.
    pub async fn repair(&self, node: &NodeName, request: RepairRequest) -> Result<RepairProgress, ClientError> {
        match self.ask_node(node, Request::Repair(request)).await? {
            Reply::Repair(progress) => Ok(*progress),
            _ => Err(unexpected()),
        }
    }

    /// What a node logs: its filters now, after setting them where `filters` are given. Until its process ends they go
    /// before its configuration. For administrators.
    ///
    /// # Errors
    /// When it does not answer, there is no such node, the filters are malformed, or the certificate does not allow it.
    pub async fn log_filters(&self, node: &NodeName, filters: Option<String>) -> Result<String, ClientError> {
        match self.ask_node(node, Request::Log(filters)).await? {
            Reply::Log(filters) => Ok(filters),
            _ => Err(unexpected()),
        }
    }

    /// Asks one node, once.
    async fn ask_node(&self, node: &NodeName, request: Request) -> Result<Reply, ClientError> {
        let target = self.inner.routes.node(node);
        let target = target.ok_or_else(|| ClientError::Config(format!("there is no node {node}")))?;
        Call { once: true, ..self.call(self.deadline(None)) }.send(&[target], request).await
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
            condition: put.condition,
        }
    }

    fn deadline(&self, timeout: Option<Duration>) -> Instant {
        Instant::now() + timeout.unwrap_or(self.inner.timeout).min(limits::DEADLINE_MAX)
    }

    fn call(&self, deadline: Instant) -> Call<'_> {
        let Inner { routes, env, .. } = &*self.inner;
        Call { routes, env, deadline, trace: self.trace(), once: false }
    }

    /// A number for the next request, which no other of this or another client is likely to have: an odd step visits all
    /// numbers there are, from a random one on.
    fn trace(&self) -> TraceId {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let asked = self.inner.asked.fetch_add(1, Ordering::Relaxed);
        TraceId(self.inner.session.wrapping_add(asked.wrapping_mul(STEP)))
    }

    /// Whom to ask for what does not concern a key: the pinned node, or else any.
    fn anybody(&self) -> Vec<Target> {
        self.pinned().unwrap_or_else(|| self.inner.routes.any())
    }

    /// The one node that everything is sent to, if there is one.
    fn pinned(&self) -> Option<Vec<Target>> {
        let name = self.inner.pinned.as_ref()?;
        self.inner.routes.node(name).map(|node| vec![node])
    }

    /// Whom to ask for a key, best first.
    fn targets(&self, key: &[u8]) -> Vec<Target> {
        self.pinned().unwrap_or_else(|| self.inner.routes.for_key(&self.namespace, key))
    }
}
