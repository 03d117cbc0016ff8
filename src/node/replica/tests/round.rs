//! Whole rounds of dropping, in a model of a cluster: replicas that decide as they do, records in memory and on their way,
//! restarts, and everything in any order between the steps of a round. Nothing that was deleted may come back, however late.
//! And parts of the proof are left out one by one, which must be found. That the first question is needed as well shows in
//! one history of thousands only, so it is not among them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use futures_util::FutureExt;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::reap::PARTITION;
use super::*;
use crate::node::reap::round::{Members, propose};
use crate::wire::blob::Blob;
use crate::wire::past::Landmark;
use crate::wire::reap::{DeadRecord, Life, ReapAnswer};
use crate::wire::rpc::SlotRef;

/// The owners, by place; the last node owns nothing, and stands in for them.
const OWNERS: std::ops::Range<usize> = 0..3;
const STRANGER: usize = 3;
/// Histories that must all end well.
const SEEDS: u64 = 800;
/// Histories of which one must end badly where a part of the proof is left out.
const PLANTED_SEEDS: u64 = 8_000;
/// How often each kind of event happens at the most. A history draws its own mixture, since some faults show only where
/// little else happens.
const EVENTS: [(Event, u32); 6] = [
    (Event::Put, 1),
    (Event::Delete, 1),
    (Event::Read, 12),
    (Event::GoOn, 12),
    (Event::Compare, 12),
    (Event::Restart, 4),
];

/// What may happen at any time.
#[derive(Debug, Clone, Copy)]
enum Event {
    Put,
    Delete,
    Read,
    GoOn,
    Compare,
    Restart,
}

/// What a cluster may leave out of the proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plant {
    Nothing,
    /// Nobody waits for work to end.
    Settling,
    /// Nobody is asked again, nor whether it has restarted.
    SecondQuestion,
    /// One of the owners is not asked.
    Owner,
    /// Who owns nothing is not asked.
    Stranger,
    /// What was dropped is not remembered.
    Graves,
}

/// A record in the memory of a node that will send it, or already on its way.
#[derive(Debug, Clone)]
struct Piece {
    from: usize,
    to: usize,
    record: Bytes,
    /// Whom the receiver is to keep it for.
    hint: Option<usize>,
    /// What of a hint is being delivered.
    delivers: bool,
    /// Whether it has left the sender.
    sent: bool,
    /// Whether the sender still works on it.
    open: bool,
}

struct World {
    nodes: Vec<Bench>,
    lives: Vec<u64>,
    pieces: Vec<Piece>,
    rng: StdRng,
    mixture: Vec<(Event, u32)>,
    /// How often somebody stands in for an owner.
    away: f64,
    /// How much happens between two steps of a round at the most.
    busy: usize,
    plant: Plant,
    /// Members asked so far in this round.
    questions: usize,
    dropped: usize,
    /// Every version there ever was, and those that a later write replaced or deleted.
    named: BTreeMap<Dot, Option<Bytes>>,
    superseded: BTreeSet<Dot>,
}

fn id(at: usize) -> NodeId {
    NodeId(at as u64 + 1)
}

fn slot() -> Slot {
    key("a")
}

