//! Membership of node processes: killed, ended, restarted, joined, with keys changed under way, and beside another cluster.

use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use dynamomini::certs::{Authority, Subject, store};
use dynamomini::client::{Client, ClientError, PutOptions};
use dynamomini::env::Env;
use dynamomini::wire::gossip::{MemberState, MemberStatus};
use rustix::process::Signal;
use serde_json::Value;
use tokio::time::Instant;

use crate::processes::{Cluster, complaint, eventually, has_redis, is_there, program, run, send};

/// What one node holds of a member.
pub(crate) async fn held(client: &Client, name: &str) -> Option<MemberStatus> {
    let report = client.members().await.ok()?;
    report.members.into_iter().find(|member| member.name.as_str() == name)
}

/// Waits until these nodes hold this of a member.
async fn all_hold(cluster: &Cluster, nodes: &[usize], name: &str, state: MemberState) {
    for node in nodes {
        let client = cluster.pinned(*node).await;
        let what = format!("{} holds {name} {state:?}", cluster.name(*node));
        eventually(&what, async || held(&client, name).await.is_some_and(|member| member.state == state)).await;
        client.close().await;
    }
}

async fn all_alive(cluster: &Cluster) {
    let nodes: Vec<usize> = (0..cluster.size()).collect();
    for name in &nodes {
        all_hold(cluster, &nodes, cluster.name(*name).as_str(), MemberState::Alive).await;
    }
}

fn log(cluster: &Cluster, node: usize) -> String {
    std::fs::read_to_string(PathBuf::from(cluster.text(node, "dir")).join("node.log")).unwrap()
}

/// Runs a verb as the administrator, and returns what it printed.
async fn ask(cluster: &Cluster, arguments: &[&str]) -> Result<Value, String> {
    let config = cluster.client_config();
    let output = run(&[arguments, &["--json", "--config", &config]].concat()).await;
    if !output.status.success() {
        return Err(format!("{}{}", complaint(&output), String::from_utf8_lossy(&output.stdout)));
    }
    Ok(serde_json::from_slice(&output.stdout).unwrap())
}

#[tokio::test]
async fn a_killed_node_is_failed_soon_and_alive_again_with_an_empty_disk() {
    let mut cluster = Cluster::start(&["--nodes", "3"]).await;
    all_alive(&cluster).await;
    cluster.kill(1).await;
    let began = Instant::now();
    all_hold(&cluster, &[0, 2], "n2", MemberState::Failed).await;
    let took = began.elapsed();
    // The aim is 3 s; a machine that runs all tests at once gets more.
    assert!(took < Duration::from_secs(15), "{took:?}");
    for node in [0, 2] {
        let said = log(&cluster, node);
        assert!(said.lines().any(|line| line.ends_with("member n2 failed")), "{said}");
    }
    let data = PathBuf::from(cluster.text(1, "dir")).join("data");
    std::fs::remove_dir_all(data).unwrap();
    cluster.launch(1);
    all_alive(&cluster).await;
    assert!(log(&cluster, 0).lines().filter(|line| line.ends_with("member n2 alive")).count() >= 2);
    // With its disk it has lost what it had, and says so until it has caught up.
    crate::processes::eventually("all storages are well", async || {
        let shown = ask(&cluster, &["members"]).await.unwrap();
        let members = shown["members"].as_array().unwrap();
        assert_eq!(members.len(), 3);
        members.iter().all(|member| member["state"] == "alive" && member["health"] == "ok")
    })
    .await;
}

#[tokio::test]
async fn a_node_that_ends_in_order_has_left_and_was_never_failed() {
    let cluster = Cluster::start(&["--nodes", "3"]).await;
    all_alive(&cluster).await;
    send(cluster.pid(2, "pid"), Signal::TERM);
    all_hold(&cluster, &[0, 1], "n3", MemberState::Left).await;
    let said = log(&cluster, 0);
    assert!(said.lines().any(|line| line.ends_with("member n3 left")), "{said}");
    assert!(!said.contains("member n3 failed"), "{said}");
    let shown = ask(&cluster, &["ring"]).await.unwrap();
    assert!(shown.to_string().contains("n3"), "who left still owns its data: {shown}");
}

