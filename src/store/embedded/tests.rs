//! The contract, and what opening finds: owners, locks, copies, sudden ends, damage. And a disk that fails under it.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use crate::env::Env;
use crate::limits;
use crate::store::Durability;
use crate::store::Engine;
use crate::store::Health;
use crate::store::OpenError;
use crate::store::StoreConfig;
use crate::store::StoreError;
use crate::store::Warning;
use crate::store::contract;
use crate::store::contract::eventually;
use crate::store::contract::get;
use crate::store::contract::identity;
use crate::store::contract::put;
use crate::store::embedded::journal;

const OFTEN: Durability = Durability::Interval(Duration::from_millis(20));

/// Opens with memtables of 64 KiB, so that tables are written and merged even in small tests.
pub(super) async fn try_open(path: &Path, durability: Durability) -> Result<(Engine, Vec<Warning>), OpenError> {
    let config = StoreConfig::Embedded { path: path.to_owned(), durability, cache_bytes: 1 << 20 };
    Engine::open(&config, &identity("n1"), &Env::real()).await
}

pub(super) async fn open(path: &Path, durability: Durability) -> Engine {
    try_open(path, durability).await.unwrap().0
}

/// What the directory holds at this moment, as after the sudden end of the process. Nobody may be writing; tables that
/// are still being merged are waited for.
pub(super) fn killed(path: &Path) -> tempfile::TempDir {
    for _ in 0..1000 {
        let copy = tempfile::tempdir().unwrap();
        let before = files(path);
        if copy_all(path, copy.path()).is_ok() && files(path) == before {
            return copy;
        }
    }
    panic!("the files never came to rest");
}

fn copy_all(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            copy_all(&entry.path(), &to.join(entry.file_name()))?;
        } else {
            // Without the long run of zeros at the end of a journal: the disk does not keep that either.
            let bytes = fs::read(entry.path())?;
            let zeros = bytes.rchunks(4096).take_while(|chunk| **chunk == [0; 4096][..chunk.len()]).map(<[u8]>::len);
            let mut file = fs::File::create(to.join(entry.file_name()))?;
            file.write_all(&bytes[..bytes.len() - zeros.sum::<usize>()])?;
            file.set_len(bytes.len() as u64)?;
        }
    }
    Ok(())
}

/// Every file with its length and the time of its last change.
fn files(path: &Path) -> Vec<(std::path::PathBuf, u64, std::time::SystemTime)> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(path) else { return found };
    for entry in entries.flatten() {
        match entry.metadata() {
            Ok(data) if data.is_dir() => found.extend(files(&entry.path())),
            Ok(data) => found.push((entry.path(), data.len(), data.modified().unwrap())),
            Err(_) => {}
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn files_keep_the_contract_under_every_durability() {
    for durability in [Durability::Off, OFTEN, Durability::EveryBatch] {
        let dir = tempfile::tempdir().unwrap();
        contract::check(&open(dir.path(), durability).await).await;
        let dir = tempfile::tempdir().unwrap();
        contract::check_reopening(|| open(dir.path(), durability)).await;
    }
}

#[tokio::test]
async fn the_contract_is_kept_where_memory_holds_every_record_and_where_it_holds_none() {
    for cache_bytes in [64 << 20, 0] {
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig::Embedded { path: dir.path().to_owned(), durability: OFTEN, cache_bytes };
        let open = async || Engine::open(&config, &identity("n1"), &Env::real()).await.unwrap().0;
        let engine = open().await;
        contract::check(&engine).await;
        // Scans ask the files alone.
        let all = contract::contents(&engine).await;
        let slots: Vec<_> = all.keys().map(|(bucket, key)| contract::slot(*bucket, key)).collect();
        let held: Vec<_> = all.into_values().map(Some).collect();
        for asked in slots.chunks(limits::STORE_CALL_MAX).zip(held.chunks(limits::STORE_CALL_MAX)) {
            assert_eq!(engine.get_many(asked.0).await.unwrap(), asked.1, "memory and files differ");
        }
        let clone = engine.clone();
        engine.close().await.unwrap();
        for asked in [&slots[..1], &[]] {
            assert!(matches!(clone.get_many(asked).await, Err(StoreError::Unavailable(_))), "answered after closing");
        }
    }
}

#[tokio::test]
async fn a_second_opener_and_another_owner_are_refused_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), OFTEN).await;
    let error = try_open(dir.path(), OFTEN).await.unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    engine.close().await.unwrap();
    let config = StoreConfig::Embedded { path: dir.path().to_owned(), durability: OFTEN, cache_bytes: 1 << 20 };
    let mut others = [identity("n2"), identity("n1"), identity("n1")];
    others[1].cluster = crate::types::ClusterName::new("other").unwrap();
    others[2].buckets = crate::types::Partitions::new(128).unwrap();
    for other in others {
        let error = Engine::open(&config, &other, &Env::real()).await.unwrap_err();
        assert!(matches!(&error, OpenError::Foreign { .. }), "{error}");
        assert!(error.to_string().contains("belongs to node n1 of cluster contract with 64 partitions"), "{error}");
    }
    open(dir.path(), OFTEN).await.close().await.unwrap();
}

