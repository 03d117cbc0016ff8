//! Conditional puts: of writers that compete exactly one wins, and whoever is refused has changed nothing.

use bytes::Bytes;
use dynamomini::client::{CausalContext, Client, ClientError, PutOptions};
use futures_util::future::join_all;

use crate::inprocess::{Cluster, Setup, Storage, bytes, eventually};

fn is_refused(error: &ClientError) -> bool {
    matches!(error, ClientError::Condition(_)) && !error.may_have_applied() && !error.is_retryable()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_put_if_absent_at_once_one_succeeds() {
    let cluster = Cluster::start(Setup { nodes: 4, ..Setup::default() }).await;
    let clients = cluster.pinned_each().await;
    for round in 0..10 {
        let key = format!("lock {round}");
        let puts = clients.iter().enumerate().map(|(at, client)| {
            let (key, value) = (key.clone(), at.to_string());
            async move { client.put(key, value, PutOptions::if_absent()).await }
        });
        let outcomes = join_all(puts).await;
        let winners: Vec<usize> = (0..clients.len()).filter(|at| outcomes[*at].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{outcomes:?}");
        assert!(outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).all(is_refused), "{outcomes:?}");
        for client in &clients {
            let found = client.get(key.clone()).await.unwrap();
            assert_eq!(found.single(), Some(&Bytes::from(winners[0].to_string())));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_key_is_absent_and_comes_back_without_siblings() {
    let cluster = Cluster::start(Setup::default()).await;
    let client = cluster.client().await;
    client.put("k", "first", PutOptions::if_absent()).await.unwrap();
    assert!(is_refused(&client.put("k", "second", PutOptions::if_absent()).await.unwrap_err()));
    client.delete("k", PutOptions::default()).await.unwrap();
    client.put("k", "second", PutOptions::if_absent()).await.unwrap();
    assert_eq!(client.get("k").await.unwrap().single(), Some(&bytes("second")));
}

/// Adds one to a number, again and again until nobody was faster; returns how often somebody was.
async fn add_one(client: &Client) -> usize {
    for refused in 0.. {
        let found = client.get("n").await.unwrap();
        let number: u64 = found.single().map_or(0, |value| std::str::from_utf8(value).unwrap().parse().unwrap());
        match client.put("n", (number + 1).to_string(), PutOptions::if_current(&found.context)).await {
            Ok(_) => return refused,
            Err(error) => assert!(is_refused(&error), "{error:?}"),
        }
    }
    unreachable!("the loop has no other end")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_kept_by_conditional_puts_counts_right_from_all_nodes_at_once() {
    const TIMES: usize = 10;
    let cluster = Cluster::start(Setup::default()).await;
    let clients = cluster.pinned_each().await;
    let counting = clients.iter().map(async |client| {
        for _ in 0..TIMES {
            add_one(client).await;
        }
    });
    join_all(counting).await;
    let total = (clients.len() * TIMES).to_string();
    assert_eq!(clients[0].get("n").await.unwrap().single(), Some(&Bytes::from(total)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_since_the_read_refuses_it_and_the_writers_own_write_does_not() {
    let cluster = Cluster::start(Setup::default()).await;
    let client = cluster.client().await;
    let first = client.put("k", "first", PutOptions::if_current(&CausalContext::default())).await.unwrap();
    let second = client.put("k", "second", PutOptions::if_current(&first.context)).await.unwrap();
    assert!(is_refused(&client.put("k", "late", PutOptions::if_current(&first.context)).await.unwrap_err()));
    client.put("k", "beside", PutOptions::default()).await.unwrap();
    assert!(is_refused(&client.delete("k", PutOptions::if_current(&second.context)).await.unwrap_err()));
    let found = client.get("k").await.unwrap();
    assert_eq!(found.siblings.len(), 2);
    client.delete("k", PutOptions::if_current(&found.context)).await.unwrap();
    assert!(!client.get("k").await.unwrap().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_majority_of_the_owners_is_enough_and_less_is_not() {
    let mut cluster = Cluster::start(Setup { storage: Storage::Embedded, ..Setup::default() }).await;
    let client = cluster.pinned(0).await;
    cluster.stop(2).await;
    eventually("the others know that it is gone", async || {
        let status = client.status(&cluster.name(0)).await.ok()?;
        (status.peers.iter().filter(|peer| peer.state == "up").count() == 1).then_some(())
    })
    .await;
    let written = client.put("k", "first", PutOptions::if_absent()).await.unwrap();
    assert_eq!(written.acks, 2);
    cluster.stop(1).await;
    let options = PutOptions { timeout: Some(std::time::Duration::from_secs(1)), ..PutOptions::if_absent() };
    let error = client.put("l", "first", options).await.unwrap_err();
    assert!(error.is_retryable() && !error.may_have_applied(), "{error:?}");
    cluster.start_node(1).await;
    // What the third missed comes to it by a hint, and counts.
    cluster.start_node(2).await;
    cluster.connected().await;
    for at in 0..3 {
        let error = cluster.pinned(at).await.put("k", "second", PutOptions::if_absent()).await.unwrap_err();
        assert!(is_refused(&error), "{error:?}");
    }
}
