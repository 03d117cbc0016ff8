//! A cluster of nodes in this process: real QUIC, real or memory storage; nodes are stopped, killed and started again.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use dynamomini::client::{Client, ClientBuilder};
use dynamomini::env::Env;
use dynamomini::layout::Layout;
use dynamomini::limits;
use dynamomini::net::{
    BindConfig, Endpoint, EndpointKeys, Expect, Link, LinkSettings, PemFile, Socket, TlsMaterial, TransportSettings,
    Udp, tls,
};
use dynamomini::node::gossip::GossipParts;
use dynamomini::node::{Bounds, Node, Oversight, OwnershipParts, Parts, Timeouts};
use dynamomini::store::{Durability, Engine, RedisConfig, StoreConfig, StoreIdentity};
use dynamomini::swim;
use dynamomini::types::{ClusterName, Namespace, NamespacePolicy, NodeName, Partitions, TraceId, Zone};
use dynamomini::wire::blob;
use dynamomini::wire::rpc::{ClusterInfo, MemberInfo, Reply, Request, Traced};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};

use crate::certs::{Authority, Issued};
use crate::redis::Server;

/// How long a condition is waited for before a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a cluster is made of.
pub(crate) struct Setup {
    pub(crate) nodes: usize,
    pub(crate) partitions: u32,
    pub(crate) namespaces: Vec<(&'static str, NamespacePolicy)>,
    pub(crate) storage: Storage,
    /// The gossip address of all nodes; without one they do not gossip.
    pub(crate) gossip: Option<&'static str>,
    /// When dead records are dropped.
    pub(crate) reap_after: Option<Duration>,
}

/// Where nodes keep their data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storage {
    /// Gone with the node.
    Memory,
    Embedded,
    /// A redis-server for each node, which outlives it.
    Redis,
}

impl Default for Setup {
    fn default() -> Self {
        let namespaces = vec![("default", NamespacePolicy::default())];
        Self { nodes: 3, partitions: 64, namespaces, storage: Storage::Memory, gossip: None, reap_after: None }
    }
}

/// A running cluster. Dropped, its nodes are killed.
pub(crate) struct Cluster {
    pub(crate) authority: Authority,
    info: ClusterInfo,
    members: Vec<Member>,
    // Ended before their folders go.
    servers: BTreeMap<usize, Server>,
    dir: tempfile::TempDir,
    storage: Storage,
    gossip: Option<&'static str>,
    reap_after: Option<Duration>,
}

struct Member {
    name: NodeName,
    /// Keeps the port while the node is down.
    socket: UdpSocket,
    keys: EndpointKeys,
    running: Option<(Node, Env)>,
    line: Arc<Line>,
}

/// What can be done to the socket of one life of a node.
#[derive(Debug, Default)]
struct Line {
    /// Whether what it sends is lost.
    mute: AtomicBool,
    /// Whether this life is over. The port stays with the test, so what is left of the endpoint, which outlives its node until
    /// its connections have drained, would go on taking packets that are the next life's, and answer them with resets.
    over: AtomicBool,
}

impl Member {
    fn new(number: usize, env: &Env) -> Self {
        Self {
            name: NodeName::new(format!("n{number}")).unwrap(),
            socket: UdpSocket::bind("127.0.0.1:0").unwrap(),
            keys: EndpointKeys::generate(env),
            running: None,
            line: Arc::default(),
        }
    }

    fn info(&self) -> MemberInfo {
        let quic = self.socket.local_addr().unwrap().to_string();
        MemberInfo { name: self.name.clone(), quic, zone: Zone::new("z").unwrap(), weight: 100 }
    }
}

/// A socket that receives, but whose packets are lost while it is mute; when its life is over it does neither.
#[derive(Debug)]
struct Mutable {
    inner: Arc<dyn AsyncUdpSocket>,
    line: Arc<Line>,
}

impl AsyncUdpSocket for Mutable {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let lost = self.line.mute.load(Ordering::Relaxed) || self.line.over.load(Ordering::Relaxed);
        if lost { Ok(()) } else { self.inner.try_send(transmit) }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        if self.line.over.load(Ordering::Relaxed) { Poll::Pending } else { self.inner.poll_recv(cx, buffers, meta) }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (_, env) in self.members.iter().filter_map(|member| member.running.as_ref()) {
            env.stop();
        }
    }
}

impl Cluster {
    /// Starts all nodes and waits until each has connections to all others.
    pub(crate) async fn start(setup: Setup) -> Self {
        let env = Env::real();
        let members: Vec<Member> = (1..=setup.nodes).map(|number| Member::new(number, &env)).collect();
        let info = ClusterInfo {
            cluster: ClusterName::new("test").unwrap(),
            partitions: Partitions::new(setup.partitions).unwrap(),
            members: members.iter().map(Member::info).collect(),
            namespaces: setup.namespaces.into_iter().map(|(name, policy)| (namespace(name), policy)).collect(),
            node: NodeName::new("n1").unwrap(),
            layout: Layout::default(),
        }
        .founding();
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new("the authority");
        let mut cluster = Self {
            authority,
            info,
            members,
            servers: BTreeMap::new(),
            dir,
            storage: setup.storage,
            gossip: setup.gossip,
            reap_after: setup.reap_after,
        };
        for at in 0..cluster.members.len() {
            cluster.start_node(at).await;
        }
        cluster.connected().await;
        cluster
    }

