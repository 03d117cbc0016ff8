//! Structure-aware fuzzing of all that gossip parses: for `FUZZ_SECONDS`, or a share of each test run.
//!
//! Messages of a cluster in trouble are cut, spliced, repeated, set to extremes and mixed. Outsiders send them to a sealed
//! socket; an insider seals them with the right key. Nothing may crash, grow or stay: outsiders change nothing at all, an
//! insider forges nobody's record, and a cluster that it lied to heals once it stops. No coverage is measured.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use dynamomini::limits;
use dynamomini::seal::Boot;
use dynamomini::seal::Key;
use dynamomini::seal::Keyring;
use dynamomini::seal::Opener;
use dynamomini::seal::Sealer;
use dynamomini::swim::Input;
use dynamomini::swim::Swim;
use dynamomini::types::ClusterName;
use dynamomini::types::NodeId;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::hostile::overheard;
use super::judge;
use super::net::Net;

/// Messages after which the network gets a moment to react.
const BURST: usize = 50;
/// Messages that one may make a member send at most: its answer, a round of gossip, and a few probes with their relays.
const SENT_MAX: usize = 40;
/// Rounds after which a cluster that was lied to must heal.
const ROUNDS: usize = 60;

/// How long one of the tests goes on. The simulations run beside each other, so a test run spends little more than this.
#[expect(clippy::disallowed_methods, reason = "fuzzing is bounded by real time")]
fn time_is_up() -> impl Fn() -> bool {
    let seconds = std::env::var("FUZZ_SECONDS").ok().map(|text| text.parse().expect("FUZZ_SECONDS is a number"));
    let (began, lasts) = (std::time::Instant::now(), Duration::from_secs(seconds.unwrap_or(8)));
    move || began.elapsed() >= lasts
}

/// Changes messages, with an eye to how they are built.
struct Mutator {
    rng: StdRng,
    all: Vec<Vec<u8>>,
    /// Identifiers of members, as they stand in messages.
    nodes: Vec<[u8; 8]>,
}

impl Mutator {
    fn new(seed: u64, all: Vec<Vec<u8>>, nodes: &[NodeId]) -> Self {
        let nodes = nodes.iter().map(|node| node.0.to_le_bytes()).collect();
        Self { rng: StdRng::seed_from_u64(seed), all, nodes }
    }

    fn one(&mut self) -> Vec<u8> {
        let at = self.rng.random_range(0..self.all.len());
        self.all[at].clone()
    }

