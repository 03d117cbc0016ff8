//! A flipped bit in a table: what can be read is read, what cannot is told and can be overwritten.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bytes::Bytes;

use crate::limits;
use crate::store::Durability;
use crate::store::Engine;
use crate::store::Health;
use crate::store::Mutation;
use crate::store::Slot;
use crate::store::StoreError;
use crate::store::UNREADABLE;
use crate::store::contract::eventually;
use crate::store::contract::put;
use crate::store::contract::slot;
use crate::store::embedded::tests::open;
use crate::types::PartitionId;

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

/// All pages of the partition, with the damaged places they told.
async fn scan(engine: &Engine, limit: usize) -> (BTreeMap<Bytes, Bytes>, u64) {
    let (mut found, mut places, mut after) = (BTreeMap::new(), 0, None::<Bytes>);
    loop {
        let page = engine.scan(PartitionId(1), b"", after.as_deref(), limit, limits::SCAN_PAGE_BYTES).await.unwrap();
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
    assert_eq!(engine.delete_partition(PartitionId(1)).await.unwrap(), u64::from(RECORDS));
    assert_eq!(scan(&engine, 7).await.0.len(), 0);
}

/// What memory still knows of a record must not pass for what the files have lost.
#[tokio::test]
async fn a_scan_that_meets_damage_forgets_what_memory_held_of_the_partition() {
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

/// The limit of all this: a table with a damaged place cannot be merged with others.
#[tokio::test]
async fn a_damaged_table_that_has_to_be_merged_ends_writing_aloud_and_what_can_be_read_stays_so() {
    let dir = tempfile::tempdir().unwrap();
    let engine = damaged(dir.path()).await;
    let mut tries = 0..10_000u32;
    let refused = loop {
        let n = tries.next().expect("the table was never merged");
        let puts = vec![put(1 + n % 2, format!("new {n:05}"), vec![7; 3000])];
        if let Err(error) = engine.write(engine.epoch(), puts).await {
            break error;
        }
    };
    assert!(matches!(refused, StoreError::ReadOnly(_) | StoreError::Unavailable(_)), "{refused}");
    assert_ne!(engine.health(), Health::Ok);
    let ((good, value), (lost, _)) = (record(142), record(42));
    eventually("reads go on", async || {
        engine.get_many(&[good.clone(), lost.clone()]).await == Ok(vec![Some(value.clone()), Some(UNREADABLE)])
    })
    .await;
}
