//! A steady load whose every answer is checked: requests begin at their times whatever becomes of those before (open loop),
//! in one task. Each key is written again and again, each time under the context of the write before, and read in between; a
//! read must find exactly what was acknowledged last. It starts nothing and stops nothing.

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::pin::pin;
use std::time::Duration;

use dynamomini::client::{CausalContext, Client, ClientError, GetOptions, PutOptions};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::time::{Instant, sleep_until};

/// How much load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Steady {
    pub(crate) requests: usize,
    pub(crate) per_second: u32,
    pub(crate) keys: usize,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) errors: Vec<String>,
    pub(crate) wrong: Vec<String>,
    /// Each from the time the request was due, sorted.
    pub(crate) latencies: Vec<Duration>,
    /// The longest, with the time since the beginning when it was due.
    pub(crate) longest: (Duration, Duration),
    /// Each latency with the time when its request was due.
    pub(crate) points: Vec<(Duration, Duration)>,
}

/// What happened when, since the beginning of a load.
#[derive(Debug)]
pub(crate) struct Phases {
    start: Instant,
    begun: Vec<(String, Duration)>,
}

impl Phases {
    /// A load begins now, and nothing happens yet.
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), begun: vec![("calm".to_owned(), Duration::ZERO)] }
    }

    /// Another phase begins now.
    pub(crate) fn begin(&mut self, name: impl Into<String>) {
        self.begun.push((name.into(), self.start.elapsed()));
    }
}

impl Report {
    /// The latency that so many of a thousand requests did not exceed.
    pub(crate) fn per_mille(&self, share: usize) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get(last * share / 1_000).copied().unwrap_or_default()
    }

    /// The latencies of each phase, sorted.
    pub(crate) fn by_phase<'a>(&self, phases: &'a Phases) -> Vec<(&'a str, Vec<Duration>)> {
        let ends = phases.begun.iter().skip(1).map(|(_, at)| *at).chain([Duration::MAX]);
        let within = |((name, from), to): (&'a (String, Duration), Duration)| {
            let within = self.points.iter().filter(|(due, _)| (*from..to).contains(due));
            let mut latencies: Vec<Duration> = within.map(|(_, latency)| *latency).collect();
            latencies.sort_unstable();
            (name.as_str(), latencies)
        };
        phases.begun.iter().zip(ends).map(within).collect()
    }

    /// The longest request of each phase, as text.
    pub(crate) fn longest_by_phase(&self, phases: &Phases) -> String {
        let longest = self.by_phase(phases).into_iter().map(|(name, latencies)| {
            format!("{name} {:.1} ms", latencies.last().copied().unwrap_or_default().as_secs_f64() * 1_000.0)
        });
        longest.collect::<Vec<String>>().join(", ")
    }
}

struct Key {
    name: String,
    written: u64,
    context: CausalContext,
    reads_next: bool,
}

/// Puts and gets alternate on each key, and no key is in two requests at once.
pub(crate) async fn run(client: &Client, load: Steady, prefix: &str) -> Report {
    run_until(client, load, prefix, pending()).await
}

/// The same, but nothing more is begun once `end` has come.
pub(crate) async fn run_until(client: &Client, load: Steady, prefix: &str, end: impl Future<Output = ()>) -> Report {
    let key = |number| Key {
        name: format!("{prefix}/{number}"),
        written: 0,
        context: CausalContext::default(),
        // Half of them, so that not all keys are written at once and then all read.
        reads_next: number % 2 == 1,
    };
    let mut free: VecDeque<Key> = (0..load.keys).map(key).collect();
    let mut under_way = FuturesUnordered::new();
    let mut report = Report::default();
    let start = Instant::now();
    let (mut begun, mut left) = (0, load.requests);
    let mut end = pin!(end.fuse());
    while begun < left || !under_way.is_empty() {
        let due = start + Duration::from_secs(1) * u32::try_from(begun).unwrap() / load.per_second;
        tokio::select! {
            biased;
            Some((key, due, outcome)) = under_way.next(), if !under_way.is_empty() => {
                let latency = Instant::now() - due;
                report.latencies.push(latency);
                report.points.push((due - start, latency));
                report.longest = report.longest.max((latency, due - start));
                match outcome {
                    Ok(None) => {}
                    Ok(Some(wrong)) => report.wrong.push(wrong),
                    Err(error) => report.errors.push(ClientError::to_string(&error)),
                }
                free.push_back(key);
            }
            () = &mut end => left = begun,
            () = sleep_until(due), if begun < left && !free.is_empty() => {
                begun += 1;
                let key = free.pop_front().expect("one is free");
                under_way.push(step(client, key, due));
            }
        }
    }
    report.latencies.sort_unstable();
    report
}

/// One request: `None` is right, a text says what is wrong.
async fn step(client: &Client, mut key: Key, due: Instant) -> (Key, Instant, Result<Option<String>, ClientError>) {
    let outcome = if key.reads_next {
        client.get_with(key.name.clone(), GetOptions::default()).await.map(|found| {
            let values: Vec<String> =
                found.siblings.iter().map(|sibling| String::from_utf8_lossy(&sibling.value).into_owned()).collect();
            let right: Vec<String> = (key.written > 0).then(|| key.written.to_string()).into_iter().collect();
            (values != right).then(|| format!("{}: {values:?} instead of {right:?}", key.name))
        })
    } else {
        let value = (key.written + 1).to_string();
        let written = client.put(key.name.clone(), value, PutOptions::after(&key.context)).await;
        written.map(|written| {
            key.written += 1;
            key.context = written.context;
            None
        })
    };
    if outcome.is_ok() {
        key.reads_next = !key.reads_next;
    }
    (key, due, outcome)
}
