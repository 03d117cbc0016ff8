//! A node with more to do than it can, in virtual time: what it does, it does in time; the rest it refuses at once.

use std::time::Duration;

use dynamomini::client::ClientError;
use dynamomini::client::GetOptions;
use dynamomini::client::PutOptions;
use dynamomini::node::Bounds;
use dynamomini::types::Consistency;
use dynamomini::wire::rpc::ServeError;
use futures_util::future::join_all;
use tokio::time::Instant;
use tokio::time::sleep_until;

use crate::cluster::Cluster;
use crate::cluster::Setup;
use crate::cluster::address;
use crate::network::Conditions;
use crate::world::Simulation;
use crate::world::simulate;

/// What the node may work on: with replicas 40 ms away, 400 gets a second.
const BOUNDS: Bounds = Bounds { work: 16, waiting: 64, bytes: 1 << 20 };
/// Three times as many.
const PER_SECOND: u32 = 1_200;
const SECONDS: u32 = 3;
const PATIENCE: Duration = Duration::from_millis(250);

/// Whether a get was answered in time, and if not, whether it was turned away.
#[derive(Debug, PartialEq)]
enum Outcome {
    Answered,
    TurnedAway,
}

#[test]
fn a_node_asked_for_three_times_what_it_can_do_does_all_it_can_and_turns_the_rest_away_at_once() {
    simulate(5, 0.1, |simulation: Simulation| async move {
        let near = Conditions { latency: Duration::from_micros(300), ..Conditions::default() };
        let setup = Setup { nodes: 3, bounds: Some(BOUNDS), ..Setup::default() };
        let cluster = Cluster::start_with(simulation, near, setup).await;
        let client = cluster.pinned(1, 1).await;
        let all = PutOptions { w: Some(Consistency::All), ..PutOptions::default() };
        client.put("key", "value", all).await.unwrap();
        for (one, other) in [(1, 2), (1, 3), (2, 3)] {
            let (one, other) = (address(one).ip(), address(other).ip());
            cluster.network.set_both(one, other, |link| link.latency = Duration::from_millis(20));
        }
        let start = Instant::now();
        let get = |number: u32| {
            let client = &client;
            async move {
                sleep_until(start + Duration::from_secs(1) * number / PER_SECOND).await;
                let options =
                    GetOptions { r: Some(Consistency::Count(2)), timeout: Some(PATIENCE), ..GetOptions::default() };
                match client.get_with("key", options).await {
                    Ok(found) => {
                        assert!(found.exists());
                        Outcome::Answered
                    }
                    Err(error) => {
                        assert!(error.is_retryable() && !error.may_have_applied(), "{error}");
                        Outcome::TurnedAway
                    }
                }
            }
        };
        let work = join_all((0..PER_SECOND * SECONDS).map(get));
        let watch = async {
            let mut most = 0;
            while start.elapsed() < Duration::from_secs(SECONDS.into()) {
                tokio::time::sleep(Duration::from_millis(50)).await;
                most = most.max(cluster.in_flight(1).await);
            }
            most
        };
        let (outcomes, most) = tokio::join!(work, watch);
        let answered = outcomes.iter().filter(|outcome| **outcome == Outcome::Answered).count();
        let metrics = client.metrics();
        println!(
            "{answered} of {} answered, {} turned away, at most {most} in the node",
            outcomes.len(),
            metrics.overloads
        );
        // What could be done in this time is 16 every 40 ms.
        assert!(answered >= 1_000, "{answered} of 1200");
        assert!(metrics.overloads > 1_000, "{}", metrics.overloads);
        // Those that work or wait, and a few that are being refused.
        assert!(most <= 16 + 64 + 20, "{most}");
        // An overloaded node still says how it is, and serves again at once.
        assert!(client.get("key").await.unwrap().exists());
    });
}

#[test]
fn a_client_asks_another_node_when_one_has_too_much_to_do() {
    simulate(6, 0.1, |simulation: Simulation| async move {
        // One node takes nothing at all.
        let bounds_of = [(2, Bounds { work: 1, waiting: 0, bytes: 0 })].into();
        let setup = Setup { nodes: 3, bounds_of, ..Setup::default() };
        let cluster = Cluster::start_with(simulation, Conditions::default(), setup).await;
        let client = cluster.client(1).await;
        for number in 0..200 {
            client.put(format!("key{number}"), "value", PutOptions::default()).await.unwrap();
            assert!(client.get(format!("key{number}")).await.unwrap().exists());
        }
        let metrics = client.metrics();
        assert!(metrics.overloads > 0, "the node was never asked");
        // It was soon asked less: it is no first choice of reads, and of writes only where it is the first owner.
        assert!(metrics.overloads < 150, "{}", metrics.overloads);
        let pinned = cluster.pinned(2, 2).await;
        let options = GetOptions { timeout: Some(Duration::from_millis(500)), ..GetOptions::default() };
        let error = pinned.get_with("key1", options).await.unwrap_err();
        assert!(
            matches!(&error, ClientError::Rejected(ServeError::Overloaded(_)) | ClientError::Unreachable(_)),
            "{error}"
        );
        assert!(error.is_retryable() && error.to_string().contains("overloaded"), "{error}");
    });
}