#[tokio::test]
async fn all_nodes_started_again_find_each_other_at_other_addresses() {
    let mut cluster = Cluster::start(&["--nodes", "3"]).await;
    all_alive(&cluster).await;
    let keys = ask(&cluster, &["cluster", "keys", "list"]).await.unwrap()["keys"].clone();
    let before = cluster.text(0, "quic").to_owned();
    assert!(cluster.terminate().await.success());
    let base: u16 = before.rsplit(':').next().unwrap().parse().unwrap();
    let other = (base + 300).to_string();
    cluster.start_again(&["--base-port", &other]).await;
    assert_ne!(cluster.text(0, "quic"), before);
    all_alive(&cluster).await;
    let after = ask(&cluster, &["cluster", "keys", "list"]).await.unwrap()["keys"].clone();
    let ids = |keys: &Value| -> Vec<String> {
        keys.as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&keys), ids(&after), "the keys are kept");
}

#[tokio::test]
async fn the_key_is_changed_while_the_cluster_runs() {
    let mut cluster = Cluster::start(&["--nodes", "3"]).await;
    all_alive(&cluster).await;
    let listed = ask(&cluster, &["cluster", "keys", "list"]).await.unwrap();
    let old = listed["keys"][0]["id"].as_str().unwrap().to_owned();
    let refused = ask(&cluster, &["cluster", "keys", "remove", &old]).await.unwrap_err();
    assert!(refused.contains("in use"), "{refused}");
    let added = ask(&cluster, &["cluster", "keys", "add"]).await.unwrap();
    let new = added["subject"].as_str().unwrap().to_owned();
    assert_eq!(added["missed"], serde_json::json!([]), "{added}");
    ask(&cluster, &["cluster", "keys", "use", &new]).await.unwrap();
    eventually("the new key seals everywhere", async || {
        let mut sealing = 0;
        for node in ["n1", "n2", "n3"] {
            let listed = ask(&cluster, &["cluster", "keys", "list", "--node", node]).await.unwrap();
            let keys = listed["keys"].as_array().unwrap();
            sealing += usize::from(keys.iter().any(|key| key["id"] == *new && key["seals"] == true));
        }
        sealing == 3
    })
    .await;
    ask(&cluster, &["cluster", "keys", "remove", &old]).await.unwrap();
    all_alive(&cluster).await;
    let refused = ask(&cluster, &["cluster", "keys", "use", &old]).await.unwrap_err();
    assert!(refused.contains("was removed"), "{refused}");
    for node in 0..3 {
        assert!(!log(&cluster, node).contains(" failed"), "somebody was lost on the way: {}", log(&cluster, node));
    }
    // Whoever is asked answers, although one node is gone.
    cluster.kill(1).await;
    for _ in 0..6 {
        ask(&cluster, &["cluster", "keys", "list"]).await.unwrap();
    }
}

#[tokio::test]
async fn a_sick_storage_is_known_to_all_and_so_is_its_recovery() {
    if !has_redis() {
        return;
    }
    let mut cluster = Cluster::start(&["--nodes", "3", "--storage", "redis"]).await;
    all_alive(&cluster).await;
    let client = cluster.pinned(0).await;
    let health = async |wanted: &str| held(&client, "n2").await.is_some_and(|member| member.storage == wanted);
    cluster.kill_redis(1).await;
    eventually("n1 knows that n2's storage is down", async || health("down").await).await;
    // The membership of n2 is none of its storage's business, and writes go on with a stand-in's hint.
    assert_eq!(held(&client, "n2").await.unwrap().state, MemberState::Alive);
    for number in 0..20 {
        client.put(format!("k{number}"), "v", PutOptions::default()).await.unwrap();
    }
    cluster.launch_redis(1);
    eventually("n1 knows that n2's storage is well again", async || health("ok").await).await;
}

