//! The client library under faults of the network, in virtual time: nothing is wrong, nothing fails, and little is late.

use std::time::Duration;

use dynamomini::client::Hedging;

use crate::cluster::{Cluster, address};
use crate::network::Conditions;
use crate::steady::{Report, Steady, run};
use crate::world::{Simulation, simulate};

/// Where the client is.
const CLIENT: usize = 101;

const CONDITIONS: Conditions = Conditions {
    latency: Duration::from_micros(300),
    jitter: Duration::from_micros(100),
    loss: 0.0,
    duplication: 0.0,
    reordering: 0.0,
    blocked: false,
};

/// Loses every packet from and to a node, or no longer.
fn silence(cluster: &Cluster, number: usize, blocked: bool) {
    for other in [1, 2, 3, CLIENT].into_iter().filter(|other| *other != number) {
        let (one, other) = (address(number).ip(), address(other).ip());
        cluster.network.set_both(one, other, |link| link.blocked = blocked);
    }
}

fn check(report: &Report, longest: Duration) {
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    assert!(report.wrong.is_empty(), "{:?}", report.wrong);
    assert!(report.longest.0 <= longest, "the longest took {:?}, due at {:?}", report.longest.0, report.longest.1);
}

/// `SIM_SEEDS` sets how many seeds.
#[test]
fn a_node_that_falls_silent_delays_nothing_by_more_than_100_ms_and_nothing_fails() {
    let seeds: u64 = std::env::var("SIM_SEEDS").map_or(1, |text| text.parse().expect("SIM_SEEDS is a number"));
    for seed in 1..=seeds {
        simulate(seed, 0.1, move |simulation: Simulation| async move {
            let cluster = Cluster::start(simulation.clone(), CONDITIONS, 3).await;
            let client = cluster.client(1).await;
            let faults = async {
                for (number, seconds) in [(1, 1), (2, 4)] {
                    tokio::time::sleep(Duration::from_millis(1_500)).await;
                    silence(&cluster, number, true);
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                    silence(&cluster, number, false);
                }
            };
            let load = Steady { requests: 1_600, per_second: 200, keys: 200 };
            let (report, ()) = tokio::join!(run(&client, load, "key"), faults);
            println!("seed {seed}: p99 {:?}, longest {:?}", report.per_mille(990), report.longest);
            check(&report, Duration::from_millis(100));
            let metrics = client.metrics();
            assert!(metrics.failovers > 0 && metrics.doubts > 0, "{metrics:?}");
        });
    }
}

/// The 99th percentile of a steady load while one node is 50 ms farther away than the others.
fn slow_node(seed: u64, hedging: Option<Hedging>) -> Duration {
    simulate(seed, 0.1, move |simulation: Simulation| async move {
        let cluster = Cluster::start(simulation.clone(), CONDITIONS, 3).await;
        let client = cluster.client_with(1, hedging).await;
        drop(run(&client, Steady { requests: 500, per_second: 200, keys: 100 }, "before").await);
        for other in [1, 2, CLIENT] {
            let slow = |link: &mut Conditions| link.latency = Duration::from_millis(25);
            cluster.network.set_both(address(3).ip(), address(other).ip(), slow);
        }
        let report = run(&client, Steady { requests: 1_000, per_second: 200, keys: 100 }, "slow").await;
        check(&report, Duration::from_millis(200));
        report.per_mille(990)
    })
}

#[test]
fn a_slow_node_is_not_felt_at_the_99th_percentile() {
    let (with, without) = (slow_node(4, Some(Hedging::default())), slow_node(4, None));
    println!("99th percentile with hedging {with:?}, without {without:?}");
    assert!(with < Duration::from_millis(25) && with <= without, "with hedging {with:?}, without {without:?}");
}
