//! The simulated engine keeps the contract of all engines, and its disk has each of its faults.

use super::*;
use crate::store::Engine;
use crate::store::UNREADABLE;
use crate::store::contract::check;
use crate::store::contract::check_reopening;
use crate::store::contract::contents;
use crate::store::contract::eventually;
use crate::store::contract::get;
use crate::store::contract::identity;
use crate::store::contract::put;
use crate::store::contract::slot;

const INTERVAL: Durability = Durability::Interval(Duration::from_millis(100));

fn open(disk: &Disk, durability: Durability) -> Engine {
    Engine::Simulated(Simulated::open(disk, durability, &identity("n1"), &Env::real()).unwrap().0)
}

/// Writes batches of two records each, numbered; returns how many were acknowledged.
async fn batches(engine: &Engine, count: u32) -> u32 {
    let mut acknowledged = 0;
    for number in 0..count {
        let batch = vec![put(1, format!("{number:03}"), "a"), put(2, format!("{number:03}"), "b")];
        acknowledged += u32::from(engine.write(engine.epoch(), batch).await.is_ok());
    }
    acknowledged
}

/// How many batches are there; they must be whole, and the first ones.
async fn prefix(engine: &Engine) -> u32 {
    let all = contents(engine).await;
    let count = u32::try_from(all.len() / 2).unwrap();
    for number in 0..count {
        for bucket in [1, 2] {
            assert!(all.contains_key(&(bucket, format!("{number:03}").into())), "batch {number} of {count}");
        }
    }
    assert_eq!(all.len() % 2, 0, "half a batch is there");
    count
}

