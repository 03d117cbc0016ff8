//! One UDP socket with its QUIC: what a process listens on and connects from.

use std::io;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use quinn::AsyncUdpSocket;
use quinn::Runtime;
use rustls::crypto::CryptoProvider;

use crate::env::Env;
use crate::limits;
use crate::net::accept;
use crate::net::connection::Connection;
use crate::net::connection::ConnectionParts;
use crate::net::connection::Shared as Connected;
use crate::net::counters::NetCounters;
use crate::net::error::CloseCode;
use crate::net::error::NetError;
use crate::net::error::handshake_failure;
use crate::net::error::lost;
use crate::net::identity::Certificate;
use crate::net::peer::Peer;
use crate::net::runtime::EnvRuntime;
use crate::net::serve::Handler;
use crate::net::serve::Site;
use crate::net::settings::EndpointKeys;
use crate::net::settings::QuicConfig;
use crate::net::settings::QuicSource;
use crate::net::settings::TransportSettings;
use crate::net::tls::TlsError;
use crate::net::tls::TlsMaterial;
use crate::net::tls::server_name;
use crate::net::vigil;
use crate::net::vigil::Vigil;
use crate::types::NodeName;

/// How long a closed endpoint stays so that the word of it goes out. A peer that is dead, or was being connected to, would
/// hold it up for three probe timeouts.
const LINGER: Duration = Duration::from_millis(100);

/// Where an endpoint's packets come from and go to.
#[derive(Debug)]
pub enum Socket {
    /// Bind a UDP socket to this address; port 0 takes a free one.
    Address(SocketAddr),
    /// A socket that is bound already.
    Bound(UdpSocket),
    /// Anything that moves packets: a simulated network.
    Abstract(Arc<dyn AsyncUdpSocket>),
}

/// What an endpoint is made from.
#[derive(Debug)]
pub struct BindConfig {
    /// Where packets come from and go to.
    pub socket: Socket,
    /// Who this process is and whom it trusts.
    pub material: TlsMaterial,
    /// The cryptography: [`crate::net::tls::ring_provider`], except in a simulation.
    pub provider: Arc<CryptoProvider>,
    /// Keys that should outlive a restart of a node.
    pub keys: EndpointKeys,
    /// How connections behave.
    pub settings: TransportSettings,
}

/// Why an endpoint could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process has the port.
    #[error("UDP port {0} is in use: stop what listens there, or configure another address")]
    InUse(SocketAddr),
    /// The socket could not be made or used.
    #[error("UDP socket on {address}: {source}")]
    Socket {
        /// The address.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// Certificates or settings do not work.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Whom a connection must reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// This node and no other.
    Node(NodeName),
    /// Whichever node of the cluster answers.
    AnyNode,
}

impl Expect {
    /// The node that is expected, if a certain one is.
    pub fn node(&self) -> Option<&NodeName> {
        match self {
            Self::Node(name) => Some(name),
            Self::AnyNode => None,
        }
    }
}

/// A process's end of the network. Clones share it.
#[derive(Clone)]
pub struct Endpoint(Arc<Shared>);

struct Shared {
    quic: quinn::Endpoint,
    config: Mutex<QuicConfig>,
    /// The certificate in use.
    certificate: Mutex<Certificate>,
    serves: std::sync::atomic::AtomicBool,
    /// What is needed to build the configuration again when certificates change.
    rebuild: Rebuild,
    counters: Arc<NetCounters>,
    /// Looks after the connections from here.
    vigil: Arc<Vigil<Connected>>,
    /// Scope of everything that serves.
    serving: Env,
    /// Scope of everything that asks, and of quinn itself.
    env: Env,
}

struct Rebuild {
    provider: Arc<CryptoProvider>,
    keys: EndpointKeys,
    settings: TransportSettings,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("address", &self.0.quic.local_addr()).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// Makes an endpoint. Its tasks live in a scope inside `env`: they end with [`Endpoint::close`].
    ///
    /// # Errors
    /// [`BindError`] when the socket or the certificates cannot be used.
    pub fn bind(config: BindConfig, env: &Env) -> Result<Self, BindError> {
        let BindConfig { socket, material, provider, keys, settings } = config;
        let rebuild = Rebuild { provider, keys, settings };
        let quic = rebuild.build(&material, env)?;
        let scope = env.child();
        let runtime: Arc<dyn Runtime> = Arc::new(EnvRuntime::new(scope.child(), rebuild.settings.mtu_upper_bound));
        let socket = open(socket, &*runtime)?;
        let endpoint = quinn::Endpoint::new_with_abstract_socket(quic.endpoint.clone(), None, socket, runtime)
            .map_err(|source| BindError::Socket { address: "given socket".to_owned(), source })?;
        let watched = Arc::new(Vigil::default());
        let (keep_alive, patience) = (rebuild.settings.keep_alive, rebuild.settings.idle_timeout);
        let keep = watched.clone().keep(vigil::pause(keep_alive, patience), patience, scope.clone());
        scope.spawn("net/vigil", keep);
        Ok(Self(Arc::new(Shared {
            quic: endpoint,
            config: Mutex::new(quic),
            certificate: Mutex::new(material.certificate().clone()),
            serves: std::sync::atomic::AtomicBool::new(false),
            rebuild,
            counters: Arc::default(),
            vigil: watched,
            serving: scope.child(),
            env: scope,
        })))
    }

