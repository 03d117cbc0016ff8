//! Batches decided in memory, and what stays true over them.

use bytes::Bytes;
use std::collections::BTreeMap;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::Instant;

use crate::hash::ClusterHash;
use crate::limits;
use crate::node::replica::Write;
use crate::node::replica::batch::{Before, Changed, Minter, Outcome, damaged as count_damaged, decode, plan, slots};
use crate::node::replica::forgotten::{Forgotten, decode_floor};
use crate::node::replica::gather;
use crate::node::replica::marker;
use crate::node::replica::op::{Apply, HintDone, Mint, Minted, Op, Reap, Step};
use crate::record;
use crate::store::{Mutation, Slot, UNREADABLE};
use crate::types::{Bucket, ClusterName, Epoch, NodeId};
use crate::version::{Actor, Clock, Context, Dot, RequestId, Siblings};
use crate::wire::rpc::ServeError;

/// A replica's storage and its planner, without a loop.
struct Bench {
    hash: ClusterHash,
    node: NodeId,
    epoch: Epoch,
    clock: Clock,
    stored: BTreeMap<Slot, Bytes>,
    sequence: u64,
    forgotten: Forgotten,
    /// The answer to the last step towards dropping a record.
    agreed: bool,
    since_start: u64,
    /// Whether the budget for hints is spent.
    marks: bool,
    /// The wall clock.
    wall_ms: u64,
}

fn key(name: &'static str) -> Slot {
    Slot { bucket: Bucket(1), key: Bytes::from_static(name.as_bytes()) }
}

impl Bench {
    fn new(node: u64) -> Self {
        let hash = ClusterHash::new(&ClusterName::new("demo").unwrap());
        let (clock, sequence) = (Clock::new(1_000), node * 1_000);
        let (stored, forgotten) = (BTreeMap::new(), Forgotten::default());
        Self {
            hash,
            node: NodeId(node),
            epoch: Epoch(1),
            clock,
            stored,
            sequence,
            forgotten,
            agreed: false,
            since_start: 0,
            marks: false,
            wall_ms: 1,
        }
    }

    /// Where hints for these targets go.
    fn places(&self, slot: &Slot, targets: &[NodeId]) -> Vec<Slot> {
        let of = if self.marks { marker::all_of(slot.bucket) } else { slot.clone() };
        targets.iter().map(|target| marker::slot(*target, &of)).collect()
    }

    fn run(&mut self, ops: &[Op]) -> Vec<Result<Option<Minted>, ServeError>> {
        let slots = slots(ops, self.node);
        let stored: Vec<Option<Bytes>> = slots.iter().map(|slot| self.stored.get(slot).cloned()).collect();
        let stored = decode(&self.hash, &slots, stored);
        let mut minter = Minter {
            hash: &self.hash,
            node: self.node,
            epoch: self.epoch,
            clock: &mut self.clock,
            wall_ms: self.wall_ms,
            since_start: self.since_start,
            forgotten: &mut self.forgotten,
        };
        let mut plan = plan(ops, slots, stored, &mut minter);
        let before = self.digests();
        for mutation in std::mem::take(&mut plan.mutations) {
            match mutation {
                Mutation::Put { slot, value } => drop(self.stored.insert(slot, value)),
                Mutation::Delete { slot } => drop(self.stored.remove(&slot)),
            }
        }
        assert_eq!(replay(before, std::mem::take(&mut plan.changed)), self.digests(), "the trees would go wrong");
        let outcomes = std::mem::take(&mut plan.outcomes);
        ops.iter()
            .zip(outcomes)
            .map(|(op, outcome)| {
                Ok(match (op, outcome?) {
                    (Op::Mint(mint, _), Outcome::Minted(dot)) => plan.minted(&mint.slot, dot),
                    (Op::Reap(..) | Op::Forget(..), Outcome::Reaped(agreed)) => {
                        self.agreed = agreed;
                        None
                    }
                    _ => None,
                })
            })
            .collect()
    }

