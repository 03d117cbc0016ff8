//! Laws of causality, and the stories that plain vector clocks get wrong.

use bytes::Bytes;
use proptest::prelude::*;

use crate::types::{Epoch, NodeId};
use crate::version::{Actor, Causality, Context, Dot, NewVersion, Put, RequestId, Siblings, Stamp};

fn actor(node: u64) -> Actor {
    Actor { node: NodeId(node), epoch: Epoch(1) }
}

fn write(sequence: u64, value: &'static str) -> NewVersion {
    NewVersion {
        request: RequestId { client: 1, sequence },
        after: Vec::new(),
        stamp: Stamp::at(sequence),
        expires_at: None,
        value: Some(Bytes::from_static(value.as_bytes())),
    }
}

fn values(siblings: &Siblings) -> Vec<Bytes> {
    siblings.live(0).filter_map(|version| version.value.clone()).collect()
}

#[test]
fn two_puts_under_one_context_are_siblings_and_their_joint_context_leaves_one() {
    let (mut a, mut b) = (Siblings::new(), Siblings::new());
    a.put(&Context::new(), write(1, "first"), actor(1), 0);
    b.merge(&a);
    let seen = a.context().clone();
    a.put(&seen, write(2, "left"), actor(1), 0);
    b.put(&seen, write(3, "right"), actor(2), 0);
    a.merge(&b);
    assert_eq!(values(&a), ["left", "right"]);
    let joint = a.context().clone();
    b.put(&joint, write(4, "joined"), actor(2), 0);
    a.merge(&b);
    assert_eq!(values(&a), ["joined"]);
}

#[test]
fn interleaved_clients_do_not_multiply_siblings() {
    // Two clients that each carry only their own contexts: a vector clock per server would grow without end.
    let mut state = Siblings::new();
    let (mut alice, mut bob) = (Context::new(), Context::new());
    for turn in 0..100 {
        for context in [&mut alice, &mut bob] {
            let sequence = turn * 2 + state.context().count(actor(1)) % 2;
            let Put::Added(dot) = state.put(context, write(sequence, "x"), actor(1), 0) else { panic!("repeated") };
            context.add(dot);
        }
        assert!(state.versions().len() <= 2, "{} siblings after turn {turn}", state.versions().len());
    }
}

#[test]
fn a_repeated_request_changes_nothing() {
    let mut state = Siblings::new();
    let first = state.put(&Context::new(), write(1, "x"), actor(1), 0);
    let before = state.clone();
    let Put::Added(dot) = first else { panic!("{first:?}") };
    assert_eq!(state.put(&Context::new(), write(1, "x"), actor(1), 0), Put::Repeated(dot));
    assert_eq!(state, before);
}

#[test]
fn a_request_coordinated_twice_is_read_once() {
    let (mut a, mut b) = (Siblings::new(), Siblings::new());
    a.put(&Context::new(), write(1, "x"), actor(1), 0);
    b.put(&Context::new(), write(1, "x"), actor(2), 0);
    a.merge(&b);
    assert_eq!(values(&a), ["x"]);
    assert_eq!(a.versions().len(), 2);
}

/// The reply of a put was late, its retry went to another coordinator, and the writer went on under the context of one
/// of the two: the other must not come back as a sibling, neither when it is here already nor when it comes later.
#[test]
fn a_request_coordinated_twice_counts_once_against_the_limits_of_a_key() {
    let (mut a, mut b) = (Siblings::new(), Siblings::new());
    a.put(&Context::new(), write(1, "twice"), actor(1), 0);
    b.put(&Context::new(), write(1, "twice"), actor(2), 0);
    b.put(&Context::new(), write(2, "once"), actor(2), 0);
    a.merge(&b);
    assert_eq!((a.versions().len(), a.writes()), (3, (2, 9)));
}

