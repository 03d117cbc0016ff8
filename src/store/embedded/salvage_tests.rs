//! Damaged tables: what can be read is read, what cannot is told and can be overwritten, and nothing wrong is ever given.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use crate::env::Env;
use crate::limits;
use crate::store::Durability;
use crate::store::Engine;
use crate::store::Health;
use crate::store::Mutation;
use crate::store::OpenError;
use crate::store::Slot;
use crate::store::StoreConfig;
use crate::store::StoreError;
use crate::store::UNREADABLE;
use crate::store::contract::eventually;
use crate::store::contract::identity;
use crate::store::contract::put;
use crate::store::contract::slot;
use crate::store::embedded::tests::killed;
use crate::store::embedded::tests::open;
use crate::types::Bucket;

const RECORDS: u32 = 240;

fn record(n: u32) -> (Slot, Bytes) {
    let text = format!("the value of record {n:03} ");
    (slot(1, format!("{n:03}")), text.repeat(30).into())
}

/// Stores records in tables, some of them written again later, and flips a bit in the middle of one.
async fn damaged(path: &Path) -> Engine {
    let engine = open(path, Durability::EveryBatch).await;
    let put_record = |n: u32| {
        let (slot, value) = record(n);
        Mutation::Put { slot, value }
    };
    for first in (0..RECORDS).step_by(20) {
        engine.write(engine.epoch(), (first..first + 20).map(put_record).collect()).await.unwrap();
    }
    for n in 0..40u32 {
        engine.write(engine.epoch(), vec![put(2, n.to_be_bytes(), vec![7; 4000])]).await.unwrap();
    }
    engine.close().await.unwrap();
    let mut flipped = false;
    for file in fs::read_dir(path.join("db/keyspaces/1/tables")).unwrap() {
        let file = file.unwrap().path();
        let mut bytes = fs::read(&file).unwrap();
        let wanted = b"the value of record 042";
        if let Some(at) = bytes.windows(wanted.len()).position(|window| window == wanted) {
            bytes[at] ^= 1;
            fs::write(&file, bytes).unwrap();
            flipped = true;
        }
    }
    assert!(flipped, "the record is in no table");
    open(path, Durability::EveryBatch).await
}

/// All pages of the bucket, with the damaged places they told.
async fn scan(engine: &Engine, limit: usize) -> (BTreeMap<Bytes, Bytes>, u64) {
    let (mut found, mut places, mut after) = (BTreeMap::new(), 0, None::<Bytes>);
    loop {
        let page = engine.scan(Bucket(1), b"", after.as_deref(), limit, limits::SCAN_PAGE_BYTES).await.unwrap();
        assert!(page.items.len() <= limit);
        places += page.damaged;
        after = page.items.last().map(|(key, _)| key.clone()).or(after);
        let count = found.len() + page.items.len();
        found.extend(page.items);
        assert_eq!(found.len(), count, "a key came twice");
        if !page.more {
            return (found, places);
        }
    }
}

#[tokio::test]
async fn a_damaged_place_costs_the_records_in_it_only_and_writing_them_anew_repairs_them() {
    let dir = tempfile::tempdir().unwrap();
    let engine = damaged(dir.path()).await;
    let (slots, values): (Vec<Slot>, Vec<Bytes>) = (0..RECORDS).map(record).unzip();
    let read = engine.get_many(&slots).await.unwrap();
    let lost: Vec<usize> = (0..slots.len()).filter(|at| read[*at] == Some(UNREADABLE)).collect();
    assert!(lost.contains(&42) && lost.len() < 20, "{lost:?}");
    for (at, read) in read.iter().enumerate().filter(|(at, _)| !lost.contains(at)) {
        assert_eq!(read.as_ref(), Some(&values[at]), "{at}");
    }
    for limit in [1, 7, 100, 1000] {
        let (found, places) = scan(&engine, limit).await;
        assert!(places > 0, "nobody was told");
        for (at, slot) in slots.iter().enumerate() {
            assert_eq!(found.get(&slot.key), Some(&values[at]).filter(|_| !lost.contains(&at)), "{at}, limit {limit}");
        }
    }
    let put = |at: &usize| Mutation::Put { slot: slots[*at].clone(), value: values[*at].clone() };
    engine.write(engine.epoch(), lost.iter().map(put).collect()).await.unwrap();
    let all: Vec<_> = values.iter().cloned().map(Some).collect();
    assert_eq!(engine.get_many(&slots).await.unwrap(), all);
    let (found, _) = scan(&engine, 7).await;
    assert_eq!(found.into_values().collect::<Vec<_>>(), values);
    assert!(engine.size().await.unwrap().keys > 0);
    assert_eq!(engine.delete_bucket(Bucket(1)).await.unwrap(), u64::from(RECORDS));
    assert_eq!(scan(&engine, 7).await.0.len(), 0);
}

/// What memory still knows of a record must not pass for what the files have lost.
#[tokio::test]
async fn a_scan_that_meets_damage_forgets_what_memory_held_of_the_bucket() {
    let dir = tempfile::tempdir().unwrap();
    let engine = damaged(dir.path()).await;
    let Engine::Embedded(embedded) = &engine else { panic!("another engine") };
    let (lost, value) = record(42);
    let recent = &embedded.core.recent;
    recent.keep(&lost, &Some(value.clone()), recent.note(&lost));
    assert_eq!(engine.get_many(std::slice::from_ref(&lost)).await.unwrap(), [Some(value)]);
    scan(&engine, 100).await;
    assert_eq!(engine.get_many(&[lost]).await.unwrap(), [Some(UNREADABLE)]);
}

