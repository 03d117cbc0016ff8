//! Nodes as they are watched: HTTP for Prometheus and for health checks, the log, `status --watch` and `top`.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpListener;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use dynamomini::client::PutOptions;
use dynamomini::limits;
use rustix::process::Signal;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::exposition;
use crate::exposition::Family;
use crate::inprocess;
use crate::processes::Cluster;
use crate::processes::complaint;
use crate::processes::eventually;
use crate::processes::run;
use crate::processes::send;

const README: &str = include_str!("../../README.md");
const PATIENCE: Duration = Duration::from_secs(60);

/// Status and body of what an admin listener answers. `None` when it does not answer.
async fn ask(address: &str, request: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.ok()?.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

pub(crate) async fn get(address: &str, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n");
    ask(address, &request).await.unwrap_or_else(|| panic!("no answer to {path}"))
}

async fn metrics(address: &str) -> BTreeMap<String, Family> {
    let (status, text) = get(address, "/metrics").await;
    assert_eq!(status, 200, "{text}");
    exposition::parse(&text)
}

fn log(cluster: &Cluster, node: usize) -> String {
    std::fs::read_to_string(cluster.dir().join(cluster.text(node, "id")).join("node.log")).unwrap()
}

/// Lets Prometheus' own checker read it, where that is installed.
fn promtool(text: &str) {
    let checker =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut checker) = checker else {
        eprintln!("########## promtool is not installed: only the checks of this test were made ##########");
        return;
    };
    checker.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let said = checker.wait_with_output().unwrap();
    assert!(said.status.success() && said.stderr.is_empty(), "promtool: {}", complaint(&said));
}

#[tokio::test]
async fn a_node_tells_prometheus_and_health_checks_what_it_does_and_what_it_lacks() {
    let mut cluster = Cluster::start(&["--storage", "memory"]).await;
    let address = cluster.text(0, "admin").to_owned();
    assert_eq!(get(&address, "/health/live").await, (200, "{\"live\":true}\n".to_owned()));
    assert_eq!(get(&address, "/health/ready").await, (200, "{\"ready\":true,\"reasons\":[]}\n".to_owned()));
    assert!(get(&address, "/").await.1.contains("/metrics"));
    assert_eq!(get(&address, "/log").await, (200, "info\n".to_owned()));
    assert_eq!(get(&address, "/nothing").await.0, 404);
    let status: Value = serde_json::from_str(&get(&address, "/status").await.1).unwrap();
    assert_eq!((status["id"].as_str(), status["pid"].as_u64()), (Some("n1"), cluster.nodes[0]["pid"].as_u64()));

    let client = cluster.pinned(0).await;
    for number in 0..20 {
        client.put(format!("k{number}"), "v", PutOptions::default()).await.unwrap();
        client.get(format!("k{number}")).await.unwrap();
    }
    let families = metrics(&address).await;
    let value = |family: &str, series: &str| families[family].samples[&format!("{family}{series}")];
    for kind in ["put", "get"] {
        assert_eq!(value("dynamomini_requests_total", &format!("{{kind=\"{kind}\",outcome=\"ok\"}}")), 20.0);
        let took = &families["dynamomini_request_duration_seconds"].samples;
        assert_eq!(took[&format!("dynamomini_request_duration_seconds_count{{kind=\"{kind}\"}}")], 20.0);
    }
    assert_eq!(value("dynamomini_ready", ""), 1.0);
    assert_eq!(value("dynamomini_peer_up", "{peer=\"n2\"}"), 1.0);
    let writes = &families["dynamomini_storage_duration_seconds"].samples;
    assert!(writes["dynamomini_storage_duration_seconds_count{call=\"write\"}"] > 0.0);
    assert!(value("process_resident_memory_bytes", "") > 1e6);
    promtool(&get(&address, "/metrics").await.1);
    let series: usize = families.values().map(|family| family.samples.len()).sum();
    assert!(series < 2_000, "{series} series from one node of three");

    for node in [1, 2] {
        cluster.kill(node).await;
    }
    eventually("the node is not ready", async || get(&address, "/health/ready").await.0 == 503).await;
    let why: Value = serde_json::from_str(&get(&address, "/health/ready").await.1).unwrap();
    assert_eq!(why["ready"], false);
    eventually("both are missed", async || {
        let (_, text) = get(&address, "/health/ready").await;
        text.contains("lack a quorum of 2") && text.contains("n2") && text.contains("n3")
    })
    .await;
    assert_eq!(get(&address, "/health/live").await.0, 200, "it lives all the same");
    let config = cluster.client_config();
    let put = run(&["put", "--config", &config, "--node", "n1", "k", "v"]).await;
    assert!(complaint(&put).contains("(request "), "{}", complaint(&put));
    let failed = metrics(&address).await;
    assert!(
        failed["dynamomini_requests_total"]
            .samples
            .contains_key("dynamomini_requests_total{kind=\"put\",outcome=\"quorum_not_met\"}")
    );
    let status = run(&["status", "--config", &config]).await;
    assert!(String::from_utf8_lossy(&status.stdout).contains("not ready"), "{status:?}");
}

