//! `dynamomini dev` as its users meet it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::process::Signal;

use crate::processes::Cluster;
use crate::processes::complaint;
use crate::processes::eventually;
use crate::processes::has_redis;
use crate::processes::is_there;
use crate::processes::output;
use crate::processes::program;
use crate::processes::run;
use crate::processes::send;

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn one_command_gives_a_cluster_that_the_verbs_find() {
    let mut cluster = Cluster::start(&["--zones", "3", "--", "--set", "net.lanes=2"]).await;
    for (node, name) in ["n1", "n2", "n3"].into_iter().enumerate() {
        assert_eq!(cluster.text(node, "id"), name);
        assert_eq!(Path::new(cluster.text(node, "dir")), cluster.dir().join(name));
        assert_eq!(Path::new(cluster.text(node, "config")), cluster.dir().join(name).join("node.toml"));
        for field in ["quic", "gossip", "admin"] {
            assert!(cluster.text(node, field).starts_with("127.0.0.1:"), "{field}");
        }
        assert_eq!(mode(&cluster.dir().join(format!("certs/{name}.key"))), 0o600);
        let config = std::fs::read_to_string(cluster.text(node, "config")).unwrap();
        assert!(config.contains("lanes = 2") && config.contains("zone = \"z3\""), "{config}");
        let log = std::fs::read_to_string(cluster.dir().join(name).join("node.log")).unwrap();
        assert!(log.contains("node serves") && !log.contains('\u{1b}'), "{log}");
    }
    assert_eq!(mode(&cluster.dir().join("certs/ca.key")), 0o600);
    assert_eq!(mode(&cluster.dir().join("certs/admin.key")), 0o600);

    let config = cluster.client_config();
    let put = run(&["put", "--config", &config, "greeting", "hello"]).await;
    assert!(put.status.success(), "{}", complaint(&put));
    for name in ["n1", "n2", "n3"] {
        let got = run(&["get", "--config", &config, "--node", name, "greeting"]).await;
        assert_eq!((got.stdout.as_slice(), got.status.code()), (&b"hello"[..], Some(0)), "{}", complaint(&got));
    }
    let status = run(&["status", "--config", &config, "--json"]).await;
    assert!(status.status.success(), "{}", complaint(&status));

    assert!(cluster.terminate().await.success());
    assert!(!cluster.dir().join("cluster.json").exists(), "it names processes that are gone");
    let stopped = cluster.events().iter().filter(|event| event["how"] == "exit status 0").count();
    assert_eq!(stopped, 3, "{}", cluster.said());
    // Started again, it is the same cluster, with its settings and its data.
    cluster.start_again(&[]).await;
    let got = run(&["get", "--config", &config, "greeting"]).await;
    assert_eq!(got.stdout, b"hello", "{}", complaint(&got));
    let node = std::fs::read_to_string(cluster.text(0, "config")).unwrap();
    assert!(node.contains("lanes = 2"), "{node}");
}

#[tokio::test]
async fn what_people_read_begins_its_last_part_with_ready_and_says_what_to_type() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut command = program(&["dev", "--nodes", "1", "--storage", "memory", "--dir"]);
    let mut dev = command.arg(dir.path().join("c")).stdout(std::fs::File::create(&out).unwrap()).spawn().unwrap();
    let said = || std::fs::read_to_string(&out).unwrap();
    eventually("dev is ready", async || said().lines().any(|line| line.starts_with("ready"))).await;
    eventually("all is said", async || said().contains("again with their data")).await;
    let text = said();
    for part in
        ["dynamomini put --config", "dynamomini get --config", "kill -9", "dynamomini node --config", "^C stops"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    send(dev.id(), Signal::INT);
    assert!(dev.wait().unwrap().success());
}

#[tokio::test]
async fn a_node_that_dies_is_reported_and_started_again_by_hand_alone() {
    let mut cluster = Cluster::start(&["--storage", "memory"]).await;
    let pid = cluster.pid(1, "pid");
    cluster.kill(1).await;
    let ended = |cluster: &Cluster| cluster.events().into_iter().find(|event| event["event"] == "ended");
    eventually("the end is reported", async || ended(&cluster).is_some()).await;
    let event = ended(&cluster).unwrap();
    assert_eq!((event["id"].as_str(), event["pid"].as_u64()), (Some("n2"), Some(u64::from(pid))));
    assert_eq!(event["how"], "signal 9 (SIGKILL)");
    assert!(event["log_tail"].to_string().contains("node serves"), "{event}");
    assert!(event["restart"].as_str().unwrap().contains(cluster.text(1, "config")), "{event}");
    cluster.launch(1);
    cluster.whole().await;
    assert!(cluster.terminate().await.success(), "a node that dev did not start is none of its business");
    // It still runs, so another start would give its data to two processes.
    let again = run(&["dev", "--dir", cluster.dir().to_str().unwrap()]).await;
    assert_eq!(again.status.code(), Some(1), "{}", complaint(&again));
    assert!(
        complaint(&again).contains("node n2 (pid ") && complaint(&again).contains("runs already"),
        "{}",
        complaint(&again)
    );
}