impl World {
    fn new(seed: u64, plant: Plant) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mixture = EVENTS.map(|(event, most)| (event, rng.random_range(0..=most))).to_vec();
        Self {
            mixture,
            away: rng.random_range(0.0..0.5),
            busy: rng.random_range(0..=2),
            nodes: (0..=STRANGER).map(|at| Bench::new(id(at).0)).collect(),
            lives: vec![0; STRANGER + 1],
            pieces: Vec::new(),
            rng,
            plant,
            questions: 0,
            dropped: 0,
            named: BTreeMap::new(),
            superseded: BTreeSet::new(),
        }
    }

    fn stored(&self, at: usize) -> Option<Bytes> {
        self.nodes[at].stored.get(&slot()).cloned()
    }

    /// Up to so many things happen, one after the other.
    fn pass(&mut self, most: usize) {
        for _ in 0..self.rng.random_range(0..=most) {
            let (at, other) = (self.rng.random_range(OWNERS), self.rng.random_range(OWNERS));
            let Ok(&(event, _)) = self.mixture.choose_weighted(&mut self.rng, |(_, weight)| *weight) else { return };
            match event {
                Event::Put => self.write(at, false),
                Event::Delete => self.write(at, true),
                Event::Read => self.read(),
                Event::GoOn => self.go_on(),
                Event::Compare => self.compare(at, other),
                Event::Restart => {
                    let at = if self.rng.random_bool(0.5) { at } else { STRANGER };
                    self.restart(at);
                }
            }
        }
    }

    /// A client that has read what is here puts or deletes, and some of the others are to get it.
    fn write(&mut self, at: usize, delete: bool) {
        let state = self.stored(at).map(|_| self.nodes[at].state(&slot()));
        if delete && state.as_ref().is_none_or(|state| state.live(1).next().is_none()) {
            return;
        }
        let seen = state.map(|state| state.context().clone()).unwrap_or_default();
        self.superseded.extend(self.named.keys().filter(|dot| seen.covers(**dot)));
        let Op::Mint(mut mint, reply) = self.nodes[at].mint_op(&slot(), Some(seen), &[]) else { unreachable!() };
        if delete {
            mint.value = None;
        }
        let value = mint.value.clone();
        let minted = self.nodes[at].run(&[Op::Mint(mint, reply)]).pop().unwrap().unwrap().unwrap();
        assert_eq!(self.named.insert(minted.dot, value), None, "a name was given twice");
        let told = self.rng.random_range(0..OWNERS.len());
        for to in OWNERS.filter(|to| *to != at).take(told) {
            self.hold(at, to, minted.record.clone(), None, false);
        }
    }

    fn hold(&mut self, from: usize, to: usize, record: Bytes, hint: Option<usize>, delivers: bool) {
        self.pieces.push(Piece { from, to, record, hint, delivers, sent: false, open: true });
    }

    /// Somebody reads a record to send it: to an owner, to one that stands in, or from that one to whom it is for.
    fn read(&mut self) {
        let from = self.rng.random_range(0..=STRANGER);
        let Some(record) = self.stored(from) else { return };
        let others: Vec<usize> = OWNERS.filter(|to| *to != from).collect();
        let target = *others.choose(&mut self.rng).unwrap();
        if from == STRANGER {
            if self.nodes[from].stored.contains_key(&marker::slot(id(target), &slot())) {
                self.hold(from, target, record, None, true);
            }
        } else if self.rng.random_bool(self.away) {
            self.hold(from, STRANGER, record, Some(target), false);
        } else {
            self.hold(from, target, record, None, false);
        }
    }

    /// One piece gets on: it is sent, given up by its sender, or arrives.
    fn go_on(&mut self) {
        if self.pieces.is_empty() {
            return;
        }
        let which = self.rng.random_range(0..self.pieces.len());
        let piece = &mut self.pieces[which];
        match (piece.sent, self.rng.random_range(0..3)) {
            (false, _) => piece.sent = true,
            (true, 0) => piece.open = false,
            (true, _) => self.arrive(which),
        }
    }

    fn arrive(&mut self, which: usize) {
        let piece = self.pieces.swap_remove(which);
        let hints: Vec<NodeId> = piece.hint.map(id).into_iter().collect();
        self.nodes[piece.to].apply(&slot(), &piece.record, &hints).unwrap();
        let of = marker::slot(id(piece.to), &slot());
        let Some(marker) = self.nodes[piece.from].stored.get(&of).filter(|_| piece.delivers && piece.open) else {
            return;
        };
        let done = HintDone {
            slot: slot(),
            target: id(piece.to),
            marked: marker::Marker::decode(marker).unwrap().digest,
            delivered: record::digest(&piece.record),
            drop_with: Some(OWNERS.map(id).collect()),
        };
        self.nodes[piece.from].run(&[Op::HintDone(done, oneshot::channel().0)]);
    }

    /// Two owners are brought together.
    fn compare(&mut self, one: usize, other: usize) {
        for (from, to) in [(one, other), (other, one)] {
            if let Some(record) = self.stored(from) {
                self.nodes[to].apply(&slot(), &record, &[]).unwrap();
            }
        }
    }

    /// All owners are.
    fn bring_together(&mut self) {
        for (one, other) in [(0, 1), (1, 2), (0, 1)] {
            self.compare(one, other);
        }
    }

    /// Storage stays; memory and connections go. What others have in memory for it is sent anew.
    fn restart(&mut self, at: usize) {
        self.nodes[at].restart();
        self.lives[at] += 1;
        self.pieces.retain(|piece| piece.from != at && (piece.to != at || !piece.sent));
    }

    /// So much time passes that whatever is in a connection has arrived or not, and what was dropped is remembered no more.
    /// How long somebody works is not bounded by any time.
    fn lapse(&mut self) {
        self.pieces.retain(|piece| piece.open);
        (0..self.nodes.len()).for_each(|at| self.forget_graves(at));
    }

    fn forget_graves(&mut self, at: usize) {
        let floor = self.nodes[at].forgotten.floor;
        self.nodes[at].forgotten = Forgotten::default();
        self.nodes[at].forgotten.floor = floor;
    }

    fn ask(&mut self, member: usize, life: Option<Life>, key: &DeadRecord) -> Result<ReapAnswer, String> {
        let process = if self.plant == Plant::SecondQuestion { 0 } else { self.lives[member] };
        let own = Life { process, epoch: Epoch(1) };
        if life.is_some_and(|life| life != own) {
            return Err("another life".to_owned());
        }
        let digest = key.digest;
        let step = match (OWNERS.contains(&member), life) {
            (true, Some(_)) => Step::Drop { digest, dead_ms: 0 },
            (true, None) => Step::Confirm { digest, dead_ms: 0 },
            (false, _) => Step::Bury,
        };
        let reap =
            Reap { slot: slot(), owners: OWNERS.map(id).collect(), partition: PARTITION, step, seen: key.seen.clone() };
        let leaves_out = life.is_none()
            && match self.plant {
                Plant::SecondQuestion => self.questions > STRANGER,
                Plant::Owner => member == 1,
                Plant::Stranger => member == STRANGER,
                Plant::Nothing | Plant::Settling | Plant::Graves => false,
            };
        self.questions += 1;
        let agreed = leaves_out || {
            self.nodes[member].run(&[Op::Reap(reap, oneshot::channel().0)]).pop().unwrap().unwrap();
            self.nodes[member].agreed
        };
        if self.plant == Plant::Graves {
            self.forget_graves(member);
        }
        Ok(ReapAnswer { life: own, agreed: vec![agreed], landmark: Landmark::default() })
    }

    /// All that a node had begun ends: it has arrived, or is on its way.
    fn settle(&mut self, member: usize) {
        while let Some(which) = self.pieces.iter().position(|piece| piece.from == member && piece.open) {
            if self.rng.random_bool(0.5) {
                self.arrive(which);
            } else {
                (self.pieces[which].sent, self.pieces[which].open) = (true, false);
            }
        }
    }

    /// Everything ends and comes together. Of what is still on its way one record with a value arrives, if there is any, and the
    /// rest is lost. Whether each owner shows what was written and not replaced.
    fn shows_what_it_must(&mut self) -> bool {
        if self.rng.random_bool(0.5) {
            self.lapse();
        }
        let hash = &self.nodes[0].hash;
        let shows = |record| record::decode(hash, &slot().key, record).unwrap().live(1).next().is_some();
        if let Some(last) = self.pieces.iter().position(|piece| shows(&piece.record)) {
            self.arrive(last);
        }
        self.pieces.clear();
        self.lapse();
        for to in OWNERS {
            let marked = self.nodes[STRANGER].stored.contains_key(&marker::slot(id(to), &slot()));
            if let Some(record) = self.stored(STRANGER).filter(|_| marked) {
                self.nodes[to].apply(&slot(), &record, &[]).unwrap();
            }
        }
        self.bring_together();
        let expected = self.named.iter().filter(|(dot, _)| !self.superseded.contains(dot));
        let mut expected: Vec<Bytes> = expected.filter_map(|(_, value)| value.clone()).collect();
        expected.sort_unstable();
        OWNERS.into_iter().all(|at| self.nodes[at].values(&slot()) == expected)
    }
}

