//! Finds out which connections are dead while something is awaited on them.
//!
//! Connections on which nothing happens cost almost nothing: a sign of life goes out on all of them together every
//! [`limits::QUIET_KEEP_ALIVE`] only. So whoever waits for an answer, or doubts that a peer is there, needs to be told
//! sooner. One task for each endpoint looks at its connections every so often; on those that are watched it sends a datagram,
//! which QUIC acknowledges and nobody reads, and ends the connection when nothing at all comes back for long enough.
//!
//! It does not judge answers that are slow: a peer that acknowledges is there.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::Weak;
use std::time::Duration;

use tokio::time::Instant;

use crate::env::Env;
use crate::limits;

/// A connection as it is watched here.
pub(crate) trait Watched: Send + Sync {
    /// Whether somebody waits for an answer on it.
    fn awaits(&self) -> bool;
    /// Packets that have come on it so far.
    fn heard(&self) -> u64;
    /// Sends what its peer must acknowledge.
    fn call(&self);
    /// Ends it, as nothing has come for this long.
    fn give_up(&self, silent: Duration);
}

/// What is held of one connection's silence.
#[derive(Debug, Default)]
pub(crate) struct Silence(Mutex<Silent>);

#[derive(Debug, Default)]
struct Silent {
    /// Packets that had come, and since when there are no more; nothing while nobody cares.
    since: Option<(u64, Instant)>,
    /// Whether somebody doubts that the peer is there, though nothing is awaited.
    doubted: bool,
}

impl Silence {
    fn lock(&self) -> MutexGuard<'_, Silent> {
        // Nothing in here can be left half done by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Doubts that the peer is there: it is called now, and the connection ends if it does not answer in time.
    pub(crate) fn doubt(&self, connection: &impl Watched, now: Instant) {
        let mut silent = self.lock();
        silent.doubted = true;
        silent.since.get_or_insert((connection.heard(), now));
        drop(silent);
        connection.call();
    }

    /// Looks whether a connection is dead, if somebody cares. Returns whether somebody does.
    fn look(&self, connection: &impl Watched, now: Instant, patience: Duration) -> bool {
        let mut silent = self.lock();
        if !silent.doubted && !connection.awaits() {
            silent.since = None;
            return false;
        }
        let heard = connection.heard();
        let lasts = match silent.since {
            Some((before, since)) if before == heard => now.saturating_duration_since(since),
            since => {
                if since.is_some() {
                    silent.doubted = false;
                }
                silent.since = Some((heard, now));
                Duration::ZERO
            }
        };
        drop(silent);
        if lasts >= patience {
            connection.give_up(lasts);
        } else {
            connection.call();
        }
        true
    }
}

/// The connections of one endpoint.
pub(crate) struct Vigil<C>(Mutex<Vec<Weak<C>>>);

impl<C> Default for Vigil<C> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<C: Watched + AsRef<Silence> + 'static> Vigil<C> {
    fn lock(&self) -> MutexGuard<'_, Vec<Weak<C>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches a connection until it is dropped.
    pub(crate) fn add(&self, connection: &Arc<C>) {
        let mut all = self.lock();
        all.retain(|known| known.strong_count() > 0);
        all.push(Arc::downgrade(connection));
    }

    /// Looks after all of them, every `pause`, until the endpoint is gone or `env` is stopped.
    pub(crate) async fn keep(vigil: Weak<Self>, pause: Duration, patience: Duration, env: Env) {
        let mut sign_at = env.next_beat(limits::QUIET_KEEP_ALIVE);
        loop {
            tokio::select! {
                biased;
                () = env.stopped() => return,
                () = env.beat(pause) => {}
            }
            let Some(vigil) = vigil.upgrade() else { return };
            let all: Vec<Arc<C>> = vigil.lock().iter().filter_map(Weak::upgrade).collect();
            let now = Instant::now();
            let signs = now >= sign_at;
            if signs {
                sign_at = env.next_beat(limits::QUIET_KEEP_ALIVE);
            }
            for connection in all {
                let watched = connection.as_ref().as_ref().look(&*connection, now, patience);
                if signs && !watched {
                    connection.call();
                }
            }
        }
    }
}

/// How often to look, for signs of life at this pace and this patience.
pub(crate) fn pause(keep_alive: Duration, patience: Duration) -> Duration {
    keep_alive.min(patience / 3).max(limits::VIGIL_PAUSE_MIN)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering;

    use super::*;

    #[derive(Default)]
    struct Fake {
        awaits: AtomicBool,
        heard: AtomicU64,
        called: AtomicU64,
        ended: AtomicBool,
        silence: Silence,
    }

    impl Watched for Fake {
        fn awaits(&self) -> bool {
            self.awaits.load(Ordering::Relaxed)
        }
        fn heard(&self) -> u64 {
            self.heard.load(Ordering::Relaxed)
        }
        fn call(&self) {
            self.called.fetch_add(1, Ordering::Relaxed);
        }
        fn give_up(&self, _: Duration) {
            self.ended.store(true, Ordering::Relaxed);
        }
    }

    impl Fake {
        /// Looks after so many seconds; how often it was called so far, and whether it was ended.
        fn after(&self, began: Instant, seconds: u64) -> (u64, bool) {
            self.silence.look(self, began + Duration::from_secs(seconds), Duration::from_secs(3));
            (self.called.load(Ordering::Relaxed), self.ended.load(Ordering::Relaxed))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_connection_on_which_something_is_awaited_is_called_and_ended_when_nothing_comes() {
        let (fake, began) = (Fake::default(), Instant::now());
        assert_eq!(fake.after(began, 100), (0, false));
        fake.awaits.store(true, Ordering::Relaxed);
        assert_eq!([101, 102, 103].map(|at| fake.after(began, at)), [(1, false), (2, false), (3, false)]);
        fake.heard.store(7, Ordering::Relaxed);
        assert_eq!([104, 106].map(|at| fake.after(began, at)), [(4, false), (5, false)]);
        assert_eq!(fake.after(began, 107), (5, true));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_forgets_the_silence_before_it() {
        let (fake, began) = (Fake::default(), Instant::now());
        fake.awaits.store(true, Ordering::Relaxed);
        fake.after(began, 0);
        fake.awaits.store(false, Ordering::Relaxed);
        fake.after(began, 2);
        fake.awaits.store(true, Ordering::Relaxed);
        assert_eq!(fake.after(began, 60), (2, false), "the rest between was nobody's fault");
    }

    #[tokio::test(start_paused = true)]
    async fn doubt_calls_at_once_and_ends_with_a_sign_of_life_or_the_connection() {
        let (fake, began) = (Fake::default(), Instant::now());
        fake.silence.doubt(&fake, began);
        assert_eq!(fake.called.load(Ordering::Relaxed), 1);
        fake.heard.store(1, Ordering::Relaxed);
        fake.after(began, 1);
        let called = fake.after(began, 2).0;
        assert_eq!(fake.after(began, 50), (called, false), "the doubt is over");
        fake.silence.doubt(&fake, began + Duration::from_secs(60));
        assert!(fake.after(began, 63).1);
    }
}
