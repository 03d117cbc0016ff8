//! A node's whole folder put back to an older copy, on real disks and sockets, after what was deleted has been dropped.

use std::path::Path;
use std::time::Duration;

use dynamomini::client::{CausalContext, Client, GetOptions, PutOptions};
use dynamomini::types::Consistency;
use dynamomini::wire::status::NodeStatus;
use dynamomini::wire::sync::RepairRequest;

use crate::inprocess::{Cluster, Setup, Storage};
use crate::processes::{counter, eventually};

const KEYS: usize = 60;
/// Long enough that what is written is still there when the copy is made.
const AFTER: Duration = Duration::from_secs(4);

fn key(number: usize) -> String {
    format!("key{number}")
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

async fn read_all(client: &Client, key: String) -> (usize, CausalContext) {
    let options =
        GetOptions { r: Some(Consistency::All), timeout: Some(Duration::from_secs(30)), ..GetOptions::default() };
    let found = client.get_with(key, options).await.unwrap();
    (found.siblings.len(), found.context)
}

async fn status(cluster: &Cluster, client: &Client, at: usize) -> Option<NodeStatus> {
    client.status(&cluster.name(at)).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_dropped_does_not_return_with_an_older_copy_of_a_folder() {
    let setup = Setup { storage: Storage::Embedded, reap_after: Some(AFTER), partitions: 16, ..Setup::default() };
    let mut cluster = Cluster::start(setup).await;
    let client = cluster.client().await;
    let all = PutOptions { w: Some(Consistency::All), ..PutOptions::default() };
    for number in 0..KEYS {
        // One third stays, one is deleted, one expires.
        let ttl = (number % 3 == 2).then_some(Duration::from_secs(8));
        client.put(key(number), "value", PutOptions { ttl, ..all.clone() }).await.unwrap();
    }
    cluster.stop(2).await;
    let copy = tempfile::tempdir().unwrap();
    copy_folder(&cluster.folder(2), copy.path());
    cluster.start_node(2).await;
    cluster.connected().await;
    for number in (0..KEYS).filter(|number| number % 3 == 1) {
        let (values, context) = read_all(&client, key(number)).await;
        assert_eq!(values, 1);
        client
            .delete(key(number), PutOptions { w: Some(Consistency::All), ..PutOptions::after(&context) })
            .await
            .unwrap();
    }
    let dropped = 2 * KEYS as u64 / 3;
    eventually("what is dead is dropped by all owners", async || {
        let mut reaped = Vec::new();
        for at in 0..3 {
            // Otherwise, what has not changed since it was compared is compared again every few minutes only.
            let compare = RepairRequest { partition: None, since_ms: None };
            client.repair(&cluster.name(at), compare).await.unwrap();
            reaped.push(status(&cluster, &client, at).await.map_or(0, |status| counter(&status, "reaped")));
        }
        tokio::time::sleep(AFTER / 10).await;
        reaped.iter().all(|reaped| *reaped >= dropped)
    })
    .await;
    cluster.stop(2).await;
    std::fs::remove_dir_all(cluster.folder(2)).unwrap();
    copy_folder(copy.path(), &cluster.folder(2));
    cluster.start_node(2).await;
    eventually("the node notices and has caught up", async || {
        let status = status(&cluster, &client, 2).await;
        status.is_some_and(|status| counter(&status, "went_back_dropped") >= dropped / 2 && status.health == "ok")
    })
    .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    for number in 0..KEYS {
        let (values, _) = read_all(&client, key(number)).await;
        assert_eq!(values, usize::from(number % 3 == 0), "{}", key(number));
    }
}
