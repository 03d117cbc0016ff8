//! The client under faults and under pressure, on a cluster of real processes: the longest operation while nodes are killed,
//! restarted and paused; many requests in flight from one task.
//!
//! `cargo bench --bench faults -- DIR`, where DIR is the folder of a `dynamomini dev` cluster, whose processes are killed and
//! started again. What it starts it ends.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    missing_docs
)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dynamomini::client::{Client, ClientMetrics, Hedging, PutOptions};
use dynamomini::net::{TlsFiles, TlsMaterial};
use futures_util::StreamExt;
use futures_util::future::Either;
use futures_util::future::select;
use futures_util::stream;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

#[path = "../tests/support/steady.rs"]
mod steady;

use steady::{Phases, Report, Steady};

/// Requests of each phase.
const REQUESTS: usize = 10_000;

struct Node {
    pid: u32,
    config: PathBuf,
    child: Option<Child>,
}

struct Cluster {
    nodes: Vec<Node>,
    addresses: Vec<String>,
    tls: TlsFiles,
}

impl Cluster {
    fn of(dir: &Path) -> Self {
        let bytes = std::fs::read(dir.join("cluster.json")).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let client: toml::Table = std::fs::read_to_string(dir.join("client.toml")).unwrap().parse().unwrap();
        let file = |name: &str| dir.join(client["tls"][name].as_str().unwrap());
        let nodes = json["nodes"].as_array().unwrap();
        let node = |node: &serde_json::Value| Node {
            pid: node["pid"].as_u64().unwrap() as u32,
            config: node["config"].as_str().unwrap().into(),
            child: None,
        };
        Self {
            addresses: nodes.iter().map(|node| node["quic"].as_str().unwrap().to_owned()).collect(),
            nodes: nodes.iter().map(node).collect(),
            tls: TlsFiles { ca: file("ca"), cert: file("cert"), key: file("key") },
        }
    }

    async fn client(&self, hedging: Option<Hedging>) -> Client {
        let builder = Client::builder(TlsMaterial::load(&self.tls).unwrap()).hedging(hedging);
        self.addresses.iter().fold(builder, |builder, address| builder.node(address)).connect().await.unwrap()
    }

    fn send(&self, node: usize, signal: Signal) {
        kill_process(Pid::from_raw(i32::try_from(self.nodes[node].pid).unwrap()).unwrap(), signal).unwrap();
    }

    fn kill(&mut self, node: usize) {
        self.send(node, Signal::KILL);
        if let Some(mut child) = self.nodes[node].child.take() {
            child.wait().unwrap();
        }
    }