#[test]
fn a_request_coordinated_twice_is_superseded_under_either_of_its_dots() {
    let (mut a, mut b) = (Siblings::new(), Siblings::new());
    a.put(&Context::new(), write(1, "old"), actor(1), 0);
    let seen = a.context().clone();
    b.put(&Context::new(), write(1, "old"), actor(2), 0);
    let late = b.clone();
    b.merge(&a);
    b.put(&seen, write(2, "new"), actor(2), 0);
    assert_eq!(values(&b), ["new"]);
    a.put(&seen, write(2, "new"), actor(1), 0);
    a.merge(&late);
    assert_eq!(values(&a), ["new"], "the twin came after its successor");
    assert_eq!(a.latest(0).and_then(|version| version.value.clone()), Some(Bytes::from_static(b"new")));
    let before = a.clone();
    assert!(
        matches!(a.put(&Context::new(), write(1, "old"), actor(1), 0), Put::Repeated(_)),
        "a retry of the old write"
    );
    assert_eq!(a, before);
}

#[test]
fn expiry_and_tombstones_hide_values_but_keep_the_context() {
    let mut state = Siblings::new();
    let mut new = write(1, "x");
    new.expires_at = Some(100);
    state.put(&Context::new(), new, actor(1), 0);
    assert_eq!(state.live(99).count(), 1);
    assert_eq!(state.live(100).count(), 0);
    assert!(state.latest(100).is_none());
    assert!(state.context().covers(Dot { actor: actor(1), counter: 1 }));
}

#[test]
fn stamps_of_one_key_rise_even_when_a_coordinator_lags() {
    let mut state = Siblings::new();
    state.put(&Context::new(), write(9_000, "early"), actor(1), 0);
    state.put(&Context::new(), write(1, "late"), actor(2), 0);
    assert_eq!(state.latest(0).and_then(|version| version.value.clone()), Some(Bytes::from_static(b"late")));
}

/// A step of a random history over three replicas and two clients.
#[derive(Debug, Clone)]
enum Step {
    Put { replica: usize, client: usize, blind: bool },
    Read { replica: usize, client: usize },
    Merge { from: usize, to: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3usize, 0..2usize, any::<bool>()).prop_map(|(replica, client, blind)| Step::Put { replica, client, blind }),
        (0..3usize, 0..2usize).prop_map(|(replica, client)| Step::Read { replica, client }),
        (0..3usize, 0..3usize).prop_map(|(from, to)| Step::Merge { from, to }),
    ]
}

/// Runs a history; every state and context in it could occur in a real cluster.
fn run(steps: &[Step]) -> [Siblings; 3] {
    let mut replicas: [Siblings; 3] = Default::default();
    let mut contexts: [Context; 2] = Default::default();
    for (sequence, step) in (1..).zip(steps) {
        match *step {
            Step::Put { replica, client, blind } => {
                let seen = if blind { Context::new() } else { contexts[client].clone() };
                replicas[replica].put(&seen, write(sequence, "v"), actor(replica as u64), 0);
            }
            Step::Read { replica, client } => contexts[client].merge(replicas[replica].context()),
            Step::Merge { from, to } => {
                let other = replicas[from].clone();
                replicas[to].merge(&other);
            }
        }
    }
    replicas
}

fn merged(a: &Siblings, b: &Siblings) -> Siblings {
    let mut joined = a.clone();
    joined.merge(b);
    joined
}

fn context() -> impl Strategy<Value = Context> {
    prop::collection::btree_map(0..4u64, 1..4u64, 0..4).prop_map(|counts| {
        let entries = counts.into_iter().map(|(node, count)| (actor(node), count)).collect();
        Context::from_entries(entries).expect("a map is sorted")
    })
}

