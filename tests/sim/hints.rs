//! Hints outlive deliveries that fail: none goes before the owner has what it is for.

use std::time::Duration;

use dynamomini::client::{Client, PutOptions};
use dynamomini::store::{DiskFaults, Durability};
use dynamomini::types::Bucket;

use crate::cluster::{Cluster, Setup};
use crate::network::Conditions;
use crate::world::simulate;

const KEYS: u64 = 40;
const AWAY: usize = 3;

/// Hints that the others keep.
async fn kept(cluster: &Cluster, client: &Client) -> u64 {
    let mut kept = 0;
    for number in (1..=3).filter(|number| *number != AWAY) {
        kept += cluster.status(client, number).await.hints;
    }
    kept
}

/// Records on the disk of the node that was away.
fn arrived(cluster: &Cluster) -> u64 {
    let slots = cluster.host(AWAY).disk.slots();
    slots.iter().filter(|slot| slot.bucket != Bucket::HINTS).count() as u64
}

#[test]
fn a_hint_stays_until_the_owner_has_taken_what_it_is_for() {
    simulate(2_900, 0.1, |simulation| async move {
        let setup = Setup { nodes: 3, durability: Some(Durability::EveryBatch), ..Setup::default() };
        let cluster = Cluster::start_with(simulation.clone(), Conditions::default(), setup).await;
        let client = cluster.client(1).await;
        cluster.cut(AWAY, true);
        for number in 0..KEYS {
            let key = format!("key{number}");
            while client.put(key.clone(), "value", PutOptions::default()).await.is_err() {}
        }
        // It is back, with no room for anything.
        cluster.host(AWAY).disk.set_faults(DiskFaults { full: true, ..DiskFaults::default() });
        cluster.cut(AWAY, false);
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let (kept, arrived) = (kept(&cluster, &client).await, arrived(&cluster));
            assert!(kept + arrived >= KEYS, "{kept} hints are left, and {arrived} of {KEYS} records have arrived");
        }
        cluster.host(AWAY).disk.set_faults(DiskFaults::default());
        let give_up = simulation.elapsed() + Duration::from_secs(60);
        while kept(&cluster, &client).await > 0 || arrived(&cluster) < KEYS {
            assert!(simulation.elapsed() < give_up, "hints are not delivered");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
}
