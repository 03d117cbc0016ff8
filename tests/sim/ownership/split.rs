//! Partitions are cut in two while clients read and write, alone and together with a join, with each fault at each stage.

use std::time::Duration;

use dynamomini::client::ScanOptions;
use dynamomini::layout::{Change, Stage};
use dynamomini::types::Partitions;
use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::ownership::history::History;
use crate::ownership::judge::{converged, settled};
use crate::ownership::{Course, Fault, KEYS, What, found, node, order, reached, try_course};
use crate::world::{Simulation, rng, seeds, simulate};

/// Partitions of a simulated cluster at its founding.
const FOUNDED: u32 = 64;

/// The change that cuts the partitions of a cluster as it was founded.
pub(super) fn split() -> Change {
    Change::Split { partitions: Partitions::new(2 * FOUNDED).unwrap() }
}

/// All keys with a prefix, as a client that scans sees them, a few at a time.
async fn scanned(cluster: &Cluster, prefix: &str, between: impl AsyncFn()) -> Vec<String> {
    let client = cluster.client(4).await;
    let options = ScanOptions { page: 5, keys_only: true, ..ScanOptions::default() };
    let mut scan = client.scan(prefix.to_owned(), options);
    let mut keys = Vec::new();
    while let Some((key, _)) = scan.next().await.unwrap() {
        keys.push(String::from_utf8(key.to_vec()).unwrap());
        if keys.len() == KEYS / 2 {
            between().await;
        }
    }
    keys.sort();
    keys
}

/// Every node is restarted when all is over: what it keeps is of the finer partitions.
#[test]
fn partitions_are_cut_twice_while_the_cluster_serves_and_a_scan_goes_on_through_it() {
    simulate(1, 0.0, |simulation: Simulation| async move {
        let mut cluster = found(&simulation, 6, false).await;
        let client = cluster.client(1).await;
        let history = History::default();
        history.fill(&client, 0..4 * KEYS).await;
        let load = async {
            tokio::join!(
                history.writer(&client, simulation.rng("writer"), 0..KEYS, 20..100),
                history.reader(&client, simulation.rng("reader"), 0..4 * KEYS, 5..20),
            )
        };
        let events = async {
            let cut = async || {
                order(&cluster, 1, split()).await;
                settled(&cluster).await;
            };
            let keys = scanned(&cluster, "key", cut).await;
            let mut all: Vec<String> = (0..4 * KEYS).map(|key| format!("key{key}")).collect();
            all.sort();
            assert_eq!(keys, all, "each key comes once");
            order(&cluster, 2, Change::Split { partitions: Partitions::new(4 * FOUNDED).unwrap() }).await;
            settled(&cluster).await;
            history.end();
        };
        tokio::join!(load, events);
        converged(&cluster).await;
        for number in cluster.running() {
            cluster.crash(number);
            cluster.restart_node(number).await;
        }
        sleep(Duration::from_secs(10)).await;
        let placed = cluster.layout_of(3).layout.current.partitions;
        assert_eq!(placed.count(), 4 * FOUNDED, "a node forgot that partitions were cut");
        converged(&cluster).await;
        history.judge(&client).await;
    });
}

/// Given up, the partitions are as large as before, and owners are who they were; asked for again, it comes about.
#[test]
fn a_split_that_is_given_up_leaves_all_as_it_was() {
    simulate(2, 0.0, |simulation: Simulation| async move {
        let cluster = found(&simulation, 6, false).await;
        let client = cluster.client(1).await;
        let history = History::default();
        history.fill(&client, 0..KEYS).await;
        let before = cluster.layout_of(1).layout.current;
        order(&cluster, 1, split()).await;
        reached(&cluster, Stage::Copying).await;
        cluster.order(2, Change::Cancel).await.unwrap();
        settled(&cluster).await;
        let after = cluster.layout_of(1).layout;
        assert_eq!((after.partitions().count(), &after.current), (FOUNDED, &before));
        converged(&cluster).await;
        history.judge(&client).await;
        order(&cluster, 1, split()).await;
        settled(&cluster).await;
        converged(&cluster).await;
        history.judge(&client).await;
        assert!(cluster.layout_of(2).layout.current.has(&node(6)));
    });
}

/// Courses with each fault at each stage, once there are 18 of them.
fn courses(first: u64, what: impl Fn(u64) -> What) {
    let faults =
        [Fault::CrashLeader, Fault::CrashGaining, Fault::CrashOwner, Fault::Halves, Fault::Cancel, Fault::Conflict];
    let stages = [Stage::Spreading, Stage::Copying, Stage::Reading];
    let courses: Vec<(Fault, Stage)> = faults.iter().flat_map(|fault| stages.map(|at| (*fault, at))).collect();
    for (number, seed) in seeds(first, 3).enumerate() {
        let mut course = Course::draw(&mut rng(seed, "course"));
        // With this step neighbours differ in both, and all come about.
        (course.fault, course.at) = courses[number * 7 % courses.len()];
        course.what = what(seed);
        try_course(seed, course);
    }
}

/// `SIM_SEEDS` sets how many.
#[test]
fn whatever_goes_wrong_while_partitions_are_cut_nothing_is_lost_or_stale() {
    courses(2_000, |seed| if seed % 2 == 0 { What::Split } else { What::SplitAndJoin });
}

/// Trees of other partitions and of other numbers of copies become due in whatever order. `SIM_SEEDS` sets how many.
#[test]
fn whatever_goes_wrong_while_partitions_are_cut_and_copies_change_nothing_is_lost_or_stale() {
    courses(2_500, |seed| {
        let course = Course::draw_copies(&mut rng(seed, "copies"));
        let (from, to) = course.copies().expect("that is what was drawn");
        What::SplitAndCopies { from, to }
    });
}
