//! CPU time of the nodes per put and per get: three nodes with the memory engine in this process, on a thread of their own.
//!
//! `cargo bench --bench ops -- [put|get] [OPERATIONS] [IN_FLIGHT]` does so many operations on 1 KiB values of 1000 keys. What is
//! counted is the time of the nodes' thread; the client has another. With `--wait` it says when it is ready and waits for a
//! line, so that an instrument can be started that counts instructions:
//! `valgrind --tool=callgrind --separate-threads=yes --instr-atstart=no`, then `callgrind_control --instr=on`.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used, missing_docs)]

#[path = "../tests/support/certs.rs"]
mod certs;

use std::net::UdpSocket;
use std::time::Duration;

use bytes::Bytes;
use dynamomini::client::Client;
use dynamomini::client::PutOptions;
use dynamomini::env::Env;
use dynamomini::layout::Layout;
use dynamomini::net::BindConfig;
use dynamomini::net::Endpoint;
use dynamomini::net::EndpointKeys;
use dynamomini::net::LinkSettings;
use dynamomini::net::PemFile;
use dynamomini::net::Socket;
use dynamomini::net::TlsMaterial;
use dynamomini::net::TransportSettings;
use dynamomini::net::tls::ring_provider;
use dynamomini::node::Bounds;
use dynamomini::node::Node;
use dynamomini::node::Oversight;
use dynamomini::node::OwnershipParts;
use dynamomini::node::Parts;
use dynamomini::node::Timeouts;
use dynamomini::store::Engine;
use dynamomini::store::StoreConfig;
use dynamomini::store::StoreIdentity;
use dynamomini::types::ClusterName;
use dynamomini::types::ConflictPolicy;
use dynamomini::types::Namespace;
use dynamomini::types::NamespacePolicy;
use dynamomini::types::NodeName;
use dynamomini::types::Partitions;
use dynamomini::types::Zone;
use dynamomini::wire::rpc::ClusterInfo;
use dynamomini::wire::rpc::MemberInfo;

use crate::certs::Authority;

const KEYS: u64 = 1_000;
const VALUE: usize = 1_024;
/// Nothing is to be given up while an instrument slows everything down.
const PATIENCE: Duration = Duration::from_secs(300);
/// What the nodes' thread is called.
const THREAD: &str = "nodes";

/// CPU time of the threads of the nodes, in microseconds.
fn spent() -> u64 {
    let mut total = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path();
        if std::fs::read_to_string(path.join("comm")).unwrap_or_default().trim_end() == THREAD {
            let stat = std::fs::read_to_string(path.join("schedstat")).unwrap();
            total += stat.split(' ').next().unwrap().parse::<u64>().unwrap() / 1_000;
        }
    }
    total
}

fn material(authority: &Authority, uri: &str) -> TlsMaterial {
    let issued = authority.issue(&[uri]);
    let chain = PemFile { name: "chain", bytes: issued.chain.as_bytes() };
    let key = PemFile { name: "key", bytes: issued.key.as_bytes() };
    let roots = PemFile { name: "roots", bytes: authority.root.as_bytes() };
    TlsMaterial::from_pem(chain, key, roots, &ring_provider()).unwrap()
}

async fn node(authority: &Authority, info: &ClusterInfo, socket: UdpSocket, name: &NodeName) -> (Node, Env) {
    let env = Env::real();
    let identity = StoreIdentity { cluster: info.cluster.clone(), node: name.clone(), buckets: info.partitions };
    let at = socket.local_addr().unwrap();
    drop(socket);
    let bind = BindConfig {
        socket: Socket::Address(at),
        material: material(authority, &format!("dynamomini://node/{name}")),
        provider: ring_provider(),
        keys: EndpointKeys::generate(&env),
        settings: TransportSettings::default(),
    };
    let parts = Parts {
        cluster: ClusterInfo { node: name.clone(), ..info.clone() },
        engine: Engine::open(&StoreConfig::Memory, &identity, &env).await.unwrap().0,
        endpoint: Endpoint::bind(bind, &env).unwrap(),
        links: LinkSettings::default(),
        timeouts: Timeouts { replica: PATIENCE, hedge: PATIENCE, ..Timeouts::default() },
        bounds: Bounds::CLIENTS,
        clock_drift: Duration::from_secs(60),
        trees: None,
        ownership: OwnershipParts::default(),
        gossip: None,
        oversight: Oversight { slow: Some(PATIENCE), ..Oversight::default() },
    };
    (Node::start(parts, &env).await.unwrap(), env)
}

