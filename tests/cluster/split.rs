//! Partitions are cut in two under load, as an administrator types it, with a node killed in the middle; embedded and Redis.

use rustix::process::Signal;
use serde_json::Value;

use crate::ownership::{ask, check, done, fill, task};
use crate::processes::{Cluster, eventually, has_redis, send};
use crate::steady::{self, Steady};

/// What goes on meanwhile, each answer of which is checked.
const LOAD: Steady = Steady { requests: 500, per_second: 25, keys: 60 };

#[tokio::test]
async fn partitions_are_cut_while_a_node_is_killed() {
    cut(&[]).await;
}

#[tokio::test]
async fn partitions_are_cut_on_redis_while_a_node_is_killed() {
    if has_redis() {
        cut(&["--storage", "redis"]).await;
    }
}

async fn partitions(cluster: &Cluster) -> Value {
    done(cluster, "ring").await["partitions"].clone()
}

async fn cut(storage: &[&str]) {
    // With stand-ins a read may rightly miss a write for a while.
    let settings = ["--", "--set", "cluster.partitions=64", "--set", "namespaces.default.sloppy=false"];
    let words = [&["--nodes", "5"], storage, &settings].concat();
    let mut cluster = Cluster::start(&words).await;
    let client = cluster.client().await;
    fill(&client).await;
    let plan = done(&cluster, "cluster plan split").await;
    assert_eq!(plan["not_safe"], serde_json::json!([]), "{plan}");
    assert_eq!(plan["changes"], serde_json::json!(["partitions are cut in two: 128"]), "{plan}");
    let copies = plan["copies"].as_u64().unwrap();
    assert!(
        (40..=110).contains(&copies),
        "of 384 copies about half are of new partitions, of which two in five move: {plan}"
    );
    assert_eq!(partitions(&cluster).await, 64, "a plan changes nothing");

    let (report, id) = tokio::join!(steady::run(&client, LOAD, "steady"), split(&mut cluster));
    assert!(report.wrong.is_empty(), "{:?}", report.wrong);
    // A request that the killed node had taken may fail; most are tried at another.
    assert!(report.errors.len() <= 3, "{:?}", report.errors);
    assert_eq!(task(&cluster, &id).await.unwrap()["state"], "done");
    check(&client, "partitions were cut").await;
    assert_eq!(partitions(&cluster).await, 128);
    done(&cluster, "repair --wait --within 50s").await;

    client.close().await;
    // It was started by hand, so it does not end with the others.
    cluster.kill(1).await;
    assert!(cluster.terminate().await.success());
    cluster.start_again(&[]).await;
    assert_eq!(partitions(&cluster).await, 128, "it outlives a restart of all");
    check(&cluster.client().await, "after a restart").await;
    let (status, refused) = ask(&cluster, "repair --partition 128").await;
    assert!(status == Some(1) && refused.to_string().contains("no partition 128"), "{refused}");
}

/// Returns the task.
async fn split(cluster: &mut Cluster) -> String {
    // A member that is stopped keeps it from getting anywhere before another one is killed.
    let stopped = cluster.pid(3, "pid");
    send(stopped, Signal::STOP);
    let begun = done(cluster, "cluster split --yes --force").await;
    let id = begun["task"].as_str().unwrap().to_owned();
    cluster.kill(1).await;
    send(stopped, Signal::CONT);
    cluster.launch(1);
    let is_done = async || task(cluster, &id).await.is_some_and(|task| task["state"] == "done");
    eventually("the partitions are cut", is_done).await;
    id
}
