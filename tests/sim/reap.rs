//! Dropping dead records in simulated clusters: in the end none is left, none comes back, and nothing that lives is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use dynamomini::client::{CausalContext, Client, GetOptions, PutOptions};
use dynamomini::hash::ClusterHash;
use dynamomini::record;
use dynamomini::store::{Engine, Mutation, Slot};
use dynamomini::types::{Bucket, Consistency, Epoch, NodeId};
use dynamomini::version::{Actor, Context, Dot, NewVersion, RequestId, Siblings, Stamp};
use rand::RngExt;
use rand::rngs::StdRng;

use crate::cluster::{Cluster, Setup};
use crate::network::Conditions;
use crate::past::caught_up;
use crate::world::{EPOCH_MS, Simulation, seeds, simulate};

/// When dead records may be dropped.
const AFTER: Duration = Duration::from_secs(600);
/// By then they are, if nobody is away: one pass finds them old enough, and a member may have been busy at the one before.
const GONE_AFTER: Duration = Duration::from_secs(2_400);
const KEYS: usize = 24;

/// What each key must show: its value, or nothing. And every context that a client ever read of it.
#[derive(Default)]
struct Model {
    values: BTreeMap<String, Option<String>>,
    contexts: BTreeMap<String, Vec<CausalContext>>,
}

fn key(number: usize) -> String {
    format!("key{number}")
}

/// Dead records in the storage of one node.
async fn dead(cluster: &Cluster, engine: &Engine) -> Vec<(Slot, Bytes)> {
    let hash = ClusterHash::new(&cluster.info.cluster);
    let wall_ms = EPOCH_MS + u64::try_from(cluster.simulation.elapsed().as_millis()).unwrap();
    let mut dead = Vec::new();
    for bucket in cluster.info.partitions.buckets() {
        let page = engine.scan(bucket, b"", None, 1_000, usize::MAX).await.unwrap();
        assert!(!page.more, "the page is not the whole bucket");
        for (key, stored) in page.items {
            if record::decode(&hash, &key, &stored).unwrap().live(wall_ms).count() == 0 {
                dead.push((Slot { bucket, key }, stored));
            }
        }
    }
    dead
}

pub(crate) async fn dead_everywhere(cluster: &Cluster) -> BTreeMap<usize, usize> {
    let mut counts = BTreeMap::new();
    for (number, engine) in cluster.engines() {
        counts.insert(number, dead(cluster, &engine).await.len());
    }
    counts
}

