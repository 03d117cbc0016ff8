//! Hints outlive deliveries that fail: none goes before the owner has what it is for. Beyond their budget they collapse to
//! marks, of which the same is true, and nothing is refused for that.

use std::collections::BTreeMap;
use std::time::Duration;

use dynamomini::client::{Client, GetOptions, PutOptions};
use dynamomini::layout::Change;
use dynamomini::store::{DiskFaults, Durability};
use dynamomini::types::{Bucket, Consistency};
use dynamomini::view::ClusterView;
use rand::RngExt;
use rand::rngs::StdRng;

use crate::cluster::{Cluster, Setup};
use crate::network::Conditions;
use crate::replicas::{PATIENCE, difference_by};
use crate::world::{Simulation, seeds, simulate};

const KEYS: u64 = 40;
const AWAY: usize = 3;

/// Hints that the others keep, and partitions that are marked.
async fn kept_and_marked(cluster: &Cluster, client: &Client) -> (u64, u64) {
    let (mut kept, mut marked) = (0, 0);
    for number in (1..=3).filter(|number| *number != AWAY) {
        let status = cluster.status(client, number).await;
        kept += status.hints;
        marked += status.hints_for.iter().map(|hints| hints.marked).sum::<u64>();
    }
    (kept, marked)
}

async fn kept(cluster: &Cluster, client: &Client) -> u64 {
    kept_and_marked(cluster, client).await.0
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

#[test]
fn whoever_waits_for_hints_waits_for_what_is_marked_too() {
    for hints_max in [0, 5] {
        simulate(2_901, 0.1, move |simulation| async move {
            let setup = Setup {
                nodes: 3,
                durability: Some(Durability::EveryBatch),
                hints_max: Some(hints_max),
                ..Setup::default()
            };
            let cluster = Cluster::start_with(simulation.clone(), Conditions::default(), setup).await;
            let client = cluster.client(1).await;
            cluster.cut(AWAY, true);
            for number in 0..KEYS {
                let key = format!("key{number}");
                while client.put(key.clone(), "value", PutOptions::default()).await.is_err() {}
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
            let (kept, marked) = kept_and_marked(&cluster, &client).await;
            assert!(kept <= 2 * hints_max && marked > 0, "{kept} hints, {marked} marks");
            cluster.cut(AWAY, false);
            let give_up = simulation.elapsed() + Duration::from_secs(60);
            while kept_and_marked(&cluster, &client).await != (0, 0) {
                assert!(simulation.elapsed() < give_up, "what is marked is not delivered");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert_eq!(arrived(&cluster), KEYS, "nothing is on its way any more");
        });
    }
}

/// The nodes that nobody else reaches; some keys have all their owners among them.
const FAR: [usize; 3] = [4, 5, 6];
const NEAR: [usize; 3] = [1, 2, 3];
const KEYS_OF_ALL: u64 = 30;

/// Writes some keys anew through the near nodes; what was acknowledged replaces what was before.
async fn write(clients: &[Client], rng: &mut StdRng, round: u64, acknowledged: &mut BTreeMap<String, String>) {
    for number in 0..KEYS_OF_ALL {
        let (key, client) = (format!("key{number}"), &clients[rng.random_range(0..clients.len())]);
        let value = format!("{number} in round {round}");
        let got = client.get_with(key.clone(), GetOptions { r: Some(Consistency::One), ..GetOptions::default() }).await;
        let options = got.map_or_else(|_| PutOptions::default(), |got| PutOptions::after(&got.context));
        let mut tries = 0;
        while let Err(error) = client.put(key.clone(), value.clone(), options.clone()).await {
            tries += 1;
            assert!(tries < 30 && !error.to_string().contains("hint"), "{key}: {error}");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        acknowledged.insert(key, value);
    }
}

/// Ends a node as kill -9 does, or its machine, and starts it again.
async fn fell(cluster: &mut Cluster, rng: &mut StdRng, number: usize, on_disk: bool) {
    if !on_disk || rng.random_bool(0.5) {
        cluster.crash(number);
    } else {
        cluster.power_cut(number);
    }
    tokio::time::sleep(Duration::from_millis(rng.random_range(0..2_000))).await;
    cluster.restart_node(number).await;
}

/// Gives a node another share, so that others own its data from then on and nodes tell what they stand in for from what
/// they owned.
async fn change_owners(cluster: &Cluster) {
    cluster.order(1, Change::Weight { name: "n1".parse().unwrap(), weight: 150 }).await.unwrap();
    let is_over = |number: &usize| {
        let layout = cluster.layout_of(*number).layout;
        layout.version > 0 && layout.next.is_none()
    };
    while !cluster.running().iter().all(is_over) {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
}

/// Waits until all owners are equal by the layout that there is now.
async fn converged_by_layout(cluster: &Cluster) {
    let give_up = cluster.simulation.elapsed() + PATIENCE;
    let view = ClusterView::new(cluster.info.by(cluster.layout_of(1).layout)).unwrap();
    while let Some(difference) = difference_by(cluster, &view).await {
        assert!(cluster.simulation.elapsed() < give_up, "after {PATIENCE:?} still: {difference}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Half of the cluster is away, hints have hardly any room, and those who stand in are killed while they keep marks, and while
/// they deliver what is under them; in some seeds after a change of owners.
async fn collapses(simulation: Simulation) {
    let mut rng = simulation.rng("hints");
    let hints_max = Some(rng.random_range(0..4));
    // What nodes have in memory outlives a crash together with their layout.
    let on_disk = rng.random_bool(0.5);
    let durability = on_disk.then_some(Durability::EveryBatch);
    let setup = Setup { nodes: 6, durability, keeps: !on_disk, hints_max, ..Setup::default() };
    let conditions = Conditions { loss: rng.random_range(0.0..0.02), ..Conditions::default() };
    let mut cluster = Cluster::start_with(simulation.clone(), conditions, setup).await;
    let mut clients = Vec::new();
    for number in NEAR {
        clients.push(cluster.pinned(number, number).await);
    }
    if !on_disk {
        change_owners(&cluster).await;
    }
    cluster.part(&NEAR, &FAR, true);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut acknowledged = BTreeMap::new();
    for round in 0..3 {
        write(&clients, &mut rng, round, &mut acknowledged).await;
        let victim = NEAR[rng.random_range(0..NEAR.len())];
        fell(&mut cluster, &mut rng, victim, on_disk).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    let mut marked = 0;
    for (client, number) in clients.iter().zip(NEAR) {
        let status = cluster.status(client, number).await;
        marked += status.hints_for.iter().map(|hints| hints.marked).sum::<u64>();
    }
    assert!(marked > 0, "nothing is marked");
    // One is back before the others, and those who deliver are killed meanwhile.
    for back in [&FAR[..1], &FAR[1..]] {
        cluster.part(&NEAR, back, false);
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..8_000))).await;
            let victim = NEAR[rng.random_range(0..NEAR.len())];
            fell(&mut cluster, &mut rng, victim, on_disk).await;
        }
    }
    converged_by_layout(&cluster).await;
    for (key, value) in acknowledged {
        let options = GetOptions { r: Some(Consistency::Quorum), ..GetOptions::default() };
        let got = clients[0].get_with(key.clone(), options).await.unwrap();
        assert!(got.siblings.iter().any(|sibling| sibling.value == value.as_bytes()), "{key} has lost {value:?}");
    }
}

#[test]
fn beyond_the_budget_for_hints_no_write_is_refused_and_none_is_lost() {
    for seed in seeds(2_910, 4) {
        simulate(seed, 0.1, collapses);
    }
}
