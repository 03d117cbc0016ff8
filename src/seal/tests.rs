//! What must not pass, what must, and that keyrings merge in any order.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::limits;
use crate::types::{ClusterName, NodeId};

const NOW: Duration = Duration::from_secs(100);

fn cluster(name: &str) -> ClusterName {
    name.parse().unwrap()
}

fn key(number: u8) -> Key {
    Key::new([number; 32])
}

fn ring_of(numbers: &[u8]) -> Keyring {
    let mut ring = Keyring::default();
    for number in numbers {
        ring.add(key(*number), u64::from(*number)).unwrap();
    }
    ring
}

fn sealer(name: &str, sender: u64, boot: u64, ring: &Keyring) -> Sealer {
    let mut sealer = Sealer::new(&cluster(name), NodeId(sender), Boot(boot));
    sealer.follow(ring, NOW);
    sealer
}

fn opener() -> Opener {
    Opener::new(&cluster("a"), NodeId(99))
}

#[test]
fn what_was_sealed_opens_once() {
    let ring = ring_of(&[1]);
    let (mut sealer, mut opener) = (sealer("a", 1, 1, &ring), opener());
    let datagram = sealer.seal(b"hello").unwrap();
    assert_eq!(datagram.len(), 5 + OVERHEAD);
    let opened = opener.open(&datagram, &ring, NOW).unwrap();
    assert_eq!(opened, Opened { sender: NodeId(1), boot: Boot(1), message: b"hello".to_vec() });
    assert_eq!(opener.open(&datagram, &ring, NOW), Err(Refused::Replayed));
}

#[test]
fn another_cluster_an_unknown_key_and_ones_own_name_are_refused_by_kind() {
    let ring = ring_of(&[1]);
    let mut opener = opener();
    let foreign = sealer("b", 1, 1, &ring).seal(b"x").unwrap();
    assert_eq!(opener.open(&foreign, &ring, NOW), Err(Refused::WrongCluster));
    // The mark alone does not bind: the whole identifier is authenticated.
    let mut marked = foreign.clone();
    marked[1..3].copy_from_slice(&sealer("a", 1, 1, &ring).seal(b"x").unwrap()[1..3]);
    assert_eq!(opener.open(&marked, &ring, NOW), Err(Refused::Forged));
    let unknown = sealer("a", 1, 1, &ring_of(&[2])).seal(b"x").unwrap();
    assert_eq!(opener.open(&unknown, &ring, NOW), Err(Refused::UnknownKey));
    let own = sealer("a", 99, 1, &ring).seal(b"x").unwrap();
    assert_eq!(opener.open(&own, &ring, NOW), Err(Refused::OwnName));
    assert_eq!(opener.open(b"", &ring, NOW), Err(Refused::Junk));
    assert_eq!(opener.open(&unknown[..20], &ring, NOW), Err(Refused::Truncated));
    assert_eq!(opener.senders(), 0, "what was refused left traces");
}

#[test]
fn an_earlier_life_is_refused_until_the_later_one_is_silent_or_disowned() {
    let ring = ring_of(&[1]);
    let mut opener = opener();
    let (mut old, mut new) = (sealer("a", 1, 5, &ring), sealer("a", 1, 6, &ring));
    opener.open(&old.seal(b"1").unwrap(), &ring, NOW).unwrap();
    opener.open(&new.seal(b"2").unwrap(), &ring, NOW).unwrap();
    let late = old.seal(b"3").unwrap();
    assert_eq!(opener.open(&late, &ring, NOW), Err(Refused::OldBoot));
    opener.open(&late, &ring, NOW + limits::BOOT_SILENCE).unwrap();
    opener.open(&new.seal(b"4").unwrap(), &ring, NOW + limits::BOOT_SILENCE).unwrap();
    opener.expect(NodeId(1), Boot(5), NOW + limits::BOOT_SILENCE);
    opener.open(&old.seal(b"5").unwrap(), &ring, NOW + limits::BOOT_SILENCE).unwrap();
}

