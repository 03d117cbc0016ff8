//! Membership of whole nodes on the simulated network: gossip sealed and signed, greetings over real QUIC.

use std::net::SocketAddr;
use std::time::Duration;

use dynamomini::wire::gossip::MemberState;
use tokio::time::Instant;

use crate::cluster::{Cluster, address};
use crate::network::Conditions;
use crate::world::{Simulation, simulate};

/// Virtual time in which anything must have come about.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until every running node holds this of a member, or of all; returns how long that took.
async fn until(cluster: &Cluster, name: Option<&str>, state: MemberState, members: usize) -> Duration {
    let began = Instant::now();
    'again: loop {
        assert!(began.elapsed() < PATIENCE, "not everybody holds {name:?} {state:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
        for node in cluster.running() {
            let view = cluster.view_of(node).await;
            let fits = view.len() == members
                && view.iter().all(|(one, held)| name.is_some_and(|name| name != one) || *held == state);
            if !fits {
                continue 'again;
            }
        }
        return began.elapsed();
    }
}

async fn life(simulation: Simulation) -> (u64, Vec<Duration>) {
    let conditions =
        Conditions { jitter: Duration::from_millis(2), loss: 0.02, duplication: 0.02, ..Conditions::default() };
    let mut cluster = Cluster::start(simulation, conditions, 4).await;
    let mut took = vec![until(&cluster, None, MemberState::Alive, 4).await];
    cluster.crash(2);
    took.push(until(&cluster, Some("n2"), MemberState::Failed, 4).await);
    // With an empty disk, so that nothing is left of its last incarnation.
    cluster.start_node(2).await;
    took.push(until(&cluster, None, MemberState::Alive, 4).await);
    cluster.stop(3).await;
    took.push(until(&cluster, Some("n3"), MemberState::Left, 4).await);
    cluster.start_node(3).await;
    took.push(until(&cluster, None, MemberState::Alive, 4).await);
    cluster.start_node(5).await;
    took.push(until(&cluster, None, MemberState::Alive, 5).await);
    (cluster.network.trace(), took)
}

#[test]
fn nodes_find_miss_and_find_each_other_again_and_one_seed_gives_one_trace() {
    let (first, second) = (simulate(3, 0.1, life), simulate(3, 0.1, life));
    assert_eq!(first, second, "seed 3: the runs differ");
    assert_ne!(first.0, simulate(4, 0.1, life).0, "the seed decides nothing");
}

#[test]
fn membership_is_soon_right_over_several_seeds() {
    for seed in 20..24 {
        let (_, took) = simulate(seed, 0.1, life);
        println!("seed {seed}: found, failed, back, left, back, joined after {took:?}");
        assert!(took.iter().all(|took| *took < Duration::from_secs(10)), "seed {seed}: {took:?}");
    }
}

#[test]
fn a_split_in_halves_heals_by_itself() {
    simulate(5, 0.0, |simulation| async move {
        let cluster = Cluster::start(simulation, Conditions::default(), 4).await;
        until(&cluster, None, MemberState::Alive, 4).await;
        let halves = |blocked: bool| {
            for (one, other) in [(1, 3), (1, 4), (2, 3), (2, 4)] {
                cluster.network.set_both(address(one).ip(), address(other).ip(), |link| link.blocked = blocked);
            }
        };
        halves(true);
        tokio::time::sleep(Duration::from_secs(120)).await;
        let view = cluster.view_of(1).await;
        assert_eq!((view["n2"], view["n3"]), (MemberState::Alive, MemberState::Failed));
        halves(false);
        let took = until(&cluster, None, MemberState::Alive, 4).await;
        assert!(took < Duration::from_secs(20), "{took:?}");
    });
}

#[test]
fn hostile_datagrams_are_counted_and_change_nothing() {
    simulate(6, 0.0, |simulation| async move {
        let cluster = Cluster::start(simulation.clone(), Conditions::default(), 3).await;
        until(&cluster, None, MemberState::Alive, 3).await;
        let hostile = cluster.network.socket("10.0.0.66:6".parse().unwrap());
        let target = SocketAddr::new(address(1).ip(), 7601);
        let mut rng = simulation.rng("hostile");
        for round in 0..500_u16 {
            use rand::Rng;
            let mut junk = vec![0; usize::from(round)];
            rng.fill_bytes(&mut junk);
            // Half of them begin as a datagram does.
            if round % 2 == 0 && !junk.is_empty() {
                junk[0] = 1;
            }
            hostile.send(target, &junk);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let view = cluster.view_of(1).await;
        assert!(view.values().all(|state| *state == MemberState::Alive), "{view:?}");
        let mut dropped = 0;
        for kind in ["dropped_junk", "dropped_truncated", "dropped_wrong_cluster"] {
            let count = cluster.count_of(1, kind).await;
            assert!(count > 0, "no {kind}");
            dropped += count;
        }
        assert!(dropped >= 499, "{dropped} of 500 were counted");
        assert_eq!(cluster.count_of(1, "refused_malformed").await, 0, "junk came past the seal");
    });
}
