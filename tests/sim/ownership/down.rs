//! Nodes that die for good while owners change: the change goes on without them where it safely can, and elsewhere the cluster
//! says what to type, and whatever of it is typed brings the change to its end.

use std::time::Duration;

use dynamomini::client::Client;
use dynamomini::layout::{Change, Stage};
use tokio::time::{Instant, sleep};

use crate::cluster::{Cluster, Setup, address};
use crate::ownership::history::History;
use crate::ownership::judge::{converged, settled};
use crate::ownership::{KEYS, PATIENCE, conditions, found, node, order, reached};
use crate::world::{Simulation, simulate};

/// In which failure detection has agreed, and what is not waited for is done.
const DETECTION: Duration = Duration::from_secs(20);
/// A node that runs, and has no part in the change until it replaces another.
const SPARE: usize = 7;

/// Who dies, of whom in which change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dies {
    /// The fifth node, while it joins four.
    Joining,
    /// One of four, while a fifth joins.
    OwnerInJoin,
    /// The fifth node, while it leaves.
    Leaving,
    /// Another of five, while the fifth leaves.
    OwnerInLeave,
}

/// What is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Typed {
    Cancel,
    Remove,
    Replace,
}

impl Dies {
    fn founders(self) -> usize {
        if matches!(self, Self::Joining | Self::OwnerInJoin) { 4 } else { 5 }
    }

    fn victim(self) -> usize {
        if matches!(self, Self::Joining | Self::Leaving) { 5 } else { 3 }
    }

    async fn begin(self, cluster: &mut Cluster) {
        match self {
            Self::Joining | Self::OwnerInJoin => cluster.start_joining(5).await,
            Self::Leaving | Self::OwnerInLeave => order(cluster, 1, Change::Leave { name: node(5) }).await,
        }
    }
}

/// What the node that leads says it waits for.
fn obstacles(cluster: &Cluster) -> String {
    let shown = cluster.running().into_iter().flat_map(|number| cluster.layout_of(number).obstacles);
    shown.map(|obstacle| obstacle.to_string()).collect::<Vec<_>>().join("\n")
}

fn is_over(cluster: &Cluster) -> bool {
    let first = cluster.layout_of(1).layout;
    first.version > 0 && first.next.is_none()
}

async fn type_in(cluster: &mut Cluster, typed: Typed, victim: usize) {
    let change = match typed {
        Typed::Cancel => Change::Cancel,
        Typed::Remove => Change::Remove { name: node(victim) },
        Typed::Replace => {
            cluster.start_node(SPARE).await;
            sleep(Duration::from_secs(5)).await;
            Change::Replace { old: node(victim), new: node(SPARE), quic: address(SPARE).to_string() }
        }
    };
    cluster.order_safely(2, change).await.unwrap();
}

