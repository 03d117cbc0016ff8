//! The transport alone: a client and a node that echoes, over a bad network, with a crash.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BufMut;
use bytes::Bytes;
use dynamomini::env::Env;
use dynamomini::net::BindConfig;
use dynamomini::net::Endpoint;
use dynamomini::net::EndpointKeys;
use dynamomini::net::Expect;
use dynamomini::net::Handler;
use dynamomini::net::Incoming;
use dynamomini::net::Link;
use dynamomini::net::LinkSettings;
use dynamomini::net::PemFile;
use dynamomini::net::Socket;
use dynamomini::net::TlsMaterial;
use dynamomini::net::TransportSettings;

use crate::certs::Authority;
use crate::network::Conditions;
use crate::network::Network;
use crate::provider::provider;
use crate::world::SimWorld;
use crate::world::Simulation;
use crate::world::simulate;

#[derive(Clone)]
struct Echo;

impl Handler for Echo {
    async fn handle(&self, request: Incoming) -> Bytes {
        tokio::time::sleep(Duration::from_millis(1)).await;
        request.body
    }
}

/// One process: its world, its address, its endpoint.
struct Process {
    world: Arc<SimWorld>,
    env: Env,
    address: SocketAddr,
    endpoint: Endpoint,
}

/// Starts a life of a process at an address; its keys outlive it.
fn start(simulation: &Simulation, network: &Network, uri: &str, incarnation: u32) -> Process {
    let node = uri.starts_with("dynamomini://node");
    let address: SocketAddr = if node { "10.0.0.1:1" } else { "10.0.0.2:1" }.parse().unwrap();
    let authority = Authority::new("simulated");
    let issued = authority.issue(&[uri]);
    let provider = provider(simulation.derive(&format!("{uri}/{incarnation}/tls")));
    let file = |bytes| PemFile { name: "memory", bytes };
    let (chain, key) = (file(issued.chain.as_bytes()), file(issued.key.as_bytes()));
    let material = TlsMaterial::from_pem(chain, key, file(authority.root.as_bytes()), &provider).unwrap();
    // Kept on disk by a real node: the same in every life.
    let keys = EndpointKeys::generate(&simulation.world(uri, 0).env());
    let world = simulation.world(uri, incarnation);
    let env = world.env();
    let socket = Socket::Abstract(network.socket(address));
    let settings = TransportSettings::default();
    let endpoint = Endpoint::bind(BindConfig { socket, material, provider, keys, settings }, &env).unwrap();
    if node {
        endpoint.serve(Echo);
    }
    Process { world, env, address, endpoint }
}

/// What one run came to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    trace: u64,
    answered: u32,
    failed: u32,
    log: Vec<String>,
}

