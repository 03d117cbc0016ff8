//! Nodes that are killed under their clients.

use std::time::Duration;

use dynamomini::client::Client;
use dynamomini::client::ClientError;
use dynamomini::client::GetOptions;
use dynamomini::client::PutOptions;
use dynamomini::types::Namespace;
use dynamomini::types::NodeName;
use dynamomini::types::{Consistency, Copies};
use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::Instant;

use crate::processes::Cluster;
use crate::processes::counter;
use crate::processes::eventually;

#[tokio::test]
async fn what_one_node_took_every_other_one_gives() {
    let cluster = Cluster::start(&["--storage", "memory"]).await;
    let mut clients = Vec::new();
    for node in 0..cluster.size() {
        clients.push(cluster.pinned(node).await);
    }
    for (node, client) in clients.iter().enumerate() {
        for key in 0..20 {
            let (key, value) = (format!("{node}/{key}"), format!("value {key} through {node}"));
            client.put(key.clone(), value.clone(), PutOptions::default()).await.unwrap();
            for reader in &clients {
                assert_eq!(reader.get(key.clone()).await.unwrap().single().unwrap(), &value);
            }
        }
    }
}

/// Puts and gets a key; panics with the error that reached this client.
async fn operate(client: &Client, key: String) -> Duration {
    let begun = Instant::now();
    let put = client.put(key.clone(), key.clone(), PutOptions::default()).await;
    put.unwrap_or_else(|error| panic!("put {key}: {error}"));
    let found = client.get(key.clone()).await.unwrap_or_else(|error| panic!("get {key}: {error}"));
    assert_eq!(found.single().map(|value| value.as_ref()), Some(key.as_bytes()), "{key}");
    begun.elapsed()
}

#[tokio::test]
async fn any_one_node_may_be_killed_and_no_error_reaches_a_client() {
    let mut cluster = Cluster::start(&[]).await;
    for victim in 0..cluster.size() {
        let client = cluster.client().await;
        let load = async {
            let keys = stream::iter((0..400).map(|key| format!("{victim}/{key}")));
            let times = keys.map(|key| operate(&client, key)).buffer_unordered(4).collect::<Vec<_>>().await;
            times.into_iter().max().unwrap()
        };
        let kill = async {
            // In the midst of it, which is when some of the writes are there.
            let seen = cluster.client().await;
            let key = format!("{victim}/40");
            eventually("the load is under way", async || seen.get(key.clone()).await.is_ok_and(|found| found.exists()))
                .await;
            cluster.kill(victim).await;
        };
        let (longest, ()) = tokio::join!(load, kill);
        eprintln!("n{} killed under 800 operations: the longest put and get took {longest:?}", victim + 1);
        assert!(longest < Duration::from_secs(10), "{longest:?}");
        // It goes on while the node stays away, and at no worse a pace than that.
        for key in 0..50 {
            operate(&client, format!("{victim}/without/{key}")).await;
        }
        cluster.launch(victim);
        cluster.whole().await;
    }
}

#[tokio::test]
async fn without_a_quorum_the_error_tells_all_and_the_data_comes_back_with_the_nodes() {
    let mut cluster = Cluster::start(&[]).await;
    let client = cluster.client().await;
    for key in 0..100 {
        client.put(format!("k{key}"), format!("v{key}"), PutOptions::default()).await.unwrap();
    }
    cluster.kill(1).await;
    cluster.kill(2).await;
    let alone = cluster.pinned(0).await;
    let options = PutOptions { timeout: Some(Duration::from_secs(3)), ..PutOptions::default() };
    let put = alone.put("k0", "new", options).await.unwrap_err();
    let options = GetOptions { timeout: Some(Duration::from_secs(3)), ..GetOptions::default() };
    let get = alone.get_with("k0", options).await.unwrap_err();
    for error in [put, get] {
        let text = error.to_string();
        let ClientError::Quorum(quorum) = &error else { panic!("not a quorum error: {error:?}") };
        assert_eq!((quorum.needed, quorum.got.len(), quorum.missing.len()), (2, 1, 2), "{text}");
        for part in ["needed 2, got 1 from n1", "n2 (", "n3 ("] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(quorum.missing.iter().all(|(_, why)| !why.is_empty()), "{text}");
        assert!(error.is_retryable());
    }
    cluster.launch(1);
    cluster.launch(2);
    cluster.whole().await;
    for key in 1..100 {
        let found = client.get(format!("k{key}")).await.unwrap();
        assert_eq!(found.single().unwrap(), &format!("v{key}"));
    }
    let found = client.get("k0").await.unwrap();
    assert!(found.siblings.iter().any(|sibling| sibling.value == "v0"), "{found:?}");
}

/// The owners of a key, best first.
fn owners(client: &Client, key: &str) -> Vec<NodeName> {
    let view = client.view();
    let (_, partition) = view.place(&Namespace::default(), key.as_bytes());
    let owners = view.ring(Copies::settled(3)).unwrap().preference_list(partition).to_vec();
    owners.into_iter().map(|owner| view.name_of(owner)).collect()
}

#[tokio::test]
async fn stand_ins_take_a_write_and_hand_it_to_its_owners_when_they_return() {
    let mut cluster = Cluster::start(&["--nodes", "5"]).await;
    let client = cluster.client().await;
    // Keys of the same owners, so that killing two of them concerns each.
    let three = owners(&client, "first");
    let alike: Vec<String> =
        (0..).map(|number| format!("key{number}")).filter(|key| owners(&client, key) == three).take(10).collect();
    let away: Vec<usize> = three[1..].iter().map(|name| cluster.number(name)).collect();
    for node in &away {
        cluster.kill(*node).await;
    }
    let all = PutOptions { w: Some(Consistency::All), timeout: Some(Duration::from_secs(20)), ..PutOptions::default() };
    for key in &alike {
        let written = client.put(key.clone(), format!("of {key}"), all.clone()).await;
        assert_eq!(written.unwrap_or_else(|error| panic!("{key}: {error}")).acks, 3);
    }
    for node in &away {
        cluster.launch(*node);
    }
    cluster.whole().await;
    let others: Vec<NodeName> =
        (0..cluster.size()).filter(|node| !away.contains(node)).map(|node| cluster.name(node)).collect();
    let names: Vec<NodeName> = away.iter().map(|node| cluster.name(*node)).collect();
    eventually("the owners hold what they missed", async || {
        for name in &names {
            if !client.status(name).await.is_ok_and(|status| status.keys >= 10) {
                return false;
            }
        }
        true
    })
    .await;
    eventually("no hint is left", async || {
        for name in &others {
            if !client.status(name).await.is_ok_and(|status| status.hints == 0) {
                return false;
            }
        }
        true
    })
    .await;
    let (mut delivered, mut repairs) = (0, 0);
    for node in 0..cluster.size() {
        let status = client.status(&cluster.name(node)).await.unwrap();
        delivered += counter(&status, "hints_delivered");
        repairs += counter(&status, "read_repairs");
    }
    assert!(delivered >= 20, "each of the two was handed each of the ten, but only {delivered} hints were delivered");
    assert_eq!(repairs, 0, "nobody has read anything");
    // At R = 1 an owner answers from its own storage.
    let one = GetOptions { r: Some(Consistency::One), ..GetOptions::default() };
    for node in &away {
        let owner = cluster.pinned(*node).await;
        for key in &alike {
            let found = owner.get_with(key.clone(), one.clone()).await.unwrap();
            assert_eq!(found.single().unwrap(), &format!("of {key}"));
        }
    }
}
