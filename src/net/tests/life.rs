//! Restarts, moves, ends: what a link makes of them.

use std::sync::Mutex;

use tokio::task::AbortHandle;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::*;
use crate::env::BoxTask;
use crate::env::RealWorld;
use crate::env::World;
use crate::limits;
use crate::net::Link;
use crate::net::LinkSettings;
use crate::net::LinkState;
use crate::net::Pool;

fn link(client: &Endpoint, addresses: Vec<String>) -> Link {
    let settings = LinkSettings { connect_timeout: Duration::from_secs(1), ..LinkSettings::default() };
    Link::new(client, Expect::Node("n1".parse().unwrap()), addresses, settings, &Env::real())
}

async fn ask_link(link: &Link, body: &'static [u8]) -> Result<Bytes, NetError> {
    link.request(PATIENCE, |buffer| buffer.put_slice(body)).await
}

/// Asks until the link answers again.
async fn until_answered(link: &Link) {
    let answered = async {
        while ask_link(link, b"there?").await.is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, answered).await.expect("the link did not come back");
}

/// A port where nobody answers.
fn dead_address() -> String {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// A node in a scope of its own, with keys that another may be started with.
fn node(socket: Socket, keys: &EndpointKeys, env: &Env) -> Endpoint {
    let (material, settings) = (material(NODE), TransportSettings::default());
    let config = BindConfig { socket, material, provider: ring_provider(), keys: keys.clone(), settings };
    let server = Endpoint::bind(config, env).unwrap();
    server.serve(Echo);
    server
}

#[tokio::test]
async fn a_link_connects_on_demand_and_requests_share_the_attempt() {
    let (server, address) = echo_server();
    let client = endpoint(material(CLIENT));
    let link = link(&client, vec![dead_address_refused(), address.to_string()]);
    assert!(matches!(link.state(), LinkState::Idle));
    let requests: JoinSet<_> = (0..50)
        .map(|_| {
            let link = link.clone();
            async move { ask_link(&link, b"hello").await }
        })
        .collect();
    assert!(requests.join_all().await.into_iter().all(|reply| reply.unwrap() == "hello"));
    assert!(matches!(link.state(), LinkState::Up));
    assert!(link.rtt().is_some());
    assert_eq!(server.counters().handshakes_ok.get(), 1, "requests did not share one connection");
}

/// An address that fails at once.
fn dead_address_refused() -> String {
    "not a host name:1".to_owned()
}

#[tokio::test]
async fn a_link_to_a_dead_peer_fails_at_once_and_follows_a_new_address() {
    let client = endpoint(material(CLIENT));
    let link = link(&client, vec![dead_address()]);
    let first = ask_link(&link, b"hello").await.unwrap_err();
    assert!(matches!(first, NetError::NotSent { .. }), "{first:?}");
    let LinkState::Down { since, error } = link.state() else { panic!("{:?}", link.state()) };
    assert_eq!(error, first);
    let start = Instant::now();
    for _ in 0..1000 {
        assert!(ask_link(&link, b"hello").await.unwrap_err().surely_not_executed());
    }
    assert!(start.elapsed() < Duration::from_secs(1), "requests waited for a peer that is down");
    assert!(since <= start);
    let (_server, address) = echo_server();
    link.set_addresses(vec![address.to_string()]);
    until_answered(&link).await;
}

#[tokio::test]
async fn a_restarted_node_is_noticed_at_once_by_its_stateless_reset() {
    let world = Arc::new(MortalWorld::default());
    let env = Env::new(world.clone());
    let keys = EndpointKeys::generate(&env);
    let server = node(Socket::Address("127.0.0.1:0".parse().unwrap()), &keys, &env);
    let address = server.local_addr().unwrap();
    let client = endpoint(material(CLIENT));
    let link = link(&client, vec![address.to_string()]);
    ask_link(&link, b"hello").await.unwrap();
    // Killed: its tasks are dropped where they stand and nobody is told, since what they still send comes from elsewhere.
    server.rebind(std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    world.kill();
    drop((server, env));
    let env = Env::real();
    let _server = rebind(address, &keys, &env).await;
    let start = Instant::now();
    let failed = ask_link(&link, b"lost").await.unwrap_err();
    assert!(failed.to_string().contains("was restarted"), "{failed}");
    until_answered(&link).await;
    assert!(start.elapsed() < Duration::from_secs(5), "only the idle timeout told: {:?}", start.elapsed());
    assert_eq!(client.counters().reconnects.get(), 1);
}

/// The real world, with tasks that can be killed all at once.
#[derive(Default)]
struct MortalWorld(Mutex<Vec<AbortHandle>>);

impl MortalWorld {
    fn kill(&self) {
        self.0.lock().unwrap().drain(..).for_each(|task| task.abort());
    }
}

impl World for MortalWorld {
    #[expect(clippy::disallowed_methods, reason = "a world is what starts tasks")]
    fn spawn(&self, task: BoxTask) {
        self.0.lock().unwrap().push(tokio::spawn(task).abort_handle());
    }

    fn wall_ms(&self) -> u64 {
        RealWorld.wall_ms()
    }

    fn seed(&self, label: &str) -> [u8; 32] {
        RealWorld.seed(label)
    }

    fn blocking(&self, job: Box<dyn FnOnce() + Send + 'static>) {
        RealWorld.blocking(job);
    }
}

/// Starts a node on the port of one that was just killed, as soon as the system has freed it.
async fn rebind(address: SocketAddr, keys: &EndpointKeys, env: &Env) -> Endpoint {
    let start = Instant::now();
    loop {
        match std::net::UdpSocket::bind(address) {
            Ok(socket) => return node(Socket::Bound(socket), keys, env),
            Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_client_that_moves_to_another_address_keeps_its_requests_going() {
    let (server, address) = echo_server();
    let client = endpoint(material(CLIENT));
    let connection = connect(&client, address).await.unwrap();
    ask(&connection, b"hello").await.unwrap();
    let slow = background({
        let connection = connection.clone();
        async move { ask(&connection, b"slow").await }
    });
    until("the slow request is on its way", || connection.pending() == 1).await;
    client.rebind(std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    assert_eq!(ask(&connection, b"moved").await.unwrap(), "moved");
    assert_eq!(slow.await.unwrap().unwrap(), "slow");
    assert_eq!(server.counters().handshakes_ok.get(), 1, "it connected anew instead of moving");
}

#[tokio::test]
async fn a_node_that_closes_answers_what_it_took_and_takes_nothing_more() {
    let (server, address) = echo_server();
    let client = endpoint(material(CLIENT));
    let connection = connect(&client, address).await.unwrap();
    ask(&connection, b"hello").await.unwrap();
    let slow = background({
        let connection = connection.clone();
        async move { ask(&connection, b"slow").await }
    });
    until("the node has the slow request", || server.counters().frames_received.get() == 2).await;
    assert_eq!(server.close(PATIENCE).await, 0, "tasks had to be dropped");
    assert_eq!(slow.await.unwrap().unwrap(), "slow");
    let late = ask(&connection, b"late").await.unwrap_err();
    assert!(matches!(late, NetError::NotSent { .. }), "{late:?}");
    let closed = connection.closed().await;
    assert!(closed.to_string().contains("shutting down"), "{closed}");
}

#[tokio::test]
async fn a_request_that_outlasts_the_patience_of_a_closing_node_is_told() {
    let (server, address) = echo_server();
    let client = endpoint(material(CLIENT));
    let connection = connect(&client, address).await.unwrap();
    let waits = background({
        let connection = connection.clone();
        async move { ask(&connection, b"wait").await }
    });
    until("the node has the request", || server.counters().frames_received.get() == 1).await;
    assert!(server.close(Duration::from_millis(50)).await > 0);
    let error = waits.await.unwrap().unwrap_err();
    assert!(matches!(error, NetError::Unanswered { .. }), "{error:?}");
}

#[tokio::test]
async fn many_peers_that_come_at_once_are_all_let_in() {
    let (server, address) = echo_server();
    let client = endpoint(material(CLIENT));
    let connect = |_| {
        let client = client.clone();
        async move { connect(&client, address).await.unwrap() }
    };
    // More than may be in their handshake without having proved their address.
    let count = limits::HANDSHAKES_UNPROVEN_MAX * 2;
    let connections = (0..count).map(connect).collect::<JoinSet<_>>().join_all().await;
    let let_in = u64::try_from(count).unwrap();
    until("the server let them in", || server.counters().handshakes_ok.get() == let_in).await;
    assert!(connections.iter().all(|connection| connection.ended().is_none()));
}

#[tokio::test]
async fn new_certificates_are_used_without_a_restart() {
    let (server, address) = echo_server();
    let client = endpoint(material(CLIENT));
    let old = connect(&client, address).await.unwrap();
    server.reload(&material("dynamomini://node/n9")).unwrap();
    let fresh = client.connect(address, &Expect::Node("n9".parse().unwrap()), 1).await.unwrap();
    assert_eq!(ask(&fresh, b"new").await.unwrap(), "new");
    assert_eq!(ask(&old, b"old").await.unwrap(), "old");
    client.reload(&material("dynamomini://client/d")).unwrap();
    let renamed = connect(&client, address).await.unwrap();
    assert_eq!(ask(&renamed, b"who").await.unwrap(), "client d");
}

#[tokio::test]
async fn a_pool_has_one_link_to_each_node_and_drops_those_unwanted() {
    let (_server, address) = echo_server();
    let client = endpoint(material("dynamomini://node/n2"));
    let pool = Pool::new(&client, LinkSettings::default(), &Env::real());
    let name = "n1".parse().unwrap();
    let link = pool.link(&name, &[dead_address_refused()]);
    let moved = pool.link(&name, &[address.to_string()]);
    assert_eq!(link.addresses(), moved.addresses());
    assert_eq!(ask_link(&link, b"who").await.unwrap(), "node n2");
    assert_eq!(pool.links().len(), 1);
    pool.retain(|_| false);
    assert!(pool.get(&name).is_none());
    drop((link, moved));
    until("the dropped link's connection is closed", || client.open_connections() == 0).await;
}
