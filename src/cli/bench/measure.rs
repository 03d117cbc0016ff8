//! One run: its drivers, the line of time it leaves, and its end. It prints nothing and knows nothing of clusters.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio::time::MissedTickBehavior;
use tokio::time::interval_at;
use tokio_util::sync::CancellationToken;

use crate::cli::bench::driver::Driver;
use crate::cli::bench::driver::Shared;
use crate::cli::bench::pacer::Pacer;
use crate::cli::bench::recorder::Interval;
use crate::cli::bench::recorder::Recorder;
use crate::cli::bench::schedule::Length;
use crate::cli::bench::schedule::Plan;
use crate::cli::bench::schedule::Schedule;
use crate::cli::bench::target::Target;
use crate::cli::bench::workload::Source;
use crate::cli::bench::workload::Workload;
use crate::env::Env;
use crate::limits;

/// Points that a run of known length leaves; each is an interval.
const POINTS: u32 = 120;
/// Shortest and longest interval, unless a run is longer than its points last.
const INTERVAL_LEAST: Duration = Duration::from_millis(250);
const INTERVAL_UNKNOWN: Duration = Duration::from_secs(1);

/// What was measured in one interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    /// The interval's end, in seconds after the beginning of the measurement.
    pub(super) at_s: f64,
    /// Operations a second that succeeded.
    pub(super) per_second: f64,
    /// Operations that failed.
    pub(super) errors: u64,
    /// Half of all took no longer, in milliseconds; `None` when none succeeded.
    pub(super) p50_ms: Option<f64>,
    /// 99 % took no longer.
    pub(super) p99_ms: Option<f64>,
    /// The longest.
    pub(super) max_ms: Option<f64>,
}

/// What a run tells while it goes on.
#[derive(Debug)]
pub(super) enum News<'a> {
    /// The warm-up is over.
    Measuring,
    /// An interval is over.
    Point(&'a Point),
}

/// What a run has measured.
#[derive(Debug)]
pub(super) struct Measured {
    /// All drivers together.
    pub(super) total: Recorder,
    /// From the end of the warm-up to the end of the last operation.
    pub(super) elapsed: Duration,
    /// The intervals.
    pub(super) points: Vec<Point>,
    /// Whether it was ended before its time.
    pub(super) interrupted: bool,
}

/// Runs a workload on these targets, one driver each; the moments of an open loop are met exactly, or as tokio's clock does.
/// `interrupt` ends it early, and what was measured until then counts.
///
/// # Errors
/// When a driver panicked.
pub(super) async fn measure<T: Target>(
    env: &Env,
    targets: Vec<T>,
    workload: &Workload,
    plan: Plan,
    exact: bool,
    interrupt: impl Future<Output = ()>,
    mut tell: impl FnMut(News<'_>),
) -> anyhow::Result<Measured> {
    let begin = Instant::now();
    let stop = CancellationToken::new();
    let drivers = drivers(env, targets, workload, plan, exact, begin, &stop)?;
    let recorders: Vec<Shared> = drivers.iter().map(|driver| driver.recorder.clone()).collect();
    let ends = drivers.into_iter().map(|driver| {
        let (ended, end) = oneshot::channel::<()>();
        env.spawn("bench driver", async move {
            driver.run().await;
            // Whoever waited has gone only when the run is over.
            let _ = ended.send(());
        });
        end
    });
    let mut all_ended = pin!(join_all(ends));
    let mut interrupt = pin!(interrupt);
    let (warm, every) = (begin + plan.warmup, every(plan.length));
    let mut line = Line { warm, last: None, points: Vec::new(), is_full: false };
    let mut ticks = interval_at(warm, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut interrupted = false;
    loop {
        tokio::select! {
            biased;
            () = &mut interrupt, if !interrupted => {
                interrupted = true;
                stop.cancel();
            }
            ended = &mut all_ended => {
                anyhow::ensure!(ended.iter().all(Result::is_ok), "a driver of the load broke off, please report");
                break;
            }
            _ = ticks.tick() => line.tick(&recorders, &mut tell),
        }
    }
    let elapsed = warm.elapsed();
    // The last interval is shorter; a sliver of one would show rates of a moment.
    if line.last.is_none_or(|last| last.elapsed() > every / 4) {
        line.tick(&recorders, &mut tell);
    }
    let mut total = Recorder::default();
    recorders.iter().for_each(|recorder| total.add(&recorder.lock()));
    Ok(Measured { total, elapsed, points: line.points, interrupted })
}

fn drivers<T: Target>(
    env: &Env,
    targets: Vec<T>,
    workload: &Workload,
    plan: Plan,
    exact: bool,
    begin: Instant,
    stop: &CancellationToken,
) -> anyhow::Result<Vec<Driver<T>>> {
    let count = targets.len();
    let drivers = u64::try_from(count).context("there are too many clients")?;
    let parts = workload.sources(drivers).into_iter().zip(Schedule::all(plan, begin, drivers));
    let driver = |(place, (target, (source, schedule))): (usize, (T, (Source, Schedule)))| {
        let period = schedule.period().filter(|_| exact);
        let pacer = period.map_or(Pacer::Tokio, |period| Pacer::beats(env, schedule.first(), period));
        Driver {
            target: Arc::new(target),
            source,
            schedule,
            in_flight: plan.in_flight / count + usize::from(place < plan.in_flight % count),
            pacer,
            recorder: Shared::default(),
            stop: stop.clone(),
        }
    };
    Ok(targets.into_iter().zip(parts).enumerate().map(driver).collect())
}

fn every(length: Length) -> Duration {
    match length {
        Length::Time(time) => (time / POINTS).max(INTERVAL_LEAST),
        Length::Count(_) => INTERVAL_UNKNOWN,
    }
}

/// The points of a run.
struct Line {
    warm: Instant,
    last: Option<Instant>,
    points: Vec<Point>,
    is_full: bool,
}

impl Line {
    /// The first is the beginning of the measurement, each further one the end of an interval.
    fn tick(&mut self, recorders: &[Shared], tell: &mut impl FnMut(News<'_>)) {
        let now = Instant::now();
        let Some(last) = self.last.replace(now) else {
            tell(News::Measuring);
            return;
        };
        let mut interval = Interval::default();
        recorders.iter().for_each(|recorder| recorder.lock().take_interval(&mut interval));
        let Interval { latencies, errors } = interval;
        let seconds = (now - last).as_secs_f64();
        let point = Point {
            at_s: (now - self.warm).as_secs_f64(),
            per_second: crate::cli::bench::draw::float(latencies.count()) / seconds.max(1e-9),
            errors,
            p50_ms: latencies.quantile_ms(0.5),
            p99_ms: latencies.quantile_ms(0.99),
            max_ms: latencies.quantile_ms(1.0),
        };
        tell(News::Point(&point));
        match self.points.len() {
            ..limits::BENCH_POINTS_MAX => self.points.push(point),
            _ if !std::mem::replace(&mut self.is_full, true) => {
                tracing::warn!("the line of time ends at {:.0} s, the measurement goes on", point.at_s);
            }
            _ => {}
        }
    }
}
