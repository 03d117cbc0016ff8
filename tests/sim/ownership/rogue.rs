//! Faults made on purpose, by somebody who tells the nodes layouts that nobody voted for: the judges must find them.

use std::time::Duration;

use dynamomini::layout::{Layout, Next, Placement, Role, Stage};
use dynamomini::types::{Namespace, Partitions};
use dynamomini::view::ClusterView;
use dynamomini::wire::layout::LayoutRequest;
use dynamomini::wire::rpc::Request;
use tokio::time::sleep;

use crate::cluster::{Cluster, Setup, address};
use crate::ownership::history::History;
use crate::ownership::judge::imbalance;
use crate::ownership::{KEYS, found, found_with, keeping, node};
use crate::replicas::difference_by;
use crate::world::{Simulation, simulate};

fn placed(numbers: &[usize], weight: impl Fn(usize) -> u32) -> Placement {
    placed_by(64, numbers, weight)
}

/// The same, by so many partitions.
fn placed_by(partitions: u32, numbers: &[usize], weight: impl Fn(usize) -> u32) -> Placement {
    let partitions = Partitions::new(partitions).unwrap();
    let role = |number: &usize| {
        let (name, quic) = (node(*number), address(*number).to_string());
        (name.clone(), Role { quic, zone: "default".parse().unwrap(), weight: weight(*number), seat: name })
    };
    let copies = [(Namespace::default(), 3)].into();
    Placement { roles: numbers.iter().map(role).collect(), copies, partitions }
}

/// The next layout of a cluster of three, by which three others own everything.
fn others(stage: Option<Stage>) -> Layout {
    let (now, next) = (placed(&[1, 2, 3], |_| 100), placed(&[4, 5, 6], |_| 100));
    match stage {
        Some(stage) => Layout {
            version: 1,
            current: now,
            next: Some(Next { since: 1, placement: next, stage, dead: Default::default() }),
        },
        None => Layout { version: 1, current: next, next: None },
    }
}

/// What is wrong once all nodes of a cluster that so many founded have been told of this layout.
async fn after(simulation: Simulation, founders: usize, layout: Layout) -> Vec<String> {
    let copies = layout.current.copies.values().copied().next();
    let mut cluster = found_with(&simulation, Setup { nodes: founders, copies, ..keeping(false) }).await;
    let client = cluster.client(1).await;
    let history = History::default();
    history.fill(&client, 0..KEYS).await;
    for number in founders + 1..=6 {
        cluster.start_node(number).await;
    }
    sleep(Duration::from_secs(5)).await;
    let faults = async {
        sleep(Duration::from_secs(1)).await;
        for number in cluster.running() {
            let tell = Request::Layout(LayoutRequest::Tell(Box::new(layout.clone())));
            drop(cluster.ask_as("node/n1", number, tell).await.unwrap());
        }
        sleep(Duration::from_secs(2)).await;
        history.end();
    };
    tokio::join!(faults, history.reader(&client, simulation.rng("reader"), 0..KEYS, 5..20));
    history.wrong()
}

#[test]
fn reads_that_move_before_anything_was_copied_are_found() {
    let wrong = simulate(1, 0.0, |simulation| after(simulation, 3, others(Some(Stage::Reading))));
    assert!(wrong.iter().any(|wrong| wrong.contains("after 1 had been acknowledged")), "{wrong:?}");
}

/// A namespace with one copy is read as if it had three.
#[test]
fn reads_that_move_before_more_copies_were_made_are_found() {
    let (mut now, next) = (placed(&[1, 2, 3], |_| 100), placed(&[1, 2, 3], |_| 100));
    now.copies = [(Namespace::default(), 1)].into();
    let next = Some(Next { since: 1, placement: next, stage: Stage::Reading, dead: Default::default() });
    let layout = Layout { version: 1, current: now, next };
    let wrong = simulate(4, 0.0, |simulation| after(simulation, 3, layout));
    assert!(wrong.iter().any(|wrong| wrong.contains("after 1 had been acknowledged")), "{wrong:?}");
}

#[test]
fn owners_that_change_at_once_are_found() {
    let wrong = simulate(2, 0.0, |simulation| after(simulation, 3, others(None)));
    assert!(wrong.iter().any(|wrong| wrong.contains("after 1 had been acknowledged")), "{wrong:?}");
}

#[test]
fn partitions_that_are_cut_and_owned_by_others_at_once_are_found() {
    let current = placed_by(128, &[1, 2, 3, 4, 5, 6], |_| 100);
    let wrong = simulate(4, 0.0, |simulation| after(simulation, 6, Layout { version: 1, current, next: None }));
    assert!(wrong.iter().any(|wrong| wrong.contains("after 1 had been acknowledged")), "{wrong:?}");
}

/// Judged by a layout that nobody works by, somebody holds what is not its own, and somebody lacks what is.
#[test]
fn a_node_that_lacks_what_it_owns_is_found() {
    simulate(3, 0.0, |simulation| async move {
        let mut cluster: Cluster = found(&simulation, 3, false).await;
        let client = cluster.client(1).await;
        History::default().fill(&client, 0..KEYS).await;
        cluster.start_node(4).await;
        sleep(Duration::from_secs(5)).await;
        let by =
            |current: Placement| ClusterView::new(cluster.info.by(Layout { version: 1, current, next: None })).unwrap();
        let right = by(placed(&[1, 2, 3], |_| 100));
        assert_eq!((difference_by(&cluster, &right).await, imbalance(&right)), (None, None));
        assert!(difference_by(&cluster, &by(placed(&[1, 2, 3, 4], |_| 100))).await.is_some());
    });
}