#[tokio::test]
async fn nothing_outlives_a_dev_that_is_killed() {
    let redis = has_redis();
    let mut cluster = Cluster::start(&["--nodes", "1", "--storage", if redis { "redis" } else { "embedded" }]).await;
    let client = cluster.client().await;
    let fields = if redis { vec!["pid", "redis_pid"] } else { vec!["pid"] };
    // One node alone keeps one copy.
    client.put("k", "v", dynamomini::client::PutOptions::default()).await.unwrap();
    send(cluster.dev_pid(), Signal::KILL);
    cluster.dev_ended().await;
    for field in fields {
        let pid = cluster.pid(0, field);
        eventually(&format!("the {field} of the node is gone"), async || !is_there(pid)).await;
    }
    let log = std::fs::read_to_string(cluster.dir().join("n1/node.log")).unwrap();
    assert!(log.contains("node stopped"), "it did not stop in order: {log}");
    cluster.start_again(&[]).await;
    let client = cluster.client().await;
    assert_eq!(client.get("k").await.unwrap().single().unwrap(), "v");
}

/// The parent of a process.
fn parent(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok()).unwrap()
}

#[tokio::test]
async fn a_redis_server_ends_with_the_cluster_whatever_becomes_of_its_guard() {
    if !has_redis() {
        return;
    }
    let mut cluster = Cluster::start(&["--nodes", "2", "--storage", "redis"]).await;
    let servers = [cluster.pid(0, "redis_pid"), cluster.pid(1, "redis_pid")];
    let guards = servers.map(parent);
    assert!(guards.iter().all(|guard| parent(*guard) == cluster.dev_pid()), "each server has a guard of dev's");
    cluster.kill(0).await;
    send(guards[0], Signal::INT);
    eventually("a guard that is interrupted ends its server", async || !is_there(servers[0])).await;
    send(guards[1], Signal::KILL);
    let is_said = async || cluster.said().contains("only its guard has: signal 9 (SIGKILL); it goes on");
    eventually("dev says that the guard is gone", is_said).await;
    assert!(is_there(servers[1]));
    send(cluster.dev_pid(), Signal::TERM);
    assert!(cluster.dev_ended().await.success(), "{}", cluster.said());
    eventually("dev ends the server all the same", async || !is_there(servers[1])).await;
}

#[tokio::test]
async fn a_second_dev_in_the_folder_and_another_cluster_in_it_are_refused() {
    let mut cluster = Cluster::start(&["--nodes", "1", "--storage", "memory"]).await;
    let dir = cluster.dir().display().to_string();
    let second = run(&["dev", "--dir", &dir]).await;
    assert_eq!(second.status.code(), Some(1));
    let text = complaint(&second);
    assert!(text.contains("another `dynamomini dev`") && text.contains(&cluster.dev_pid().to_string()), "{text}");
    assert!(cluster.terminate().await.success());
    let other = run(&["dev", "--dir", &dir, "--nodes", "3"]).await;
    assert_eq!(other.status.code(), Some(1));
    assert!(complaint(&other).contains("holds a cluster with --nodes 1, not 3"), "{}", complaint(&other));
}

#[tokio::test]
async fn a_wrong_call_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("c");
    let inner = inner.to_str().unwrap();
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (arguments, status, says) in [
        (vec!["--", "--set", "net.lanes=many"], 2, "net.lanes"),
        (vec!["--", "--set", "node.name=x"], 2, "dev sets this itself"),
        (vec!["--nodes", "0"], 2, "0 is not in 1..=32"),
        (vec!["--base-port", "65510"], 2, "--base-port 65510"),
        (vec!["--base-port", &port], 1, "in use"),
        (vec!["--nodes", "2", "--zones", "3"], 1, "--zones"),
    ] {
        let output = run(&[&["dev", "--dir", inner][..], &arguments].concat()).await;
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {}", complaint(&output));
        assert!(complaint(&output).contains(says), "{arguments:?}: {}", complaint(&output));
    }
    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("thesis.txt"), "x").unwrap();
    let output = run(&["dev", "--dir", other.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).contains("thesis.txt"), "{}", complaint(&output));
}

#[tokio::test]
async fn a_missing_redis_server_is_said_with_how_to_install_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = program(&["dev", "--storage", "redis", "--dir"]);
    command.arg(dir.path().join("c")).env("PATH", "/nowhere");
    let output = output(command).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).contains("apt install redis-server"), "{}", complaint(&output));
}

#[tokio::test]
async fn a_start_that_fails_shows_the_log_of_that_node_and_stops_the_others() {
    let mut cluster = Cluster::start(&["--nodes", "2"]).await;
    assert!(cluster.terminate().await.success());
    let store = cluster.dir().join("n2/data");
    std::fs::remove_dir_all(&store).unwrap();
    std::fs::create_dir(&store).unwrap();
    std::fs::write(store.join("endpoint.keys"), "short").unwrap();
    let output = run(&["dev", "--dir", cluster.dir().to_str().unwrap()]).await;
    let text = complaint(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("node of n2 ended") && text.contains("endpoint.keys"), "{text}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("stopped the node of n1") && !said.contains("ready:"), "{said}");
}