proptest! {
    #[test]
    fn merge_is_commutative_associative_and_idempotent(steps in prop::collection::vec(step(), 0..40)) {
        let [a, b, c] = run(&steps);
        prop_assert_eq!(merged(&a, &b), merged(&b, &a));
        prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
        prop_assert_eq!(merged(&a, &a), a.clone());
        prop_assert_eq!(merged(&merged(&a, &b), &b), merged(&a, &b));
    }

    #[test]
    fn every_reachable_state_is_canonical_and_loses_nothing_unseen(steps in prop::collection::vec(step(), 0..40)) {
        let [a, b, c] = run(&steps);
        let all = merged(&merged(&a, &b), &c);
        for state in [&a, &b, &c, &all] {
            let again = Siblings::from_parts(state.context().clone(), state.versions().to_vec());
            prop_assert_eq!(again.as_ref(), Some(state));
        }
        // What survives nowhere was superseded somewhere: some state covers its dot without holding it.
        for state in [&a, &b, &c] {
            for version in state.versions() {
                let kept = all.versions().contains(version);
                let superseded = [&a, &b, &c].iter().any(|other| {
                    other.context().covers(version.dot) && !other.versions().contains(version)
                });
                prop_assert!(kept || superseded);
            }
        }
    }

    #[test]
    fn compare_is_a_partial_order(a in context(), b in context(), c in context()) {
        use Causality::{After, Before, Concurrent, Equal};
        prop_assert_eq!(a.compare(&a), Equal);
        let reverse = match a.compare(&b) { Before => After, After => Before, same => same };
        prop_assert_eq!(b.compare(&a), reverse);
        prop_assert_eq!(a.compare(&b) == Equal, a == b);
        if matches!(a.compare(&b), Before | Equal) && matches!(b.compare(&c), Before | Equal) {
            prop_assert!(matches!(a.compare(&c), Before | Equal));
        }
        let mut join = a.clone();
        join.merge(&b);
        prop_assert!(matches!(a.compare(&join), Before | Equal));
        prop_assert_eq!(a.compare(&b) == Concurrent, join != a && join != b);
    }
}

#[test]
fn a_write_that_two_coordinated_has_been_seen_with_either_of_its_versions() {
    let (mut a, mut b) = (Siblings::new(), Siblings::new());
    a.put(&Context::new(), write(1, "x"), actor(1), 0);
    let read = a.context().clone();
    b.put(&Context::new(), write(1, "x"), actor(2), 0);
    a.merge(&b);
    assert_eq!(a.unseen(&read, &[]).count(), 0, "its twin is the same write");
    // The writer deletes it where only one of the two is; the other comes later and stays hidden.
    let mut deleted = Siblings::new();
    deleted.put(&Context::new(), write(1, "x"), actor(1), 0);
    let delete = NewVersion { value: None, after: vec![RequestId { client: 1, sequence: 1 }], ..write(2, "") };
    deleted.put(&Context::new(), delete, actor(1), 0);
    let seen = deleted.context().clone();
    deleted.merge(&b);
    assert_eq!(deleted.versions().len(), 2);
    assert!(deleted.live(0).next().is_none() && deleted.unseen(&seen, &[]).next().is_none());
    assert!(deleted.has_done(RequestId { client: 1, sequence: 1 }), "it was done, and superseded");
    assert!(!deleted.has_done(RequestId { client: 1, sequence: 3 }));
}

#[test]
fn a_coordinator_that_has_not_heard_of_what_was_read_hides_its_twin_all_the_same() {
    let (mut read, mut twin, mut behind) = (Siblings::new(), Siblings::new(), Siblings::new());
    read.put(&Context::new(), write(1, "first"), actor(1), 0);
    let seen = read.context().clone();
    read.put(&seen, write(2, "second"), actor(1), 0);
    let writes = read.writes_seen();
    assert_eq!(writes, [1, 2].map(|sequence| RequestId { client: 1, sequence }));
    behind.put(&read.context().clone(), NewVersion { after: writes, ..write(3, "third") }, actor(2), 0);
    // The attempts at the first two that were thought lost.
    twin.put(&Context::new(), write(1, "first"), actor(3), 0);
    behind.merge(&twin);
    let mut late = Siblings::new();
    late.put(&Context::new(), write(2, "second"), actor(4), 0);
    behind.merge(&late);
    assert_eq!(values(&behind), ["third"]);
}
