//! Whole clusters: real nodes and real clients over the simulated network, on memory or on simulated disks, and what can be
//! done to them. Judges nothing.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use dynamomini::client::{Client, ClientBuilder, Hedging};
use dynamomini::env::Env;
use dynamomini::layout::{Change, Layout};
use dynamomini::limits;
use dynamomini::net::link::{Link, LinkSettings};
use dynamomini::net::{BindConfig, Endpoint, EndpointKeys, Expect, PemFile, Socket, TlsMaterial, TransportSettings};
use dynamomini::node::gossip::GossipParts;
use dynamomini::node::ownership::Joining;
use dynamomini::node::{Bounds, Node, Oversight, OwnershipParts, Parts, Timeouts};
use dynamomini::store::{Disk, Durability, Engine, Memory, MemoryCopy, Simulated, StoreConfig, StoreIdentity};
use dynamomini::swim::Config;
use dynamomini::types::{Consistency, Namespace, NamespacePolicy, NodeName, Partitions};
use dynamomini::wire::blob;
use dynamomini::wire::gossip::MemberState;
use dynamomini::wire::layout::{ChangeOrder, Despite, LayoutReply, LayoutRequest, Shown};
use dynamomini::wire::rpc::{ClusterInfo, MemberInfo, Reply, Request, Traced};
use dynamomini::wire::status::NodeStatus;
use tempfile::TempDir;

use crate::certs::Authority;
use crate::network::{Conditions, Network};
use crate::provider::provider;
use crate::world::{SimWorld, Simulation};

/// The highest number of a node.
pub(crate) const NODES_MAX: usize = 9;

fn settings() -> TransportSettings {
    TransportSettings {
        keep_alive: Duration::from_millis(500),
        idle_timeout: Duration::from_secs(2),
        ..TransportSettings::default()
    }
}

/// What a cluster is made of.
#[derive(Debug, Clone, Default)]
pub(crate) struct Setup {
    /// Its founding members.
    pub(crate) nodes: usize,
    /// When nodes drop what has been dead for so long, if ever.
    pub(crate) reap_after: Option<Duration>,
    /// When storage on simulated disks is synced; without it, nodes keep their records in memory.
    pub(crate) durability: Option<Durability>,
    /// How much clients may have each node do, where it is not the usual.
    pub(crate) bounds: Option<Bounds>,
    /// The same for some nodes.
    pub(crate) bounds_of: BTreeMap<usize, Bounds>,
    /// How many hints nodes keep one by one for each other, where it is not the usual.
    pub(crate) hints_max: Option<u64>,
    /// Whether what nodes have in memory, their layout and their votes outlive a crash.
    pub(crate) keeps: bool,
    /// Whether nobody stands in for an owner.
    pub(crate) strict: bool,
    /// Whether one owner is enough for a read and for a write.
    pub(crate) loose: bool,
    /// Copies of each key where they are not three. There is a second namespace then, with three.
    pub(crate) copies: Option<u8>,
}

/// What outlives a crash of a node that keeps its records in memory.
struct Kept {
    directory: TempDir,
    engine: Option<Engine>,
}

impl Kept {
    fn nothing() -> Self {
        Self { directory: TempDir::new().unwrap(), engine: None }
    }
}

/// What is left of a node when its process ends.
pub(crate) struct Host {
    pub(crate) disk: Disk,
    /// What the node notes beside its storage: real files, of which nothing depends on where they are.
    files: TempDir,
    skew_ms: i64,
}

/// A simulated cluster: its members and what they need to be started again.
pub(crate) struct Cluster {
    pub(crate) simulation: Simulation,
    pub(crate) network: Network,
    authority: Authority,
    pub(crate) info: ClusterInfo,
    running: BTreeMap<usize, Running>,
    lives: u32,
    setup: Setup,
    hosts: BTreeMap<usize, Host>,
    kept: BTreeMap<usize, Kept>,
    /// Connections made so far for one question each.
    asked: Cell<usize>,
}

