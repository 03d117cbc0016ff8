//! What comes late: a coordinator that has not heard of a change, a member that was removed and comes back with what it alone
//! holds, owners that lose everything just when somebody else is about to drop it.

use std::time::Duration;

use bytes::Bytes;
use dynamomini::layout::{Change, Stage};
use dynamomini::store::{Engine, Mutation, Slot};
use dynamomini::types::Bucket;
use tokio::time::{Instant, sleep};

use crate::ownership::history::History;
use crate::ownership::judge::{converged, settled};
use crate::ownership::{KEYS, found, node, order};
use crate::replicas::records;
use crate::world::{Simulation, seeds, simulate};

/// Three of six leave while one that stays is cut off from all but one owner: it is up, and coordinates by what it
/// knows. Nobody may copy what it can still change without the next owners.
async fn late_coordinator(simulation: Simulation) {
    let cluster = found(&simulation, 6, false).await;
    let (one, late) = (cluster.client(1).await, cluster.pinned(2, 3).await);
    let history = History::default();
    history.fill(&one, 0..KEYS).await;
    let load = async {
        tokio::join!(
            history.probe(&late, simulation.rng("late"), 0..KEYS, KEYS, 5..20),
            history.probe(&late, simulation.rng("later"), 0..KEYS, KEYS + 1, 5..20),
            history.reader(&one, simulation.rng("reader"), 0..KEYS + 2, 1..10),
            history.reader(&one, simulation.rng("reader 2"), KEYS..KEYS + 2, 1..10),
        )
    };
    let events = async {
        let others = [1, 4, 5, 6];
        cluster.part(&[3], &others, true);
        let leaves = async {
            for leaves in 4..=6 {
                order(&cluster, 1, Change::Leave { name: node(leaves) }).await;
            }
        };
        // It is not held failed: the one that it reaches vouches for it.
        let watched = async {
            let began = Instant::now();
            while cluster.layout_of(3).layout.version == 0 && began.elapsed() < Duration::from_secs(8) {
                let layouts = cluster.running().into_iter().map(|number| cluster.layout_of(number).layout);
                let furthest = layouts.max_by_key(|layout| layout.version).unwrap();
                let stage = furthest.stage();
                assert!(
                    furthest.version == 0 || stage == Some(Stage::Spreading),
                    "{stage:?} while n3 goes by the layout before"
                );
                sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::join!(leaves, watched);
        cluster.part(&[3], &others, false);
        settled(&cluster).await;
        sleep(Duration::from_secs(3)).await;
        history.end();
    };
    tokio::join!(load, events);
    converged(&cluster).await;
    history.judge(&one).await;
}

/// `SIM_SEEDS` sets how many.
#[test]
fn nothing_is_copied_while_a_coordinator_goes_by_the_layout_before() {
    for seed in seeds(600, 2) {
        simulate(seed, 0.0, late_coordinator);
    }
}

/// Some keys lie at one owner only, as where one is enough for a write. It dies, is removed, and comes back: it owns nothing any
/// more, and must not drop what nobody else has.
async fn removed_and_back(simulation: Simulation) {
    let mut cluster = found(&simulation, 4, false).await;
    let client = cluster.client(1).await;
    let history = History::default();
    history.fill(&client, 0..KEYS).await;
    sleep(Duration::from_secs(2)).await;
    let engines = cluster.engines();
    let only: Vec<_> = records(&engines[&4], cluster.info.partitions.buckets()).await.into_keys().collect();
    assert!(only.len() > KEYS / 2, "it owns three quarters of the keys");
    for number in 1..=4 {
        cluster.crash(number);
    }
    for number in 1..=3 {
        let delete = |(bucket, key): (Bucket, Bytes)| Mutation::Delete { slot: Slot { bucket, key } };
        let engine = &engines[&number];
        engine.write(engine.epoch(), only.iter().cloned().map(delete).collect()).await.unwrap();
        cluster.restart_node(number).await;
    }
    // Until it is held failed.
    sleep(Duration::from_secs(20)).await;
    order(&cluster, 1, Change::Remove { name: node(4) }).await;
    settled(&cluster).await;
    sleep(Duration::from_secs(5)).await;
    cluster.restart_node(4).await;
    settled(&cluster).await;
    converged(&cluster).await;
    history.judge(&client).await;
}

#[test]
fn what_a_removed_member_alone_has_comes_back_with_it() {
    simulate(1, 0.0, removed_and_back);
}

/// A node has left, and the owners lose all they have before it has dropped anything: it must notice.
async fn owners_that_lost_it(simulation: Simulation) {
    let cluster = found(&simulation, 4, false).await;
    let client = cluster.client(1).await;
    History::default().fill(&client, 0..KEYS).await;
    sleep(Duration::from_secs(2)).await;
    let engines = cluster.engines();
    let held = records(&engines[&4], cluster.info.partitions.buckets()).await;
    let is_held = |key: &usize| held.keys().any(|(_, stored)| stored.ends_with(format!("key{key}").as_bytes()));
    let history = History::default();
    for key in (0..KEYS).filter(is_held) {
        history.fill(&client, key..key + 1).await;
    }
    order(&cluster, 1, Change::Leave { name: node(4) }).await;
    settled(&cluster).await;
    for number in 1..=3 {
        let Engine::Memory(memory) = &engines[&number] else { panic!("simulated nodes keep their records in memory") };
        memory.wipe();
    }
    let left = records(&engines[&4], cluster.info.partitions.buckets()).await;
    assert_eq!(left.len(), held.len(), "it has dropped something already: this tries nothing");
    converged(&cluster).await;
    history.judge(&client).await;
}

#[test]
fn what_is_owned_no_more_is_dropped_only_when_its_owners_have_it() {
    simulate(1, 0.0, owners_that_lost_it);
}
