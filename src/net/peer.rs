//! The other side of a connection, as it proved itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;

use crate::net::identity::Certificate;
use crate::net::identity::Identity;
use crate::net::identity::IdentityError;

/// Tells the connections of one process apart, as long as they stand. The order means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionNumber(pub usize);

/// The other side of a connection.
#[derive(Debug)]
pub struct Peer {
    certificate: Certificate,
    /// Identity and address, for error texts.
    label: Arc<str>,
    quic: quinn::Connection,
}

impl Peer {
    /// Reads who is at the other end of an established connection.
    pub(crate) fn of(quic: &quinn::Connection) -> Result<Self, IdentityError> {
        let identity = quic.peer_identity();
        let chain = identity.as_ref().and_then(|any| any.downcast_ref::<Vec<CertificateDer<'static>>>());
        let certificate = chain.and_then(|chain| chain.first()).ok_or(IdentityError::NoRole)?;
        let certificate = Certificate::parse(certificate)?;
        let label = format!("{} at {}", certificate.identity, quic.remote_address()).into();
        Ok(Self { certificate, label, quic: quic.clone() })
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.certificate.identity
    }

    /// The certificate it proved itself with.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Where it is now; a peer may move to another address and keep its connection.
    pub fn address(&self) -> SocketAddr {
        self.quic.remote_address()
    }

    /// Which of this process's connections it is.
    pub fn number(&self) -> ConnectionNumber {
        ConnectionNumber(self.quic.stable_id())
    }

    /// The round trip to it, as QUIC estimates it.
    pub fn rtt(&self) -> Duration {
        self.quic.rtt()
    }

    /// Counts of the connection and its path: packets lost, congestion, bytes, the packet size in use.
    pub fn stats(&self) -> quinn::ConnectionStats {
        self.quic.stats()
    }

    /// Completes when the connection has ended, for whatever reason.
    pub async fn gone(&self) {
        // Why it ended concerns those who ask on it.
        drop(self.quic.closed().await);
    }

    /// Identity and first address, for logs and error texts.
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }
}