/// A process that ends with the test.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Starts a node that is told of the cluster by seeds alone.
fn start_with_seeds(cluster: &Cluster, name: &str, settings: &[&str]) -> (Guard, PathBuf) {
    // The same name may be started twice, each with a folder of its own.
    let beside = cluster.dir().join("beside");
    let dir = (0..).map(|life| beside.join(format!("{name}-{life}"))).find(|dir| !dir.exists()).unwrap();
    std::fs::create_dir_all(&dir).unwrap();
    let authority = Authority::load(&cluster.dir().join("certs")).unwrap();
    let subject = Subject::node(name.parse().unwrap(), &["127.0.0.1"]).unwrap();
    let issued = authority.issue(&Env::real(), &subject, 10).unwrap();
    let (cert, key) = (dir.join("node.crt"), dir.join("node.key"));
    store::write_pair((&cert, &issued.cert_pem), (&key, &issued.key_pem), true).unwrap();
    let seed = cluster.text(1, "quic");
    let ca = cluster.admin().ca;
    let text = format!(
        "[cluster]\nname = \"dev\"\nseeds = [\"{seed}\"]\n[node]\nname = \"{name}\"\ndata_dir = \"data\"\n[gossip]\n\
         preset = \"local\"\n[listen]\nquic = \"127.0.0.1:0\"\ngossip = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n\
         [tls]\nca = \"{}\"\ncert = \"node.crt\"\nkey = \"node.key\"\n",
        ca.display()
    );
    let config = dir.join("node.toml");
    std::fs::write(&config, text).unwrap();
    let log = dir.join("node.log");
    let mut command = program(&["node", "--config", config.to_str().unwrap()]);
    command.args(settings).stderr(std::fs::File::create(&log).unwrap());
    (Guard(command.spawn().unwrap()), log)
}

#[tokio::test]
async fn a_node_that_knows_only_a_seed_and_waits_for_approval_becomes_a_member_without_a_share() {
    let cluster = Cluster::start(&["--nodes", "2"]).await;
    let (mut node, log) = start_with_seeds(&cluster, "n9", &["--cluster-join", "approve"]);
    all_hold(&cluster, &[0, 1], "n9", MemberState::Alive).await;
    let client = cluster.client().await;
    let member = held(&client, "n9").await.unwrap();
    assert_eq!((member.ownership.as_str(), member.storage.as_str()), ("joining", "ok"));
    assert!(client.view().members().len() == 2, "it owns nothing");
    // It serves like any other.
    let through = Client::builder(dynamomini::net::TlsMaterial::load(&cluster.admin()).unwrap())
        .node(member.quic.clone())
        .connect()
        .await
        .unwrap();
    let report = through.members().await;
    assert!(report.is_ok_and(|report| report.members.len() == 3));
    send(node.0.id(), Signal::TERM);
    all_hold(&cluster, &[0, 1], "n9", MemberState::Left).await;
    assert!(node.0.wait().unwrap().success(), "{}", std::fs::read_to_string(log).unwrap());
}

#[tokio::test]
async fn a_node_that_starts_before_its_seed_waits_for_it() {
    let mut cluster = Cluster::start(&["--nodes", "3"]).await;
    all_alive(&cluster).await;
    cluster.kill(1).await;
    let (mut node, log) = start_with_seeds(&cluster, "n9", &["--log-level", "debug"]);
    let said = || std::fs::read_to_string(&log).unwrap();
    eventually("it asks in vain", async || said().contains("a seed did not describe the cluster")).await;
    assert!(node.0.try_wait().unwrap().is_none(), "{}", said());
    assert!(!said().contains("node serves"), "it cannot know whom to serve for: {}", said());
    cluster.launch(1);
    all_hold(&cluster, &[0, 1, 2], "n9", MemberState::Alive).await;
    // What it has learnt it keeps, so that next time the seed need not be there.
    cluster.kill(1).await;
    send(node.0.id(), Signal::TERM);
    assert!(node.0.wait().unwrap().success(), "{}", said());
    let config = log.with_file_name("node.toml");
    let mut again = program(&["node", "--config", config.to_str().unwrap()]);
    let _again = Guard(again.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap());
    all_hold(&cluster, &[0, 2], "n9", MemberState::Alive).await;
    assert!(said().contains("no seed answers"), "{}", said());
}

