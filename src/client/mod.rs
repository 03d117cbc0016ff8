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
//!
//! # Watching it
//!
//! [`Client::metrics`] is a snapshot of everything the client counts and times; what grew between two of them is what it did
//! meanwhile. [`Client::member_events`] tells which nodes come, go, fall silent and answer again.
//!
//! With any subscriber of `tracing`, at debug level, each operation is a span `operation` with the number of the request, its
//! verb and its namespace, and each request to a node an `attempt` inside it, with the node and the reason. Events say why there was
//! more than one. The number is the one under which nodes trace and log the request. Without a subscriber that asks for
//! them, spans cost nothing.
//!
//! ```no_run
//! # async fn example(client: dynamomini::client::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use tracing_subscriber::fmt::format::FmtSpan;
//!
//! // A line for each operation and attempt that ends, with how long it took.
//! tracing_subscriber::fmt()
//!     .with_max_level(tracing::Level::DEBUG)
//!     .with_span_events(FmtSpan::CLOSE)
//!     .init();
//!
//! let before = client.metrics();
//! client.get("cart:7").await?;
//! let after = client.metrics();
//! println!(
//!     "{} reads, p99 {:?}, {} hedged, {} sent to other nodes, {} turned away",
//!     after.reads.done - before.reads.done,
//!     after.reads.latency.per_mille(990),
//!     after.hedges - before.hedges,
//!     after.failovers - before.failovers,
//!     after.overloads - before.overloads,
//! );
//! # Ok(())
//! # }
//! ```

mod batch;
mod builder;
mod call;
mod choose;
mod error;
mod hedge;
mod load;
mod metrics;
mod order;
mod race;
mod resolve;
mod route;
mod scan;
mod session;
mod table;
mod target;
mod value;
mod watch;

pub use batch::BatchPut;
pub use builder::ClientBuilder;
pub use error::{ClientError, Unreachable};
pub use hedge::Hedging;
pub use metrics::{ClientMetrics, OperationMetrics};
pub use resolve::{KeepAll, LastWriteWins, Resolve, UnionOfSets};
pub use scan::{Scan, ScanOptions};
pub use session::Session;
pub use value::{CausalContext, Found, GetOptions, PutOptions, Sibling, Written};
pub use watch::{MemberEvent, MemberEvents};

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::client::batch::{Each, Gets, Puts};
use crate::client::call::{Call, Calls, unexpected};
use crate::client::choose::Pick;
use crate::client::order::{Order, Whom};
use crate::client::route::Routes;
use crate::env::Env;
use crate::layout::{Change, Layout};
use crate::limits;
use crate::net::TlsMaterial;
use crate::net::tls::TlsError;
use crate::types::{ClusterName, ConflictPolicy, Namespace, NodeName, TraceId};
use crate::version::RequestId;
use crate::view::ClusterView;
use crate::wire::blob::Blob;
use crate::wire::gossip::{KeyOrder, KeysReport, MembersReport};
use crate::wire::layout::{ChangeOrder, Despite, LayoutReply, LayoutRequest, Shown};
use crate::wire::rpc::{self, PutItem, Reply, Request, ServeError};
use crate::wire::status::NodeStatus;
use crate::wire::sync::{RepairProgress, RepairRequest};
use crate::wire::tasks::{TaskOrder, TasksReport, TasksRequest};

/// How long a closing client waits for what runs for it in the background.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// Access to one cluster. Clones share connections; any number of operations may be under way at once.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
    namespace: Namespace,
    resolver: Option<Arc<dyn Resolve>>,
}

#[derive(Debug)]
struct Inner {
    calls: Calls,
    /// What the endpoint lives in.
    env: Env,
    /// Of this client's own tasks.
    scope: Env,
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

/// A client that is dropped without being closed leaves no task behind.
impl Drop for Inner {
    fn drop(&mut self) {
        self.scope.stop();
    }
}

impl Client {
    /// Settings of a new client.
    pub fn builder(tls: TlsMaterial) -> ClientBuilder {
        ClientBuilder::new(tls)
    }

    /// Shows other certificates in new connections from now on, and trusts what they trust: for programs that outlive
    /// theirs. Connections that exist stay as they are.
    ///
    /// # Errors
    /// When they cannot be used; the old ones then stay in use.
    pub fn renew(&self, tls: &TlsMaterial) -> Result<(), TlsError> {
        self.inner.calls.routes.endpoint().reload(tls)
    }

