//! Anti-entropy in simulated clusters: after faults, with no reads and no writes, all owners hold the same bytes, and
//! then nothing moves any more.

use std::time::Duration;

use bytes::Bytes;
use dynamomini::client::{Client, GetOptions, PutOptions, ScanOptions};
use dynamomini::hash::ClusterHash;
use dynamomini::limits;
use dynamomini::record;
use dynamomini::store::{Engine, Mutation, Slot};
use dynamomini::types::{Bucket, Consistency, Copies, Epoch, NodeId, NodeName};
use dynamomini::version::{Actor, Context, Dot, Siblings};
use dynamomini::view::ClusterView;
use dynamomini::wire::sync::RepairRequest;
use rand::RngExt;
use rand::rngs::StdRng;

use crate::cluster::Cluster;
use crate::network::Conditions;
use crate::replicas::{converged, difference, records};
use crate::world::{Simulation, seeds, simulate};

/// A round of comparisons at least, also of trees that do not change.
const QUIET: Duration = Duration::from_secs(340);

/// Records that any node has sent or taken in anti-entropy, and whether all trees were found equal.
async fn moved(client: &Client, cluster: &Cluster) -> (u64, bool) {
    let (mut moved, mut verified) = (0, true);
    for member in &cluster.info.members {
        let sync = client.status(&member.name).await.unwrap().sync;
        moved += sync.peers.iter().map(|peer| peer.records_in + peer.records_out).sum::<u64>();
        verified &= sync.known == sync.partitions && sync.peers.iter().all(|peer| peer.oldest_ms.is_some());
    }
    (moved, verified)
}

/// Equal owners stay equal, and find nothing to send any more.
async fn quiet(client: &Client, cluster: &Cluster) {
    converged(cluster).await;
    tokio::time::sleep(QUIET).await;
    let (before, _) = moved(client, cluster).await;
    tokio::time::sleep(QUIET).await;
    let (after, verified) = moved(client, cluster).await;
    assert_eq!(before, after, "equal owners sent records");
    assert!(verified, "equal owners did not find out that they are");
    assert_eq!(difference(cluster).await, None);
}

async fn write(client: &Client, rng: &mut StdRng, count: usize) {
    for _ in 0..count {
        let key = format!("key{}", rng.random_range(0..200));
        // Some fail while nodes are away; what is left of those has to come together, too.
        if rng.random_bool(0.2) {
            drop(client.delete(key, PutOptions::default()).await);
        } else {
            let value = format!("value {}", rng.random::<u32>());
            drop(client.put(key, value, PutOptions::default()).await);
        }
    }
}

/// Writes among cuts, crashes and lost disks.
async fn scenario(simulation: Simulation) -> u64 {
    let mut rng = simulation.rng("sync");
    let conditions = Conditions { loss: rng.random_range(0.0..0.05), ..Conditions::default() };
    let nodes = rng.random_range(3..=5);
    let mut cluster = Cluster::start(simulation.clone(), conditions, nodes).await;
    let client = cluster.client(1).await;
    write(&client, &mut rng, 100).await;
    for _ in 0..3 {
        let victim = rng.random_range(1..=nodes);
        let loses_disk = rng.random_bool(0.5);
        if loses_disk {
            cluster.network.event(&format!("crash n{victim}"));
            cluster.crash(victim);
        } else {
            cluster.network.event(&format!("cut n{victim}"));
            cluster.cut(victim, true);
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..8_000))).await;
        write(&client, &mut rng, 40).await;
        if loses_disk {
            cluster.start_node(victim).await;
        } else {
            cluster.cut(victim, false);
        }
        write(&client, &mut rng, 20).await;
    }
    quiet(&client, &cluster).await;
    cluster.network.trace()
}

#[test]
fn after_healing_owners_become_equal_without_reads_and_then_nothing_moves() {
    for seed in seeds(500, 6) {
        simulate(seed, 0.1, scenario);
    }
}

#[test]
fn one_seed_gives_one_trace_with_anti_entropy_at_work() {
    assert_eq!(simulate(42, 0.1, scenario), simulate(42, 0.1, scenario), "seed 42: the runs differ");
}