/// The cluster, for a round; between any two of its steps something happens.
struct Model(RefCell<World>);

fn place(member: NodeId) -> usize {
    usize::try_from(member.0).unwrap() - 1
}

impl Members for Model {
    fn all(&self) -> Vec<NodeId> {
        (0..=STRANGER).map(id).collect()
    }

    fn owners(&self, _: &DeadRecord) -> Vec<NodeId> {
        OWNERS.map(id).collect()
    }

    fn counts(&self) -> Result<(), String> {
        Ok(())
    }

    async fn order(
        &self,
        member: NodeId,
        life: Option<Life>,
        keys: &[DeadRecord],
        _: &[(NodeId, Landmark)],
    ) -> Result<ReapAnswer, String> {
        let mut world = self.0.borrow_mut();
        let busy = world.busy;
        world.pass(busy);
        world.ask(place(member), life, &keys[0])
    }

    async fn settle(&self, member: NodeId) -> Result<(), String> {
        let mut world = self.0.borrow_mut();
        let busy = world.busy;
        world.pass(busy);
        if world.plant != Plant::Settling {
            world.settle(place(member));
        }
        Ok(())
    }
}

impl Model {
    /// The owners propose what is dead.
    fn round(&self) {
        let mut world = self.0.borrow_mut();
        let leader = world.rng.random_range(OWNERS);
        let Some(record) = world.stored(leader) else { return };
        let state = world.nodes[leader].state(&slot());
        if !state.is_dead(1) {
            return;
        }
        world.questions = 0;
        drop(world);
        let key = DeadRecord {
            slot: SlotRef { bucket: slot().bucket, key: Blob(slot().key) },
            digest: record::digest(&record).unwrap(),
            seen: state.context().clone(),
        };
        let proposed = propose(self, vec![key]).now_or_never().expect("the model answers at once");
        self.0.borrow_mut().dropped += proposed.map_or(0, |(_, dropped)| dropped);
    }
}

