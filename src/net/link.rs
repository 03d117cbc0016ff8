//! One connection to one peer that is made when it is first needed and made again whenever it is lost.
//!
//! While the peer is down, requests fail at once instead of waiting for their deadlines. A link repeats no request: only
//! its caller knows whether that is safe.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use bytes::BytesMut;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio::time::timeout;
use tokio::time::timeout_at;

use crate::env::Env;
use crate::limits;
use crate::net::backoff::Backoff;
use crate::net::connection::Connection;
use crate::net::endpoint::Endpoint;
use crate::net::endpoint::Expect;
use crate::net::error::NetError;

/// How a link connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSettings {
    /// Lanes of its connection. One is cheapest; with more, a lost packet holds up fewer requests. 0 uses one on near paths
    /// and several on far ones.
    pub lanes: usize,
    /// How long one attempt to connect may take, name resolution included.
    pub connect_timeout: Duration,
    /// Longest wait after the first failed attempt.
    pub backoff_min: Duration,
    /// Longest wait after many failed attempts.
    pub backoff_max: Duration,
}

impl Default for LinkSettings {
    fn default() -> Self {
        Self {
            lanes: 0,
            connect_timeout: Duration::from_secs(3),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(5),
        }
    }
}

/// How a link stands.
#[derive(Debug, Clone)]
pub enum LinkState {
    /// Nothing was asked of it yet.
    Idle,
    /// The first attempt is under way, or the first after a loss; requests wait for it.
    Connecting,
    /// Requests go out.
    Up,
    /// Requests fail at once; attempts go on behind them.
    Down {
        /// Since when.
        since: Instant,
        /// Why the last attempt failed.
        error: NetError,
    },
}

#[derive(Debug, Clone, Default)]
enum Phase {
    #[default]
    Idle,
    Connecting,
    Up(Connection),
    Down {
        since: Instant,
        error: NetError,
    },
}

/// A lasting link to one peer. Clones share it; it ends when the last is dropped.
#[derive(Clone)]
pub struct Link(Arc<Handle>);

struct Handle {
    core: Arc<Core>,
    started: AtomicBool,
    scope: Env,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.scope.stop();
    }
}

struct Core {
    endpoint: Endpoint,
    expect: Expect,
    settings: LinkSettings,
    addresses: Mutex<Vec<String>>,
    phase: Phases,
    retry: Notify,
    moved: Notify,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("expect", &self.0.core.expect).field("state", &self.state()).finish()
    }
}

impl Link {
    /// A link to whoever is expected at the addresses (`IP:PORT` or `HOST:PORT`, tried in order, at most
    /// [`limits::ADDRESSES_MAX`]). Nothing is connected yet.
    pub fn new(endpoint: &Endpoint, expect: Expect, addresses: Vec<String>, settings: LinkSettings, env: &Env) -> Self {
        let core = Core {
            endpoint: endpoint.clone(),
            expect,
            settings,
            addresses: Mutex::new(addresses),
            phase: Phases::default(),
            retry: Notify::new(),
            moved: Notify::new(),
        };
        Self(Arc::new(Handle { core: Arc::new(core), started: AtomicBool::new(false), scope: env.child() }))
    }

    /// Sends a request and waits for its reply; see [`Connection::request`]. Connects first if need be.
    ///
    /// # Errors
    /// See [`NetError`]. While the peer is down this is at once the reason why.
    pub async fn request(&self, timeout: Duration, encode: impl FnOnce(&mut BytesMut)) -> Result<Bytes, NetError> {
        self.request_until(Instant::now() + timeout.min(limits::DEADLINE_MAX), encode).await
    }

    /// Like [`Link::request`] for a deadline that is known already, at most [`limits::DEADLINE_MAX`] from now.
    ///
    /// # Errors
    /// See [`Link::request`].
    pub async fn request_until(
        &self,
        deadline: Instant,
        encode: impl FnOnce(&mut BytesMut),
    ) -> Result<Bytes, NetError> {
        self.connection(deadline).await?.request_until(deadline, encode).await
    }

    /// Like [`Link::request`] for a body that exists already; a large one is not copied.
    ///
    /// # Errors
    /// See [`Link::request`].
    pub async fn request_bytes(&self, timeout: Duration, body: Bytes) -> Result<Bytes, NetError> {
        let deadline = Instant::now() + timeout.min(limits::DEADLINE_MAX);
        let connection = self.connection(deadline).await?;
        connection.request_bytes(deadline.saturating_duration_since(Instant::now()), body).await
    }