#[tokio::test]
async fn the_readme_lists_every_metric_there_is() {
    let cluster = Cluster::start(&["--storage", "memory"]).await;
    let families = metrics(cluster.text(0, "admin")).await;
    let rows = README.lines().filter(|line| line.starts_with("| `dynamomini_") || line.starts_with("| `process_"));
    let written: Vec<String> = rows.map(str::to_owned).collect();
    let row = |(name, family): (&String, &Family)| format!("| `{name}` | {} | {} |", family.kind, family.help);
    let expected: Vec<String> = families.iter().map(row).collect();
    assert_eq!(written, expected, "the table in README.md should be:\n{}", expected.join("\n"));
}

#[tokio::test]
async fn a_request_has_one_number_in_the_logs_of_all_nodes_and_the_log_changes_while_they_run() {
    let cluster = Cluster::start(&["--storage", "memory", "--", "--set", "log.slow_ms=1"]).await;
    let config = cluster.client_config();
    let put = async |key: &str| {
        let put = run(&["put", "--config", &config, "--node", "n1", key, "v"]).await;
        assert!(put.status.success(), "{}", complaint(&put));
    };
    put("before").await;
    assert!(!log(&cluster, 0).contains("request answered"));
    let filters = "info,dynamomini::node=debug";
    let set = run(&["log-level", "--config", &config, "--json", filters]).await;
    assert!(set.status.success(), "{}", complaint(&set));
    let answer: Value = serde_json::from_slice(&set.stdout).unwrap();
    assert_eq!(answer["nodes"].as_array().unwrap().len(), 3, "{answer}");
    assert!(get(cluster.text(2, "admin"), "/log").await.1.contains("dynamomini::node=debug"));
    put("while").await;
    let number = |line: &str| line.split("request=").nth(1).map(|rest| rest[..16].to_owned());
    let text = log(&cluster, 0);
    let line = text.lines().find(|line| line.contains("request answered") && line.contains("kind=\"put\"")).unwrap();
    let number = number(line).unwrap();
    for node in [1, 2] {
        eventually("the replicas logged the same number", async || {
            let text = log(&cluster, node);
            text.lines().any(|line| line.contains(&number) && line.contains("kind=\"apply\""))
        })
        .await;
    }
    let set = run(&["log-level", "--config", &config, "--node", "n1", "info"]).await;
    assert!(set.status.success(), "{}", complaint(&set));
    let answered = |text: &str| text.matches("request answered").count();
    let before = answered(&log(&cluster, 0));
    put("after").await;
    assert_eq!(answered(&log(&cluster, 0)), before, "n1 was told to be quiet again");
    let wrong = run(&["log-level", "--config", &config, "loud"]).await;
    assert_eq!(wrong.status.code(), Some(2), "{}", complaint(&wrong));

    // Two paused replicas make a put slow.
    [1, 2].into_iter().for_each(|node| send(cluster.pid(node, "pid"), Signal::STOP));
    let writing = put("slow");
    let resume = async {
        let mut seen = 0;
        // From one look to the next there is more than the millisecond from which on requests are slow.
        eventually("the put is under way for a while", async || {
            let families = metrics(cluster.text(0, "admin")).await;
            let busy = families["dynamomini_requests_in_flight"].samples["dynamomini_requests_in_flight"] > 0.0;
            seen = if busy { seen + 1 } else { 0 };
            seen > 1
        })
        .await;
        [1, 2].into_iter().for_each(|node| send(cluster.pid(node, "pid"), Signal::CONT));
    };
    tokio::join!(writing, resume);
    let text = log(&cluster, 0);
    let slow = text.lines().rfind(|line| line.contains("slow request") && line.contains("kind=\"put\"")).unwrap();
    assert!(slow.contains("put_quorum") && slow.contains("outcome=\"ok\""), "{slow}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_administrator_changes_the_log() {
    let cluster = inprocess::Cluster::start(inprocess::Setup::default()).await;
    let uris = ["dynamomini://client/app", "dynamomini://grant/*/*/"];
    let app = cluster.builder(&uris).connect().await.unwrap();
    let error = app.log_filters(&cluster.name(0), Some("trace".to_owned())).await.unwrap_err();
    assert!(error.to_string().contains("administrator's certificate"), "{error}");
    let admin = cluster.client().await;
    // Nodes in a test have no log of their own; they say so only to those who may ask.
    let error = admin.log_filters(&cluster.name(0), None).await.unwrap_err();
    assert!(error.to_string().contains("cannot be changed"), "{error}");
    let long = "a".repeat(limits::LOG_FILTER_MAX + 1);
    let error = admin.log_filters(&cluster.name(0), Some(long)).await.unwrap_err();
    assert!(error.to_string().contains("the limit is"), "{error}");
}

#[tokio::test]
async fn slow_and_senseless_http_clients_harm_neither_the_node_nor_the_others() {
    let cluster = Cluster::start(&["--nodes", "1", "--storage", "memory"]).await;
    let address = cluster.text(0, "admin").to_owned();
    for garbage in ["\0\u{1}\u{2}\r\n\r\n", "GET\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let answer = ask(&address, garbage).await;
        assert!(answer.is_none_or(|(status, _)| status >= 400), "{garbage:?}");
    }
    let headers = "x: y\r\n".repeat(limits::ADMIN_HEADERS_MAX + 1);
    let many = ask(&address, &format!("GET / HTTP/1.1\r\n{headers}\r\n")).await;
    assert!(many.is_none_or(|(status, _)| status == 431), "too many headers");
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(2 * limits::ADMIN_REQUEST_MAX));
    assert!(ask(&address, &long).await.is_none_or(|(status, _)| status >= 400), "too long a path");
    let (status, _) = ask(&address, "POST /log HTTP/1.1\r\nHost: n\r\nContent-Length: 5\r\n\r\ntrace").await.unwrap();
    assert_eq!(status, 405);

    // More than are served at once say nothing, or half of something.
    let mut idle = Vec::new();
    for number in 0..limits::ADMIN_CONNECTIONS_MAX + 20 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        if number % 2 == 0 {
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost:").await.unwrap();
        }
        idle.push(stream);
    }
    let client = cluster.client().await;
    client.put("k", "v", PutOptions::default()).await.unwrap();
    // They are thrown out in time, and whoever waits behind them is served.
    assert_eq!(get(&address, "/health/live").await.0, 200);
    let usage = client.status(&cluster.name(0)).await.unwrap().process.unwrap();
    let most = u64::try_from(limits::ADMIN_CONNECTIONS_MAX).unwrap() + 64;
    assert!(usage.open_files < most, "{usage:?}");
    drop(idle);
}

