//! Clients that nodes do not accept, nodes that clients do not accept, and addresses where no node is.

use std::net::UdpSocket;
use std::time::Duration;

use dynamomini::client::{Client, ClientError, GetOptions, PutOptions, ScanOptions};
use dynamomini::types::{ClusterName, NodeName};
use tokio::time::Instant;

use crate::certs::Authority;
use crate::inprocess::{ADMIN, Cluster, Setup, bytes, material};

const PATIENCE: Duration = Duration::from_secs(20);

async fn refused(client: dynamomini::client::ClientBuilder) -> ClientError {
    let began = Instant::now();
    let error = client.timeout(PATIENCE).connect().await.unwrap_err();
    assert!(began.elapsed() < PATIENCE / 2, "what stays so is said at once, not at the deadline: {error}");
    assert!(!error.is_retryable() && !error.may_have_applied(), "{error}");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_do_what_its_certificate_grants_and_nothing_else() {
    let cluster = Cluster::start(Setup::default()).await;
    let none = cluster.builder(&["dynamomini://client/nobody"]).connect().await.unwrap();
    let text = "not permitted: client nobody may do nothing: its certificate carries no dynamomini://grant/… name; issue one that does";
    assert_eq!(none.put("k", "v", PutOptions::default()).await.unwrap_err().to_string(), text);
    assert_eq!(none.get("k").await.unwrap_err().to_string(), text);
    let error = none.multi_get(&[bytes("k"), bytes("l")], GetOptions::default()).await.remove(1).unwrap_err();
    assert_eq!(error.to_string(), text);
    assert!(!error.is_retryable() && !error.may_have_applied());

    let uris = ["dynamomini://client/app", "dynamomini://grant/default/get+put+scan/a%2F"];
    let app = cluster.builder(&uris).connect().await.unwrap();
    app.put("a/1", "v", PutOptions::default()).await.unwrap();
    assert!(app.get("a/1").await.unwrap().exists());
    assert!(app.scan("a/", ScanOptions::default()).next().await.unwrap().is_some());
    for error in [
        app.put("b/1", "v", PutOptions::default()).await.unwrap_err(),
        app.delete("a/1", PutOptions::default()).await.unwrap_err(),
        app.scan("", ScanOptions::default()).next().await.unwrap_err(),
    ] {
        assert!(error.to_string().starts_with("not permitted: client app may not"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_forbidden_key_of_a_batch_does_not_harm_the_others() {
    let cluster = Cluster::start(Setup::default()).await;
    let uris = ["dynamomini://client/app", "dynamomini://grant/default/get/a%2F"];
    let app = cluster.builder(&uris).connect().await.unwrap();
    let found = app.multi_get(&[bytes("a/1"), bytes("b/1"), bytes("a/2")], GetOptions::default()).await;
    let kinds: Vec<bool> = found.iter().map(Result::is_ok).collect();
    assert_eq!(kinds, [true, false, true], "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_authority_is_said_at_once() {
    let cluster = Cluster::start(Setup::default()).await;
    let other = Authority::new("another authority");
    let add = |builder: dynamomini::client::ClientBuilder| (0..3).fold(builder, |b, at| b.node(cluster.address(at)));

    // The client trusts another authority than the nodes'.
    let error = refused(add(Client::builder(material(&other.issue(&[ADMIN]), &other.root)))).await;
    assert!(matches!(error, ClientError::Refused(_)), "{error:?}");
    assert!(error.to_string().contains("its certificate is of another authority"), "{error}");

    // The nodes do not trust the client's.
    let error = refused(add(Client::builder(material(&other.issue(&[ADMIN]), &cluster.authority.root)))).await;
    assert!(error.to_string().contains("the certificate of this process is of another authority"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_said_at_once() {
    let cluster = Cluster::start(Setup::default()).await;
    let expired = cluster.authority.issue_with(&[ADMIN], |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let client = Client::builder(material(&expired, &cluster.authority.root)).node(cluster.address(0));
    let error = refused(client).await;
    assert!(error.to_string().contains("the certificate of this process has expired: issue a new one"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_under_the_same_authority_is_refused() {
    let cluster = Cluster::start(Setup::default()).await;
    let error = refused(cluster.builder(&[ADMIN]).cluster(ClusterName::new("shop").unwrap())).await;
    let text = error.to_string();
    assert!(text.contains("is of cluster test, not shop"), "{text}");
    let error = refused(cluster.builder(&[ADMIN]).pin(NodeName::new("n9").unwrap())).await;
    assert_eq!(error.to_string(), "there is no node n9: the cluster has n1, n2, n3");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_without_a_node_is_named_and_another_seed_used() {
    let cluster = Cluster::start(Setup { nodes: 1, namespaces: one(), ..Setup::default() }).await;
    // A socket that takes packets and never answers.
    let mute = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mute = mute.local_addr().unwrap().to_string();
    let admin = || Client::builder(material(&cluster.authority.issue(&[ADMIN]), &cluster.authority.root));

    let error = admin().node(&mute).node("no.such.host.invalid:7").timeout(Duration::from_secs(1)).connect().await;
    let error = error.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    let text = error.to_string();
    assert!(text.starts_with("no answer before the deadline ("), "{text}");
    assert!(text.contains(&mute) && text.contains("no.such.host.invalid:7"), "{text}");
    assert_eq!(text.matches(&mute).count(), 1, "each address is named once: {text}");

    let client = admin().node(&mute).node(cluster.address(0)).connect().await.unwrap();
    client.put("k", "v", PutOptions::default()).await.unwrap();
}

fn one() -> Vec<(&'static str, dynamomini::types::NamespacePolicy)> {
    vec![("default", dynamomini::types::NamespacePolicy { n: 1, ..Default::default() })]
}
