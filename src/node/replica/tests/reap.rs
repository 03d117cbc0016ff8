//! Dropping dead records: what is refused, and that nobody can tell afterwards, whatever is still on its way.

use proptest::prelude::*;

use super::*;
use crate::types::PartitionId;

/// The tree that all keys are in.
pub(super) const PARTITION: PartitionId = PartitionId(17);
const OWNERS: [NodeId; 2] = [NodeId(1), NodeId(2)];

impl Bench {
    fn delete(&mut self, slot: &Slot, seen: Option<Context>) -> Bytes {
        let Op::Mint(mut mint, reply) = self.mint_op(slot, seen, &[]) else { unreachable!() };
        mint.value = None;
        self.run(&[Op::Mint(mint, reply)]).pop().unwrap().unwrap().unwrap().record
    }

    fn reap(&mut self, slot: &Slot, step: Step, seen: Context) -> bool {
        let reap = Reap { slot: slot.clone(), owners: OWNERS.to_vec(), partition: PARTITION, step, seen };
        self.run(&[Op::Reap(reap, oneshot::channel().0)]).pop().unwrap().unwrap();
        self.agreed
    }

    fn drop_dead(&mut self, slot: &Slot) -> bool {
        let Some(record) = self.stored.get(slot) else { return false };
        let digest = record::digest(record).unwrap();
        let seen = self.state(slot).context().clone();
        self.reap(slot, Step::Drop { digest, dead_ms: 0 }, seen)
    }

    /// As after a restart.
    pub(super) fn restart(&mut self) {
        self.forgotten = Forgotten::default();
        if let Some(floor) = self.stored.get(&marker::floor_slot(self.node)) {
            self.forgotten.raise(decode_floor(&self.hash, floor).unwrap());
        }
    }

    pub(super) fn values(&self, slot: &Slot) -> Vec<Bytes> {
        let Some(record) = self.stored.get(slot) else { return Vec::new() };
        let state = record::decode(&self.hash, &slot.key, record).unwrap();
        let mut values: Vec<Bytes> = state.live(1).filter_map(|version| version.value.clone()).collect();
        values.sort_unstable();
        values
    }
}

#[test]
fn only_a_record_that_is_dead_for_long_just_as_told_and_without_hints_is_dropped() {
    let mut bench = Bench::new(1);
    let slot = key("a");
    bench.mint(&slot, &[]);
    assert!(!bench.drop_dead(&slot), "it is live");
    let record = bench.delete(&slot, None);
    let (digest, seen) = (record::digest(&record).unwrap(), bench.state(&slot).context().clone());
    assert!(!bench.reap(&slot, Step::Drop { digest, dead_ms: 1 }, seen.clone()), "it died just now");
    assert!(!bench.reap(&slot, Step::Drop { digest: digest + 1, dead_ms: 0 }, seen.clone()), "it is another");
    assert!(!bench.reap(&slot, Step::Drop { digest, dead_ms: 0 }, Context::new()), "it has seen something else");
    assert!(!bench.reap(&slot, Step::Bury, seen.clone()), "it is here");
    bench.run(&[Op::Hint(slot.clone(), bench.places(&slot, &OWNERS[1..]), oneshot::channel().0)]);
    assert!(!bench.drop_dead(&slot), "an owner is to be given it");
    bench.stored.remove(&marker::slot(OWNERS[1], &slot));
    assert!(bench.reap(&slot, Step::Confirm { digest, dead_ms: 0 }, seen));
    assert!(bench.stored.contains_key(&slot), "to agree is not to drop");
    assert!(bench.drop_dead(&slot) && !bench.stored.contains_key(&slot));
}

#[test]
fn a_put_or_a_hint_in_the_same_batch_keeps_a_dead_record() {
    let mut bench = Bench::new(1);
    let slot = key("a");
    let digest = record::digest(&bench.delete(&slot, None)).unwrap();
    let seen = bench.state(&slot).context().clone();
    let put = bench.mint_op(&slot, Some(Context::new()), &[]);
    let step = Step::Drop { digest, dead_ms: 0 };
    let reap = Reap { slot: slot.clone(), owners: OWNERS.to_vec(), partition: PARTITION, step, seen };
    bench.run(&[put, Op::Reap(reap, oneshot::channel().0)]);
    assert!(!bench.agreed && bench.values(&slot).len() == 1);
}

/// Both the counter and what others remember of it are gone, and still no name is given twice.
#[test]
fn a_dropped_record_leaves_no_name_to_be_given_again_not_even_after_a_restart() {
    let (mut one, mut two) = (Bench::new(1), Bench::new(2));
    let slot = key("a");
    let mut named: Vec<Dot> = (0..4).map(|_| one.mint(&slot, &[]).dot).collect();
    let stale = Context::from_entries(vec![(named[0].actor, 2)]).unwrap();
    one.delete(&slot, None);
    assert!(one.drop_dead(&slot));
    one.restart();
    // A client that read before the delete writes at the other owner, which brings a smaller count back.
    let op = two.mint_op(&slot, Some(stale), &[]);
    let record = two.run(&[op]).pop().unwrap().unwrap().unwrap().record;
    one.apply(&slot, &record, &[]).unwrap();
    named.extend((0..3).map(|_| one.mint(&slot, &[]).dot));
    named.push(one.mint(&key("b"), &[]).dot);
    assert!(named[4..].iter().all(|dot| dot.counter > 5), "{named:?}");
}

