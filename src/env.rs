//! What the store may ask of the world: tasks, random numbers, wall-clock time, blocking work.
//!
//! Every component is handed an [`Env`] and asks nobody else, so that the same code runs for real and inside a
//! deterministic simulation (clippy's `disallowed-methods` guard this). Monotonic time is `tokio::time`, whose clock
//! a simulation pauses. An `Env` is also a scope: its tasks are counted, told to stop, awaited, and in the end dropped.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use futures_util::FutureExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::Notify;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How finely tokio keeps timers that end within some seconds, and not within this time.
const TIMER_SLOT: Duration = Duration::from_millis(64);

/// A boxed task.
pub type BoxTask = Pin<Box<dyn Future<Output = ()> + Send + 'static>>;

/// The world outside, real or simulated.
pub trait World: Send + Sync + 'static {
    /// Runs a task until it ends.
    fn spawn(&self, task: BoxTask);
    /// Milliseconds since the Unix epoch by the wall clock, which may jump.
    fn wall_ms(&self) -> u64;
    /// A seed for the random stream with this label; each call gives a fresh one.
    fn seed(&self, label: &str) -> [u8; 32];
    /// Runs work that blocks its thread, away from the threads that serve the network.
    fn blocking(&self, job: Box<dyn FnOnce() + Send + 'static>);
}

/// The real world: tokio's scheduler and blocking threads, the system's clock and entropy.
#[derive(Debug, Default, Clone, Copy)]
pub struct RealWorld;

impl World for RealWorld {
    #[expect(clippy::disallowed_methods, reason = "the one place where tasks are started")]
    fn spawn(&self, task: BoxTask) {
        tokio::spawn(task);
    }

    #[expect(clippy::disallowed_methods, reason = "the one place where the wall clock is read")]
    fn wall_ms(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    #[expect(clippy::disallowed_methods, reason = "the one place where entropy is drawn")]
    fn seed(&self, _label: &str) -> [u8; 32] {
        rand::random()
    }

    #[expect(clippy::disallowed_methods, reason = "the one place where blocking work is started")]
    fn blocking(&self, job: Box<dyn FnOnce() + Send + 'static>) {
        tokio::task::spawn_blocking(job);
    }
}

/// A handle on the world, and a scope of tasks in it. Clones share the scope.
#[derive(Clone)]
pub struct Env {
    world: Arc<dyn World>,
    /// When its time begins, which is once somebody asks.
    born: Arc<OnceLock<Instant>>,
    /// Told when something has woken the process anyway.
    awake: Arc<Notify>,
    tasks: TaskTracker,
    stop: CancellationToken,
    kill: CancellationToken,
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env").field("tasks", &self.tasks.len()).field("stopping", &self.is_stopping()).finish()
    }
}

impl Env {
    /// A scope in the real world.
    pub fn real() -> Self {
        Self::new(Arc::new(RealWorld))
    }

    /// A scope in the given world.
    pub fn new(world: Arc<dyn World>) -> Self {
        Self {
            world,
            born: Arc::default(),
            awake: Arc::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
        }
    }

    /// A scope inside this one: stopped with it, but awaited apart, so that a service can end in its turn.
    pub fn child(&self) -> Self {
        Self {
            world: self.world.clone(),
            born: self.born.clone(),
            awake: self.awake.clone(),
            tasks: TaskTracker::new(),
            stop: self.stop.child_token(),
            kill: self.kill.child_token(),
        }
    }

