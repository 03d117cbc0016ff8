//! Nodes that were away, or lost what they held, have everything again without anyone reading it: real processes, with
//! every engine. `DYNAMOMINI_FULL=1` does it with 100 000 keys and prints what it took.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use dynamomini::client::Client;
use dynamomini::client::GetOptions;
use dynamomini::client::PutOptions;
use dynamomini::types::Consistency;
use dynamomini::wire::status::NodeStatus;
use dynamomini::wire::sync::RepairRequest;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::Instant;

use crate::processes::Cluster;
use crate::processes::has_redis;
use crate::processes::program;

/// Requests under way together.
const IN_FLIGHT: usize = 64;
/// How long all may take to come together.
const PATIENCE: Duration = Duration::from_secs(600);

/// Keys written, and how many of them are deleted.
pub(crate) fn sizes() -> (usize, usize) {
    if std::env::var("DYNAMOMINI_FULL").as_deref() == Ok("1") { (100_000, 10_000) } else { (2_000, 200) }
}

fn key(number: usize) -> String {
    format!("item/{number:06}")
}

pub(crate) fn value(number: usize) -> String {
    format!("{number:0100}")
}

async fn each(count: usize, work: impl AsyncFn(usize)) {
    let work = &work;
    stream::iter(0..count).for_each_concurrent(IN_FLIGHT, |number| work(number)).await;
}

/// Writes all keys and deletes the first of them.
pub(crate) async fn fill(client: &Client) {
    let (keys, deleted) = sizes();
    each(keys, async |number| {
        let put = client.put(key(number), value(number), PutOptions::default()).await;
        put.unwrap_or_else(|error| panic!("{}: {error}", key(number)));
    })
    .await;
    each(deleted, async |number| {
        // With its context, so that it replaces the value wherever it was minted.
        let found = client.get(key(number)).await.unwrap();
        client.delete(key(number), PutOptions::after(&found.context)).await.unwrap();
    })
    .await;
}

pub(crate) async fn statuses(client: &Client, cluster: &Cluster) -> Vec<NodeStatus> {
    let mut statuses = Vec::new();
    for node in 0..cluster.size() {
        let status = RefCell::new(None);
        crate::processes::eventually("the status is told", async || {
            *status.borrow_mut() = client.status(&cluster.name(node)).await.ok();
            status.borrow().is_some()
        })
        .await;
        statuses.extend(status.into_inner());
    }
    statuses
}

