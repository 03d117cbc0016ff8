//! Peers that must not be let in: each is refused with a reason both sides can read, and logged once.

use quinn::crypto::rustls::QuicClientConfig;
use rcgen::ExtendedKeyUsagePurpose;

use super::raw::bind;
use super::raw::config;
use super::*;
use crate::net::counters::HandshakeFailure;
use crate::net::tls::ALPN;

/// Tries twice with this certificate, which the server must refuse both times and log once.
async fn server_refuses(issued: &Issued, kind: HandshakeFailure, reason: &str) {
    let (server, address) = echo_server();
    for _ in 0..2 {
        let client = endpoint(load(issued, &authority().root).unwrap());
        let error = refused(&client, address).await;
        assert!(error.contains(reason), "{error}");
    }
    until("both were counted", || server.counters().handshakes_failed(kind) == 2).await;
    assert_eq!(server.counters().refusals_logged.get(), 1);
    unharmed(address).await;
}

/// A certificate that expired long ago.
fn expired(uri: &str) -> Issued {
    authority().issue_with(&[uri], |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    })
}

/// That a client refuses a server with this certificate.
async fn client_refuses(server: TlsMaterial, expect: Expect, kind: HandshakeFailure, reason: &str) {
    let server = endpoint(server);
    server.serve(Echo);
    let client = endpoint(material(CLIENT));
    let error = client.connect(server.local_addr().unwrap(), &expect, 1).await.unwrap_err();
    assert!(matches!(error, NetError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains(reason), "{error}");
    assert_eq!(client.counters().handshakes_failed(kind), 1);
    until("the server noticed", || server.counters().refusals_logged.get() == 1).await;
}

#[tokio::test]
async fn a_client_of_another_authority_is_refused() {
    let other = Authority::new("another cluster").issue(&[CLIENT]);
    server_refuses(&other, HandshakeFailure::WrongAuthority, "of this process is of another authority").await;
}

#[tokio::test]
async fn an_expired_client_is_refused() {
    server_refuses(&expired(CLIENT), HandshakeFailure::Expired, "of this process has expired").await;
}

#[tokio::test]
async fn a_certificate_without_a_role_is_refused() {
    // Such a certificate cannot be loaded here, so a stranger's tool presents it.
    let (server, address) = echo_server();
    for _ in 0..2 {
        let error = stranger(&authority().issue(&["https://example.org/"]), address).await;
        assert!(error.contains("names no role"), "{error}");
    }
    until("both were counted", || server.counters().handshakes_failed(HandshakeFailure::Role) == 2).await;
    assert_eq!(server.counters().refusals_logged.get(), 1);
    unharmed(address).await;
}

#[tokio::test]
async fn a_peer_without_a_certificate_is_refused() {
    let (server, address) = echo_server();
    let provider = ring_provider();
    let mut tls = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots())
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN[0].to_vec()];
    let error = dial(tls, address).await;
    assert!(error.contains("certificate"), "{error}");
    until("it was counted", || server.counters().handshakes_failed(HandshakeFailure::NoCertificate) == 1).await;
    unharmed(address).await;
}

#[tokio::test]
async fn a_server_of_another_authority_is_refused() {
    let other = Authority::new("another cluster");
    let server = load(&other.issue(&[NODE]), &authority().root).unwrap();
    client_refuses(server, Expect::AnyNode, HandshakeFailure::WrongAuthority, "its certificate is of another").await;
}

#[tokio::test]
async fn an_expired_server_is_refused() {
    let server = load(&expired(NODE), &authority().root).unwrap();
    client_refuses(server, Expect::AnyNode, HandshakeFailure::Expired, "its certificate has expired").await;
}