#[tokio::test]
async fn an_admin_port_in_use_is_named_and_the_node_does_not_start() {
    let mut cluster = Cluster::start(&["--nodes", "1", "--storage", "memory"]).await;
    cluster.kill(0).await;
    let address = cluster.text(0, "admin").to_owned();
    let taken = TcpListener::bind(&address).unwrap();
    let node = run(&["node", "--config", cluster.text(0, "config")]).await;
    assert!(!node.status.success());
    assert!(complaint(&node).contains(&address) && complaint(&node).contains("in use"), "{}", complaint(&node));
    drop(taken);
}

#[tokio::test]
async fn status_is_shown_again_and_again_and_top_shows_rates() {
    let mut cluster = Cluster::start(&["--storage", "memory"]).await;
    let config = cluster.client_config();
    let watched = run(&["status", "--config", &config, "--watch", "100ms", "--count", "3", "--json"]).await;
    assert!(watched.status.success(), "{}", complaint(&watched));
    let lines: Vec<Value> =
        watched.stdout.split(|byte| *byte == b'\n').filter_map(|l| serde_json::from_slice(l).ok()).collect();
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|line| line["nodes"].as_array().is_some_and(|nodes| nodes.len() == 3)));
    let text = run(&["status", "--config", &config, "--watch", "100ms", "--count", "2"]).await;
    let text = String::from_utf8(text.stdout).unwrap();
    assert_eq!((text.matches("NODE").count(), text.contains('\u{1b}')), (2, false), "{text}");

    cluster.kill(2).await;
    let client = cluster.pinned(0).await;
    let load = async {
        for number in 0_u64.. {
            client.put(format!("k{number}"), "v", PutOptions::default()).await.unwrap();
        }
    };
    let top = ["top", "--config", &config, "--interval", "300ms", "--count", "2", "--sort", "ops", "--json"];
    let shown = tokio::select! {
        biased;
        shown = run(&top) => shown,
        () = load => unreachable!("it never ends"),
    };
    assert!(shown.status.success(), "{}", complaint(&shown));
    let last: Value = serde_json::from_slice(shown.stdout.split(|byte| *byte == b'\n').nth(1).unwrap()).unwrap();
    let node = |id: &str| last["nodes"].as_array().unwrap().iter().find(|node| node["id"] == id).unwrap().clone();
    assert_eq!(last["nodes"][0]["id"], "n1", "the busiest comes first: {last}");
    assert!(node("n1")["rates"]["puts_per_s"].as_f64().unwrap() > 1.0, "{last}");
    assert!(node("n1")["rates"]["put"]["p99_us"].as_u64().unwrap() > 0, "{last}");
    assert!(node("n2")["rates"]["replica_requests_per_s"].as_f64().unwrap() > 1.0, "{last}");
    assert_eq!((node("n3")["state"].as_str(), node("n3")["reachable"].as_bool()), (Some("unreachable"), Some(false)));
    let plain = run(&["top", "--config", &config, "--interval", "100ms", "--count", "1"]).await;
    let plain = String::from_utf8(plain.stdout).unwrap();
    assert!(plain.starts_with("NODE") && plain.contains("unreachable") && plain.contains("PUT/S"), "{plain}");
}