    /// Starts a task of this scope. It should end soon after [`Env::stopped`]; it is dropped where it stands when
    /// the scope's shutdown loses patience. The name is for traces.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        // Combinators, since an `async` block that awaits what it captured would hold the task twice.
        let killed = self.kill.clone().run_until_cancelled_owned(task).map(move |ended| {
            if ended.is_none() {
                tracing::debug!(task = name, "dropped at shutdown");
            }
        });
        self.world.spawn(Box::pin(self.tasks.track_future(killed)));
    }

    /// Runs blocking work and waits for its result. `None` when the work panicked or the runtime is going down.
    pub async fn blocking<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (done, result) = oneshot::channel();
        self.world.blocking(Box::new(move || drop(done.send(job()))));
        result.await.ok()
    }

    /// Waits for its turn: each [`Env::awake`] is for the one that waits longest. For looks at what nobody tells of, about once
    /// in each `pause`: in an idle process they ride on what has woken it anyway, and one at a time needs no second thread.
    /// Where nobody is awake for far longer, it ends by itself.
    pub async fn look(&self, pause: Duration) {
        let overdue = self.next_beat(pause) + 2 * pause;
        tokio::select! {
            biased;
            () = self.awake.notified() => {}
            () = sleep_until(overdue) => {}
        }
    }

    /// Ends the longest of all waits of [`Env::look`].
    pub fn awake(&self) {
        self.awake.notify_one();
    }

    /// Waits for the next whole multiple of `pause` since this world began, which is at most `pause` away. Whatever happens
    /// now and then does so at the same moments: an idle process is woken once for all of it.
    pub async fn beat(&self, pause: Duration) {
        sleep_until(self.next_beat(pause)).await;
    }

    /// The moment for which [`Env::beat`] waits.
    pub fn next_beat(&self, pause: Duration) -> Instant {
        self.beat_after(Instant::now(), pause)
    }

    /// The moment at which to wait for something that is due then, or a little later: the runtime keeps distant timers by
    /// slots of 64 ms, and is woken at the beginning of the slot and again at the moment itself unless that is one.
    pub fn slot(&self, due: Instant) -> Instant {
        let is_distant = due > Instant::now() + 2 * TIMER_SLOT;
        if is_distant { self.beat_after(due, TIMER_SLOT) } else { due }
    }

    /// The first whole multiple of `pause` after a moment.
    fn beat_after(&self, moment: Instant, pause: Duration) -> Instant {
        let (born, pause_ms) = (self.born(), pause.as_millis().max(1));
        let beats = moment.saturating_duration_since(born).as_millis() / pause_ms + 1;
        born + Duration::from_millis(u64::try_from(beats * pause_ms).unwrap_or(u64::MAX))
    }

    /// When this world's time began. Asked right before a runtime is made, its timers count from then.
    pub fn born(&self) -> Instant {
        *self.born.get_or_init(Instant::now)
    }

    /// Milliseconds since the Unix epoch by the wall clock, which may jump.
    pub fn wall_ms(&self) -> u64 {
        self.world.wall_ms()
    }

    /// A new stream of random numbers; the label tells streams apart in a simulation.
    pub fn rng(&self, label: &str) -> StdRng {
        StdRng::from_seed(self.world.seed(label))
    }

    /// Completes when this scope is told to stop.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Whether this scope was told to stop.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Tells the tasks of this scope to stop, without waiting for them.
    pub fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
    }

    /// Stops the scope and waits for its tasks; those that are still running after `patience` are dropped.
    /// Returns how many had to be.
    pub async fn shutdown(&self, patience: Duration) -> usize {
        self.stop();
        if tokio::time::timeout(patience, self.tasks.wait()).await.is_ok() {
            return 0;
        }
        let left = self.tasks.len();
        self.kill.cancel();
        self.tasks.wait().await;
        left
    }
}

/// A scope that is told to stop when this is dropped.
#[derive(Debug)]
pub struct StopOnDrop(pub Env);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn beats_of_several_tasks_fall_together() {
        let env = Env::real();
        env.born();
        tokio::time::sleep(Duration::from_millis(130)).await;
        let beats = [100, 200, 500].map(|ms| env.child().next_beat(Duration::from_millis(ms)) - env.born());
        assert_eq!(beats, [200, 200, 500].map(Duration::from_millis));
        env.beat(Duration::from_millis(500)).await;
        assert_eq!(env.born().elapsed(), Duration::from_millis(500));
        env.beat(Duration::from_millis(500)).await;
        assert_eq!(env.born().elapsed(), Duration::from_millis(1_000));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_due_late_is_waited_for_until_a_slot_of_the_runtime() {
        let env = Env::real();
        let at = |ms| env.born() + Duration::from_millis(ms);
        assert_eq!([3, 128, 129, 191, 192, 193].map(|ms| env.slot(at(ms))), [3, 128, 192, 192, 256, 256].map(at));
    }

    #[tokio::test(start_paused = true)]
    async fn looks_are_made_in_turn_when_the_process_is_awake_and_are_never_long_overdue() {
        let (env, second) = (Env::real(), Duration::from_secs(1));
        env.born();
        let child = env.child();
        let (mut first, mut other) = (std::pin::pin!(child.look(second)), std::pin::pin!(env.look(second)));
        assert!(futures_util::poll!(first.as_mut()).is_pending() && futures_util::poll!(other.as_mut()).is_pending());
        tokio::time::sleep(second).await;
        env.awake();
        assert!(futures_util::poll!(other.as_mut()).is_pending());
        assert!(futures_util::poll!(first.as_mut()).is_ready());
        env.awake();
        assert!(futures_util::poll!(other.as_mut()).is_ready());
        env.look(second).await;
        assert_eq!(env.born().elapsed(), 4 * second);
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_awaits_the_willing_and_drops_the_rest() {
        let env = Env::real();
        let scope = env.clone();
        env.spawn("willing", async move { scope.stopped().await });
        env.spawn("stubborn", std::future::pending());
        assert_eq!(env.shutdown(Duration::from_secs(1)).await, 1);
    }

    #[tokio::test]
    async fn a_child_stops_with_its_parent() {
        let env = Env::real();
        let child = env.child();
        env.stop();
        child.stopped().await;
        assert_eq!(env.blocking(|| 7).await, Some(7));
    }
}