    fn restart(&mut self, node: usize) {
        let program = std::env::var("DYNAMOMINI").expect("DYNAMOMINI names the program");
        let mut command = Command::new(program);
        command.arg("node").arg("--config").arg(&self.nodes[node].config);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        self.nodes[node].pid = child.id();
        self.nodes[node].child = Some(child);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().filter_map(|node| node.child.as_mut()) {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

fn show(name: &str, (report, phases): (&Report, &Phases), before: &ClientMetrics, after: &ClientMetrics) {
    let ms = |latency: Duration| latency.as_secs_f64() * 1_000.0;
    let ((longest, due), at) = (report.longest, |share| ms(report.per_mille(share)));
    println!(
        "{name:24} {} requests, {} errors, {} wrong; p50 {:.2} p99 {:.2} p99.9 {:.2} max {:.1} ms (due at {:.1} s); {} attempts, {} hedges, {} failovers, {} retries, {} denied",
        report.latencies.len(),
        report.errors.len(),
        report.wrong.len(),
        at(500),
        at(990),
        at(999),
        ms(longest),
        due.as_secs_f64(),
        after.attempts - before.attempts,
        after.hedges - before.hedges,
        after.failovers - before.failovers,
        after.retries - before.retries,
        after.hedges_denied + after.retries_denied - before.hedges_denied - before.retries_denied,
    );
    println!("{:24} longest: {}", "", report.longest_by_phase(phases));
    for text in report.errors.iter().chain(&report.wrong).take(3) {
        println!("    {text}");
    }
}

/// The steady load beside some faults.
async fn beside(name: &str, client: &Client, per_second: u32, faults: impl AsyncFnOnce(&mut Phases)) {
    let before = client.metrics();
    let load = Steady { requests: REQUESTS, per_second, keys: 2_000 };
    let mut phases = Phases::new();
    let report = {
        let faults = std::pin::pin!(faults(&mut phases));
        let load = std::pin::pin!(steady::run(client, load, name));
        match select(load, faults).await {
            Either::Left((report, _)) => report,
            Either::Right(((), load)) => load.await,
        }
    };
    show(name, (&report, &phases), &before, &client.metrics());
}

/// Stops each node in turn for 50 ms, every 300 ms, until the load is over.
async fn stalls(cluster: &Cluster) {
    for node in (0..cluster.nodes.len()).cycle() {
        sleep(Duration::from_millis(250)).await;
        cluster.send(node, Signal::STOP);
        sleep(Duration::from_millis(50)).await;
        cluster.send(node, Signal::CONT);
    }
}

/// The same load with and without hedging, while nodes stall now and then.
async fn hedging(cluster: &Cluster, rate: u32) {
    for (name, hedging) in [("stalls, hedged", Some(Hedging::default())), ("stalls, not hedged", None)] {
        let client = cluster.client(hedging).await;
        // A load that was over in the middle of a stall must not leave a node stopped.
        beside(name, &client, rate, async |_: &mut Phases| stalls(cluster).await).await;
        (0..cluster.nodes.len()).for_each(|node| cluster.send(node, Signal::CONT));
        client.close().await;
    }
}

/// Memory of this process, in MiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// User and system CPU seconds of this process.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// Many requests in flight from one task.
async fn many(name: &str, client: &Client, in_flight: usize, total: usize, put: bool) {
    let (before, resident, began, busy) = (client.metrics(), memory(), Instant::now(), cpu());
    let mut peak = 0;
    let value = bytes::Bytes::from(vec![b'x'; 100]);
    let requests = stream::iter(0..total).map(|number| {
        let (key, value) = (format!("many/{}", number % 50_000), value.clone());
        async move {
            if put {
                let options = PutOptions { timeout: Some(Duration::from_secs(60)), ..PutOptions::default() };
                client.in_namespace("default".parse().unwrap()).delete(key.clone(), options.clone()).await.map(drop)?;
                client.put(key, value, options).await.map(drop)
            } else {
                client.get(key).await.map(drop)
            }
        }
    });
    let mut requests = std::pin::pin!(requests.buffer_unordered(in_flight));
    let (mut done, mut errors) = (0_u64, 0);
    while let Some(outcome) = requests.next().await {
        done += 1;
        errors += u64::from(outcome.is_err());
        if done.is_multiple_of(5_000) {
            peak = peak.max(memory());
        }
    }
    let (after, took) = (client.metrics(), began.elapsed().as_secs_f64());
    let operations = (done * if put { 2 } else { 1 }) as f64;
    println!(
        "{name:24} {in_flight} in flight: {:.0} op/s, {errors} errors, {:.2} µs client CPU/op, packets/op {:.3} sent {:.3} received, memory {resident} -> {peak} MiB, {} hedges, {} denied",
        operations / took,
        (cpu() - busy) / operations * 1e6,
        (after.packets_sent - before.packets_sent) as f64 / operations,
        (after.packets_received - before.packets_received) as f64 / operations,
        after.hedges - before.hedges,
        after.hedges_denied - before.hedges_denied,
    );
}

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let mut cluster = Cluster::of(Path::new(args.first().map_or(".dynamomini", String::as_str)));
    let rate = args.get(1).map_or(500, |text| text.parse().unwrap());
    let client = cluster.client(Some(Hedging::default())).await;
    let wait = |seconds| sleep(Duration::from_secs(seconds));
    beside("calm", &client, rate, async |_: &mut Phases| {}).await;
    for node in 0..3 {
        beside(&format!("kill -9 n{}, restart", node + 1), &client, rate, async |phases: &mut Phases| {
            wait(4).await;
            phases.begin("killed");
            cluster.kill(node);
            wait(6).await;
            phases.begin("restarted");
            cluster.restart(node);
        })
        .await;
        wait(2).await;
    }
    beside("stop and continue n3", &client, rate, async |phases: &mut Phases| {
        for seconds in [1, 4] {
            wait(2).await;
            phases.begin(format!("stopped for {seconds} s"));
            cluster.send(2, Signal::STOP);
            wait(seconds).await;
            phases.begin("continued");
            cluster.send(2, Signal::CONT);
        }
    })
    .await;
    hedging(&cluster, rate).await;
    wait(2).await;
    many("puts and deletes", &client, 10_000, 50_000, true).await;
    many("gets", &client, 10_000, 200_000, false).await;
    many("gets", &client, 64, 50_000, false).await;
    client.close().await;
}
