//! The state machine by hand: one member, and datagrams as others would send them.

use std::sync::Arc;
use std::time::Duration;

use super::message::Accusation;
use super::message::Accuser;
use super::message::Belief;
use super::message::Header;
use super::message::Part;
use super::message::VERSION;
use super::message::Writer;
use super::message::decode;
use super::*;
use crate::types::NodeName;
use crate::types::Zone;

struct Plain;

impl Notary for Plain {
    fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        vec![u8::try_from(bytes.len() % 251).unwrap(); 64]
    }

    fn verify(&self, _: &Record, bytes: &[u8], signature: &[u8]) -> bool {
        signature == self.sign(bytes)
    }
}

fn record(name: &str) -> Record {
    Record {
        cluster: 0x0102_0304_0506_0708,
        name: NodeName::new(name).unwrap(),
        instance: 5,
        incarnation: 3,
        rival: None,
        left: false,
        gossip: format!("10.0.0.{}:7401", name.len()).parse().unwrap(),
        quic: "10.0.0.1:7400".to_owned(),
        admin: Some("10.0.0.1:7402".to_owned()),
        zone: Zone::new("z").unwrap(),
        weight: 100,
        software: "0.1.0".to_owned(),
        protocol: 1,
        state: ClusterState::Active,
        storage: StorageHealth::Ok,
        clock_offset_ms: Some(-4),
        certificate: Certificate { fingerprint: [9; 32], expires_s: 1_800_000_000 },
        key: vec![7; 32],
        config: 99,
    }
}

fn signed(name: &str) -> Signed {
    Signed::new(record(name), &Plain).unwrap()
}

/// A member called `a` that holds the others alive.
fn swim(others: &[&str]) -> Swim {
    let restored = others.iter().map(|name| Restored { signed: signed(name), alive: true }).collect();
    let mut swim = Swim::new(Config::lan(), record("a"), restored, Arc::new(Plain), 1, Duration::ZERO).unwrap();
    // What it says of itself is spread first.
    swim.news.forget(swim.me);
    swim
}

fn datagram(from: &str, you: Belief, parts: &[Part<'_>]) -> Vec<u8> {
    let record = record(from);
    let header =
        Header { version: VERSION, cluster: 0x0506_0708, from: record.node(), edition: record.edition(), view: 0, you };
    let mut writer = Writer::new(&header, 1_336);
    parts.iter().for_each(|part| assert!(writer.push(part)));
    writer.finish()
}

fn node(name: &str) -> NodeId {
    record(name).node()
}

fn accused(of: &str, by: &[&str]) -> Accusation {
    let accusers = by.iter().map(|name| Accuser { node: node(name), refused: false }).collect();
    Accusation { node: node(of), edition: record(of).edition(), accusers }
}

fn standing(swim: &Swim, name: &str) -> Standing {
    swim.member(node(name)).unwrap().standing
}

#[test]
fn the_encoding_is_pinned_because_members_of_two_versions_speak_it() {
    let bytes = datagram(
        "bb",
        Belief::Suspect(300),
        &[
            Part::Ping { seq: 7, target: NodeId(1) },
            Part::Nack { seq: 7, refused: true },
            Part::Suspect(Accusation {
                node: NodeId(2),
                edition: Edition { incarnation: 1, instance: 2 },
                accusers: vec![Accuser { node: NodeId(3), refused: true }],
            }),
        ],
    );
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, PINNED);
    let size = signed("bb").size();
    assert!((150..=300).contains(&size), "a usual record takes {size} bytes");
}

const PINNED: &str = "01080706057e2ff3701cff714b0305000000000000000000000003ac0200070100000000000000\
    03070106020000000000000001020000000000000001030000000000000001";