#[test]
fn boots_grow_also_when_the_clock_goes_back() {
    let first = Boot::after(None, 1_000_000, 7);
    let second = Boot::after(Some(first), 900_000, 9);
    assert!(second > first && Boot::after(Some(second), 2_000_000, 0) > second);
}

#[test]
fn senders_are_bounded_and_the_silent_are_forgotten_first() {
    let ring = ring_of(&[1]);
    let mut opener = opener();
    let first = sealer("a", 1_000_000, 1, &ring).seal(b"x").unwrap();
    opener.open(&first, &ring, NOW).unwrap();
    for sender in 1_000_001..1_000_001 + limits::GOSSIP_SENDERS_MAX as u64 {
        opener.expect(NodeId(sender), Boot(1), NOW + Duration::from_secs(1));
    }
    assert_eq!(opener.senders(), limits::GOSSIP_SENDERS_MAX);
    assert!(opener.open(&first, &ring, NOW).is_ok(), "its sender was still remembered");
}

#[test]
fn a_new_key_seals_only_once_it_has_settled_and_old_ones_open_until_removed() {
    let mut ring = ring_of(&[1]);
    let (mut sealer, mut opener) = (sealer("a", 1, 1, &ring), opener());
    let second = ring.add(key(2), 2).unwrap();
    ring.use_key(second).unwrap();
    sealer.follow(&ring, NOW);
    assert_eq!(sealer.key_id(), Some(key(1).id()), "others may not have it");
    let before = sealer.seal(b"old").unwrap();
    sealer.follow(&ring, NOW + limits::KEY_SETTLE);
    assert_eq!(sealer.key_id(), Some(second));
    let after = sealer.seal(b"new").unwrap();
    assert_eq!(ring.remove(second), Err(KeyringError::InUse(second)));
    opener.open(&after, &ring, NOW).unwrap();
    ring.remove(key(1).id()).unwrap();
    opener.keys_changed(&ring);
    assert_eq!(opener.open(&before, &ring, NOW), Err(Refused::UnknownKey));
    assert_eq!(ring.add(key(1), 9), Err(KeyringError::Removed(key(1).id())));
}

#[test]
fn a_key_that_is_removed_under_a_sealer_is_given_up_at_once() {
    let mut ring = ring_of(&[1, 2]);
    let mut sealer = sealer("a", 1, 1, &ring);
    assert_eq!(sealer.key_id(), Some(key(1).id()), "without an order the oldest is used");
    ring.use_key(key(2).id()).unwrap();
    ring.remove(key(1).id()).unwrap();
    sealer.follow(&ring, NOW);
    assert_eq!(sealer.key_id(), Some(key(2).id()));
    sealer.follow(&Keyring::default(), NOW);
    assert_eq!((sealer.key_id(), sealer.seal(b"x")), (None, None));
}

#[test]
fn a_keyring_takes_no_more_than_its_bound_and_no_misnamed_key() {
    let mut ring = Keyring::default();
    for number in 0..limits::KEYS_MAX {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
        ring.add(Key::new(bytes), 0).unwrap();
    }
    assert_eq!(ring.add(key(255), 0), Err(KeyringError::Full));
    assert_eq!(ring.clone().merge(&ring_of(&[255])), Err(KeyringError::Full));
    let bytes = postcard::to_stdvec(&ring_of(&[1])).unwrap();
    let misnamed: Keyring = postcard::from_bytes(&[&bytes[..1], &[7; 8], &bytes[9..]].concat()).unwrap();
    assert!(matches!(Keyring::default().merge(&misnamed), Err(KeyringError::Misnamed(_))));
}

#[test]
fn ids_are_pinned_and_read_back() {
    let id = key(1).id();
    assert_eq!(id.to_string().parse(), Ok(id));
    assert!("12".parse::<KeyId>().is_err() && "+000000000000000".parse::<KeyId>().is_err());
}

/// One thing an operator does to a keyring.
#[derive(Debug, Clone)]
enum Step {
    Add(u8),
    Use(u8),
    Remove(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..3u8, 0..6u8).prop_map(|(kind, number)| match kind {
        0 => Step::Add(number),
        1 => Step::Use(number),
        _ => Step::Remove(number),
    });
    proptest::collection::vec(step, 0..12)
}

