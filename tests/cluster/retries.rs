//! Writes whose replies are lost and that are sent again through another node.

use bytes::Bytes;
use dynamomini::client::PutOptions;
use dynamomini::version::RequestId;
use dynamomini::wire::blob::Blob;
use dynamomini::wire::rpc::{GetDone, GetRequest, KeyContext, PutDone, PutItem, PutRequest, Reply, Request};
use futures_util::StreamExt;
use futures_util::stream;

use crate::inprocess::{Cluster, Setup, Wire, namespace};

/// How many puts are sent twice: 1 000, or what `DYNAMOMINI_RETRIED_PUTS` says.
fn puts() -> u64 {
    let asked = std::env::var("DYNAMOMINI_RETRIED_PUTS").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(1_000)
}

fn put(key: &str, value: String, context: KeyContext, sequence: u64, retry: bool) -> Request {
    let item = PutItem {
        key: Blob::copy(key.as_bytes()),
        value: Some(Blob(Bytes::from(value))),
        context,
        request: RequestId { client: 42, sequence },
        ttl: None,
        condition: None,
    };
    Request::Put(PutRequest { namespace: namespace("default"), items: vec![item], w: None, sloppy: None, retry })
}

async fn done(wire: &Wire, request: &Request) -> PutDone {
    match wire.ask(request).await {
        Reply::Put(mut outcomes) => outcomes.remove(0).unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn get(wire: &Wire, key: &str) -> GetDone {
    let keys = vec![Blob::copy(key.as_bytes())];
    match wire.ask(&Request::Get(GetRequest { namespace: namespace("default"), keys, r: None, strict: false })).await {
        Reply::Get(mut outcomes) => outcomes.remove(0).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Writes one key again and again, each time under the context that was acknowledged last, and each put twice through
/// two owners; `at_once` sends the second without waiting for the first to end.
async fn write_twice(wires: &[Wire], chain: u64, length: u64, at_once: bool) {
    let key = format!("key {chain}");
    let mut context = KeyContext::default();
    for step in 0..length {
        let sequence = chain * length + step;
        let turn = usize::try_from(sequence).unwrap();
        let (lost, other) = (&wires[turn % wires.len()], &wires[(turn + 1) % wires.len()]);
        let value = format!("{chain}/{step}");
        let first = put(&key, value.clone(), context.clone(), sequence, false);
        let again = put(&key, value.clone(), context, sequence, true);
        let kept = if at_once {
            tokio::join!(done(lost, &first), done(other, &again)).1
        } else {
            // Its reply is dropped: as far as this client knows, it was lost.
            drop(done(lost, &first).await);
            done(other, &again).await
        };
        context = kept.context;
        let reader = &wires[(turn + 2) % wires.len()];
        let found = get(reader, &key).await;
        let seen: Vec<&[u8]> = found.siblings.iter().map(|sibling| &sibling.value[..]).collect();
        assert_eq!(seen, [value.as_bytes()], "put {step} of {key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retried_puts_with_lost_replies_make_no_sibling() {
    let cluster = Cluster::start(Setup::default()).await;
    let wires = cluster.wires();
    let chains = puts() / 20;
    stream::iter((0..chains).map(|chain| write_twice(&wires, chain, 20, false)))
        .buffer_unordered(16)
        .collect::<()>()
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_and_its_retry_that_meet_count_once() {
    let cluster = Cluster::start(Setup::default()).await;
    let wires = cluster.wires();
    // A writer that goes on under the context of one of the two does not know of the other.
    let chains = (0..puts() / 50).map(|chain| write_twice(&wires, chain, 10, true));
    stream::iter(chains).buffer_unordered(16).collect::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hears_no_reply_tries_elsewhere_and_leaves_no_sibling() {
    let cluster = Cluster::start(Setup::default()).await;
    let client = cluster.client().await;
    let mut contexts = Vec::new();
    for number in 0..30 {
        contexts.push(client.put(format!("k{number}"), "first", PutOptions::default()).await.unwrap().context);
    }
    // The node goes on to name versions, but neither client nor peers hear of it.
    cluster.mute(1, true);
    for (number, context) in contexts.iter().enumerate() {
        let written = client.put(format!("k{number}"), "second", PutOptions::after(context)).await;
        written.unwrap();
    }
    cluster.mute(1, false);
    cluster.connected().await;
    for reader in cluster.pinned_each().await {
        for number in 0..30 {
            let found = reader.get(format!("k{number}")).await.unwrap();
            assert_eq!(found.single(), Some(&Bytes::from_static(b"second")), "{found:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_coordinator_is_killed_under_it_leaves_no_sibling() {
    let mut cluster = Cluster::start(Setup::default()).await;
    let client = cluster.client().await;
    let keys: Vec<String> = (0..200).map(|number| format!("k{number}")).collect();
    let writes = keys.iter().map(async |key| client.put(key.clone(), key.clone(), PutOptions::default()).await);
    let writing = async { stream::iter(writes).buffer_unordered(32).collect::<Vec<_>>().await };
    let (written, ()) = tokio::join!(writing, cluster.kill(0));
    written.into_iter().for_each(|written| drop(written.unwrap()));
    for key in &keys {
        let found = client.get(key.clone()).await.unwrap();
        assert_eq!(found.single(), Some(&Bytes::from(key.clone())), "{found:?}");
    }
}