    /// Like [`Link::request_bytes`], at lower priority than all requests that are not in bulk.
    ///
    /// # Errors
    /// See [`Link::request`].
    pub async fn request_in_bulk(&self, timeout: Duration, body: Bytes) -> Result<Bytes, NetError> {
        let deadline = Instant::now() + timeout.min(limits::DEADLINE_MAX);
        let connection = self.connection(deadline).await?;
        connection.request_in_bulk(deadline.saturating_duration_since(Instant::now()), body).await
    }

    /// The connection, waiting for a first attempt that is under way but not for a peer that is down.
    ///
    /// # Errors
    /// `NotSent`, `Refused` or `Closed`.
    pub async fn connection(&self, deadline: Instant) -> Result<Connection, NetError> {
        if let Some(settled) = self.0.core.phase.now().settled() {
            return settled;
        }
        self.start();
        let settled = timeout_at(deadline, self.0.core.phase.settled()).await;
        settled.unwrap_or_else(|_| {
            Err(NetError::not_sent(&self.0.core.label(), "no connection came about before the deadline"))
        })
    }

    /// Begins to connect without waiting for a request.
    pub fn start(&self) {
        if !self.0.started.swap(true, Ordering::Relaxed) {
            self.0.core.phase.set(Phase::Connecting);
            let (core, scope) = (self.0.core.clone(), self.0.scope.clone());
            self.0.scope.spawn("net/link", async move { core.keep_up(scope).await });
        }
    }

    /// How it stands.
    pub fn state(&self) -> LinkState {
        match &*self.0.core.phase.now() {
            Phase::Idle => LinkState::Idle,
            Phase::Connecting => LinkState::Connecting,
            Phase::Up(_) => LinkState::Up,
            Phase::Down { since, error } => LinkState::Down { since: *since, error: error.clone() },
        }
    }

    /// The round trip to the peer, while the link is up.
    pub fn rtt(&self) -> Option<Duration> {
        match &*self.0.core.phase.now() {
            Phase::Up(connection) => Some(connection.peer().rtt()),
            _ => None,
        }
    }

    /// Requests that wait for their reply, without those in bulk.
    pub fn pending(&self) -> usize {
        match &*self.0.core.phase.now() {
            Phase::Up(connection) => connection.pending(),
            _ => 0,
        }
    }

    /// Counts of the connection, while the link is up.
    pub fn stats(&self) -> Option<quinn::ConnectionStats> {
        match &*self.0.core.phase.now() {
            Phase::Up(connection) => Some(connection.peer().stats()),
            _ => None,
        }
    }

    /// Whom it leads to.
    pub fn expect(&self) -> &Expect {
        &self.0.core.expect
    }

    /// The addresses in use.
    pub fn addresses(&self) -> Vec<String> {
        self.0.core.addresses()
    }

    /// Uses other addresses from the next attempt on, which comes at once if the link is down. A connection that stands is
    /// replaced once there is one to the new addresses; requests under way on it are not disturbed.
    pub fn set_addresses(&self, addresses: Vec<String>) {
        let mut current = self.0.core.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = *current != addresses;
        *current = addresses;
        drop(current);
        if is_new {
            self.0.core.moved.notify_one();
            self.retry_now();
        }
    }

    /// Doubts that the peer is there, see [`Connection::doubt`].
    pub fn doubt(&self) {
        let connection = match &*self.0.core.phase.now() {
            Phase::Up(connection) => connection.clone(),
            Phase::Idle | Phase::Connecting | Phase::Down { .. } => return,
        };
        connection.doubt();
    }

    /// Ends the wait between attempts: there is news that the peer is back.
    pub fn retry_now(&self) {
        self.0.core.retry.notify_one();
    }
}

/// The phase a link is in, and those who wait for another. Unlike tokio's watch channel, which wakes its receivers in
/// a random order, this wakes them in the order in which they came, so that a simulation repeats itself.
#[derive(Default)]
struct Phases {
    phase: Mutex<Phase>,
    changed: Notify,
}

impl Phases {
    fn now(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, phase: Phase) {
        *self.now() = phase;
        self.changed.notify_waiters();
    }

    /// Waits until there is something for a request to get.
    async fn settled(&self) -> Result<Connection, NetError> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            let settled = self.now().settled();
            match settled {
                Some(settled) => return settled,
                None => changed.await,
            }
        }
    }
}