/// Reads a key until it can be read.
async fn read(client: &Client, key: &str, r: Consistency) -> (Vec<String>, CausalContext) {
    for _ in 0..60 {
        let options = GetOptions { r: Some(r), timeout: Some(Duration::from_secs(10)), ..GetOptions::default() };
        if let Ok(found) = client.get_with(key.to_owned(), options).await {
            let values = found.siblings.iter().map(|one| String::from_utf8(one.value.to_vec()).unwrap()).collect();
            return (values, found.context);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    panic!("{key} cannot be read");
}

/// Writes until it is acknowledged that the key shows this and nothing else.
async fn settle(client: &Client, key: &str, value: Option<&str>, model: &mut Model) {
    for _ in 0..60 {
        let (_, context) = read(client, key, Consistency::Quorum).await;
        model.contexts.entry(key.to_owned()).or_default().push(context.clone());
        let options = PutOptions::after(&context);
        let done = match value {
            Some(value) => client.put(key.to_owned(), value.to_owned(), options).await.map(drop),
            None => client.delete(key.to_owned(), options).await.map(drop),
        };
        if done.is_ok() {
            model.values.insert(key.to_owned(), value.map(str::to_owned));
            return;
        }
    }
    panic!("{key} cannot be written");
}

/// Puts and deletes, some of them on keys whose tombstones may be gone, some under contexts from long ago.
async fn work(client: &Client, rng: &mut StdRng, model: &mut Model, round: usize) {
    for number in 0..KEYS {
        let key = key(number);
        if rng.random_bool(0.3) {
            continue;
        }
        if rng.random_bool(0.3) {
            // What an old context does not name must survive it: it was written since.
            let contexts = model.contexts.get(&key).cloned().unwrap_or_default();
            let context = contexts.first().cloned().unwrap_or_default();
            let stale = format!("{key} stale in {round}");
            if client.put(key.clone(), stale.clone(), PutOptions::after(&context)).await.is_ok() {
                let (values, _) = read(client, &key, Consistency::All).await;
                assert!(values.contains(&stale), "{key}: {stale:?} was lost, found {values:?}");
            }
        }
        let value = rng.random_bool(0.4).then(|| format!("{key} in {round}"));
        settle(client, &key, value.as_deref(), model).await;
    }
}

/// Whether each key shows what it must; otherwise what is wrong.
async fn wrong(client: &Client, model: &Model) -> Option<String> {
    for (key, value) in &model.values {
        let (values, _) = read(client, key, Consistency::All).await;
        let expected: Vec<String> = value.iter().cloned().collect();
        if values != expected {
            return Some(format!("{key} shows {values:?}, not {expected:?}"));
        }
    }
    None
}

pub(crate) async fn gone(cluster: &Cluster) {
    let give_up = cluster.simulation.elapsed() + GONE_AFTER;
    loop {
        let left = dead_everywhere(cluster).await;
        if left.values().all(|dead| *dead == 0) {
            return;
        }
        assert!(cluster.simulation.elapsed() < give_up, "after {GONE_AFTER:?} there are dead records still: {left:?}");
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
}

/// Writes among cuts and lost disks; a member that is away for long; writes again where tombstones were.
async fn scenario(simulation: Simulation) -> u64 {
    let mut rng = simulation.rng("reap");
    let conditions = Conditions { loss: rng.random_range(0.0..0.03), ..Conditions::default() };
    let nodes = rng.random_range(3..=5);
    let setup = Setup { nodes, reap_after: Some(AFTER), ..Setup::default() };
    let mut cluster = Cluster::start_with(simulation.clone(), conditions, setup).await;
    let client = cluster.client(1).await;
    let mut model = Model::default();
    for round in 0..2 {
        work(&client, &mut rng, &mut model, 2 * round).await;
        let victim = rng.random_range(1..=nodes);
        let loses_disk = rng.random_bool(0.3);
        if loses_disk {
            cluster.crash(victim);
        } else {
            cluster.cut(victim, true);
        }
        deletes(&client, &mut rng, &mut model).await;
        tokio::time::sleep(AFTER * rng.random_range(0..4)).await;
        let before = dead_everywhere(&cluster).await.values().sum::<usize>();
        tokio::time::sleep(AFTER).await;
        let after = dead_everywhere(&cluster).await.values().sum::<usize>();
        assert!(before > 0 && after >= before, "dropped while n{victim} was away: {before}, then {after}");
        if loses_disk {
            cluster.start_node(victim).await;
        } else {
            cluster.cut(victim, false);
        }
        gone(&cluster).await;
        assert_eq!(wrong(&client, &model).await, None);
    }
    cluster.network.trace()
}

/// Deletes while a node may be away: with a quorum of two, as long as one other owner is there.
async fn deletes(client: &Client, rng: &mut StdRng, model: &mut Model) {
    for number in 0..KEYS {
        if rng.random_bool(0.5) || number == 0 {
            settle(client, &key(number), None, model).await;
        }
    }
}

#[test]
fn dead_records_go_when_all_are_there_and_nothing_deleted_returns() {
    for seed in seeds(900, 2) {
        simulate(seed, 0.1, scenario);
    }
}

/// The judge of the scenario above must notice what a node would do that went by the clock alone.
#[test]
fn dropping_by_the_clock_alone_is_found_out() {
    simulate(1, 0.1, |simulation| async move {
        let mut rng = simulation.rng("reap");
        let cluster = Cluster::start(simulation.clone(), Conditions::default(), 3).await;
        let client = cluster.client(1).await;
        let mut model = Model::default();
        for number in 0..KEYS {
            settle(&client, &key(number), Some("value"), &mut model).await;
        }
        cluster.cut(3, true);
        deletes(&client, &mut rng, &mut model).await;
        tokio::time::sleep(AFTER).await;
        assert_eq!(wrong(&cluster.client(2).await, &Model::default()).await, None);
        for engine in [1, 2].map(|number| cluster.engines().remove(&number).unwrap()) {
            let dead = dead(&cluster, &engine).await.into_iter().map(|(slot, _)| slot);
            let page = engine.scan(Bucket::HINTS, b"", None, 1_000, usize::MAX).await.unwrap();
            let hints = page.items.into_iter().map(|(key, _)| Slot { bucket: Bucket::HINTS, key });
            let slots: BTreeSet<Slot> = dead.chain(hints).collect();
            assert!(!slots.is_empty());
            let drop_all = slots.into_iter().map(|slot| Mutation::Delete { slot }).collect();
            engine.write(engine.epoch(), drop_all).await.unwrap();
        }
        cluster.cut(3, false);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(wrong(&client, &model).await.is_some(), "what was deleted did not return");
    });
}

/// Longest that a clock is wrong, either way: longer than the age at which records are dropped.
const SKEW: Duration = Duration::from_secs(1_500);

/// Whether any coordinator shows any of these keys; otherwise `None`.
async fn shown(clients: &[Client], keys: &[String]) -> Option<String> {
    for (at, client) in clients.iter().enumerate() {
        for key in keys {
            let (values, _) = read(client, key, Consistency::All).await;
            if !values.is_empty() {
                return Some(format!("{key} shows {values:?} through n{}", at + 1));
            }
        }
    }
    None
}

/// Keys that are deleted or expire, on nodes whose clocks are wrong by more than the age at which records are dropped, and
/// one of which is away for a while: once gone by every clock they are gone for good, and what was written after them stays.
async fn skewed(simulation: Simulation) {
    let mut rng = simulation.rng("skew");
    let conditions = Conditions { loss: rng.random_range(0.0..0.02), ..Conditions::default() };
    let setup = Setup { nodes: 3, reap_after: Some(AFTER), ..Setup::default() };
    let mut cluster = Cluster::start_with(simulation.clone(), conditions, setup).await;
    let most = i64::try_from(SKEW.as_millis()).unwrap();
    (1..=3).for_each(|number| cluster.skew(number, rng.random_range(-most..=most)));
    let mut clients = Vec::new();
    for number in 1..=3 {
        clients.push(cluster.pinned(number, number).await);
    }
    let (mut model, mut keys) = (Model::default(), Vec::new());
    for number in 0..KEYS {
        let (client, key) = (&clients[rng.random_range(0..3)], key(number));
        settle(client, &key, Some("value"), &mut model).await;
        if number % 2 == 0 {
            settle(&clients[rng.random_range(0..3)], &key, None, &mut model).await;
        } else {
            let (_, context) = read(client, &key, Consistency::Quorum).await;
            let options = PutOptions { ttl: Some(Duration::from_secs(60)), ..PutOptions::after(&context) };
            while client.put(key.clone(), "short-lived", options.clone()).await.is_err() {}
        }
        keys.push(key);
    }
    let away = rng.random_range(1..=3);
    cluster.cut(away, true);
    tokio::time::sleep(2 * SKEW + Duration::from_secs(120)).await;
    cluster.cut(away, false);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(shown(&clients, &keys).await, None, "not gone by every clock");
    // The slowest clock decides when records are old enough.
    let give_up = simulation.elapsed() + 2 * SKEW + GONE_AFTER;
    while dead_everywhere(&cluster).await.values().any(|dead| *dead > 0) {
        assert!(simulation.elapsed() < give_up, "dead records are left: {:?}", dead_everywhere(&cluster).await);
        assert_eq!(shown(&clients, &keys[..4]).await, None);
        tokio::time::sleep(Duration::from_secs(120)).await;
    }
    assert_eq!(shown(&clients, &keys).await, None);
    let again = keys.split_off(KEYS / 2);
    for key in &again {
        settle(&clients[rng.random_range(0..3)], key, Some("again"), &mut model).await;
    }
    tokio::time::sleep(AFTER).await;
    assert_eq!(shown(&clients, &keys).await, None);
    for key in &again {
        assert_eq!(read(&clients[0], key, Consistency::All).await.0, ["again"]);
    }
}

#[test]
fn what_is_deleted_or_expired_stays_away_though_clocks_are_wrong_by_more_than_its_age() {
    for seed in seeds(950, 2) {
        simulate(seed, 0.1, skewed);
    }
}

/// A record with a context so wide that it cannot be merged with one of other actors, and perhaps a value.
fn wide(cluster: &Cluster, slot: &Slot, actors: std::ops::Range<u64>, value: Option<&'static str>) -> Bytes {
    let actor = |node| Actor { node: NodeId(node), epoch: Epoch(1) };
    let mut context = Context::new();
    actors.clone().for_each(|node| context.add(Dot { actor: actor(node), counter: 1 }));
    let mut state = Siblings::seen(context.clone());
    if let Some(value) = value {
        let request = RequestId { client: 1, sequence: 1 };
        let value = Some(Bytes::from_static(value.as_bytes()));
        let new = NewVersion { request, after: Vec::new(), stamp: Stamp(1), expires_at: None, value };
        state.put(&context, new, actor(actors.start), 0);
    }
    record::encode(&ClusterHash::new(&cluster.info.cluster), &slot.key, &state)
}

/// What an owner says of what was dropped rests on this, that all owners held the same before. Here one of them has a value
/// that the others cannot take over. Were anything dropped beside it, the others would take the value for dropped, too.
#[test]
fn nothing_is_dropped_where_owners_hold_different_things() {
    simulate(970, 0.1, |simulation| async move {
        let setup = Setup { nodes: 3, reap_after: Some(AFTER), ..Setup::default() };
        let mut cluster = Cluster::start_with(simulation.clone(), Conditions::default(), setup).await;
        let hash = ClusterHash::new(&cluster.info.cluster);
        let partitions = cluster.info.partitions;
        let slot_of = |key: &str| Slot {
            bucket: partitions.bucket_of(hash.position(&Default::default(), key.as_bytes())),
            key: record::storage_key(&Default::default(), key.as_bytes()),
        };
        let odd = slot_of("odd");
        for (number, actors, value) in
            [(1, 1_000..1_300, Some("kept")), (2, 2_000..2_300, None), (3, 2_000..2_300, None)]
        {
            let engine = &cluster.engines()[&number];
            let put = Mutation::Put { slot: odd.clone(), value: wide(&cluster, &odd, actors, value) };
            engine.write(engine.epoch(), vec![put]).await.unwrap();
            // What was written beside the trees is found when the storage is read at the next start.
            let copy = cluster.copy(number);
            cluster.crash(number);
            cluster.start_node_on(number, Some(copy)).await;
        }
        let (client, mut model) = (cluster.client(1).await, Model::default());
        let mut names = (0..).map(key);
        let beside = names.find(|key| slot_of(key).bucket == odd.bucket).unwrap();
        let elsewhere = names.find(|key| slot_of(key).bucket != odd.bucket).unwrap();
        let copy = cluster.copy(1);
        for key in [&beside, &elsewhere] {
            settle(&client, key, Some("value"), &mut model).await;
            settle(&client, key, None, &mut model).await;
        }
        let (beside, elsewhere) = (slot_of(&beside), slot_of(&elsewhere));
        let give_up = simulation.elapsed() + GONE_AFTER;
        loop {
            tokio::time::sleep(AFTER).await;
            let mut left = Vec::new();
            for engine in cluster.engines().into_values() {
                left.extend(engine.get_many(&[beside.clone(), elsewhere.clone()]).await.unwrap());
            }
            let held: Vec<bool> = left.iter().map(Option::is_some).collect();
            assert!(held.iter().step_by(2).all(|held| *held), "dropped although the owners differ");
            if held.iter().skip(1).step_by(2).all(|held| !held) {
                break;
            }
            assert!(simulation.elapsed() < give_up, "nothing is dropped anywhere");
        }
        cluster.crash(1);
        cluster.start_node_on(1, Some(copy)).await;
        assert!(caught_up(&cluster, &client, 1).await, "the node did not notice");
        let pinned = cluster.pinned(2, 1).await;
        assert_eq!(read(&pinned, "odd", Consistency::One).await.0, ["kept"]);
    });
}
