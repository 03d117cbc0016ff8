//! Disks that fill up, fail and come back under a running engine.

use std::sync::Arc;
use std::time::Duration;

use crate::env::Env;
use crate::store::Durability;
use crate::store::EmbeddedOptions;
use crate::store::Engine;
use crate::store::Health;
use crate::store::MemoFile;
use crate::store::OpenDisk;
use crate::store::StoreError;
use crate::store::contract;
use crate::store::contract::SeededWorld;
use crate::store::contract::eventually;
use crate::store::contract::get;
use crate::store::contract::put;
use crate::store::contract::slot;
use crate::store::embedded::sim_disk::SimDisk;

struct Bench {
    env: Env,
    disk: Arc<SimDisk>,
    memo: MemoFile,
}

impl Bench {
    fn new() -> Self {
        Self { env: SeededWorld::env(1), disk: Arc::new(SimDisk::new(1)), memo: MemoFile::in_memory() }
    }

    async fn open(&self, durability: Durability) -> Engine {
        let options = EmbeddedOptions { durability, cache_bytes: 64 * 1024 };
        let disk = OpenDisk::shared(self.disk.clone());
        let identity = contract::identity("n1");
        Engine::open_on_backend(disk, self.memo.clone(), options, &identity, &self.env).await.unwrap().0
    }
}

/// Writes until the storage refuses; returns how many records are in and the refusal.
async fn fill(engine: &Engine) -> (u32, StoreError) {
    for n in 0..1000u32 {
        let batch = vec![put(2, n.to_be_bytes(), vec![1; 50_000]), put(3, n.to_be_bytes(), "twin")];
        if let Err(error) = engine.write(engine.epoch(), batch).await {
            return (n, error);
        }
    }
    panic!("the disk never filled up");
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_reads_on_keeps_what_it_acknowledged_and_comes_back_by_itself() {
    let bench = Bench::new();
    let engine = bench.open(Durability::EveryBatch).await;
    let epoch = engine.epoch();
    engine.write(epoch, vec![put(1, "before", "x")]).await.unwrap();
    bench.disk.limit_room(3_000_000);
    let (count, error) = fill(&engine).await;
    assert!(matches!(error, StoreError::Full(_)), "{error}");
    assert!(matches!(engine.health(), Health::ReadOnly { .. }), "{:?}", engine.health());
    assert!(get(&engine, 1, "before").await.is_some());
    for n in 0..count {
        assert!(get(&engine, 2, n.to_be_bytes()).await.is_some(), "record {n} of {count}");
    }
    let refused = [slot(2, count.to_be_bytes()), slot(3, count.to_be_bytes())];
    assert_eq!(engine.get_many(&refused).await.unwrap(), vec![None, None], "a refused batch was written");
    assert!(matches!(engine.write(epoch, vec![put(1, "tiny", "x")]).await, Err(StoreError::Full(_))));

    bench.disk.limit_room(100_000_000);
    eventually("the storage is well", async || engine.health() == Health::Ok).await;
    engine.write(epoch, vec![put(1, "after", "x")]).await.unwrap();
    assert_eq!(engine.epoch(), epoch, "nothing was lost, so the epoch stays");
}

#[tokio::test(start_paused = true)]
async fn unsynced_writes_that_a_full_disk_loses_renew_the_epoch() {
    let bench = Bench::new();
    let engine = bench.open(Durability::Interval(Duration::from_secs(3600))).await;
    let epoch = engine.epoch();
    engine.write(epoch, vec![put(1, "synced", "x")]).await.unwrap();
    engine.flush().await.unwrap();
    bench.disk.limit_room(1_000_000);
    let (count, error) = fill(&engine).await;
    assert!(matches!(error, StoreError::Full(_)), "{error}");
    let lost = get(&engine, 2, (count - 1).to_be_bytes()).await.is_none();
    assert!(lost, "this case lost nothing and so proves nothing");
    assert_ne!(engine.epoch(), epoch);
    assert!(get(&engine, 1, "synced").await.is_some());

    bench.disk.limit_room(100_000_000);
    eventually("the storage is well", async || engine.health() == Health::Ok).await;
    assert_eq!(engine.write(epoch, vec![put(1, "old", "x")]).await, Err(StoreError::EpochChanged));
    engine.write(engine.epoch(), vec![put(1, "new", "x")]).await.unwrap();
    let renewed = engine.epoch();
    engine.close().await.unwrap();
    assert_eq!(bench.open(Durability::EveryBatch).await.epoch(), renewed);
}

#[tokio::test(start_paused = true)]
async fn a_bad_read_fails_one_call_and_is_mended() {
    let bench = Bench::new();
    let engine = bench.open(Durability::EveryBatch).await;
    for n in 0..100u32 {
        engine.write(engine.epoch(), vec![put(1, n.to_be_bytes(), vec![3; 20_000])]).await.unwrap();
    }
    let epoch = engine.epoch();
    bench.disk.fail_reads(1);
    let slots: Vec<_> = (0..100u32).map(|n| slot(1, n.to_be_bytes())).collect();
    let result = engine.get_many(&slots).await;
    assert!(matches!(result, Err(StoreError::Unavailable(_))), "the cache holds too much for this test: {result:?}");
    assert!(engine.get_many(&slots).await.unwrap().iter().all(Option::is_some));
    assert_eq!((engine.health(), engine.epoch()), (Health::Ok, epoch));
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_is_gone_is_down_and_used_again_when_it_is_back() {
    let bench = Bench::new();
    let engine = bench.open(Durability::EveryBatch).await;
    let epoch = engine.epoch();
    engine.write(epoch, vec![put(1, "a", "x")]).await.unwrap();
    bench.disk.cut_power_after(0);
    assert!(matches!(engine.write(epoch, vec![put(1, "b", "x")]).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(engine.health(), Health::Down { .. }), "{:?}", engine.health());
    assert!(matches!(engine.get_many(&[slot(1, "a")]).await, Err(StoreError::Unavailable(_))));
    bench.disk.power_on();
    eventually("the storage is well", async || engine.health() == Health::Ok).await;
    assert!(get(&engine, 1, "a").await.is_some());
    assert_eq!(engine.epoch(), epoch);
}

#[tokio::test(start_paused = true)]
async fn a_copy_from_earlier_in_the_same_run_is_told_by_the_memo() {
    let bench = Bench::new();
    let engine = bench.open(Durability::EveryBatch).await;
    let epoch = engine.epoch();
    let copy = bench.disk.image();
    engine.write(epoch, vec![put(1, "a", "x")]).await.unwrap();
    tokio::time::sleep(crate::limits::STORE_MEMO_INTERVAL * 2).await;
    bench.disk.cut_power_after(0);
    drop(engine);
    bench.disk.power_on();
    bench.disk.restore(copy);
    assert_ne!(bench.open(Durability::EveryBatch).await.epoch(), epoch);
}
