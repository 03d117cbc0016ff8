//! Waking at the moments of an open loop, to within a tenth of a millisecond.
//!
//! tokio's own timers wake at the next whole millisecond or later, which an open loop would count as the target's delay.
//! So a thread beats the time; it costs one wait of the system's for each beat.

use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::env::Env;

/// Shortest time between two beats: moments that lie closer are met together.
const BEAT_LEAST: Duration = Duration::from_micros(200);

/// Waits for moments.
#[derive(Debug)]
pub(super) enum Pacer {
    /// By a thread that beats at these moments.
    Beats(Beats),
    /// By tokio's clock: within some milliseconds, and tests can pause it.
    Tokio,
}

/// The end of a thread's beats; it ends with this.
#[derive(Debug)]
pub(super) struct Beats(Arc<Metronome>);

#[derive(Debug, Default)]
struct Metronome {
    over: Mutex<bool>,
    changed: Condvar,
    beat: Notify,
}

impl Pacer {
    /// A pacer for moments that lie one `period` apart, from `first` on.
    pub(super) fn beats(env: &Env, first: Instant, period: Duration) -> Self {
        let metronome = Arc::<Metronome>::default();
        let (own, scope) = (metronome.clone(), env.clone());
        env.spawn("bench metronome", async move {
            if scope.blocking(move || own.run(first, period)).await.is_none() {
                tracing::debug!("the metronome of the load broke off");
            }
        });
        Self::Beats(Beats(metronome))
    }

    /// Waits until then. Cancel-safe.
    pub(super) async fn until(&mut self, at: Instant) {
        match self {
            Self::Beats(Beats(metronome)) => {
                while Instant::now() < at {
                    metronome.beat.notified().await;
                }
            }
            Self::Tokio => tokio::time::sleep_until(at).await,
        }
    }
}

impl Metronome {
    fn run(&self, first: Instant, period: Duration) {
        let period = period.max(Duration::from_nanos(1));
        // A whole number of periods, so that beats and moments coincide.
        let together = BEAT_LEAST.as_nanos().div_ceil(period.as_nanos()).clamp(1, u128::from(u32::MAX));
        let beat = period * u32::try_from(together).unwrap_or(u32::MAX);
        let mut next = first;
        loop {
            let left = next.saturating_duration_since(Instant::now());
            let over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = self.changed.wait_timeout_while(over, left, |over| !*over);
            let (over, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if *over {
                return;
            }
            drop(over);
            self.beat.notify_one();
            next += beat;
        }
    }
}

impl Drop for Beats {
    fn drop(&mut self) {
        *self.0.over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(2);

    #[tokio::test]
    async fn each_moment_is_met_after_it_has_come_and_the_thread_ends_with_the_pacer() {
        let env = Env::real();
        let begin = Instant::now();
        let mut pacer = Pacer::beats(&env, begin, PERIOD);
        for moment in [1, 2, 5, 6, 3] {
            pacer.until(begin + PERIOD * moment).await;
            assert!(begin.elapsed() >= PERIOD * moment);
        }
        drop(pacer);
        assert_eq!(env.shutdown(Duration::from_secs(60)).await, 0, "the thread goes on");
    }

    #[tokio::test]
    async fn moments_that_lie_close_are_met_together() {
        let begin = Instant::now();
        let mut pacer = Pacer::beats(&Env::real(), begin, Duration::from_nanos(100));
        for moment in 0..1_000 {
            pacer.until(begin + Duration::from_nanos(100) * moment).await;
        }
        assert!(begin.elapsed() >= Duration::from_nanos(99_900));
    }
}
