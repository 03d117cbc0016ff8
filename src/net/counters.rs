//! Counts of what the network did, for metrics and tests.

use crate::meter::Counter;
use crate::meter::Gauge;
use crate::net::census::Census;

/// Why a handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HandshakeFailure {
    /// The certificate does not chain to the cluster's roots.
    WrongAuthority,
    /// The certificate is expired or not yet valid.
    Expired,
    /// No certificate was presented.
    NoCertificate,
    /// The certificate's role is missing or wrong.
    Role,
    /// No protocol version is shared.
    Protocol,
    /// The other side fell silent.
    Timeout,
    /// Anything else.
    Other,
}

impl HandshakeFailure {
    /// All kinds.
    pub const ALL: [Self; 7] = [
        Self::WrongAuthority,
        Self::Expired,
        Self::NoCertificate,
        Self::Role,
        Self::Protocol,
        Self::Timeout,
        Self::Other,
    ];

    /// A label for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::WrongAuthority => "wrong_authority",
            Self::Expired => "expired",
            Self::NoCertificate => "no_certificate",
            Self::Role => "role",
            Self::Protocol => "protocol",
            Self::Timeout => "timeout",
            Self::Other => "other",
        }
    }
}

/// Counts of one endpoint and everything on it.
#[derive(Debug, Default)]
pub struct NetCounters {
    /// Handshakes that succeeded, of both directions.
    pub handshakes_ok: Counter,
    handshakes_failed: [Counter; HandshakeFailure::ALL.len()],
    /// Refused peers that were logged (each address and reason once).
    pub refusals_logged: Counter,
    /// Connections turned away because there are too many already.
    pub connections_over_limit: Counter,
    /// Frames written to lanes and bulk streams.
    pub frames_sent: Counter,
    /// Frames read from lanes and bulk streams.
    pub frames_received: Counter,
    /// Bytes of frames written.
    pub bytes_sent: Counter,
    /// Bytes of frames read.
    pub bytes_received: Counter,
    /// Writes into which the sent frames were gathered.
    pub batches_sent: Counter,
    /// Times a sender waited because its lane was full.
    pub lane_full_waits: Counter,
    /// Streams opened for a frame too large for a lane.
    pub bulk_streams: Counter,
    /// Bytes that were not sent since what moves over far paths is packed.
    pub packing_saved: Counter,
    /// Requests whose deadline had passed before they could start.
    pub requests_expired: Counter,
    /// Replies that came after their request was given up.
    pub replies_late: Counter,
    /// Peers disconnected for breaking the protocol or for not reading.
    pub peers_disconnected: Counter,
    /// Connections that a link made again after it had lost one.
    pub reconnects: Counter,
    /// Connections that peers and clients made to this endpoint and that are served now.
    pub served: Gauge,
    /// Connections and lanes by peer.
    pub census: Census,
}

impl NetCounters {
    /// Handshakes that failed for this reason.
    pub fn handshakes_failed(&self, kind: HandshakeFailure) -> u64 {
        self.handshakes_failed[kind as usize].get()
    }

    pub(crate) fn handshake_failed(&self, kind: HandshakeFailure) {
        self.handshakes_failed[kind as usize].one();
    }
}
