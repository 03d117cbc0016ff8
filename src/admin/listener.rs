//! The TCP listener: bounded in connections, in the size of a request, and in the time that each may take.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio::time::timeout;

use crate::admin::answer;
use crate::env::Env;
use crate::limits;
use crate::node::Observer;

/// Pause after the system refused a connection, as when no file is left to open.
const REFUSED_PAUSE: Duration = Duration::from_millis(200);

/// Why there is no admin listener.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Something else listens there.
    #[error("TCP port {0} is in use: stop what listens there, or set listen.admin to another address")]
    InUse(SocketAddr),
    /// The system does not allow it.
    #[error("listen.admin {address}: {source}")]
    Socket {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// A listener that does not answer yet.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
}

/// Where the answers come from: nowhere while the node is being started, then from the node.
#[derive(Debug, Clone, Default)]
pub struct Desk(Arc<OnceLock<Observer>>);

impl Desk {
    /// From now on answers are about this node. To be called once; later calls change nothing.
    pub fn open(&self, node: Observer) {
        drop(self.0.set(node));
    }

    pub(crate) fn node(&self) -> Option<&Observer> {
        self.0.get()
    }
}

impl Admin {
    /// Takes the address; connections wait until [`Admin::serve`].
    ///
    /// # Errors
    /// [`AdminError`] says what to do.
    pub async fn bind(address: SocketAddr) -> Result<Self, AdminError> {
        let listener = TcpListener::bind(address).await.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => AdminError::InUse(address),
            _ => AdminError::Socket { address, source },
        })?;
        Ok(Self { listener })
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers in the scope of `env` until it is stopped. Until the desk is opened, the node lives but is not ready.
    pub fn serve(self, env: &Env) -> Desk {
        let desk = Desk::default();
        env.spawn("admin/accept", accept(self.listener, desk.clone(), env.clone()));
        desk
    }
}

/// Accepts one connection after another, as many at once as the limit allows.
async fn accept(listener: TcpListener, desk: Desk, env: Env) {
    let room = Arc::new(Semaphore::new(limits::ADMIN_CONNECTIONS_MAX));
    loop {
        let next = async {
            let permit = room.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            biased;
            () = env.stopped() => return,
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                let desk = desk.clone();
                env.spawn("admin/connection", async move {
                    // Whoever is slower has had time enough.
                    if timeout(limits::ADMIN_PATIENCE, serve(stream, desk)).await.is_err() {
                        tracing::debug!("a connection to the admin listener took too long");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the admin listener cannot accept a connection");
                sleep(REFUSED_PAUSE).await;
            }
        }
    }
}

/// Answers the one request of a connection.
async fn serve(stream: TcpStream, desk: Desk) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits::ADMIN_HEADERS_PATIENCE)
        .max_buf_size(limits::ADMIN_REQUEST_MAX)
        .max_headers(limits::ADMIN_HEADERS_MAX)
        // A scrape now and then is no reason to keep connections that have to be bounded.
        .keep_alive(false);
    let service = service_fn(|request: Request<Incoming>| {
        let desk = desk.clone();
        async move { Ok::<_, Infallible>(answer::answer(request.method(), request.uri().path(), &desk).await.map(body)) }
    });
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection to the admin listener ended early");
    }
}

fn body(text: String) -> Full<Bytes> {
    Full::new(Bytes::from(text))
}
