//! Marks: one for all hints of a bucket beyond the budget; what is kept under them goes only to those who lack it.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const OWNERS: [NodeId; 2] = [NodeId(1), NodeId(2)];
const STAND_IN: u64 = 9;
const KEYS: [&str; 3] = ["a", "b", "c"];

fn mark(target: NodeId) -> Slot {
    marker::slot(target, &marker::all_of(key("a").bucket))
}

impl Bench {
    fn mark_of(&self, target: NodeId) -> Option<u64> {
        self.stored.get(&mark(target)).map(|mark| marker::Marker::decode(mark).unwrap().digest)
    }

    /// All that a mark speaks of was delivered when it was this one.
    fn mark_done(&mut self, target: NodeId, marked: u64) {
        let slot = marker::all_of(key("a").bucket);
        let done = HintDone { slot, target, marked, delivered: None, drop_with: None };
        self.run(&[Op::HintDone(done, oneshot::channel().0)]);
    }

    /// The records that are here.
    fn keys(&self) -> Vec<Slot> {
        self.stored.keys().filter(|slot| slot.bucket != Bucket::HINTS).cloned().collect()
    }
}

/// A record was delivered, as its marker or as the mark of its bucket has it.
fn done(slot: &Slot, target: NodeId, marked: u64, record: &Bytes) -> Op {
    let (slot, delivered) = (slot.clone(), record::digest(record));
    let done = HintDone { slot, target, marked, delivered, drop_with: Some(OWNERS.to_vec()) };
    Op::HintDone(done, oneshot::channel().0)
}

#[test]
fn one_mark_stands_for_all_records_of_a_bucket_and_stays_when_it_was_renewed() {
    let mut bench = Bench { marks: true, ..Bench::new(STAND_IN) };
    for name in KEYS {
        bench.mint(&key(name), &OWNERS[..1]);
    }
    assert_eq!(bench.stored.len(), KEYS.len() + 1, "{:?}", bench.stored.keys());
    let marked = bench.mark_of(OWNERS[0]).unwrap();
    bench.mint(&key("a"), &OWNERS[..1]);
    bench.mark_done(OWNERS[0], marked);
    assert!(bench.mark_of(OWNERS[0]).is_some_and(|renewed| renewed != marked), "a write is forgotten");
    bench.mark_done(OWNERS[0], bench.mark_of(OWNERS[0]).unwrap());
    assert_eq!(bench.mark_of(OWNERS[0]), None);
}

#[test]
fn a_record_stays_while_another_owner_s_mark_or_marker_speaks_of_it() {
    for marks in [true, false] {
        let mut bench = Bench { marks: true, ..Bench::new(STAND_IN) };
        let slot = key("a");
        let record = bench.mint(&slot, &OWNERS[..1]).record;
        bench.marks = marks;
        bench.apply(&slot, &record, &OWNERS[1..]).unwrap();
        let digest = record::digest(&record).unwrap();
        bench.run(&[done(&slot, OWNERS[0], digest, &record)]);
        assert!(bench.stored.contains_key(&slot), "the other owner lacks it");
        bench.mark_done(OWNERS[0], bench.mark_of(OWNERS[0]).unwrap());
        bench.run(&[done(&slot, OWNERS[1], digest, &record)]);
        assert!(!bench.stored.contains_key(&slot));
    }
}

#[test]
fn nobody_s_record_goes_because_it_was_delivered_without_a_hint() {
    let mut bench = Bench::new(STAND_IN);
    let slot = key("a");
    let record = bench.mint(&slot, &[]).record;
    bench.run(&[done(&slot, OWNERS[0], record::digest(&record).unwrap(), &record)]);
    assert!(bench.stored.contains_key(&slot));
}

