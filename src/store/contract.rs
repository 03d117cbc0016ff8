//! What every engine must do, as one suite that is run against each: see [`check`] and [`check_reopening`].

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;

use crate::env::Env;
use crate::limits;
use crate::store::Engine;
use crate::store::Health;
use crate::store::Mutation;
use crate::store::ScanPage;
use crate::store::Slot;
use crate::store::StoreError;
use crate::store::StoreIdentity;
use crate::types::Bucket;
use crate::types::ClusterName;
use crate::types::Epoch;
use crate::types::NodeName;
use crate::types::Partitions;

/// A storage's owner for tests.
pub(crate) fn identity(node: &str) -> StoreIdentity {
    StoreIdentity {
        cluster: ClusterName::new("contract").unwrap(),
        node: NodeName::new(node).unwrap(),
        buckets: Partitions::new(64).unwrap(),
    }
}

/// A slot.
pub(crate) fn slot(bucket: u32, key: impl AsRef<[u8]>) -> Slot {
    Slot { bucket: Bucket(bucket), key: Bytes::copy_from_slice(key.as_ref()) }
}

/// A put.
pub(crate) fn put(bucket: u32, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Mutation {
    Mutation::Put { slot: slot(bucket, key), value: Bytes::copy_from_slice(value.as_ref()) }
}

/// A deletion.
pub(crate) fn delete(bucket: u32, key: impl AsRef<[u8]>) -> Mutation {
    Mutation::Delete { slot: slot(bucket, key) }
}

/// Reads one record.
pub(crate) async fn get(engine: &Engine, bucket: u32, key: impl AsRef<[u8]>) -> Option<Bytes> {
    engine.get_many(&[slot(bucket, key)]).await.unwrap().remove(0)
}

/// Waits until the condition holds, at most ten seconds of the runtime's clock.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(10), pin!(waiting)).await;
    assert!(waited.is_ok(), "never came true: {what}");
}

/// Runs the whole suite against an empty engine, which is left with some records.
pub(crate) async fn check(engine: &Engine) {
    gets_answer_in_order_and_say_what_is_missing(engine).await;
    keys_and_values_may_hold_any_bytes(engine).await;
    later_changes_of_a_batch_hold(engine).await;
    batches_under_another_epoch_write_nothing(engine).await;
    misuse_is_refused_and_writes_nothing(engine).await;
    // While there are few: an engine may estimate many.
    sizes_count_records(engine).await;
    scans_are_ordered_and_paged(engine).await;
    scans_beside_writes_skip_and_repeat_nothing(engine).await;
    batches_are_seen_whole_or_not_at_all(engine).await;
    partitions_are_deleted_apart(engine).await;
    renewed_epochs_refuse_the_old(engine).await;
    engine.flush().await.unwrap();
    assert!(matches!(engine.health(), Health::Ok | Health::Slow { .. }), "{:?}", engine.health());
}

/// Checks that what `open` gives keeps records and epoch when it was closed in order.
pub(crate) async fn check_reopening<F: Future<Output = Engine>>(open: impl Fn() -> F) {
    let engine = open().await;
    let epoch = engine.epoch();
    engine.write(epoch, vec![put(1, "kept", "value"), put(2, "gone", "x")]).await.unwrap();
    engine.write(epoch, vec![delete(2, "gone")]).await.unwrap();
    let clone = engine.clone();
    engine.close().await.unwrap();
    assert!(matches!(clone.get_many(&[slot(1, "kept")]).await, Err(StoreError::Unavailable(_))));
    drop(clone);
    for _ in 0..2 {
        let engine = open().await;
        assert_eq!(engine.epoch(), epoch, "the epoch changed although the storage was closed in order");
        assert_eq!(get(&engine, 1, "kept").await.as_deref(), Some(&b"value"[..]));
        assert_eq!(get(&engine, 2, "gone").await, None);
        engine.close().await.unwrap();
    }
}

async fn gets_answer_in_order_and_say_what_is_missing(engine: &Engine) {
    let batch = (0..40u32).map(|n| put(n % 3, format!("order-{n}"), n.to_be_bytes())).collect();
    engine.write(engine.epoch(), batch).await.unwrap();
    let slots: Vec<_> = (0..50u32).rev().map(|n| slot(n % 3, format!("order-{n}"))).collect();
    let values = engine.get_many(&slots).await.unwrap();
    for (n, value) in (0..50u32).rev().zip(values) {
        assert_eq!(value.as_deref(), (n < 40).then(|| n.to_be_bytes()).as_ref().map(|bytes| &bytes[..]), "{n}");
    }
    assert_eq!(get(engine, 9, "order-1").await, None, "a key was found in another bucket");
    assert_eq!(engine.get_many(&[]).await.unwrap(), Vec::<Option<Bytes>>::new());
    engine.write(engine.epoch(), Vec::new()).await.unwrap();
}

