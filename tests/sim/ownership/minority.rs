//! Most members are gone for good, and no majority can agree on anything: an administrator has one node decide it alone. Nothing is
//! lost that a survivor has, nor what the others acknowledged, should they only have been cut off.

use std::time::Duration;

use dynamomini::layout::{Change, Layout, Stage};
use tokio::time::{Instant, sleep};

use crate::cluster::{Cluster, Setup};
use crate::ownership::history::History;
use crate::ownership::judge::{converged, settled, settled_without};
use crate::ownership::{KEYS, found, found_with, keeping, node, reached};
use crate::world::{Simulation, seeds, simulate};

/// Three of five.
const GONE: [usize; 3] = [3, 4, 5];
/// In which everybody that is gone is known to be, and removed.
const PATIENCE: Duration = Duration::from_secs(240);

fn remove(number: usize) -> Change {
    Change::Remove { name: node(number) }
}

fn is_expected(layout: &Layout, number: usize) -> bool {
    layout.members().contains_key(&node(number)) && !layout.is_dead(&node(number))
}

/// Types what the README says until none of the three is left: by agreement where that can be had, else alone.
async fn give_up(cluster: &Cluster) {
    let began = Instant::now();
    loop {
        let layout = cluster.layout_of(1).layout;
        let left = GONE.into_iter().find(|number| layout.members().contains_key(&node(*number)));
        let Some(left) = left else { break };
        assert!(began.elapsed() < PATIENCE, "n{left} is still there: {:?}", cluster.layout_of(1));
        let expected = GONE.into_iter().find(|number| is_expected(&layout, *number));
        if let Some(expected) = expected
            && cluster.order_alone(1, remove(expected)).await.is_err()
        {
            drop(cluster.order(2, remove(expected)).await);
        }
        sleep(Duration::from_secs(5)).await;
    }
}

/// Starts another node and waits until it has its share.
async fn joined(cluster: &mut Cluster, number: usize) {
    let began = Instant::now();
    cluster.start_joining(number).await;
    while !cluster.layout_of(number).layout.current.has(&node(number)) {
        assert!(began.elapsed() < PATIENCE, "n{number} cannot join: {:?}", cluster.layout_of(1));
        sleep(Duration::from_secs(1)).await;
    }
    settled(cluster).await;
}

/// They die for good, while the sixth node joins or at rest; the survivors go on and let others join.
async fn gone(simulation: Simulation, during: Option<Stage>) {
    // Four copies of each key: of every key a survivor has one.
    let mut cluster = found_with(&simulation, Setup { nodes: 5, copies: Some(4), ..keeping(false) }).await;
    let client = cluster.client(1).await;
    let history = History::default();
    history.fill(&client, 0..KEYS).await;
    // Until the last replica of each write has it.
    sleep(Duration::from_secs(2)).await;
    if let Some(stage) = during {
        cluster.start_joining(6).await;
        reached(&cluster, stage).await;
    }
    for number in GONE {
        cluster.crash(number);
    }
    sleep(Duration::from_secs(20)).await;
    let refused = cluster.order(1, remove(3)).await.unwrap_err();
    assert!(refused.contains("no majority of the 5 members") && refused.contains("--without-majority"), "{refused}");
    give_up(&cluster).await;
    settled(&cluster).await;
    if during.is_none() {
        joined(&mut cluster, 6).await;
    }
    joined(&mut cluster, 7).await;
    converged(&cluster).await;
    history.judge(&client).await;
}

#[test]
fn a_minority_that_is_left_goes_on_with_all_it_has_and_grows_again() {
    simulate(1, 0.0, |simulation| gone(simulation, None));
}

#[test]
fn a_majority_that_dies_in_the_midst_of_a_change_is_given_up_at_any_stage() {
    for (seed, stage) in [(2, Stage::Spreading), (3, Stage::Copying), (4, Stage::Reading)] {
        simulate(seed, 0.0, move |simulation| gone(simulation, Some(stage)));
    }
}

/// They live, and go on by themselves; both sides take writes, until they hear of each other.
async fn cut_off(simulation: Simulation) {
    let mut cluster = found(&simulation, 5, false).await;
    let (here, there) = (cluster.pinned(1, 1).await, cluster.pinned(2, 4).await);
    let history = History::sloppy(true);
    history.fill(&here, 0..KEYS).await;
    let load = async {
        tokio::join!(
            history.probe(&here, simulation.rng("here"), 0..KEYS, KEYS, 5..20),
            history.probe(&there, simulation.rng("there"), 0..KEYS, KEYS + 1, 5..20),
            history.probe(&there, simulation.rng("there, too"), 0..KEYS, KEYS + 2, 5..20),
        )
    };
    let events = async {
        cluster.part(&[1, 2], &GONE, true);
        sleep(Duration::from_secs(20)).await;
        let refused = cluster.order_alone(4, remove(1)).await.unwrap_err();
        assert!(refused.contains("3 of 5 members answer"), "{refused}");
        give_up(&cluster).await;
        settled_without(&cluster, &GONE).await;
        sleep(Duration::from_secs(5)).await;
        cluster.part(&[1, 2], &GONE, false);
        settled(&cluster).await;
        sleep(Duration::from_secs(3)).await;
        history.end();
    };
    tokio::join!(load, events);
    joined(&mut cluster, 6).await;
    converged(&cluster).await;
    history.judge(&here).await;
}

/// `SIM_SEEDS` sets how many.
#[test]
fn a_majority_that_was_only_cut_off_hands_over_what_it_acknowledged() {
    for seed in seeds(1_000, 2) {
        simulate(seed, 0.0, cut_off);
    }
}
