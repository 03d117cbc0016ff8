//! How long a node waits for what.

use std::time::Duration;

#[cfg(doc)]
use crate::limits;

/// Limits of waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// The answer of one replica.
    pub replica: Duration,
    /// The answer of a replica to a read before another one is asked beside it.
    pub hedge: Duration,
    /// Age at which it is tried to drop a deleted or expired record, at least [`limits::REAP_AFTER_MIN`]; `None` keeps them.
    pub reap_after: Option<Duration>,
    /// All of shutdown.
    pub shutdown: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            replica: Duration::from_secs(2),
            hedge: Duration::from_millis(50),
            reap_after: None,
            shutdown: Duration::from_secs(10),
        }
    }
}
