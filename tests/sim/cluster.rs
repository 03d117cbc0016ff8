//! Whole clusters: real nodes and a real client over the simulated network, judged by what a user may rely on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dynamomini::client::{Client, ClientError, GetOptions, Hedging, PutOptions};
use dynamomini::env::Env;
use dynamomini::layout::Layout;
use dynamomini::net::link::LinkSettings;
use dynamomini::net::{BindConfig, Endpoint, EndpointKeys, PemFile, Socket, TlsMaterial, TransportSettings};
use dynamomini::node::gossip::GossipParts;
use dynamomini::node::{Node, Oversight, OwnershipParts, Parts, Timeouts};
use dynamomini::store::{Engine, StoreConfig, StoreIdentity};
use dynamomini::swim::Config;
use dynamomini::types::{Consistency, Namespace, NamespacePolicy, NodeName, Partitions};
use dynamomini::version::Dot;
use dynamomini::wire::gossip::MemberState;
use dynamomini::wire::rpc::{ClusterInfo, MemberInfo};
use rand::RngExt;
use rand::rngs::StdRng;

use crate::certs::Authority;
use crate::network::{Conditions, Network};
use crate::provider::provider;
use crate::world::{SimWorld, Simulation, simulate};

fn settings() -> TransportSettings {
    TransportSettings {
        keep_alive: Duration::from_millis(500),
        idle_timeout: Duration::from_secs(2),
        ..TransportSettings::default()
    }
}

/// A simulated cluster: its members and what they need to be started again.
pub(crate) struct Cluster {
    pub(crate) simulation: Simulation,
    pub(crate) network: Network,
    authority: Authority,
    pub(crate) info: ClusterInfo,
    running: BTreeMap<usize, Running>,
    lives: u32,
    reap_after: Option<Duration>,
}

/// One life of a node.
struct Running {
    world: Arc<SimWorld>,
    address: SocketAddr,
    engine: Engine,
    node: Node,
}

pub(crate) fn address(number: usize) -> SocketAddr {
    format!("10.0.0.{number}:7600").parse().unwrap()
}

fn gossip_address(number: usize) -> SocketAddr {
    SocketAddr::new(address(number).ip(), 7601)
}

impl Cluster {
    /// Starts a cluster whose founding members these are.
    pub(crate) async fn start(simulation: Simulation, conditions: Conditions, nodes: usize) -> Self {
        Self::start_reaping(simulation, conditions, nodes, None).await
    }

    /// The same, whose nodes drop what has been dead for so long.
    pub(crate) async fn start_reaping(
        simulation: Simulation,
        conditions: Conditions,
        nodes: usize,
        reap_after: Option<Duration>,
    ) -> Self {
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
            namespaces: vec![(Namespace::default(), NamespacePolicy::default())],
            node: "n1".parse().unwrap(),
            layout: Layout::default(),
        }
        .founding();
        let authority = Authority::new("simulated");
        let running = BTreeMap::new();
        let mut cluster = Self { simulation, network, authority, info, running, lives: 0, reap_after };
        for number in 1..=nodes {
            cluster.start_node(number).await;
        }
        cluster
    }

    /// Starts a node with empty storage, as after the loss of its disk.
    pub(crate) async fn start_node(&mut self, number: usize) {
        self.lives += 1;
        let name = format!("n{number}");
        let world = self.simulation.world(&name, self.lives);
        let endpoint = self.endpoint(&world.env(), &format!("dynamomini://node/{name}"), address(number));
        let cluster = ClusterInfo { node: name.parse().unwrap(), ..self.info.clone() };
        let identity = StoreIdentity {
            cluster: cluster.cluster.clone(),
            node: cluster.node.clone(),
            partitions: cluster.partitions,
        };
        let (engine, _) = Engine::open(&StoreConfig::Memory, &identity, &world.env()).await.unwrap();
        let parts = Parts {
            ownership: OwnershipParts::default(),
            gossip: Some(self.gossip(number)),
            cluster,
            engine: engine.clone(),
            endpoint,
            links: LinkSettings::default(),
            timeouts: Timeouts {
                replica: Duration::from_millis(500),
                reap_after: self.reap_after,
                ..Timeouts::default()
            },
            clock_drift: Duration::from_secs(60),
            oversight: Oversight::default(),
            trees: None,
        };
        let node = Node::start(parts, &world.env()).await.unwrap();
        self.running.insert(number, Running { world, address: address(number), engine, node });
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
            data_dir: None,
        }
    }

    /// The states of the members in the view of a node, by name.
    pub(crate) async fn view_of(&self, number: usize) -> BTreeMap<String, MemberState> {
        let report = self.running[&number].node.members().await.unwrap();
        report.members.into_iter().map(|member| (member.name.to_string(), member.state)).collect()
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

    /// Power cut: first nothing can be sent any more, then everything is gone.
    pub(crate) fn crash(&mut self, number: usize) {
        let running = self.running.remove(&number).unwrap();
        self.network.close(running.address);
        self.network.close(gossip_address(number));
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
        let uri = format!("dynamomini://admin/c{number}");
        let env = self.simulation.world(&uri, 1).env();
        let endpoint = self.endpoint(&env, &uri, address(100 + number));
        let mut builder = Client::builder(self.material(&uri)).hedging(hedging).on(endpoint, env);
        for number in 1..=self.info.members.len() {
            builder = builder.node(address(number).to_string());
        }
        builder.connect().await.unwrap()
    }

    pub(crate) fn cut(&self, number: usize, blocked: bool) {
        for other in (1..=self.info.members.len()).filter(|other| *other != number) {
            self.network.set_both(address(number).ip(), address(other).ip(), |link| link.blocked = blocked);
        }
    }
}

