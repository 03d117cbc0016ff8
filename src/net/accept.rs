//! Who is let in: handshakes of peers that connect, bounded in number, and a note in the log for each that fails.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use quinn::ConnectionError;

use crate::limits;
use crate::net::counters::HandshakeFailure;
use crate::net::counters::NetCounters;
use crate::net::error::CloseCode;
use crate::net::error::describe;
use crate::net::error::handshake_failure;
use crate::net::peer::Peer;
use crate::net::serve::Handler;
use crate::net::serve::Serving;
use crate::net::serve::Site;

/// What all accepted connections of an endpoint share.
struct Door {
    connections: AtomicUsize,
    handshakes: AtomicUsize,
    refusals: Refusals,
    counters: Arc<NetCounters>,
}

/// Counts one for as long as it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    /// One more, unless there are `max` already.
    fn below(count: &'a AtomicUsize, max: usize) -> Option<Self> {
        let counted = Self(count);
        // When this is over the limit, dropping `counted` takes it back.
        (count.fetch_add(1, Ordering::Relaxed) < max).then_some(counted)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Accepts connections until the site stops.
pub(crate) async fn accept(endpoint: quinn::Endpoint, handler: impl Handler, site: Site) {
    let door = Arc::new(Door {
        connections: AtomicUsize::new(0),
        handshakes: AtomicUsize::new(0),
        refusals: Refusals::new(site.counters.clone()),
        counters: site.counters.clone(),
    });
    loop {
        let incoming = tokio::select! {
            biased;
            () = site.env.stopped() => return,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { return };
        let handshakes = door.handshakes.load(Ordering::Relaxed);
        if handshakes >= limits::HANDSHAKES_UNPROVEN_MAX && incoming.may_retry() {
            // Many at once may be forged: those who ask must first show that they receive at their address.
            drop(incoming.retry());
            continue;
        }
        let (door, handler, serve) = (door.clone(), handler.clone(), site.clone());
        site.env.spawn("net/connection", async move { door.admit(incoming, handler, serve).await });
    }
}

impl Door {
    async fn admit(&self, incoming: quinn::Incoming, handler: impl Handler, site: Site) {
        let counted = Counted::below(&self.connections, limits::CONNECTIONS_MAX);
        let shaking = Counted::below(&self.handshakes, limits::HANDSHAKES_MAX);
        let (Some(_counted), Some(shaking)) = (counted, shaking) else {
            self.counters.connections_over_limit.one();
            incoming.refuse();
            return;
        };
        let address = incoming.remote_address();
        let Some(quic) = self.shake_hands(incoming, address).await else { return };
        drop(shaking);
        let peer = match Peer::of(&quic) {
            Ok(peer) => Arc::new(peer),
            Err(error) => {
                self.refusals.note(address, HandshakeFailure::Role, &error.to_string());
                quic.close(CloseCode::Role.code(), error.to_string().as_bytes());
                return;
            }
        };
        self.counters.handshakes_ok.one();
        tracing::debug!(peer = %peer.label(), "connected");
        Serving::new(quic, peer, handler, site).run().await;
    }

    async fn shake_hands(&self, incoming: quinn::Incoming, address: SocketAddr) -> Option<quinn::Connection> {
        let result = tokio::time::timeout(limits::HANDSHAKE_PATIENCE, incoming).await;
        match result.unwrap_or(Err(ConnectionError::TimedOut)) {
            Ok(quic) => Some(quic),
            Err(error) => {
                self.refusals.note(address, handshake_failure(&error), &describe(&error));
                None
            }
        }
    }
}

/// Refused peers that were logged already. One line for each address and reason is enough: a peer that is refused
/// comes back every few seconds.
struct Refusals {
    logged: Mutex<BTreeSet<(IpAddr, HandshakeFailure)>>,
    counters: Arc<NetCounters>,
}

impl Refusals {
    fn new(counters: Arc<NetCounters>) -> Self {
        Self { logged: Mutex::default(), counters }
    }

    fn note(&self, address: SocketAddr, kind: HandshakeFailure, reason: &str) {
        self.counters.handshake_failed(kind);
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.len() >= limits::REFUSALS_REMEMBERED_MAX {
            logged.clear();
        }
        let is_new = logged.insert((address.ip(), kind));
        drop(logged);
        if is_new {
            self.counters.refusals_logged.one();
            tracing::warn!(%address, kind = kind.label(), reason, "peer refused; further ones like this are only counted");
        }
    }
}