/// A hint that is made in the batch in which the one before it is done.
#[test]
fn a_new_hint_keeps_what_was_to_go_with_the_old_one() {
    for (marks, first) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut bench = Bench::new(STAND_IN);
        let slot = key("a");
        let record = bench.mint(&slot, &OWNERS[..1]).record;
        bench.marks = marks;
        let hint = Op::Hint(slot.clone(), bench.places(&slot, &OWNERS[1..]), oneshot::channel().0);
        let done = done(&slot, OWNERS[0], record::digest(&record).unwrap(), &record);
        bench.run(&if first { [hint, done] } else { [done, hint] });
        assert_eq!(bench.stored.get(&slot), Some(&record), "the second owner's hint leads to nothing");
    }
}

/// A client asks again for a write, in the batch in which the hint of the first time is done.
#[test]
fn a_repeated_write_keeps_what_was_to_go_with_its_first_hint() {
    for first in [true, false] {
        let mut bench = Bench::new(STAND_IN);
        let slot = key("a");
        let record = bench.mint(&slot, &OWNERS[..1]).record;
        bench.sequence -= 1;
        let again = bench.mint_op(&slot, Some(Context::new()), &OWNERS);
        let done = done(&slot, OWNERS[0], record::digest(&record).unwrap(), &record);
        bench.run(&if first { [again, done] } else { [done, again] });
        assert_eq!(bench.stored.get(&slot), Some(&record), "what was acknowledged is gone");
    }
}

/// A stand-in counts under its storage's epoch, like everybody, so what keeps others from naming a dot twice keeps it, too.
#[test]
fn a_stand_in_whose_storage_went_back_to_an_older_copy_names_no_dot_again() {
    for marks in [true, false] {
        let mut bench = Bench { marks, ..Bench::new(STAND_IN) };
        let slot = key("a");
        let mut named = vec![bench.mint(&slot, &OWNERS).dot];
        let copy = bench.stored.clone();
        named.extend((0..3).map(|_| bench.mint(&slot, &OWNERS).dot));
        bench.stored = copy;
        bench.restart();
        (bench.epoch, bench.since_start) = (Epoch(2), 1 << limits::COUNTS_PER_START_BITS);
        named.extend((0..3).map(|_| bench.mint(&slot, &OWNERS).dot));
        let distinct: BTreeSet<Dot> = named.iter().copied().collect();
        assert_eq!(distinct.len(), named.len(), "{named:?}");
    }
}

#[derive(Debug, Clone)]
enum Act {
    /// A write that the stand-in names itself, or is sent, for some of the owners.
    Write { key: usize, named: bool, for_both: bool, marks: bool },
    /// The next record under the mark of an owner is delivered, or the mark goes when there is none.
    Walk,
    /// The marker of a record is delivered.
    Deliver { key: usize, to: usize },
    /// The stand-in begins another life, in the midst of whatever it was doing.
    Restart,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let (key, flag) = (0..KEYS.len(), any::<bool>);
    let act = prop_oneof![
        4 => (key.clone(), flag(), flag(), flag())
            .prop_map(|(key, named, for_both, marks)| Act::Write { key, named, for_both, marks }),
        8 => Just(Act::Walk),
        2 => (key, 0..OWNERS.len()).prop_map(|(key, to)| Act::Deliver { key, to }),
        1 => Just(Act::Restart),
    ];
    prop::collection::vec(act, 1..60)
}

/// A walk over what is kept under a mark, one at a time as in the program.
struct Walk {
    to: usize,
    marked: u64,
    left: Vec<Slot>,
}

struct World {
    stand_in: Bench,
    owners: [Bench; 2],
    writer: Bench,
    walk: Option<Walk>,
    turn: usize,
    /// What each owner must have in the end, by key.
    owed: Vec<(usize, Slot, Dot)>,
    named: BTreeSet<(Slot, Dot)>,
}

impl World {
    fn new() -> Self {
        let owners = [Bench::new(OWNERS[0].0), Bench::new(OWNERS[1].0)];
        let (stand_in, writer) = (Bench::new(STAND_IN), Bench::new(8));
        Self { stand_in, owners, writer, walk: None, turn: 0, owed: Vec::new(), named: BTreeSet::new() }
    }

