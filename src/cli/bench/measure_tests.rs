//! The accounting: the measuring core on a target whose delays are known, under a paused clock.

use std::future::pending;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tokio::time::sleep;
use tokio::time::sleep_until;

use crate::cli::bench::data::DataSet;
use crate::cli::bench::measure::Measured;
use crate::cli::bench::measure::measure;
use crate::cli::bench::schedule::Length;
use crate::cli::bench::schedule::Plan;
use crate::cli::bench::sizes::Sizes;
use crate::cli::bench::target::Answer;
use crate::cli::bench::target::Problem;
use crate::cli::bench::target::Target;
use crate::cli::bench::workload::Operation;
use crate::cli::bench::workload::Workload;
use crate::env::Env;

/// Of a thousand operations, in turn: 900 take 2 ms, 95 take 10 ms, 4 take 100 ms, the last one 500 ms.
#[derive(Debug, Default)]
struct Stepped(AtomicU64);

impl Target for Stepped {
    async fn perform(&self, _: Operation) -> Result<Answer, Problem> {
        let delay = match self.0.fetch_add(1, Ordering::Relaxed) % 1_000 {
            0..900 => 2,
            900..995 => 10,
            995..999 => 100,
            _ => 500,
        };
        sleep(Duration::from_millis(delay)).await;
        Ok(Answer::default())
    }
}

/// Takes a millisecond, but does nothing from the third second to the fifth; every tenth operation fails if it is to.
#[derive(Debug)]
struct Stalling {
    begin: Instant,
    fails: bool,
    done: Mutex<u64>,
}

impl Stalling {
    fn new(fails: bool) -> Self {
        Self { begin: Instant::now(), fails, done: Mutex::new(0) }
    }
}

impl Target for Stalling {
    async fn perform(&self, _: Operation) -> Result<Answer, Problem> {
        let second = |count| self.begin + Duration::from_secs(count);
        if (second(3)..second(5)).contains(&Instant::now()) {
            sleep_until(second(5)).await;
        }
        sleep(Duration::from_millis(1)).await;
        let mut done = self.done.lock().unwrap();
        *done += 1;
        let failure = || Problem { kind: "quorum", text: format!("operation {done}") };
        if self.fails && done.is_multiple_of(10) { Err(failure()) } else { Ok(Answer::default()) }
    }
}

pub(super) fn workload() -> Workload {
    let data = DataSet::new(1, Sizes::Fixed(16), Sizes::Fixed(24)).unwrap();
    let mix: crate::cli::bench::mix::Mix = "mixed".parse().unwrap();
    Workload { data, popularity: mix.popularity(), mix, keys: 100, first_write: 0 }
}

pub(super) fn closed(in_flight: usize, length: Length) -> Plan {
    Plan { in_flight, rate: None, warmup: Duration::ZERO, length, patience: Duration::from_secs(5) }
}

async fn run<T: Target>(targets: Vec<T>, plan: Plan) -> Measured {
    measure(&Env::real(), targets, &workload(), plan, false, pending(), |_| {}).await.unwrap()
}

/// Whether a latency is what it should be: timers wake by the millisecond, histograms keep three digits.
fn is_about(got: Option<f64>, wanted: f64) -> bool {
    got.is_some_and(|got| (wanted..=wanted * 1.002 + 1.0).contains(&got))
}

#[tokio::test(start_paused = true)]
async fn the_percentiles_are_those_of_the_target() {
    let Measured { total, elapsed, .. } = run(vec![Stepped::default()], closed(1, Length::Count(10_000))).await;
    let all = total.all();
    assert_eq!((all.count(), total.unsent, total.failed.count()), (10_000, 0, 0));
    for (share, wanted) in
        [(0.5, 2.0), (0.89, 2.0), (0.91, 10.0), (0.99, 10.0), (0.9955, 100.0), (0.9985, 100.0), (1.0, 500.0)]
    {
        assert!(is_about(all.quantile_ms(share), wanted), "{share}: {:?}", all.quantile_ms(share));
    }
    // 10 × (900 × 2 + 95 × 10 + 4 × 100 + 500) ms, and up to a millisecond more for each.
    let wanted = 36.5;
    assert!((wanted..wanted + 10.0).contains(&elapsed.as_secs_f64()), "{elapsed:?}");
    assert!(is_about(all.mean_ms(), 3.65), "{:?}", all.mean_ms());
}

