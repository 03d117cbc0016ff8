//! The contract on files and in memory, and what opening finds: owners, locks, copies, sudden ends.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use redb::backends::InMemoryBackend;

use crate::env::Env;
use crate::store::Durability;
use crate::store::EmbeddedOptions;
use crate::store::Engine;
use crate::store::MemoFile;
use crate::store::OpenDisk;
use crate::store::OpenError;
use crate::store::StoreConfig;
use crate::store::Warning;
use crate::store::contract;
use crate::store::contract::get;
use crate::store::contract::identity;
use crate::store::contract::put;

const OFTEN: Durability = Durability::Interval(Duration::from_millis(20));

async fn try_open(path: &Path, durability: Durability) -> Result<(Engine, Vec<Warning>), OpenError> {
    let config = StoreConfig::Embedded { path: path.to_owned(), durability, cache_bytes: 8 << 20 };
    Engine::open(&config, &identity("n1"), &Env::real()).await
}

async fn open(path: &Path, durability: Durability) -> Engine {
    try_open(path, durability).await.unwrap().0
}

/// What the directory holds at this moment, as after the sudden end of the process.
fn killed(path: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in ["store.redb", "store.memo"] {
        fs::copy(path.join(file), copy.path().join(file)).unwrap();
    }
    copy
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
async fn any_backend_keeps_the_contract() {
    let (disk, memo, env) = (Arc::new(InMemoryBackend::new()), MemoFile::in_memory(), Env::real());
    let options = EmbeddedOptions { durability: OFTEN, cache_bytes: 1 << 20 };
    let open = async || {
        let disk = OpenDisk::shared(disk.clone());
        Engine::open_on_backend(disk, memo.clone(), options, &identity("n1"), &env).await.unwrap().0
    };
    contract::check_reopening(&open).await;
    contract::check(&open().await).await;
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
    others[2].partitions = crate::types::Partitions::new(128).unwrap();
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
        fs::copy(older.path().join("store.redb"), mixed.path().join("store.redb")).unwrap();
        fs::copy(memo.join("store.memo"), mixed.path().join("store.memo")).unwrap();
        let (engine, warnings) = try_open(mixed.path(), Durability::EveryBatch).await.unwrap();
        assert_ne!(engine.epoch(), epoch);
        assert_eq!(warnings.len(), 1);
    }
    for lost in ["store.memo", "store.redb"] {
        let part = killed(dir.path());
        fs::remove_file(part.path().join(lost)).unwrap();
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
async fn files_that_are_no_store_are_refused_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), Durability::EveryBatch).await;
    engine.write(engine.epoch(), vec![put(1, "a", vec![7; 100_000])]).await.unwrap();
    engine.close().await.unwrap();
    let path = dir.path().join("store.redb");
    let whole = fs::read(&path).unwrap();
    let mut overwritten = whole.clone();
    overwritten[..256].fill(0x55);
    for bad in [b"no database at all".repeat(1000), overwritten, whole[..whole.len() / 2].to_vec()] {
        fs::write(&path, bad).unwrap();
        let error = try_open(dir.path(), Durability::EveryBatch).await.unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("move it away"), "{error}");
    }
    fs::write(&path, whole).unwrap();
    open(dir.path(), Durability::EveryBatch).await.close().await.unwrap();
    let error = try_open(&path, Durability::EveryBatch).await.unwrap_err();
    assert!(matches!(error, OpenError::File { .. }), "{error}");
}
