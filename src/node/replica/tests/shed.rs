//! Dropping what this node owns no more: only what was handed over, never what somebody waits for, and no dot twice.

use proptest::prelude::*;

use super::*;

/// For whom there may be hints.
const OTHERS: [NodeId; 2] = [NodeId(2), NodeId(3)];

impl Bench {
    fn shed(&mut self, slot: &Slot, digest: u64) -> bool {
        let shed = shed(slot, digest);
        self.run(&[shed]).pop().unwrap().unwrap();
        self.agreed
    }

    fn digest(&self, slot: &Slot) -> u64 {
        record::digest(&self.stored[slot]).unwrap()
    }

    fn floor(&self) -> Option<u64> {
        self.stored.get(&marker::floor_slot(self.node)).map(|floor| decode_floor(&self.hash, floor).unwrap())
    }
}

fn shed(slot: &Slot, digest: u64) -> Op {
    let step = Step::Shed { digest };
    let reap = Reap {
        slot: slot.clone(),
        partition: super::reap::PARTITION,
        owners: OTHERS.to_vec(),
        step,
        seen: Context::new(),
    };
    Op::Reap(reap, oneshot::channel().0)
}

#[test]
fn only_the_record_that_was_handed_over_goes_and_the_floor_rises_with_it() {
    let mut bench = Bench::new(1);
    let slot = key("a");
    assert!(!bench.shed(&slot, 0), "nothing is here");
    bench.mint(&slot, &[]);
    let handed_over = bench.digest(&slot);
    let second = bench.mint(&slot, &[]);
    assert!(!bench.shed(&slot, handed_over), "it was written since");
    assert_eq!((bench.stored.contains_key(&slot), bench.floor()), (true, None));
    let digest = bench.digest(&slot);
    assert!(bench.shed(&slot, digest) && !bench.stored.contains_key(&slot));
    assert_eq!(bench.floor(), Some(second.dot.counter));
    let later = bench.mint(&slot, &[]);
    assert!(later.dot.counter > second.dot.counter, "one name for two values");
}

#[test]
fn a_record_that_somebody_is_to_be_given_stays_until_it_was_delivered() {
    let mut bench = Bench::new(1);
    let slot = key("a");
    bench.mint(&slot, &[]);
    bench.run(&[Op::Hint(slot.clone(), bench.places(&slot, &OTHERS[1..]), oneshot::channel().0)]);
    let digest = bench.digest(&slot);
    assert!(!bench.shed(&slot, digest));
    let hint = Op::Hint(slot.clone(), bench.places(&slot, &OTHERS[..1]), oneshot::channel().0);
    bench.stored.remove(&marker::slot(OTHERS[1], &slot));
    bench.run(&[hint, shed(&slot, digest)]);
    // All owners have been given it by then, so the hint may go with the record, but not be left without it.
    assert_eq!(bench.stored.contains_key(&slot), bench.stored.contains_key(&marker::slot(OTHERS[0], &slot)));
}

#[test]
fn a_write_in_the_same_batch_stays_on_whichever_side_of_the_shedding_it_is() {
    for first in [true, false] {
        let mut bench = Bench::new(1);
        let slot = key("a");
        bench.mint(&slot, &[]);
        let digest = bench.digest(&slot);
        let (put, shed) = (bench.mint_op(&slot, Some(Context::new()), &[]), shed(&slot, digest));
        bench.run(&if first { [put, shed] } else { [shed, put] });
        assert!(bench.stored.contains_key(&slot), "a write was lost");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// A key that is owned and shed in turns, over restarts too: no dot is given twice, whatever comes back from others.
    #[test]
    fn shedding_again_and_again_names_no_two_values_alike(steps in prop::collection::vec(0_u8..5, 1..30)) {
        let (mut bench, slot) = (Bench::new(1), key("a"));
        let (mut named, mut elsewhere) = (std::collections::BTreeSet::new(), Vec::new());
        for step in steps {
            match step {
                0 | 1 => {
                    let minted = bench.mint(&slot, &[]);
                    prop_assert!(named.insert(minted.dot), "{:?} was given twice", minted.dot);
                    elsewhere.push(minted.record);
                }
                2 if bench.stored.contains_key(&slot) => {
                    let digest = bench.digest(&slot);
                    prop_assert!(bench.shed(&slot, digest));
                }
                3 => bench.restart(),
                _ => {
                    if let Some(record) = elsewhere.first().cloned() {
                        bench.apply(&slot, &record, &[]).unwrap();
                    }
                }
            }
        }
    }
}