/// A hundred requests over a bad network; the node is killed and comes back in the middle.
async fn scenario(simulation: Simulation) -> Outcome {
    let bad = Conditions {
        latency: Duration::from_millis(10),
        jitter: Duration::from_millis(5),
        loss: 0.05,
        duplication: 0.02,
        reordering: 0.02,
        blocked: false,
    };
    let network = Network::new(&simulation, bad);
    network.keep_log();
    let server = start(&simulation, &network, "dynamomini://node/n1", 1);
    let client = start(&simulation, &network, "dynamomini://client/c", 1);
    let expect = Expect::Node("n1".parse().unwrap());
    let addresses = vec![server.address.to_string()];
    let link = Link::new(&client.endpoint, expect, addresses, LinkSettings::default(), &client.env);
    let (mut answered, mut failed) = (0, 0);
    let mut server = Some(server);
    for number in 0..100u32 {
        if number == 50 {
            crash(&network, server.take().unwrap());
            tokio::time::sleep(Duration::from_millis(200)).await;
            server = Some(start(&simulation, &network, "dynamomini://node/n1", 2));
        }
        match link.request(Duration::from_secs(2), |buffer| buffer.put_u32(number)).await {
            Ok(reply) => {
                assert_eq!(reply, number.to_be_bytes().as_slice());
                answered += 1;
            }
            Err(error) => {
                network.event(&error.to_string());
                failed += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        network.event(&format!("request {number} done"));
    }
    assert_eq!(client.endpoint.counters().reconnects.get(), 1);
    Outcome { trace: network.trace(), answered, failed, log: network.log() }
}

/// A large request that is given up while the path is cut; the bytes of requests that the node got once the path was whole again.
async fn given_up(simulation: Simulation) -> (String, u64) {
    let network = Network::new(&simulation, Conditions::default());
    let server = start(&simulation, &network, "dynamomini://node/n1", 1);
    let client = start(&simulation, &network, "dynamomini://client/c", 1);
    let expect = Expect::Node("n1".parse().unwrap());
    let addresses = vec![server.address.to_string()];
    let link = Link::new(&client.endpoint, expect, addresses, LinkSettings::default(), &client.env);
    let (second, large) = (Duration::from_secs(1), Bytes::from(vec![7; 500_000]));
    assert_eq!(link.request_in_bulk(second, large.clone()).await.unwrap(), large);
    let got = || server.endpoint.counters().bytes_received.get();
    let before = got();
    let (one, other) = (server.address.ip(), client.address.ip());
    network.set_both(one, other, |path| path.blocked = true);
    let error = link.request_in_bulk(second, large).await.unwrap_err();
    network.set_both(one, other, |path| path.blocked = false);
    tokio::time::sleep(second * 30).await;
    assert!(link.request(second, |buffer| buffer.put_u8(1)).await.is_ok(), "the connection is as it was");
    (error.to_string(), got() - before)
}

#[test]
fn a_large_request_that_nobody_waits_for_any_more_is_not_sent_to_its_end() {
    let (error, got) = simulate(1, 0.1, given_up);
    assert!(error.contains("no reply came before the deadline"), "{error}");
    assert!(got < 100, "{got} bytes came after the deadline");
}

/// Power cut: first nothing can be sent any more, then everything is gone.
fn crash(network: &Network, process: Process) {
    network.close(process.address);
    process.world.crash();
}

#[test]
fn one_seed_gives_one_trace_down_to_the_last_byte() {
    let (first, second) = (simulate(7, 0.1, scenario), simulate(7, 0.1, scenario));
    for (line, (one, other)) in first.log.iter().zip(&second.log).enumerate() {
        assert_eq!(one, other, "the runs part at event {line}");
    }
    assert_eq!(first, second);
    println!("trace {:016x}", first.trace);
    let other = simulate(8, 0.1, scenario);
    assert_ne!(first.trace, other.trace, "the seed decides nothing");
}

#[test]
fn a_restarted_node_costs_few_requests_over_a_bad_network() {
    for seed in 1..=5 {
        let outcome = simulate(seed, 0.0, scenario);
        assert!(outcome.answered >= 90 && outcome.failed >= 1, "seed {seed}: {} answered", outcome.answered);
    }
}

#[test]
fn a_cut_in_one_direction_stops_replies_and_heals() {
    simulate(3, 0.0, |simulation| async move {
        let network = Network::new(&simulation, Conditions::default());
        let server = start(&simulation, &network, "dynamomini://node/n1", 1);
        let client = start(&simulation, &network, "dynamomini://client/c", 1);
        let connection = client.endpoint.connect(server.address, &Expect::AnyNode, 1).await.unwrap();
        let ask = || connection.request(Duration::from_millis(500), |buffer| buffer.put_u8(1));
        ask().await.unwrap();
        network.set(server.address.ip(), client.address.ip(), |link| link.blocked = true);
        assert!(!ask().await.unwrap_err().surely_not_executed(), "the request went out");
        network.set(server.address.ip(), client.address.ip(), |link| link.blocked = false);
        ask().await.unwrap();
        assert!(network.log().is_empty());
    });
}

#[test]
fn a_small_request_overtakes_a_large_one_on_a_far_link() {
    simulate(3, 0.0, |simulation| async move {
        let latency = Duration::from_millis(20);
        let network = Network::new(&simulation, Conditions { latency, ..Conditions::default() });
        let server = start(&simulation, &network, "dynamomini://node/n1", 1);
        let client = start(&simulation, &network, "dynamomini://client/c", 1);
        let connection = client.endpoint.connect(server.address, &Expect::AnyNode, 1).await.unwrap();
        let patience = Duration::from_secs(60);
        let large = connection.request_bytes(patience, vec![1; 4_000_000].into());
        let small = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let before = simulation.elapsed();
            connection.request(patience, |buffer| buffer.put_u8(1)).await.unwrap();
            simulation.elapsed() - before
        };
        tokio::pin!(large);
        let took =
            tokio::select! { biased; _ = &mut large => panic!("the large request came first"), took = small => took };
        assert!(took < 4 * latency, "the small request waited {took:?} behind the large one");
        assert_eq!(large.await.unwrap().len(), 4_000_000);
    });
}

#[test]
fn clocks_of_processes_can_differ() {
    let difference = simulate(1, 0.0, |simulation| async move {
        let (right, wrong) = (simulation.world("a", 1), simulation.world("b", 1));
        wrong.skew(-60_000);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        right.env().wall_ms() - wrong.env().wall_ms()
    });
    assert_eq!(difference, 60_000);
}

#[test]
fn plain_datagrams_cross_the_network_too() {
    let received = simulate(1, 0.0, |simulation| async move {
        let network = Network::new(&simulation, Conditions::default());
        let (one, other) = ("10.0.0.1:9".parse().unwrap(), "10.0.0.2:9".parse().unwrap());
        let (sender, receiver) = (network.socket(one), network.socket(other));
        network.set_both(one.ip(), other.ip(), |link| link.latency = Duration::from_millis(7));
        sender.send(other, b"gossip");
        (receiver.receive().await, simulation.elapsed())
    });
    assert_eq!(received, (("10.0.0.1:9".parse().unwrap(), b"gossip".to_vec()), Duration::from_millis(7)));
}
