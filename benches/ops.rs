//! CPU time of the nodes per put and per get: three nodes with the memory engine in this process, on a thread of their own.
//!
//! `cargo bench --bench ops -- [put|get] [OPERATIONS] [IN_FLIGHT]` does so many operations on 1 KiB values of 1000 keys. What is
//! counted is the time of the nodes' thread; the client has another. With `--wait` it says when it is ready and waits for a
//! line, so that an instrument can be started that counts instructions:
//! `valgrind --tool=callgrind --separate-threads=yes --instr-atstart=no`, then `callgrind_control --instr=on`.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used, missing_docs)]

mod nodes;

use bytes::Bytes;
use dynamomini::client::Client;
use dynamomini::client::PutOptions;
use dynamomini::store::StoreConfig;
use dynamomini::types::ConflictPolicy;
use dynamomini::types::NamespacePolicy;

use crate::nodes::Founded;
use crate::nodes::PATIENCE;

const KEYS: u64 = 1_000;
const VALUE: usize = 1_024;
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

    // Without a context each put would add a sibling.
    let policy = NamespacePolicy { conflict: ConflictPolicy::LastWriteWins, ..NamespacePolicy::default() };
    let cluster = Founded::new(3, 64, policy);
    let runtime = |name: &str| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build().unwrap()
    };
    let (server, own) = (runtime(THREAD), runtime("client"));
    let nodes = server.block_on(async {
        let mut nodes = Vec::new();
        for at in 0..3 {
            nodes.push(cluster.start(at, &StoreConfig::Memory, None).await);
        }
        nodes
    });
    let client = own.block_on(async {
        let builder = Client::builder(cluster.material("dynamomini://admin/bench")).timeout(PATIENCE);
        let builder = cluster.info.members.iter().fold(builder, |builder, member| builder.node(&member.quic));
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
