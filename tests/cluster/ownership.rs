//! Owners change while a cluster of processes serves: nodes are added, leave, are replaced and removed, as administrators
//! type it; what was written is read throughout.

use dynamomini::client::{Client, PutOptions};
use dynamomini::layout::Change;
use dynamomini::wire::layout::Despite;
use rustix::process::Signal;
use serde_json::Value;

use crate::processes::{Cluster, complaint, eventually, run, send};
use crate::steady::{self, Steady};

/// Keys of the data set.
const KEYS: usize = 300;
/// What all nodes are given: few partitions, so that a change is soon done on a machine that runs all tests at once.
const SETTINGS: [&str; 3] = ["--", "--set", "cluster.partitions=64"];

/// What goes on meanwhile, each answer of which is checked: 20 s of it, longer than the changes take on a quiet machine.
const LOAD: Steady = Steady { requests: 600, per_second: 30, keys: 60 };

fn value_of(key: usize) -> String {
    format!("value {key} {}", "x".repeat(200))
}

pub(crate) async fn fill(client: &Client) {
    for key in 0..KEYS {
        client.put(format!("k{key}"), value_of(key), PutOptions::default()).await.unwrap();
    }
}

/// Reads all keys through whoever owns them now.
pub(crate) async fn check(client: &Client, when: &str) {
    for key in 0..KEYS {
        let found = client.get(format!("k{key}")).await.unwrap_or_else(|error| panic!("{when}: k{key}: {error}"));
        let values: Vec<&[u8]> = found.siblings.iter().map(|sibling| &sibling.value[..]).collect();
        assert_eq!(values, [value_of(key).as_bytes()], "{when}: k{key}");
    }
}

/// Runs a verb as the administrator; returns its exit status and what it printed.
pub(crate) async fn ask(cluster: &Cluster, words: &str) -> (Option<i32>, Value) {
    let config = cluster.client_config();
    let words: Vec<&str> = words.split(' ').collect();
    let output = run(&[words.as_slice(), &["--json", "--config", &config]].concat()).await;
    let printed = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| Value::String(complaint(&output)));
    (output.status.code(), printed)
}

/// Runs a verb that must succeed.
pub(crate) async fn done(cluster: &Cluster, words: &str) -> Value {
    let (status, printed) = ask(cluster, words).await;
    assert_eq!(status, Some(0), "{words}: {printed}");
    printed
}

/// Adds a node by `dev add`, and takes note of it.
pub(crate) async fn add(cluster: &mut Cluster, words: &[&str]) -> Value {
    let dir = cluster.dir().display().to_string();
    let output = run(&[&["dev", "add", "--json", "--dir", &dir], words].concat()).await;
    assert!(output.status.success(), "{}", complaint(&output));
    let added: Value = serde_json::from_slice(&output.stdout).unwrap();
    cluster.nodes.push(added["node"].clone());
    let text = std::fs::read_to_string(cluster.dir().join("cluster.json")).unwrap();
    let file: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(file["nodes"].as_array().unwrap(), &cluster.nodes, "cluster.json says who is there");
    added
}

/// The members that own data, with how many partitions, by what `ring` says.
async fn owners(cluster: &Cluster) -> Vec<(String, u64)> {
    let ring = done(cluster, "ring").await;
    let nodes = ring["rings"][0]["nodes"].as_array().unwrap().clone();
    nodes.iter().map(|node| (node["id"].as_str().unwrap().to_owned(), node["owned"].as_u64().unwrap())).collect()
}

fn names(owners: &[(String, u64)]) -> Vec<&str> {
    owners.iter().map(|(name, _)| name.as_str()).collect()
}

pub(crate) async fn task(cluster: &Cluster, id: &str) -> Option<Value> {
    let listed = done(cluster, "tasks list").await;
    listed["tasks"].as_array().unwrap().iter().find(|task| task["id"] == id).cloned()
}

