//! Whole rounds of dropping, in a model of a cluster: replicas that decide as they do, records in memory and on their way,
//! restarts, a storage that went back, and everything in any order between the steps of a round. Nothing that was deleted may
//! come back, however late, and nothing that was written may be taken for dropped. Each part of the proof is left out, one at
//! a time, which must be found.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use futures_util::FutureExt;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::reap::PARTITION;
use super::*;
use crate::node::past::kept;
use crate::node::reap::round::{Members, propose};
use crate::node::replica::op::Forget;
use crate::version::Version;
use crate::wire::blob::Blob;
use crate::wire::past::Landmark;
use crate::wire::reap::{DeadRecord, Life, ReapAnswer};
use crate::wire::rpc::SlotRef;

/// The owners, by place; the last node owns nothing, and stands in for them.
const OWNERS: std::ops::Range<usize> = 0..3;
const STRANGER: usize = 3;
/// Histories that must all end well.
const SEEDS: u64 = 1_000;
/// Histories of which one must end badly where a part of the proof is left out.
const PLANTED_SEEDS: u64 = 4_000;
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

/// What a history is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The record alone, of which the round itself is proof enough.
    Anyhow,
    /// The same, where somebody still keeps what was deleted for an owner that has heard of the delete by now.
    StoodIn,
    /// The same, where it is still on its way there, and nodes restart.
    OnItsWay,
    /// Another record of its tree, which must not be taken for dropped.
    Beside,
}

/// What a cluster may leave out of the proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plant {
    Nothing,
    /// The round begins though owners were not found equal since the record died.
    EqualTrees,
    /// Nobody is asked before work is waited for.
    FirstQuestion,
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
    kind: Kind,
    /// How much happens between two steps of a round at the most.
    busy: usize,
    plant: Plant,
    /// Members asked so far in this round.
    questions: usize,
    dropped: usize,
    /// Owners that were found to hold the same since the last write of the record, in pairs.
    equal: BTreeSet<(usize, usize)>,
    /// The value of the other key, once it is written.
    beside: Option<Bytes>,
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

fn other_slot() -> Slot {
    key("b")
}

