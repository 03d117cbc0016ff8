//! A node is killed in the midst of a transfer, once the one that fetches and once one that it fetches from, while requests
//! go on whose every answer is checked: the change goes on, nothing is lost, and in the end only owners hold data.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use dynamomini::client::{Client, GetOptions, PutOptions};
use dynamomini::env::Env;
use dynamomini::hash::ClusterHash;
use dynamomini::layout::Change;
use dynamomini::record;
use dynamomini::store::{Durability, Engine, StoreConfig, StoreIdentity};
use dynamomini::types::{Consistency, Copies, NodeName, Partitions};
use dynamomini::view::ClusterView;
use dynamomini::wire::layout::Despite;
use dynamomini::wire::tasks::{Task, TaskKind, TaskOrder, TaskState};

use crate::ownership::{add, done};
use crate::processes::{Cluster, eventually};
use crate::steady::{self, Steady};
use crate::sync::converged;

/// Keys that are written once, before the change.
const KEYS: usize = 400;
/// Keys of the load, which lasts as long as the change.
const LOAD: Steady = Steady { requests: usize::MAX, per_second: 40, keys: 40 };
/// The node that joins, by number from 0.
const TARGET: usize = 3;
/// One of those that it fetches from.
const SOURCE: usize = 1;
const PARTITIONS: u32 = 32;
/// A target that no request meets, so that data moves at the slowest pace, and a node is killed in its midst.
const SETTINGS: [&str; 7] = [
    "--",
    "--set",
    "cluster.partitions=32",
    "--set",
    "namespaces.default.sloppy=false",
    "--set",
    "timeouts.background_p99_ms=1",
];

fn value(key: usize) -> String {
    format!("{key} {}", "x".repeat(1_000))
}

/// The fetching of the node that joins, as it tells of it.
async fn copying(client: &Client) -> Option<Task> {
    let report = client.tasks(TaskOrder::List).await.ok()?;
    report.tasks.into_iter().find(|task| task.kind == TaskKind::Copy)
}

/// Waits until the target has fetched a good part, and tells how far it was.
async fn midst(client: &Client) -> Task {
    let mut seen = None;
    eventually("a part is fetched, and not all", async || {
        seen = copying(client).await.filter(|task| task.done >= task.total / 4 && task.done > 0);
        seen.is_some()
    })
    .await;
    let seen = seen.unwrap();
    assert!(seen.state == TaskState::Running && seen.done < seen.total * 3 / 4, "it was to be in its midst: {seen:?}");
    seen
}

/// Has a fourth node join, and kills a node in the midst of that. Returns how far it was then, and what was fetched by the end.
async fn join_and_kill(cluster: &mut Cluster, client: &Client, victim: usize) -> (Task, Task) {
    let quic = cluster.text(TARGET, "quic").to_owned();
    let join = Change::Join { name: cluster.name(TARGET), quic, zone: "default".parse().unwrap(), weight: 100 };
    let id = format!("layout-{}", client.change_layout(join, Despite::Nothing).await.unwrap().version);
    let midst = midst(client).await;
    cluster.kill(victim).await;
    cluster.launch(victim);
    assert_eq!(done(cluster, &format!("tasks wait {id}")).await["state"], "done");
    cluster.whole().await;
    (midst, copying(client).await.expect("what has ended is remembered"))
}

/// What lies in the storage of a node that is stopped.
async fn stored(cluster: &Cluster, node: usize) -> BTreeMap<Bytes, Bytes> {
    let path = PathBuf::from(cluster.text(node, "dir")).join("data/store");
    let config = StoreConfig::Embedded { path, durability: Durability::EveryBatch, cache_bytes: 1 << 20 };
    let buckets = Partitions::new(PARTITIONS).unwrap();
    let identity = StoreIdentity { cluster: "dev".parse().unwrap(), node: cluster.name(node), buckets };
    let env = Env::real();
    let (engine, _) = Engine::open(&config, &identity, &env).await.unwrap();
    let mut records = BTreeMap::new();
    for bucket in buckets.buckets() {
        let page = engine.scan(bucket, b"", None, 1_000, usize::MAX).await.unwrap();
        assert!(!page.more && !page.is_damaged());
        records.extend(page.items);
    }
    engine.close().await.unwrap();
    env.stop();
    records
}