    /// The same client for keys of another namespace.
    #[must_use]
    pub fn in_namespace(&self, namespace: Namespace) -> Self {
        Self { namespace, ..self.clone() }
    }

    /// The same client, whose readers get to see what the resolver makes of siblings.
    #[must_use]
    pub fn with_resolver(&self, resolver: impl Resolve) -> Self {
        Self { resolver: Some(Arc::new(resolver)), ..self.clone() }
    }

    /// A session that carries causal contexts: it reads its own writes, and never goes back, even at R=1.
    pub fn session(&self) -> Session {
        Session::new(self.clone())
    }

    /// News of the members from now on.
    pub fn member_events(&self) -> MemberEvents {
        MemberEvents::new(self.clone())
    }

    /// What this client did since it began. Clones share it.
    pub fn metrics(&self) -> ClientMetrics {
        let routes = self.routes();
        let net = routes.endpoint().counters();
        let mut metrics = ClientMetrics {
            under_way: self.inner.calls.under_way(),
            bytes_sent: net.bytes_sent.get(),
            bytes_received: net.bytes_received.get(),
            ..routes.meter.snapshot()
        };
        for stats in routes.table().iter().flat_map(|table| &table.targets).filter_map(|target| target.link.stats()) {
            metrics.connections += 1;
            metrics.packets_sent += stats.udp_tx.datagrams;
            metrics.packets_received += stats.udp_rx.datagrams;
        }
        metrics
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
        // What is deleted without a context is what the coordinator has, and which write is the last one is better told by
        // one clock than by several: such writes of one key should meet at one node.
        let policy = self.view().policy(&self.namespace).map(|policy| policy.conflict);
        let meets = policy == Some(ConflictPolicy::LastWriteWins) || (value.is_none() && context.is_empty());
        let pick = if meets { Pick::Same } else { Pick::First };
        let each = Each::new(batch, [self.item(BatchPut { key: key.clone(), value, context, ttl, condition })]);
        self.settle(each, &key, pick, self.deadline(timeout)).await.pop().unwrap_or_else(|| Err(unexpected()))
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
        let gets = Gets { namespace: self.namespace.clone(), r: options.r, strict: options.strict };
        let each = Each::new(gets, [Blob(key.clone())]);
        let found = self.settle(each, &key, Pick::Cheapest, self.deadline(options.timeout)).await.pop();
        found.unwrap_or_else(|| Err(unexpected())).map(|found| resolve::apply(self.resolver.as_deref(), &key, found))
    }

    /// Reads all keys with a prefix, page by page.
    pub fn scan(&self, prefix: impl Into<Bytes>, options: ScanOptions) -> Scan {
        Scan::new(self.clone(), prefix.into(), options)
    }

    /// The cluster as last learnt: members, namespaces, owners of keys. Nodes tell the client when it changes.
    pub fn view(&self) -> Arc<ClusterView> {
        self.routes().table().expect("a client exists only once it has learnt the cluster").view.clone()
    }

    /// Learns the cluster anew from any node that answers, without waiting to be told.
    ///
    /// # Errors
    /// When none does.
    pub async fn refresh(&self) -> Result<Arc<ClusterView>, ClientError> {
        let order = Order::new(self.routes(), Whom::Anyone, Pick::Cheapest);
        let reply = self.call(self.deadline(None)).send(order, Request::View).await?;
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
        self.routes().learn(info).await
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
        match self.call(self.deadline(None)).send(self.anyone(), Request::Members).await? {
            Reply::Members(report) => Ok(*report),
            _ => Err(unexpected()),
        }
    }

