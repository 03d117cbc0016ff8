//! What is asked for next: operations one after the other, as the mix, the popularity of keys and the seed say.
//!
//! Pure but for the count of keys, which all drivers share as inserts make it grow.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use rand::RngExt;

use crate::cli::bench::data::DataSet;
use crate::cli::bench::data::NEIGHBOURS;
use crate::cli::bench::draw;
use crate::cli::bench::draw::Stream;
use crate::cli::bench::mix::Kind;
use crate::cli::bench::mix::Mix;
use crate::cli::bench::popularity::Chooser;
use crate::cli::bench::popularity::Popularity;

/// Stream of the choices of one driver.
const FOR_CHOICES: u64 = 4;

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Operation {
    /// What is done.
    pub(super) kind: Kind,
    /// The number of the key.
    pub(super) number: u64,
    /// The key; what the keys begin with, for a scan.
    pub(super) key: Bytes,
    /// What is written, for kinds that write.
    pub(super) value: Bytes,
    /// Keys after which a scan ends.
    pub(super) limit: u64,
}

/// What the operations of a run follow from.
#[derive(Debug, Clone)]
pub(super) struct Workload {
    /// Keys and values.
    pub(super) data: DataSet,
    /// How often each kind comes.
    pub(super) mix: Mix,
    /// How often each key does.
    pub(super) popularity: Popularity,
    /// Keys there are at the beginning.
    pub(super) keys: u64,
    /// The number of the first write of this run; above those of all runs before.
    pub(super) first_write: u64,
}

impl Workload {
    /// The sources of operations for so many drivers.
    pub(super) fn sources(&self, drivers: u64) -> Vec<Source> {
        let keys = Arc::new(AtomicU64::new(self.keys));
        let source = |place: u64| Source {
            data: self.data,
            mix: self.mix.clone(),
            chooser: Chooser::new(self.popularity, self.keys, place, drivers),
            rng: draw::stream(&[self.data.seed, FOR_CHOICES, place]),
            keys: keys.clone(),
            write: self.first_write + place,
            step: drivers,
        };
        (0..drivers).map(source).collect()
    }
}

/// The operations of one driver.
#[derive(Debug)]
pub(super) struct Source {
    data: DataSet,
    mix: Mix,
    chooser: Chooser,
    rng: Stream,
    keys: Arc<AtomicU64>,
    write: u64,
    step: u64,
}

impl Source {
    /// The next operation.
    pub(super) fn next(&mut self) -> Operation {
        let kind = self.mix.draw(&mut self.rng);
        let number = match kind {
            Kind::Insert => self.keys.fetch_add(1, Ordering::Relaxed),
            _ => self.chooser.choose(self.keys.load(Ordering::Relaxed), &mut self.rng),
        };
        let (key, value, limit) = match kind {
            Kind::Get => (self.data.key(number), Bytes::new(), 1),
            Kind::Scan => (self.data.neighbours(number), Bytes::new(), self.rng.random_range(1..=NEIGHBOURS)),
            Kind::Put | Kind::Insert | Kind::ReadModifyWrite => {
                let write = self.write;
                self.write += self.step;
                (self.data.key(number), self.data.value(number, write), 1)
            }
        };
        Operation { kind, number, key, value, limit }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::cli::bench::sizes::Sizes;

    fn workload(mix: &str) -> Workload {
        let mix: Mix = mix.parse().unwrap();
        let data = DataSet::new(1, Sizes::Fixed(16), Sizes::Fixed(24)).unwrap();
        Workload { data, popularity: mix.popularity(), mix, keys: 100, first_write: 1_000 }
    }

    #[test]
    fn the_same_seed_asks_for_the_same_and_drivers_for_different_things() {
        let take = |source: &mut Source| -> Vec<Operation> { (0..100).map(|_| source.next()).collect() };
        let [mut first, mut again] = [0, 1].map(|_| workload("ycsb-a").sources(2));
        assert_eq!(take(&mut first[0]), take(&mut again[0]));
        assert_ne!(take(&mut first[0]), take(&mut first[1]));
    }

    #[test]
    fn every_write_of_a_run_is_told_apart_and_is_what_a_check_expects() {
        let workload = workload("put");
        let mut seen = BTreeSet::new();
        for source in &mut workload.sources(3) {
            for _ in 0..100 {
                let Operation { number, value, .. } = source.next();
                assert_eq!(workload.data.judge(number, &value), Ok(()));
                assert!(seen.insert(value[8..16].to_vec()), "two writes have one number");
            }
        }
    }

    #[test]
    fn inserts_go_on_where_the_keys_end_whoever_makes_them() {
        let workload = workload("ycsb-d");
        let mut inserted = Vec::new();
        for source in &mut workload.sources(2) {
            let operations = (0..2_000).map(|_| source.next());
            inserted.extend(operations.filter(|one| one.kind == Kind::Insert).map(|one| one.number));
        }
        let count = u64::try_from(inserted.len()).unwrap();
        assert_eq!(inserted, (100..100 + count).collect::<Vec<_>>());
        assert!(count > 100, "{count}");
    }
}
