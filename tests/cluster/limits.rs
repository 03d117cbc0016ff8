//! Each limit and rule has an error of its own that says what is wrong, whether the client or the node finds it.

use std::time::Duration;

use bytes::Bytes;
use dynamomini::client::{ClientError, GetOptions, PutOptions, ScanOptions};
use dynamomini::limits;
use dynamomini::types::{Consistency, Namespace};
use dynamomini::version::RequestId;
use dynamomini::wire::blob::Blob;
use dynamomini::wire::rpc::{GetRequest, KeyContext, PutItem, PutRequest, Reply, Request, ServeError};

use crate::inprocess::{Cluster, Setup, Wire, eventually, namespace};

fn item(key: &[u8], value: usize, sequence: u64) -> PutItem {
    PutItem {
        key: Blob::copy(key),
        value: Some(Blob(Bytes::from(vec![0; value]))),
        context: KeyContext::default(),
        request: RequestId { client: 7, sequence },
        ttl: None,
        condition: None,
    }
}

fn put(items: Vec<PutItem>) -> Request {
    Request::Put(PutRequest { namespace: Namespace::default(), items, w: None, sloppy: None, retry: false })
}

fn get(keys: Vec<Blob>) -> Request {
    Request::Get(GetRequest { namespace: Namespace::default(), keys, r: None, strict: false })
}