#[tokio::test]
async fn the_later_of_two_processes_with_one_name_ends_with_an_error() {
    let cluster = Cluster::start(&["--nodes", "2"]).await;
    let (mut first, _) = start_with_seeds(&cluster, "n9", &[]);
    all_hold(&cluster, &[0, 1], "n9", MemberState::Alive).await;
    let (mut second, log) = start_with_seeds(&cluster, "n9", &[]);
    eventually("the later one ends", async || second.0.try_wait().unwrap().is_some()).await;
    let said = std::fs::read_to_string(log).unwrap();
    assert!(!second.0.wait().unwrap().success() && said.contains("another process runs as node n9"), "{said}");
    all_hold(&cluster, &[0, 1], "n9", MemberState::Alive).await;
    assert!(first.0.try_wait().unwrap().is_none(), "the earlier one ended, too");
}

#[tokio::test]
async fn clusters_never_merge_whatever_they_have_in_common() -> Result<(), ClientError> {
    let cluster = Cluster::start(&["--nodes", "2"]).await;
    let beside = Cluster::start(&["--nodes", "1"]).await;
    all_alive(&cluster).await;
    // The same authority and another name: refused when it asks what the cluster is.
    let (mut node, log) = start_with_seeds(&cluster, "n8", &["--cluster-name", "other"]);
    let status = node.0.wait().unwrap();
    let said = std::fs::read_to_string(log).unwrap();
    assert!(!status.success() && said.contains("is of cluster dev, not other"), "{said}");
    // With a list of its own it starts, and finds nobody.
    let alone = ["--cluster-name", "other", "--member", "name=n7,quic=127.0.0.1:1"];
    let settings = [alone.as_slice(), &["--listen-quic", "127.0.0.1:0"]].concat();
    let (_node, log) = start_with_seeds(&cluster, "n7", &settings);
    eventually("the seed refuses it", async || {
        std::fs::read_to_string(&log).unwrap().contains("this is cluster dev, not other")
    })
    .await;
    // The same name and another authority: no connection at all.
    let seed = beside.text(0, "quic");
    let (_node, log) = start_with_seeds(&cluster, "n6", &["--cluster-seeds", seed, "--log-level", "debug"]);
    eventually("the seed does not take it in", async || {
        std::fs::read_to_string(&log).unwrap().contains("a seed did not describe the cluster")
    })
    .await;
    for (cluster, members) in [(&cluster, 2), (&beside, 1)] {
        let client = cluster.client().await;
        assert_eq!(client.members().await?.members.len(), members);
    }
    Ok(())
}

/// Whether a node is connected to another one at this address.
async fn reaches(cluster: &Cluster, node: usize, name: &str, quic: &str) -> bool {
    let client = cluster.pinned(node).await;
    let status = client.status(&cluster.name(node)).await;
    client.close().await;
    let peers = status.map(|status| status.peers).unwrap_or_default();
    peers.iter().any(|peer| peer.name.as_str() == name && peer.quic == quic && peer.state == "up")
}

#[tokio::test]
async fn a_node_that_is_restarted_remembers_where_another_one_has_moved() {
    let mut cluster = Cluster::start(&["--nodes", "3", "--storage", "memory"]).await;
    all_alive(&cluster).await;
    cluster.kill(1).await;
    let before = cluster.text(1, "quic").to_owned();
    let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    // Only its own configuration tells where it is now.
    let path = PathBuf::from(cluster.text(1, "config"));
    let config = std::fs::read_to_string(&path).unwrap();
    assert!(config.contains(&before), "{config}");
    std::fs::write(&path, config.replace(&before, &free)).unwrap();
    cluster.launch(1);
    eventually("the first node reaches it", async || reaches(&cluster, 0, "n2", &free).await).await;
    // What it has heard is on its disk within a moment; here it ends in order.
    let pid = cluster.pid(0, "pid");
    send(pid, Signal::TERM);
    eventually("it has ended", async || !is_there(pid)).await;
    cluster.launch(0);
    all_hold(&cluster, &[2], "n1", MemberState::Alive).await;
    eventually("it still does after its restart", async || reaches(&cluster, 0, "n2", &free).await).await;
}