async fn keys_and_values_may_hold_any_bytes(engine: &Engine) {
    let every: Vec<u8> = (0..=255).collect();
    let long = vec![0xff; limits::STORE_KEY_MAX];
    let keys: [&[u8]; 6] = [b"\x00", b"\x00\x00", b"\xff", b"\xff\xff", &every, &long];
    let batch = keys.iter().map(|key| put(4, key, [key, &b"\r\n\x00"[..]].concat())).collect();
    engine.write(engine.epoch(), batch).await.unwrap();
    for key in keys {
        assert_eq!(get(engine, 4, key).await.unwrap(), [key, b"\r\n\x00"].concat(), "{key:?}");
    }
    let mut ordered: Vec<_> = keys.to_vec();
    ordered.sort();
    let page = engine.scan(Bucket(4), b"", None, 100, usize::MAX).await.unwrap();
    let found: Vec<_> = page.items.iter().map(|(key, _)| &key[..]).collect();
    assert_eq!(found, ordered);
    let page = engine.scan(Bucket(4), b"\xff", Some(b"\xff"), 100, usize::MAX).await.unwrap();
    assert_eq!(page.items.len(), 2, "keys that begin with 0xff, behind 0xff");

    let large: Vec<u8> = (0..=250).cycle().take(limits::VALUE_MAX).collect();
    engine.write(engine.epoch(), vec![put(5, "large", &large), put(5, "empty", "")]).await.unwrap();
    assert_eq!(get(engine, 5, "large").await.unwrap(), large);
    assert_eq!(get(engine, 5, "empty").await.unwrap(), Bytes::new());
    engine.delete_bucket(Bucket(5)).await.unwrap();
}

async fn later_changes_of_a_batch_hold(engine: &Engine) {
    let batch =
        vec![put(6, "a", "1"), put(6, "a", "2"), delete(6, "b"), put(6, "b", "3"), put(6, "c", "4"), delete(6, "c")];
    engine.write_unsynced(engine.epoch(), batch).await.unwrap();
    assert_eq!(get(engine, 6, "a").await.as_deref(), Some(&b"2"[..]));
    assert_eq!(get(engine, 6, "b").await.as_deref(), Some(&b"3"[..]));
    assert_eq!(get(engine, 6, "c").await, None);
    engine.write(engine.epoch(), vec![delete(6, "a"), delete(6, "never was")]).await.unwrap();
    let page = engine.scan(Bucket(6), b"", None, 10, usize::MAX).await.unwrap();
    let items = vec![(Bytes::from_static(b"b"), Bytes::from_static(b"3"))];
    assert_eq!(page, ScanPage { items, ..ScanPage::default() });
}

async fn batches_under_another_epoch_write_nothing(engine: &Engine) {
    for other in [Epoch(0), Epoch(engine.epoch().0 + 1), Epoch(engine.epoch().0 - 1)] {
        let batch = || vec![put(7, "refused", "x"), delete(6, "b")];
        assert_eq!(engine.write(other, batch()).await, Err(StoreError::EpochChanged));
        assert_eq!(engine.write_unsynced(other, batch()).await, Err(StoreError::EpochChanged));
    }
    assert_eq!(get(engine, 7, "refused").await, None);
    assert!(get(engine, 6, "b").await.is_some());
}

async fn misuse_is_refused_and_writes_nothing(engine: &Engine) {
    let too_long = vec![1; limits::STORE_KEY_MAX + 1];
    let too_many = vec![put(7, "x", "x"); limits::STORE_CALL_MAX + 1];
    for bad in [vec![put(7, "x", ""), put(7, too_long, "")], vec![put(64, "x", "")], vec![put(7, "", "")], too_many] {
        assert!(matches!(engine.write(engine.epoch(), bad).await, Err(StoreError::Misuse(_))));
    }
    assert_eq!(get(engine, 7, "x").await, None);
    assert!(matches!(engine.delete_bucket(Bucket(64)).await, Err(StoreError::Misuse(_))));
    assert!(matches!(engine.scan(Bucket(1), b"", None, 0, 1).await, Err(StoreError::Misuse(_))));
}