#[tokio::test(start_paused = true)]
async fn clients_and_what_is_in_flight_add_up() {
    let targets = (0..3).map(|_| Stepped::default()).collect();
    let Measured { total, elapsed, points, .. } = run(targets, closed(10, Length::Time(Duration::from_secs(10)))).await;
    let done = crate::cli::bench::draw::float(total.all().count());
    // Ten at once, 3.65 ms each on the average, and up to a millisecond more; the longest are cut off by the end.
    let wanted = 10.0 * 10.0 / 3.65e-3;
    assert!((wanted * 0.75..wanted * 1.05).contains(&done), "{done}");
    assert!((10.0..10.6).contains(&elapsed.as_secs_f64()), "{elapsed:?}");
    let in_points: f64 = points.iter().map(|point| point.per_second * 0.25).sum();
    assert!((in_points / done - 1.0).abs() < 0.02, "{in_points} in {} points, {done} in all", points.len());
}

#[tokio::test(start_paused = true)]
async fn an_open_loop_shows_a_stall_in_its_percentiles_and_a_closed_one_hides_it() {
    let plan = closed(1, Length::Time(Duration::from_secs(10)));
    let hidden = run(vec![Stalling::new(false)], plan).await.total.all();
    assert!(is_about(hidden.quantile_ms(1.0), 2_000.0), "{:?}", hidden.quantile_ms(1.0));
    assert!(
        is_about(hidden.quantile_ms(0.999), 1.0),
        "a closed loop meets the stall once: {:?}",
        hidden.quantile_ms(0.999)
    );

    // 100 a second for 10 s: those of the 2 s of the stall wait from 2 s down to nothing, one fifth of all.
    let shown = run(vec![Stalling::new(false)], Plan { rate: Some(100), in_flight: 64, ..plan }).await.total;
    let all = shown.all();
    assert_eq!((all.count(), shown.unsent), (1_000, 0));
    for (share, wanted) in [(0.5, 1.0), (0.79, 1.0), (0.9, 1_000.0), (0.99, 1_900.0), (0.999, 1_990.0)] {
        let got = all.quantile_ms(share).unwrap();
        assert!((got - wanted).abs() < 25.0, "{share}: {got}, not {wanted}");
    }
}

#[tokio::test(start_paused = true)]
async fn little_room_in_flight_does_not_hide_a_stall_from_an_open_loop() {
    let plan = Plan { rate: Some(100), ..closed(1, Length::Time(Duration::from_secs(10))) };
    let all = run(vec![Stalling::new(false)], plan).await.total.all();
    assert_eq!(all.count(), 1_000);
    assert!(all.quantile_ms(0.9).unwrap() > 900.0, "{:?}", all.quantile_ms(0.9));
}

#[tokio::test(start_paused = true)]
async fn what_was_never_begun_is_told() {
    // A millisecond or two each leaves no room for 5000 a second.
    let plan = Plan { rate: Some(5_000), patience: Duration::ZERO, ..closed(1, Length::Time(Duration::from_secs(2))) };
    let total = run(vec![Stalling::new(false)], plan).await.total;
    assert!(total.unsent > 5_000, "{}", total.unsent);
    assert_eq!(total.unsent + total.all().count(), 10_000);
}

#[tokio::test(start_paused = true)]
async fn the_warm_up_is_left_out_and_failures_are_counted_apart() {
    let plan = Plan { warmup: Duration::from_secs(6), ..closed(2, Length::Count(1_000)) };
    let total = run(vec![Stalling::new(true)], plan).await.total;
    assert_eq!(total.all().count() + total.failed.count(), 1_000);
    assert!(total.errors["quorum"].count.abs_diff(100) <= 1, "{:?}", total.errors);
    assert!(total.all().quantile_ms(1.0).unwrap() < 3.0, "the stall was in the warm-up");
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_ends_a_run_with_what_was_measured() {
    let plan = closed(4, Length::Time(Duration::from_secs(3_600)));
    let interrupt = sleep(Duration::from_millis(3_500));
    let begin = Instant::now();
    let targets = vec![Stalling::new(false)];
    let measured = measure(&Env::real(), targets, &workload(), plan, false, interrupt, |_| {}).await.unwrap();
    assert!(measured.interrupted && begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    assert!(measured.total.all().count() > 1_000);
}