impl World {
    fn new(seed: u64, plant: Plant) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let kind = *[Kind::Anyhow, Kind::StoodIn, Kind::OnItsWay, Kind::Beside].choose(&mut rng).unwrap();
        let weight = |(event, most): (Event, u32)| match (kind, event) {
            (Kind::StoodIn | Kind::OnItsWay, Event::Read | Event::GoOn) => (event, 1),
            (Kind::OnItsWay, Event::Restart) => (event, 1),
            (Kind::StoodIn | Kind::OnItsWay, _) => (event, 0),
            _ => (event, rng.random_range(0..=most)),
        };
        let mixture = EVENTS.map(weight).to_vec();
        Self {
            mixture,
            away: rng.random_range(0.0..0.5),
            kind,
            busy: rng.random_range(0..=if kind == Kind::StoodIn { 8 } else { 2 }),
            nodes: (0..=STRANGER).map(|at| Bench { marks: rng.random(), ..Bench::new(id(at).0) }).collect(),
            lives: vec![0; STRANGER + 1],
            pieces: Vec::new(),
            rng,
            plant,
            questions: 0,
            dropped: 0,
            equal: BTreeSet::new(),
            beside: None,
            named: BTreeMap::new(),
            superseded: BTreeSet::new(),
        }
    }

    fn stored(&self, at: usize) -> Option<Bytes> {
        self.nodes[at].stored.get(&slot()).cloned()
    }

    /// A millisecond passes.
    fn tick(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.wall_ms += 1);
    }

    /// Up to so many things happen, one after the other.
    fn pass(&mut self, most: usize) {
        for _ in 0..self.rng.random_range(0..=most) {
            self.tick();
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
        self.tick();
        let state = self.nodes[at].found(&slot());
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
        self.equal.clear();
        let told = self.rng.random_range(0..OWNERS.len());
        for to in OWNERS.filter(|to| *to != at).take(told) {
            self.hold(at, to, minted.record.clone(), None, false);
        }
    }

    /// Something is written and deleted, and comes to some of the others.
    fn begin(&mut self) {
        let at = self.rng.random_range(OWNERS);
        if matches!(self.kind, Kind::StoodIn | Kind::OnItsWay) {
            self.write(at, false);
            let (record, target) = (self.stored(at).unwrap(), self.rng.random_range(OWNERS));
            self.hold(at, STRANGER, record, Some(target), false);
            if self.kind == Kind::StoodIn {
                self.arrive(self.pieces.len() - 1);
            }
            self.write(at, true);
            return self.bring_together();
        }
        if self.kind == Kind::Beside {
            let other = self.rng.random_range(OWNERS);
            self.write_beside(other);
        }
        for delete in [false, true] {
            self.write(at, delete);
            self.pass(8);
        }
        match self.stored(at) {
            // All hear of the delete, and not of what was written beside it.
            Some(record) if self.kind == Kind::Beside => {
                OWNERS.for_each(|to| self.nodes[to].apply(&slot(), &record, &[]).unwrap());
            }
            _ if self.rng.random_bool(0.6) => self.bring_together(),
            _ => {}
        }
    }

    /// The other key is written, unless it was.
    fn write_beside(&mut self, at: usize) {
        if self.beside.is_none() {
            self.tick();
            let op = self.nodes[at].mint_op(&other_slot(), None, &[]);
            let Op::Mint(mint, _) = &op else { unreachable!() };
            self.beside = mint.value.clone();
            self.nodes[at].run(&[op]).pop().unwrap().unwrap();
        }
    }

    fn hold(&mut self, from: usize, to: usize, record: Bytes, hint: Option<usize>, delivers: bool) {
        self.pieces.push(Piece { from, to, record, hint, delivers, sent: false, open: true });
    }

    /// Somebody reads a record to send it: to an owner, to one that stands in, or from that one to whom it is for; or an owner reads
    /// what is there, to repair another one.
    fn read(&mut self) {
        let stands_in = self.stored(STRANGER).is_some() && self.rng.random_bool(0.5);
        let from = if stands_in { STRANGER } else { self.rng.random_range(0..=STRANGER) };
        let Some(record) = self.stored(from) else { return };
        let hinted = |to: &usize| from != STRANGER || self.is_hinted(*to);
        let others: Vec<usize> = OWNERS.filter(|to| *to != from && hinted(to)).collect();
        let Some(target) = others.choose(&mut self.rng).copied() else { return };
        if from == STRANGER {
            let reader = self.rng.random_range(0..=STRANGER);
            let delivers = reader == STRANGER;
            if reader != target {
                self.hold(reader, target, record, None, delivers);
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
        if !(piece.delivers && piece.open) {
            return;
        }
        let place = self.nodes[STRANGER].places(&slot(), &[id(piece.to)]).remove(0);
        let Some(marked) =
            self.nodes[STRANGER].stored.get(&place).map(|marker| marker::Marker::decode(marker).unwrap())
        else {
            return;
        };
        let delivered = record::digest(&piece.record);
        let of_record = if self.nodes[STRANGER].marks { delivered.unwrap() } else { marked.digest };
        let done = |slot, marked, delivered| {
            let (target, drop_with) = (id(piece.to), Some(OWNERS.map(id).collect()));
            Op::HintDone(HintDone { slot, target, marked, delivered, drop_with }, oneshot::channel().0)
        };
        self.nodes[STRANGER].run(&[done(slot(), of_record, delivered)]);
        if self.nodes[STRANGER].marks && delivered == self.stored(STRANGER).as_deref().and_then(record::digest) {
            // Kept for another owner still; of this bucket this one has all.
            self.nodes[STRANGER].run(&[done(marker::all_of(slot().bucket), marked.digest, None)]);
        }
    }

    /// Whether who owns nothing keeps in mind that an owner lacks the record.
    fn is_hinted(&self, target: usize) -> bool {
        let stranger = &self.nodes[STRANGER];
        stranger.places(&slot(), &[id(target)]).iter().all(|place| stranger.stored.contains_key(place))
    }

    /// Two owners are brought together.
    fn compare(&mut self, one: usize, other: usize) {
        for (from, to, slot) in
            [slot(), other_slot()].into_iter().flat_map(|slot| [(one, other, slot.clone()), (other, one, slot)])
        {
            if let Some(record) = self.nodes[from].stored.get(&slot).cloned() {
                self.nodes[to].apply(&slot, &record, &[]).unwrap();
            }
        }
        self.equal.extend([(one, other), (other, one)]);
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

    /// The storage of an owner went back, and it asks the others what they have dropped: what lies before the frontier of one
    /// of them that has not seen it.
    fn catch_up(&mut self, at: usize) {
        self.restart(at);
        let of = slot();
        let namespace = record::namespace_of(&of.key).unwrap_or_default();
        for other in OWNERS.filter(|other| *other != at) {
            let there = &self.nodes[other];
            let frontier = there.stored.get(&kept::frontier_slot(id(other), PARTITION, namespace));
            let frontier = kept::decode_frontier(&there.hash, frontier);
            let mut gone = Vec::new();
            for slot in [slot(), other_slot()] {
                let (Some(here), held) = (self.nodes[at].found(&slot), there.found(&slot).unwrap_or_default()) else {
                    continue;
                };
                let dropped = |version: &&Version| version.stamp <= frontier && !held.context().covers(version.dot);
                let dots = here.versions().iter().filter(dropped).map(|version| version.dot).collect();
                gone.push(Op::Forget(Forget { slot, dots }, oneshot::channel().0));
            }
            self.nodes[at].run(&gone);
        }
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
                Plant::FirstQuestion => self.questions <= STRANGER,
                Plant::SecondQuestion => self.questions > STRANGER,
                Plant::Owner => member == 1,
                Plant::Stranger => member == STRANGER,
                Plant::Nothing | Plant::EqualTrees | Plant::Settling | Plant::Graves => false,
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
            let hinted = self.is_hinted(to);
            if let Some(record) = self.stored(STRANGER).filter(|_| hinted) {
                self.nodes[to].apply(&slot(), &record, &[]).unwrap();
            }
        }
        self.bring_together();
        let expected = self.named.iter().filter(|(dot, _)| !self.superseded.contains(dot));
        let mut expected: Vec<Bytes> = expected.filter_map(|(_, value)| value.clone()).collect();
        expected.sort_unstable();
        let beside: Vec<Bytes> = self.beside.iter().cloned().collect();
        let shows = |at: usize| [slot(), other_slot()].map(|slot| self.nodes[at].values(&slot));
        OWNERS.into_iter().all(|at| shows(at) == [expected.clone(), beside.clone()])
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
        let agree = OWNERS.filter(|other| *other != leader).all(|other| world.equal.contains(&(leader, other)));
        let begins = agree || world.kind != Kind::Beside || world.plant == Plant::EqualTrees;
        if !begins || !state.is_dead(world.nodes[leader].wall_ms) {
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

/// Plays one history: twice something is written, deleted, and dropped if all agree; in the end a storage may go back. Whether all is as it must be in the end,
/// and how many copies were dropped.
fn play(seed: u64, plant: Plant) -> (bool, usize) {
    let model = Model(RefCell::new(World::new(seed, plant)));
    for _ in 0..2 {
        let mut world = model.0.borrow_mut();
        world.begin();
        drop(world);
        model.round();
        let mut world = model.0.borrow_mut();
        if world.rng.random_bool(0.5) {
            world.lapse();
        }
        world.pass(4);
    }
    let mut world = model.0.into_inner();
    if world.kind == Kind::Beside {
        let at = world.rng.random_range(OWNERS);
        world.catch_up(at);
    }
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
    for plant in [
        Plant::EqualTrees,
        Plant::FirstQuestion,
        Plant::Settling,
        Plant::SecondQuestion,
        Plant::Owner,
        Plant::Stranger,
        Plant::Graves,
    ] {
        let found = (0..PLANTED_SEEDS).any(|seed| !play(seed, plant).0);
        assert!(found, "{plant:?} is left out, and nothing went wrong");
    }
}