async fn scans_are_ordered_and_paged(engine: &Engine) {
    let key = |n: u32| [b"p/", &n.to_be_bytes()[..]].concat();
    let batch = (0..300).map(|n| put(10, key(n), vec![7; n as usize])).collect();
    engine.write(engine.epoch(), batch).await.unwrap();
    engine.write(engine.epoch(), vec![put(10, "p", "before"), put(10, "q", "after"), put(11, "p/", "")]).await.unwrap();

    for (limit, bytes) in [(7, usize::MAX), (1000, 1), (1000, 900), (300, usize::MAX), (1, 1)] {
        let items = scan_all(engine, 10, b"p/", limit, bytes).await;
        assert_eq!(items.len(), 300, "limit {limit}, bytes {bytes}");
        for (n, (found, value)) in (0..300).zip(&items) {
            assert_eq!((&found[..], value.len()), (&key(n)[..], n as usize));
        }
    }
    let page = engine.scan(Bucket(10), b"p/", None, 1000, 900).await.unwrap();
    let held = |items: &[(Bytes, Bytes)]| items.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
    assert!(page.more && held(&page.items) >= 900, "the page ended before it was full");
    assert!(held(&page.items[..page.items.len() - 1]) < 900, "the page went on after it was full");
    let page = engine.scan(Bucket(10), b"p/", Some(b"a"), 1, usize::MAX).await.unwrap();
    assert_eq!(page.items[0].0, key(0), "a cursor before the prefix");
    let page = engine.scan(Bucket(10), b"p/", Some(b"q"), 10, usize::MAX).await.unwrap();
    assert_eq!(page, ScanPage::default(), "a cursor behind the prefix");
    assert_eq!(scan_all(engine, 10, b"", 100, usize::MAX).await.len(), 302);
    assert_eq!(engine.scan(Bucket(12), b"", None, 10, 10).await.unwrap(), ScanPage::default());
}

/// Records that stay are found exactly once while others come and go around the cursor.
async fn scans_beside_writes_skip_and_repeat_nothing(engine: &Engine) {
    let steady = |n: u32| format!("s{n:04}a");
    let batch = (0..200).map(|n| put(13, steady(n), "steady")).collect();
    engine.write(engine.epoch(), batch).await.unwrap();
    let writer = async {
        for round in 0..40u32 {
            let came = (0..20).map(|n| put(13, format!("s{:04}b{round}", n * 10), "passing"));
            let gone = (0..20).map(|n| delete(13, format!("s{:04}b{}", n * 10, round.wrapping_sub(1))));
            engine.write(engine.epoch(), came.chain(gone).collect()).await.unwrap();
        }
    };
    let reader = async {
        for limit in [3, 17] {
            let items = scan_all(engine, 13, b"s", limit, usize::MAX).await;
            let mut sorted: Vec<_> = items.iter().map(|(key, _)| key.clone()).collect();
            sorted.sort();
            sorted.dedup();
            assert_eq!(sorted.len(), items.len(), "a key was repeated");
            let found: Vec<_> = items.into_iter().filter(|(_, value)| value == "steady").collect();
            assert_eq!(found.len(), 200, "steady keys were skipped");
        }
    };
    tokio::join!(writer, reader);
}

async fn batches_are_seen_whole_or_not_at_all(engine: &Engine) {
    let slots: Vec<_> = (0..8).map(|n| slot(20 + n, "whole")).collect();
    let writer = async {
        for round in 0..60u32 {
            let batch = (0..8).map(|n| put(20 + n, "whole", round.to_be_bytes())).collect();
            engine.write(engine.epoch(), batch).await.unwrap();
        }
    };
    // Eight reads of one call may straddle a batch, but a batch that was seen is seen by the next call, in each slot.
    let reader = async {
        let mut floor = None;
        for _ in 0..60 {
            let values = engine.get_many(&slots).await.unwrap();
            assert!(values.iter().all(|value| *value >= floor), "a slot went back: {values:?} below {floor:?}");
            floor = values.into_iter().max().unwrap_or_default();
        }
    };
    tokio::join!(writer, reader);
    let last = Some(Bytes::copy_from_slice(&59u32.to_be_bytes()));
    assert_eq!(engine.get_many(&slots).await.unwrap(), vec![last; 8]);
}