impl Phase {
    /// What a request gets in this phase; `None` when it should wait for the next.
    fn settled(&self) -> Option<Result<Connection, NetError>> {
        match self {
            Self::Up(connection) => Some(Ok(connection.clone())),
            Self::Down { error, .. } => Some(Err(error.clone())),
            Self::Idle | Self::Connecting => None,
        }
    }
}

impl Core {
    fn label(&self) -> String {
        match &self.expect {
            Expect::Node(name) => format!("node {name}"),
            Expect::AnyNode => format!("node at {}", self.addresses().join(", ")),
        }
    }

    fn addresses(&self) -> Vec<String> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Connects, and connects again, until the link is dropped.
    async fn keep_up(&self, scope: Env) {
        tokio::select! {
            biased;
            () = scope.stopped() => {}
            () = self.reconnect_forever(&scope) => {}
        }
        self.phase.set(Phase::Down { since: Instant::now(), error: NetError::Closed });
    }

    async fn reconnect_forever(&self, scope: &Env) {
        let mut backoff = Backoff::new(self.settings.backoff_min, self.settings.backoff_max, scope.rng("net/link"));
        let mut down_since = None;
        let mut connections: u64 = 0;
        loop {
            let used = self.addresses();
            let error = match self.attempt().await {
                Ok(connection) => {
                    down_since = None;
                    connections += 1;
                    if connections > 1 {
                        self.endpoint.counters().reconnects.one();
                    }
                    let (connection, error) = self.stay_up(connection, used).await;
                    tracing::debug!(peer = %self.label(), %error, "link lost");
                    if connection.has_answered() {
                        // It was a good connection: the peer was probably restarted, or the path broke for a moment.
                        backoff.reset();
                        self.phase.set(Phase::Connecting);
                        continue;
                    }
                    error
                }
                Err(error) => error,
            };
            let since = *down_since.get_or_insert_with(Instant::now);
            self.phase.set(Phase::Down { since, error: error.before_sending() });
            tokio::select! {
                biased;
                () = self.retry.notified() => backoff.reset(),
                () = tokio::time::sleep(backoff.next()) => {}
            }
        }
    }

    /// Keeps the link up until its connection is lost; follows the peer to other addresses without a break.
    async fn stay_up(&self, mut connection: Connection, mut used: Vec<String>) -> (Connection, NetError) {
        loop {
            self.phase.set(Phase::Up(connection.clone()));
            tokio::select! {
                biased;
                error = connection.closed() => return (connection, error),
                () = self.moved.notified() => {}
            }
            let addresses = self.addresses();
            if addresses == used {
                continue;
            }
            // While this fails, the old connection is all there is; when that ends, the new addresses are tried again.
            match self.attempt().await {
                Ok(fresh) => (connection, used) = (fresh, addresses),
                Err(error) => tracing::debug!(peer = %self.label(), %error, "not reached at its new address yet"),
            }
        }
    }

    /// Tries every address once.
    async fn attempt(&self) -> Result<Connection, NetError> {
        let give_up = Instant::now() + self.settings.connect_timeout;
        let mut failure = NetError::not_sent(&self.label(), "it has no address");
        let addresses = self.addresses();
        for address in addresses.iter().take(limits::ADDRESSES_MAX) {
            let resolved = match timeout_at(give_up, resolve(address)).await {
                Ok(Ok(resolved)) => resolved,
                Ok(Err(error)) => {
                    failure = NetError::not_sent(&self.label(), format!("address {address}: {error}"));
                    continue;
                }
                Err(_) => {
                    failure = NetError::not_sent(&self.label(), format!("address {address} was not resolved in time"));
                    continue;
                }
            };
            let left = give_up.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(resolved.len().max(1)).unwrap_or(u32::MAX);
            for address in resolved {
                let connect = self.endpoint.connect(address, &self.expect, self.settings.lanes);
                failure = match timeout(share, connect).await {
                    Ok(Ok(connection)) => return Ok(connection),
                    Ok(Err(error)) => error,
                    Err(_) => NetError::not_sent(&self.label(), format!("nobody answered at {address}")),
                };
            }
        }
        Err(failure)
    }
}

/// The socket addresses of `IP:PORT` or `HOST:PORT`, at most [`limits::ADDRESSES_MAX`].
///
/// # Errors
/// When the name cannot be resolved.
pub async fn resolve(address: &str) -> std::io::Result<Vec<SocketAddr>> {
    if let Ok(address) = address.parse() {
        return Ok(vec![address]);
    }
    Ok(tokio::net::lookup_host(address).await?.take(limits::ADDRESSES_MAX).collect())
}
