//! What can go wrong between two processes, by what the caller can do about it, and the codes that say it on the wire.

use std::sync::Arc;

use quinn::ConnectionError;
use quinn::VarInt;

use crate::net::counters::HandshakeFailure;

/// Why a request got no reply. Cheap to clone: all requests that waited for one connection share its reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// The request was not executed: it was not delivered, or was refused unread. Safe to repeat anywhere.
    #[error("{peer} cannot be reached: {reason}")]
    NotSent {
        /// Whom it was for.
        peer: Arc<str>,
        /// Why it did not go out.
        reason: Arc<str>,
    },
    /// The request went out and no answer came: it may or may not have been executed.
    #[error("{peer} did not answer: {reason}; the request may have been executed")]
    Unanswered {
        /// Whom it was for.
        peer: Arc<str>,
        /// What happened instead.
        reason: Arc<str>,
    },
    /// One side does not accept the other (authority, role, protocol). The request was not executed; repeating it
    /// does not help until certificates or versions change.
    #[error("{peer} and this process do not accept each other: {reason}")]
    Refused {
        /// Whom it was for.
        peer: Arc<str>,
        /// Which of the two refuses, and why.
        reason: Arc<str>,
    },
    /// The request or its reply is larger than a frame may be. A request was not sent; make it smaller.
    #[error("a message of {size} bytes is too large: at most {max} fit")]
    TooLarge {
        /// Its size, as far as it is known.
        size: usize,
        /// The most that fits.
        max: usize,
    },
    /// This process is shutting down. The request was not sent.
    #[error("this process is shutting its network down")]
    Closed,
}

impl NetError {
    pub(crate) fn not_sent(peer: &str, reason: impl AsRef<str>) -> Self {
        Self::NotSent { peer: peer.into(), reason: reason.as_ref().into() }
    }

    pub(crate) fn unanswered(peer: &str, reason: impl AsRef<str>) -> Self {
        Self::Unanswered { peer: peer.into(), reason: reason.as_ref().into() }
    }

    pub(crate) fn refused(peer: &str, reason: impl AsRef<str>) -> Self {
        Self::Refused { peer: peer.into(), reason: reason.as_ref().into() }
    }

    /// Whether the request surely was not executed, so that repeating it cannot do it twice.
    pub fn surely_not_executed(&self) -> bool {
        !matches!(self, Self::Unanswered { .. })
    }

    /// The error for a request that waits while this one ended the connection under it, before it was written.
    pub(crate) fn before_sending(self) -> Self {
        match self {
            Self::Unanswered { peer, reason } => Self::NotSent { peer, reason },
            other => other,
        }
    }
}

/// Why this side closes a connection, as the other side reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CloseCode {
    /// Nothing is wrong: this side is going away or needs the connection no longer.
    Done = 0,
    /// The peer's certificate names no usable role. Nothing it sent was executed.
    Role = 1,
    /// The peer sent what the protocol does not allow.
    Protocol = 2,
    /// The peer does not read what it asked for.
    SlowReader = 3,
    /// This side broke.
    Internal = 4,
}

impl CloseCode {
    pub(crate) fn code(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }

    fn of(code: VarInt) -> Option<Self> {
        [Self::Done, Self::Role, Self::Protocol, Self::SlowReader, Self::Internal]
            .into_iter()
            .find(|known| known.code() == code)
    }
}

/// The TLS alert of a connection error, with its text and whether the other side raised it.
fn alert(error: &ConnectionError) -> Option<(u8, String, bool)> {
    let (code, reason, theirs) = match error {
        ConnectionError::TransportError(error) => (error.code, error.reason.clone(), false),
        ConnectionError::ConnectionClosed(close) => {
            (close.error_code, String::from_utf8_lossy(&close.reason).into_owned(), true)
        }
        _ => return None,
    };
    // What rustls puts around the text of this project's own verifier.
    let own = reason.strip_prefix("invalid peer certificate: Other(OtherError(");
    let reason = own.and_then(|text| text.strip_suffix("))")).unwrap_or(&reason).to_owned();
    // RFC 9001 section 4.8: a TLS alert travels as 0x100 plus its number.
    let number = u64::from(code).checked_sub(0x100).and_then(|alert| u8::try_from(alert).ok())?;
    Some((number, reason, theirs))
}

/// Which kind of handshake failure this is.
pub(crate) fn handshake_failure(error: &ConnectionError) -> HandshakeFailure {
    match (alert(error), error) {
        (Some((45, ..)), _) => HandshakeFailure::Expired,
        (Some((48 | 51, ..)), _) => HandshakeFailure::WrongAuthority,
        (Some((116, ..)), _) => HandshakeFailure::NoCertificate,
        (Some((120, ..)), _) => HandshakeFailure::Protocol,
        (Some((42 | 43 | 46, ..)), _) => HandshakeFailure::Role,
        (None, ConnectionError::ApplicationClosed(close)) if close.error_code == CloseCode::Role.code() => {
            HandshakeFailure::Role
        }
        (None, ConnectionError::TimedOut) => HandshakeFailure::Timeout,
        _ => HandshakeFailure::Other,
    }
}

/// A text for what ended a connection.
pub(crate) fn describe(error: &ConnectionError) -> String {
    let Some((number, reason, theirs)) = alert(error) else {
        return match error {
            ConnectionError::ApplicationClosed(close) => {
                format!("the other side closed the connection: {}", String::from_utf8_lossy(&close.reason))
            }
            ConnectionError::Reset => "the other side was restarted".to_owned(),
            ConnectionError::TimedOut => "the connection timed out".to_owned(),
            other => other.to_string(),
        };
    };
    let who = if theirs { "the other side refuses this process" } else { "this process refuses the other side" };
    let what = match (number, theirs) {
        (45, true) => "the certificate of this process has expired: issue a new one",
        // 51: an authority of the same name but with another key, such as that of another `dynamomini dev`.
        (48 | 51, true) => "the certificate of this process is of another authority: use one of this cluster's",
        (116, true) => "this process presented no certificate",
        (45, false) => "its certificate has expired",
        (48 | 51, false) => "its certificate is of another authority",
        (116, false) => "it presented no certificate",
        (120, _) => "the two share no protocol version: upgrade the older one",
        (46, true) => "the certificate of this process has the wrong role",
        _ => "its certificate or handshake is not acceptable",
    };
    format!("{who}: {what} ({reason})")
}

/// What a lost connection means for the requests that were on it.
pub(crate) fn lost(peer: &str, error: &ConnectionError) -> NetError {
    let reason = describe(error);
    // After the handshake this side may hold the connection for up while the other still checks the certificate; it
    // executes nothing before that is done, so a refusal is certain.
    let refused = alert(error).is_some();
    match error {
        _ if refused => NetError::refused(peer, reason),
        ConnectionError::VersionMismatch => NetError::refused(peer, reason),
        ConnectionError::ApplicationClosed(close) if CloseCode::of(close.error_code) == Some(CloseCode::Role) => {
            NetError::refused(peer, reason)
        }
        _ => NetError::unanswered(peer, reason),
    }
}