async fn partitions_are_deleted_apart(engine: &Engine) {
    for step in 0..3 {
        let batch = (0..500).map(|n| put(31, format!("{step}-{n}"), "x")).collect();
        engine.write(engine.epoch(), batch).await.unwrap();
    }
    engine.write(engine.epoch(), vec![put(30, "\u{0}", "below"), put(32, "\u{0}", "above")]).await.unwrap();
    assert_eq!(engine.delete_bucket(Bucket(31)).await.unwrap(), 1500);
    assert_eq!(engine.delete_bucket(Bucket(31)).await.unwrap(), 0);
    assert_eq!(engine.scan(Bucket(31), b"", None, 10, 10).await.unwrap(), ScanPage::default());
    assert_eq!(get(engine, 31, "0-0").await, None);
    assert!(get(engine, 30, "\u{0}").await.is_some() && get(engine, 32, "\u{0}").await.is_some());
    engine.write(engine.epoch(), vec![put(31, "again", "x")]).await.unwrap();
    assert_eq!(scan_all(engine, 31, b"", 10, usize::MAX).await.len(), 1);
}

async fn sizes_count_records(engine: &Engine) {
    let before = engine.size().await.unwrap();
    engine.write(engine.epoch(), vec![put(40, "a", "x"), put(40, "b", "x"), put(40, "a", "y")]).await.unwrap();
    assert_eq!(engine.size().await.unwrap().keys, before.keys + 2);
    engine.write(engine.epoch(), vec![delete(40, "a"), delete(40, "never")]).await.unwrap();
    let after = engine.size().await.unwrap();
    assert_eq!(after.keys, before.keys + 1);
    assert!(after.bytes > 0);
    engine.delete_bucket(Bucket(40)).await.unwrap();
    assert_eq!(engine.size().await.unwrap().keys, before.keys);
}

async fn renewed_epochs_refuse_the_old(engine: &Engine) {
    engine.write(engine.epoch(), vec![put(41, "old", "x")]).await.unwrap();
    let old = engine.epoch();
    let new = engine.renew_epoch(old, "the contract says so").await.unwrap();
    assert_ne!(old, new);
    let again = engine.renew_epoch(old, "somebody else saw the same damage").await;
    assert_eq!(again, Err(StoreError::EpochChanged), "one epoch was renewed twice");
    assert_eq!(engine.epoch(), new);
    assert_eq!(engine.write(old, vec![put(41, "late", "x")]).await, Err(StoreError::EpochChanged));
    engine.write(new, vec![put(41, "new", "x")]).await.unwrap();
    assert_eq!(get(engine, 41, "late").await, None);
    assert!(get(engine, 41, "old").await.is_some() && get(engine, 41, "new").await.is_some());
}

/// All records with the prefix, page by page.
pub(crate) async fn scan_all(
    engine: &Engine,
    bucket: u32,
    prefix: &[u8],
    limit: usize,
    bytes: usize,
) -> Vec<(Bytes, Bytes)> {
    let mut items: Vec<(Bytes, Bytes)> = Vec::new();
    loop {
        let after = items.last().map(|(key, _)| key.clone());
        let page = engine.scan(Bucket(bucket), prefix, after.as_deref(), limit, bytes).await.unwrap();
        assert!(page.items.len() <= limit);
        assert!(!page.items.is_empty() || !page.more, "an empty page promised more");
        items.extend(page.items);
        if !page.more {
            return items;
        }
    }
}

/// Everything an engine holds.
pub(crate) async fn contents(engine: &Engine) -> BTreeMap<(u32, Bytes), Bytes> {
    let mut all = BTreeMap::new();
    for bucket in 0..64 {
        for (key, value) in scan_all(engine, bucket, b"", 1000, usize::MAX).await {
            all.insert((bucket, key), value);
        }
    }
    all
}

#[tokio::test]
async fn the_memory_engine_keeps_the_contract() {
    let env = Env::real();
    let memory = crate::store::Memory::new(&identity("n1"), &env);
    let engine = Engine::Memory(memory.clone());
    check(&engine).await;
    let before = engine.epoch();
    assert_ne!(memory.wipe(), before);
    assert_eq!(contents(&engine).await, BTreeMap::new());
    assert_eq!(engine.write(before, vec![put(1, "a", "b")]).await, Err(StoreError::EpochChanged));
}
