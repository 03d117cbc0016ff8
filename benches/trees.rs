//! What it costs to keep hash trees: CPU for each record that a write changes, for each that is read to make or check
//! a tree, and for each comparison of two equal trees.
//!
//! `cargo bench --bench trees -- [BATCH]`, where BATCH is the number of records in one storage batch.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, missing_docs)]

use std::time::Instant;

use bytes::Bytes;
use dynamomini::hash::ClusterHash;
use dynamomini::merkle::{Change, Forest, Item};
use dynamomini::types::{ClusterName, Copies, Epoch, Partitions};

const RECORDS: u32 = 1_000_000;
const PARTITIONS: u32 = 1024;

fn report(what: &str, began: Instant, count: u32) {
    println!("{what}: {:.0} ns", began.elapsed().as_secs_f64() * 1e9 / f64::from(count));
}

fn change(number: u32, old: Option<u64>) -> Change {
    let key = Bytes::from(format!("default\0user/{number:06}"));
    let new = Some(u64::from(number) * 3);
    Change { position: u64::from(number % PARTITIONS) << 54, key, copies: Copies::settled(3), old, new, readable: true }
}

fn main() {
    // Cargo's own `--bench` is no number.
    let batch: usize = std::env::args().skip(1).find_map(|text| text.parse().ok()).unwrap_or(8);
    let hash = ClusterHash::new(&ClusterName::new("bench").unwrap());
    let mut forest = Forest::new(hash, Partitions::new(PARTITIONS).unwrap(), Epoch(1));

    let pages: Vec<Vec<Item>> = (0..PARTITIONS)
        .map(|partition| {
            let mine = (partition..RECORDS).step_by(usize::try_from(PARTITIONS).unwrap());
            mine.map(|number| Item {
                key: change(number, None).key,
                copies: Copies::settled(3),
                digest: Some(u64::from(number)),
            })
            .collect()
        })
        .collect();
    let began = Instant::now();
    for (partition, items) in Partitions::new(PARTITIONS).unwrap().iter().zip(pages) {
        forest.begin_check(partition);
        let window = forest.next_page().unwrap();
        forest.take_page(&window, items, false);
    }
    report("a record read into its tree", began, RECORDS);

    let changes: Vec<Change> = (0..RECORDS).map(|number| change(number, Some(u64::from(number)))).collect();
    let batches: Vec<Vec<Change>> = changes.chunks(batch).map(<[Change]>::to_vec).collect();
    drop(changes);
    let began = Instant::now();
    for batch in batches {
        let flight = forest.begin(Epoch(1), batch);
        forest.stored(&flight);
    }
    report(&format!("a record changed, in batches of {batch}"), began, RECORDS);

    let began = Instant::now();
    let mut roots = 0_u128;
    for partition in forest.partitions().iter() {
        roots ^= forest.tree(partition, Copies::settled(3)).unwrap().root();
    }
    assert_ne!(roots, 0, "the trees are empty");
    report("the root of a tree", began, PARTITIONS);
}