#[tokio::test]
async fn an_engine_that_is_dropped_frees_its_files() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), OFTEN).await);
    contract::eventually("the lock is free", async || try_open(dir.path(), OFTEN).await.is_ok()).await;
}

#[tokio::test]
async fn sudden_death_keeps_the_epoch_only_if_every_batch_was_synced() {
    for (durability, stays) in [(Durability::EveryBatch, true), (OFTEN, false), (Durability::Off, false)] {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(dir.path(), durability).await;
        engine.write(engine.epoch(), vec![put(1, "a", "b")]).await.unwrap();
        engine.flush().await.unwrap();
        let copy = killed(dir.path());
        let (after, warnings) = try_open(copy.path(), Durability::EveryBatch).await.unwrap();
        assert_eq!(after.epoch() == engine.epoch(), stays, "{durability:?}");
        assert_eq!(warnings.is_empty(), stays, "{warnings:?}");
        assert!(get(&after, 1, "a").await.is_some(), "{durability:?} lost a flushed write");
    }
}

#[tokio::test]
async fn wiped_forgotten_and_older_copies_get_a_new_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path(), Durability::EveryBatch).await;
    let epoch = first.epoch();
    let running = killed(dir.path());
    first.close().await.unwrap();
    let closed = killed(dir.path());
    open(dir.path(), Durability::EveryBatch).await.close().await.unwrap();

    // An older copy of the database beside today's memo, taken while running or when closed, from another boot or not.
    for (older, memo) in [(&running, dir.path()), (&closed, dir.path()), (&running, closed.path())] {
        let mixed = tempfile::tempdir().unwrap();
        copy_all(older.path(), mixed.path()).unwrap();
        fs::copy(memo.join("store.memo"), mixed.path().join("store.memo")).unwrap();
        let (engine, warnings) = try_open(mixed.path(), Durability::EveryBatch).await.unwrap();
        assert_ne!(engine.epoch(), epoch);
        assert_eq!(warnings.len(), 1);
    }
    for lost in ["store.memo", "db"] {
        let part = killed(dir.path());
        let lost_path = part.path().join(lost);
        if lost_path.is_dir() { fs::remove_dir_all(lost_path) } else { fs::remove_file(lost_path) }.unwrap();
        let (engine, warnings) = try_open(part.path(), Durability::EveryBatch).await.unwrap();
        assert_ne!(engine.epoch(), epoch, "without {lost}");
        assert_eq!(warnings.len(), 1);
        let renewed = engine.epoch();
        engine.close().await.unwrap();
        let (engine, warnings) = try_open(part.path(), Durability::EveryBatch).await.unwrap();
        assert_eq!((engine.epoch(), warnings), (renewed, vec![]), "the new epoch did not stay");
    }
}

#[tokio::test]
async fn a_copy_from_earlier_in_the_same_run_is_told_by_the_memo() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), Durability::EveryBatch).await;
    let early = killed(dir.path());
    engine.write(engine.epoch(), vec![put(1, "a", "x")]).await.unwrap();
    let Engine::Embedded(embedded) = &engine else { panic!("another engine") };
    embedded.core.save_memo(false).unwrap();
    fs::copy(dir.path().join("store.memo"), early.path().join("store.memo")).unwrap();
    assert_ne!(open(early.path(), Durability::EveryBatch).await.epoch(), engine.epoch());
    assert_eq!(open(killed(dir.path()).path(), Durability::EveryBatch).await.epoch(), engine.epoch());
}