    /// The digests of what is stored, without markers.
    fn digests(&self) -> BTreeMap<Slot, u64> {
        let records = self.stored.iter().filter(|(slot, _)| slot.bucket != Bucket::HINTS);
        records.map(|(slot, record)| (slot.clone(), record::digest(record).unwrap())).collect()
    }

    /// An operation whose caller waits, as far as the batch can see.
    fn mint_op(&mut self, slot: &Slot, seen: Option<Context>, stand_in_for: &[NodeId]) -> Op {
        self.sequence += 1;
        let mint = Mint {
            slot: slot.clone(),
            seen,
            request: RequestId { client: 1, sequence: self.sequence },
            after: Vec::new(),
            expires_at: None,
            value: Some(Bytes::from(self.sequence.to_string())),
            hints: self.places(slot, stand_in_for),
        };
        Op::Mint(mint, oneshot::channel().0)
    }

    fn mint(&mut self, slot: &Slot, stand_in_for: &[NodeId]) -> Minted {
        let op = self.mint_op(slot, Some(Context::new()), stand_in_for);
        self.run(&[op]).pop().unwrap().unwrap().unwrap()
    }

    fn apply(&mut self, slot: &Slot, record: &Bytes, hints: &[NodeId]) -> Result<(), ServeError> {
        let apply =
            Apply { slot: slot.clone(), record: record.clone(), hints: self.places(slot, hints), unsynced: false };
        self.run(&[Op::Apply(apply, oneshot::channel().0)]).pop().unwrap().map(drop)
    }

    fn hint_done(&mut self, slot: &Slot, target: NodeId, owners: &[NodeId]) {
        let marker = self.stored[&marker::slot(target, slot)].clone();
        let marked = marker::Marker::decode(&marker).unwrap().digest;
        let done = HintDone {
            slot: slot.clone(),
            target,
            marked,
            delivered: self.stored.get(slot).and_then(|record| record::digest(record)),
            drop_with: Some(owners.to_vec()),
        };
        self.run(&[Op::HintDone(done, oneshot::channel().0)]);
    }

    fn state(&self, slot: &Slot) -> Siblings {
        self.found(slot).unwrap()
    }

    /// The state of a record, if there is one.
    fn found(&self, slot: &Slot) -> Option<Siblings> {
        self.stored.get(slot).map(|record| record::decode(&self.hash, &slot.key, record).unwrap())
    }
}

/// What the trees make of a batch.
fn replay(mut digests: BTreeMap<Slot, u64>, changed: Vec<Changed>) -> BTreeMap<Slot, u64> {
    for Changed { slot, before, after } in changed {
        let old = match before {
            Before::Nothing => None,
            Before::Digest(digest) => Some(digest),
            Before::Unreadable => digests.get(&slot).copied(),
        };
        assert_eq!(digests.remove(&slot), old, "{slot:?}");
        digests.extend(after.map(|after| (slot, after)));
    }
    digests
}

mod marks;
mod reap;
mod round;
mod shed;
mod unsynced;

#[test]
fn puts_of_one_batch_see_each_other() {
    let mut bench = Bench::new(1);
    let slot = key("a");
    let ops = [bench.mint_op(&slot, Some(Context::new()), &[]), bench.mint_op(&slot, None, &[])];
    let outcomes = bench.run(&ops);
    assert_eq!(bench.state(&slot).versions().len(), 1, "the second put supersedes all it finds");
    for outcome in outcomes {
        let minted = outcome.unwrap().unwrap();
        assert_eq!(minted.record, bench.stored[&slot]);
    }
}

#[test]
fn a_record_merged_twice_or_out_of_order_changes_nothing_more() {
    let (mut a, mut b) = (Bench::new(1), Bench::new(2));
    let slot = key("a");
    let first = a.mint(&slot, &[]).record;
    let second = a.mint(&slot, &[]).record;
    for record in [&second, &first, &second] {
        b.apply(&slot, record, &[]).unwrap();
    }
    assert_eq!(b.stored, a.stored);
}

