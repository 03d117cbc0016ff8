//! Clusters that end and start again, in order and not, with every engine.

use std::cell::RefCell;
use std::path::Path;

use bytes::Bytes;
use dynamomini::client::Client;
use dynamomini::client::GetOptions;
use dynamomini::client::PutOptions;
use dynamomini::types::Epoch;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;

use crate::processes::Cluster;
use crate::processes::eventually;
use crate::processes::has_redis;
use crate::redis;

/// Keys that are read together.
const CHUNK: usize = 500;
/// Requests of one client that are under way together.
const IN_FLIGHT: usize = 32;

/// How many keys: enough for a verdict, few enough for every day, unless all is asked for.
fn keys() -> usize {
    if std::env::var("DYNAMOMINI_FULL").as_deref() == Ok("1") { 50_000 } else { 3_000 }
}

fn key(number: usize) -> String {
    format!("user/{number:06}")
}

/// A value of its key alone: every byte can be checked, and lengths from 0 to 2 KiB occur.
fn value(number: usize) -> Bytes {
    let mut state = u64::try_from(number).unwrap().wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |state: &mut u64| {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        u8::try_from(*state >> 56).unwrap()
    };
    let len = usize::from(step(&mut state)) * 8;
    (0..len).map(|_| step(&mut state)).collect()
}

async fn fill(clients: &[Client]) {
    let put = async |client: &Client, number: usize| {
        let put = client.put(key(number), value(number), PutOptions::default()).await;
        put.unwrap_or_else(|error| panic!("{}: {error}", key(number)));
    };
    let share = |(mine, client)| {
        let numbers = (0..keys()).filter(move |number| number % clients.len() == mine);
        stream::iter(numbers).for_each_concurrent(IN_FLIGHT, move |number| put(client, number))
    };
    join_all(clients.iter().enumerate().map(share)).await;
}

/// Reads every key through every node.
async fn check(cluster: &Cluster) {
    for node in 0..cluster.size() {
        let client = cluster.pinned(node).await;
        let numbers: Vec<usize> = (0..keys()).collect();
        for chunk in numbers.chunks(CHUNK) {
            let names: Vec<Bytes> = chunk.iter().map(|number| key(*number).into()).collect();
            let found = client.multi_get(&names, GetOptions::default()).await;
            assert_eq!(found.len(), chunk.len());
            for (number, found) in chunk.iter().zip(found) {
                let found = found.unwrap_or_else(|error| panic!("{} through {node}: {error}", key(*number)));
                assert_eq!(found.single(), Some(&value(*number)), "{} through {node}", key(*number));
            }
        }
        client.close().await;
    }
}

async fn every_key_is_read_through_every_node_also_after_a_restart(storage: &str) {
    let mut cluster = Cluster::start(&["--nodes", "5", "--storage", storage]).await;
    let clients = join_all((0..4).map(|_| cluster.client())).await;
    fill(&clients).await;
    check(&cluster).await;
    assert!(cluster.terminate().await.success(), "{}", cluster.said());
    cluster.start_again(&[]).await;
    check(&cluster).await;
}

#[tokio::test]
async fn every_key_is_read_through_every_node_also_after_a_restart_embedded() {
    every_key_is_read_through_every_node_also_after_a_restart("embedded").await;
}

#[tokio::test]
async fn every_key_is_read_through_every_node_also_after_a_restart_redis() {
    if has_redis() {
        every_key_is_read_through_every_node_also_after_a_restart("redis").await;
    }
}

/// Writes until it fails; what was acknowledged is noted.
async fn write_on(client: &Client, acknowledged: &RefCell<Vec<usize>>) {
    for number in 0.. {
        if client.put(key(number), value(number), PutOptions::default()).await.is_err() {
            return;
        }
        acknowledged.borrow_mut().push(number);
    }
}

async fn all_are_there(cluster: &Cluster, acknowledged: &[usize]) {
    assert!(acknowledged.len() >= 100, "{}", acknowledged.len());
    let client = cluster.client().await;
    for number in acknowledged {
        let found = client.get(key(*number)).await.unwrap();
        let values: Vec<&Bytes> = found.siblings.iter().map(|sibling| &sibling.value).collect();
        assert_eq!(values, [&value(*number)], "{} was acknowledged", key(*number));
    }
}

async fn quick(cluster: &Cluster) -> Client {
    let timeout = std::time::Duration::from_secs(2);
    cluster.builder().timeout(timeout).connect().await.unwrap()
}