    fn write(&mut self, slot: &Slot, named: bool, for_both: bool, marks: bool) {
        let targets = if for_both { &OWNERS[..] } else { &OWNERS[1..] };
        self.stand_in.marks = marks;
        let dot = if named {
            let op = self.stand_in.mint_op(slot, None, targets);
            self.stand_in.run(&[op]).pop().unwrap().unwrap().unwrap().dot
        } else {
            let op = self.writer.mint_op(slot, None, &[]);
            let minted = self.writer.run(&[op]).pop().unwrap().unwrap().unwrap();
            self.stand_in.apply(slot, &minted.record, targets).unwrap();
            minted.dot
        };
        assert!(self.named.insert((slot.clone(), dot)), "{dot:?} was given twice");
        self.owed.extend(targets.iter().map(|target| (usize::from(*target == OWNERS[1]), slot.clone(), dot)));
    }

    fn hand_over(&mut self, slot: &Slot, to: usize, marked: u64) {
        let Some(record) = self.stand_in.stored.get(slot).cloned() else { return };
        self.owners[to].apply(slot, &record, &[]).unwrap();
        self.stand_in.run(&[done(slot, OWNERS[to], marked, &record)]);
    }

    fn walk(&mut self) {
        let Some(mut walk) = self.walk.take() else {
            self.turn = 1 - self.turn;
            let marked = self.stand_in.mark_of(OWNERS[self.turn]);
            self.walk = marked.map(|marked| Walk { to: self.turn, marked, left: self.stand_in.keys() });
            return;
        };
        let Some(slot) = walk.left.pop() else { return self.stand_in.mark_done(OWNERS[walk.to], walk.marked) };
        if let Some(digest) = self.stand_in.stored.get(&slot).and_then(|record| record::digest(record)) {
            self.hand_over(&slot, walk.to, digest);
        }
        self.walk = Some(walk);
    }

    fn deliver(&mut self, slot: &Slot, to: usize) {
        let Some(marker) = self.stand_in.stored.get(&marker::slot(OWNERS[to], slot)) else { return };
        let marked = marker::Marker::decode(marker).unwrap().digest;
        // Deliveries to several owners take turns.
        if self.walk.as_ref().is_none_or(|walk| walk.to == to) {
            self.hand_over(slot, to, marked);
        }
    }

    /// What is owed was handed over, or is here and will be.
    fn check(&self) {
        for (to, slot, dot) in &self.owed {
            let has = |bench: &Bench| bench.stored.contains_key(slot) && bench.state(slot).context().covers(*dot);
            let hinted = [slot, &marker::all_of(slot.bucket)]
                .iter()
                .any(|of| self.stand_in.stored.contains_key(&marker::slot(OWNERS[*to], of)));
            assert!(has(&self.owners[*to]) || (has(&self.stand_in) && hinted), "{dot:?} is forgotten");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is written, delivered and broken off, in whatever order: no write that an owner lacks is forgotten, no dot
    /// is given twice, and in the end the owners have all, and the stand-in nothing but the floor of its counts.
    #[test]
    fn what_is_kept_under_marks_and_markers_reaches_its_owners_and_then_goes(acts in acts()) {
        let mut world = World::new();
        for act in acts {
            match act {
                Act::Write { key: at, named, for_both, marks } => world.write(&key(KEYS[at]), named, for_both, marks),
                Act::Walk => world.walk(),
                Act::Deliver { key: at, to } => world.deliver(&key(KEYS[at]), to),
                Act::Restart => {
                    world.stand_in.restart();
                    world.walk = None;
                }
            }
            world.check();
        }
        for _ in 0..4 * (KEYS.len() + 3) {
            world.walk();
        }
        for (at, to) in (0..KEYS.len()).flat_map(|at| [(at, 0), (at, 1)]) {
            world.walk = None;
            world.deliver(&key(KEYS[at]), to);
        }
        world.check();
        let floor = marker::floor_slot(NodeId(STAND_IN));
        prop_assert!(world.stand_in.stored.keys().all(|slot| *slot == floor), "{:?}", world.stand_in.stored.keys());
    }
}