/// Plays one history: twice something is written, deleted, and dropped if all agree. Whether all is as it must be in the end,
/// and how many copies were dropped.
fn play(seed: u64, plant: Plant) -> (bool, usize) {
    let model = Model(RefCell::new(World::new(seed, plant)));
    for _ in 0..2 {
        let mut world = model.0.borrow_mut();
        let at = world.rng.random_range(OWNERS);
        for delete in [false, true] {
            world.write(at, delete);
            world.pass(8);
        }
        if world.rng.random_bool(0.6) {
            world.bring_together();
        }
        drop(world);
        model.round();
        let mut world = model.0.borrow_mut();
        if world.rng.random_bool(0.5) {
            world.lapse();
        }
        world.pass(4);
    }
    let mut world = model.0.into_inner();
    (world.shows_what_it_must(), world.dropped)
}

#[test]
fn whatever_happens_during_a_round_nothing_deleted_returns_and_nothing_written_is_lost() {
    let mut dropped = 0;
    for seed in 0..SEEDS {
        let (right, copies) = play(seed, Plant::Nothing);
        assert!(right, "seed {seed}");
        dropped += copies;
    }
    assert!(dropped > 500, "only {dropped} copies were dropped");
}

#[test]
fn a_round_without_one_part_of_the_proof_is_found_out() {
    for plant in [Plant::Settling, Plant::SecondQuestion, Plant::Owner, Plant::Stranger, Plant::Graves] {
        let found = (0..PLANTED_SEEDS).any(|seed| !play(seed, plant).0);
        assert!(found, "{plant:?} is left out, and nothing returned");
    }
}
