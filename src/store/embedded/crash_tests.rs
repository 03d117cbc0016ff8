//! Power cuts at random moments: what was acknowledged as durable survives, batches are whole, epochs tell the truth.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::env::Env;
use crate::store::Durability;
use crate::store::EmbeddedOptions;
use crate::store::Engine;
use crate::store::MemoFile;
use crate::store::Mutation;
use crate::store::OpenDisk;
use crate::store::contract;
use crate::store::contract::SeededWorld;
use crate::store::embedded::sim_disk::SimDisk;

type Contents = BTreeMap<(u32, Bytes), Bytes>;

struct Machine {
    seed: u64,
    rng: StdRng,
    env: Env,
    disk: Arc<SimDisk>,
    memo: MemoFile,
    options: EmbeddedOptions,
}

impl Machine {
    fn new(seed: u64, durability: Durability) -> Self {
        Self {
            seed,
            rng: StdRng::seed_from_u64(seed),
            env: SeededWorld::env(seed),
            disk: Arc::new(SimDisk::new(seed)),
            memo: MemoFile::in_memory(),
            options: EmbeddedOptions { durability, cache_bytes: 256 * 1024 },
        }
    }

    async fn open(&self) -> Engine {
        let disk = OpenDisk::shared(self.disk.clone());
        let identity = contract::identity("n1");
        let opened = Engine::open_on_backend(disk, self.memo.clone(), self.options, &identity, &self.env).await;
        opened.unwrap_or_else(|error| panic!("seed {}: {error}", self.seed)).0
    }

    fn batch(&mut self) -> Vec<Mutation> {
        let rng = &mut self.rng;
        let mut change = || {
            let (partition, key) = (rng.random_range(0..4), format!("k{}", rng.random_range(0..24)));
            if rng.random_bool(0.2) {
                return contract::delete(partition, key);
            }
            contract::put(partition, key, vec![rng.random::<u8>(); rng.random_range(0..3000)])
        };
        (0..5).map(|_| change()).collect()
    }

    /// Writes until the power goes, then switches it on again. Returns what the storage held at the beginning and
    /// after each batch; the last may have been under way. The number is that of the acknowledged ones.
    async fn run_until_power_cut(&mut self, engine: Engine) -> (Vec<Contents>, usize) {
        let mut history = vec![contract::contents(&engine).await];
        let mut acknowledged = 0;
        self.disk.cut_power_after(self.rng.random_range(1..400));
        loop {
            let batch = self.batch();
            let mut next = history[history.len() - 1].clone();
            for mutation in &batch {
                let slot = (mutation.slot().partition.0, mutation.slot().key.clone());
                match mutation {
                    Mutation::Put { value, .. } => drop(next.insert(slot, value.clone())),
                    Mutation::Delete { .. } => drop(next.remove(&slot)),
                }
            }
            history.push(next);
            if engine.write(engine.epoch(), batch).await.is_err() {
                break;
            }
            acknowledged += 1;
            if self.rng.random_bool(0.1) {
                tokio::time::advance(Duration::from_millis(60)).await;
                tokio::task::yield_now().await;
            }
        }
        drop(engine);
        self.disk.power_on();
        (history, acknowledged)
    }
}

/// What a run of crashes found wrong, if anything.
async fn crash(seed: u64, durability: Durability) -> Result<(), String> {
    let mut machine = Machine::new(seed, durability);
    let mut engine = machine.open().await;
    for round in 0..4 {
        let epoch = engine.epoch();
        let (history, acknowledged) = machine.run_until_power_cut(engine).await;
        engine = machine.open().await;
        let found = contract::contents(&engine).await;
        let here = |what: &str| format!("seed {seed}, round {round}: {what}");
        if durability == Durability::EveryBatch {
            if !history[acknowledged..].contains(&found) {
                return Err(here("an acknowledged write is gone, or a batch is in part"));
            }
            if engine.epoch() != epoch {
                return Err(here("the epoch changed although nothing was lost"));
            }
        } else {
            if !history.contains(&found) {
                return Err(here("the storage holds what it never held"));
            }
            if engine.epoch() == epoch {
                return Err(here("the epoch stayed although writes may be lost"));
            }
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn acknowledged_batches_survive_power_cuts_and_keep_the_epoch() {
    for seed in 0..20 {
        crash(seed, Durability::EveryBatch).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_power_cut_an_unsynced_storage_is_an_older_one_with_a_new_epoch() {
    for seed in 0..10 {
        crash(seed, Durability::Interval(Duration::from_millis(50))).await.unwrap();
        crash(seed, Durability::Off).await.unwrap();
    }
}

/// The control: the check above does find lost writes when there are some.
#[tokio::test(start_paused = true)]
async fn a_disk_that_lies_about_syncing_is_found_out() {
    let mut caught = 0;
    for seed in 0..10 {
        let mut machine = Machine::new(seed, Durability::EveryBatch);
        let engine = machine.open().await;
        machine.disk.lie();
        let (history, acknowledged) = machine.run_until_power_cut(engine).await;
        let disk = OpenDisk::shared(machine.disk.clone());
        let identity = contract::identity("n1");
        let opened = Engine::open_on_backend(disk, machine.memo.clone(), machine.options, &identity, &machine.env);
        // A disk so broken that it does not open, or panics, is no success of the check: only a loss counts.
        if let Ok((engine, _)) = opened.await
            && !history[acknowledged..].contains(&contract::contents(&engine).await)
        {
            caught += 1;
        }
    }
    assert!(caught > 0, "no loss was found");
}
