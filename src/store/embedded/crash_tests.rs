//! Power cuts at random moments: what was synced survives, batches are whole, epochs tell the truth.
//!
//! A power cut is made from a copy of the files: the journal ends at a random place behind what was synced, and the
//! batch that lies there is torn as disks tear it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::env::Env;
use crate::store::Durability;
use crate::store::Engine;
use crate::store::Mutation;
use crate::store::StoreConfig;
use crate::store::contract;
use crate::store::embedded::journal;
use crate::store::embedded::tests::killed;

type Contents = BTreeMap<(u32, Bytes), Bytes>;

/// Never within a test.
const SELDOM: Durability = Durability::Interval(Duration::from_secs(3600));

struct Machine {
    seed: u64,
    rng: StdRng,
    durability: Durability,
    cache_bytes: usize,
    dir: tempfile::TempDir,
}

/// A session: what the storage held at first and after each batch, and how long the journal was then.
struct History {
    states: Vec<Contents>,
    ends: Vec<u64>,
    /// Batches that had been synced.
    synced: usize,
}

impl Machine {
    fn new(seed: u64, durability: Durability) -> Self {
        // Half of the machines write tables all the time, half never.
        let cache_bytes = if seed.is_multiple_of(2) { 1 << 20 } else { 64 << 20 };
        let dir = tempfile::tempdir().unwrap();
        Self { seed, rng: StdRng::seed_from_u64(seed), durability, cache_bytes, dir }
    }

    async fn open(&self, path: &Path) -> Engine {
        let (path, durability) = (path.to_owned(), self.durability);
        let config = StoreConfig::Embedded { path, durability, cache_bytes: self.cache_bytes };
        let opened = Engine::open(&config, &contract::identity("n1"), &Env::real()).await;
        opened.unwrap_or_else(|error| panic!("seed {}: {error}", self.seed)).0
    }

    fn journal(&self, path: &Path) -> PathBuf {
        journal::journals(&path.join("db")).unwrap().pop().unwrap()
    }

    fn batch(&mut self) -> Vec<Mutation> {
        let rng = &mut self.rng;
        let mut change = || {
            let (bucket, key) = (rng.random_range(0..4), format!("k{}", rng.random_range(0..24)));
            if rng.random_bool(0.2) {
                return contract::delete(bucket, key);
            }
            // Some of them are long enough to be kept apart from their keys.
            contract::put(bucket, key, vec![rng.random::<u8>(); rng.random_range(0..6000)])
        };
        (0..5).map(|_| change()).collect()
    }

    async fn run(&mut self, engine: &Engine, batches: usize) -> History {
        let path = self.dir.path().to_owned();
        let mut history = History {
            states: vec![contract::contents(engine).await],
            ends: vec![journal::walk(&self.journal(&path), None).unwrap()],
            synced: 0,
        };
        for number in 1..=batches {
            let batch = self.batch();
            let mut next = history.states[number - 1].clone();
            for mutation in &batch {
                let slot = (mutation.slot().bucket.0, mutation.slot().key.clone());
                match mutation {
                    Mutation::Put { value, .. } => drop(next.insert(slot, value.clone())),
                    Mutation::Delete { .. } => drop(next.remove(&slot)),
                }
            }
            engine.write(engine.epoch(), batch).await.unwrap();
            history.states.push(next);
            history.ends.push(journal::walk(&self.journal(&path), None).unwrap());
            if self.durability == Durability::EveryBatch {
                history.synced = number;
            } else if self.rng.random_bool(0.1) {
                engine.flush().await.unwrap();
                history.synced = number;
            }
        }
        history
    }

    /// Ends the copy's journal at `cut`, with remains of what was written behind.
    fn tear(&mut self, copy: &Path, cut: u64) {
        let path = self.journal(copy);
        let whole = fs::read(&path).unwrap();
        let cut = usize::try_from(cut).unwrap();
        let remains = self.rng.random_range(0..9000).min(whole.len() - cut);
        let mut torn = whole[..cut + remains].to_vec();
        let tail = &mut torn[cut..];
        match self.rng.random_range(0..4) {
            // Nothing of it arrived.
            0 => tail.fill(0),
            // A page in the middle did not.
            1 => {
                let hole = self.rng.random_range(0..=tail.len() / 2)..tail.len().div_ceil(2);
                tail[hole.start.min(hole.end)..hole.end].fill(0);
                if let Some(first) = tail.first_mut() {
                    *first = !*first;
                }
            }
            2 => self.rng.fill(tail),
            _ => torn.truncate(cut),
        }
        fs::write(path, torn).unwrap();
    }
}

