//! Damaged tables of the embedded engine under real processes: what is lost comes back from the other owners, and what the
//! node cannot mend by itself it says, with what to type.

use std::path::PathBuf;

use bytes::Bytes;
use dynamomini::client::Client;
use dynamomini::client::PutOptions;

use crate::admin;
use crate::exposition;
use crate::processes::Cluster;
use crate::processes::counter;
use crate::processes::eventually;
use crate::sync::converged;
use crate::sync::fill;
use crate::sync::holds_all;
use crate::sync::sizes;
use crate::sync::statuses;
use crate::sync::value;

/// The node whose tables are damaged, by number from 0.
const VICTIM: usize = 1;

/// A value that lies in the tables, among others.
fn marked() -> String {
    value(sizes().0 - 100)
}

/// The tables of a node's storage that hold this value.
fn tables_with(cluster: &Cluster, value: &str) -> Vec<(PathBuf, usize)> {
    let (mut folders, mut found) = (vec![PathBuf::from(cluster.text(VICTIM, "dir")).join("data")], Vec::new());
    while let Some(folder) = folders.pop() {
        // What is being written may be gone again.
        for path in std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if folder.ends_with("tables") {
                let bytes = std::fs::read(&path).unwrap_or_default();
                let place = bytes.windows(value.len()).position(|window| window == value.as_bytes());
                found.extend(place.map(|place| (path, place)));
            }
        }
    }
    found
}

/// A cluster that holds everything, so much that a table of the victim has the marked value, and its client.
async fn with_tables(arguments: &[&str]) -> (Cluster, Client) {
    let cluster = Cluster::start(arguments).await;
    let client = cluster.client().await;
    fill(&client).await;
    let mut number = 0;
    while tables_with(&cluster, &marked()).is_empty() {
        write_more(&client, number).await;
        number += 1;
        assert!(number < 1_000, "no table was written");
    }
    converged(&client, &cluster, "before damage").await;
    (cluster, client)
}

/// Writes what fills tables.
async fn write_more(client: &Client, number: usize) {
    let large = Bytes::from(vec![7; 256 * 1024]);
    client.put(format!("large/{}", number % 64), large, PutOptions::default()).await.unwrap();
}

/// Changes the tables of the victim that hold the marked value, while it is down.
async fn damage(cluster: &mut Cluster, change: impl Fn(&mut Vec<u8>, usize)) {
    cluster.kill(VICTIM).await;
    for (path, place) in tables_with(cluster, &marked()) {
        let mut bytes = std::fs::read(&path).unwrap();
        change(&mut bytes, place);
        std::fs::write(&path, bytes).unwrap();
    }
    cluster.launch(VICTIM);
}

/// How often the victim has written its storage anew.
async fn rebuilds(cluster: &Cluster) -> f64 {
    let (_, text) = admin::get(cluster.text(VICTIM, "admin"), "/metrics").await;
    let name = "dynamomini_storage_rebuilds_total";
    exposition::parse(&text)[name].samples[name]
}

#[tokio::test]
async fn a_damaged_place_in_a_table_is_told_and_repaired_from_the_other_owners() {
    let (mut cluster, client) = with_tables(&[]).await;
    damage(&mut cluster, |bytes, place| bytes[place] ^= 1).await;
    cluster.whole().await;
    converged(&client, &cluster, "after damage").await;
    assert!(counter(&statuses(&client, &cluster).await[VICTIM], "records_damaged") > 0, "nobody was told");
    assert_eq!(rebuilds(&cluster).await, 0.0);
    holds_all(&mut cluster, VICTIM).await;
}

#[tokio::test]
async fn a_damaged_table_that_has_to_be_merged_has_the_storage_written_anew_and_filled_by_the_others() {
    let (mut cluster, client) = with_tables(&["--", "--set", "storage.cache_mib=1"]).await;
    let epoch = statuses(&client, &cluster).await[VICTIM].epoch;
    damage(&mut cluster, |bytes, place| bytes[place] ^= 1).await;
    cluster.whole().await;
    let mut number = 0;
    while rebuilds(&cluster).await < 1.0 {
        write_more(&client, number).await;
        number += 1;
        assert!(number < 2_000, "the damaged table was not merged");
    }
    converged(&client, &cluster, "written anew").await;
    let status = &statuses(&client, &cluster).await[VICTIM];
    assert!(status.epoch != epoch, "it names versions as before");
    eventually("the node is well", async || statuses(&client, &cluster).await[VICTIM].health == "ok").await;
    holds_all(&mut cluster, VICTIM).await;
}

#[tokio::test]
async fn a_node_that_cannot_open_its_storage_says_what_to_type_and_is_filled_after_that() {
    let (mut cluster, client) = with_tables(&[]).await;
    damage(&mut cluster, |bytes, _| bytes.truncate(0)).await;
    let log = PathBuf::from(cluster.text(VICTIM, "dir")).join("node.log");
    let mut said = None;
    eventually("the node says what to type", async || {
        let text = std::fs::read_to_string(&log).unwrap();
        let command = text.rsplit_once("type ").and_then(|(_, rest)| rest.split_once(" and start"));
        said = command.map(|(command, _)| command.to_owned());
        said.is_some()
    })
    .await;
    let said = said.unwrap();
    assert!(std::process::Command::new("sh").args(["-c", &said]).status().unwrap().success(), "{said}");
    cluster.launch(VICTIM);
    cluster.whole().await;
    converged(&client, &cluster, "moved away").await;
    assert!(
        PathBuf::from(cluster.text(VICTIM, "dir")).join("data/store/db.damaged").is_dir(),
        "what was there is gone"
    );
    holds_all(&mut cluster, VICTIM).await;
}
