//! The client library under faults of the network, in virtual time: nothing is wrong, nothing fails, and little is late.

use std::time::Duration;

use dynamomini::client::Client;
use dynamomini::client::ClientMetrics;
use dynamomini::client::GetOptions;
use dynamomini::client::Hedging;
use dynamomini::client::PutOptions;
use dynamomini::types::Consistency;
use futures_util::future::join_all;
use tokio::time::Instant;
use tokio::time::sleep;
use tokio::time::sleep_until;

use crate::cluster::{Cluster, address};
use crate::network::Conditions;
use crate::steady::{Phases, Report, Steady, run};
use crate::world::{Simulation, seeds, simulate};

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
    for seed in seeds(1, 1) {
        simulate(seed, 0.1, move |simulation: Simulation| async move {
            let cluster = Cluster::start(simulation.clone(), CONDITIONS, 3).await;
            let client = cluster.client(1).await;
            let mut phases = Phases::new();
            let faults = async {
                for (number, seconds) in [(1, 1), (2, 4)] {
                    tokio::time::sleep(Duration::from_millis(1_500)).await;
                    phases.begin(format!("n{number} silent for {seconds} s and back"));
                    silence(&cluster, number, true);
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                    silence(&cluster, number, false);
                }
            };
            let load = Steady { requests: 1_600, per_second: 200, keys: 200 };
            let (report, ()) = tokio::join!(run(&client, load, "key"), faults);
            println!("seed {seed}: p99 {:?}, longest: {}", report.per_mille(990), report.longest_by_phase(&phases));
            check(&report, Duration::from_millis(100));
            let metrics = client.metrics();
            assert!(metrics.failovers > 0 && metrics.doubts > 0, "{metrics:?}");
        });
    }
}

/// A get every 5 ms at so many replicas, whatever became of those before; latencies in order of length.
async fn reads(client: &Client, r: Consistency, requests: u32) -> Vec<Duration> {
    let start = Instant::now();
    let read = |number: u32| async move {
        let due = start + Duration::from_millis(5) * number;
        sleep_until(due).await;
        let options = GetOptions { r: Some(r), ..GetOptions::default() };
        let found = client.get_with(format!("read/{}", number % 100), options).await.unwrap();
        assert!(found.single().is_some());
        Instant::now() - due
    };
    let mut latencies = join_all((0..requests).map(read)).await;
    latencies.sort_unstable();
    latencies
}

/// How a node is slow by 50 ms.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Slow {
    /// Node 3, always.
    Steadily,
    /// Each in turn, for 20 ms of 750.
    NowAndThen,
}

/// Sets how long packets from and to a node take.
fn delay(cluster: &Cluster, number: usize, latency: Duration) {
    for other in [1, 2, 3, CLIENT].into_iter().filter(|other| *other != number) {
        cluster.network.set_both(address(number).ip(), address(other).ip(), |link| link.latency = latency);
    }
}

async fn slowness(cluster: &Cluster, slow: Slow) {
    if slow == Slow::Steadily {
        delay(cluster, 3, CONDITIONS.latency + Duration::from_millis(25));
        std::future::pending::<()>().await;
    }
    for number in (1..=3).cycle() {
        sleep(Duration::from_millis(230)).await;
        delay(cluster, number, CONDITIONS.latency + Duration::from_millis(50));
        sleep(Duration::from_millis(20)).await;
        delay(cluster, number, CONDITIONS.latency);
    }
}

/// What 4000 gets under slowness took, at the median, the 99th percentile and in the worst case, and what the client did.
fn under(seed: u64, slow: Slow, r: u8, hedging: Option<Hedging>) -> ([Duration; 3], ClientMetrics) {
    simulate(seed, 0.1, move |simulation: Simulation| async move {
        const REQUESTS: u32 = 4_000;
        let cluster = Cluster::start(simulation.clone(), CONDITIONS, 3).await;
        let client = cluster.client_with(1, hedging).await;
        for number in 0..100 {
            let all = PutOptions { w: Some(Consistency::All), ..PutOptions::default() };
            client.put(format!("read/{number}"), "value", all).await.unwrap();
        }
        // So that all know what answers take when nothing is slow.
        reads(&client, Consistency::Count(r), 500).await;
        let before = client.metrics();
        let measured = async {
            let latencies = reads(&client, Consistency::Count(r), REQUESTS).await;
            let at = |share: usize| latencies[(latencies.len() - 1) * share / 1_000];
            let after = client.metrics();
            let did = ClientMetrics {
                hedges: after.hedges - before.hedges,
                failovers: after.failovers - before.failovers,
                attempts: after.attempts - before.attempts,
                ..after
            };
            ([at(500), at(990), at(1_000)], did)
        };
        tokio::select! {
            biased;
            measured = measured => measured,
            () = slowness(&cluster, slow) => unreachable!("it goes on for ever"),
        }
    })
}

/// One course with hedging and one without. Returns both 99th percentiles.
fn compared(seed: u64, slow: Slow, r: u8) -> [Duration; 2] {
    let (with, did) = under(seed, slow, r, Some(Hedging::default()));
    let (without, alone) = under(seed, slow, r, None);
    let [p50, p99, longest] = with;
    println!(
        "seed {seed}, R={r} {slow:?}: p50 {p50:?}, p99 {p99:?}, longest {longest:?}, {} hedges, {} failovers, {} attempts; without hedging {without:?}",
        did.hedges, did.failovers, did.attempts
    );
    let extra = did.hedges + did.failovers;
    assert_eq!((alone.hedges, alone.failovers), (0, 0));
    assert!(extra <= 450, "more than a tenth and the burst: {extra}");
    assert!(slow != Slow::Steadily || extra < 100, "{extra}");
    [p99, without[1]]
}

/// What is measured is virtual time, so the figures are the same on every machine.
#[test]
fn a_node_that_is_always_slow_is_avoided_and_one_that_is_slow_now_and_then_is_hedged() {
    for r in [1, 2] {
        assert!(compared(4, Slow::Steadily, r)[0] < Duration::from_millis(25));
        for seed in 1..=8 {
            let [with, without] = compared(seed, Slow::NowAndThen, r);
            assert!(without > Duration::from_millis(50) && with * 4 < without * 3, "seed {seed}: {with:?} {without:?}");
        }
    }
}
