//! A load of puts and gets, and what may be read while it goes on: each key has one writer, which writes rising numbers, so
//! whatever is read must be no older than the last number that was acknowledged before the read began. Every put and get
//! is tried again until it succeeds, which it must in time. Siblings are allowed: what counts is the highest.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use dynamomini::client::{CausalContext, Client, ClientError, Found, GetOptions, PutOptions};
use dynamomini::types::Consistency;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use crate::world::Simulation;

/// In which every request must have succeeded, however often it was tried.
const PATIENCE: Duration = Duration::from_secs(90);
/// Pause between two tries.
const RETRY: Duration = Duration::from_millis(200);
/// Longest a probe waits for an answer, in a cluster that may be unable to give one.
const PROBE_TIMEOUT: Duration = Duration::from_millis(700);

/// Who reads when all is over.
const JUDGE: &str = "the judge";

/// What is known of one key.
#[derive(Debug, Clone, Copy, Default)]
struct Register {
    attempted: u64,
    acknowledged: u64,
}

/// What was asked for and what came of it.
#[derive(Debug, Default)]
pub(crate) struct History {
    keys: RefCell<BTreeMap<usize, Register>>,
    /// What must not have been.
    wrong: RefCell<Vec<String>>,
    /// Answers that the load got, and refusals.
    counts: Cell<(u64, u64)>,
    /// Numbers that conditional writers were told they had written, by key.
    counted: RefCell<BTreeMap<usize, BTreeSet<u64>>>,
    /// Stand-ins take writes: until all is calm, reads may miss them.
    sloppy: bool,
    ends: Cell<bool>,
}

