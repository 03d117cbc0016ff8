//! What a client can meet, by what its caller can do about it.

use std::fmt;

use crate::net::tls::TlsError;
use crate::types::Invalid;
use crate::types::TraceId;
use crate::view::ViewError;
use crate::wire::rpc::{QuorumError, ServeError};

/// Why an operation failed. [`ClientError::is_retryable`] says whether trying again can help, and
/// [`ClientError::may_have_applied`] whether a write may have happened nonetheless.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// The client was set up wrongly; no node was asked.
    #[error("{0}")]
    Config(String),
    /// The request breaks a rule or a limit, or the certificate does not allow it: it will never succeed as it is.
    #[error("{0}")]
    Rejected(ServeError),
    /// Too few replicas answered.
    #[error(transparent)]
    Quorum(Box<QuorumError>),
    /// A write was refused as [`ClientError::Rejected`], but an earlier attempt at it went unanswered and may have been
    /// applied: read the key to know.
    #[error("an earlier attempt was not answered and may have been applied; a later one was refused: {0}")]
    Uncertain(ServeError),
    /// The condition of a write does not hold: nothing was written. Read the key to see why.
    #[error("{0}")]
    Condition(String),
    /// No node answered in time or at all.
    #[error("{0}")]
    Unreachable(Unreachable),
    /// This client and the nodes do not accept each other (authority, role, expiry, protocol version): nothing was
    /// executed, and it stays so until certificates or versions change. Nodes with the reason of each.
    #[error("the nodes and this client do not accept each other{}", Tried(.0))]
    Refused(Vec<(String, String)>),
    /// Of what a session has seen of the key, no replica that answers has all: those that have it are down.
    #[error(
        "no replica that answers has what this session has seen of the key; those that have it are down: try again"
    )]
    Behind,
    /// The client was closed. The operation was not begun.
    #[error("this client was closed")]
    Closed,
    /// A node answered something that this client does not understand: one of the two should be upgraded.
    #[error("{0}")]
    Protocol(String),
}

/// The nodes that were tried, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreachable {
    /// Whether the deadline ended the tries.
    pub timed_out: bool,
    /// Whether some node may have executed the request, a write.
    pub maybe: bool,
    /// Nodes with the last reason of each.
    pub tried: Vec<(String, String)>,
    /// The number under which the nodes logged the request, if they saw it.
    pub trace: Option<TraceId>,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.timed_out { "no answer before the deadline" } else { "no node could be reached" })?;
        Tried(&self.tried).fmt(f)?;
        f.write_str(if self.maybe { "; the write may have been applied" } else { "" })?;
        self.trace.iter().try_for_each(|trace| write!(f, " (request {trace})"))
    }
}

/// Nodes with the reason of each, in parentheses.
struct Tried<'a>(&'a [(String, String)]);

impl fmt::Display for Tried<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (node, why)) in self.0.iter().enumerate() {
            write!(f, "{}{node}: {why}", if at == 0 { " (" } else { "; " })?;
        }
        f.write_str(if self.0.is_empty() { "" } else { ")" })
    }
}

impl ClientError {
    /// Whether the same operation may succeed later. It is safe to repeat with the same request id, as the client
    /// itself does until the deadline; a new call has a new one.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Quorum(_) | Self::Unreachable(_) | Self::Behind => true,
            Self::Rejected(error) => error.is_retryable(),
            Self::Config(_)
            | Self::Protocol(_)
            | Self::Refused(_)
            | Self::Uncertain(_)
            | Self::Condition(_)
            | Self::Closed => false,
        }
    }

    /// Whether a write that failed with this may be, or become, visible.
    pub fn may_have_applied(&self) -> bool {
        match self {
            Self::Quorum(error) => error.may_appear,
            Self::Unreachable(unreachable) => unreachable.maybe,
            Self::Rejected(ServeError::Deadline(_) | ServeError::Uncertain(_))
            | Self::Protocol(_)
            | Self::Uncertain(_) => true,
            Self::Rejected(_)
            | Self::Config(_)
            | Self::Refused(_)
            | Self::Condition(_)
            | Self::Behind
            | Self::Closed => false,
        }
    }

    /// The same error with the number of its request, where the logs of nodes tell more about it. What is wrong with the
    /// request itself needs no log.
    pub(crate) fn of(self, trace: TraceId) -> Self {
        match self {
            Self::Quorum(mut error) => {
                error.trace = Some(trace);
                Self::Quorum(error)
            }
            Self::Unreachable(unreachable) => Self::Unreachable(Unreachable { trace: Some(trace), ..unreachable }),
            Self::Rejected(error) => Self::Rejected(numbered(error, trace)),
            Self::Uncertain(error) => Self::Uncertain(numbered(error, trace)),
            Self::Config(_)
            | Self::Condition(_)
            | Self::Refused(_)
            | Self::Protocol(_)
            | Self::Behind
            | Self::Closed => self,
        }
    }

    /// The same error after attempts of which one may have been executed.
    pub(crate) fn after(self, maybe: bool) -> Self {
        match self {
            Self::Rejected(error) if maybe => Self::Uncertain(error),
            Self::Condition(text) if maybe => Self::Uncertain(ServeError::Condition(text)),
            other => other,
        }
    }
}

fn numbered(error: ServeError, trace: TraceId) -> ServeError {
    let with = |text: String| format!("{text} (request {trace})");
    match error {
        ServeError::Unavailable(text) => ServeError::Unavailable(with(text)),
        ServeError::Deadline(text) => ServeError::Deadline(with(text)),
        ServeError::Internal(text) => ServeError::Internal(with(text)),
        ServeError::Overloaded(text) => ServeError::Overloaded(with(text)),
        ServeError::Uncertain(text) => ServeError::Uncertain(with(text)),
        ServeError::Invalid(_)
        | ServeError::Limit(_)
        | ServeError::Forbidden(_)
        | ServeError::Condition(_)
        | ServeError::OldLayout(_)
        | ServeError::Quorum(_) => error,
    }
}

impl From<ServeError> for ClientError {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::Quorum(error) => Self::Quorum(error),
            ServeError::Condition(text) => Self::Condition(text),
            error => Self::Rejected(error),
        }
    }
}

impl From<Invalid> for ClientError {
    fn from(error: Invalid) -> Self {
        Self::Config(error.to_string())
    }
}

impl From<TlsError> for ClientError {
    fn from(error: TlsError) -> Self {
        Self::Config(error.to_string())
    }
}

impl From<ViewError> for ClientError {
    fn from(error: ViewError) -> Self {
        Self::Protocol(format!("the node described a cluster that cannot be: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_logs_tell_more_about_carry_the_number_of_their_request() {
        let text = |error: ClientError| error.of(TraceId(0x2a)).to_string();
        let unreachable = Unreachable { timed_out: true, maybe: false, tried: Vec::new(), trace: None };
        for error in [ClientError::Unreachable(unreachable), ServeError::Deadline("late".into()).into()] {
            let text = text(error);
            assert!(text.contains("(request 000000000000002a)"), "{text}");
        }
        let refused = text(ServeError::Limit("the key is too long".into()).into());
        assert_eq!(refused, "the key is too long");
    }
}