/// A table with a damaged place cannot be merged with others.
#[tokio::test]
async fn a_damaged_table_that_has_to_be_merged_has_the_storage_written_anew_under_another_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let engine = damaged(dir.path()).await;
    let (epoch, mut numbers) = (engine.epoch(), 0..100_000u32);
    let (mut stored, mut refused) = (Vec::new(), 0);
    // Until after it was written anew, and then as much again.
    let mut left = None;
    while left != Some(0) {
        let n = numbers.next().expect("the table was never merged");
        let (slot, value) = (slot(1 + n % 2, format!("new {n:05}")), Bytes::from(vec![7; 3000]));
        match engine.write(engine.epoch(), vec![Mutation::Put { slot: slot.clone(), value: value.clone() }]).await {
            Ok(()) => stored.push(slot),
            Err(error) => {
                assert!(!matches!(error, StoreError::Full(_)), "{error}");
                refused += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        left = left.map(|left| left - 1).or_else(|| (engine.epoch() != epoch).then_some(n));
    }
    assert!(refused > 0, "nobody was told");
    assert_eq!(engine.rebuilds(), 1, "nobody counted");
    eventually("it is well", async || engine.health() == Health::Ok).await;
    // All that was acknowledged is there, but for what the damage took.
    assert!(engine.get_many(&stored).await.unwrap().iter().all(Option::is_some));
    let (slots, values): (Vec<Slot>, Vec<Bytes>) = (0..RECORDS).map(record).unzip();
    let read = engine.get_many(&slots).await.unwrap();
    let lost: Vec<usize> = (0..slots.len()).filter(|at| read[*at].is_none()).collect();
    assert!(lost.contains(&42) && lost.len() < 20, "{lost:?}");
    for (at, read) in read.iter().enumerate().filter(|(at, _)| !lost.contains(at)) {
        assert_eq!(read.as_ref(), Some(&values[at]), "{at}");
    }
    assert_eq!(scan(&engine, 100).await.1, 0, "a damaged place is left");
    let renewed = engine.epoch();
    engine.close().await.unwrap();
    let engine = open(dir.path(), Durability::EveryBatch).await;
    assert_eq!(engine.epoch(), renewed);
    assert_eq!(engine.get_many(&slots).await.unwrap(), read);
    assert_eq!(fs::read_dir(dir.path()).unwrap().flatten().filter(|entry| entry.path().is_dir()).count(), 1);
}

/// Flips, cuts and removes each file of the tables, in places from its head to its foot. Whatever the engine makes of it, it
/// gives no record another value, and no record for missing of which it was not told.
#[tokio::test]
async fn whatever_is_damaged_a_record_is_what_it_was_or_is_told_to_be_lost() {
    let dir = tempfile::tempdir().unwrap();
    let engine = damaged(dir.path()).await;
    let (slots, values): (Vec<Slot>, Vec<Bytes>) = (0..RECORDS).map(record).unzip();
    let before = engine.get_many(&slots).await.unwrap().iter().flatten().filter(|read| **read == UNREADABLE).count();
    engine.close().await.unwrap();
    let tables = || fs::read_dir(dir.path().join("db/keyspaces/1/tables")).unwrap().map(|file| file.unwrap().path());
    let whole: BTreeMap<_, _> = tables().map(|path| (path.clone(), fs::read(&path).unwrap())).collect();
    let (mut refused, mut most) = (0, 0);
    for (file, bytes) in &whole {
        let at = |part: usize| bytes.len() * part / 8;
        let flipped = |place: usize| {
            let mut bytes = bytes.clone();
            bytes[place.min(whole[file].len() - 1)] ^= 0x10;
            Some(bytes)
        };
        let cut = |length: usize| Some(bytes[..length].to_vec());
        let cases = (0..=8).map(|part| flipped(at(part))).chain([cut(0), cut(at(4)), cut(bytes.len() - 1), None]);
        for (case, changed) in cases.enumerate() {
            let copy = killed(dir.path());
            let target = copy.path().join(file.strip_prefix(dir.path()).unwrap());
            match changed {
                Some(changed) => fs::write(&target, changed).unwrap(),
                None => fs::remove_file(&target).unwrap(),
            }
            let config = StoreConfig::Embedded {
                path: copy.path().to_owned(),
                durability: Durability::EveryBatch,
                cache_bytes: 1 << 20,
            };
            let engine = match Engine::open(&config, &identity("n1"), &Env::real()).await {
                Ok((engine, _)) => engine,
                Err(error) => {
                    assert!(matches!(error, OpenError::Damaged { .. }), "case {case}: {error}");
                    refused += 1;
                    continue;
                }
            };
            match engine.get_many(&slots).await {
                Ok(read) => {
                    most = most.max(read.iter().flatten().filter(|read| **read == UNREADABLE).count());
                    for (at, read) in read.iter().enumerate() {
                        let read = read.as_ref().unwrap_or_else(|| panic!("case {case}: {at} is missing"));
                        assert!(*read == values[at] || *read == UNREADABLE, "case {case}: {at} is wrong");
                    }
                }
                Err(error) => assert!(matches!(error, StoreError::Damaged(_)), "case {case}: {error}"),
            }
        }
    }
    assert!(refused > 0 && most > before, "{refused} storages were refused, at most {most} records told to be lost");
}
