//! What an application sees of nodes that fail, move and come back while its client is busy: nothing.

use std::net::UdpSocket;
use std::time::Duration;

use bytes::Bytes;
use dynamomini::client::{
    BatchPut, CausalContext, Client, ClientError, GetOptions, LastWriteWins, MemberEvent, PutOptions, ScanOptions,
    UnionOfSets,
};
use dynamomini::env::Env;
use dynamomini::limits;
use dynamomini::net::{BindConfig, Endpoint, EndpointKeys, Socket, TransportSettings, tls};
use dynamomini::types::{Consistency, NamespacePolicy};
use futures_util::StreamExt;
use futures_util::stream;
use rustix::process::Signal;
use tokio::time::{sleep, timeout};

use crate::inprocess::{ADMIN, Cluster, Setup, Storage, bytes, eventually, material};
use crate::processes::{Cluster as Processes, send};
use crate::steady::{Phases, Report, Steady, run};

fn check(report: &Report, requests: usize) {
    assert_eq!(report.latencies.len(), requests);
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    assert!(report.wrong.is_empty(), "{:?}", report.wrong);
    eprintln!("p99 {:?}, longest {:?}, due at {:?}", report.per_mille(990), report.longest.0, report.longest.1);
}

const LOAD: Steady = Steady { requests: 1_500, per_second: 200, keys: 300 };

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_fall_silent_and_are_restarted_cost_neither_an_error_nor_a_wrong_answer() {
    let mut cluster = Cluster::start(Setup { storage: Storage::Embedded, ..Setup::default() }).await;
    let client = cluster.client().await;
    let mut phases = Phases::new();
    let faults = async {
        sleep(Duration::from_secs(1)).await;
        phases.begin("killed");
        cluster.kill(0).await;
        sleep(Duration::from_secs(2)).await;
        phases.begin("restarted");
        cluster.start_node(0).await;
        sleep(Duration::from_secs(1)).await;
        phases.begin("silent");
        cluster.mute(2, true);
        sleep(Duration::from_secs(1)).await;
        phases.begin("heard again");
        cluster.mute(2, false);
    };
    let (report, ()) = tokio::join!(run(&client, LOAD, "key"), faults);
    check(&report, LOAD.requests);
    eprintln!("longest: {}", report.longest_by_phase(&phases));
    assert!(client.metrics().failovers > 0, "{:?}", client.metrics());
}