async fn part(cluster: &Cluster, name: &str) -> Value {
    let shown = done(cluster, "members").await;
    let member = shown["members"].as_array().unwrap().iter().find(|member| member["id"] == name).cloned();
    member.map_or(Value::Null, |member| member["ownership"].clone())
}

#[tokio::test]
async fn a_cluster_grows_to_five_and_shrinks_again_and_dev_starts_it_again_as_it_is() {
    // With stand-ins a read may rightly miss a write for a while.
    let strict = [&SETTINGS[..], &["--set", "namespaces.default.sloppy=false"]].concat();
    let mut cluster = Cluster::start(&strict).await;
    let client = cluster.client().await;
    fill(&client).await;
    let (report, ()) = tokio::join!(steady::run(&client, LOAD, "steady"), grow_and_shrink(&mut cluster, &client));
    assert!(report.wrong.is_empty() && report.errors.is_empty(), "{:?} {:?}", report.wrong, report.errors);
    assert_eq!(report.latencies.len(), LOAD.requests);

    client.close().await;
    assert!(cluster.terminate().await.success());
    cluster.start_again(&[]).await;
    assert_eq!(cluster.size(), 5, "nodes that were added are started again, and one that left");
    assert_eq!(names(&owners(&cluster).await), ["n1", "n3", "n4", "n5"]);
    check(&cluster.client().await, "after a restart").await;
}

async fn grow_and_shrink(cluster: &mut Cluster, client: &Client) {
    for name in ["n4", "n5"] {
        let added = add(cluster, &[]).await;
        assert_eq!((&added["node"]["id"], &added["owns"]), (&Value::from(name), &Value::from(true)), "{added}");
        check(client, name).await;
        // Whoever is asked may hear a moment later that the change is over.
        eventually("all know that it has its share", async || part(cluster, name).await == "active").await;
    }
    let five = owners(cluster).await;
    assert_eq!(names(&five), ["n1", "n2", "n3", "n4", "n5"]);
    assert!(five.iter().all(|(_, owned)| (30..=41).contains(owned)), "192 copies on five nodes: {five:?}");

    let plan = done(cluster, "cluster plan leave n2").await;
    assert_eq!(plan["not_safe"], serde_json::json!([]), "{plan}");
    assert_eq!(
        (&plan["rings"][0]["live_least"], &plan["rate_measured"]),
        (&Value::from(3), &Value::from(false)),
        "{plan}"
    );
    assert!(plan["copies"].as_u64().unwrap() >= plan["least_copies"].as_u64().unwrap(), "{plan}");
    let left = done(cluster, "cluster leave n2 --yes --wait").await;
    assert_eq!(left["waited"]["outcome"], "done", "{left}");
    let id = left["task"].as_str().unwrap().to_owned();
    check(client, "n2 has left").await;
    assert_eq!(names(&owners(cluster).await), ["n1", "n3", "n4", "n5"]);
    let whole = task(cluster, &id).await.unwrap();
    assert_eq!(
        (&whole["kind"], &whole["state"], &whole["percent"]),
        (&"rebalance".into(), &"done".into(), &100.into())
    );
    assert_eq!(done(cluster, &format!("tasks wait {id}")).await["state"], "done");
    eventually("what n2 held is dropped, and it says so", async || part(cluster, "n2").await == "removed").await;
    eventually("its dropping is told as a task that is done", async || {
        let listed = done(cluster, "tasks list").await;
        let own = |task: &&Value| task["kind"] == "shed" && task["nodes"] == serde_json::json!(["n2"]);
        let sheds: Vec<Value> = listed["tasks"].as_array().unwrap().iter().filter(own).cloned().collect();
        !sheds.is_empty() && sheds.iter().all(|shed| shed["state"] == "done")
    })
    .await;
}

/// No owner has more than its part by a twentieth, or by one partition.
async fn even(cluster: &Cluster, nodes: &[&str]) {
    let owners = owners(cluster).await;
    assert_eq!(names(&owners), nodes);
    let part = owners.iter().map(|(_, owned)| *owned as f64).sum::<f64>() / owners.len() as f64;
    let most = (part * 1.05).max(part + 1.0);
    assert!(owners.iter().all(|(_, owned)| *owned as f64 <= most), "at most {most}: {owners:?}");
}

