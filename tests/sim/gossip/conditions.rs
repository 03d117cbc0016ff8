//! How the simulated network is.

use std::time::Duration;

/// How the network is, where a link has no condition of its own.
#[derive(Debug, Clone)]
pub(crate) struct Conditions {
    /// Share of datagrams lost on each one-way path.
    pub(crate) loss: f64,
    pub(crate) duplicated: f64,
    /// Share of datagrams that others overtake.
    pub(crate) reordered: f64,
    pub(crate) latency: Duration,
    /// Further delay of each, at most.
    pub(crate) jitter: Duration,
}

impl Default for Conditions {
    fn default() -> Self {
        let (latency, jitter) = (Duration::from_micros(300), Duration::from_micros(700));
        Self { loss: 0.0, duplicated: 0.002, reordered: 0.01, latency, jitter }
    }
}
