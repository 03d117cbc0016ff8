//! Storages that go back in time: put back to older copies, whole, or lost; none of what the others have dropped returns,
//! none of what was acknowledged is lost, and no read is answered from the past.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use dynamomini::client::{CausalContext, Client, GetOptions, PutOptions};
use dynamomini::hash::ClusterHash;
use dynamomini::store::{Engine, Mutation, Slot};
use dynamomini::types::{Bucket, Consistency, NodeName};
use dynamomini::version::Dot;
use rand::RngExt;

use crate::cluster::{Cluster, Setup};
use crate::network::Conditions;
use crate::reap::{dead_everywhere, gone};
use crate::world::{Simulation, seeds, simulate};

/// When dead records may be dropped.
const AFTER: Duration = Duration::from_secs(600);
const KEYS: usize = 12;
/// How long a node may take to catch up when everybody is there.
const CAUGHT_UP: Duration = Duration::from_secs(60);

fn key(number: usize) -> String {
    format!("key{number}")
}

fn id(number: usize) -> [u8; 8] {
    ClusterHash::node_id(&NodeName::new(format!("n{number}")).unwrap()).0.to_be_bytes()
}

/// All values of a key at all of its owners, read until that succeeds; every dot with what it names.
async fn read_all(
    client: &Client,
    key: &str,
    dots: &mut BTreeMap<(String, Dot), Bytes>,
) -> (Vec<String>, CausalContext) {
    for _ in 0..120 {
        let options =
            GetOptions { r: Some(Consistency::All), timeout: Some(Duration::from_secs(10)), ..GetOptions::default() };
        if let Ok(found) = client.get_with(key.to_owned(), options).await {
            for sibling in &found.siblings {
                let first = dots.entry((key.to_owned(), sibling.dot)).or_insert_with(|| sibling.value.clone());
                assert_eq!(*first, sibling.value, "one dot names two values of {key}");
            }
            let values = found.siblings.iter().map(|one| String::from_utf8(one.value.to_vec()).unwrap()).collect();
            return (values, found.context);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    panic!("{key} cannot be read at all owners");
}

async fn put(client: &Client, key: &str, value: &str, context: &CausalContext) {
    for _ in 0..60 {
        if client.put(key.to_owned(), value.to_owned(), PutOptions::after(context)).await.is_ok() {
            return;
        }
    }
    panic!("{key} cannot be written");
}

async fn delete(client: &Client, key: &str, context: &CausalContext) {
    for _ in 0..60 {
        if client.delete(key.to_owned(), PutOptions::after(context)).await.is_ok() {
            return;
        }
    }
    panic!("{key} cannot be deleted");
}

/// Waits until a node answers reads. Whether it had to catch up.
pub(crate) async fn caught_up(cluster: &Cluster, client: &Client, number: usize) -> bool {
    let (mut had_to, give_up) = (false, cluster.simulation.elapsed() + CAUGHT_UP);
    loop {
        let status = cluster.status(client, number).await;
        let catching_up = status.health.starts_with("catching-up");
        had_to |= catching_up;
        if !catching_up && status.uptime_s >= 5 {
            return had_to;
        }
        assert!(cluster.simulation.elapsed() < give_up, "n{number} has not caught up: {:?}", status.not_ready);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Takes from the nodes that run what they know of each other's storages, and what they have dropped.
async fn forget_all(cluster: &mut Cluster) {
    for number in cluster.running() {
        let copy = cluster.copy(number);
        cluster.crash(number);
        cluster.start_node_on(number, Some(copy)).await;
    }
    for (number, engine) in cluster.engines() {
        let page = engine.scan(Bucket::HINTS, &id(number), None, 1_000, usize::MAX).await.unwrap();
        let known = page
            .items
            .into_iter()
            .filter(|(key, _)| [&b"seen"[..], b"frontier"].iter().any(|kind| key[8..].starts_with(kind)));
        let forget = known.map(|(key, _)| Mutation::Delete { slot: Slot { bucket: Bucket::HINTS, key } });
        engine.write(engine.epoch(), forget.collect()).await.unwrap();
    }
}

/// What a scenario may leave out, so that its judge has something to find.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plant {
    Nothing,
    /// The others forget what they saw.
    Forgetful,
}

/// What a reader of a single replica is shown that is older than what he had, from the first moment on; and whether the node
/// was seen to catch up.
async fn read_one(
    cluster: &Cluster,
    (client, pinned): (&Client, &Client),
    victim: usize,
    expected: &BTreeMap<String, Option<String>>,
) -> (Vec<String>, bool) {
    let (mut wrong, mut had_to) = (Vec::new(), false);
    for round in 0..40 {
        had_to |= cluster.status(client, victim).await.health.starts_with("catching-up");
        for (key, value) in expected {
            let options = GetOptions {
                r: Some(Consistency::One),
                timeout: Some(Duration::from_millis(400)),
                ..GetOptions::default()
            };
            let Ok(found) = pinned.get_with(key.clone(), options).await else { continue };
            let values: Vec<String> =
                found.siblings.iter().map(|one| String::from_utf8(one.value.to_vec()).unwrap()).collect();
            if values != value.iter().cloned().collect::<Vec<_>>() {
                wrong.push(format!("a single replica shows {values:?} of {key}"));
            }
        }
        put(client, &format!("busy{round}"), "value", &CausalContext::default()).await;
    }
    (wrong, had_to)
}

/// Keys are deleted and dropped after a copy of a storage was made; some are written since; then the copy is put back.
/// Returns what is wrong in the end.
async fn put_back(simulation: Simulation, plant: Plant) -> Vec<String> {
    let mut rng = simulation.rng("past");
    let conditions = Conditions { loss: rng.random_range(0.0..0.02), ..Conditions::default() };
    let nodes = rng.random_range(3..=4);
    let mut cluster = Cluster::start_with(
        simulation.clone(),
        conditions,
        Setup { nodes, reap_after: Some(AFTER), ..Setup::default() },
    )
    .await;
    let client = cluster.client(1).await;
    let (mut dots, mut expected) = (BTreeMap::new(), BTreeMap::<String, Option<String>>::new());
    for number in 0..KEYS {
        put(&client, &key(number), "first", &CausalContext::default()).await;
        expected.insert(key(number), Some("first".to_owned()));
    }
    let victim = rng.random_range(1..=nodes);
    // At some time within the life of the node, with a mark of then or none.
    tokio::time::sleep(Duration::from_secs(rng.random_range(1..200))).await;
    let copy = cluster.copy(victim);
    for number in (0..KEYS).filter(|number| number % 3 != 0) {
        let (_, context) = read_all(&client, &key(number), &mut dots).await;
        delete(&client, &key(number), &context).await;
        expected.insert(key(number), None);
    }
    for number in (0..KEYS).filter(|number| number % 3 == 0) {
        let (_, context) = read_all(&client, &key(number), &mut dots).await;
        put(&client, &key(number), "second", &context).await;
        expected.insert(key(number), Some("second".to_owned()));
    }
    gone(&cluster).await;
    let again = key(1);
    put(&client, &again, "third", &CausalContext::default()).await;
    expected.insert(again, Some("third".to_owned()));
    if rng.random_bool(0.5) {
        cluster.stop(victim).await;
    } else {
        cluster.crash(victim);
    }
    if plant == Plant::Forgetful {
        forget_all(&mut cluster).await;
    }
    tokio::time::sleep(Duration::from_secs(rng.random_range(1..20))).await;
    cluster.start_node_on(victim, Some(copy)).await;
    let pinned = cluster.pinned(2, victim).await;
    let (mut wrong, mut had_to) = read_one(&cluster, (&client, &pinned), victim, &expected).await;
    had_to |= caught_up(&cluster, &client, victim).await;
    if !had_to && plant == Plant::Nothing {
        wrong.push("the node did not catch up".to_owned());
    }
    tokio::time::sleep(Duration::from_secs(90)).await;
    for (key, value) in &expected {
        let (values, _) = read_all(&client, key, &mut dots).await;
        if values != value.iter().cloned().collect::<Vec<_>>() {
            wrong.push(format!("{key} shows {values:?}, not {value:?}"));
        }
    }
    // The node names nothing as it did before: every dot names one value.
    for number in 0..KEYS {
        put(&pinned, &key(number), &format!("by n{victim} again"), &CausalContext::default()).await;
        read_all(&client, &key(number), &mut dots).await;
    }
    wrong
}

#[test]
fn nothing_returns_and_nothing_old_is_read_when_a_storage_is_put_back_to_an_older_copy() {
    for seed in seeds(2_000, 2) {
        let wrong = simulate(seed, 0.1, |simulation| put_back(simulation, Plant::Nothing));
        assert!(wrong.is_empty(), "seed {seed}: {wrong:#?}");
    }
}

/// The judge of the scenario above must notice what happens where the others remember nothing.
#[test]
fn a_storage_that_is_put_back_among_the_forgetful_is_found_out() {
    let wrong = simulate(2_000, 0.1, |simulation| put_back(simulation, Plant::Forgetful));
    assert!(wrong.iter().any(|text| text.contains("shows")), "what was deleted did not return: {wrong:#?}");
}

/// The mark has not been raised since the copy was made, and nothing was dropped: only what others saw in the storage tells.
#[test]
fn a_copy_that_is_younger_than_the_last_mark_is_noticed() {
    for seed in seeds(2_600, 2) {
        simulate(seed, 0.1, |simulation| async move {
            let mut rng = simulation.rng("young");
            let mut cluster = Cluster::start(simulation.clone(), Conditions::default(), 3).await;
            let client = cluster.client(1).await;
            let (mut dots, mut expected) = (BTreeMap::new(), BTreeMap::new());
            for number in 0..KEYS {
                put(&client, &key(number), "first", &CausalContext::default()).await;
            }
            let victim = rng.random_range(1..=3);
            tokio::time::sleep(Duration::from_secs(rng.random_range(0..55))).await;
            let copy = cluster.copy(victim);
            // By the victim alone, or by any.
            let writer = if rng.random_bool(0.5) { cluster.pinned(2, victim).await } else { client.clone() };
            for number in 0..rng.random_range(1..=KEYS) {
                let (_, context) = read_all(&client, &key(number), &mut dots).await;
                let all = PutOptions { w: Some(Consistency::All), ..PutOptions::after(&context) };
                writer.put(key(number), "second", all).await.unwrap();
                expected.insert(key(number), Some("second".to_owned()));
            }
            cluster.crash(victim);
            cluster.start_node_on(victim, Some(copy)).await;
            let pinned = cluster.pinned(3, victim).await;
            let (wrong, had_to) = read_one(&cluster, (&client, &pinned), victim, &expected).await;
            assert_eq!(wrong, Vec::<String>::new());
            assert!(had_to || caught_up(&cluster, &client, victim).await, "nobody noticed");
            for number in 0..KEYS {
                put(&pinned, &key(number), "third", &CausalContext::default()).await;
                read_all(&client, &key(number), &mut dots).await;
            }
        });
    }
}

/// Storages that are as they were when their nodes were killed are not taken for copies.
#[test]
fn a_killed_node_that_kept_all_answers_at_once_under_its_epoch() {
    simulate(2_700, 0.1, |simulation| async move {
        let mut cluster = Cluster::start(simulation.clone(), Conditions::default(), 3).await;
        let client = cluster.client(1).await;
        for victim in 1..=3 {
            for number in 0..KEYS {
                put(&client, &key(number), &format!("before n{victim}"), &CausalContext::default()).await;
            }
            let (copy, epoch) = (cluster.copy(victim), cluster.engines()[&victim].epoch());
            cluster.crash(victim);
            // These it misses, and that is no reason either.
            for number in 0..KEYS {
                put(&client, &key(number), "while it is away", &CausalContext::default()).await;
            }
            cluster.start_node_on(victim, Some(copy)).await;
            assert!(!caught_up(&cluster, &client, victim).await, "n{victim}");
            assert_eq!(cluster.engines()[&victim].epoch(), epoch, "n{victim}");
        }
    });
}

/// A write that only one node has, since the others were cut off, outlives that its storage goes back to a copy with it,
/// though others have dropped records before and after.
#[test]
fn a_write_that_only_an_older_copy_holds_is_not_lost() {
    simulate(2_100, 0.1, |simulation| async move {
        let mut cluster = Cluster::start_with(
            simulation.clone(),
            Conditions::default(),
            Setup { nodes: 3, reap_after: Some(AFTER), ..Setup::default() },
        )
        .await;
        let (client, pinned) = (cluster.client(1).await, cluster.pinned(2, 1).await);
        let mut dots = BTreeMap::new();
        for number in 0..64 {
            put(&client, &key(number), "value", &CausalContext::default()).await;
            let (_, context) = read_all(&client, &key(number), &mut dots).await;
            delete(&client, &key(number), &context).await;
        }
        gone(&cluster).await;
        cluster.cut(1, true);
        let alone = PutOptions { w: Some(Consistency::One), sloppy: Some(false), ..PutOptions::default() };
        for number in 0..8 {
            pinned.put(format!("alone{number}"), "kept", alone.clone()).await.unwrap();
        }
        let copy = cluster.copy(1);
        // The copy is older than this, which the others learn of before the node is gone.
        for number in 0..8 {
            pinned.put(format!("later{number}"), "lost with its only disk", alone.clone()).await.unwrap();
        }
        cluster.cut(1, false);
        tokio::time::sleep(Duration::from_millis(100)).await;
        cluster.stop(1).await;
        cluster.start_node_on(1, Some(copy)).await;
        assert!(caught_up(&cluster, &client, 1).await, "the node did not notice");
        for number in 0..8 {
            let (values, _) = read_all(&client, &format!("alone{number}"), &mut dots).await;
            assert_eq!(values, ["kept"]);
        }
        assert!(dead_everywhere(&cluster).await.values().all(|dead| *dead == 0));
    });
}

/// Reads at a single replica never miss what was acknowledged by all, while a node fills its new disk.
#[test]
fn a_node_with_a_new_disk_answers_no_reads_until_it_is_filled() {
    for seed in seeds(2_200, 2) {
        simulate(seed, 0.1, |simulation| async move {
            let mut cluster = Cluster::start(simulation.clone(), Conditions::default(), 3).await;
            let client = cluster.client(1).await;
            for number in 0..KEYS {
                let all = PutOptions { w: Some(Consistency::All), ..PutOptions::default() };
                client.put(key(number), "value", all).await.unwrap();
            }
            cluster.crash(3);
            tokio::time::sleep(Duration::from_secs(5)).await;
            cluster.start_node(3).await;
            let pinned = cluster.pinned(2, 3).await;
            let mut answered = 0;
            while answered < 10 * KEYS {
                for number in 0..KEYS {
                    let options = GetOptions {
                        r: Some(Consistency::One),
                        timeout: Some(Duration::from_millis(400)),
                        ..GetOptions::default()
                    };
                    let Ok(found) = pinned.get_with(key(number), options).await else { continue };
                    assert!(found.exists(), "{} was read from an empty disk", key(number));
                    answered += 1;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            assert!(caught_up(&cluster, &client, 3).await || cluster.status(&client, 3).await.uptime_s > 0);
        });
    }
}

/// All nodes at once, each on what it had: nobody waits for anybody, and no epoch is spent.
#[test]
fn a_cluster_that_is_started_again_as_a_whole_serves_within_seconds() {
    simulate(2_300, 0.1, |simulation| async move {
        let mut cluster = Cluster::start(simulation.clone(), Conditions::default(), 3).await;
        let client = cluster.client(1).await;
        for number in 0..KEYS {
            put(&client, &key(number), "value", &CausalContext::default()).await;
        }
        tokio::time::sleep(Duration::from_secs(100)).await;
        let epochs: Vec<_> = cluster.engines().values().map(Engine::epoch).collect();
        let copies: Vec<_> = (1..=3).map(|number| cluster.copy(number)).collect();
        (1..=3).for_each(|number| cluster.crash(number));
        client.close().await;
        for (number, copy) in (1..=3).zip(copies) {
            cluster.start_node_on(number, Some(copy)).await;
        }
        let began = simulation.elapsed();
        let client = cluster.client(2).await;
        for number in 0..KEYS {
            let options = GetOptions {
                r: Some(Consistency::All),
                timeout: Some(Duration::from_secs(10)),
                ..GetOptions::default()
            };
            assert!(client.get_with(key(number), options).await.unwrap().exists());
        }
        let took = simulation.elapsed() - began;
        assert!(took < Duration::from_secs(10), "{took:?}");
        for number in 1..=3 {
            assert_eq!(cluster.status(&client, number).await.health, "ok");
        }
        assert_eq!(cluster.engines().values().map(Engine::epoch).collect::<Vec<_>>(), epochs);
    });
}

/// A node that finds nobody takes a new epoch, since nobody can say what it has named, and serves alone.
#[test]
fn a_node_that_finds_nobody_takes_a_new_epoch_and_serves() {
    simulate(2_400, 0.1, |simulation| async move {
        let mut cluster = Cluster::start(simulation.clone(), Conditions::default(), 3).await;
        let client = cluster.client(1).await;
        for number in 0..KEYS {
            let all = PutOptions { w: Some(Consistency::All), ..PutOptions::default() };
            client.put(key(number), "value", all).await.unwrap();
        }
        let (copy, before) = (cluster.copy(1), cluster.engines()[&1].epoch());
        (1..=3).for_each(|number| cluster.crash(number));
        client.close().await;
        cluster.start_node_on(1, Some(copy)).await;
        let client = cluster.client(2).await;
        let one =
            GetOptions { r: Some(Consistency::One), timeout: Some(Duration::from_secs(8)), ..GetOptions::default() };
        assert!(client.get_with(key(1), one).await.unwrap().exists());
        assert_ne!(cluster.engines()[&1].epoch(), before);
    });
}
