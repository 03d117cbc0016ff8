//! What requests take while data moves: a steady load on a cluster of real processes before, during and after a change of
//! owners, which the program itself is asked for.
//!
//! `DYNAMOMINI=PROGRAM cargo bench --bench moving -- DIR RATE CHANGE…`, where DIR is the folder of a `dynamomini dev` cluster,
//! filled beforehand (`dynamomini bench load`), RATE the requests a second (0 for none), and CHANGE as `dynamomini cluster`
//! takes it, such as `leave n2`; `add` is `dynamomini dev add`.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, missing_docs)]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use dynamomini::client::Client;
use dynamomini::net::{TlsFiles, TlsMaterial};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

#[allow(dead_code, reason = "tests and the other benches use the rest of it")]
#[path = "../tests/support/steady.rs"]
mod steady;

use steady::{Phases, Steady};

/// For how long requests are watched before the change, and after it.
const BEFORE: Duration = Duration::from_secs(20);
const AFTER: Duration = Duration::from_secs(10);

async fn client(dir: &Path) -> Client {
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    let cluster: serde_json::Value = serde_json::from_str(&read("cluster.json")).unwrap();
    let config: toml::Table = read("client.toml").parse().unwrap();
    let file = |name: &str| dir.join(config["tls"][name].as_str().unwrap());
    let tls = TlsFiles { ca: file("ca"), cert: file("cert"), key: file("key") };
    let builder = Client::builder(TlsMaterial::load(&tls).unwrap());
    let addresses = cluster["nodes"].as_array().unwrap().iter().map(|node| node["quic"].as_str().unwrap());
    addresses.fold(builder, |builder, address| builder.node(address)).connect().await.unwrap()
}

/// Runs the program, and gives what it printed.
async fn program(dir: &Path, words: &[&str]) -> String {
    let mut command = Command::new(std::env::var("DYNAMOMINI").expect("DYNAMOMINI names the program"));
    command.args(words).stderr(Stdio::inherit());
    if words[0] != "dev" {
        command.arg("--config").arg(dir.join("client.toml"));
    }
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout).unwrap()
}

/// Has owners change, and waits until that is settled.
async fn change(dir: &Path, change: &[String]) {
    let mut words: Vec<&str> = change.iter().map(String::as_str).collect();
    if words == ["add"] {
        program(dir, &["dev", "add", "--dir", dir.to_str().unwrap()]).await;
    } else {
        words.insert(0, "cluster");
        words.extend(["--yes", "--wait"]);
        program(dir, &words).await;
    }
}

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let (dir, per_second, wish) = (Path::new(&args[0]), args[1].parse().unwrap(), &args[2..]);
    if per_second == 0 {
        let began = Instant::now();
        change(dir, wish).await;
        println!("without requests: settled after {:.1} s", began.elapsed().as_secs_f64());
        return println!("{}", program(dir, &["tasks", "list"]).await);
    }
    let client = client(dir).await;
    let mut phases = Phases::new();
    let load = Steady { requests: usize::MAX, per_second, keys: 2_000 };
    let events = async {
        sleep(BEFORE).await;
        phases.begin("moving");
        change(dir, wish).await;
        phases.begin("after");
        sleep(AFTER).await;
    };
    let report = steady::run_until(&client, load, "moving", events).await;
    let ms = |latency: Duration| latency.as_secs_f64() * 1_000.0;
    println!("{} requests, {} errors, {} wrong", report.latencies.len(), report.errors.len(), report.wrong.len());
    for (name, latencies) in report.by_phase(&phases) {
        let at = |share: usize| ms(latencies[(latencies.len() - 1) * share / 1_000]);
        let seconds = latencies.len() as f64 / f64::from(per_second);
        println!(
            "{name:8} {seconds:6.1} s: p50 {:.2} p99 {:.2} p99.9 {:.2} longest {:.1} ms",
            at(500),
            at(990),
            at(999),
            at(1_000)
        );
    }
    println!("{}", program(dir, &["tasks", "list"]).await);
    client.close().await;
}
