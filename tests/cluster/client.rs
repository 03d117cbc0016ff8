//! What a client sees of a whole cluster: reads and writes through every node, siblings, namespaces, scans, failures.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use dynamomini::client::{BatchPut, CausalContext, Client, ClientError, Found, GetOptions, PutOptions, ScanOptions};
use dynamomini::limits;
use dynamomini::types::{ConflictPolicy, Consistency, Copies, NamespacePolicy};
use dynamomini::wire::rpc::ServeError;
use tokio::time::Instant;

use crate::inprocess::{Cluster, Setup, Storage, bytes, eventually, namespace};

fn values(found: &Found) -> BTreeSet<Bytes> {
    found.siblings.iter().map(|sibling| sibling.value.clone()).collect()
}

fn batch(key: impl Into<Bytes>, value: impl Into<Bytes>) -> BatchPut {
    let context = CausalContext::default();
    BatchPut { key: key.into(), value: Some(value.into()), context, ttl: None, condition: None }
}

async fn all_keys(client: &Client, prefix: &'static str, options: ScanOptions) -> Vec<Bytes> {
    let mut scan = client.scan(prefix, options);
    let mut keys = Vec::new();
    while let Some((key, _)) = scan.next().await.unwrap() {
        keys.push(key);
    }
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_through_one_node_is_read_through_each_other_one() {
    let cluster = Cluster::start(Setup { nodes: 5, ..Setup::default() }).await;
    let clients = cluster.pinned_each().await;
    for (at, writer) in clients.iter().enumerate() {
        for number in 0..10 {
            let key = format!("key {at} {number}");
            let written = writer.put(key.clone(), key.clone(), PutOptions::default()).await.unwrap();
            assert!(written.acks >= 2);
            for reader in &clients {
                assert_eq!(reader.get(key.clone()).await.unwrap().single(), Some(&Bytes::from(key.clone())));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_puts_under_one_context_make_two_siblings_at_every_reader_and_their_joint_context_leaves_one() {
    let cluster = Cluster::start(Setup::default()).await;
    let clients = cluster.pinned_each().await;
    let first = clients[0].put("k", "first", PutOptions::default()).await.unwrap();
    let after = PutOptions::after(&first.context);
    let (left, right) = tokio::join!(clients[1].put("k", "left", after.clone()), clients[2].put("k", "right", after));
    let (left, right) = (left.unwrap(), right.unwrap());
    assert_ne!(left.dot, right.dot);
    let mut joint = CausalContext::default();
    for reader in &clients {
        let found = reader.get("k").await.unwrap();
        assert_eq!(values(&found), BTreeSet::from([bytes("left"), bytes("right")]));
        assert_eq!(found.single(), None);
        joint = found.context;
    }
    clients[0].put("k", "one", PutOptions::after(&joint)).await.unwrap();
    for reader in &clients {
        assert_eq!(reader.get("k").await.unwrap().single(), Some(&bytes("one")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_context_of_a_put_never_supersedes_what_its_writer_has_not_seen() {
    let cluster = Cluster::start(Setup::default()).await;
    let clients = cluster.pinned_each().await;
    for (key, other) in [("through another node", 1), ("through the same node", 0)] {
        clients[0].put(key, "unseen", PutOptions::default()).await.unwrap();
        let mine = clients[other].put(key, "mine", PutOptions::default()).await.unwrap();
        clients[other].put(key, "mine again", PutOptions::after(&mine.context)).await.unwrap();
        for reader in &clients {
            let found = values(&reader.get(key).await.unwrap());
            assert!(found.contains("unseen".as_bytes()), "{key}: an acknowledged write is lost: {found:?}");
            assert!(found.contains("mine again".as_bytes()), "{key}: {found:?}");
        }
    }
    // Alone, a writer needs no read between its writes.
    let mut context = CausalContext::default();
    for (number, client) in clients.iter().cycle().take(9).enumerate() {
        context = client.put("alone", format!("{number}"), PutOptions::after(&context)).await.unwrap().context;
        assert_eq!(client.get("alone").await.unwrap().siblings.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_leaves_nothing_to_read_and_a_late_writer_beside_it_stays() {
    let cluster = Cluster::start(Setup::default()).await;
    let clients = cluster.pinned_each().await;
    clients[0].put("blind", "value", PutOptions::default()).await.unwrap();
    clients[1].delete("blind", PutOptions::default()).await.unwrap();
    for reader in &clients {
        let found = reader.get("blind").await.unwrap();
        assert!(!found.exists(), "a delete without a context deletes what the coordinator has: {found:?}");
    }
    let seen = clients[0].put("k", "seen", PutOptions::default()).await.unwrap().context;
    clients[1].put("k", "unseen", PutOptions::default()).await.unwrap();
    clients[2].delete("k", PutOptions::after(&seen)).await.unwrap();
    for reader in &clients {
        assert_eq!(reader.get("k").await.unwrap().single(), Some(&bytes("unseen")));
    }
    clients[0].delete("never written", PutOptions::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_keeps_the_last_write_has_no_siblings() {
    let last = NamespacePolicy { conflict: ConflictPolicy::LastWriteWins, ..NamespacePolicy::default() };
    let namespaces = vec![("default", NamespacePolicy::default()), ("last", last)];
    let cluster = Cluster::start(Setup { namespaces, ..Setup::default() }).await;
    let clients: Vec<Client> =
        cluster.pinned_each().await.iter().map(|client| client.in_namespace(namespace("last"))).collect();
    for (at, writer) in clients.iter().enumerate() {
        writer.put("k", format!("{at}"), PutOptions::default()).await.unwrap();
    }
    for reader in &clients {
        assert_eq!(reader.get("k").await.unwrap().single(), Some(&bytes("2")));
    }
    // Namespaces do not see each other's keys.
    assert!(!clients[0].in_namespace(namespace("default")).get("k").await.unwrap().exists());
    clients[1].delete("k", PutOptions::default()).await.unwrap();
    assert!(!clients[0].get("k").await.unwrap().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_gone_when_its_time_has_come() {
    let brief = NamespacePolicy { ttl: Some(Duration::from_millis(300)), ..NamespacePolicy::default() };
    let namespaces = vec![("default", NamespacePolicy::default()), ("brief", brief)];
    let cluster = Cluster::start(Setup { namespaces, ..Setup::default() }).await;
    let client = cluster.client().await;
    let brief = client.in_namespace(namespace("brief"));
    let options = PutOptions { ttl: Some(Duration::from_millis(300)), ..PutOptions::default() };
    let long = PutOptions { ttl: Some(Duration::from_secs(3600)), ..PutOptions::default() };
    client.put("k", "v", options).await.unwrap();
    brief.put("k", "v", PutOptions::default()).await.unwrap();
    brief.put("longer", "v", long).await.unwrap();
    let found = client.get("k").await.unwrap();
    assert!(found.siblings.iter().all(|sibling| sibling.expires_at.is_some()));
    for client in [&client, &brief] {
        eventually("it is expired", async || (!client.get("k").await.unwrap().exists()).then_some(())).await;
    }
    assert!(brief.get("longer").await.unwrap().exists());
    assert_eq!(all_keys(&brief, "", ScanOptions::default()).await, ["longer"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_of_the_greatest_length_survives_the_round_trip() {
    let cluster = Cluster::start(Setup::default()).await;
    let client = cluster.client().await;
    let value: Bytes = (0..limits::VALUE_MAX).map(|at| u8::try_from(at * 31 % 251).unwrap()).collect();
    let options = PutOptions { timeout: Some(Duration::from_secs(60)), ..PutOptions::default() };
    client.put("large", value.clone(), options).await.unwrap();
    let options =
        GetOptions { timeout: Some(Duration::from_secs(60)), r: Some(Consistency::All), ..GetOptions::default() };
    assert!(client.get_with("large", options).await.unwrap().single() == Some(&value));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_has_every_key_that_stays_exactly_once_while_writes_go_on() {
    let cluster = Cluster::start(Setup::default()).await;
    let client = cluster.client().await;
    let stay: Vec<Bytes> = (0..500).map(|number| Bytes::from(format!("stay/{number:04}"))).collect();
    let puts = stay.iter().map(|key| batch(key.clone(), "v")).collect();
    assert!(client.multi_put(puts, PutOptions::default()).await.iter().all(Result::is_ok));
    let mut scan = client.scan("stay/", ScanOptions { page: 7, ..ScanOptions::default() });
    let mut keys = Vec::new();
    while let Some((key, found)) = scan.next().await.unwrap() {
        assert!(found.exists());
        let number = keys.len();
        client.put(format!("stay/late {number}"), "v", PutOptions::default()).await.unwrap();
        client.put(format!("other/{number}"), "v", PutOptions::default()).await.unwrap();
        client.put(key.clone(), "again", PutOptions::after(&found.context)).await.unwrap();
        keys.push(key);
        assert!(keys.len() < 10_000, "the scan does not end");
    }
    let set: BTreeSet<Bytes> = keys.iter().cloned().collect();
    assert_eq!(set.len(), keys.len(), "a key came twice");
    assert!(stay.iter().all(|key| set.contains(key)));
    assert!(keys.iter().all(|key| key.starts_with(b"stay/")));
    let options = ScanOptions { keys_only: true, page: 3, ..ScanOptions::default() };
    let again = all_keys(&cluster.pinned(1).await, "stay/0", options).await;
    assert_eq!(again.len(), 500, "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_reaches_all_owners_and_comes_back_in_order() {
    let cluster = Cluster::start(Setup { nodes: 5, ..Setup::default() }).await;
    let client = cluster.client().await;
    let keys: Vec<Bytes> = (0..2_500).map(|number| Bytes::from(format!("k{number}"))).collect();
    let puts = keys.iter().map(|key| batch(key.clone(), key.clone())).collect();
    let written = client.multi_put(puts, PutOptions::default()).await;
    assert!(written.iter().all(Result::is_ok));
    let mut asked = keys.clone();
    asked.insert(7, bytes("absent"));
    asked.insert(8, bytes(""));
    for client in [client, cluster.pinned(4).await] {
        let found = client.multi_get(&asked, GetOptions::default()).await;
        for (key, found) in asked.iter().zip(&found) {
            match (&key[..], found) {
                (b"absent", Ok(found)) => assert!(!found.exists()),
                (b"", Err(ClientError::Rejected(ServeError::Invalid(_)))) => {}
                (_, Ok(found)) => assert_eq!(found.single(), Some(key)),
                (_, Err(error)) => panic!("{error}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_with_more_bytes_than_one_request_may_hold_is_split_both_ways() {
    let cluster = Cluster::start(Setup::default()).await;
    let client = cluster.client().await;
    let size = 3 * 1024 * 1024;
    let values: Vec<Bytes> = (0..20_u8).map(|fill| Bytes::from(vec![fill; size])).collect();
    assert!(values.len() * size > 3 * limits::BATCH_BYTES_MAX);
    let puts = values.iter().enumerate().map(|(at, value)| batch(format!("{at}"), value.clone())).collect();
    let options = PutOptions { timeout: Some(Duration::from_secs(100)), ..PutOptions::default() };
    for written in client.multi_put(puts, options).await {
        written.unwrap();
    }
    let keys: Vec<Bytes> = (0..values.len()).map(|at| Bytes::from(format!("{at}"))).collect();
    let options = GetOptions { timeout: Some(Duration::from_secs(100)), ..GetOptions::default() };
    for (value, found) in values.iter().zip(client.multi_get(&keys, options).await) {
        assert!(found.unwrap().single() == Some(value));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_batch_each_key_stands_and_fails_alone() {
    let single = NamespacePolicy { n: 1, sloppy: false, ..NamespacePolicy::default() };
    let mut cluster = Cluster::start(Setup { namespaces: vec![("default", single)], ..Setup::default() }).await;
    let client = cluster.pinned(0).await;
    cluster.stop(2).await;
    let dead = cluster.name(2);
    let view = client.view();
    let keys: Vec<Bytes> = (0..60).map(|number| Bytes::from(format!("k{number}"))).collect();
    let owned_by_dead = |key: &Bytes| {
        let (_, partition) = view.place(&namespace("default"), key);
        view.name_of(view.ring(Copies::settled(1)).unwrap().preference_list(partition)[0]) == dead
    };
    assert!(keys.iter().any(owned_by_dead) && !keys.iter().all(owned_by_dead));
    let options = PutOptions { timeout: Some(Duration::from_secs(4)), ..PutOptions::default() };
    let written = client.multi_put(keys.iter().map(|key| batch(key.clone(), "v")).collect(), options).await;
    let options = GetOptions { timeout: Some(Duration::from_secs(4)), ..GetOptions::default() };
    let found = client.multi_get(&keys, options).await;
    for (key, (written, found)) in keys.iter().zip(written.iter().zip(&found)) {
        if owned_by_dead(key) {
            assert!(matches!(written, Err(ClientError::Quorum(_))), "{written:?}");
            assert!(matches!(found, Err(ClientError::Quorum(_))), "{found:?}");
        } else {
            assert!(written.is_ok() && found.as_ref().unwrap().exists(), "{written:?} {found:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_killed_costs_no_error_and_little_time() {
    let mut cluster = Cluster::start(Setup { nodes: 3, ..Setup::default() }).await;
    let client = cluster.client().await;
    for number in 0..100 {
        client.put(format!("before {number}"), "v", PutOptions::default()).await.unwrap();
    }
    cluster.kill(1).await;
    let began = Instant::now();
    for number in 0..100 {
        assert!(client.get(format!("before {number}")).await.unwrap().exists());
        client.put(format!("after {number}"), "v", PutOptions::default()).await.unwrap();
        assert!(client.get(format!("after {number}")).await.unwrap().exists());
    }
    // Without a memory for nodes that fail, each of some hundred requests would wait for the dead one.
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_stopped_give_a_clear_error_and_all_is_there_after_their_return() {
    let mut cluster = Cluster::start(Setup { storage: Storage::Embedded, ..Setup::default() }).await;
    let client = cluster.client().await;
    for number in 0..50 {
        client.put(format!("k{number}"), format!("v{number}"), PutOptions::default()).await.unwrap();
    }
    cluster.stop(1).await;
    cluster.kill(2).await;
    let options = PutOptions { timeout: Some(Duration::from_secs(4)), ..PutOptions::default() };
    let error = client.put("late", "v", options).await.unwrap_err();
    let ClientError::Quorum(quorum) = &error else { panic!("{error}") };
    assert_eq!((quorum.needed, quorum.got.len(), quorum.may_appear), (2, 1, true));
    assert!(error.is_retryable() && error.may_have_applied());
    let text = error.to_string();
    assert!(text.starts_with("write quorum not met: needed 2, got 1 from n1; not from n"), "{text}");
    cluster.start_node(1).await;
    cluster.start_node(2).await;
    cluster.connected().await;
    for reader in cluster.pinned_each().await {
        for number in 0..50 {
            let found = reader.get(format!("k{number}")).await.unwrap();
            assert_eq!(found.single(), Some(&Bytes::from(format!("v{number}"))));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_is_kept_when_nobody_answers() {
    let cluster = Cluster::start(Setup::default()).await;
    let client = cluster.client().await;
    for key in 0..50 {
        // Every link is up.
        client.put(format!("{key}"), "v", PutOptions::default()).await.unwrap();
    }
    (0..3).for_each(|at| cluster.mute(at, true));
    let timeout = Some(Duration::from_millis(400));
    let began = Instant::now();
    let error = client.put("k", "v", PutOptions { timeout, ..PutOptions::default() }).await.unwrap_err();
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(390) && took < Duration::from_secs(20), "{took:?}");
    let ClientError::Unreachable(unreachable) = &error else { panic!("{error}") };
    assert!(unreachable.timed_out && unreachable.maybe, "{error}");
    assert!(error.is_retryable() && error.may_have_applied());
    assert!(error.to_string().contains("; the write may have been applied (request "), "{error}");
    let error = client.get_with("k", GetOptions { timeout, ..GetOptions::default() }).await.unwrap_err();
    assert!(error.to_string().starts_with("no answer before the deadline (n"), "{error}");
    assert!(!error.may_have_applied(), "a read applies nothing: {error}");
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_dropped_midway_disturbs_no_other() {
    let cluster = Cluster::start(Setup::default()).await;
    let client = cluster.client().await;
    for number in 0..200_u64 {
        let put = client.put(format!("k{number}"), "v", PutOptions::default());
        // Whether it came through is open; whatever waits beside and after it must not suffer.
        drop(tokio::time::timeout(Duration::from_micros(number * 10), put).await);
        let key = format!("sure {number}");
        client.put(key.clone(), "v", PutOptions::default()).await.unwrap();
        assert!(client.get(key).await.unwrap().exists());
    }
    let mut scan = client.scan("sure ", ScanOptions { page: 10, ..ScanOptions::default() });
    let mut count = 0;
    loop {
        // Dropped again and again while it waits, the scan neither skips nor repeats.
        match tokio::time::timeout(Duration::from_micros(300 + count * 20), scan.next()).await {
            Err(_) => {}
            Ok(next) if next.as_ref().unwrap().is_some() => count += 1,
            Ok(_) => break,
        }
    }
    assert_eq!(count, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn running_nodes_take_up_a_member_that_was_added_and_forget_one_that_was_removed() {
    let mut cluster = Cluster::start(Setup { nodes: 2, ..Setup::default() }).await;
    cluster.add().await;
    let all = PutOptions { w: Some(Consistency::All), sloppy: Some(false), ..PutOptions::default() };
    let client = cluster.pinned(0).await;
    assert_eq!(client.put("k", "with three", all.clone()).await.unwrap().acks, 3);
    client.close().await;
    cluster.remove_last().await;
    let client = cluster.pinned(0).await;
    assert_eq!(client.view().members().len(), 2);
    assert_eq!(client.get("k").await.unwrap().single(), Some(&bytes("with three")));
    assert_eq!(client.put("l", "with two", PutOptions::default()).await.unwrap().acks, 2);
    let refused = client.put("l", "with three", all).await.unwrap_err();
    assert!(refused.to_string().contains("W asks for 3 replicas, and the cluster has 2 nodes"), "{refused}");
    assert!(!refused.may_have_applied() && !refused.is_retryable(), "{refused:?}");
}