/// Starts the nodes, and returns them with the addresses they have.
async fn start(authority: &Authority) -> (Vec<(Node, Env)>, Vec<String>) {
    let sockets: Vec<UdpSocket> = (0..3).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<String> = sockets.iter().map(|socket| socket.local_addr().unwrap().to_string()).collect();
    let names: Vec<NodeName> = (1..=3).map(|number| NodeName::new(format!("n{number}")).unwrap()).collect();
    let member = |(name, quic): (&NodeName, &String)| MemberInfo {
        name: name.clone(),
        quic: quic.clone(),
        zone: Zone::new("z").unwrap(),
        weight: 100,
    };
    // Without a context each put would add a sibling.
    let policy = NamespacePolicy { conflict: ConflictPolicy::LastWriteWins, ..NamespacePolicy::default() };
    let info = ClusterInfo {
        cluster: ClusterName::new("ops").unwrap(),
        partitions: Partitions::new(64).unwrap(),
        members: names.iter().zip(&addresses).map(member).collect(),
        namespaces: vec![(Namespace::new("default").unwrap(), policy)],
        node: names[0].clone(),
        layout: Layout::default(),
    }
    .founding();
    let mut nodes = Vec::new();
    for (name, socket) in names.iter().zip(sockets) {
        nodes.push(node(authority, &info, socket, name).await);
    }
    (nodes, addresses)
}

async fn work(client: &Client, put: bool, operations: u64, in_flight: u64) {
    let tasks = (0..in_flight).map(|task| async move {
        let value = Bytes::from(vec![b'x'; VALUE]);
        for at in (task..operations).step_by(usize::try_from(in_flight).unwrap()) {
            // Neighbours in time are no neighbours among the keys.
            let key = format!("key:{:012}", at.wrapping_mul(0x9e37_79b9) % KEYS);
            match put {
                true => drop(client.put(key, value.clone(), PutOptions::default()).await.unwrap()),
                false => drop(client.get(key).await.unwrap()),
            }
        }
    });
    futures_util::future::join_all(tasks).await;
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let wait = args.iter().any(|arg| arg == "--wait");
    let args: Vec<&String> = args.iter().filter(|arg| !arg.starts_with("--")).collect();
    let number = |at: usize, default: u64| args.get(at).map_or(default, |text| text.parse().unwrap());
    let kind = args.first().map_or("both", |kind| kind.as_str());
    let (operations, in_flight) = (number(1, 20_000), number(2, 64));

    let authority = Authority::new("the authority");
    let runtime = |name: &str| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build().unwrap()
    };
    let (server, own) = (runtime(THREAD), runtime("client"));
    let (nodes, addresses) = server.block_on(async { start(&authority).await });
    let client = own.block_on(async {
        let builder = Client::builder(material(&authority, "dynamomini://admin/bench")).timeout(PATIENCE);
        let builder = addresses.iter().fold(builder, |builder, address| builder.node(address));
        builder.connect().await.unwrap()
    });
    own.block_on(async {
        work(&client, true, KEYS, in_flight).await;
        work(&client, false, KEYS, in_flight).await;
    });
    if wait {
        println!("ready");
        std::io::stdin().read_line(&mut String::new()).unwrap();
    }
    for (name, put) in [("put", true), ("get", false)] {
        if kind != name && kind != "both" {
            continue;
        }
        let before = spent();
        own.block_on(work(&client, put, operations, in_flight));
        let micros = spent() - before;
        println!(
            "{name}: {operations} in {micros} us CPU, {}.{:02} us each",
            micros / operations,
            micros * 100 / operations % 100
        );
    }
    if wait {
        println!("done");
        std::io::stdin().read_line(&mut String::new()).unwrap();
    }
    drop(nodes);
}
