//! The world of a simulated process: tokio's paused clock, random numbers from the seed, tasks that die together.
//!
//! A simulation is one thread with one paused runtime. Each life of a node has a [`SimWorld`] of its own, so that a
//! crash drops every task of that life, quinn's included, at once and without a word.

use std::any::Any;
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use dynamomini::env::BoxTask;
use dynamomini::env::Env;
use dynamomini::env::World;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use ring::digest;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Where simulated wall clocks begin: 2026-01-01, in milliseconds since the Unix epoch.
pub(crate) const EPOCH_MS: u64 = 1_767_225_600_000;
/// Virtual time a scenario may take, because a paused clock with nothing left to do would wait for ever.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// What all worlds of one simulation share.
#[derive(Clone)]
pub(crate) struct Simulation {
    pub(crate) seed: u64,
    start: Instant,
    panics: Arc<Mutex<Vec<String>>>,
    /// Probability that a task that could run lets others run first.
    reordering: f64,
}

/// Runs a scenario on a thread and a paused runtime of its own. Panics, with the seed, when any task panicked.
#[expect(clippy::disallowed_methods, reason = "a simulation has a thread to itself")]
pub(crate) fn simulate<T, F>(seed: u64, reordering: f64, scenario: impl FnOnce(Simulation) -> F + Send + 'static) -> T
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async move {
            let simulation = Simulation { seed, start: Instant::now(), panics: Arc::default(), reordering };
            let result = tokio::time::timeout(LONGEST, scenario(simulation.clone())).await;
            let panics = simulation.panics.lock().unwrap().clone();
            assert!(panics.is_empty(), "seed {seed}: tasks panicked: {panics:?}");
            result.unwrap_or_else(|_| panic!("seed {seed}: the scenario did not end within {LONGEST:?} of its time"))
        })
    });
    thread.join().unwrap_or_else(|panic| panic!("seed {seed}: {}", text_of(&*panic)))
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_else(|| "a panic".to_owned())
}

fn derive(seed: u64, label: &str) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&seed.to_le_bytes());
    context.update(label.as_bytes());
    let mut seed = [0; 32];
    seed.copy_from_slice(context.finish().as_ref());
    seed
}

/// A number from the environment, or the usual one.
pub(crate) fn asked_for(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text:?}")))
}

/// The seeds of one scenario: as many as usual, or as `SIM_SEEDS` says.
pub(crate) fn seeds(first: u64, usual: u64) -> Range<u64> {
    first..first + asked_for("SIM_SEEDS", usual)
}

/// Random numbers for a label, for what is drawn before a simulation begins.
pub(crate) fn rng(seed: u64, label: &str) -> StdRng {
    StdRng::from_seed(derive(seed, label))
}

impl Simulation {
    /// A seed for this label, always the same for one simulation.
    pub(crate) fn derive(&self, label: &str) -> [u8; 32] {
        derive(self.seed, label)
    }

    /// Random numbers for this label.
    pub(crate) fn rng(&self, label: &str) -> StdRng {
        rng(self.seed, label)
    }

    /// One life of a process. `incarnation` tells the lives of one name apart.
    pub(crate) fn world(&self, name: &str, incarnation: u32) -> Arc<SimWorld> {
        let label = format!("{name}/{incarnation}");
        let scheduling = self.rng(&format!("{label}/scheduling"));
        Arc::new(SimWorld {
            simulation: self.clone(),
            label,
            draws: Mutex::default(),
            tasks: Mutex::new(Some(Vec::new())),
            skew_ms: AtomicI64::new(0),
            scheduling: Arc::new(Mutex::new(scheduling)),
        })
    }

    /// Virtual time since the simulation began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

/// One life of a simulated process.
pub(crate) struct SimWorld {
    simulation: Simulation,
    label: String,
    /// How often each label was asked for.
    draws: Mutex<BTreeMap<String, u64>>,
    /// What is dropped at a crash; `None` afterwards.
    tasks: Mutex<Option<Vec<AbortHandle>>>,
    skew_ms: AtomicI64,
    scheduling: Arc<Mutex<StdRng>>,
}

impl SimWorld {
    /// A scope in this world.
    pub(crate) fn env(self: &Arc<Self>) -> Env {
        Env::new(self.clone())
    }

    /// Drops every task where it stands and starts none any more. Close the process's sockets first.
    pub(crate) fn crash(&self) {
        for task in self.tasks.lock().unwrap().take().into_iter().flatten() {
            task.abort();
        }
    }

    /// Sets the wall clock wrong by this much.
    pub(crate) fn skew(&self, milliseconds: i64) {
        self.skew_ms.store(milliseconds, Ordering::Relaxed);
    }
}

impl World for SimWorld {
    #[expect(clippy::disallowed_methods, reason = "a world is what starts tasks")]
    fn spawn(&self, task: BoxTask) {
        let mut tasks = self.tasks.lock().unwrap();
        // Dropped, after a crash.
        let Some(tasks) = tasks.as_mut() else { return };
        if tasks.len() >= 1024 && tasks.len().is_power_of_two() {
            tasks.retain(|task| !task.is_finished());
        }
        let watched = Watched {
            task,
            reordering: self.simulation.reordering,
            scheduling: self.scheduling.clone(),
            panics: self.simulation.panics.clone(),
        };
        tasks.push(tokio::spawn(watched).abort_handle());
    }

    fn wall_ms(&self) -> u64 {
        let elapsed = u64::try_from(self.simulation.elapsed().as_millis()).unwrap();
        (EPOCH_MS + elapsed).saturating_add_signed(self.skew_ms.load(Ordering::Relaxed))
    }

    fn seed(&self, label: &str) -> [u8; 32] {
        let mut draws = self.draws.lock().unwrap();
        let draw = draws.entry(label.to_owned()).or_default();
        *draw += 1;
        self.simulation.derive(&format!("{}/{label}/{draw}", self.label))
    }

    fn blocking(&self, job: Box<dyn FnOnce() + Send + 'static>) {
        // On the spot: a thread of its own would end at a moment no seed decides.
        job();
    }
}

/// A task whose panics count, and which now and then lets others run first.
struct Watched {
    task: BoxTask,
    reordering: f64,
    scheduling: Arc<Mutex<StdRng>>,
    panics: Arc<Mutex<Vec<String>>>,
}

impl Future for Watched {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.reordering > 0.0 && self.scheduling.lock().unwrap().random_bool(self.reordering) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match catch_unwind(AssertUnwindSafe(|| self.task.as_mut().poll(cx))) {
            Ok(poll) => poll,
            Err(panic) => {
                self.panics.lock().unwrap().push(text_of(&*panic));
                Poll::Ready(())
            }
        }
    }
}
