//! Real processes: one that is killed while it writes, and one whose files may not grow.
//!
//! The child is this test program itself, told by an environment variable to run one of the ignored functions here.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use crate::env::Env;
use crate::store::Durability;
use crate::store::Engine;
use crate::store::Health;
use crate::store::OpenError;
use crate::store::StoreConfig;
use crate::store::StoreError;
use crate::store::contract::eventually;
use crate::store::contract::get;
use crate::store::contract::identity;
use crate::store::contract::put;
use crate::store::embedded::tests::open;
use crate::store::embedded::tests::try_open;

const DIRECTORY: &str = "DYNAMOMINI_TEST_STORE";

/// Runs a function of this file in a process of its own, through a shell that first does `setup`.
fn child(function: &str, directory: &Path, setup: &str) -> Child {
    let program = std::env::current_exe().unwrap();
    Command::new("bash")
        .args(["-c", &format!("{setup} exec \"$@\""), "bash"])
        .arg(program)
        .args(["--exact", &format!("store::embedded::process_tests::{function}"), "--ignored", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn directory() -> PathBuf {
    PathBuf::from(std::env::var_os(DIRECTORY).expect("run by a test beside"))
}

fn say(line: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{line}").and_then(|()| out.flush()).unwrap();
}

async fn write(engine: &Engine, number: u32) {
    let batch = vec![put(1, number.to_be_bytes(), vec![7; 1000]), put(2, number.to_be_bytes(), "twin")];
    engine.write(engine.epoch(), batch).await.unwrap();
}

#[tokio::test]
#[ignore = "runs as a child of the test below"]
async fn child_that_writes_until_it_is_killed() {
    let engine = open(&directory(), Durability::EveryBatch).await;
    say(&format!("epoch {}", engine.epoch()));
    for number in 0.. {
        write(&engine, number).await;
        say(&format!("acknowledged {number}"));
    }
}

#[tokio::test]
async fn every_acknowledged_write_survives_the_kill_of_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut epoch = None;
    for goal in [3, 150, 40] {
        let mut child = child("child_that_writes_until_it_is_killed", dir.path(), "");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let opened = lines.by_ref().find_map(|line| Some(line.split_once("epoch ")?.1.to_owned())).unwrap();
        assert_eq!(*epoch.get_or_insert(opened.clone()), opened, "the epoch did not survive");
        let numbers = lines.filter_map(|line| line.split_once("acknowledged ")?.1.parse::<u32>().ok());
        let mut acknowledged = 0;
        for number in numbers {
            acknowledged = number;
            if number == goal {
                // What comes until the pipe ends was acknowledged, too.
                let error = try_open(dir.path(), Durability::EveryBatch).await.unwrap_err();
                assert!(matches!(error, OpenError::InUse { .. }), "{error}");
                child.kill().unwrap();
            }
        }
        assert!(acknowledged >= goal, "the child ended by itself");
        child.wait().unwrap();
        let (engine, warnings) = try_open(dir.path(), Durability::EveryBatch).await.unwrap();
        assert_eq!((engine.epoch().to_string(), warnings), (opened, vec![]));
        for number in 0..=acknowledged {
            let key = number.to_be_bytes();
            assert_eq!(get(&engine, 1, key).await.as_deref(), Some(&[7; 1000][..]), "{number} of {acknowledged}");
            assert!(get(&engine, 2, key).await.is_some(), "{number} of {acknowledged} is in part");
        }
        engine.close().await.unwrap();
    }
}

/// The journal has 64 MiB of room from the beginning, so that is the least limit on files that can be set.
const LIMIT: &str = "trap '' XFSZ; ulimit -S -f 65536;";

#[tokio::test]
#[ignore = "runs as a child of the test below"]
async fn child_whose_files_may_not_grow() {
    let durability = Durability::EveryBatch;
    let config = StoreConfig::Embedded { path: directory(), durability, cache_bytes: 256 << 20 };
    let (engine, _) = Engine::open(&config, &identity("n1"), &Env::real()).await.unwrap();
    let epoch = engine.epoch();
    let large = |number: u32| put(3, number.to_be_bytes(), vec![1; 3 << 20]);
    engine.write(epoch, (0..20).map(large).collect()).await.unwrap();
    // The next write begins a new memtable, and when the old one has become a table, a longer journal would be
    // replaced by a new one.
    engine.write(epoch, vec![put(1, "before", "x")]).await.unwrap();
    let tables = directory().join("db/keyspaces/1/tables");
    eventually("a table is written", async || std::fs::read_dir(&tables).unwrap().count() > 0).await;
    let mut small = 0;
    let refused = loop {
        let batch = vec![put(4, u32::to_be_bytes(small), vec![2; 50_000]), put(5, small.to_be_bytes(), "twin")];
        match engine.write(epoch, batch).await {
            Ok(()) => small += 1,
            Err(error) => break error,
        }
        assert!(small < 1000, "the disk never filled up");
    };
    assert!(matches!(refused, StoreError::Full(_)), "{refused}");
    assert!(matches!(engine.health(), Health::ReadOnly { .. }), "{:?}", engine.health());
    assert!(matches!(engine.write(epoch, vec![put(1, "tiny", "x")]).await, Err(StoreError::Full(_))));
    for number in 0..small {
        assert!(get(&engine, 4, number.to_be_bytes()).await.is_some(), "{number} of {small}");
    }
    assert_eq!(get(&engine, 3, 19u32.to_be_bytes()).await.map(|value| value.len()), Some(3 << 20));
    for bucket in [4, 5] {
        assert_eq!(get(&engine, bucket, small.to_be_bytes()).await, None, "a refused batch was written");
    }
    say("full");
    eventually("the storage is well", async || engine.health() == Health::Ok).await;
    engine.write(epoch, vec![put(1, "after", "x")]).await.unwrap();
    assert_eq!(engine.epoch(), epoch, "nothing was lost, so the epoch stays");
    engine.close().await.unwrap();
    say("well");
}

#[tokio::test]
async fn a_full_disk_reads_on_keeps_what_it_acknowledged_and_comes_back_by_itself() {
    if Command::new("prlimit").arg("--version").output().is_err() {
        eprintln!("prlimit is not installed: a full disk was not tested");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut child = child("child_whose_files_may_not_grow", dir.path(), LIMIT);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.by_ref().any(|line| line.ends_with("full")), "the child failed: see its output");
    let pid = child.id().to_string();
    let raised = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited:"]).status().unwrap();
    assert!(raised.success());
    assert!(lines.by_ref().any(|line| line.ends_with("well")), "the child failed: see its output");
    lines.for_each(drop);
    assert!(child.wait().unwrap().success());
    let engine = open(dir.path(), Durability::EveryBatch).await;
    assert!(get(&engine, 1, "after").await.is_some());
}