#[tokio::test(start_paused = true)]
async fn it_keeps_the_contract_at_every_durability_slow_or_not() {
    for durability in [Durability::Off, INTERVAL, Durability::EveryBatch] {
        let disk = Disk::new([1; 32]);
        check(&open(&disk, durability)).await;
        let disk = Disk::new([2; 32]);
        disk.set_faults(DiskFaults {
            slow: Some((Duration::from_millis(1), Duration::from_millis(9))),
            ..DiskFaults::default()
        });
        check(&open(&disk, durability)).await;
        let disk = Disk::new([3; 32]);
        check_reopening(async || open(&disk, durability)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_leaves_each_beginning_of_what_was_not_synced_and_all_of_what_was() {
    let mut left = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let disk = Disk::new([seed; 32]);
        let engine = open(&disk, Durability::Off);
        let before = engine.epoch();
        batches(&engine, 3).await;
        engine.flush().await.unwrap();
        batches(&engine, 8).await;
        disk.power_cut();
        assert!(matches!(engine.get_many(&[]).await, Err(StoreError::Unavailable(_))), "a dead process reads");
        let again = open(&disk, Durability::Off);
        left.insert(prefix(&again).await);
        assert_ne!(again.epoch(), before);
    }
    assert_eq!(left, (3..=8).collect());
}

#[tokio::test(start_paused = true)]
async fn synced_batches_survive_a_power_cut_and_of_others_only_the_last_interval_goes() {
    for seed in 0..20 {
        let disk = Disk::new([seed; 32]);
        let engine = open(&disk, Durability::EveryBatch);
        assert_eq!(batches(&engine, 10).await, 10);
        disk.power_cut();
        assert_eq!(prefix(&open(&disk, Durability::EveryBatch)).await, 10);

        let disk = Disk::new([seed; 32]);
        let engine = open(&disk, INTERVAL);
        batches(&engine, 5).await;
        tokio::time::sleep(Duration::from_millis(201)).await;
        batches(&engine, 9).await;
        disk.power_cut();
        assert!(prefix(&open(&disk, INTERVAL)).await >= 5);
    }
}

#[tokio::test(start_paused = true)]
async fn what_need_not_be_synced_survives_a_power_cut_once_a_later_batch_or_a_flush_is_done() {
    let mut lost = 0;
    for seed in 0..20 {
        let disk = Disk::new([seed; 32]);
        let engine = open(&disk, Durability::EveryBatch);
        let unsynced = async |number: u32| {
            let batch = vec![put(1, format!("{number:03}"), "a"), put(2, format!("{number:03}"), "b")];
            engine.write_unsynced(engine.epoch(), batch).await.unwrap();
        };
        unsynced(0).await;
        engine.write(engine.epoch(), vec![put(1, "001", "a"), put(2, "001", "b")]).await.unwrap();
        unsynced(2).await;
        engine.flush().await.unwrap();
        unsynced(3).await;
        disk.power_cut();
        let left = prefix(&open(&disk, Durability::EveryBatch)).await;
        assert!(left >= 3, "{left} of the first three are left");
        lost += 4 - left;
    }
    assert!(lost > 0, "the last was synced by itself");
}

#[tokio::test(start_paused = true)]
async fn a_killed_process_loses_nothing_and_keeps_its_epoch_if_it_synced() {
    for (durability, stays) in [(Durability::Off, false), (INTERVAL, false), (Durability::EveryBatch, true)] {
        let disk = Disk::new([4; 32]);
        let engine = open(&disk, durability);
        let before = engine.epoch();
        batches(&engine, 4).await;
        disk.kill();
        let again = open(&disk, durability);
        assert_eq!((prefix(&again).await, again.epoch() == before), (4, stays), "{durability:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn syncs_that_lie_cost_writes_and_the_epoch() {
    let mut lost = 0;
    for seed in 0..20 {
        let disk = Disk::new([seed; 32]);
        let engine = open(&disk, Durability::EveryBatch);
        batches(&engine, 2).await;
        let before = engine.epoch();
        disk.set_faults(DiskFaults { lying_syncs: true, ..DiskFaults::default() });
        assert_eq!(batches(&engine, 8).await, 8, "a lie is believed");
        lost += disk.power_cut();
        let again = open(&disk, Durability::EveryBatch);
        assert!(prefix(&again).await >= 2);
        assert_ne!(again.epoch(), before, "dots would be given out twice");
    }
    assert!(lost > 0, "nothing was lost");
}

#[tokio::test(start_paused = true)]
async fn an_older_copy_and_an_empty_disk_get_a_new_epoch() {
    let disk = Disk::new([5; 32]);
    let engine = open(&disk, Durability::EveryBatch);
    batches(&engine, 3).await;
    engine.close().await.unwrap();
    let copy = disk.copy();
    let engine = open(&disk, Durability::EveryBatch);
    let before = engine.epoch();
    batches(&engine, 9).await;
    engine.close().await.unwrap();
    disk.put_back(copy);
    let engine = open(&disk, Durability::EveryBatch);
    assert_eq!(prefix(&engine).await, 3);
    assert_ne!(engine.epoch(), before);
    let before = engine.epoch();
    disk.lose();
    let engine = open(&disk, Durability::EveryBatch);
    assert_eq!(prefix(&engine).await, 0);
    assert_ne!(engine.epoch(), before);
}

#[tokio::test(start_paused = true)]
async fn batches_that_fail_happened_or_not_and_reads_may_fail() {
    let disk = Disk::new([6; 32]);
    let engine = open(&disk, Durability::EveryBatch);
    disk.set_faults(DiskFaults { failing_writes: 1.0, ..DiskFaults::default() });
    let mut happened = [0, 0];
    for number in 0..40 {
        let result = engine.write(engine.epoch(), vec![put(1, format!("{number}"), "x")]).await;
        assert!(matches!(result, Err(StoreError::Unavailable(_))), "{result:?}");
        happened[usize::from(get(&engine, 1, format!("{number}")).await.is_some())] += 1;
    }
    assert!(happened.iter().all(|count| *count > 5), "{happened:?}");
    disk.set_faults(DiskFaults { failing_reads: 1.0, ..DiskFaults::default() });
    assert!(matches!(engine.get_many(&[slot(1, "a")]).await, Err(StoreError::Unavailable(_))));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_writes_answers_reads_and_takes_writes_again_by_itself() {
    let disk = Disk::new([7; 32]);
    let engine = open(&disk, Durability::EveryBatch);
    batches(&engine, 2).await;
    disk.set_faults(DiskFaults { full: true, ..DiskFaults::default() });
    assert!(matches!(engine.write(engine.epoch(), vec![put(3, "x", "x")]).await, Err(StoreError::Full(_))));
    assert!(matches!(engine.health(), Health::ReadOnly { .. }));
    assert_eq!(prefix(&engine).await, 2);
    disk.set_faults(DiskFaults::default());
    eventually("it is well again", async || engine.health() == Health::Ok).await;
    engine.write(engine.epoch(), vec![put(3, "x", "x")]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn slow_calls_are_seen_as_such() {
    let disk = Disk::new([8; 32]);
    let engine = open(&disk, Durability::EveryBatch);
    disk.set_faults(DiskFaults {
        slow: Some((Duration::from_millis(400), Duration::from_secs(3))),
        ..DiskFaults::default()
    });
    batches(&engine, 10).await;
    assert!(matches!(engine.health(), Health::Slow { .. }), "{:?}", engine.health());
}

#[tokio::test(start_paused = true)]
async fn damage_is_read_as_it_lies_until_it_is_overwritten() {
    let disk = Disk::new([9; 32]);
    let engine = open(&disk, Durability::EveryBatch);
    engine.write(engine.epoch(), vec![put(1, "a", "value"), put(1, "b", "value")]).await.unwrap();
    assert!(disk.damage(&slot(1, "a"), Damage::Flipped) && disk.damage(&slot(1, "b"), Damage::Unreadable));
    assert!(!disk.damage(&slot(1, "c"), Damage::Flipped));
    let flipped = get(&engine, 1, "a").await.unwrap();
    assert_eq!(flipped.iter().zip(b"value").map(|(one, other)| (one ^ other).count_ones()).sum::<u32>(), 1);
    assert_eq!(get(&engine, 1, "b").await, Some(UNREADABLE));
    disk.power_cut();
    let engine = open(&disk, Durability::EveryBatch);
    assert_eq!(get(&engine, 1, "a").await, Some(flipped), "it did not reach the disk");
    engine.write(engine.epoch(), vec![put(1, "b", "value")]).await.unwrap();
    assert_eq!(get(&engine, 1, "b").await.unwrap(), "value");
}

#[tokio::test(start_paused = true)]
async fn somebody_elses_disk_is_not_opened() {
    let disk = Disk::new([10; 32]);
    open(&disk, Durability::EveryBatch);
    let other = Simulated::open(&disk, Durability::EveryBatch, &identity("n2"), &Env::real());
    assert!(matches!(other, Err(OpenError::Foreign { .. })));
}