#[tokio::test]
async fn files_that_are_no_store_are_refused_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), Durability::EveryBatch).await;
    for n in 0..40u32 {
        engine.write(engine.epoch(), vec![put(1, n.to_be_bytes(), vec![7; 3000])]).await.unwrap();
    }
    let tables = dir.path().join("db/keyspaces/1/tables");
    eventually("a table is written", async || fs::read_dir(&tables).unwrap().count() > 0).await;
    engine.close().await.unwrap();

    let journal = journal::journals(&dir.path().join("db")).unwrap().remove(0);
    let table = fs::read_dir(&tables).unwrap().next().unwrap().unwrap().path();
    type Damage<'a> = (&'static str, &'a dyn Fn(&Path));
    let broken: [Damage<'_>; 5] = [
        ("no journal", &|path| fs::remove_file(path.join(journal.strip_prefix(dir.path()).unwrap())).unwrap()),
        ("no version", &|path| fs::remove_file(path.join("db/version")).unwrap()),
        ("another version", &|path| fs::write(path.join("db/version"), "something else").unwrap()),
        ("no table", &|path| fs::remove_file(path.join(table.strip_prefix(dir.path()).unwrap())).unwrap()),
        ("half a table", &|path| {
            let table = path.join(table.strip_prefix(dir.path()).unwrap());
            let bytes = fs::read(&table).unwrap();
            fs::write(&table, &bytes[..bytes.len() / 2]).unwrap();
        }),
    ];
    for (what, damage) in broken {
        let copy = killed(dir.path());
        damage(copy.path());
        let error =
            try_open(copy.path(), Durability::EveryBatch).await.err().unwrap_or_else(|| panic!("{what}: opened"));
        assert!(matches!(error, OpenError::Damaged { .. }), "{what}: {error}");
        assert!(error.to_string().contains("type mv '"), "{what}: {error}");
    }
    open(dir.path(), Durability::EveryBatch).await.close().await.unwrap();
    let error = try_open(&dir.path().join("store.memo"), Durability::EveryBatch).await.unwrap_err();
    assert!(matches!(error, OpenError::File { .. }), "{error}");
}

#[tokio::test]
async fn a_creation_that_did_not_get_far_is_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("db/keyspaces")).unwrap();
    fs::write(dir.path().join("db/0.jnl"), [0; 4096]).unwrap();
    open(dir.path(), OFTEN).await.close().await.unwrap();
}

/// Takes away what the worker needs, so that it gives up; the engine must notice, say so, and be well again after.
#[tokio::test]
async fn a_disk_that_fails_is_reported_and_used_again_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), Durability::EveryBatch).await;
    let epoch = engine.epoch();
    engine.write(epoch, vec![put(1, "before", "x")]).await.unwrap();
    let (tables, away) = (dir.path().join("db/keyspaces/1/tables"), dir.path().join("away"));
    fs::rename(&tables, &away).unwrap();
    let mut acknowledged = 0;
    let refused = loop {
        match engine.write(epoch, vec![put(2, u32::to_be_bytes(acknowledged), vec![1; 3000])]).await {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 10_000, "the engine never noticed");
    };
    assert!(matches!(refused, StoreError::Unavailable(_) | StoreError::ReadOnly(_)), "{refused}");
    assert!(matches!(engine.health(), Health::Down { .. } | Health::ReadOnly { .. }), "{:?}", engine.health());

    // A reopening in the meantime may have made an empty directory in its place.
    let _ = fs::remove_dir_all(&tables);
    fs::rename(&away, &tables).unwrap();
    eventually("the storage is well", async || engine.health() == Health::Ok).await;
    assert_eq!(engine.epoch(), epoch, "nothing was lost, so the epoch stays");
    assert!(get(&engine, 1, "before").await.is_some());
    for n in 0..acknowledged {
        assert!(get(&engine, 2, n.to_be_bytes()).await.is_some(), "{n} of {acknowledged}");
    }
    engine.write(epoch, vec![put(1, "after", "x")]).await.unwrap();
}

#[tokio::test]
async fn many_records_are_estimated_and_few_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), Durability::Off).await;
    for _ in 0..3 {
        engine.write(engine.epoch(), (0..500u32).map(|n| put(1, n.to_be_bytes(), "x")).collect()).await.unwrap();
    }
    assert_eq!(engine.size().await.unwrap().keys, 500);
    let many = u32::try_from(limits::STORE_COUNTED_MAX).unwrap() + 500;
    for first in (0..many).step_by(1000) {
        let batch = (first..first + 1000).map(|n| put(1, n.to_be_bytes(), "y")).collect();
        engine.write(engine.epoch(), batch).await.unwrap();
    }
    let keys = engine.size().await.unwrap().keys;
    assert!((u64::from(many)..u64::from(many) + 3000).contains(&keys), "{keys}");
}