/// One life of a node.
struct Running {
    world: Arc<SimWorld>,
    address: SocketAddr,
    engine: Engine,
    node: Node,
}

/// The namespace that there is beside the default one where that has other than three copies.
pub(crate) fn second() -> Namespace {
    Namespace::new("second").unwrap()
}

pub(crate) fn address(number: usize) -> SocketAddr {
    format!("10.0.0.{number}:7600").parse().unwrap()
}

fn gossip_address(number: usize) -> SocketAddr {
    SocketAddr::new(address(number).ip(), 7601)
}

impl Cluster {
    /// Starts a cluster whose founding members these are, with records in memory.
    pub(crate) async fn start(simulation: Simulation, conditions: Conditions, nodes: usize) -> Self {
        Self::start_with(simulation, conditions, Setup { nodes, ..Setup::default() }).await
    }

    /// Starts a cluster.
    pub(crate) async fn start_with(simulation: Simulation, conditions: Conditions, setup: Setup) -> Self {
        let nodes = setup.nodes;
        let quorum = if setup.loose { Consistency::One } else { Consistency::Quorum };
        let policy = NamespacePolicy { sloppy: !setup.strict, r: quorum, w: quorum, ..NamespacePolicy::default() };
        let network = Network::new(&simulation, conditions);
        let member = |number| MemberInfo {
            name: NodeName::new(format!("n{number}")).unwrap(),
            quic: address(number).to_string(),
            zone: "default".parse().unwrap(),
            weight: 100,
        };
        let info = ClusterInfo {
            cluster: "simulated".parse().unwrap(),
            partitions: Partitions::new(64).unwrap(),
            members: (1..=nodes).map(member).collect(),
            namespaces: match setup.copies {
                Some(n) => vec![(Namespace::default(), policy.with_copies(n)), (second(), policy)],
                None => vec![(Namespace::default(), policy)],
            },
            node: "n1".parse().unwrap(),
            layout: Layout::default(),
        }
        .founding();
        let authority = Authority::new("simulated");
        let running = BTreeMap::new();
        let (hosts, kept, asked) = (BTreeMap::new(), BTreeMap::new(), Cell::new(0));
        let mut cluster = Self { simulation, network, authority, info, running, lives: 0, setup, hosts, kept, asked };
        for number in 1..=nodes {
            cluster.start_node(number).await;
        }
        cluster
    }

    /// Starts a node, on its disk if it has one; one in memory has nothing, as after the loss of its disk.
    pub(crate) async fn start_node(&mut self, number: usize) {
        self.start_node_on(number, None).await;
    }

    /// What a node's storage holds now.
    pub(crate) fn copy(&self, number: usize) -> MemoryCopy {
        let Engine::Memory(memory) = &self.running[&number].engine else { panic!("it is not in memory") };
        memory.copy()
    }

