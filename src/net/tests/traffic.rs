//! Requests and replies between peers that accept each other.

use tokio::task::JoinSet;

use super::*;

#[tokio::test]
async fn small_and_large_bodies_come_back_as_they_went() {
    let (server, address) = echo_server();
    let client = endpoint(material(CLIENT));
    let connection = connect(&client, address).await.unwrap();
    for size in [0, 1, 1000, 65_536, 65_537, 1_000_000, 24 * 1024 * 1024] {
        let body: Vec<u8> = (0..size).map(|i| u8::try_from(i % 251).unwrap()).collect();
        assert!(ask(&connection, &body).await.unwrap() == body, "{size} bytes were changed");
        let reply = connection.request_bytes(PATIENCE, body.clone().into()).await.unwrap();
        assert!(reply == body, "{size} bytes were changed");
    }
    assert_eq!(ask(&connection, b"large").await.unwrap().len(), 3_000_000);
    assert_eq!(ask(&connection, b"who").await.unwrap(), "client c");
    assert!(client.counters().bulk_streams.get() >= 6);
    let too_large = vec![0; 24 * 1024 * 1024 + 1];
    assert!(matches!(ask(&connection, &too_large).await, Err(NetError::TooLarge { .. })));
    let bytes = connection.request_bytes(PATIENCE, too_large.into()).await;
    assert!(matches!(bytes, Err(NetError::TooLarge { .. })));
    assert_eq!(connection.pending(), 0);
    assert_eq!(server.counters().peers_disconnected.get(), 0);
}

#[tokio::test]
async fn ten_thousand_requests_in_flight_are_all_answered() {
    let (_server, address) = echo_server();
    let client = endpoint(material(CLIENT));
    let connection = client.connect(address, &Expect::AnyNode, 2).await.unwrap();
    let ask = |number: u32| {
        let connection = connection.clone();
        async move {
            let reply = connection.request(PATIENCE, |buffer| buffer.put_u32(number)).await;
            reply.unwrap() == number.to_be_bytes().as_slice()
        }
    };
    let answers = (0..10_000).map(ask).collect::<JoinSet<_>>().join_all().await;
    assert!(answers.into_iter().all(|right| right), "replies were mixed up");
    assert_eq!(connection.pending(), 0);
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
