//! Finds out which connections are dead while something is awaited on them.
//!
//! Connections on which nothing happens cost almost nothing: a sign of life goes out on all of them together every
//! [`limits::QUIET_KEEP_ALIVE`] only. So whoever waits for an answer, or doubts that a peer is there, needs to be told
//! sooner. While there is somebody, one task for each endpoint looks at its connections every so often; on those that are
//! watched it sends a datagram, which QUIC acknowledges and nobody reads, and ends the connection when nothing at all comes back
//! for long enough. While there is nobody it rests, until the [`Bell`] is rung.
//!
//! It does not judge answers that are slow: a peer that acknowledges is there.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::Weak;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio::time::sleep_until;

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

/// What whoever begins to wait for an answer, or to doubt, rings afterwards.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    /// Whether the next to ring is the first since all connections were looked at.
    set: AtomicBool,
    rung: Notify,
}

impl Bell {
    /// Ends the rest of the vigil; costs next to nothing while it is awake.
    pub(crate) fn ring(&self) {
        if self.set.load(Ordering::SeqCst) && self.set.swap(false, Ordering::SeqCst) {
            self.rung.notify_one();
        }
    }
}

/// The connections of one endpoint.
pub(crate) struct Vigil<C> {
    connections: Mutex<Vec<Weak<C>>>,
    bell: Arc<Bell>,
}

impl<C> Default for Vigil<C> {
    fn default() -> Self {
        Self { connections: Mutex::default(), bell: Arc::default() }
    }
}

impl<C> Drop for Vigil<C> {
    fn drop(&mut self) {
        self.bell.ring();
    }
}

impl<C: Watched + AsRef<Silence> + 'static> Vigil<C> {
    fn lock(&self) -> MutexGuard<'_, Vec<Weak<C>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the connections that are to be watched.
    pub(crate) fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }

    /// Watches a connection until it is dropped.
    pub(crate) fn add(&self, connection: &Arc<C>) {
        let mut all = self.lock();
        all.retain(|known| known.strong_count() > 0);
        all.push(Arc::downgrade(connection));
    }

    /// Looks after all of them, every `pause` while somebody cares, until the endpoint is gone or `env` is stopped.
    pub(crate) async fn keep(self: Arc<Self>, pause: Duration, patience: Duration, env: Env) {
        let (vigil, bell) = (Arc::downgrade(&self), self.bell.clone());
        drop(self);
        let mut sign_at = env.next_beat(limits::QUIET_KEEP_ALIVE);
        loop {
            let Some(here) = vigil.upgrade() else { return };
            let signs = Instant::now() >= sign_at;
            if signs {
                sign_at = env.next_beat(limits::QUIET_KEEP_ALIVE);
            }
            // Before looking, so that whoever comes too late to be seen rings.
            bell.set.store(true, Ordering::SeqCst);
            let watched = here.look(signs, patience);
            drop(here);
            let rest = async {
                if !watched {
                    tokio::select! {
                        biased;
                        () = bell.rung.notified() => {}
                        () = sleep_until(sign_at) => {}
                    }
                }
                env.beat(pause).await;
            };
            tokio::select! {
                biased;
                () = env.stopped() => return,
                () = rest => {}
            }
        }
    }

    /// Looks at each once, and if it is time, asks for signs of life on those that nobody cares for. Returns whether somebody
    /// cares for any.
    fn look(&self, signs: bool, patience: Duration) -> bool {
        let all: Vec<Arc<C>> = self.lock().iter().filter_map(Weak::upgrade).collect();
        let (now, mut any) = (Instant::now(), false);
        for connection in all {
            let watched = connection.as_ref().as_ref().look(&*connection, now, patience);
            any |= watched;
            if signs && !watched {
                connection.call();
            }
        }
        any
    }
}

/// How often to look, for signs of life at this pace and this patience.
pub(crate) fn pause(keep_alive: Duration, patience: Duration) -> Duration {
    keep_alive.min(patience / 3).max(limits::VIGIL_PAUSE_MIN)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

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

    impl AsRef<Silence> for Fake {
        fn as_ref(&self) -> &Silence {
            &self.silence
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
    async fn the_vigil_rests_until_the_bell_is_rung_or_signs_of_life_are_due() {
        let (env, fake, vigil) = (Env::real(), Arc::new(Fake::default()), Arc::new(Vigil::default()));
        vigil.add(&fake);
        env.spawn("vigil", vigil.clone().keep(Duration::from_secs(1), Duration::from_secs(3), env.clone()));
        let called = || fake.called.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(20)).await;
        fake.awaits.store(true, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(called(), 0, "it looks though nobody rang");
        vigil.bell().ring();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(called() > 1 && fake.ended.load(Ordering::Relaxed), "called {} times", called());
        fake.awaits.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let before = called();
        tokio::time::sleep(limits::QUIET_KEEP_ALIVE).await;
        assert_eq!(called(), before + 1, "a sign of life is due once in that time");
        drop(vigil);
        assert_eq!(env.shutdown(Duration::from_secs(1)).await, 0);
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