#[tokio::test]
async fn two_nodes_join_at_once_and_two_leave_and_data_is_spread_evenly_each_time() {
    let strict = [&SETTINGS[..], &["--set", "namespaces.default.sloppy=false"]].concat();
    let mut cluster = Cluster::start(&strict).await;
    let client = cluster.client().await;
    fill(&client).await;
    for _ in 0..2 {
        add(&mut cluster, &["--approve"]).await;
    }
    let (ended, end) = tokio::sync::oneshot::channel();
    let changes = async {
        let join = async |name| done(&cluster, &format!("cluster join {name} --yes --wait")).await;
        let (one, other) = tokio::join!(join("n4"), join("n5"));
        assert_eq!((&one["waited"]["outcome"], &other["waited"]["outcome"]), (&"done".into(), &"done".into()));
        even(&cluster, &["n1", "n2", "n3", "n4", "n5"]).await;
        for (leaves, stay) in [("n2", &["n1", "n3", "n4", "n5"][..]), ("n5", &["n1", "n3", "n4"])] {
            done(&cluster, &format!("cluster leave {leaves} --yes --wait")).await;
            even(&cluster, stay).await;
        }
        ended.send(()).unwrap();
    };
    let end = async { end.await.unwrap() };
    let load = Steady { requests: usize::MAX, ..LOAD };
    let (report, ()) = tokio::join!(steady::run_until(&client, load, "steady", end), changes);
    assert!(report.wrong.is_empty() && report.errors.is_empty(), "{:?} {:?}", report.wrong, report.errors);
    check(&client, "two have joined and two have left").await;
}

#[tokio::test]
async fn a_killed_node_is_replaced_and_another_one_removed() {
    let mut cluster = Cluster::start(&["--nodes", "4", "--", "--set", "cluster.partitions=64"]).await;
    let client = cluster.client().await;
    fill(&client).await;
    let added = add(&mut cluster, &["--approve"]).await;
    assert_eq!(added["owns"], false, "{added}");
    assert_eq!(part(&cluster, "n5").await, "joining");

    let (status, refused) = ask(&cluster, "cluster replace n2 n5 --yes").await;
    assert_eq!(status, Some(1), "n2 is alive: {refused}");
    assert!(refused["refused"].to_string().contains("n2 answers"), "{refused}");
    cluster.kill(1).await;
    let is_failed = async || done(&cluster, "members").await.to_string().matches("\"failed\"").count() == 1;
    eventually("n2 is held failed", is_failed).await;
    let (status, refused) = ask(&cluster, "cluster plan leave n2").await;
    assert_eq!(status, Some(1), "{refused}");
    assert!(refused["not_safe"].to_string().contains("`remove` it"), "{refused}");
    check(&client, "n2 is dead").await;

    let before = owners(&cluster).await;
    let replaced = done(&cluster, "cluster replace n2 n5 --yes --wait").await;
    assert_eq!(replaced["waited"]["outcome"], "done", "{replaced}");
    check(&client, "n5 is in the place of n2").await;
    let after = owners(&cluster).await;
    let owned = |owners: &[(String, u64)], name: &str| owners.iter().find(|(of, _)| of == name).unwrap().1;
    assert_eq!(owned(&before, "n2"), owned(&after, "n5"), "just the place of n2: {before:?} {after:?}");
    for name in ["n1", "n3", "n4"] {
        assert_eq!(owned(&before, name), owned(&after, name), "nothing else moves: {before:?} {after:?}");
    }
    assert_eq!(part(&cluster, "n2").await, "removed");

    cluster.kill(0).await;
    let is_failed = async || done(&cluster, "members").await.to_string().matches("\"failed\"").count() == 2;
    eventually("n1 is held failed", is_failed).await;
    let removed = done(&cluster, "cluster remove n1 --yes --wait").await;
    assert_eq!(removed["waited"]["outcome"], "done", "{removed}");
    assert_eq!(names(&owners(&cluster).await), ["n3", "n4", "n5"]);
    check(&client, "n1 was removed").await;
    let (status, refused) = ask(&cluster, "cluster leave n3 --yes").await;
    assert!(
        status == Some(1) && refused["refused"].to_string().contains("there would be 2 nodes for 3 copies"),
        "{refused}"
    );
    let leave = Change::Leave { name: "n3".parse().unwrap() };
    let refused = client.change_layout(leave, Despite::Nothing).await.unwrap_err().to_string();
    assert!(
        refused.contains("there would be 2 nodes for 3 copies"),
        "a program that shows no plan is refused as well: {refused}"
    );
}

