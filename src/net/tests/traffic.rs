//! Requests and replies between peers that accept each other.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::*;
use crate::limits;

#[tokio::test]
async fn small_and_large_bodies_come_back_as_they_went() {
    let (server, address) = echo_server();
    let client = endpoint(material(CLIENT));
    let connection = connect(&client, address).await.unwrap();
    for size in [0, 1, 1000, 65_536, 65_537, 1_000_000, limits::FRAME_MAX] {
        let body: Vec<u8> = (0..size).map(|i| u8::try_from(i % 251).unwrap()).collect();
        assert!(ask(&connection, &body).await.unwrap() == body, "{size} bytes were changed");
        let reply = connection.request_bytes(PATIENCE, body.clone().into()).await.unwrap();
        assert!(reply == body, "{size} bytes were changed");
    }
    assert_eq!(ask(&connection, b"large").await.unwrap().len(), 3_000_000);
    assert_eq!(ask(&connection, b"who").await.unwrap(), "client c");
    assert!(client.counters().bulk_streams.get() >= 6);
    let too_large = vec![0; limits::FRAME_MAX + 1];
    assert!(matches!(ask(&connection, &too_large).await, Err(NetError::TooLarge { .. })));
    let bytes = connection.request_bytes(PATIENCE, too_large.into()).await;
    assert!(matches!(bytes, Err(NetError::TooLarge { .. })));
    assert_eq!(connection.pending(), 0);
    assert_eq!(server.counters().peers_disconnected.get(), 0);
}

/// Holds every request until the gate opens.
#[derive(Clone)]
struct Gate {
    held: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    open: watch::Receiver<bool>,
}

impl Handler for Gate {
    async fn handle(&self, request: Incoming) -> Bytes {
        let held = self.held.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(held, Ordering::SeqCst);
        self.open.clone().wait_for(|open| *open).await.unwrap();
        self.held.fetch_sub(1, Ordering::SeqCst);
        request.body
    }
}

#[tokio::test]
async fn ten_thousand_requests_in_flight_are_bounded_at_the_server_and_all_answered() {
    let (opener, open) = watch::channel(false);
    let gate = Gate { held: Arc::default(), most: Arc::default(), open };
    let server = endpoint(material(NODE));
    server.serve(gate.clone());
    let client = endpoint(material(CLIENT));
    let connection = client.connect(server.local_addr().unwrap(), &Expect::AnyNode, 2).await.unwrap();
    let ask = |number: u32| {
        let connection = connection.clone();
        async move {
            let reply = connection.request(PATIENCE, |buffer| buffer.put_u32(number)).await;
            reply.unwrap() == number.to_be_bytes().as_slice()
        }
    };
    let asking: JoinSet<_> = (0..10_000).map(ask).collect();
    until("all are in flight", || connection.pending() == 10_000).await;
    // Each costs its share of the requests and its four bytes.
    let cost = limits::REQUEST_BYTES_PER_CONNECTION_MAX / limits::REQUESTS_PER_CONNECTION_MAX + 4;
    let most = limits::REQUEST_BYTES_PER_CONNECTION_MAX / cost;
    until("the server holds what it may", || gate.held.load(Ordering::SeqCst) == most).await;
    opener.send(true).unwrap();
    assert!(asking.join_all().await.into_iter().all(|right| right), "replies were mixed up");
    assert_eq!(gate.most.load(Ordering::SeqCst), most, "the bound on requests did not hold");
    assert_eq!(connection.pending(), 0);
}

/// Lanes that a connection with this setting has open after a hundred requests.
async fn lanes_used(lanes: usize) -> usize {
    let (server, address) = echo_server();
    let client = endpoint(material(CLIENT));
    let connection = client.connect(address, &Expect::AnyNode, lanes).await.unwrap();
    for _ in 0..100 {
        ask(&connection, b"x").await.unwrap();
    }
    server.counters().census.read().iter().map(|party| party.lanes).sum()
}

#[tokio::test]
async fn a_connection_that_may_choose_uses_one_lane_on_a_near_path() {
    assert_eq!(lanes_used(4).await, 4);
    // On a busy machine even a loopback can be far.
    for _ in 0..20 {
        if lanes_used(0).await == 1 {
            return;
        }
    }
    panic!("more lanes were used each time");
}

#[tokio::test]
async fn what_is_packed_on_its_way_comes_back_as_it_went() {
    let (server, address) = echo_server();
    let client = endpoint(material(CLIENT));
    let connection = connect(&client, address).await.unwrap();
    let text = Bytes::from("2 apples, 1 loaf of bread; ".repeat(1_000));
    for (body, is_packed) in [(text.clone(), true), (Bytes::from_static(b"short"), true), (text.clone(), false)] {
        assert_eq!(connection.request_aside(PATIENCE, body.clone(), is_packed).await.unwrap(), body);
    }
    for saved in [&client.counters().packing_saved, &server.counters().packing_saved] {
        let saved = usize::try_from(saved.get()).unwrap();
        assert!((text.len() * 9 / 10..text.len()).contains(&saved), "{saved} of {} bytes", text.len());
    }
}

#[tokio::test]
async fn cancelled_requests_leave_nothing_pending() {
    let (_server, address) = echo_server();
    let client = endpoint(material(CLIENT));
    let connection = connect(&client, address).await.unwrap();
    ask(&connection, b"open the lane").await.unwrap();
    for _ in 0..100 {
        let request = Box::pin(ask(&connection, b"slow"));
        // Polled once, so that the request is on its way, and then dropped.
        tokio::select! { biased; _ = request => panic!("answered too early"), () = std::future::ready(()) => {} }
    }
    assert_eq!(connection.pending(), 0);
    until("late replies are counted", || client.counters().replies_late.get() == 100).await;
    assert_eq!(ask(&connection, b"next").await.unwrap(), "next");
}

#[tokio::test]
async fn an_unanswered_request_ends_at_its_deadline() {
    let (_server, address) = echo_server();
    let client = endpoint(material(CLIENT));
    let connection = connect(&client, address).await.unwrap();
    let reply = connection.request(Duration::from_millis(30), |buffer| buffer.put_slice(b"slow")).await;
    assert!(matches!(reply, Err(NetError::Unanswered { .. })), "{reply:?}");
    assert_eq!(connection.pending(), 0);
}

#[tokio::test]
async fn a_handler_that_panics_costs_its_request_only() {
    let (_server, address) = echo_server();
    let client = endpoint(material(CLIENT));
    let connection = connect(&client, address).await.unwrap();
    for how in [&b"panic"[..], b"panic later"] {
        let reply = ask(&connection, how).await;
        assert!(matches!(reply, Err(NetError::Unanswered { .. })), "{reply:?}");
    }
    assert_eq!(ask(&connection, b"next").await.unwrap(), "next");
}

#[tokio::test]
async fn a_small_request_does_not_wait_for_a_large_one() {
    let (_server, address) = echo_server();
    let client = endpoint(material(CLIENT));
    let connection = connect(&client, address).await.unwrap();
    let large = Bytes::from(vec![1; 20_000_000]);
    let in_bulk = background({
        let (connection, large) = (connection.clone(), large.clone());
        async move { connection.request_bytes(PATIENCE, large).await }
    });
    until("the large request is on its way", || connection.peer().stats().udp_tx.bytes > 100_000).await;
    assert_eq!(ask(&connection, b"small").await.unwrap(), "small");
    assert!(!in_bulk.is_finished(), "the large request was over before the small one could overtake it");
    assert!(in_bulk.await.unwrap().unwrap() == large);
}