#[test]
fn a_damaged_record_from_a_peer_is_refused_and_a_stored_one_is_noticed() {
    let mut bench = Bench::new(1);
    let slot = key("a");
    let mut damaged = bench.mint(&slot, &[]).record.to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let damaged = Bytes::from(damaged);
    assert!(matches!(bench.apply(&slot, &damaged, &[]), Err(ServeError::Invalid(_))));
    let slots = std::slice::from_ref(&slot);
    for stored in [damaged, UNREADABLE] {
        assert_eq!(count_damaged(&decode(&bench.hash, slots, vec![Some(stored)])), 1);
    }
}

#[test]
fn siblings_are_bounded_and_a_repeated_request_is_let_through() {
    let mut bench = Bench::new(1);
    let slot = key("a");
    for _ in 0..crate::limits::SIBLINGS_MAX {
        bench.mint(&slot, &[]);
    }
    let op = bench.mint_op(&slot, Some(Context::new()), &[]);
    assert!(matches!(bench.run(&[op]).pop().unwrap(), Err(ServeError::Limit(_))));
    bench.sequence -= 2;
    let again = bench.mint_op(&slot, Some(Context::new()), &[]);
    assert!(bench.run(&[again]).pop().unwrap().is_ok());
    let resolving = bench.state(&slot).context().clone();
    bench.sequence += 10;
    let op = bench.mint_op(&slot, Some(resolving), &[]);
    assert!(bench.run(&[op]).pop().unwrap().is_ok());
    assert_eq!(bench.state(&slot).versions().len(), 1);
}

/// A stand-in forgets a key with its last hint. Were it to count from 1 again, its next version
/// would be taken for the one it handed over before, and be lost.
#[test]
fn a_stand_in_never_issues_a_dot_twice_though_it_forgets_the_key() {
    let mut bench = Bench::new(9);
    let (slot, owners) = (key("a"), [NodeId(1), NodeId(2)]);
    let mut dots: Vec<Dot> = Vec::new();
    for _ in 0..3 {
        dots.push(bench.mint(&slot, &owners).dot);
        dots.push(bench.mint(&slot, &owners).dot);
        bench.hint_done(&slot, owners[0], &owners);
        assert!(bench.stored.contains_key(&slot), "one owner still lacks it");
        dots.push(bench.mint(&slot, &owners).dot);
        bench.hint_done(&slot, owners[0], &owners);
        bench.hint_done(&slot, owners[1], &owners);
        assert!(bench.stored.keys().eq([&marker::floor_slot(bench.node)]), "{:?}", bench.stored);
        bench.restart();
    }
    let mut unique = dots.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), dots.len(), "{dots:?}");
}

#[test]
fn a_hint_renewed_while_it_was_delivered_stays() {
    let (mut owner, mut bench) = (Bench::new(1), Bench::new(9));
    let (slot, owners) = (key("a"), [NodeId(1)]);
    let first = owner.mint(&slot, &[]).record;
    bench.apply(&slot, &first, &owners).unwrap();
    let marked = marker::Marker::decode(&bench.stored[&marker::slot(owners[0], &slot)]).unwrap().digest;
    let second = owner.mint(&slot, &[]).record;
    bench.apply(&slot, &second, &owners).unwrap();
    let done = HintDone {
        slot: slot.clone(),
        target: owners[0],
        marked,
        delivered: record::digest(&first),
        drop_with: Some(owners.to_vec()),
    };
    bench.run(&[Op::HintDone(done, oneshot::channel().0)]);
    assert_eq!(bench.stored.len(), 2, "marker and record stay for the second delivery");
}