async fn held_copy(cluster: &Cluster, id: &str) {
    let is_held = async || task(cluster, id).await.is_some_and(|task| task["state"] == "paused");
    eventually("the copying is held", is_held).await;
}

#[tokio::test]
async fn a_change_is_held_over_a_restart_then_resumed_and_another_one_cancelled_in_its_midst() {
    let mut cluster = Cluster::start(&SETTINGS).await;
    let client = cluster.client().await;
    fill(&client).await;
    add(&mut cluster, &["--approve"]).await;
    let (status, refused) = ask(&cluster, "cluster join n4").await;
    assert_eq!(status, Some(2), "nobody can be asked here: {refused}");

    // One that is asked while it is stopped would not answer.
    let asked = cluster.pinned(0).await;
    // A member that is stopped keeps the change from getting anywhere before it is held.
    let held = cluster.pid(2, "pid");
    send(held, Signal::STOP);
    let quic = cluster.text(3, "quic").to_owned();
    let join = Change::Join { name: "n4".parse().unwrap(), quic, zone: "default".parse().unwrap(), weight: 100 };
    // Not by the command, whose plan asks the stopped member too: it must not be given up before.
    let id = format!("layout-{}", asked.change_layout(join, Despite::Nothing).await.unwrap().version);
    assert_eq!(done(&cluster, &format!("tasks pause {id}")).await["id"], *id);
    send(held, Signal::CONT);
    let copy = id.replace("layout", "copy") + "-n4";
    held_copy(&cluster, &copy).await;
    cluster.kill(3).await;
    cluster.launch(3);
    held_copy(&cluster, &copy).await;
    let shown = done(&cluster, "cluster show").await;
    assert_eq!(
        (&shown["task"], &shown["members"][3]["part"]),
        (&Value::from(id.as_str()), &Value::from("joining")),
        "{shown}"
    );
    let (status, waited) = ask(&cluster, &format!("tasks wait {id} --within 1s")).await;
    assert!(status == Some(1) && waited["state"] == "paused", "{waited}");
    check(&client, "a change is held").await;
    done(&cluster, &format!("tasks resume {id}")).await;
    assert_eq!(done(&cluster, &format!("tasks wait {id}")).await["state"], "done");
    assert_eq!(names(&owners(&cluster).await), ["n1", "n2", "n3", "n4"]);

    send(held, Signal::STOP);
    let leave = Change::Leave { name: "n4".parse().unwrap() };
    let id = format!("layout-{}", asked.change_layout(leave, Despite::Nothing).await.unwrap().version);
    let (status, refused) = ask(&cluster, &format!("tasks cancel {id}")).await;
    assert!(status == Some(2) && refused.to_string().contains("--yes"), "nobody can be asked here: {refused}");
    done(&cluster, &format!("tasks cancel {id} --yes")).await;
    send(held, Signal::CONT);
    let is_cancelled = async || task(&cluster, &id).await.is_some_and(|task| task["state"] == "cancelled");
    eventually("the change is cancelled", is_cancelled).await;
    assert_eq!(names(&owners(&cluster).await), ["n1", "n2", "n3", "n4"]);
    check(&client, "a change was cancelled").await;
    let (status, refused) = ask(&cluster, "cluster cancel --yes").await;
    assert!(status == Some(1) && refused.to_string().contains("no change is under way"), "{refused}");
}