fn parse(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

fn name(key: usize) -> String {
    format!("key{key}")
}

impl History {
    /// A history in which stand-ins take writes: only what is lost for good is wrong.
    pub(crate) fn sloppy(sloppy: bool) -> Self {
        Self { sloppy, ..Self::default() }
    }

    /// Ends the load: nothing new begins.
    pub(crate) fn end(&self) {
        self.ends.set(true);
    }

    /// Answers and refusals so far.
    pub(crate) fn counts(&self) -> (u64, u64) {
        self.counts.get()
    }

    /// What must not have been.
    pub(crate) fn wrong(&self) -> Vec<String> {
        self.wrong.borrow().clone()
    }

    fn blame(&self, what: String) {
        self.wrong.borrow_mut().push(what);
    }

    fn register(&self, key: usize) -> Register {
        self.keys.borrow().get(&key).copied().unwrap_or_default()
    }

    /// The next number to be written.
    fn attempt(&self, key: usize) -> u64 {
        let mut keys = self.keys.borrow_mut();
        let register = keys.entry(key).or_default();
        register.attempted += 1;
        register.attempted
    }

    pub(super) fn acknowledge(&self, key: usize, number: u64) {
        let mut keys = self.keys.borrow_mut();
        let register = keys.entry(key).or_default();
        register.attempted = register.attempted.max(number);
        register.acknowledged = register.acknowledged.max(number);
        let (answers, refusals) = self.counts.get();
        self.counts.set((answers + 1, refusals));
    }

    /// Judges what a read found that began when `before` was the last number acknowledged.
    pub(super) fn check(&self, key: usize, before: u64, who: &str, found: &[u64]) {
        let highest = found.iter().copied().max().unwrap_or(0);
        if highest < before && (!self.sloppy || who == JUDGE) {
            self.blame(format!("{who} read {highest} of {} after {before} had been acknowledged", name(key)));
        }
        let attempted = self.register(key).attempted;
        if highest > attempted {
            self.blame(format!("{who} read {highest} of {}, and only {attempted} were written", name(key)));
        }
        let (answers, refusals) = self.counts.get();
        self.counts.set((answers + 1, refusals));
    }

    /// A request failed; it is tried again.
    fn refused(&self, what: &str, key: usize, began: Instant, error: &ClientError) {
        let (answers, refusals) = self.counts.get();
        self.counts.set((answers, refusals + 1));
        if !error.is_retryable() && !error.may_have_applied() {
            self.blame(format!("a {what} of {} failed for good: {error}", name(key)));
        }
        if began.elapsed() > PATIENCE {
            self.blame(format!("a {what} of {} did not succeed in {PATIENCE:?}: {error}", name(key)));
        }
    }

    /// Whether the checker has seen enough.
    fn gives_up(&self, began: Instant) -> bool {
        began.elapsed() > PATIENCE
    }

    /// Reads once and judges.
    async fn read(&self, client: &Client, who: &str, key: usize, options: GetOptions) -> Result<Found, ClientError> {
        let before = self.register(key).acknowledged;
        let found = client.get_with(name(key), options).await?;
        let numbers: Vec<u64> = found.siblings.iter().map(|sibling| parse(&sibling.value)).collect();
        self.check(key, before, who, &numbers);
        Ok(found)
    }

    /// Writes the next number, however many tries it takes.
    async fn write(&self, client: &Client, key: usize, context: &mut CausalContext) {
        let (number, began) = (self.attempt(key), Instant::now());
        while !self.gives_up(began) {
            match client.put(name(key), number.to_string(), PutOptions::after(context)).await {
                Ok(written) => {
                    *context = written.context;
                    return self.acknowledge(key, number);
                }
                Err(error) => self.refused("put", key, began, &error),
            }
            sleep(RETRY).await;
            // What the failed try may have left is superseded by the next one.
            if let Ok(found) = self.read(client, "the writer", key, GetOptions::default()).await {
                *context = found.context;
            }
        }
    }

    /// Writes these keys until the load is ended.
    pub(crate) async fn writer(&self, client: &Client, mut rng: StdRng, keys: Range<usize>, pause: Range<u64>) {
        let mut contexts: BTreeMap<usize, CausalContext> = BTreeMap::new();
        while !self.ends.get() {
            let key = rng.random_range(keys.clone());
            self.write(client, key, contexts.entry(key).or_default()).await;
            sleep(Duration::from_millis(rng.random_range(pause.clone()))).await;
        }
    }

    /// Writes each of these keys once.
    pub(crate) async fn fill(&self, client: &Client, keys: Range<usize>) {
        for key in keys {
            let mut context = CausalContext::default();
            self.write(client, key, &mut context).await;
        }
    }

    /// Reads these keys until the load is ended.
    pub(crate) async fn reader(&self, client: &Client, mut rng: StdRng, keys: Range<usize>, pause: Range<u64>) {
        while !self.ends.get() {
            let (key, began) = (rng.random_range(keys.clone()), Instant::now());
            while let Err(error) = self.read(client, "a reader", key, GetOptions::default()).await {
                self.refused("get", key, began, &error);
                if self.gives_up(began) {
                    break;
                }
                sleep(RETRY).await;
            }
            sleep(Duration::from_millis(rng.random_range(pause.clone()))).await;
        }
    }

    /// One that writes and one that reads these keys, until the load is ended.
    pub(crate) async fn load(
        &self,
        simulation: &Simulation,
        (writer, reader): (&Client, &Client),
        keys: Range<usize>,
        pause: Range<u64>,
    ) {
        tokio::join!(
            self.writer(writer, simulation.rng("writer"), keys.clone(), pause.clone()),
            self.reader(reader, simulation.rng("reader"), keys, pause),
        );
    }

    /// Reads all keys and writes one of its own through a node that may be cut off: it may refuse, and must not lie.
    pub(crate) async fn probe(
        &self,
        client: &Client,
        mut rng: StdRng,
        keys: Range<usize>,
        own: usize,
        pause: Range<u64>,
    ) {
        let mut context = CausalContext::default();
        let timeout = Some(PROBE_TIMEOUT);
        while !self.ends.get() {
            for _ in 0..8 {
                let key = rng.random_range(keys.clone());
                drop(self.read(client, "a probe", key, GetOptions { timeout, ..GetOptions::default() }).await);
                sleep(Duration::from_millis(rng.random_range(pause.clone()))).await;
            }
            if let Ok(found) = self.read(client, "a probe", own, GetOptions { timeout, ..GetOptions::default() }).await
            {
                context = found.context;
            }
            let number = self.attempt(own);
            let options = PutOptions { timeout, ..PutOptions::after(&context) };
            if let Ok(written) = client.put(name(own), number.to_string(), options).await {
                context = written.context;
                self.acknowledge(own, number);
            }
        }
    }

    /// Counts up, each time only if nobody else has since the read: no number may be given twice.
    pub(crate) async fn count(&self, client: &Client, mut rng: StdRng, key: usize) {
        let timeout = Some(PROBE_TIMEOUT);
        while !self.ends.get() {
            sleep(Duration::from_millis(rng.random_range(50..300))).await;
            let options = GetOptions { timeout, ..GetOptions::default() };
            let Ok(found) = self.read(client, "a counter", key, options).await else { continue };
            let numbers = found.siblings.iter().map(|sibling| parse(&sibling.value));
            let next = numbers.max().unwrap_or(0) + 1;
            {
                let mut keys = self.keys.borrow_mut();
                let register = keys.entry(key).or_default();
                register.attempted = register.attempted.max(next);
            }
            let options = PutOptions { timeout, ..PutOptions::if_current(&found.context) };
            if client.put(name(key), next.to_string(), options).await.is_ok() {
                self.acknowledge(key, next);
                self.counted(key, next);
            }
        }
    }

    fn counted(&self, key: usize, number: u64) {
        if !self.counted.borrow_mut().entry(key).or_default().insert(number) {
            self.blame(format!("two were told that they wrote {number} of {} as the only ones", name(key)));
        }
    }

    /// How often anybody counted up.
    pub(crate) fn counts_up(&self) -> usize {
        self.counted.borrow().values().map(BTreeSet::len).sum()
    }

    /// All that was acknowledged must be there, and not only at a quorum.
    pub(crate) async fn judge(&self, client: &Client) {
        let keys: Vec<usize> = self.keys.borrow().keys().copied().collect();
        for key in keys {
            let began = Instant::now();
            let all = || GetOptions { r: Some(Consistency::All), ..GetOptions::default() };
            while let Err(error) = self.read(client, JUDGE, key, all()).await {
                self.refused("last get", key, began, &error);
                if self.gives_up(began) {
                    break;
                }
                sleep(RETRY).await;
            }
        }
        let wrong = self.wrong();
        assert!(wrong.is_empty(), "{} faults: {:#?}", wrong.len(), &wrong[..wrong.len().min(10)]);
    }
}

/// A checker that finds nothing proves nothing.
#[test]
fn reads_that_are_older_than_what_was_acknowledged_or_newer_than_what_was_written_are_found() {
    let history = History::default();
    assert_eq!(history.attempt(1), 1);
    history.acknowledge(1, 1);
    history.check(1, 1, "x", &[1]);
    history.check(1, 0, "x", &[]);
    assert_eq!(history.wrong(), Vec::<String>::new());
    history.check(1, 1, "x", &[]);
    history.check(1, 1, "x", &[2]);
    assert_eq!(history.wrong().len(), 2, "{:?}", history.wrong());
    let history = History::sloppy(true);
    history.acknowledge(1, 1);
    history.check(1, 1, "x", &[]);
    history.counted(2, 1);
    assert_eq!(history.wrong(), Vec::<String>::new());
    history.check(1, 1, JUDGE, &[]);
    history.counted(2, 1);
    assert_eq!(history.wrong().len(), 2, "{:?}", history.wrong());
}