fn after(steps: &[Step]) -> Keyring {
    let mut ring = ring_of(&[0, 1]);
    for step in steps {
        // What is refused changes nothing.
        let _refused = match step {
            Step::Add(number) => ring.add(key(*number), u64::from(*number)).map(drop),
            Step::Use(number) => ring.use_key(key(*number).id()),
            Step::Remove(number) => ring.remove(key(*number).id()),
        };
    }
    ring
}

proptest! {
    #[test]
    fn keyrings_merge_in_any_order_and_the_removed_stay_removed(a in steps(), b in steps(), c in steps()) {
        let [a, b, c] = [after(&a), after(&b), after(&c)];
        let merged = |rings: [&Keyring; 3]| {
            let mut sum = Keyring::default();
            for ring in rings {
                sum.merge(ring).unwrap();
            }
            sum
        };
        let sum = merged([&a, &b, &c]);
        for other in [merged([&c, &b, &a]), merged([&b, &a, &c]), merged([&c, &a, &b])] {
            prop_assert_eq!(&sum, &other);
            prop_assert_eq!(sum.digest(), other.digest());
        }
        prop_assert!(!sum.clone().merge(&sum).unwrap());
        for (id, entry) in [&a, &b, &c].into_iter().flat_map(Keyring::entries) {
            if entry.key.is_none() {
                prop_assert!(sum.key(id).is_none());
            }
        }
    }

    #[test]
    fn damage_anywhere_is_refused_and_changes_nothing(at in 0..80usize, bit in 0..8u8, cut in 0..80usize) {
        let ring = ring_of(&[1]);
        let datagram = sealer("a", 1, 1, &ring).seal(&[7; 35]).unwrap();
        let mut opener = opener();
        let mut damaged = datagram.clone();
        damaged[at % datagram.len()] ^= 1 << bit;
        prop_assert!(opener.open(&damaged, &ring, NOW).is_err());
        prop_assert!(opener.open(&datagram[..cut.min(datagram.len() - 1)], &ring, NOW).is_err());
        prop_assert_eq!(opener.senders(), 0);
        prop_assert!(opener.open(&datagram, &ring, NOW).is_ok());
    }

    #[test]
    fn junk_is_refused(junk in proptest::collection::vec(any::<u8>(), 0..200), plausible in any::<bool>()) {
        let ring = ring_of(&[1]);
        let mut junk = junk;
        if plausible && junk.len() > 7 {
            let real = sealer("a", 1, 1, &ring).seal(b"").unwrap();
            junk[..7].copy_from_slice(&real[..7]);
        }
        let mut opener = opener();
        prop_assert!(opener.open(&junk, &ring, NOW).is_err());
        prop_assert_eq!(opener.senders(), 0);
    }

    #[test]
    fn each_datagram_is_opened_at_most_once_in_any_order(order in proptest::collection::vec(0..60usize, 0..200)) {
        let ring = ring_of(&[1]);
        let (mut sealer, mut opener) = (sealer("a", 1, 1, &ring), opener());
        let datagrams: Vec<_> = (0..60).map(|_| sealer.seal(b"x").unwrap()).collect();
        let mut seen = std::collections::BTreeSet::new();
        for at in order {
            prop_assert_eq!(opener.open(&datagrams[at], &ring, NOW).is_ok(), seen.insert(at));
        }
    }

    #[test]
    fn the_window_agrees_with_a_set(steps in proptest::collection::vec(0..3000u64, 1..300)) {
        let mut window = super::window::Window::default();
        let mut seen = std::collections::BTreeSet::new();
        for counter in steps {
            let highest = seen.last().copied().unwrap_or(0);
            let recent = counter + limits::REPLAY_WINDOW as u64 > highest;
            prop_assert_eq!(window.is_fresh(counter), recent && !seen.contains(&counter));
            if window.is_fresh(counter) {
                window.note(counter);
                seen.insert(counter);
            }
        }
    }
}