/// Waits until each node has compared all it owns with all others, found it equal, and answers reads. Nobody reads a key.
pub(crate) async fn converged(client: &Client, cluster: &Cluster, what: &str) {
    let began = Instant::now();
    let mut since: BTreeMap<usize, u64> = BTreeMap::new();
    while !done(client, cluster, &mut since).await {
        assert!(began.elapsed() < PATIENCE, "{what}: not equal in {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let after = statuses(client, cluster).await;
    let peers = after.iter().flat_map(|status| &status.sync.peers);
    let (records, bytes) = peers.fold((0, 0), |(records, bytes), peer| {
        (records + peer.records_in + peer.records_out, bytes + peer.bytes_in + peer.bytes_out)
    });
    let hints: u64 = after.iter().map(|status| crate::processes::counter(status, "hints_delivered")).sum();
    eprintln!(
        "{what}: equal after {:.1} s; anti-entropy since the nodes' start: {records} records, {bytes} bytes; {hints} hints delivered",
        began.elapsed().as_secs_f64()
    );
    let is_behind = |status: &NodeStatus| status.hints > 0 || status.health.starts_with("catching-up");
    while statuses(client, cluster).await.iter().any(is_behind) {
        assert!(began.elapsed() < PATIENCE, "{what}: hints are left, or somebody catches up, after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    eprintln!("{what}: no hint left and all caught up after {:.1} s", began.elapsed().as_secs_f64());
}

/// Whether every comparison was made since the nodes were first asked, and all partitions are known.
async fn done(client: &Client, cluster: &Cluster, since: &mut BTreeMap<usize, u64>) -> bool {
    let mut all = true;
    for node in 0..cluster.size() {
        let request = RepairRequest { partition: None, since_ms: since.get(&node).copied() };
        let Ok(progress) = client.repair(&cluster.name(node), request).await else { return false };
        since.insert(node, progress.since_ms);
        let compared = progress.trees.iter().all(|tree| tree.done == tree.peers);
        all &= compared && !progress.trees.is_empty() && progress.sync.known == progress.sync.partitions;
    }
    all
}

/// Reads everything from one node, with the others gone.
pub(crate) async fn holds_all(cluster: &mut Cluster, node: usize) {
    for other in (0..cluster.size()).filter(|other| *other != node) {
        cluster.kill(other).await;
    }
    let client = cluster.pinned(node).await;
    let (keys, deleted) = sizes();
    let one = GetOptions { r: Some(Consistency::Count(1)), ..GetOptions::default() };
    let client = &client;
    each(keys, async |number| {
        let found = client.get_with(key(number), one.clone()).await;
        let found = found.unwrap_or_else(|error| panic!("{}: {error}", key(number)));
        let expected = (number >= deleted).then(|| value(number));
        let values: Vec<_> = found.siblings.iter().map(|sibling| sibling.value.clone()).collect();
        assert_eq!(values, expected.into_iter().map(bytes::Bytes::from).collect::<Vec<_>>(), "{}", key(number));
    })
    .await;
}

async fn a_node_that_was_away_gets_all_it_missed(storage: &str) {
    let mut cluster = Cluster::start(&["--storage", storage]).await;
    let client = cluster.client().await;
    cluster.kill(2).await;
    fill(&client).await;
    cluster.launch(2);
    cluster.whole().await;
    converged(&client, &cluster, &format!("{storage}, away")).await;
    holds_all(&mut cluster, 2).await;
}

#[tokio::test]
async fn a_node_that_was_away_gets_all_it_missed_embedded() {
    a_node_that_was_away_gets_all_it_missed("embedded").await;
}

#[tokio::test]
async fn a_node_that_was_away_gets_all_it_missed_redis() {
    if has_redis() {
        a_node_that_was_away_gets_all_it_missed("redis").await;
    }
}

#[tokio::test]
async fn a_node_whose_redis_was_flushed_is_filled_again() {
    if !has_redis() {
        return;
    }
    let mut cluster = Cluster::start(&["--storage", "redis"]).await;
    let client = cluster.client().await;
    fill(&client).await;
    converged(&client, &cluster, "redis, before").await;
    let epoch = statuses(&client, &cluster).await[1].epoch;
    assert!(crate::restart::say(&cluster, 1, "FLUSHALL").unwrap().starts_with("+OK"));
    crate::processes::eventually("the node notices", async || statuses(&client, &cluster).await[1].epoch != epoch)
        .await;
    converged(&client, &cluster, "redis, flushed").await;
    holds_all(&mut cluster, 1).await;
}

#[tokio::test]
async fn a_node_whose_data_directory_was_removed_is_filled_again() {
    let mut cluster = Cluster::start(&[]).await;
    let client = cluster.client().await;
    fill(&client).await;
    converged(&client, &cluster, "embedded, before").await;
    cluster.kill(1).await;
    std::fs::remove_dir_all(PathBuf::from(cluster.text(1, "dir")).join("data")).unwrap();
    cluster.launch(1);
    cluster.whole().await;
    converged(&client, &cluster, "embedded, data removed").await;
    holds_all(&mut cluster, 1).await;
}

/// Trees that were kept at an orderly end are used again, and those of a killed node are made anew.
#[tokio::test]
async fn trees_are_kept_over_an_orderly_restart_only() {
    let mut cluster = Cluster::start(&[]).await;
    let client = cluster.client().await;
    fill(&client).await;
    converged(&client, &cluster, "before a restart").await;
    assert!(cluster.terminate().await.success(), "{}", cluster.said());
    let kept = |cluster: &Cluster| PathBuf::from(cluster.text(0, "dir")).join("data/trees");
    assert!(kept(&cluster).exists());
    cluster.start_again(&[]).await;
    let client = cluster.client().await;
    assert!(!kept(&cluster).exists(), "a crash from now on would leave trees that are too old");
    converged(&client, &cluster, "after a restart in order").await;
    let built = |status: &NodeStatus| crate::processes::counter(status, "trees_built");
    assert!(statuses(&client, &cluster).await.iter().all(|status| built(status) == 0), "the storage was read again");
    cluster.kill(0).await;
    cluster.launch(0);
    cluster.whole().await;
    converged(&client, &cluster, "after a crash").await;
    assert!(built(&statuses(&client, &cluster).await[0]) > 0);
}

#[tokio::test]
async fn repair_waits_until_all_is_compared_and_says_how_it_stands() {
    let cluster = Cluster::start(&[]).await;
    let client = cluster.client().await;
    client.put("a", "b", PutOptions::default()).await.unwrap();
    let config = cluster.client_config();
    let run = async |more: &[&str]| {
        let mut arguments = vec!["repair", "--json", "--config", &config];
        arguments.extend(more);
        crate::processes::output(program(&arguments)).await
    };
    let output = run(&["--wait", "--within", "50s"]).await;
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    assert_eq!(said["done"], true, "{said}");
    assert_eq!(said["nodes"].as_array().unwrap().len(), 3);
    for node in said["nodes"].as_array().unwrap() {
        for partition in node["partitions"].as_array().unwrap() {
            assert!(partition["done"] == partition["peers"] && partition["age_ms"].is_u64(), "{partition}");
        }
    }
    let output = run(&["--partition", "3", "--node", "n2", "--wait", "--within", "50s"]).await;
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    assert_eq!(said["nodes"][0]["id"], "n2");
    assert_eq!(said["nodes"][0]["partitions"].as_array().unwrap().len(), 1);
    assert_eq!(said["nodes"][0]["partitions"][0]["partition"], 3);
    let output = run(&["--partition", "999999"]).await;
    assert_eq!(output.status.code(), Some(1), "a partition that does not exist");
}