#[tokio::test]
async fn a_client_that_poses_as_a_server_is_refused() {
    let reason = "the certificate is of client c, but only a node may serve";
    client_refuses(material(CLIENT), Expect::AnyNode, HandshakeFailure::Role, reason).await;
    let restricted = authority().issue_with(&[CLIENT], |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    let restricted = load(&restricted, &authority().root).unwrap();
    client_refuses(restricted, Expect::AnyNode, HandshakeFailure::Role, reason).await;
}

#[tokio::test]
async fn another_node_than_the_expected_one_is_refused() {
    let expect = Expect::Node("n2".parse().unwrap());
    let reason = "the certificate is of node n1, but node n2 was expected";
    client_refuses(material(NODE), expect, HandshakeFailure::Role, reason).await;
}

#[tokio::test]
async fn peers_that_share_no_protocol_version_refuse_each_other() {
    let (server, address) = echo_server();
    let newer = config(CLIENT, &[b"dynamomini/9"]);
    let endpoint = bind(&newer, false);
    let error = endpoint.connect_with(newer.client.clone(), address, "node").unwrap().await.unwrap_err();
    let error = crate::net::error::lost("node", &error);
    assert!(matches!(error, NetError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("share no protocol version"), "{error}");
    until("it was counted", || server.counters().handshakes_failed(HandshakeFailure::Protocol) == 1).await;

    let newer = bind(&newer, true);
    let client = super::endpoint(material(CLIENT));
    background({
        let newer = newer.clone();
        async move { newer.accept().await.unwrap().await.map(drop) }
    });
    let error = refused(&client, newer.local_addr().unwrap()).await;
    assert!(error.contains("share no protocol version"), "{error}");
    unharmed(address).await;
}

#[tokio::test]
async fn the_newest_shared_protocol_version_is_taken() {
    let both = config(NODE, &[b"dynamomini/2", b"dynamomini/1"]);
    let server = bind(&both, true);
    let old = config(CLIENT, &[b"dynamomini/1"]);
    for (client, expected) in [(&both, &b"dynamomini/2"[..]), (&old, b"dynamomini/1")] {
        let endpoint = bind(client, false);
        let connecting = endpoint.connect_with(client.client.clone(), server.local_addr().unwrap(), "node").unwrap();
        let accepting = async { server.accept().await.unwrap().await };
        let (connected, accepted) = tokio::join!(connecting, accepting);
        let data = connected.unwrap().handshake_data().unwrap();
        let data = data.downcast::<quinn::crypto::rustls::HandshakeData>().unwrap();
        assert_eq!(data.protocol.as_deref(), Some(expected));
        accepted.unwrap();
    }
}

#[tokio::test]
async fn packets_that_are_not_quic_do_no_harm() {
    let (_server, address) = echo_server();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for size in [0, 1, 20, 1200, 1472] {
        for byte in [0, 0x40, 0xc0, 0xff] {
            socket.send_to(&vec![byte; size], address).unwrap();
        }
    }
    unharmed(address).await;
}

fn roots() -> rustls::RootCertStore {
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(authority().root.as_bytes()).unwrap()).unwrap();
    roots
}

/// Connects with a certificate that this project's own code would not load.
async fn stranger(issued: &Issued, address: SocketAddr) -> String {
    use rustls::pki_types::pem::PemObject;
    let chain = vec![rustls::pki_types::CertificateDer::from_pem_slice(issued.chain.as_bytes()).unwrap()];
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    let mut tls = rustls::ClientConfig::builder_with_provider(ring_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots())
        .with_client_auth_cert(chain, key)
        .unwrap();
    tls.alpn_protocols = vec![ALPN[0].to_vec()];
    dial(tls, address).await
}

/// Connects, accepting any server, and waits to be thrown out; returns the reason.
async fn dial(mut tls: rustls::ClientConfig, address: SocketAddr) -> String {
    tls.dangerous().set_certificate_verifier(Arc::new(AnyServer));
    let client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let endpoint = bind(&config(CLIENT, ALPN), false);
    match endpoint.connect_with(client, address, "node").unwrap().await {
        Ok(quic) => tokio::time::timeout(PATIENCE, quic.closed()).await.expect("it was let in").to_string(),
        Err(error) => error.to_string(),
    }
}

/// Accepts any server, as a careless tool might.
#[derive(Debug)]
struct AnyServer;

impl rustls::client::danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        ring_provider().signature_verification_algorithms.supported_schemes()
    }
}