    /// A node's status, in the view of a client.
    pub(crate) async fn status(&self, client: &Client, number: usize) -> NodeStatus {
        let name = NodeName::new(format!("n{number}")).unwrap();
        for _ in 0..30 {
            // A node that was only just started is connected to after a pause.
            if let Ok(status) = client.status(&name).await {
                return status;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        panic!("{name} does not say how it is")
    }

    /// Starts a node on what a storage held at some time, with whatever could tell that it was then; or with an empty one.
    pub(crate) async fn start_node_on(&mut self, number: usize, copy: Option<MemoryCopy>) {
        self.kept.remove(&number);
        self.run_node(number, copy, false).await;
    }

    /// Starts a new node that asks for a share by itself.
    pub(crate) async fn start_joining(&mut self, number: usize) {
        self.kept.remove(&number);
        self.run_node(number, None, true).await;
    }

    /// Starts a node that crashed, with what it keeps.
    pub(crate) async fn restart_node(&mut self, number: usize) {
        self.run_node(number, None, false).await;
    }

    /// A node that is down loses its layout and its votes.
    pub(crate) fn lose_directory(&mut self, number: usize) {
        self.kept.get_mut(&number).unwrap().directory = TempDir::new().unwrap();
    }

    async fn run_node(&mut self, number: usize, copy: Option<MemoryCopy>, joins: bool) {
        self.lives += 1;
        let kept = self.setup.keeps.then(|| self.kept.entry(number).or_insert_with(Kept::nothing));
        let (kept, data_dir) = kept.map(|kept| (kept.engine.clone(), kept.directory.path().to_owned())).unzip();
        let zone = "default".parse().unwrap();
        let joining = joins.then(|| Joining { quic: address(number).to_string(), zone, weight: 100 });
        let name = format!("n{number}");
        let world = self.simulation.world(&name, self.lives);
        let endpoint = self.endpoint(&world.env(), &format!("dynamomini://node/{name}"), address(number));
        let cluster = ClusterInfo { node: name.parse().unwrap(), ..self.info.clone() };
        let identity =
            StoreIdentity { cluster: cluster.cluster.clone(), node: cluster.node.clone(), buckets: cluster.partitions };
        let engine = match (copy, kept.flatten()) {
            (Some(copy), _) => Engine::Memory(Memory::put_back(copy, &identity, &world.env())),
            (None, Some(kept)) => kept,
            (None, None) => self.open(number, &identity, &world).await,
        };
        if let Some(kept) = self.kept.get_mut(&number) {
            kept.engine = Some(engine.clone());
        }
        let parts = Parts {
            ownership: OwnershipParts { data_dir, joining },
            gossip: Some(self.gossip(number)),
            cluster,
            engine: engine.clone(),
            endpoint,
            links: LinkSettings::default(),
            timeouts: Timeouts {
                replica: Duration::from_millis(500),
                reap_after: self.setup.reap_after,
                ..Timeouts::default()
            },
            bounds: self.setup.bounds_of.get(&number).copied().or(self.setup.bounds).unwrap_or(Bounds::CLIENTS),
            hints_max: self.setup.hints_max.unwrap_or(limits::HINTS_PER_TARGET_MAX),
            clock_drift: Duration::from_secs(60),
            oversight: Oversight::default(),
            trees: None,
        };
        let node = Node::start(parts, &world.env()).await.unwrap();
        self.running.insert(number, Running { world, address: address(number), engine, node });
    }

    async fn open(&mut self, number: usize, identity: &StoreIdentity, world: &Arc<SimWorld>) -> Engine {
        let Some(durability) = self.setup.durability else {
            return Engine::open(&StoreConfig::Memory, identity, &world.env()).await.unwrap().0;
        };
        let simulation = &self.simulation;
        let host = self.hosts.entry(number).or_insert_with(|| {
            let disk = Disk::new(simulation.derive(&format!("disk {number}")));
            Host { disk, files: TempDir::new().unwrap(), skew_ms: 0 }
        });
        world.skew(host.skew_ms);
        Engine::Simulated(Simulated::open(&host.disk, durability, identity, &world.env()).unwrap().0)
    }

    /// The host of a node on a simulated disk.
    pub(crate) fn host(&self, number: usize) -> &Host {
        &self.hosts[&number]
    }

    /// Empties everything that a node keeps. It must be down.
    pub(crate) fn lose_disk(&mut self, number: usize) {
        assert!(!self.running.contains_key(&number), "n{number} runs");
        let host = self.hosts.get_mut(&number).unwrap();
        host.disk.lose();
        host.files = TempDir::new().unwrap();
    }

    /// Sets the wall clock of a node wrong by this much, also for its next lives.
    pub(crate) fn skew(&mut self, number: usize, milliseconds: i64) {
        if let Some(host) = self.hosts.get_mut(&number) {
            host.skew_ms = milliseconds;
        }
        if let Some(running) = self.running.get(&number) {
            running.world.skew(milliseconds);
        }
    }

    fn gossip(&self, number: usize) -> GossipParts {
        let uri = format!("dynamomini://node/n{number}");
        GossipParts {
            config: Config::lan(),
            // The founding members know each other; whoever comes later is told of the first two.
            seeds: if number > self.info.members.len() {
                vec![address(1).to_string(), address(2).to_string()]
            } else {
                Vec::new()
            },
            socket: self.network.socket(gossip_address(number)),
            quic: address(number).to_string(),
            gossip: gossip_address(number).to_string(),
            admin: None,
            zone: "default".parse().unwrap(),
            weight: 100,
            material: self.material(&uri),
            provider: provider(self.simulation.derive(&format!("{uri}/{}/gossip", self.lives))),
            data_dir: self.hosts.get(&number).map(|host| host.files.path().to_owned()),
        }
    }

    /// The states of the members in the view of a node, by name.
    pub(crate) async fn view_of(&self, number: usize) -> BTreeMap<String, MemberState> {
        let report = self.running[&number].node.members().await.unwrap();
        report.members.into_iter().map(|member| (member.name.to_string(), member.state)).collect()
    }

    /// The layout as a node knows it.
    pub(crate) fn layout_of(&self, number: usize) -> Shown {
        self.running[&number].node.layout()
    }

    /// Has a node see to a change of who owns data, safe or not.
    pub(crate) async fn order(&self, number: usize, change: Change) -> Result<Layout, String> {
        self.order_with(number, ChangeOrder { change, despite: Despite::Danger }).await
    }

    /// The same as an administrator would who does not force it.
    pub(crate) async fn order_safely(&self, number: usize, change: Change) -> Result<Layout, String> {
        self.order_with(number, ChangeOrder { change, despite: Despite::Nothing }).await
    }

    /// The same by one node alone.
    pub(crate) async fn order_alone(&self, number: usize, change: Change) -> Result<Layout, String> {
        self.order_with(number, ChangeOrder { change, despite: Despite::NoMajority }).await
    }

    async fn order_with(&self, number: usize, order: ChangeOrder) -> Result<Layout, String> {
        match self.ask_as("admin/orders", number, Request::Layout(LayoutRequest::Change(order))).await? {
            Reply::Layout(LayoutReply::Changed(layout)) => Ok(*layout),
            Reply::Layout(LayoutReply::Impossible(error)) => Err(error.to_string()),
            Reply::Error(error) => Err(error.to_string()),
            other => panic!("{other:?}"),
        }
    }

    /// Asks a node something with a certificate for this name, over a connection for this only.
    pub(crate) async fn ask_as(&self, name: &str, number: usize, request: Request) -> Result<Reply, String> {
        self.asked.set(self.asked.get() + 1);
        let (uri, from) = (format!("dynamomini://{name}"), address(150 + self.asked.get()));
        let world = self.simulation.world(&format!("{uri}/asks"), u32::try_from(self.asked.get()).unwrap());
        let endpoint = self.endpoint(&world.env(), &uri, from);
        let expect = Expect::Node(NodeName::new(format!("n{number}")).unwrap());
        let addresses = vec![address(number).to_string()];
        let link = Link::new(&endpoint, expect, addresses, LinkSettings::default(), &world.env());
        let encode = |frame: &mut BytesMut| {
            postcard::to_io(&Traced::untraced(request), frame.writer()).unwrap();
        };
        let answer = link.request(Duration::from_secs(12), encode).await.map_err(|error| error.to_string());
        self.network.close(from);
        world.crash();
        Ok(blob::decode(&answer?).unwrap())
    }

    /// Counts of a node's gossip.
    pub(crate) async fn count_of(&self, number: usize, name: &str) -> u64 {
        let report = self.running[&number].node.members().await.unwrap();
        report.counters.iter().find(|(counted, _)| counted == name).unwrap_or_else(|| panic!("no {name}")).1
    }

    /// Numbers of the nodes that run.
    pub(crate) fn running(&self) -> Vec<usize> {
        self.running.keys().copied().collect()
    }

    /// The storage of each running node.
    pub(crate) fn engines(&self) -> BTreeMap<usize, Engine> {
        self.running.iter().map(|(number, running)| (*number, running.engine.clone())).collect()
    }

    /// The end of a process: first nothing can be sent any more, then everything is gone. What is on a disk stays.
    pub(crate) fn crash(&mut self, number: usize) {
        self.end(number, Disk::kill);
    }

    /// The end of a machine: what its disk had not synced may be gone. Returns how many batches are.
    pub(crate) fn power_cut(&mut self, number: usize) -> usize {
        let mut gone = 0;
        self.end(number, |disk| gone = disk.power_cut());
        gone
    }

    fn end(&mut self, number: usize, how: impl FnOnce(&Disk)) {
        let running = self.running.remove(&number).unwrap();
        self.network.close(running.address);
        self.network.close(gossip_address(number));
        if let Some(host) = self.hosts.get(&number) {
            how(&host.disk);
        }
        running.world.crash();
    }

    /// Ends a node in order.
    pub(crate) async fn stop(&mut self, number: usize) {
        let running = self.running.remove(&number).unwrap();
        running.node.shutdown().await.unwrap();
        self.network.close(running.address);
        self.network.close(gossip_address(number));
        running.world.crash();
    }

    fn endpoint(&self, env: &Env, uri: &str, address: SocketAddr) -> Endpoint {
        let provider = provider(self.simulation.derive(&format!("{uri}/{}/tls", self.lives)));
        // Kept on disk by a real node: the same in every life.
        let keys = EndpointKeys::generate(&self.simulation.world(uri, 0).env());
        let socket = Socket::Abstract(self.network.socket(address));
        let material = self.material(uri);
        Endpoint::bind(BindConfig { socket, material, provider, keys, settings: settings() }, env).unwrap()
    }

    fn material(&self, uri: &str) -> TlsMaterial {
        let issued = self.authority.issue(&[uri]);
        let file = |bytes| PemFile { name: "memory", bytes };
        let (chain, key) = (file(issued.chain.as_bytes()), file(issued.key.as_bytes()));
        let provider = provider(self.simulation.derive(&format!("{uri}/material")));
        TlsMaterial::from_pem(chain, key, file(self.authority.root.as_bytes()), &provider).unwrap()
    }

    pub(crate) async fn client(&self, number: usize) -> Client {
        self.client_with(number, Some(Hedging::default())).await
    }

    pub(crate) async fn client_with(&self, number: usize, hedging: Option<Hedging>) -> Client {
        self.builder(number).hedging(hedging).connect().await.unwrap()
    }

    /// A client that sends everything to one node.
    pub(crate) async fn pinned(&self, number: usize, node: usize) -> Client {
        self.builder(number).pin(format!("n{node}").parse().unwrap()).connect().await.unwrap()
    }

    fn builder(&self, number: usize) -> ClientBuilder {
        let uri = format!("dynamomini://admin/c{number}");
        let env = self.simulation.world(&uri, 1).env();
        let endpoint = self.endpoint(&env, &uri, address(100 + number));
        let builder = Client::builder(self.material(&uri)).on(endpoint, env);
        (1..=self.info.members.len()).fold(builder, |builder, number| builder.node(address(number).to_string()))
    }

    /// Requests that a node works on or that wait there.
    pub(crate) async fn in_flight(&self, number: usize) -> u64 {
        self.running[&number].node.observer().status().await.in_flight
    }

    /// Cuts a node off from all others, or no longer.
    pub(crate) fn cut(&self, number: usize, blocked: bool) {
        let others: Vec<usize> = (1..=NODES_MAX).filter(|other| *other != number).collect();
        self.part(&[number], &others, blocked);
    }

    /// Cuts all ways between two groups of nodes, or no longer.
    pub(crate) fn part(&self, one: &[usize], other: &[usize], blocked: bool) {
        for (one, other) in one.iter().flat_map(|one| other.iter().map(move |other| (*one, *other))) {
            self.network.set_both(address(one).ip(), address(other).ip(), |link| link.blocked = blocked);
        }
    }
}