    fn message(&mut self) -> Vec<u8> {
        let mut bytes = self.one();
        for _ in 0..self.rng.random_range(0..5) {
            self.change(&mut bytes);
        }
        bytes.truncate(2 * limits::GOSSIP_DATAGRAM_MAX);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.rng.random_range(0..=bytes.len());
        let rest = bytes.len() - at;
        match self.rng.random_range(0..10) {
            0 if rest > 0 => bytes[at] ^= 1 << self.rng.random_range(0..8),
            1 if rest > 0 => bytes[at] = self.rng.random(),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, self.rng.random()),
            // The head of one and the tail of another.
            4 => {
                let other = self.one();
                let from = self.rng.random_range(0..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            // A part again, or elsewhere.
            5 => {
                let part = bytes[at..at + self.rng.random_range(0..=rest)].to_vec();
                let to = self.rng.random_range(0..=bytes.len());
                bytes.splice(to..to, part);
            }
            6 => drop(bytes.drain(at..at + self.rng.random_range(0..=rest.min(16)))),
            // The largest numbers, and lengths that are none.
            7 => drop(bytes.splice(at..at, [0xff; 9].into_iter().chain([0x01]))),
            8 => drop(bytes.splice(at..at + rest.min(1), [0xff, 0xff, 0xff, 0xff, 0x0f])),
            // Another member where one stood.
            _ => {
                let places: Vec<usize> = bytes
                    .windows(8)
                    .enumerate()
                    .filter(|(_, window)| self.nodes.iter().any(|node| node == window))
                    .map(|(place, _)| place)
                    .collect();
                let node = self.nodes[self.rng.random_range(0..self.nodes.len())];
                if !places.is_empty() {
                    let place = places[self.rng.random_range(0..places.len())];
                    bytes[place..place + 8].copy_from_slice(&node);
                }
            }
        }
    }
}

/// What outsiders send to a member's socket: nothing opens that was not sealed so, and each at most once.
#[test]
fn outsiders_open_nothing_and_take_nobodys_place() {
    let up = time_is_up();
    let (_, plain) = overheard(1);
    let (cluster, other): (ClusterName, ClusterName) = ("fuzz".parse().unwrap(), "other".parse().unwrap());
    let mut ring = Keyring::default();
    ring.add(Key::new([7; 32]), 1).unwrap();
    let (sender, receiver) = (NodeId(11), NodeId(12));
    let mut sealer = Sealer::new(&cluster, sender, Boot(5));
    let mut foreign = Sealer::new(&other, sender, Boot(5));
    let mut opener = Opener::new(&cluster, receiver);
    sealer.follow(&ring, Duration::ZERO);
    foreign.follow(&ring, Duration::ZERO);
    let genuine: BTreeSet<Vec<u8>> = plain.iter().take(200).map(|message| sealer.seal(message).unwrap()).collect();
    let mut all: Vec<Vec<u8>> = genuine.iter().cloned().collect();
    all.extend(plain.iter().take(50).map(|message| foreign.seal(message).unwrap()));
    let mut mutator = Mutator::new(2, all, &[sender, receiver]);
    let (mut opened, mut refused, mut now) = (BTreeSet::new(), 0_u64, Duration::from_secs(1));
    while !up() {
        let datagram = mutator.message();
        match opener.open(&datagram, &ring, now) {
            Ok(found) => {
                assert!(genuine.contains(&datagram), "a changed datagram was opened: {datagram:?}");
                assert!(opened.insert(datagram), "a datagram was opened twice");
                assert_eq!(found.sender, sender);
            }
            Err(_) => refused += 1,
        }
        now += Duration::from_micros(mutator.rng.random_range(0..2_000));
        if refused.is_multiple_of(1_000) {
            let fresh = sealer.seal(b"fresh").unwrap();
            assert!(opener.open(&fresh, &ring, now).is_ok_and(|found| found.message == b"fresh"));
            assert_eq!(opener.senders(), 1, "outsiders take up room");
            refused += 1;
        }
    }
    assert!(refused > 10_000 && !opened.is_empty(), "{refused} refused, {} opened", opened.len());
    println!("{refused} datagrams of outsiders refused, {} opened once", opened.len());
}

/// All incarnations that members have really reached.
fn truth(net: &Net) -> BTreeMap<u64, (u64, u64)> {
    let own = |swim: &Swim| (swim.me().0, (swim.own().record().incarnation, swim.own().record().instance));
    net.hosts.iter().filter_map(|host| host.swim.as_ref().map(own)).collect()
}

/// Hands a message to a member in one of the ways in which messages come.
fn hand(net: &mut Net, to: usize, from: usize, way: u8, bytes: &[u8]) {
    let (address, peer) = (net.hosts[from].address, net.hosts[from].id);
    net.overheard = Some(Vec::new());
    net.touch(to, |swim, now| match way {
        0..=5 => swim.handle(now, Input::Datagram { from: address, bytes }),
        6 => drop(swim.answer_ping(now, bytes)),
        7 => drop(swim.answer_sync(now, bytes)),
        8 => swim.handle(now, Input::SyncReply { peer, reply: Some(bytes) }),
        _ => swim.handle(now, Input::StreamPong { token: 0, reply: Some(bytes) }),
    });
    let sent = net.overheard.take().unwrap_or_default().len();
    assert!(sent <= SENT_MAX, "one message makes a member send {sent}: {bytes:?}");
}

fn no_record_is_forged(net: &Net, before: &BTreeMap<u64, (u64, u64)>) {
    let now = truth(net);
    for swim in net.hosts.iter().filter_map(|host| host.swim.as_ref()) {
        assert!(swim.members().count() < net.hosts.len(), "a member was invented");
        for seen in swim.members() {
            // Only a member itself raises its incarnation.
            let most = now[&seen.node.0].0.max(before[&seen.node.0].0);
            assert!(seen.record.incarnation <= most, "{} is held in {}", seen.record.name, seen.record.incarnation);
        }
    }
}

/// What a node that has gone mad sends with the right key: it may cause suspicions and deaths, and no more.
#[test]
fn an_insiders_garbage_crashes_nothing_forges_nothing_and_leaves_nothing_behind() {
    let up = time_is_up();
    let (mut messages, mut rounds, mut seed) = (0_u64, 0, 0);
    while !up() {
        seed += 1;
        let (mut net, all) = overheard(seed);
        let nodes: Vec<NodeId> = net.hosts.iter().map(|host| host.id).collect();
        let mut mutator = Mutator::new(seed, all, &nodes);
        for _ in 0..ROUNDS {
            let before = truth(&net);
            for _ in 0..BURST {
                let (bytes, way) = (mutator.message(), mutator.rng.random_range(0..10));
                let (to, from) = (mutator.rng.random_range(0..5), mutator.rng.random_range(1..6));
                hand(&mut net, to, from, way, &bytes);
                messages += 1;
            }
            net.run_for(Duration::from_millis(mutator.rng.random_range(1..40)));
            no_record_is_forged(&net, &before);
            rounds += 1;
        }
        net.conditions.loss = 0.0;
        let scenario = "fuzz::an_insiders_garbage_crashes_nothing_forges_nothing_and_leaves_nothing_behind";
        let took = net.run_while(Duration::from_secs(120), Net::is_whole);
        judge::within(&net, scenario, "healing", took, Duration::from_secs(90));
        judge::datagrams_fit(&net, scenario);
    }
    println!("{messages} messages of an insider in {rounds} rounds and {seed} clusters");
}

/// Keyrings come over connections from nodes with a certificate; a damaged one merges whole or not at all.
#[test]
fn damaged_keyrings_merge_within_bounds_or_not_at_all() {
    let up = time_is_up();
    let mut ring = Keyring::default();
    let ids: Vec<_> = (1..6_u8).map(|number| ring.add(Key::new([number; 32]), u64::from(number)).unwrap()).collect();
    ring.use_key(ids[2]).unwrap();
    ring.remove(ids[0]).unwrap();
    let encoded = postcard::to_stdvec(&ring).unwrap();
    let mut mutator = Mutator::new(3, vec![encoded, postcard::to_stdvec(&Keyring::default()).unwrap()], &[NodeId(1)]);
    let (mut read, mut unread) = (0_u64, 0_u64);
    while !up() {
        let bytes = mutator.message();
        let Ok(other) = postcard::from_bytes::<Keyring>(&bytes) else {
            unread += 1;
            continue;
        };
        read += 1;
        let mut merged = ring.clone();
        let before = merged.digest();
        match merged.merge(&other) {
            Ok(_) => assert!(merged.entries().count() <= limits::KEYS_MAX, "a keyring has no bound"),
            Err(_) => assert_eq!(merged.digest(), before, "half of a keyring was taken over"),
        }
        // What it says of use is no trap for the next order.
        assert!(merged.use_key(ids[3]).is_ok() || merged.key(ids[3]).is_none());
        let again = merged.digest();
        assert!(merged.merge(&other).is_err() || merged.digest() == again, "merging twice is not merging once");
    }
    assert!(read > 100 && unread > 100, "{read} read, {unread} not");
    println!("{read} damaged keyrings merged, {unread} not read");
}