/// What is left of the endpoint of a killed node must not stand in the way of its next life.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_is_seen_by_all_soon_after_each_start() {
    let mut cluster = Cluster::start(Setup::default()).await;
    for at in [0, 1, 2, 0, 1, 2] {
        cluster.kill(at).await;
        cluster.start_node(at).await;
        cluster.connected().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_are_killed_stopped_and_started_again_cost_neither_an_error_nor_a_wrong_answer() {
    let mut cluster = Processes::start(&["--nodes", "3"]).await;
    let client = cluster.client().await;
    let mut phases = Phases::new();
    let faults = async {
        sleep(Duration::from_secs(1)).await;
        phases.begin("killed");
        cluster.kill(0).await;
        sleep(Duration::from_secs(2)).await;
        phases.begin("restarted");
        cluster.launch(0);
        sleep(Duration::from_secs(1)).await;
        phases.begin("stopped");
        send(cluster.pid(1, "pid"), Signal::STOP);
        sleep(Duration::from_secs(1)).await;
        phases.begin("continued");
        send(cluster.pid(1, "pid"), Signal::CONT);
    };
    let (report, ()) = tokio::join!(run(&client, LOAD, "key"), faults);
    check(&report, LOAD.requests);
    eprintln!("longest: {}", report.longest_by_phase(&phases));
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_and_a_client_that_move_to_other_addresses_cost_neither_an_error_nor_a_wrong_answer() {
    let mut cluster = Cluster::start(Setup { storage: Storage::Embedded, ..Setup::default() }).await;
    let env = Env::real();
    let bind = BindConfig {
        socket: Socket::Address("127.0.0.1:0".parse().unwrap()),
        material: material(&cluster.authority.issue(&[ADMIN]), &cluster.authority.root),
        provider: tls::ring_provider(),
        keys: EndpointKeys::generate(&env),
        settings: TransportSettings::default(),
    };
    let endpoint = Endpoint::bind(bind, &env).unwrap();
    let client = cluster.builder(&[ADMIN]).on(endpoint.clone(), env).connect().await.unwrap();
    let name = cluster.name(1);
    let address = |client: &Client| {
        client.view().members().values().find(|member| member.name == name).map(|member| member.quic.clone())
    };
    let faults = async {
        sleep(Duration::from_secs(1)).await;
        cluster.relocate(1).await;
        eventually("the client is told", async || (address(&client) == Some(cluster.address(1))).then_some(())).await;
        sleep(Duration::from_millis(500)).await;
        endpoint.rebind(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    };
    let (report, ()) = tokio::join!(run(&client, LOAD, "key"), faults);
    check(&report, LOAD.requests);
    assert!(client.status(&name).await.is_ok(), "the node is reached where it is now");
    assert_eq!(client.metrics().connections, 3, "one connection to each node");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_hears_who_joins_leaves_falls_silent_and_answers_again() {
    let mut cluster = Cluster::start(Setup::default()).await;
    let client = cluster.client().await;
    let mut events = client.member_events();
    let mut next = async || timeout(Duration::from_secs(30), events.next()).await.unwrap().unwrap();
    // A client that was just made waits a moment before it asks for news.
    cluster.add().await;
    assert_eq!(next().await, MemberEvent::Joined(cluster.name(3)));
    let left = cluster.name(3);
    cluster.remove_last().await;
    assert_eq!(next().await, MemberEvent::Left(left));
    for number in 0..50 {
        client.put(format!("k{number}"), "v", PutOptions::default()).await.unwrap();
    }
    cluster.mute(1, true);
    let busy = async {
        for number in 0.. {
            drop(client.get(format!("k{}", number % 50)).await);
            sleep(Duration::from_millis(2)).await;
        }
    };
    let hears = async {
        // On a busy machine others may be doubted for a moment, too.
        while next().await != MemberEvent::Silent(cluster.name(1)) {}
        cluster.mute(1, false);
        while next().await != MemberEvent::Answers(cluster.name(1)) {}
    };
    tokio::select! {
        biased;
        () = hears => {}
        () = busy => {}
    }
    let waits = tokio::join!(events.next(), client.close()).0;
    assert_eq!(waits, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_requests_in_flight_from_one_task_share_packets_and_all_are_answered() {
    let cluster = Cluster::start(Setup::default()).await;
    let client = cluster.client().await;
    let put = |number: usize| BatchPut {
        key: Bytes::from(format!("k{number}")),
        value: Some(Bytes::from(number.to_string())),
        context: CausalContext::default(),
        ttl: None,
        condition: None,
    };
    let patient = Some(Duration::from_secs(120));
    let all = PutOptions { w: Some(Consistency::All), timeout: patient, ..PutOptions::default() };
    let written = client.multi_put((0..10_000).map(put).collect(), all).await;
    written.into_iter().for_each(|written| drop(written.unwrap()));
    let before = client.metrics();
    let options = || GetOptions { timeout: patient, r: Some(Consistency::One), ..GetOptions::default() };
    let gets = (0..10_000).map(|number| client.get_with(format!("k{number}"), options()));
    for (number, found) in futures_util::future::join_all(gets).await.into_iter().enumerate() {
        assert_eq!(found.unwrap().single(), Some(&Bytes::from(number.to_string())));
    }
    let after = client.metrics();
    let packets = after.packets_sent - before.packets_sent;
    assert!(packets < 10_000, "{packets} packets for 10 000 requests");
    assert_eq!(after.under_way, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn futures_that_are_dropped_leave_nothing_under_way() {
    let cluster = Cluster::start(Setup::default()).await;
    let client = cluster.client().await;
    for number in 0..300_u64 {
        let put = client.put(format!("k{number}"), "v", PutOptions::default());
        drop(timeout(Duration::from_micros(number * 20), put).await);
        let get = client.get(format!("k{number}"));
        drop(timeout(Duration::from_micros(number * 20), get).await);
    }
    assert_eq!(client.metrics().under_way, 0);
    client.put("k", "v", PutOptions::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_waits_for_what_is_under_way_and_refuses_what_comes_later() {
    let cluster = Cluster::start(Setup::default()).await;
    let client = cluster.client().await;
    let busy = client.clone();
    let puts = (0..500).map(|number| busy.put(format!("k{number}"), "v", PutOptions::default()));
    let puts = stream::iter(puts).buffer_unordered(500).collect::<Vec<_>>();
    let other = client.clone();
    // Polled first, the puts are under way when it closes.
    let (written, ended) = tokio::join!(puts, client.close_within(Duration::from_secs(30)));
    assert!(ended);
    written.into_iter().for_each(|written| drop(written.unwrap()));
    assert!(matches!(other.get("k1").await, Err(ClientError::Closed)));
    let reader = cluster.client().await;
    for number in 0..500 {
        assert!(reader.get(format!("k{number}")).await.unwrap().exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_operations_than_may_be_under_way_wait_for_their_turn() {
    let cluster = Cluster::start(Setup::default()).await;
    let client = cluster.client().await;
    let options =
        || GetOptions { timeout: Some(Duration::from_secs(120)), r: Some(Consistency::One), ..GetOptions::default() };
    let count = limits::CLIENT_OPERATIONS_MAX + 500;
    let gets = (0..count).map(|number| client.get_with(format!("k{number}"), options()));
    let found = futures_util::future::join_all(gets).await;
    assert!(found.iter().all(Result::is_ok));
    // Some may have been answered before the last ones began.
    assert!(client.metrics().waits >= 100, "{:?}", client.metrics().waits);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_reads_its_writes_and_never_goes_back_at_one_replica() {
    let one = NamespacePolicy { w: Consistency::Count(1), r: Consistency::Count(1), ..NamespacePolicy::default() };
    let cluster = Cluster::start(Setup { namespaces: vec![("default", one)], ..Setup::default() }).await;
    let client = cluster.client().await;
    let session = client.session();
    for number in 0..300 {
        let value = format!("{number}");
        session.put("k", value.clone(), PutOptions::default()).await.unwrap();
        let found = session.get("k").await.unwrap();
        assert_eq!(found.single(), Some(&Bytes::from(value)), "after {number} writes");
    }
    session.delete("k", PutOptions::default()).await.unwrap();
    assert!(!session.get("k").await.unwrap().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolver_makes_one_value_of_siblings_in_gets_batches_and_scans() {
    let cluster = Cluster::start(Setup::default()).await;
    let client = cluster.client().await;
    for value in ["milk\napples", "milk\npears"] {
        client.put("cart", value, PutOptions::default()).await.unwrap();
    }
    let union = client.with_resolver(UnionOfSets::default());
    let all = bytes("apples\nmilk\npears");
    assert_eq!(client.get("cart").await.unwrap().siblings.len(), 2);
    let found = union.get("cart").await.unwrap();
    assert_eq!(found.single(), Some(&all));
    let batch = union.multi_get(&[bytes("cart")], GetOptions::default()).await;
    assert_eq!(batch[0].as_ref().unwrap().single(), Some(&all));
    let scanned: Vec<_> = union.scan("", ScanOptions::default()).into_stream().collect().await;
    assert_eq!(scanned[0].as_ref().unwrap().1.single(), Some(&all));
    let last = client.with_resolver(LastWriteWins).get("cart").await.unwrap();
    assert!(last.single().is_some());
    // The context of what was found names all siblings, so that the union replaces them.
    union.put("cart", all.clone(), PutOptions::after(&found.context)).await.unwrap();
    assert_eq!(client.get("cart").await.unwrap().single(), Some(&all));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_as_a_stream_survives_a_restart_of_each_node_and_a_change_of_members() {
    let mut cluster = Cluster::start(Setup { storage: Storage::Embedded, ..Setup::default() }).await;
    let client = cluster.client().await;
    let put = |number: usize| BatchPut {
        key: Bytes::from(format!("k{number}")),
        value: Some(bytes("v")),
        context: CausalContext::default(),
        ttl: None,
        condition: None,
    };
    let written = client.multi_put((0..300).map(put).collect(), PutOptions::default()).await;
    assert!(written.iter().all(Result::is_ok));
    let scan = client.scan("k", ScanOptions { page: 20, ..ScanOptions::default() }).into_stream();
    let mut scan = std::pin::pin!(scan);
    let mut keys = Vec::new();
    for round in 0..3 {
        for _ in 0..60 {
            keys.push(scan.next().await.unwrap().unwrap().0);
        }
        cluster.stop(round).await;
        cluster.start_node(round).await;
    }
    cluster.add().await;
    while let Some(item) = scan.next().await {
        keys.push(item.unwrap().0);
    }
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 300);
}

#[tokio::test(flavor = "current_thread")]
async fn a_runtime_of_one_thread_is_enough_for_a_client() {
    let cluster = Cluster::start(Setup::default()).await;
    let client = cluster.builder(&[ADMIN]).zone("z".parse().unwrap()).connect().await.unwrap();
    client.put("k", "v", PutOptions::default()).await.unwrap();
    assert_eq!(client.get("k").await.unwrap().single(), Some(&bytes("v")));
    client.close().await;
}