/// What was written, and what may have become of it.
#[derive(Default)]
struct Model {
    attempted: BTreeSet<String>,
    /// Acknowledged values by key, without those that a later write, acknowledged or not, had seen.
    must_survive: BTreeMap<String, BTreeSet<String>>,
    dots: BTreeMap<(String, Dot), String>,
}

/// One client's reads and writes on few keys, in a random order, some under the context of its last read.
async fn work(client: Client, mut rng: StdRng, network: Network, number: usize, steps: usize) -> Model {
    let mut model = Model::default();
    let mut read: BTreeMap<String, (dynamomini::client::CausalContext, Vec<String>)> = BTreeMap::new();
    for step in 0..steps {
        let key = format!("key{}", rng.random_range(0..5));
        if rng.random_bool(0.4) {
            match client.get(key.clone()).await {
                Ok(found) => {
                    let values = found.siblings.iter().map(|sibling| {
                        let value = String::from_utf8(sibling.value.to_vec()).unwrap();
                        let dot = (key.clone(), sibling.dot);
                        let first = model.dots.entry(dot).or_insert_with(|| value.clone());
                        assert_eq!(*first, value, "one dot names two values");
                        value
                    });
                    read.insert(key.clone(), (found.context.clone(), values.collect()));
                }
                Err(error) => check_error(&error),
            }
        } else {
            let value = format!("client {number} step {step}");
            let (context, seen) = if rng.random_bool(0.6) { read.remove(&key) } else { None }.unwrap_or_default();
            model.attempted.insert(value.clone());
            let survivors = model.must_survive.entry(key.clone()).or_default();
            survivors.retain(|survivor| !seen.contains(survivor));
            match client.put(key.clone(), value.clone(), PutOptions::after(&context)).await {
                Ok(_) => drop(survivors.insert(value)),
                Err(error) => check_error(&error),
            }
        }
        network.event(&format!("client {number} did step {step}"));
        tokio::time::sleep(Duration::from_millis(rng.random_range(1..100))).await;
    }
    model
}

fn check_error(error: &ClientError) {
    assert!(error.is_retryable(), "faults of the network must only give errors that a retry may cure: {error}");
}

/// Cuts and power cuts, one after the other, as the seed says. At most one node loses its storage: fewer than W.
async fn faults(cluster: &mut Cluster, mut rng: StdRng) {
    let mut lost = false;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(rng.random_range(500..2_000))).await;
        let victim = rng.random_range(1..=cluster.info.members.len());
        if !lost && rng.random_bool(0.3) {
            lost = true;
            cluster.network.event(&format!("crash n{victim}"));
            cluster.crash(victim);
            tokio::time::sleep(Duration::from_millis(rng.random_range(100..3_000))).await;
            cluster.start_node(victim).await;
        } else {
            cluster.network.event(&format!("cut n{victim}"));
            cluster.cut(victim, true);
            tokio::time::sleep(Duration::from_millis(rng.random_range(100..4_000))).await;
            cluster.cut(victim, false);
        }
    }
}