#[test]
fn what_is_on_its_way_when_a_record_is_dropped_comes_back_dead() {
    let (mut owner, mut stranger) = (Bench::new(1), Bench::new(9));
    let slot = key("a");
    let old = owner.mint(&slot, &[]).record;
    owner.delete(&slot, None);
    let seen = owner.state(&slot).context().clone();
    assert!(stranger.reap(&slot, Step::Bury, seen));
    assert!(owner.drop_dead(&slot));
    stranger.apply(&slot, &old, &[OWNERS[0]]).unwrap();
    let handed_over = stranger.stored[&slot].clone();
    owner.restart();
    owner.apply(&slot, &handed_over, &[]).unwrap();
    assert!(owner.values(&slot).is_empty() && stranger.values(&slot).is_empty());
    owner.apply(&slot, &old, &[]).unwrap();
    assert!(owner.values(&slot).is_empty(), "what came back dead holds off the rest");
}

/// A client may name any count in a context; the floor of all keys must not follow it.
#[test]
fn a_record_with_an_absurd_count_is_kept() {
    let mut bench = Bench::new(1);
    let slot = key("a");
    let actor = Actor { node: NodeId(1), epoch: Epoch(1) };
    let absurd = Context::from_entries(vec![(actor, limits::REAP_COUNT_MAX + 1)]).unwrap();
    bench.delete(&slot, Some(absurd));
    assert!(!bench.drop_dead(&slot));
    assert_eq!(bench.mint(&key("b"), &[]).dot.counter, 1);
}

#[derive(Debug, Clone)]
enum Act {
    /// Put, or delete, at an owner, with the context of an earlier record, of its own, or with none.
    Write {
        at: usize,
        delete: bool,
        seen: Option<prop::sample::Index>,
    },
    Blind {
        at: usize,
        delete: bool,
    },
    /// An owner gets the other's record.
    Send {
        to: usize,
    },
    /// Any record there ever was arrives late.
    Late {
        to: usize,
        which: prop::sample::Index,
    },
    /// The owners drop the record, if they agree.
    Reap {
        both: bool,
    },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let at = 0..2usize;
    let index = || any::<prop::sample::Index>();
    let act = prop_oneof![
        3 => (at.clone(), any::<bool>(), prop::option::of(index()))
            .prop_map(|(at, delete, seen)| Act::Write { at, delete, seen }),
        1 => (at.clone(), any::<bool>()).prop_map(|(at, delete)| Act::Blind { at, delete }),
        3 => at.clone().prop_map(|to| Act::Send { to }),
        1 => (at, index()).prop_map(|(to, which)| Act::Late { to, which }),
        3 => any::<bool>().prop_map(|both| Act::Reap { both }),
    ];
    prop::collection::vec(act, 1..40)
}

/// Two owners of one key, and every record that ever was on its way.
struct World {
    owners: [Bench; 2],
    sent: Vec<Bytes>,
    reaps: bool,
    reaped: usize,
}

impl World {
    fn new(reaps: bool) -> Self {
        Self { owners: [Bench::new(1), Bench::new(2)], sent: Vec::new(), reaps, reaped: 0 }
    }

    fn context(&self, record: &Bytes) -> Context {
        record::decode(&self.owners[0].hash, &key("a").key, record).unwrap().context().clone()
    }

    fn act(&mut self, act: &Act) {
        let slot = key("a");
        match act {
            Act::Write { at, delete, seen } => {
                let earlier = seen.and_then(|seen| (!self.sent.is_empty()).then(|| seen.get(&self.sent)));
                let seen = earlier.or_else(|| self.owners[*at].stored.get(&slot)).map(|record| self.context(record));
                self.write(*at, *delete, seen.unwrap_or_default());
            }
            Act::Blind { at, delete } => self.write(*at, *delete, Context::new()),
            Act::Send { to } => self.send(*to),
            Act::Late { to, which } if !self.sent.is_empty() => {
                let late = which.get(&self.sent).clone();
                self.owners[*to].apply(&slot, &late, &[]).unwrap();
            }
            Act::Late { .. } => {}
            Act::Reap { both } if self.reaps => {
                let [one, two] = &mut self.owners;
                if one.stored.get(&slot) == two.stored.get(&slot) && one.drop_dead(&slot) {
                    self.reaped += 1;
                    assert!(!both || two.drop_dead(&slot), "they were equal");
                }
            }
            Act::Reap { .. } => {}
        }
    }

    fn write(&mut self, at: usize, delete: bool, seen: Context) {
        let owner = &mut self.owners[at];
        let Op::Mint(mut mint, reply) = owner.mint_op(&key("a"), Some(seen), &[]) else { unreachable!() };
        if delete {
            mint.value = None;
        }
        self.sent.push(owner.run(&[Op::Mint(mint, reply)]).pop().unwrap().unwrap().unwrap().record);
    }

    fn send(&mut self, to: usize) {
        let slot = key("a");
        if let Some(record) = self.owners[1 - to].stored.get(&slot).cloned() {
            self.owners[to].apply(&slot, &record, &[]).unwrap();
        }
    }

    fn settle(&mut self) -> Vec<Bytes> {
        for to in [0, 1, 0] {
            self.send(to);
        }
        self.owners[0].values(&key("a"))
    }
}

proptest! {
    /// A world that drops dead records shows the same values as one that keeps them, after any history, although old
    /// records keep arriving and writers come with old contexts.
    #[test]
    fn nobody_can_tell_that_dead_records_were_dropped(acts in acts()) {
        let (mut keeps, mut drops) = (World::new(false), World::new(true));
        for act in &acts {
            keeps.act(act);
            drops.act(act);
            for owner in 0..2 {
                let (kept, dropped) = (keeps.owners[owner].values(&key("a")), drops.owners[owner].values(&key("a")));
                prop_assert_eq!(kept, dropped, "at owner {} after {:?}", owner, act);
            }
        }
        prop_assert_eq!(keeps.settle(), drops.settle());
        let [one, two] = &drops.owners;
        prop_assert_eq!(one.stored.get(&key("a")), two.stored.get(&key("a")));
    }
}
