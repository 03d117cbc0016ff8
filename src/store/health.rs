//! How well a storage is, in the grades that gossip spreads, and the pulse that the grades are taken from.
//!
//! Engines report trouble and the duration of their calls; nothing here acts on either.

use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use crate::limits;

/// The grade of a storage, best first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It works.
    Ok,
    /// It works, slower than [`limits::STORE_SLOW`].
    Slow {
        /// Moving average of the duration of a call.
        average: Duration,
    },
    /// It answers reads and refuses writes.
    ReadOnly {
        /// Why.
        reason: String,
    },
    /// It works, but may lose what it acknowledges.
    LosingData {
        /// Why.
        reason: String,
    },
    /// It does not work.
    Down {
        /// Why.
        reason: String,
    },
}

/// What an engine knows to be wrong with itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    Full(String),
    ReadOnly(String),
    #[allow(dead_code, reason = "only an engine with a server of its own can tell, and that one may be left out")]
    LosingData(String),
    Down(String),
}

/// Watches the calls of one engine.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    average: Duration,
    running: usize,
    /// When a call last began with no other running, or ended.
    last_progress: Option<Instant>,
    trouble: Option<Trouble>,
}

/// One call under way; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Beat<'a> {
    pulse: &'a Pulse,
    began: Instant,
}

impl Pulse {
    /// Notes that a call begins.
    pub(crate) fn begin(&self) -> Beat<'_> {
        let began = Instant::now();
        let mut state = self.lock();
        if state.running == 0 {
            state.last_progress = Some(began);
        }
        state.running += 1;
        drop(state);
        Beat { pulse: self, began }
    }

    /// What is wrong, as last reported.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.lock().trouble.clone()
    }

    /// Reports what is wrong, or with `None` that nothing is; logs when that is news.
    pub(crate) fn report(&self, trouble: Option<Trouble>) {
        let mut state = self.lock();
        if state.trouble != trouble {
            match &trouble {
                Some(trouble) => tracing::warn!(?trouble, "storage in trouble"),
                None => tracing::info!("storage well again"),
            }
            state.trouble = trouble;
        }
    }

    /// The grade now.
    pub(crate) fn health(&self) -> Health {
        let state = self.lock();
        match &state.trouble {
            Some(Trouble::Down(reason)) => return Health::Down { reason: reason.clone() },
            _ if state.stalled() => {
                let reason = format!("no call has finished for {} s", limits::STORE_STALLED.as_secs());
                return Health::Down { reason };
            }
            Some(Trouble::LosingData(reason)) => return Health::LosingData { reason: reason.clone() },
            Some(Trouble::Full(reason) | Trouble::ReadOnly(reason)) => {
                return Health::ReadOnly { reason: reason.clone() };
            }
            None => {}
        }
        if state.average > limits::STORE_SLOW { Health::Slow { average: state.average } } else { Health::Ok }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn stalled(&self) -> bool {
        self.running > 0 && self.last_progress.is_some_and(|at| at.elapsed() > limits::STORE_STALLED)
    }
}

impl Drop for Beat<'_> {
    fn drop(&mut self) {
        let mut state = self.pulse.lock();
        state.running -= 1;
        state.last_progress = Some(Instant::now());
        state.average = (state.average * 7 + self.began.elapsed()) / 8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn slow_calls_grade_the_storage_slow_until_fast_ones_follow() {
        let pulse = Pulse::default();
        for _ in 0..10 {
            let _beat = pulse.begin();
            tokio::time::advance(limits::STORE_SLOW * 2).await;
        }
        assert!(matches!(pulse.health(), Health::Slow { .. }), "{:?}", pulse.health());
        for _ in 0..10 {
            drop(pulse.begin());
        }
        assert_eq!(pulse.health(), Health::Ok);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_never_ends_grades_the_storage_down() {
        let pulse = Pulse::default();
        tokio::time::advance(limits::STORE_STALLED * 2).await;
        let beat = pulse.begin();
        assert_eq!(pulse.health(), Health::Ok, "idle time is not a stall");
        tokio::time::advance(limits::STORE_STALLED * 2).await;
        assert!(matches!(pulse.health(), Health::Down { .. }));
        drop(beat);
        assert!(!matches!(pulse.health(), Health::Down { .. }));
    }

    #[test]
    fn trouble_outranks_slowness_and_goes_when_it_is_over() {
        let pulse = Pulse::default();
        pulse.report(Some(Trouble::Full("disk".into())));
        assert_eq!(pulse.health(), Health::ReadOnly { reason: "disk".into() });
        pulse.report(Some(Trouble::LosingData("evictions".into())));
        assert_eq!(pulse.health(), Health::LosingData { reason: "evictions".into() });
        pulse.report(None);
        assert_eq!(pulse.health(), Health::Ok);
    }
}