/// Two clients and faults; then all is healed and everything acknowledged must be there. Returns the trace.
async fn scenario(simulation: Simulation) -> u64 {
    let rng = |label: &str| simulation.rng(label);
    let mut draw = rng("conditions");
    let conditions = Conditions {
        latency: Duration::from_micros(draw.random_range(200..20_000)),
        jitter: Duration::from_millis(2),
        loss: draw.random_range(0.0..0.1),
        duplication: draw.random_range(0.0..0.05),
        reordering: draw.random_range(0.0..0.02),
        blocked: false,
    };
    let mut cluster = Cluster::start(simulation.clone(), conditions, 3).await;
    let network = cluster.network.clone();
    let log = std::env::var_os("SIM_LOG");
    if log.is_some() {
        network.keep_log();
    }
    let (one, two) = (cluster.client(1).await, cluster.client(2).await);
    let works = async {
        tokio::join!(
            work(one.clone(), rng("work 1"), network.clone(), 1, 60),
            work(two, rng("work 2"), network.clone(), 2, 60)
        )
    };
    let ((first, second), ()) = tokio::join!(works, faults(&mut cluster, rng("faults")));
    tokio::time::sleep(Duration::from_secs(5)).await;
    if let Some(log) = log {
        std::fs::write(log, network.log().join("\n")).unwrap();
    }
    judge(&one, &[first, second]).await;
    network.trace()
}

async fn judge(client: &Client, models: &[Model]) {
    let all = GetOptions { r: Some(Consistency::All), timeout: Some(Duration::from_secs(30)) };
    for number in 0..5 {
        let key = format!("key{number}");
        let found = client.get_with(key.clone(), all.clone()).await.unwrap();
        let values: Vec<String> =
            found.siblings.iter().map(|sibling| String::from_utf8(sibling.value.to_vec()).unwrap()).collect();
        let unique: BTreeSet<&String> = values.iter().collect();
        assert_eq!(unique.len(), values.len(), "a value is its own sibling: {values:?}");
        for value in &values {
            assert!(models.iter().any(|model| model.attempted.contains(value)), "{value} was never written");
        }
        // What one client must find again, the other may have superseded after reading it.
        for (at, model) in models.iter().enumerate() {
            let other = &models[1 - at];
            for survivor in model.must_survive.get(&key).into_iter().flatten() {
                let seen_by_other = other.dots.iter().any(|((of, _), value)| *of == key && value == survivor);
                assert!(seen_by_other || values.contains(survivor), "{key}: {survivor:?} was lost, found {values:?}");
            }
        }
    }
}

#[test]
fn a_cluster_stores_and_reads_and_one_seed_gives_one_trace() {
    let run = |seed| simulate(seed, 0.1, scenario);
    let (first, second) = (run(7), run(7));
    assert_eq!(first, second, "seed 7: the runs differ");
    assert_ne!(first, run(8), "the seed decides nothing");
}

/// A judge that cannot find anything proves nothing.
#[test]
#[should_panic(expected = "was lost")]
fn the_judge_finds_a_write_that_was_lost() {
    simulate(1, 0.1, |simulation| async move {
        let cluster = Cluster::start(simulation.clone(), Conditions::default(), 3).await;
        let client = cluster.client(1).await;
        let mut model = work(client.clone(), simulation.rng("work"), cluster.network.clone(), 1, 20).await;
        let acknowledged: usize = model.must_survive.values().map(BTreeSet::len).sum();
        assert!(acknowledged > 0, "nothing was written");
        model.must_survive.entry("key0".to_owned()).or_default().insert("never written".to_owned());
        judge(&client, &[model, Model::default()]).await;
    });
}

/// `SIM_SEED=7 cargo test --release --test sim seed_from_environment -- --exact --nocapture` runs one seed. `SIM_LOG=FILE` writes
/// every packet and event to a file, so that two runs that differ can be compared.
#[test]
fn seed_from_environment() {
    let seed = std::env::var("SIM_SEED").map_or(1, |text| text.parse().expect("SIM_SEED is a number"));
    println!("trace {:016x}", simulate(seed, 0.1, scenario));
}

/// `SIM_SEEDS` sets how many.
#[test]
fn nothing_acknowledged_is_lost_over_many_seeds() {
    let seeds: u64 = std::env::var("SIM_SEEDS").map_or(20, |text| text.parse().expect("SIM_SEEDS is a number"));
    for seed in 100..100 + seeds {
        simulate(seed, 0.1, scenario);
    }
}
