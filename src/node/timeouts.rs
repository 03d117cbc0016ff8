//! How long a node waits for what.

use std::time::Duration;

/// Limits of waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// The answer of one replica.
    pub replica: Duration,
    /// The answer of a replica to a read before another one is asked beside it.
    pub hedge: Duration,
    /// All of shutdown.
    pub shutdown: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { replica: Duration::from_secs(2), hedge: Duration::from_millis(50), shutdown: Duration::from_secs(10) }
    }
}