    /// Gives an order to the keys of gossip through the pinned node, or else one that answers. For administrators only.
    ///
    /// # Errors
    /// When it is refused or no node answers. An addition that was not answered may have happened.
    pub async fn gossip_keys(&self, order: KeyOrder) -> Result<KeysReport, ClientError> {
        // One node only: a key that was added twice would do no harm, but would have to be removed again.
        let node = self.one_that_answers().await?;
        match self.ask_node(&node, Request::Keys(order)).await? {
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

    /// Who owns data as a node knows it, how far that node has come with it, and what the change under way waits for if that
    /// node leads it.
    ///
    /// # Errors
    /// When it does not answer, or there is no such node.
    pub async fn layout(&self, node: &NodeName) -> Result<Shown, ClientError> {
        match self.ask_node(node, Request::Layout(LayoutRequest::Show)).await? {
            Reply::Layout(LayoutReply::Show(shown)) => Ok(*shown),
            _ => Err(unexpected()),
        }
    }

    /// Has a majority of those who own data agree on a change of owners, through the pinned node, or else one that answers. Returns
    /// the layout with which it begins; [`Client::layout`] says how it gets on. What is not safe is refused, `despite` which it can
    /// be done. For administrators only.
    ///
    /// # Errors
    /// When it cannot be, is not safe, the certificate does not allow it, or there was no agreement; without an answer it may
    /// begin nonetheless.
    pub async fn change_layout(&self, change: Change, despite: Despite) -> Result<Layout, ClientError> {
        let order = Request::Layout(LayoutRequest::Change(ChangeOrder { change, despite }));
        match self.ask_node(&self.one_that_answers().await?, order).await? {
            Reply::Layout(LayoutReply::Changed(layout)) => Ok(*layout),
            Reply::Layout(LayoutReply::Impossible(error)) => {
                Err(ClientError::Rejected(ServeError::Invalid(error.to_string())))
            }
            _ => Err(unexpected()),
        }
    }

    /// The tasks of all nodes, as the pinned node, or else one that answers, gathers them; after it has passed on an order, for which
    /// an administrator's certificate is needed.
    ///
    /// # Errors
    /// When it does not answer, or the certificate does not allow it.
    pub async fn tasks(&self, order: TaskOrder) -> Result<TasksReport, ClientError> {
        let request = Request::Tasks(TasksRequest { order, everywhere: true });
        match self.ask_node(&self.one_that_answers().await?, request).await? {
            Reply::Tasks(report) => Ok(*report),
            _ => Err(unexpected()),
        }
    }

    /// The pinned node, or else one that answers.
    async fn one_that_answers(&self) -> Result<NodeName, ClientError> {
        match &self.inner.pinned {
            Some(pinned) => Ok(pinned.clone()),
            None => Ok(self.members().await?.node),
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
        if self.routes().table().is_none_or(|table| table.named(node).is_none()) {
            return Err(ClientError::Config(format!("there is no node {node}")));
        }
        let call = Call { once: true, ..self.call(self.deadline(None)) };
        call.send(Order::new(self.routes(), Whom::One(node), Pick::Cheapest), request).await
    }

    /// Closes all connections once the operations under way, of all clones, have ended; they have the time of one operation
    /// left. Operations that begin later fail with [`ClientError::Closed`].
    pub async fn close(self) {
        let patience = self.inner.timeout;
        self.close_within(patience).await;
    }

    /// Like [`Client::close`], with as much time as is said. Whether all operations ended in it; those that did not are cut
    /// off, and fail as unanswered.
    pub async fn close_within(self, patience: Duration) -> bool {
        let all = u32::try_from(limits::CLIENT_OPERATIONS_MAX).unwrap_or(u32::MAX);
        let room = &self.inner.calls.room;
        // Fails, too, when another clone has closed the client, and that one waits.
        let held = tokio::time::timeout(patience, room.acquire_many(all)).await;
        let ended = held.is_ok();
        room.close();
        drop(held);
        self.inner.scope.stop();
        self.routes().endpoint().close(CLOSE_PATIENCE).await;
        self.inner.scope.shutdown(CLOSE_PATIENCE).await;
        self.inner.env.shutdown(CLOSE_PATIENCE).await;
        ended
    }

    fn routes(&self) -> &Arc<Routes> {
        &self.inner.calls.routes
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
        Call { calls: &self.inner.calls, deadline, trace: self.trace(), once: false }
    }

    /// A number for the next request, which no other of this or another client is likely to have: an odd step visits all
    /// numbers there are, from a random one on.
    fn trace(&self) -> TraceId {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let asked = self.inner.asked.fetch_add(1, Ordering::Relaxed);
        TraceId(self.inner.session.wrapping_add(asked.wrapping_mul(STEP)))
    }

    /// Whom to ask for a key.
    fn order<'a>(&'a self, key: &[u8], pick: Pick) -> Order<'a> {
        if let Some(name) = &self.inner.pinned {
            return Order::new(self.routes(), Whom::One(name), pick);
        }
        let order = Order::new(self.routes(), Whom::Anyone, pick);
        let Some((_, partition)) = order.view().map(|view| view.place(&self.namespace, key)) else { return order };
        order.among(Whom::Owners(&self.namespace, partition))
    }

    /// Whom to ask for what every node can answer.
    fn anyone(&self) -> Order<'_> {
        let whom = self.inner.pinned.as_ref().map_or(Whom::Anyone, Whom::One);
        Order::new(self.routes(), whom, Pick::Cheapest)
    }
}