/// Each record is at its owners, the same at all of them, and nowhere else.
fn judge(view: &ClusterView, held: &BTreeMap<NodeName, BTreeMap<Bytes, Bytes>>) {
    let ring = view.ring(Copies::settled(3)).unwrap();
    let too_much =
        ring.balance().nodes.into_iter().find(|node| f64::from(node.owned) > (node.ideal * 1.05).max(node.ideal + 1.0));
    assert_eq!(too_much, None, "data is spread unevenly");
    let keys: BTreeMap<&Bytes, &Bytes> = held.values().flatten().collect();
    assert_eq!(keys.len(), KEYS + LOAD.keys);
    for (key, record) in keys {
        let partition = ring.partitions().of(record::position(view.hash(), key).unwrap());
        let owners = ring.preference_list(partition);
        for (name, records) in held {
            let owns = owners.contains(&ClusterHash::node_id(name));
            assert_eq!(records.get(key), owns.then_some(record), "{name} and {key:?}, which it owns: {owns}");
        }
    }
}

async fn interrupted(victim: usize) -> (Task, Task) {
    let mut cluster = Cluster::start(&SETTINGS).await;
    let client = cluster.client().await;
    for key in 0..KEYS {
        client.put(format!("k{key}"), value(key), PutOptions::default()).await.unwrap();
    }
    add(&mut cluster, &["--approve"]).await;
    let (ended, end) = tokio::sync::oneshot::channel();
    let course = async {
        let told = join_and_kill(&mut cluster, &client, victim).await;
        ended.send(()).unwrap();
        told
    };
    let end = async { end.await.unwrap() };
    let (report, told) = tokio::join!(steady::run_until(&client, LOAD, "steady", end), course);
    assert!(report.wrong.is_empty() && report.errors.is_empty(), "{:?} {:?}", report.wrong, report.errors);
    assert!(report.latencies.len() > 20, "{} answers are no load", report.latencies.len());

    for key in 0..KEYS {
        let all = GetOptions { r: Some(Consistency::All), ..GetOptions::default() };
        let found = client.get_with(format!("k{key}"), all).await.unwrap();
        let values: Vec<&[u8]> = found.siblings.iter().map(|sibling| &sibling.value[..]).collect();
        assert_eq!(values, [value(key).as_bytes()], "k{key}");
    }
    eventually("those who owned it before have dropped what they own no more", async || {
        let tasks = client.tasks(TaskOrder::List).await.unwrap().tasks;
        let dropped = |name| {
            let mut own = tasks.iter().filter(|task| task.kind == TaskKind::Shed && task.node == name).peekable();
            own.peek().is_some() && own.all(|task| task.state == TaskState::Done)
        };
        (0..TARGET).all(|node| dropped(cluster.name(node)))
    })
    .await;
    converged(&client, &cluster, "after the change").await;
    let view = client.refresh().await.unwrap();
    client.close().await;
    for node in 0..cluster.size() {
        cluster.kill(node).await;
    }
    let mut held = BTreeMap::new();
    for node in 0..cluster.size() {
        held.insert(cluster.name(node), stored(&cluster, node).await);
    }
    judge(&view, &held);
    told
}

#[tokio::test]
async fn a_node_that_is_killed_while_it_fetches_its_share_goes_on_with_what_it_lacks() {
    let (midst, ended) = interrupted(TARGET).await;
    let fetched = (midst.records, ended.records);
    // Its share is three quarters of all; some of the load's keys travel again.
    let share = (KEYS + LOAD.keys) as u64 * 3 / 4;
    assert!(
        fetched.0 > 50 && fetched.1 < share - fetched.0 / 2,
        "what was here has travelled again: {fetched:?} of {share}"
    );
}

#[tokio::test]
async fn a_change_goes_on_when_a_node_is_killed_that_is_fetched_from() {
    let (midst, ended) = interrupted(SOURCE).await;
    assert!(ended.records > midst.records && ended.state == TaskState::Done, "{midst:?} {ended:?}");
}