    /// Starts a node that is down.
    pub(crate) async fn start_node(&mut self, at: usize) {
        let env = Env::real();
        let name = self.members[at].name.clone();
        let identity =
            StoreIdentity { cluster: self.info.cluster.clone(), node: name.clone(), buckets: self.info.partitions };
        let config = self.engine(at);
        // A node that was killed may hold its files for a moment longer.
        let engine =
            eventually("the storage opens", async || Engine::open(&config, &identity, &env).await.ok()).await.0;
        let member = &mut self.members[at];
        let issued = self.authority.issue(&[&format!("dynamomini://node/{name}")]);
        member.line = Arc::default();
        let inner = TokioRuntime.wrap_udp_socket(member.socket.try_clone().unwrap()).unwrap();
        let bind = BindConfig {
            socket: Socket::Abstract(Arc::new(Mutable { inner, line: member.line.clone() })),
            material: material(&issued, &self.authority.root),
            provider: tls::ring_provider(),
            keys: member.keys.clone(),
            settings: TransportSettings::default(),
        };
        let gossip =
            self.gossip.map(|address| gossip(address, &member.info(), material(&issued, &self.authority.root)));
        let parts = Parts {
            cluster: ClusterInfo { node: name, ..self.info.clone() }.founding(),
            engine,
            endpoint: Endpoint::bind(bind, &env).unwrap(),
            links: links(),
            timeouts: Timeouts { reap_after: self.reap_after, ..Timeouts::default() },
            bounds: Bounds::CLIENTS,
            hints_max: limits::HINTS_PER_TARGET_MAX,
            clock_drift: Duration::from_secs(60),
            ownership: OwnershipParts::default(),
            gossip,
            oversight: Oversight::default(),
            trees: None,
        };
        member.running = Some((Node::start(parts, &env).await.unwrap(), env));
    }

    fn engine(&mut self, at: usize) -> StoreConfig {
        let path = self.folder(at);
        match self.storage {
            Storage::Memory => StoreConfig::Memory,
            Storage::Embedded => {
                StoreConfig::Embedded { path, durability: Durability::EveryBatch, cache_bytes: 4 << 20 }
            }
            Storage::Redis => {
                let server = self.servers.entry(at).or_insert_with(|| Server::start(path.join("redis")));
                StoreConfig::Redis(RedisConfig::new(format!("unix://{}", server.socket().display()), path.join("memo")))
            }
        }
    }

    /// The redis-server of a node.
    pub(crate) fn redis(&mut self, at: usize) -> &mut Server {
        self.servers.get_mut(&at).unwrap()
    }

    /// Where a node keeps its data.
    pub(crate) fn folder(&self, at: usize) -> PathBuf {
        self.dir.path().join(self.members[at].name.as_str())
    }

    /// Starts one more node, of which all others are told.
    pub(crate) async fn add(&mut self) {
        let member = Member::new(self.members.len() + 1, &Env::real());
        self.info.members.push(member.info());
        self.members.push(member);
        self.tell();
        self.start_node(self.members.len() - 1).await;
        self.connected().await;
    }

    /// Ends the last node in order, and tells the others that it is a member no more.
    pub(crate) async fn remove_last(&mut self) {
        self.stop(self.members.len() - 1).await;
        self.info.members.pop();
        self.members.pop();
        self.tell();
    }

    /// Ends a node and starts it again at another address, of which all others are told.
    pub(crate) async fn relocate(&mut self, at: usize) {
        self.stop(at).await;
        self.members[at].socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        self.info.members[at] = self.members[at].info();
        self.tell();
        self.start_node(at).await;
    }

    /// Tells all running nodes who the members are.
    fn tell(&self) {
        let info = self.info.clone().founding();
        for member in &self.members {
            if let Some((node, _)) = &member.running {
                node.update(ClusterInfo { node: member.name.clone(), ..info.clone() }).unwrap();
            }
        }
    }

    /// Ends a node in order.
    pub(crate) async fn stop(&mut self, at: usize) {
        let (node, env) = self.members[at].running.take().unwrap();
        node.shutdown().await.unwrap();
        env.shutdown(PATIENCE).await;
        self.members[at].line.over.store(true, Ordering::Relaxed);
    }

    /// From now on a node's packets are lost, or not any more. It still receives: what it is asked to do, it does.
    pub(crate) fn mute(&self, at: usize, mute: bool) {
        self.members[at].line.mute.store(mute, Ordering::Relaxed);
    }

