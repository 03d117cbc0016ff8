//! Closed-loop load on a running cluster: operations per second, latencies, and CPU of the node processes.
//!
//! `cargo bench --bench load -- DIR [IN_FLIGHT] [SECONDS] [VALUE_BYTES]`, where DIR is the folder of a `dynamomini dev` cluster
//! (its `cluster.json` and `client.toml`). Each of the in-flight tasks has one operation under way at a time. Puts name no
//! context: where siblings are kept, as by default, each adds one and records grow, so compare on a cluster of
//! `dynamomini dev -- --set namespaces.default.conflict=last-write-wins`.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    missing_docs
)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dynamomini::client::{Client, PutOptions};
use dynamomini::net::{TlsFiles, TlsMaterial, TransportSettings};

const KEYS: u64 = 100_000;
const TICKS_PER_SECOND: f64 = 100.0;

/// User and system CPU seconds of a process.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
    (ticks(11) + ticks(12)) / TICKS_PER_SECOND
}

struct Cluster {
    pids: Vec<u32>,
    redis: Vec<u32>,
    addresses: Vec<String>,
    tls: TlsFiles,
}

fn cluster(dir: &Path) -> Cluster {
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.join("cluster.json")).unwrap()).unwrap();
    let nodes = json["nodes"].as_array().unwrap();
    let client: toml::Table = std::fs::read_to_string(dir.join("client.toml")).unwrap().parse().unwrap();
    let file = |name: &str| dir.join(client["tls"][name].as_str().unwrap());
    Cluster {
        pids: nodes.iter().map(|node| node["pid"].as_u64().unwrap() as u32).collect(),
        redis: nodes.iter().filter_map(|node| Some(node["redis_pid"].as_u64()? as u32)).collect(),
        addresses: nodes.iter().map(|node| node["quic"].as_str().unwrap().to_owned()).collect(),
        tls: TlsFiles { ca: file("ca"), cert: file("cert"), key: file("key") },
    }
}

#[derive(Clone, Copy)]
enum Work {
    Put,
    Get,
}

async fn phase(name: &str, work: Work, client: &Client, cluster: &Cluster, tasks: u64, seconds: u64, size: usize) {
    let spent = |pids: &[u32]| pids.iter().map(|pid| cpu(*pid)).sum::<f64>();
    let before = (spent(&cluster.pids), spent(&cluster.redis));
    let own = cpu(std::process::id());
    let (done, errors) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    let mut handles = Vec::new();
    for task in 0..tasks {
        let (client, done, errors) = (client.clone(), done.clone(), errors.clone());
        handles.push(tokio::spawn(async move {
            let mut latencies = Vec::new();
            let mut state = task.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let value = bytes::Bytes::from(vec![b'x'; size]);
            while Instant::now() < end {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let key = format!("key:{:012}", state % KEYS);
                let began = Instant::now();
                let ok = match work {
                    Work::Put => client.put(key, value.clone(), PutOptions::default()).await.map(drop),
                    Work::Get => client.get(key).await.map(drop),
                };
                latencies.push(began.elapsed().as_micros() as u64);
                match ok {
                    Ok(()) => drop(done.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => {
                        if errors.fetch_add(1, Ordering::Relaxed) == 0 {
                            println!("first error: {error}");
                        }
                    }
                }
            }
            latencies
        }));
    }
    let mut latencies = Vec::new();
    for handle in handles {
        latencies.extend(handle.await.unwrap());
    }
    let elapsed = start.elapsed().as_secs_f64();
    let nodes = spent(&cluster.pids) - before.0;
    let redis = spent(&cluster.redis) - before.1;
    latencies.sort_unstable();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize] as f64 / 1000.0;
    let count = done.load(Ordering::Relaxed) as f64;
    println!(
        "{name:10} {:8.0} op/s  p50 {:6.2} p99 {:7.2} p99.9 {:7.2} max {:7.2} ms  server {:.4} CPU-s/1000 (redis {:.4})  client {:.4}  errors {}",
        count / elapsed,
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
        (nodes + redis) / count * 1000.0,
        redis / count * 1000.0,
        (cpu(std::process::id()) - own) / count * 1000.0,
        errors.load(Ordering::Relaxed),
    );
}

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let dir = args.first().map_or(".dynamomini", String::as_str);
    let number = |at: usize, default: u64| args.get(at).map_or(default, |text| text.parse().unwrap());
    let (tasks, seconds, size) = (number(1, 64), number(2, 5), number(3, 1024) as usize);
    let cluster = cluster(Path::new(dir));
    let mtu: u16 = std::env::var("MTU").map_or(1452, |text| text.parse().unwrap());
    let transport = TransportSettings { mtu_upper_bound: mtu, ..TransportSettings::default() };
    let mut builder = Client::builder(TlsMaterial::load(&cluster.tls).unwrap()).transport(transport);
    if let Ok(namespace) = std::env::var("NAMESPACE") {
        builder = builder.namespace(namespace.parse().unwrap());
    }
    for address in &cluster.addresses {
        builder = builder.node(address);
    }
    let client = builder.connect().await.unwrap();
    println!("{tasks} in flight, {size} B values, {KEYS} keys, {seconds} s a phase");
    phase("warm-up", Work::Put, &client, &cluster, tasks, 2, size).await;
    for _ in 0..2 {
        phase("put", Work::Put, &client, &cluster, tasks, seconds, size).await;
        phase("get", Work::Get, &client, &cluster, tasks, seconds, size).await;
    }
    client.close().await;
}
