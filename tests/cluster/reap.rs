//! Deleted keys leave real redis-servers by proof, and return neither with a node that was away nor with an older dump.

use std::time::Duration;

use dynamomini::client::{Client, GetOptions, PutOptions};
use dynamomini::types::Consistency;
use dynamomini::wire::sync::RepairRequest;

use crate::inprocess::{Cluster, Setup, Storage};
use crate::processes::{counter, eventually, has_redis};

const KEYS: usize = 60;
/// The node that is away, or put back.
const VICTIM: usize = 2;
const AFTER: Duration = Duration::from_secs(3);

fn key(number: usize) -> String {
    format!("key{number}")
}

/// Every third key is deleted.
fn is_deleted(number: usize) -> bool {
    number % 3 == 1
}

fn deleted() -> u64 {
    (0..KEYS).filter(|number| is_deleted(*number)).count() as u64
}

/// A cluster on Redis, with all keys at all owners.
async fn filled() -> (Cluster, Client) {
    let setup = Setup { storage: Storage::Redis, reap_after: Some(AFTER), partitions: 16, ..Setup::default() };
    let cluster = Cluster::start(setup).await;
    let client = cluster.client().await;
    for number in 0..KEYS {
        let all = PutOptions { w: Some(Consistency::All), ..PutOptions::default() };
        client.put(key(number), "value", all).await.unwrap();
    }
    (cluster, client)
}

async fn delete(client: &Client) {
    for number in (0..KEYS).filter(|number| is_deleted(*number)) {
        let found = client.get(key(number)).await.unwrap();
        assert_eq!(found.siblings.len(), 1);
        client.delete(key(number), PutOptions::after(&found.context)).await.unwrap();
    }
}

/// A counter of a running node; zero while it does not answer.
async fn count(cluster: &Cluster, client: &Client, at: usize, what: &str) -> u64 {
    client.status(&cluster.name(at)).await.map_or(0, |status| counter(&status, what))
}

/// Waits until all nodes have dropped what was deleted.
async fn dropped(cluster: &Cluster, client: &Client) {
    eventually("all nodes drop what was deleted", async || {
        let mut all = true;
        for at in 0..3 {
            // Dead records are proposed when all owners were found equal since they died; by itself that is looked at twice a
            // minute, for each pair of owners at a time of its own.
            let compare = RepairRequest { partition: None, since_ms: None };
            all &= client.repair(&cluster.name(at), compare).await.is_ok();
            all &= count(cluster, client, at, "reaped").await >= deleted();
        }
        tokio::time::sleep(AFTER / 10).await;
        all
    })
    .await;
}

/// Whether one node by itself shows what it must of each key: of a deleted one not even that it was there.
async fn shows_all(cluster: &Cluster, at: usize) -> bool {
    let pinned = cluster.pinned(at).await;
    let mut all = true;
    for number in 0..KEYS {
        let one =
            GetOptions { r: Some(Consistency::One), timeout: Some(Duration::from_secs(5)), ..GetOptions::default() };
        let shown = pinned.get_with(key(number), one).await;
        all &= shown.is_ok_and(|found| match is_deleted(number) {
            true => found.siblings.is_empty() && found.context.is_empty(),
            false => found.siblings.len() == 1,
        });
    }
    pinned.close().await;
    all
}

async fn nothing_returned(cluster: &Cluster) {
    for _ in 0..2 {
        for at in 0..3 {
            eventually("a node shows what it must", async || shows_all(cluster, at).await).await;
        }
        // Comparisons and rounds of dropping go on.
        tokio::time::sleep(AFTER).await;
    }
    for at in 0..3 {
        assert!(shows_all(cluster, at).await, "something returned at {}", cluster.name(at));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_keeps_tombstones_while_a_node_is_away_and_drops_them_when_it_has_them_too() {
    if !has_redis() {
        return;
    }
    let (mut cluster, client) = filled().await;
    cluster.stop(VICTIM).await;
    delete(&client).await;
    tokio::time::sleep(2 * AFTER).await;
    for at in (0..3).filter(|at| *at != VICTIM) {
        assert_eq!(
            count(&cluster, &client, at, "reaped").await,
            0,
            "dropped while a node was away that has the values"
        );
    }
    cluster.start_node(VICTIM).await;
    cluster.connected().await;
    dropped(&cluster, &client).await;
    nothing_returned(&cluster).await;
    // Away once more, now past the proof, with nothing left to bring back.
    cluster.stop(VICTIM).await;
    tokio::time::sleep(AFTER).await;
    cluster.start_node(VICTIM).await;
    cluster.connected().await;
    nothing_returned(&cluster).await;
}

/// Has a Redis go back to a dump from before keys were deleted and dropped: under a running node, or with all that the node
/// keeps beside it while that is down.
async fn an_older_dump(running: bool) {
    if !has_redis() {
        return;
    }
    let (mut cluster, client) = filled().await;
    let memo = cluster.folder(VICTIM).join("memo");
    let older = (cluster.redis(VICTIM).dump(), std::fs::read(&memo).unwrap());
    delete(&client).await;
    dropped(&cluster, &client).await;
    let epoch = client.status(&cluster.name(VICTIM)).await.unwrap().epoch;
    if running {
        cluster.redis(VICTIM).put_back(&older.0);
    } else {
        cluster.stop(VICTIM).await;
        cluster.redis(VICTIM).put_back(&older.0);
        std::fs::write(&memo, &older.1).unwrap();
        cluster.start_node(VICTIM).await;
        cluster.connected().await;
    }
    eventually("the node notices and has caught up", async || {
        let status = client.status(&cluster.name(VICTIM)).await;
        status.is_ok_and(|status| {
            status.epoch != epoch && counter(&status, "went_back_dropped") == deleted() && status.health == "ok"
        })
    })
    .await;
    nothing_returned(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_dropped_does_not_return_when_redis_goes_back_to_an_older_dump_under_its_node() {
    an_older_dump(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_dropped_does_not_return_when_redis_and_all_that_its_node_keeps_go_back() {
    an_older_dump(false).await;
}