/// Nobody but the store itself makes contexts, but anyone with a client certificate can send one.
#[test]
fn a_context_that_would_make_an_unreadable_record_is_refused_and_nothing_is_stored() {
    let mut bench = Bench::new(1);
    let slot = key("a");
    bench.mint(&slot, &[]);
    let before = bench.stored.clone();
    let actor = |node| Actor { node: NodeId(node), epoch: Epoch(1) };
    let most = Context::from_entries(vec![(actor(1), u64::MAX / 2)]).unwrap();
    let many = (1..=crate::limits::CONTEXT_ACTORS_MAX as u64).map(|node| (actor(node + 100), 1)).collect();
    for seen in [most, Context::from_entries(many).unwrap()] {
        let op = bench.mint_op(&slot, Some(seen), &[]);
        assert!(matches!(bench.run(&[op]).pop().unwrap(), Err(ServeError::Limit(_))));
        assert_eq!(bench.stored, before);
    }
}

/// The last hint of a stand-in is delivered in the very batch that brings the same record for another owner.
#[test]
fn a_record_that_a_new_hint_needs_does_not_go_with_the_old_one() {
    let (mut owner, mut bench) = (Bench::new(1), Bench::new(9));
    let (slot, owners) = (key("a"), [NodeId(1), NodeId(2)]);
    let record = owner.mint(&slot, &[]).record;
    bench.apply(&slot, &record, &owners[..1]).unwrap();
    let digest = record::digest(&record);
    let again =
        Apply { slot: slot.clone(), record: record.clone(), hints: bench.places(&slot, &owners[1..]), unsynced: false };
    let done = HintDone {
        slot: slot.clone(),
        target: owners[0],
        marked: digest.unwrap(),
        delivered: digest,
        drop_with: Some(owners.to_vec()),
    };
    bench.run(&[Op::Apply(again, oneshot::channel().0), Op::HintDone(done, oneshot::channel().0)]);
    assert_eq!(bench.stored.get(&slot), Some(&record), "the second owner's hint leads to nothing");
    assert!(bench.stored.contains_key(&marker::slot(owners[1], &slot)));
}

#[tokio::test]
async fn operations_of_tasks_that_were_ready_go_into_one_batch_up_to_its_bound() {
    let op = || Write { op: Op::Hint(key("a"), Vec::new(), oneshot::channel().0), since: Instant::now() };
    let (sender, mut inbox) = mpsc::channel(2 * limits::STORE_BATCH_MAX);
    let other = sender.clone();
    let ready = async move {
        for _ in 0..2 {
            drop(other.send(op()).await);
            yield_now().await;
        }
    };
    let (ops, ()) = tokio::join!(gather(op(), &mut inbox), ready);
    assert_eq!(ops.len(), 3);
    for _ in 0..limits::STORE_BATCH_MAX + 10 {
        sender.try_send(op()).unwrap();
    }
    assert_eq!(gather(op(), &mut inbox).await.len(), limits::STORE_BATCH_MAX);
    assert_eq!(gather(op(), &mut inbox).await.len(), 12, "what found no room comes next");
}

/// A marker's place says for whom and of what it is, so its content can be made anew.
#[test]
fn a_damaged_marker_is_made_anew_or_goes_when_there_is_nothing_to_hand_over() {
    let (mut owner, mut bench) = (Bench::new(1), Bench::new(9));
    let (slot, target) = (key("a"), NodeId(1));
    let record = owner.mint(&slot, &[]).record;
    bench.apply(&slot, &record, &[target]).unwrap();
    let place = marker::slot(target, &slot);
    bench.stored.insert(place.clone(), Bytes::new());
    bench.run(&[Op::Hint(slot.clone(), vec![place.clone()], oneshot::channel().0)]);
    assert_eq!(marker::Marker::decode(&bench.stored[&place]).unwrap().digest, record::digest(&record).unwrap());
    bench.stored = BTreeMap::from([(place, Bytes::new())]);
    let done = HintDone { slot, target, marked: 0, delivered: None, drop_with: None };
    bench.run(&[Op::HintDone(done, oneshot::channel().0)]);
    assert!(bench.stored.is_empty());
}