    /// Drops a node's tasks where they stand: nobody is told.
    pub(crate) async fn kill(&mut self, at: usize) {
        self.members[at].line.over.store(true, Ordering::Relaxed);
        let (node, env) = self.members[at].running.take().unwrap();
        env.shutdown(Duration::ZERO).await;
        drop(node);
    }

    /// Waits until each running node has connections to all other running ones.
    pub(crate) async fn connected(&self) {
        let client = self.client().await;
        let running = self.members.iter().filter(|member| member.running.is_some());
        let names: Vec<NodeName> = running.map(|member| member.name.clone()).collect();
        for name in &names {
            eventually("all peers are up", async || {
                let status = client.status(name).await.ok()?;
                let peers = status.peers.iter().filter(|peer| names.contains(&peer.name));
                peers.clone().all(|peer| peer.state == "up").then_some(())
            })
            .await;
        }
        client.close().await;
    }

    pub(crate) fn name(&self, at: usize) -> NodeName {
        self.members[at].name.clone()
    }

    pub(crate) fn address(&self, at: usize) -> String {
        self.info.members[at].quic.clone()
    }

    /// Settings of a client with these URI names in its certificate, which knows all nodes.
    pub(crate) fn builder(&self, uris: &[&str]) -> ClientBuilder {
        let builder = Client::builder(material(&self.authority.issue(uris), &self.authority.root))
            .links(links())
            // A busy machine is no reason to fail; tests of deadlines set their own.
            .timeout(Duration::from_secs(30));
        (0..self.members.len()).fold(builder, |builder, at| builder.node(self.address(at)))
    }

    /// A client that may do everything.
    pub(crate) async fn client(&self) -> Client {
        self.builder(&[ADMIN]).connect().await.unwrap()
    }

    /// A client that sends everything to one node.
    pub(crate) async fn pinned(&self, at: usize) -> Client {
        self.builder(&[ADMIN]).pin(self.name(at)).connect().await.unwrap()
    }

    /// One pinned client for each node.
    pub(crate) async fn pinned_each(&self) -> Vec<Client> {
        futures_util::future::join_all((0..self.members.len()).map(|at| self.pinned(at))).await
    }

    /// Links to all nodes, for requests of one's own making.
    pub(crate) fn wires(&self) -> Vec<Wire> {
        let env = Env::real();
        let issued = self.authority.issue(&[ADMIN]);
        let bind = BindConfig {
            socket: Socket::Address("127.0.0.1:0".parse().unwrap()),
            material: material(&issued, &self.authority.root),
            provider: tls::ring_provider(),
            keys: EndpointKeys::generate(&env),
            settings: TransportSettings::default(),
        };
        let endpoint = Endpoint::bind(bind, &env).unwrap();
        let link = |at| {
            let expect = Expect::Node(self.name(at));
            Wire(Link::new(&endpoint, expect, vec![self.address(at)], links(), &env))
        };
        (0..self.members.len()).map(link).collect()
    }
}

/// A certificate that may do everything.
pub(crate) const ADMIN: &str = "dynamomini://admin/tests";

/// A link to one node, with messages of the data plane.
pub(crate) struct Wire(Link);

impl Wire {
    pub(crate) async fn ask(&self, request: &Request) -> Reply {
        let traced = Traced { trace: TraceId::NONE, layout: None, request };
        let encode = |frame: &mut BytesMut| {
            postcard::to_io(&traced, frame.writer()).unwrap();
        };
        blob::decode(&self.0.request(PATIENCE, encode).await.unwrap()).unwrap()
    }
}

/// What a process needs to be who its certificate says.
pub(crate) fn material(issued: &Issued, root: &str) -> TlsMaterial {
    let chain = PemFile { name: "chain", bytes: issued.chain.as_bytes() };
    let key = PemFile { name: "key", bytes: issued.key.as_bytes() };
    let roots = PemFile { name: "roots", bytes: root.as_bytes() };
    TlsMaterial::from_pem(chain, key, roots, &tls::ring_provider()).unwrap()
}

fn gossip(address: &str, member: &MemberInfo, material: TlsMaterial) -> GossipParts {
    GossipParts {
        config: swim::Config::local(),
        seeds: Vec::new(),
        socket: Arc::new(Udp::bind("127.0.0.1:0".parse().unwrap()).unwrap()),
        quic: member.quic.clone(),
        gossip: address.to_owned(),
        admin: None,
        zone: member.zone.clone(),
        weight: member.weight,
        material,
        provider: tls::ring_provider(),
        data_dir: None,
    }
}

fn links() -> LinkSettings {
    LinkSettings { backoff_max: Duration::from_millis(200), ..LinkSettings::default() }
}

pub(crate) fn namespace(name: &str) -> Namespace {
    Namespace::new(name).unwrap()
}

/// Asks again and again until there is an answer.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let waiting = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("waited in vain until {what}"))
}

/// The bytes of a literal.
pub(crate) fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}
