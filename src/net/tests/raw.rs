//! A peer that speaks QUIC but not this protocol: streams and bytes as the test likes.

use quinn::ConnectionError;
use quinn::RecvStream;
use quinn::SendStream;

use super::*;
use crate::limits;
use crate::net::settings::QuicConfig;
use crate::net::settings::QuicSource;

pub(super) struct RawPeer {
    _endpoint: quinn::Endpoint,
    pub(super) quic: quinn::Connection,
}

/// The configuration of a peer that offers these protocols.
pub(super) fn config(uri: &str, alpn: &[&[u8]]) -> QuicConfig {
    let (material, provider, env) = (material(uri), ring_provider(), Env::real());
    let (keys, settings) = (EndpointKeys::generate(&env), TransportSettings::default());
    let source = QuicSource::new(&material, &provider, &keys, &settings, &env);
    QuicSource { alpn, ..source }.build().unwrap()
}

/// An endpoint with a configuration of the test's own.
pub(super) fn bind(config: &QuicConfig, serve: bool) -> quinn::Endpoint {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = serve.then(|| config.server.clone());
    quinn::Endpoint::new(config.endpoint.clone(), server, socket, Arc::new(quinn::TokioRuntime)).unwrap()
}

impl RawPeer {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        let config = config(CLIENT, crate::net::tls::ALPN);
        let endpoint = bind(&config, false);
        let quic = endpoint.connect_with(config.client, address, "node").unwrap().await.unwrap();
        Self { _endpoint: endpoint, quic }
    }

    /// Opens a stream and writes the bytes.
    pub(super) async fn write(&self, bytes: &[u8]) -> (SendStream, RecvStream) {
        let (mut send, receive) = self.quic.open_bi().await.unwrap();
        send.write_all(bytes).await.unwrap();
        (send, receive)
    }

    /// Waits until the other side closes, and returns the code and reason it gives.
    pub(super) async fn closed(&self) -> (u64, String) {
        let error = tokio::time::timeout(PATIENCE, self.quic.closed()).await.expect("the peer was not disconnected");
        let ConnectionError::ApplicationClosed(close) = error else { panic!("closed without a word: {error}") };
        (close.error_code.into_inner(), String::from_utf8(close.reason.to_vec()).unwrap())
    }
}

/// A request frame on a lane.
pub(super) fn request(id: u64, deadline_ms: u32, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.put_u32_le(u32::try_from(12 + body.len()).unwrap());
    frame.put_u64_le(id);
    frame.put_u32_le(deadline_ms);
    frame.put_slice(body);
    frame
}

#[tokio::test]
async fn a_request_that_arrives_expired_is_not_executed() {
    let (server, address) = echo_server();
    let peer = RawPeer::connect(address).await;
    let (_send, mut receive) = peer.write(&[&[1][..], &request(7, 0, b"too late")].concat()).await;
    let mut reply = [0; 13];
    receive.read_exact(&mut reply).await.unwrap();
    assert_eq!(reply, *b"\x09\0\0\0\x07\0\0\0\0\0\0\0\x01");
    assert_eq!(server.counters().requests_expired.get(), 1);
}

#[tokio::test]
async fn garbage_on_a_stream_disconnects_its_sender() {
    let (server, address) = echo_server();
    // A request whose body says that it is packed, and is not.
    let unpackable = [&b"\x03"[..], &request(1, 1000, b"\x09\0\0\0abc")].concat();
    let kinds = [&b"\x09unknown kind of stream"[..], b"\x01\x03\0\0\0abc", b"\x02\x03\0\0\0abc", &unpackable];
    for garbage in kinds {
        let peer = RawPeer::connect(address).await;
        let _stream = peer.write(garbage).await;
        assert_eq!(peer.closed().await, (2, "a frame is malformed".to_owned()));
    }
    assert_eq!(server.counters().peers_disconnected.get(), 4);
    unharmed(address).await;
}

#[tokio::test]
async fn an_oversized_frame_disconnects_its_sender() {
    let (_server, address) = echo_server();
    let too_long = |max: usize| u32::try_from(max + 13).unwrap();
    let (lane, bulk) = (too_long(limits::LANE_FRAME_MAX), too_long(limits::FRAME_MAX + 4));
    for (kind, length) in [(1u8, lane), (1, u32::MAX), (2, bulk), (2, u32::MAX), (3, bulk), (3, u32::MAX)] {
        let peer = RawPeer::connect(address).await;
        let _stream = peer.write(&[&[kind][..], &length.to_le_bytes(), b"the rest never comes"].concat()).await;
        let (code, reason) = peer.closed().await;
        assert_eq!(code, 2);
        assert!(reason.contains(&format!("a frame of {length} bytes")), "{reason}");
    }
    unharmed(address).await;
}

#[tokio::test]
async fn a_truncated_stream_disconnects_its_sender() {
    let (_server, address) = echo_server();
    for kind in [1u8, 2, 3] {
        let peer = RawPeer::connect(address).await;
        let (mut send, _receive) = peer.write(&[&[kind][..], &request(1, 1000, b"body")[..10]].concat()).await;
        send.finish().unwrap();
        assert_eq!(peer.closed().await, (2, "the stream ended inside a frame".to_owned()));
    }
    unharmed(address).await;
}

#[tokio::test]
async fn a_request_given_up_while_it_is_sent_is_not_held_against_its_sender() {
    let (_server, address) = echo_server();
    let peer = RawPeer::connect(address).await;
    let (mut send, _receive) = peer.write(&[&[2][..], &1_000_000u32.to_le_bytes(), b"begun"].concat()).await;
    send.reset(quinn::VarInt::from_u32(0)).unwrap();
    let (_send, mut receive) = peer.write(&[&[1][..], &request(7, 1000, b"!")].concat()).await;
    let mut reply = [0; 14];
    receive.read_exact(&mut reply).await.unwrap();
    assert_eq!(reply[13], b'!');
}

#[tokio::test]
async fn a_peer_that_opens_too_many_lanes_is_disconnected() {
    let (_server, address) = echo_server();
    let peer = RawPeer::connect(address).await;
    let mut lanes = Vec::new();
    for _ in 0..17 {
        lanes.push(peer.write(&[1]).await);
    }
    assert_eq!(peer.closed().await.0, 2);
    unharmed(address).await;
}

#[tokio::test]
async fn a_peer_that_does_not_read_its_replies_is_disconnected_and_others_are_served() {
    let settings = TransportSettings { idle_timeout: Duration::from_millis(400), ..TransportSettings::default() };
    let settings = TransportSettings { keep_alive: Duration::from_millis(50), ..settings };
    let server = endpoint_with(material(NODE), settings);
    server.serve(Echo);
    let address = server.local_addr().unwrap();
    let peer = RawPeer::connect(address).await;
    let (mut send, _unread) = peer.write(&[1]).await;
    // Far more than the windows and buffers between the two hold.
    let flood = async {
        for id in 0.. {
            if send.write_all(&request(id, 60_000, b"chunk")).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let (closed, ()) = tokio::join!(peer.closed(), async { tokio::join!(flood, unharmed(address)).1 });
    assert_eq!(closed.0, 3, "{closed:?}");
    assert!(closed.1.contains("took nothing"), "{closed:?}");
    assert_eq!(server.counters().peers_disconnected.get(), 1);
    unharmed(address).await;
}
