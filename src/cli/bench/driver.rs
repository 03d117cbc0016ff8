//! The measuring core: begins operations as the schedule says, and records how each ended.
//!
//! One driver for each client, and one task for each driver: operations under way are futures inside it, which costs less
//! than a task for each. It knows nothing of clusters.

use std::pin::pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cli::bench::mix::Kind;
use crate::cli::bench::pacer::Pacer;
use crate::cli::bench::recorder::Recorder;
use crate::cli::bench::schedule::Next;
use crate::cli::bench::schedule::Schedule;
use crate::cli::bench::target::Answer;
use crate::cli::bench::target::Problem;
use crate::cli::bench::target::Target;
use crate::cli::bench::workload::Operation;
use crate::cli::bench::workload::Source;

/// A recorder that a driver fills while others look.
#[derive(Debug, Clone, Default)]
pub(super) struct Shared(Arc<Mutex<Recorder>>);

impl Shared {
    /// The recorder.
    pub(super) fn lock(&self) -> MutexGuard<'_, Recorder> {
        // A panic elsewhere leaves the counts as good as they were.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One client at work.
#[derive(Debug)]
pub(super) struct Driver<T> {
    pub(super) target: Arc<T>,
    pub(super) source: Source,
    pub(super) schedule: Schedule,
    /// Most operations of this driver under way at once.
    pub(super) in_flight: usize,
    pub(super) pacer: Pacer,
    pub(super) recorder: Shared,
    /// Ends it at once; what is under way is dropped and not recorded.
    pub(super) stop: CancellationToken,
}

/// An operation that has ended.
struct Done {
    kind: Kind,
    from: Instant,
    ended: Instant,
    measured: bool,
    outcome: Result<Answer, Problem>,
}

async fn perform<T: Target>(target: Arc<T>, operation: Operation, from: Instant, measured: bool) -> Done {
    let kind = operation.kind;
    let outcome = target.perform(operation).await;
    Done { kind, from, ended: Instant::now(), measured, outcome }
}

impl<T: Target> Driver<T> {
    /// Works until the schedule is over and all that was begun has ended, or until it is stopped.
    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        let mut stopped = pin!(stop.cancelled());
        let mut under_way = FuturesUnordered::new();
        let mut over = false;
        loop {
            let mut wake = None;
            while !over && wake.is_none() && under_way.len() < self.in_flight {
                match self.schedule.next(Instant::now()) {
                    Next::Begin { from, measured } => {
                        under_way.push(perform(self.target.clone(), self.source.next(), from, measured));
                    }
                    Next::Wait(until) => wake = Some(until),
                    Next::Over => over = true,
                }
            }
            if over && under_way.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                () = &mut stopped => break,
                Some(done) = under_way.next(), if !under_way.is_empty() => self.record(done),
                () = wait(&mut self.pacer, wake), if wake.is_some() => {}
            }
        }
        // What a target that stalled kept from being begun is told, and not passed over in silence.
        self.recorder.lock().unsent = self.schedule.late(Instant::now());
    }

    fn record(&self, done: Done) {
        let Done { kind, from, ended, measured, outcome } = done;
        if measured {
            self.recorder.lock().record(kind, ended.saturating_duration_since(from), outcome);
        }
    }
}

async fn wait(pacer: &mut Pacer, until: Option<Instant>) {
    if let Some(until) = until {
        pacer.until(until).await;
    }
}