#[tokio::test]
async fn ending_in_order_under_load_loses_no_acknowledged_write() {
    let mut cluster = Cluster::start(&[]).await;
    let client = quick(&cluster).await;
    let acknowledged = RefCell::new(Vec::new());
    let end = async {
        eventually("writes are under way", async || acknowledged.borrow().len() >= 100).await;
        assert!(cluster.terminate().await.success());
    };
    tokio::join!(write_on(&client, &acknowledged), end);
    assert!(cluster.events().iter().filter(|event| event["how"] == "exit status 0").count() == 3, "{}", cluster.said());
    cluster.start_again(&[]).await;
    all_are_there(&cluster, &acknowledged.into_inner()).await;
}

#[tokio::test]
async fn killing_all_nodes_loses_no_acknowledged_write() {
    let mut cluster = Cluster::start(&["--", "--set", "storage.durability=every-batch"]).await;
    let client = quick(&cluster).await;
    let acknowledged = RefCell::new(Vec::new());
    let end = async {
        eventually("writes are under way", async || acknowledged.borrow().len() >= 100).await;
        for node in 0..cluster.size() {
            cluster.kill(node).await;
        }
    };
    tokio::join!(write_on(&client, &acknowledged), end);
    for node in 0..cluster.size() {
        cluster.launch(node);
    }
    cluster.whole().await;
    all_are_there(&cluster, &acknowledged.into_inner()).await;
}

/// Sends a line to a redis-server and returns its answer.
pub(crate) fn say(cluster: &Cluster, node: usize, line: &str) -> std::io::Result<String> {
    redis::say(&Path::new(cluster.text(node, "dir")).join("redis/socket"), line)
}

async fn epoch(client: &Client, cluster: &Cluster, node: usize) -> Epoch {
    let answer = RefCell::new(None);
    let name = cluster.name(node);
    // A busy machine may take longer than one request waits.
    eventually("the status is told", async || {
        *answer.borrow_mut() = client.status(&name).await.ok();
        answer.borrow().is_some()
    })
    .await;
    answer.into_inner().unwrap().epoch
}

#[tokio::test]
async fn a_flushed_redis_gets_a_new_epoch_and_its_data_is_read_from_the_others() {
    if !has_redis() {
        return;
    }
    let cluster = Cluster::start(&["--storage", "redis"]).await;
    let client = cluster.client().await;
    for number in 0..200 {
        client.put(key(number), value(number), PutOptions::default()).await.unwrap();
    }
    let before = epoch(&client, &cluster, 0).await;
    assert!(say(&cluster, 0, "FLUSHALL").unwrap().starts_with("+OK"));
    for reader in 0..cluster.size() {
        let client = cluster.pinned(reader).await;
        for number in 0..200 {
            let found = client.get(key(number)).await.unwrap_or_else(|error| panic!("through {reader}: {error}"));
            assert_eq!(found.single(), Some(&value(number)), "{} through {reader}", key(number));
        }
    }
    eventually("the epoch changes", async || epoch(&client, &cluster, 0).await != before).await;
    // New writes under the new epoch are siblings of nothing.
    client.put("new", "value", PutOptions::default()).await.unwrap();
    assert_eq!(client.get("new").await.unwrap().single().unwrap(), "value");
}

#[tokio::test]
async fn a_redis_that_is_killed_and_started_again_keeps_its_data_and_its_node_goes_on() {
    if !has_redis() {
        return;
    }
    let mut cluster = Cluster::start(&["--storage", "redis"]).await;
    let client = cluster.client().await;
    for number in 0..200 {
        client.put(key(number), value(number), PutOptions::default()).await.unwrap();
    }
    cluster.kill_redis(1).await;
    let ended = async || cluster.events().iter().any(|event| event["process"] == "redis-server" && event["id"] == "n2");
    eventually("dev says that it has ended", ended).await;
    // Without it, its node is no use, but the other two are a quorum.
    for number in 200..300 {
        let put = client.put(key(number), value(number), PutOptions::default()).await;
        put.unwrap_or_else(|error| panic!("without the redis of n2: {error}"));
    }
    cluster.launch_redis(1);
    eventually("redis-server answers", async || {
        say(&cluster, 1, "PING").is_ok_and(|answer| answer.starts_with("+PONG"))
    })
    .await;
    let (name, watcher) = (cluster.name(1), cluster.client().await);
    eventually("the node is well again", async || {
        watcher.status(&name).await.is_ok_and(|status| status.health == "ok" && status.keys >= 200)
    })
    .await;
    let through = cluster.pinned(1).await;
    for number in 0..300 {
        let found = through.get(key(number)).await.unwrap_or_else(|error| panic!("{}: {error}", key(number)));
        assert_eq!(found.single(), Some(&value(number)), "{}", key(number));
    }
}