/// A power cut while unsynced batches are in the journal: their end is lost, torn, or overwritten with garbage.
async fn cut_power(seed: u64) {
    let mut machine = Machine::new(seed, SELDOM);
    let mut engine = machine.open(machine.dir.path()).await;
    for round in 0..2 {
        let here = format!("seed {seed}, round {round}");
        let history = machine.run(&engine, 30).await;
        let copy = killed(machine.dir.path());
        let cut = machine.rng.random_range(history.ends[history.synced]..=history.ends[history.ends.len() - 1]);
        machine.tear(copy.path(), cut);
        let whole = history.ends.iter().rposition(|end| *end <= cut).unwrap();

        let after = machine.open(copy.path()).await;
        let found = contract::contents(&after).await;
        assert!(history.states[whole..].contains(&found), "{here}: a batch before the cut is gone, or one is in part");
        if machine.cache_bytes > 1 << 20 {
            assert_eq!(found, history.states[whole], "{here}: something behind the cut came back");
        }
        assert_ne!(after.epoch(), engine.epoch(), "{here}: the epoch stayed although writes may be lost");
        drop(engine);
        (machine.dir, engine) = (copy, after);
    }
}

/// A sudden end while a batch is being written, every earlier one being synced.
async fn tear_last_batch(seed: u64) {
    let mut machine = Machine::new(seed, Durability::EveryBatch);
    let mut engine = machine.open(machine.dir.path()).await;
    for round in 0..2 {
        let here = format!("seed {seed}, round {round}");
        let batches = machine.rng.random_range(2..25);
        let history = machine.run(&engine, batches).await;
        let copy = killed(machine.dir.path());
        let path = machine.journal(copy.path());
        // As if the last batch had not been acknowledged yet; it is whole with luck.
        let acknowledged = batches - 1;
        let (begin, end) = (history.ends[acknowledged], history.ends[batches]);
        let mut bytes = fs::read(&path).unwrap();
        let range = usize::try_from(begin).unwrap()..usize::try_from(end).unwrap();
        let hole = machine.rng.random_range(range.clone());
        let length = machine.rng.random_range(1..5000);
        bytes[hole..(hole + length).min(range.end)].fill(0);
        fs::write(&path, bytes).unwrap();

        let after = machine.open(copy.path()).await;
        let found = contract::contents(&after).await;
        assert!(history.states[acknowledged..].contains(&found), "{here}: an acknowledged batch is gone or in part");
        assert_eq!(after.epoch(), engine.epoch(), "{here}: the epoch changed although nothing was lost");
        drop(engine);
        (machine.dir, engine) = (copy, after);
    }
}

#[tokio::test]
async fn after_a_power_cut_an_unsynced_storage_is_an_older_one_with_a_new_epoch() {
    for seed in 0..12 {
        cut_power(seed).await;
    }
}

#[tokio::test]
async fn a_torn_batch_is_forgotten_and_every_acknowledged_one_survives() {
    for seed in 0..12 {
        tear_last_batch(seed).await;
    }
}

/// The control: the checks above do find synced writes that are gone, as after a disk that lied about syncing.
#[tokio::test]
async fn a_journal_that_lost_synced_batches_is_found_out() {
    for seed in [1, 3, 5] {
        let mut machine = Machine::new(seed, Durability::EveryBatch);
        let engine = machine.open(machine.dir.path()).await;
        let history = machine.run(&engine, 10).await;
        let copy = killed(machine.dir.path());
        let lost = machine.rng.random_range(1..10);
        machine.tear(copy.path(), history.ends[lost] - 1);
        let found = contract::contents(&machine.open(copy.path()).await).await;
        assert!(!history.states[lost..].contains(&found), "seed {seed}: the loss was not seen");
    }
}

#[tokio::test]
async fn a_damaged_place_in_the_journal_costs_the_epoch_but_not_the_storage() {
    let mut machine = Machine::new(1, Durability::EveryBatch);
    let engine = machine.open(machine.dir.path()).await;
    let history = machine.run(&engine, 10).await;
    let copy = killed(machine.dir.path());
    let path = machine.journal(copy.path());
    let mut bytes = fs::read(&path).unwrap();
    bytes[usize::try_from(history.ends[4]).unwrap()] ^= 0x40;
    fs::write(&path, bytes).unwrap();
    let after = machine.open(copy.path()).await;
    assert_eq!(contract::contents(&after).await, history.states[4]);
    assert_ne!(after.epoch(), engine.epoch());
}
