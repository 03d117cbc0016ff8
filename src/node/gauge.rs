//! How much the storage holds, for whoever asks: counted by one task at a time, and not anew for every question, since
//! counting may read thousands of keys. Who asks and what becomes of it is not known here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::env::Env;
use crate::limits;
use crate::store::{StoreError, StoreSize};

/// The size as it was last counted.
#[derive(Debug, Default)]
pub(crate) struct SizeGauge {
    state: Mutex<State>,
    counted: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// When the last count ended, and its outcome.
    last: Option<(Instant, Option<StoreSize>)>,
    counting: bool,
}

impl State {
    fn fresh(&self) -> Option<Option<StoreSize>> {
        let (at, size) = self.last?;
        (at.elapsed() < limits::STORE_SIZE_FRESH).then_some(size)
    }
}

impl SizeGauge {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The size, of this moment or of shortly before. `None` when the storage does not say in time; its count goes on
    /// then, and no other begins beside it.
    pub(crate) async fn read<F>(self: &Arc<Self>, env: &Env, count: impl FnOnce() -> F) -> Option<StoreSize>
    where
        F: Future<Output = Result<StoreSize, StoreError>> + Send + 'static,
    {
        let mut counted = std::pin::pin!(self.counted.notified());
        // From here on no outcome is missed.
        counted.as_mut().enable();
        let begins = {
            let mut state = self.lock();
            if let Some(size) = state.fresh() {
                return size;
            }
            !std::mem::replace(&mut state.counting, true)
        };
        if begins {
            let (gauge, count) = (self.clone(), count());
            env.spawn("size", async move { gauge.take(count.await) });
        }
        if timeout(limits::STORE_SIZE_PATIENCE, counted).await.is_err() {
            tracing::debug!("the storage did not tell its size in time");
        }
        self.lock().fresh().flatten()
    }

    fn take(&self, outcome: Result<StoreSize, StoreError>) {
        if let Err(error) = &outcome {
            tracing::debug!(%error, "the storage's size is not known");
        }
        *self.lock() = State { last: Some((Instant::now(), outcome.ok())), counting: false };
        self.counted.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;

    /// A storage that takes its time, and counts how often it was asked.
    fn slow(asked: &Arc<AtomicU64>, takes: Duration) -> impl Future<Output = Result<StoreSize, StoreError>> + use<> {
        let keys = asked.fetch_add(1, Ordering::Relaxed) + 1;
        async move {
            tokio::time::sleep(takes).await;
            Ok(StoreSize { keys, bytes: 7 })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_at_once_share_one_count_that_lasts_a_while() {
        let (gauge, env, asked) = (Arc::new(SizeGauge::default()), Env::real(), Arc::new(AtomicU64::new(0)));
        let read = || gauge.read(&env, || slow(&asked, Duration::from_millis(10)));
        let sizes = futures_util::future::join_all((0..100).map(|_| read())).await;
        assert!(sizes.iter().all(|size| size.is_some_and(|size| size.keys == 1)), "{sizes:?}");
        assert_eq!(read().await.map(|size| size.keys), Some(1));
        tokio::time::advance(limits::STORE_SIZE_FRESH).await;
        assert_eq!(read().await.map(|size| size.keys), Some(2), "an old count was told");
    }

    #[tokio::test(start_paused = true)]
    async fn a_count_that_takes_too_long_is_not_begun_again_beside_itself() {
        let (gauge, env, asked) = (Arc::new(SizeGauge::default()), Env::real(), Arc::new(AtomicU64::new(0)));
        let takes = limits::STORE_SIZE_PATIENCE * 5 / 2;
        for _ in 0..2 {
            assert_eq!(gauge.read(&env, || slow(&asked, takes)).await.map(|size| size.keys), None);
        }
        assert_eq!(gauge.read(&env, || slow(&asked, takes)).await.map(|size| size.keys), Some(1));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }
}
