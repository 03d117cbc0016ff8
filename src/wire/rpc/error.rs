//! Why a request, or a key of it, failed, and the limits that every key and value keeps.

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::types::{NodeName, TraceId};

/// Why a request, or one key of it, failed. The kinds differ by what the client can do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
pub enum ServeError {
    /// The request breaks a rule; it will never succeed as it is.
    #[error("{0}")]
    Invalid(String),
    /// A limit was met; the text names it.
    #[error("{0}")]
    Limit(String),
    /// The certificate does not allow this.
    #[error("not permitted: {0}")]
    Forbidden(String),
    /// Too few replicas answered.
    #[error(transparent)]
    Quorum(#[from] Box<QuorumError>),
    /// The node cannot serve this now; another may.
    #[error("{0}; try another node")]
    Unavailable(String),
    /// The deadline passed; a write may have been applied.
    #[error("the deadline passed before an answer: {0}")]
    Deadline(String),
    /// A defect of the store.
    #[error("internal error, please report: {0}")]
    Internal(String),
    /// Something failed in the middle of a write, which may have been applied.
    #[error("{0}; the write may still appear")]
    Uncertain(String),
    /// The condition of a write does not hold: nothing was written.
    #[error("{0}")]
    Condition(String),
    /// The node has more to do than it can and did nothing of this; another may do it, or this one later.
    #[error("overloaded: {0}; try another node, or later")]
    Overloaded(String),
    /// The asker works by a layout before this version, which is not served any more: nothing was done.
    #[error("the coordinator works by an old layout of the cluster, the present one is version {0}; try again")]
    OldLayout(u64),
}

impl ServeError {
    /// Whether the same request may succeed at another time or node.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Quorum(_)
            | Self::Unavailable(_)
            | Self::Deadline(_)
            | Self::Uncertain(_)
            | Self::Overloaded(_)
            | Self::OldLayout(_) => true,
            Self::Invalid(_) | Self::Limit(_) | Self::Forbidden(_) | Self::Internal(_) | Self::Condition(_) => false,
        }
    }
}

/// Refuses a key that cannot be one.
///
/// # Errors
/// [`ServeError::Invalid`] when it is empty, [`ServeError::Limit`] when it is longer than [`limits::KEY_MAX`].
pub fn check_key(key: &[u8]) -> Result<(), ServeError> {
    match key.len() {
        0 => Err(ServeError::Invalid("the key is empty: keys have 1 byte or more".to_owned())),
        len if len > limits::KEY_MAX => {
            Err(ServeError::Limit(format!("the key has {len} bytes, the limit is {}", limits::KEY_MAX)))
        }
        _ => Ok(()),
    }
}

/// Refuses a value of more than [`limits::VALUE_MAX`] bytes.
///
/// # Errors
/// [`ServeError::Limit`] says how long it is and may be.
pub fn check_value(len: usize) -> Result<(), ServeError> {
    if len > limits::VALUE_MAX {
        return Err(ServeError::Limit(format!("the value has {len} bytes, the limit is {}", limits::VALUE_MAX)));
    }
    Ok(())
}

/// A quorum that was not met: who answered, who did not and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuorumError {
    /// `read` or `write`.
    pub verb: Verb,
    /// Answers needed.
    pub needed: u8,
    /// Nodes that answered.
    pub got: Vec<NodeName>,
    /// Nodes that did not, with the reason.
    pub missing: Vec<(NodeName, String)>,
    /// Whether a write may still appear, since some replica took it or may have.
    pub may_appear: bool,
    /// The request that failed, where its client knows it; it is not sent back.
    #[serde(skip)]
    pub trace: Option<TraceId>,
}

/// Reading or writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    /// A read.
    Read,
    /// A write.
    Write,
}

impl std::error::Error for QuorumError {}

impl std::fmt::Display for QuorumError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verb = match self.verb {
            Verb::Read => "read",
            Verb::Write => "write",
        };
        write!(f, "{verb} quorum not met: needed {}, got {}", self.needed, self.got.len())?;
        for (at, node) in self.got.iter().enumerate() {
            write!(f, "{}{node}", if at == 0 { " from " } else { ", " })?;
        }
        for (at, (node, why)) in self.missing.iter().enumerate() {
            write!(f, "{}{node} ({why})", if at == 0 { "; not from " } else { ", " })?;
        }
        match (self.verb, self.may_appear) {
            (Verb::Write, true) => f.write_str("; the write may still appear")?,
            (Verb::Write, false) => f.write_str("; the write was not applied anywhere")?,
            (Verb::Read, _) => {}
        }
        self.trace.iter().try_for_each(|trace| write!(f, " (request {trace})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quorum_error_tells_all() {
        let name = |name| NodeName::new(name).unwrap();
        let error = QuorumError {
            verb: Verb::Write,
            needed: 2,
            got: vec![name("n1")],
            missing: vec![(name("n2"), "connection lost".into()), (name("n3"), "timed out".into())],
            may_appear: true,
            trace: Some(TraceId(0xab)),
        };
        assert_eq!(
            error.to_string(),
            "write quorum not met: needed 2, got 1 from n1; not from n2 (connection lost), n3 (timed out); \
             the write may still appear (request 00000000000000ab)"
        );
    }
}