#[test]
fn a_ping_is_answered_and_one_for_somebody_else_is_not() {
    let mut swim = swim(&["bb", "ccc"]);
    let ping = |target: &str| datagram("bb", Belief::Up(3), &[Part::Ping { seq: 7, target: node(target) }]);
    let reply = swim.answer_ping(Duration::ZERO, &ping("a")).unwrap();
    assert_eq!(decode(&reply).unwrap().parts, [Part::Ack { seq: 7 }]);
    let reply = swim.answer_ping(Duration::ZERO, &ping("ccc")).unwrap();
    assert_eq!(decode(&reply).unwrap().parts, [Part::Record(swim.own.envelope())]);
    assert_eq!(swim.counters.misdirected, 1);
}

#[test]
fn who_is_held_dead_refutes_at_once_and_only_once() {
    let mut swim = swim(&["bb", "ccc"]);
    for (at, refutations) in [(0, 1), (200, 1)] {
        let reply = swim.answer_ping(Duration::from_millis(at), &datagram("bb", Belief::Dead(3), &[])).unwrap();
        assert_eq!(decode(&reply).unwrap().parts[0], Part::Record(swim.own.envelope()));
        assert_eq!((swim.own.record().incarnation, swim.counters.refutations), (4, refutations));
    }
}

#[test]
fn an_incarnation_is_raised_by_proof_only() {
    let mut swim = swim(&["bb"]);
    let reply = swim.answer_ping(Duration::ZERO, &datagram("bb", Belief::Dead(u64::MAX), &[])).unwrap();
    assert!(decode(&reply).unwrap().parts.contains(&Part::Want { node: swim.me }));
    assert_eq!(swim.own.record().incarnation, 3);
    let old = Signed::new(Record { incarnation: 900, instance: 1, ..record("a") }, &Plain).unwrap();
    swim.answer_ping(Duration::ZERO, &datagram("bb", Belief::Up(3), &[Part::Record(old.envelope())]));
    assert_eq!((swim.own.record().incarnation, swim.own.record().rival), (901, Some(1)));
}

#[test]
fn a_forged_record_and_one_beyond_all_incarnations_are_refused() {
    let mut swim = swim(&["bb"]);
    let newer = Signed::new(Record { incarnation: 9, ..record("bb") }, &Plain).unwrap();
    let forged = super::record::Envelope { signature: &[0; 64], ..newer.envelope() };
    swim.answer_ping(Duration::ZERO, &datagram("bb", Belief::Up(3), &[Part::Record(forged)]));
    assert_eq!((swim.counters.records_forged, swim.member(node("bb")).unwrap().record.incarnation), (1, 3));
    let beyond = Record { incarnation: u64::MAX, ..record("bb") };
    assert_eq!(Signed::new(beyond.clone(), &Plain), Err(RecordError::TooLarge));
    let bytes = postcard::to_stdvec(&beyond).unwrap();
    let signature = Plain.sign(&bytes);
    let envelope = super::record::Envelope { bytes: &bytes, signature: &signature };
    swim.answer_ping(Duration::ZERO, &datagram("bb", Belief::Up(3), &[Part::Record(envelope)]));
    assert_eq!(swim.counters.records_malformed, 1);
}

#[test]
fn a_death_counts_with_enough_accusers_and_only_while_it_is_fresh() {
    let others = ["bb", "ccc", "dddd", "eeeee"];
    for (by, age, expected) in [
        (&["bb"][..], 0, Standing::Suspect),
        (&["bb", "ccc", "dddd"][..], 0, Standing::Failed),
        (&["bb", "ccc", "dddd"][..], 5_000, Standing::Alive),
    ] {
        let mut swim = swim(&others);
        let dead = Part::Dead { accusation: accused("eeeee", by), age };
        swim.answer_ping(Duration::ZERO, &datagram("bb", Belief::Up(3), &[dead]));
        assert_eq!(standing(&swim, "eeeee"), expected, "{by:?} {age}");
    }
}

