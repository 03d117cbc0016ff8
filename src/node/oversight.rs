//! How a node is watched: what its process tells it of itself, and which requests are worth a line in the log.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use crate::limits;
use crate::wire::status::ProcessUsage;

/// What only the process around a node knows and can change; the program implements it.
pub trait Host: Send + Sync + 'static {
    /// What the process takes of its machine. `None` where the system does not say.
    fn usage(&self) -> Option<ProcessUsage>;

    /// The filters of the log that are in force.
    ///
    /// # Errors
    /// When there is no log to be changed; the text is for the asker.
    fn log_filters(&self) -> Result<String, String>;

    /// Sets the filters of the log.
    ///
    /// # Errors
    /// When they are malformed, or there is no log to be changed; the text is for the asker.
    fn set_log_filters(&self, filters: &str) -> Result<(), String>;
}

/// A process that tells nothing of itself, as in tests and simulations.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoHost;

impl Host for NoHost {
    fn usage(&self) -> Option<ProcessUsage> {
        None
    }

    fn log_filters(&self) -> Result<String, String> {
        Err("this node's log cannot be changed".to_owned())
    }

    fn set_log_filters(&self, _filters: &str) -> Result<(), String> {
        Err("this node's log cannot be changed".to_owned())
    }
}

/// How a node is watched.
#[derive(Clone)]
pub struct Oversight {
    /// The process around it.
    pub host: Arc<dyn Host>,
    /// Requests that take longer are logged; `None` logs none.
    pub slow: Option<Duration>,
}

impl Default for Oversight {
    fn default() -> Self {
        Self { host: Arc::new(NoHost), slow: None }
    }
}

impl std::fmt::Debug for Oversight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Oversight").field("slow", &self.slow).finish_non_exhaustive()
    }
}

/// Lets so many lines of one kind through in each second.
#[derive(Debug, Default)]
pub(crate) struct SlowLog(Mutex<Second>);

#[derive(Debug, Default)]
struct Second {
    began: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl SlowLog {
    /// Whether one more line may be written; then also how many were left out before it.
    pub(crate) fn admit(&self) -> Option<u64> {
        let mut second = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if second.began.is_none_or(|began| began.elapsed() >= Duration::from_secs(1)) {
            (second.began, second.lines) = (Some(Instant::now()), 0);
        }
        if second.lines >= limits::SLOW_LOGGED_PER_SECOND {
            second.left_out += 1;
            return None;
        }
        second.lines += 1;
        Some(std::mem::take(&mut second.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_slow_requests_are_logged_in_a_second_and_the_others_counted() {
        let log = SlowLog::default();
        let admitted = (0..25).filter(|_| log.admit().is_some()).count();
        assert_eq!(admitted, usize::try_from(limits::SLOW_LOGGED_PER_SECOND).unwrap());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(log.admit(), Some(15));
        assert_eq!(log.admit(), Some(0));
    }
}