/// The one error in a reply.
fn error(reply: Reply) -> ServeError {
    match reply {
        Reply::Error(error) => error,
        Reply::Put(outcomes) => outcomes.into_iter().find_map(Result::err).unwrap(),
        Reply::Get(outcomes) => outcomes.into_iter().find_map(Result::err).unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn refusal(wire: &Wire, request: Request) -> String {
    error(wire.ask(&request).await).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_refuses_what_breaks_a_limit_before_it_is_sent() {
    let cluster = Cluster::start(Setup::default()).await;
    let client = cluster.client().await;
    let options = PutOptions::default;
    let long = vec![b'k'; limits::KEY_MAX + 1];
    let large = vec![0; limits::VALUE_MAX + 1];
    let refused = [
        (client.put("", "v", options()).await.unwrap_err(), "the key is empty: keys have 1 byte or more"),
        (client.delete("", options()).await.unwrap_err(), "the key is empty: keys have 1 byte or more"),
        (client.get("").await.unwrap_err(), "the key is empty: keys have 1 byte or more"),
        (client.put(long.clone(), "v", options()).await.unwrap_err(), "the key has 4097 bytes, the limit is 4096"),
        (client.get(long).await.unwrap_err(), "the key has 4097 bytes, the limit is 4096"),
        (client.put("k", large, options()).await.unwrap_err(), "the value has 8388609 bytes, the limit is 8388608"),
    ];
    for (error, text) in refused {
        assert_eq!(error.to_string(), text);
        assert!(!error.is_retryable() && !error.may_have_applied());
    }
    client.put(vec![b'k'; limits::KEY_MAX], "v", options()).await.unwrap();
    assert!(client.get(vec![b'k'; limits::KEY_MAX]).await.unwrap().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_refuses_what_a_client_should_not_have_sent() {
    let cluster = Cluster::start(Setup::default()).await;
    let wire = &cluster.wires()[0];
    let long = [b'k'; limits::KEY_MAX + 1];
    assert_eq!(refusal(wire, put(vec![item(b"", 1, 1)])).await, "the key is empty: keys have 1 byte or more");
    assert_eq!(refusal(wire, put(vec![item(&long, 1, 2)])).await, "the key has 4097 bytes, the limit is 4096");
    let text = refusal(wire, put(vec![item(b"k", limits::VALUE_MAX + 1, 3)])).await;
    assert_eq!(text, "the value has 8388609 bytes, the limit is 8388608");
    assert_eq!(refusal(wire, get(vec![Blob::copy(b"")])).await, "the key is empty: keys have 1 byte or more");
    assert_eq!(refusal(wire, get(vec![Blob::copy(&long)])).await, "the key has 4097 bytes, the limit is 4096");
    let text = refusal(wire, get(vec![Blob::copy(&vec![b'k'; 1 << 20])])).await;
    assert_eq!(text, "the key has 1048576 bytes, the limit is 4096");
    let many = u64::try_from(limits::BATCH_KEYS_MAX).unwrap() + 1;
    let text = refusal(wire, put((0..many).map(|at| item(&at.to_be_bytes(), 1, at)).collect())).await;
    assert_eq!(text, "1001 keys in one request, the limit is 1000");
    let text = refusal(wire, get((0..many).map(|at| Blob::copy(&at.to_be_bytes())).collect())).await;
    assert_eq!(text, "1001 keys in one request, the limit is 1000");
    let text = refusal(wire, put((0..3).map(|at| item(b"b", limits::VALUE_MAX, at)).collect())).await;
    assert_eq!(text, "the keys and values of one request hold 25165827 bytes, the limit is 16777216: send fewer");
}

#[tokio::test(flavor = "multi_thread")]
async fn siblings_are_limited_in_number_and_bytes_until_somebody_resolves_them() {
    let cluster = Cluster::start(Setup::default()).await;
    let client = cluster.client().await;
    for number in 0..limits::SIBLINGS_MAX {
        client.put("many", format!("{number}"), PutOptions::default()).await.unwrap();
    }
    let error = client.put("many", "one more", PutOptions::default()).await.unwrap_err();
    let limit = |error: &ClientError| {
        matches!(error, ClientError::Rejected(ServeError::Limit(_)) | ClientError::Uncertain(ServeError::Limit(_)))
    };
    assert!(limit(&error), "{error}");
    assert!(error.to_string().contains("the key has 32 siblings, the most there may be: read it"), "{error}");
    let found = client.get("many").await.unwrap();
    assert_eq!(found.siblings.len(), limits::SIBLINGS_MAX);
    client.put("many", "resolved", PutOptions::after(&found.context)).await.unwrap();
    assert!(client.get("many").await.unwrap().single().is_some());

    let patient = || PutOptions { timeout: Some(Duration::from_secs(60)), ..PutOptions::default() };
    for _ in 0..2 {
        client.put("heavy", vec![0; limits::VALUE_MAX], patient()).await.unwrap();
    }
    let error = client.put("heavy", "x", patient()).await.unwrap_err();
    // On a busy machine an earlier attempt may have met silence, and the error says so first.
    assert!(error.to_string().contains("the key's siblings would hold 16777217 bytes"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_of_another_key_is_refused() {
    let cluster = Cluster::start(Setup::default()).await;
    let client = cluster.client().await;
    let other = client.put("one", "v", PutOptions::default()).await.unwrap().context;
    let error = client.put("two", "v", PutOptions::after(&other)).await.unwrap_err();
    assert_eq!(error.to_string(), "the causal context belongs to another key: read this key first");
    assert!(!error.is_retryable());
    let told = other.to_string().parse().unwrap();
    client.put("one", "w", PutOptions::after(&told)).await.unwrap();
    assert!(client.get("one").await.unwrap().single().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn r_and_w_above_n_are_refused_and_all_up_to_n_served() {
    let cluster = Cluster::start(Setup::default()).await;
    let client = cluster.client().await;
    let w = |w| PutOptions { w: Some(w), ..PutOptions::default() };
    let r = |r| GetOptions { r: Some(r), ..GetOptions::default() };
    let four = Consistency::Count(4);
    let error = client.put("k", "v", w(four)).await.unwrap_err();
    assert_eq!(error.to_string(), "W: replica count \"4\" is not valid: 1 to 3, the N of the namespace");
    let error = client.get_with("k", r(four)).await.unwrap_err();
    assert_eq!(error.to_string(), "R: replica count \"4\" is not valid: 1 to 3, the N of the namespace");
    let mut scan = client.scan("", ScanOptions { r: Some(four), ..ScanOptions::default() });
    assert!(scan.next().await.unwrap_err().to_string().starts_with("R: replica count"));
    for (level, count) in [(Consistency::One, 1), (Consistency::Quorum, 2), (Consistency::All, 3)] {
        let written = client.put("k", "v", w(level)).await.unwrap();
        assert!(written.acks >= count, "{level}: {}", written.acks);
        // One replica that is asked need not be the one that was written, at first.
        let what = format!("it is read at {level}");
        eventually(&what, async || client.get_with("k", r(level)).await.unwrap().exists().then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_namespace_is_named_with_those_there_are() {
    let cluster = Cluster::start(Setup::default()).await;
    let client = cluster.client().await.in_namespace(namespace("nowhere"));
    let text = "there is no namespace nowhere: this cluster has default; more are added in every node's configuration";
    assert_eq!(client.put("k", "v", PutOptions::default()).await.unwrap_err().to_string(), text);
    assert_eq!(client.get("k").await.unwrap_err().to_string(), text);
    assert_eq!(client.scan("", ScanOptions::default()).next().await.unwrap_err().to_string(), text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_of_many_partitions_comes_through_under_a_short_deadline() {
    let cluster = Cluster::start(Setup { partitions: 16_384, ..Setup::default() }).await;
    let client = cluster.client().await;
    client.put("only", "v", PutOptions::default()).await.unwrap();
    let options = ScanOptions { timeout: Some(Duration::from_secs(2)), ..ScanOptions::default() };
    let mut scan = client.scan("", options);
    assert_eq!(scan.next().await.unwrap().unwrap().0, "only");
    assert!(scan.next().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_gossip_name_does_not_resolve_still_tells_its_status() {
    let cluster = Cluster::start(Setup { gossip: Some("nowhere.invalid:7"), ..Setup::default() }).await;
    let wire = &cluster.wires()[0];
    let patience = Duration::from_secs(10);
    let asked = tokio::time::timeout(patience, wire.ask(&Request::Status)).await;
    let Reply::Status(status) = asked.expect("the status hangs") else { panic!("no status") };
    assert!(status.gossip.contains("has not begun"), "{}", status.gossip);
    let asked = tokio::time::timeout(patience, wire.ask(&Request::Members)).await;
    assert!(error(asked.expect("the members hang")).to_string().contains("has not begun"));
    let client = cluster.client().await;
    client.put("k", "v", PutOptions::default()).await.unwrap();
}
