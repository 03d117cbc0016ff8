//! Two endpoints on loopback, friendly and hostile.

mod credential;
mod hostile;
mod life;
mod material;
mod raw;
mod traffic;

#[path = "../../../tests/support/certs.rs"]
pub(crate) mod certs;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::BufMut;
use bytes::Bytes;

use crate::env::Env;
use crate::net::BindConfig;
use crate::net::Connection;
use crate::net::Endpoint;
use crate::net::EndpointKeys;
use crate::net::Expect;
use crate::net::Handler;
use crate::net::Incoming;
use crate::net::NetError;
use crate::net::PemFile;
use crate::net::Socket;
use crate::net::TlsMaterial;
use crate::net::TransportSettings;
use crate::net::tls::TlsError;
use crate::net::tls::ring_provider;

use certs::Authority;
use certs::Issued;

/// Long enough for anything that works.
const PATIENCE: Duration = Duration::from_secs(20);
const NODE: &str = "dynamomini://node/n1";
const CLIENT: &str = "dynamomini://client/c";

fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| Authority::new("cluster"))
}

fn load(issued: &Issued, root: &str) -> Result<TlsMaterial, TlsError> {
    let file = |name, text: &'static str| PemFile { name, bytes: text.as_bytes() };
    let leak = |text: &str| -> &'static str { String::leak(text.to_owned()) };
    let (chain, key) = (file("cert.pem", leak(&issued.chain)), file("key.pem", leak(&issued.key)));
    TlsMaterial::from_pem(chain, key, file("roots.pem", leak(root)), &ring_provider())
}

fn material(uri: &str) -> TlsMaterial {
    load(&authority().issue(&[uri]), &authority().root).unwrap()
}

/// An endpoint on a free port, in a scope of its own.
fn endpoint(material: TlsMaterial) -> Endpoint {
    endpoint_with(material, TransportSettings::default())
}

fn endpoint_with(material: TlsMaterial, settings: TransportSettings) -> Endpoint {
    let env = Env::real();
    let keys = EndpointKeys::generate(&env);
    let socket = Socket::Address("127.0.0.1:0".parse().unwrap());
    Endpoint::bind(BindConfig { socket, material, provider: ring_provider(), keys, settings }, &env).unwrap()
}

/// A node that echoes.
fn echo_server() -> (Endpoint, SocketAddr) {
    let server = endpoint(material(NODE));
    server.serve(Echo);
    let address = server.local_addr().unwrap();
    (server, address)
}

/// Answers with the request, or does what the request says: `panic`, `wait`, `large`.
#[derive(Clone)]
struct Echo;

impl Handler for Echo {
    async fn handle(&self, request: Incoming) -> Bytes {
        match &request.body[..] {
            b"panic" => panic!("as asked"),
            b"panic later" => {
                tokio::task::yield_now().await;
                panic!("as asked")
            }
            b"wait" => {
                tokio::time::sleep_until(request.deadline).await;
                request.body
            }
            b"slow" => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                request.body
            }
            b"large" => Bytes::from(vec![5; 3_000_000]),
            b"chunk" => Bytes::from(vec![6; 60_000]),
            b"who" => Bytes::from(request.peer.identity().to_string()),
            _ => request.body,
        }
    }
}

async fn ask(connection: &Connection, body: &[u8]) -> Result<Bytes, NetError> {
    connection.request(PATIENCE, |buffer| buffer.put_slice(body)).await
}

async fn connect(client: &Endpoint, address: SocketAddr) -> Result<Connection, NetError> {
    client.connect(address, &Expect::AnyNode, 1).await
}

/// Waits until the condition holds.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never came true: {what}"));
}

/// A peer that connects and is refused some time after: the error its first request meets.
async fn refused(client: &Endpoint, address: SocketAddr) -> String {
    let error = match connect(client, address).await {
        Ok(connection) => ask(&connection, b"hello").await.unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(error, NetError::Refused { .. }), "{error:?}");
    error.to_string()
}

/// That the node still serves others.
async fn unharmed(address: SocketAddr) {
    let client = endpoint(material(CLIENT));
    let connection = connect(&client, address).await.unwrap();
    assert_eq!(ask(&connection, b"still there?").await.unwrap(), "still there?");
}

/// Runs something beside the test.
#[expect(clippy::disallowed_methods, reason = "a test awaits what it starts")]
fn background<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> tokio::task::JoinHandle<T> {
    tokio::spawn(future)
}
