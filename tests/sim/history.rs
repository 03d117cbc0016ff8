//! What simulated clients did and saw: the evidence that `checks` judges. Judges nothing itself.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use dynamomini::client::{CausalContext, Client, ClientError, Found, PutOptions, Session};
use dynamomini::version::Dot;
use rand::RngExt;
use rand::rngs::StdRng;

use crate::network::Network;

/// Keys that clients share.
const KEYS: usize = 6;

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Acknowledged,
    /// It may have happened, or happen yet.
    Unknown,
    /// It did not happen, and never will.
    Refused,
}

/// A put, or a delete where there is no value.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub(crate) key: String,
    pub(crate) value: Option<String>,
    pub(crate) expires: bool,
    /// The values that its context covers: those it replaces.
    pub(crate) seen: BTreeSet<String>,
    /// Values that this client wrote before and has not read since: a context may leave out a write that met others.
    pub(crate) wrote: BTreeSet<String>,
    pub(crate) outcome: Outcome,
}

/// A read, as the client was given it.
#[derive(Debug, Clone)]
pub(crate) struct Read {
    pub(crate) client: usize,
    pub(crate) key: String,
    pub(crate) context: CausalContext,
    pub(crate) siblings: Vec<(Dot, String)>,
    /// What this client knew to be replaced by then, by writes of its own that were acknowledged.
    pub(crate) gone: BTreeSet<String>,
}

/// All that clients did, in the order in which it ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    pub(crate) writes: Vec<Write>,
    pub(crate) reads: Vec<Read>,
}

/// What is there in the end: by key, values with the time at which they expire.
pub(crate) type Final = BTreeMap<String, Vec<(String, Option<u64>)>>;

/// A key by its number.
pub(crate) fn key(number: usize) -> String {
    format!("key{number}")
}

/// All keys.
pub(crate) fn keys() -> impl Iterator<Item = String> {
    (0..KEYS).map(key)
}

/// The values of what was found.
pub(crate) fn values(found: &Found) -> Vec<(Dot, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    found.siblings.iter().map(|sibling| (sibling.dot, text(&sibling.value))).collect()
}

/// One client with a session.
pub(crate) struct Worker {
    number: usize,
    session: Session,
    rng: StdRng,
    network: Network,
    history: Rc<RefCell<History>>,
    /// By key, the values that the session's context covers.
    seen: BTreeMap<String, BTreeSet<String>>,
    /// By key, values that were written since it was read.
    wrote: BTreeMap<String, BTreeSet<String>>,
    /// By key, the values that acknowledged writes of this session have replaced.
    gone: BTreeMap<String, BTreeSet<String>>,
    steps: usize,
}

impl Worker {
    pub(crate) fn new(
        number: usize,
        client: &Client,
        rng: StdRng,
        network: Network,
        history: Rc<RefCell<History>>,
    ) -> Self {
        let (seen, wrote, gone) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { number, session: client.session(), rng, network, history, seen, wrote, gone, steps: 0 }
    }

    /// Reads, puts and deletes until told to stop.
    pub(crate) async fn run(&mut self, stopped: &RefCell<bool>) {
        while !*stopped.borrow() {
            let key = key(self.rng.random_range(0..KEYS));
            match self.rng.random_range(0..10) {
                0..4 => self.read(key).await,
                4..8 => self.put(key).await,
                _ => self.delete(key).await,
            }
            self.steps += 1;
            self.network.event(&format!("client {} did step {}", self.number, self.steps));
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(1..150))).await;
        }
    }

    async fn read(&mut self, key: String) {
        // One that fails has shown nothing.
        let Ok(found) = self.session.get(key.clone()).await else { return };
        let siblings = values(&found);
        let seen = self.seen.entry(key.clone()).or_default();
        seen.extend(siblings.iter().map(|(_, value)| value.clone()));
        seen.extend(self.wrote.remove(&key).unwrap_or_default());
        let gone = self.gone.get(&key).cloned().unwrap_or_default();
        self.network.event(&format!("client {} read {key}: {siblings:?}", self.number));
        let read = Read { client: self.number, key, context: found.context, siblings, gone };
        self.history.borrow_mut().reads.push(read);
    }

    async fn put(&mut self, key: String) {
        let value = format!("{key} by client {} in step {}", self.number, self.steps);
        let ttl = self.rng.random_bool(0.2).then(|| Duration::from_millis(self.rng.random_range(500..20_000)));
        let options = PutOptions { ttl, ..PutOptions::default() };
        let done = self.session.put(key.clone(), value.clone(), options).await;
        self.wrote(key, Some(value), ttl.is_some(), done.map(drop));
    }

    async fn delete(&mut self, key: String) {
        // One without a context would replace what this client has not seen.
        if self.session.context(key.as_bytes()).is_empty() {
            return;
        }
        let done = self.session.delete(key.clone(), PutOptions::default()).await;
        self.wrote(key, None, false, done.map(drop));
    }

    fn wrote(&mut self, key: String, value: Option<String>, expires: bool, done: Result<(), ClientError>) {
        let seen = self.seen.entry(key.clone()).or_default();
        let wrote = self.wrote.entry(key.clone()).or_default();
        let outcome = match &done {
            Ok(()) => Outcome::Acknowledged,
            Err(error) if error.may_have_applied() => Outcome::Unknown,
            Err(_) => Outcome::Refused,
        };
        let (seen_now, wrote_now) = (seen.clone(), wrote.clone());
        let write =
            Write { key: key.clone(), value: value.clone(), expires, seen: seen_now, wrote: wrote_now, outcome };
        if outcome == Outcome::Acknowledged {
            self.gone.entry(key).or_default().extend(seen.iter().cloned());
            wrote.extend(value);
        }
        self.network.event(&format!("client {}: {write:?}, {done:?}", self.number));
        self.history.borrow_mut().writes.push(write);
    }
}