    /// Begins to accept connections and to answer requests with the handler. To be called once.
    pub fn serve(&self, handler: impl Handler) {
        let server = self.config().server;
        self.0.serves.store(true, std::sync::atomic::Ordering::Relaxed);
        self.0.quic.set_server_config(Some(server));
        let site = Site {
            counters: self.0.counters.clone(),
            patience: self.0.rebuild.settings.idle_timeout,
            env: self.0.serving.clone(),
            room: Arc::default(),
        };
        self.0.serving.spawn("net/accept", accept::accept(self.0.quic.clone(), handler, site));
    }

    /// Connects to a node, with the given number of lanes (at most [`crate::limits::LANES_MAX`]; 0 takes as many as the length
    /// of the path suggests). Cancel-safe.
    ///
    /// # Errors
    /// `NotSent` when nobody answers, `Refused` when one side does not accept the other.
    pub async fn connect(&self, address: SocketAddr, expect: &Expect, lanes: usize) -> Result<Connection, NetError> {
        let label =
            expect.node().map_or_else(|| format!("node at {address}"), |name| format!("node {name} at {address}"));
        let client = self.config().client;
        let connecting = match self.0.quic.connect_with(client, address, &server_name(expect.node())) {
            Ok(connecting) => connecting,
            Err(quinn::ConnectError::EndpointStopping) => return Err(NetError::Closed),
            Err(error) => return Err(NetError::not_sent(&label, error.to_string())),
        };
        let quic = connecting.await.map_err(|error| {
            self.0.counters.handshake_failed(handshake_failure(&error));
            lost(&label, &error).before_sending()
        })?;
        let peer = Peer::of(&quic).map_err(|error| NetError::refused(&label, error.to_string()))?;
        self.0.counters.handshakes_ok.one();
        let connection = Connection::new(ConnectionParts {
            quic,
            peer: Arc::new(peer),
            lanes,
            counters: self.0.counters.clone(),
            patience: limits::DRAIN_MAX,
            bell: self.0.vigil.bell().clone(),
            env: self.0.env.clone(),
        });
        self.0.vigil.add(connection.shared());
        Ok(connection)
    }

    /// Uses new certificates from now on. Connections that exist stay as they are.
    ///
    /// # Errors
    /// When they cannot be used; the old ones then stay in use.
    pub fn reload(&self, material: &TlsMaterial) -> Result<(), TlsError> {
        let fresh = self.0.rebuild.build(material, &self.0.env)?;
        if self.0.serves.load(std::sync::atomic::Ordering::Relaxed) {
            self.0.quic.set_server_config(Some(fresh.server.clone()));
        }
        *self.0.config.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        *self.0.certificate.lock().unwrap_or_else(PoisonError::into_inner) = material.certificate().clone();
        Ok(())
    }

    /// The certificate that it shows now.
    pub fn certificate(&self) -> Certificate {
        self.0.certificate.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The cryptography it uses.
    pub fn provider(&self) -> &Arc<CryptoProvider> {
        &self.0.rebuild.provider
    }

    /// Moves to another socket; connections go on from there.
    ///
    /// # Errors
    /// When the socket cannot be used; the old one then stays in use.
    pub fn rebind(&self, socket: UdpSocket) -> io::Result<()> {
        self.0.quic.rebind(socket)
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.quic.local_addr()
    }

    /// What happened so far.
    pub fn counters(&self) -> &Arc<NetCounters> {
        &self.0.counters
    }

    /// Connections that exist now, of both directions.
    pub fn open_connections(&self) -> usize {
        self.0.quic.open_connections()
    }

    /// Ends in good order: takes no new connections and requests, lets those under way end for up to `patience`, closes
    /// all connections and lingers until the peers were told. Returns how many tasks had to be dropped.
    pub async fn close(&self, patience: Duration) -> usize {
        self.0.quic.set_server_config(None);
        let dropped = self.0.serving.shutdown(patience).await;
        self.0.quic.close(CloseCode::Done.code(), b"shutting down");
        let idle = tokio::time::timeout(LINGER, self.0.quic.wait_idle()).await;
        if idle.is_err() {
            tracing::debug!("some peers did not acknowledge the end of their connection");
        }
        dropped
    }

    fn config(&self) -> QuicConfig {
        self.0.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Rebuild {
    fn build(&self, material: &TlsMaterial, env: &Env) -> Result<QuicConfig, TlsError> {
        QuicSource::new(material, &self.provider, &self.keys, &self.settings, env).build()
    }
}

fn open(socket: Socket, runtime: &dyn Runtime) -> Result<Arc<dyn AsyncUdpSocket>, BindError> {
    let (socket, address) = match socket {
        Socket::Abstract(socket) => return Ok(socket),
        Socket::Bound(socket) => (socket, "given socket".to_owned()),
        Socket::Address(address) => {
            let bound = bind(address).map_err(|source| match source.kind() {
                io::ErrorKind::AddrInUse => BindError::InUse(address),
                _ => BindError::Socket { address: address.to_string(), source },
            })?;
            (bound, address.to_string())
        }
    };
    runtime.wrap_udp_socket(socket).map_err(|source| BindError::Socket { address, source })
}

/// Binds a UDP socket with buffers that hold a burst: the system's default of about 200 KiB loses packets whenever a
/// busy process is not scheduled for a millisecond. `[::]` serves IPv4 too.
fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::DGRAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // The system grants what its own limit allows, silently; less costs speed, not correctness.
    socket.set_recv_buffer_size(limits::SOCKET_BUFFER)?;
    socket.set_send_buffer_size(limits::SOCKET_BUFFER)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