/// Takes all hints from all disks; returns whether there were any.
async fn lose_hints(cluster: &Cluster) -> bool {
    let mut any = false;
    for (_, engine) in cluster.engines() {
        let hints = records(&engine, [Bucket::HINTS].into_iter()).await;
        any |= !hints.is_empty();
        let delete = |(bucket, key)| Mutation::Delete { slot: Slot { bucket, key } };
        engine.write(engine.epoch(), hints.into_keys().map(delete).collect()).await.unwrap();
    }
    any
}

/// Every hint goes with the disks of those that kept them; only trees can find what the node missed.
#[test]
fn what_a_node_missed_comes_although_all_hints_are_lost() {
    simulate(3, 0.1, |simulation| async move {
        let mut rng = simulation.rng("sync");
        let cluster = Cluster::start(simulation.clone(), Conditions::default(), 3).await;
        let client = cluster.client(1).await;
        cluster.cut(3, true);
        write(&client, &mut rng, 150).await;
        // Writes that were answered keep hints when their last replica is given up.
        let mut quiet_for = 0;
        while quiet_for < 5 {
            quiet_for = if lose_hints(&cluster).await { 0 } else { quiet_for + 1 };
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!(difference(&cluster).await.is_some(), "the node missed nothing");
        cluster.cut(3, false);
        quiet(&client, &cluster).await;
        assert!(moved(&client, &cluster).await.0 > 0, "it was not anti-entropy that brought them together");
    });
}

/// The storage is flushed under a running node, as `FLUSHALL` does: its epoch is new and its trees are, too.
#[test]
fn a_storage_flushed_under_its_node_is_filled_again() {
    simulate(4, 0.1, |simulation| async move {
        let mut rng = simulation.rng("sync");
        let cluster = Cluster::start(simulation.clone(), Conditions::default(), 4).await;
        let client = cluster.client(1).await;
        write(&client, &mut rng, 200).await;
        quiet(&client, &cluster).await;
        let (before, _) = moved(&client, &cluster).await;
        let engines = cluster.engines();
        let Engine::Memory(memory) = &engines[&2] else { panic!("simulated nodes keep their records in memory") };
        memory.wipe();
        assert!(difference(&cluster).await.is_some());
        quiet(&client, &cluster).await;
        assert!(moved(&client, &cluster).await.0 > before);
    });
}

/// Flips a bit of a record behind its node's back.
async fn damage(engine: &Engine, slot: &Slot, record: &Bytes) {
    let mut damaged = record.to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let put = Mutation::Put { slot: slot.clone(), value: damaged.into() };
    engine.write(engine.epoch(), vec![put]).await.unwrap();
}

/// Two of three replicas cannot read a record. A scan that needs one asks on until it has it, and it is repaired.
#[test]
fn a_scan_does_not_leave_out_what_one_replica_cannot_read() {
    simulate(6, 0.1, |simulation| async move {
        let cluster = Cluster::start(simulation.clone(), Conditions::default(), 3).await;
        let client = cluster.client(1).await;
        client.put("key", "value", PutOptions::default()).await.unwrap();
        quiet(&client, &cluster).await;
        let view = ClusterView::new(cluster.info.clone()).unwrap();
        let engines = cluster.engines();
        let all = records(&engines[&1], view.info().partitions.buckets()).await;
        let ((bucket, key), record) = all.into_iter().next().unwrap();
        let slot = Slot { bucket, key };
        for number in [1, 2] {
            damage(&engines[&number], &slot, &record).await;
        }
        for _ in 0..4 {
            let options = ScanOptions { r: Some(Consistency::One), ..ScanOptions::default() };
            let found = client.scan("", options).next().await.unwrap();
            assert_eq!(found.expect("the record was left out").0, "key");
        }
        converged(&cluster).await;
        assert_eq!(engines[&1].get_many(std::slice::from_ref(&slot)).await.unwrap(), [Some(record)]);
    });
}

/// A record is damaged behind the node's back. A read meets the damage; nobody has to write for its repair.
#[test]
fn a_damaged_record_that_a_read_meets_is_repaired_from_the_other_owners() {
    simulate(5, 0.1, |simulation| async move {
        let mut rng = simulation.rng("sync");
        let cluster = Cluster::start(simulation.clone(), Conditions::default(), 3).await;
        let client = cluster.client(1).await;
        write(&client, &mut rng, 100).await;
        quiet(&client, &cluster).await;
        let engine = cluster.engines().remove(&1).unwrap();
        let view = ClusterView::new(cluster.info.clone()).unwrap();
        let all = records(&engine, view.info().partitions.buckets()).await;
        let ((bucket, key), record) = all.into_iter().next().unwrap();
        let slot = Slot { bucket, key: key.clone() };
        damage(&engine, &slot, &record).await;
        let (_, key) = dynamomini::record::split_storage_key(&key).unwrap();
        // All three are asked, and one cannot answer; by the time the client tries again it may be repaired.
        let all =
            GetOptions { r: Some(Consistency::All), timeout: Some(Duration::from_secs(2)), ..GetOptions::default() };
        drop(client.get_with(key, all).await);
        converged(&cluster).await;
        assert_eq!(engine.get_many(&[slot]).await.unwrap(), [Some(record)]);
    });
}

/// Records are damaged that nobody reads. Their node looks through its partitions, one in each turn, all within a day.
#[test]
fn damage_that_nobody_meets_is_found_in_turn_and_repaired() {
    simulate(9, 0.1, |simulation| async move {
        let mut rng = simulation.rng("sync");
        let cluster = Cluster::start(simulation.clone(), Conditions::default(), 3).await;
        let client = cluster.client(1).await;
        write(&client, &mut rng, 100).await;
        converged(&cluster).await;
        let engine = cluster.engines().remove(&1).unwrap();
        // The first is not looked at before the others were.
        let first_turns = cluster.info.partitions.buckets().skip(1).take(3);
        let damaged = records(&engine, first_turns).await;
        assert!(!damaged.is_empty(), "there is nothing to damage");
        for ((bucket, key), record) in damaged {
            damage(&engine, &Slot { bucket, key }, &record).await;
        }
        let turn = limits::TREE_CHECK_INTERVAL / cluster.info.partitions.count();
        tokio::time::sleep(turn / 2).await;
        assert!(difference(&cluster).await.is_some(), "something else met it");
        tokio::time::sleep(turn * 3).await;
        converged(&cluster).await;
    });
}

/// What a stand-in keeps for an owner is compared with nobody's, so nobody would repair it.
#[test]
fn a_stand_in_drops_what_it_cannot_read_when_the_owner_is_back() {
    simulate(8, 0.1, |simulation| async move {
        let mut rng = simulation.rng("sync");
        let cluster = Cluster::start(simulation.clone(), Conditions::default(), 5).await;
        let client = cluster.client(1).await;
        cluster.cut(5, true);
        write(&client, &mut rng, 60).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let view = ClusterView::new(cluster.info.clone()).unwrap();
        let ring = view.ring(Copies::settled(3)).unwrap();
        let mut damaged = 0;
        for (number, engine) in cluster.engines() {
            let id = ClusterHash::node_id(&NodeName::new(format!("n{number}")).unwrap());
            for ((bucket, key), record) in records(&engine, view.info().partitions.buckets()).await {
                let partition = ring.partitions().of(record::position(view.hash(), &key).unwrap());
                if !ring.preference_list(partition).contains(&id) {
                    damage(&engine, &Slot { bucket, key }, &record).await;
                    damaged += 1;
                }
            }
        }
        assert!(damaged > 0, "nobody stood in");
        cluster.cut(5, false);
        converged(&cluster).await;
    });
}

/// The hints that a node keeps for another one: how many, and how old the oldest is.
async fn hints_for(cluster: &Cluster, client: &Client, number: usize, target: &str) -> (u64, u64, Duration) {
    let status = cluster.status(client, number).await;
    let hints = status.hints_for.into_iter().find(|hints| hints.name.as_str() == target);
    hints.map_or_else(Default::default, |hints| (hints.count, hints.bytes, Duration::from_millis(hints.oldest_ms)))
}

#[test]
fn hints_are_counted_with_their_age_and_travel_in_few_messages() {
    simulate(700, 0.1, |simulation: Simulation| async move {
        let mut cluster = Cluster::start(simulation, Conditions::default(), 3).await;
        let client = cluster.client(1).await;
        cluster.cut(3, true);
        tokio::time::sleep(Duration::from_secs(10)).await;
        for number in 0..300 {
            client.put(format!("key{number}"), "value", PutOptions::default()).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
        let mut kept = 0;
        for number in [1, 2] {
            let (count, bytes, oldest) = hints_for(&cluster, &client, number, "n3").await;
            assert!(
                count == 0 || (bytes > 20 * count && oldest >= Duration::from_secs(30)),
                "{count} {bytes} {oldest:?}"
            );
            kept += count;
        }
        assert!(kept >= 300, "{kept} hints for 300 writes that n3 missed");
        cluster.cut(3, false);
        let give_up = cluster.simulation.elapsed() + Duration::from_secs(300);
        while hints_for(&cluster, &client, 1, "n3").await.0 + hints_for(&cluster, &client, 2, "n3").await.0 > 0 {
            assert!(cluster.simulation.elapsed() < give_up);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let status = cluster.status(&client, 3).await;
        let (_, applies) = status.requests.iter().find(|(kind, _)| kind == "upkeep").unwrap();
        assert!(applies.count() < 60, "{} messages for {kept} hints", applies.count());
        quiet(&client, &cluster).await;
        // Counted anew after a restart, before the target is back.
        cluster.cut(3, true);
        tokio::time::sleep(Duration::from_secs(10)).await;
        client.put("another", "value", PutOptions::default()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        let held = [hints_for(&cluster, &client, 1, "n3").await.0, hints_for(&cluster, &client, 2, "n3").await.0];
        let keeper = if held[0] > 0 { 1 } else { 2 };
        let copy = cluster.copy(keeper);
        cluster.crash(keeper);
        cluster.start_node_on(keeper, Some(copy)).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let (count, _, oldest) = hints_for(&cluster, &client, keeper, "n3").await;
        assert!(count == 1 && oldest >= Duration::from_secs(10), "{count} {oldest:?}");
    });
}

/// A record that one owner has, with a context so wide that it cannot be merged with that of another one.
fn wide(cluster: &Cluster, slot: &Slot, from: u64) -> Bytes {
    let mut context = Context::new();
    for node in from..from + 300 {
        context.add(Dot { actor: Actor { node: NodeId(node), epoch: Epoch(1) }, counter: 1 });
    }
    let hash = ClusterHash::new(&cluster.info.cluster);
    record::encode(&hash, &slot.key, &Siblings::seen(context))
}

#[test]
fn a_repair_says_which_comparisons_can_never_agree_instead_of_waiting_for_them() {
    simulate(701, 0.1, |simulation: Simulation| async move {
        let mut cluster = Cluster::start(simulation, Conditions::default(), 3).await;
        let client = cluster.client(1).await;
        quiet(&client, &cluster).await;
        let hash = ClusterHash::new(&cluster.info.cluster);
        let position = hash.position(&Default::default(), b"wide");
        let slot = Slot {
            bucket: cluster.info.partitions.bucket_of(position),
            key: record::storage_key(&Default::default(), b"wide"),
        };
        for (number, from) in [(1, 1_000), (2, 2_000)] {
            let engine = &cluster.engines()[&number];
            let put = Mutation::Put { slot: slot.clone(), value: wide(&cluster, &slot, from) };
            engine.write(engine.epoch(), vec![put]).await.unwrap();
            // What was written beside the trees is found when the storage is read at the next start.
            let copy = cluster.copy(number);
            cluster.crash(number);
            cluster.start_node_on(number, Some(copy)).await;
        }
        let name = NodeName::new("n1").unwrap();
        tokio::time::sleep(Duration::from_secs(120)).await;
        let begin = RepairRequest { partition: Some(cluster.info.partitions.of(position)), since_ms: None };
        let begun = client.repair(&name, begin).await.unwrap();
        tokio::time::sleep(Duration::from_secs(120)).await;
        let look = RepairRequest { since_ms: Some(begun.since_ms), ..begin };
        let progress = client.repair(&name, look).await.unwrap();
        let trees = progress.trees.iter();
        let (all, done, refused) = trees
            .fold((0, 0, 0), |(all, done, refused), tree| (all + tree.peers, done + tree.done, refused + tree.refused));
        assert!(refused > 0 && done + refused == all, "of {all} comparisons {done} were made and {refused} refused");
    });
}