/// Waits until nobody counts hints for a node that is gone.
async fn forgotten(cluster: &Cluster, client: &Client) {
    let (current, began) = (cluster.layout_of(1).layout.current, Instant::now());
    for number in cluster.running().into_iter().filter(|number| current.has(&node(*number))) {
        while !cluster.status(client, number).await.hints_for.iter().all(|hints| current.has(&hints.name)) {
            assert!(began.elapsed() < PATIENCE, "n{number} keeps hints for a node that is gone");
            sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Returns whether the change was held up, until `typed` was.
async fn die(simulation: Simulation, dies: Dies, at: Stage, typed: Typed) -> bool {
    let (mut cluster, victim) = (found(&simulation, dies.founders(), false).await, dies.victim());
    let client = cluster.client(1).await;
    let history = History::default();
    history.fill(&client, 0..KEYS).await;
    let load = history.load(&simulation, (&client, &client), 0..KEYS, 20..250);
    let events = async {
        dies.begin(&mut cluster).await;
        reached(&cluster, at).await;
        cluster.crash(victim);
        let began = Instant::now();
        while !is_over(&cluster) && began.elapsed() < DETECTION {
            sleep(Duration::from_millis(200)).await;
        }
        let is_held_up = !is_over(&cluster);
        if is_held_up {
            let (told, remove) = (obstacles(&cluster), format!("`dynamomini cluster remove n{victim}`"));
            assert!(told.contains(&remove) && told.contains("cluster cancel"), "{dies:?} {at:?}: {told:?}");
            type_in(&mut cluster, typed, victim).await;
        }
        settled(&cluster).await;
        // What is left of it: a member that is down, as any other.
        if cluster.layout_of(1).layout.current.has(&node(victim)) {
            order(&cluster, 1, Change::Remove { name: node(victim) }).await;
            settled(&cluster).await;
        }
        history.end();
        is_held_up
    };
    let ((), is_held_up) = tokio::join!(load, events);
    converged(&cluster).await;
    forgotten(&cluster, &client).await;
    let current = cluster.layout_of(1).layout.current;
    assert!(!current.has(&node(victim)), "{current:?}");
    if is_held_up && typed == Typed::Replace {
        assert_eq!(current.roles[&node(SPARE)].seat, node(victim));
    }
    history.judge(&client).await;
    is_held_up
}

#[test]
fn a_node_that_joins_and_dies_is_given_up_in_whatever_way_is_typed() {
    for typed in [Typed::Cancel, Typed::Remove, Typed::Replace] {
        let held = simulate(1, 0.0, move |simulation| die(simulation, Dies::Joining, Stage::Spreading, typed));
        assert!(held, "nobody can own what was never fetched");
    }
    simulate(2, 0.0, |simulation| die(simulation, Dies::Joining, Stage::Copying, Typed::Remove));
    let held = simulate(3, 0.0, |simulation| die(simulation, Dies::Joining, Stage::Reading, Typed::Remove));
    assert!(!held, "it had everything, and so have two others");
}

#[test]
fn an_owner_that_dies_while_another_joins_or_leaves_is_given_up_in_whatever_way_is_typed() {
    for typed in [Typed::Cancel, Typed::Remove, Typed::Replace] {
        let held = simulate(4, 0.0, move |simulation| die(simulation, Dies::OwnerInLeave, Stage::Spreading, typed));
        assert!(held, "it was to own more");
    }
    for at in [Stage::Spreading, Stage::Reading] {
        let held = simulate(5, 0.0, move |simulation| die(simulation, Dies::OwnerInJoin, at, Typed::Remove));
        assert!(!held, "it was to own less, so nothing is expected of it");
    }
}

#[test]
fn a_node_that_dies_while_it_leaves_holds_nobody_up() {
    for at in [Stage::Spreading, Stage::Copying, Stage::Reading] {
        assert!(!simulate(6, 0.0, move |simulation| die(simulation, Dies::Leaving, at, Typed::Remove)), "at {at:?}");
    }
}

/// Where one owner is enough for an answer, one that is down may go on by the old layout, so it is waited for until it is
/// removed: also one that was leaving, and while reads move.
async fn loose(simulation: Simulation, dies: Dies, at: Stage) {
    let setup = Setup { nodes: dies.founders(), keeps: true, strict: true, loose: true, ..Setup::default() };
    let conditions = conditions(&mut simulation.rng("conditions"));
    let mut cluster = Cluster::start_with(simulation.clone(), conditions, setup).await;
    let client = cluster.client(1).await;
    let history = History::default();
    history.fill(&client, 0..KEYS).await;
    // Until all replicas of each write have it.
    sleep(Duration::from_secs(2)).await;
    dies.begin(&mut cluster).await;
    reached(&cluster, at).await;
    cluster.crash(dies.victim());
    sleep(DETECTION).await;
    let told = obstacles(&cluster);
    assert!(!is_over(&cluster), "{dies:?} {at:?}: it might answer by itself");
    assert!(told.contains(&format!("`dynamomini cluster remove n{}`", dies.victim())), "{told:?}");
    let began = Instant::now();
    while let Err(error) = cluster.order_safely(1, Change::Remove { name: node(dies.victim()) }).await {
        assert!(began.elapsed() < PATIENCE, "{dies:?} {at:?}: {error}");
        sleep(Duration::from_secs(1)).await;
    }
    settled(&cluster).await;
    converged(&cluster).await;
    assert!(!cluster.layout_of(1).layout.current.has(&node(dies.victim())));
    history.judge(&client).await;
}

#[test]
fn a_member_that_is_waited_for_and_gone_can_be_removed_at_any_stage() {
    for at in [Stage::Spreading, Stage::Reading] {
        simulate(1, 0.0, move |simulation| loose(simulation, Dies::Leaving, at));
        simulate(2, 0.0, move |simulation| loose(simulation, Dies::OwnerInJoin, at));
    }
}

/// Whoever asks, and however: what the plan finds dangerous is refused by the node that would propose it.
#[test]
fn a_node_refuses_what_is_not_safe_unless_it_is_forced() {
    simulate(1, 0.0, |simulation| async move {
        let cluster = found(&simulation, 3, false).await;
        let leave = Change::Leave { name: node(3) };
        let refused = cluster.order_safely(1, leave.clone()).await.unwrap_err();
        assert!(refused.contains("there would be 2 nodes for 3 copies"), "{refused}");
        let refused = cluster.order_safely(1, Change::Remove { name: node(3) }).await.unwrap_err();
        assert!(refused.contains("n3 answers"), "{refused}");
        assert_eq!(cluster.layout_of(1).layout.version, 0);
        cluster.order(1, leave).await.unwrap();
        settled(&cluster).await;
        assert_eq!(cluster.layout_of(1).layout.current.roles.len(), 2);
    });
}
