//! The number of copies of a namespace changes in a cluster of processes, under load and with a process killed.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use dynamomini::client::{Client, PutOptions};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::ownership::{ask, done};
use crate::processes::{Cluster, eventually};

/// Keys of the load.
const KEYS: usize = 200;
/// In which a request must have succeeded, however often it was tried.
const PATIENCE: Duration = Duration::from_secs(60);

fn name(key: usize) -> String {
    format!("k{key}")
}

/// Rising numbers under each key, and the last that was acknowledged.
struct Counters {
    acknowledged: RefCell<Vec<u64>>,
    ends: Cell<bool>,
}

impl Counters {
    fn new() -> Self {
        Self { acknowledged: RefCell::new(vec![0; KEYS]), ends: Cell::new(false) }
    }

    /// Reads a key until that succeeds, which must find what was acknowledged before, or something later.
    async fn check(&self, client: &Client, key: usize) -> dynamomini::client::Found {
        let began = Instant::now();
        loop {
            let before = self.acknowledged.borrow()[key];
            match client.get(name(key)).await {
                Ok(found) => {
                    let number = |value: &[u8]| std::str::from_utf8(value).unwrap().parse::<u64>().unwrap();
                    let highest = found.siblings.iter().map(|sibling| number(&sibling.value)).max().unwrap_or(0);
                    assert!(highest >= before, "{highest} was read of {} after {before}", name(key));
                    return found;
                }
                Err(error) => assert!(began.elapsed() < PATIENCE, "a get of {}: {error}", name(key)),
            }
        }
    }

    /// Reads a key and writes the next number, until that succeeds.
    async fn count(&self, client: &Client, key: usize) {
        let (next, began) = (self.acknowledged.borrow()[key] + 1, Instant::now());
        loop {
            let found = self.check(client, key).await;
            match client.put(name(key), next.to_string(), PutOptions::after(&found.context)).await {
                Ok(_) => break,
                Err(error) => assert!(began.elapsed() < PATIENCE, "a put of {}: {error}", name(key)),
            }
        }
        self.acknowledged.borrow_mut()[key] = next;
    }

    async fn round(&self, client: &Client) {
        for key in 0..KEYS {
            self.count(client, key).await;
        }
    }

    async fn run(&self, client: &Client) {
        while !self.ends.get() {
            self.round(client).await;
        }
    }
}

async fn copies(cluster: &Cluster) -> (Value, u64) {
    let ring = done(cluster, "ring").await;
    let nodes = ring["rings"][0]["nodes"].as_array().unwrap().clone();
    (ring["namespaces"][0]["n"].clone(), nodes.iter().map(|node| node["owned"].as_u64().unwrap()).sum())
}

async fn grow(cluster: &mut Cluster) {
    let begun = done(cluster, "cluster copies default 3 --yes").await;
    let id = begun["task"].as_str().unwrap().to_owned();
    cluster.kill(2).await;
    sleep(Duration::from_secs(1)).await;
    let shown = done(cluster, "cluster show").await;
    assert_eq!(shown["task"], *id, "it cannot be done without the node that was killed: {shown}");
    assert_eq!(shown["changes"], serde_json::json!(["namespace default gets 3 copies of each key"]));
    cluster.launch(2);
    assert_eq!(done(cluster, &format!("tasks wait {id}")).await["state"], "done");
    assert_eq!(copies(cluster).await, (3.into(), 3 * 64));
}

#[tokio::test]
async fn a_namespace_gets_a_third_copy_under_load_while_a_node_is_killed_and_keeps_it() {
    let settings = ["cluster.partitions=64", "namespaces.default.n=2", "namespaces.default.sloppy=false"]
        .map(|set| ["--set", set]);
    let mut cluster = Cluster::start(&[&["--nodes", "4", "--"], settings.concat().as_slice()].concat()).await;
    let client = cluster.client().await;
    let counters = Counters::new();
    counters.round(&client).await;
    assert_eq!(copies(&cluster).await, (2.into(), 2 * 64));
    let change = async {
        grow(&mut cluster).await;
        counters.ends.set(true);
    };
    tokio::join!(counters.run(&client), change);
    counters.round(&client).await;

    let status = done(&cluster, "status").await.to_string();
    assert!(status.contains("the configuration says namespaces.default.n = 2; the cluster goes by 3"), "{status}");
    let (status, refused) = ask(&cluster, "cluster copies default 1 --yes").await;
    assert!(status == Some(1) && refused["refused"].to_string().contains("would be on one node"), "{refused}");
    let (status, refused) = ask(&cluster, "cluster plan copies elsewhere 2").await;
    assert!(status == Some(1) && refused.to_string().contains("there is no namespace elsewhere"), "{refused}");
    eventually("nobody holds more than its own", async || {
        let listed = done(&cluster, "tasks list").await;
        listed["tasks"].as_array().unwrap().iter().all(|task| task["state"] == "done")
    })
    .await;

    for node in 0..cluster.size() {
        cluster.kill(node).await;
    }
    (0..cluster.size()).for_each(|node| cluster.launch(node));
    cluster.whole().await;
    assert_eq!(copies(&cluster).await, (3.into(), 3 * 64), "all were killed and started again");
    counters.round(&client).await;
}