#[test]
fn an_accusation_counts_only_against_the_edition_it_names() {
    let mut swim = swim(&["bb", "ccc"]);
    let mut old = accused("ccc", &["bb"]);
    old.edition.incarnation = 2;
    let reply = swim.answer_ping(Duration::ZERO, &datagram("bb", Belief::Up(3), &[Part::Suspect(old)])).unwrap();
    assert_eq!((standing(&swim, "ccc"), swim.counters.stale), (Standing::Alive, 1));
    assert_eq!(decode(&reply).unwrap().parts, [Part::Record(signed("ccc").envelope())], "the newer one is told");
}

#[test]
fn a_relay_says_in_time_that_there_was_no_answer() {
    let mut swim = swim(&["bb", "ccc"]);
    let relay = Part::Relay { seq: 42, target: node("ccc"), held: 3 };
    swim.handle(
        Duration::ZERO,
        Input::Datagram { from: record("bb").gossip, bytes: &datagram("bb", Belief::Up(3), &[relay]) },
    );
    let timeout = swim.config.relay_timeout;
    let mut nacked = None;
    while nacked.is_none() {
        let now = swim.deadline().unwrap();
        assert!(now < timeout, "no answer within the time that the asker waits");
        swim.handle(now, Input::Timer);
        for effect in swim.take_effects() {
            if let Effect::Send { to, bytes } = effect
                && to == record("bb").gossip
                && decode(&bytes).unwrap().parts.contains(&Part::Nack { seq: 42, refused: false })
            {
                nacked = Some(now);
            }
        }
    }
    assert_eq!(nacked, Some(timeout * 4 / 5));
}

#[test]
fn another_cluster_is_not_spoken_to() {
    let mut swim = swim(&["bb"]);
    let mut bytes = datagram("bb", Belief::Unknown, &[Part::Hello]);
    bytes[1] ^= 1;
    assert_eq!(swim.answer_ping(Duration::ZERO, &bytes), None);
    let stranger = Signed::new(Record { cluster: 1, ..record("ccc") }, &Plain).unwrap();
    swim.answer_ping(Duration::ZERO, &datagram("bb", Belief::Up(3), &[Part::Record(stranger.envelope())]));
    assert_eq!((swim.counters.other_cluster, swim.counters.records_other_cluster), (1, 1));
    assert!(swim.member(node("ccc")).is_none());
}

#[test]
fn a_record_survives_the_disk_and_a_changed_byte_is_noticed() {
    let signed = signed("bb");
    let mut bytes = signed.to_bytes();
    let cluster = signed.record().cluster;
    assert_eq!(Signed::from_bytes(&bytes, cluster, &Plain).unwrap(), signed);
    assert_eq!(Signed::from_bytes(&bytes, cluster + 1, &Plain), Err(RecordError::OtherCluster));
    bytes.push(0);
    assert_eq!(Signed::from_bytes(&bytes, cluster, &Plain), Err(RecordError::Malformed));
}

#[test]
fn who_is_forgotten_to_make_room_is_said_to_be() {
    let mut swim = swim(&["bb"]);
    let gone: Vec<Record> = (0..limits::MEMBERS_REMEMBERED_MAX + 5)
        .map(|number| Record { name: NodeName::new(format!("g{number}")).unwrap(), left: true, ..record("ccc") })
        .collect();
    for record in &gone {
        let signed = Signed::new(record.clone(), &Plain).unwrap();
        swim.answer_ping(Duration::ZERO, &datagram("bb", Belief::Up(3), &[Part::Record(signed.envelope())]));
    }
    let missing = gone.iter().map(Record::node).filter(|node| swim.member(*node).is_none());
    let missing: std::collections::BTreeSet<NodeId> = missing.collect();
    let forgotten = swim.take_events().into_iter().filter_map(|event| match event {
        Event::Forgotten(node) => Some(node),
        _ => None,
    });
    assert_eq!(forgotten.collect::<std::collections::BTreeSet<_>>(), missing);
    assert_eq!(missing.len(), 6, "the member that is up, and those that are gone, fill the table");
}
