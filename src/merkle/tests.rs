//! Trees against a plain model: whatever is written, in whatever order pages are read, the sums are those of the records.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::hash::ClusterHash;
use crate::types::ClusterName;
use crate::types::Copies;
use crate::types::Epoch;
use crate::types::PartitionId;
use crate::types::Partitions;

/// Where the keys are that these tests write.
const POSITION: u64 = 3 << 54;
/// The partition of 1024 that this is in.
const PARTITION: PartitionId = PartitionId(1024 + 3);

fn hash() -> ClusterHash {
    ClusterHash::new(&ClusterName::new("demo").unwrap())
}

fn partitions(count: u32) -> Partitions {
    Partitions::new(count).unwrap()
}

fn key(number: u8) -> Bytes {
    Bytes::from(format!("default\0{number:03}"))
}

/// The tree of these records, made in one go.
fn tree_of(records: &BTreeMap<Bytes, u64>) -> Tree {
    let mut tree = Tree::new(Shape::of(partitions(1024)));
    for (key, digest) in records {
        let tree_key = hash().tree_key(key);
        tree.add(tree_key, hash().tree_item(tree_key, *digest));
    }
    tree
}

/// A storage, its forest, and writes whose outcome is awaited.
struct Bench {
    forest: Forest,
    stored: BTreeMap<Bytes, u64>,
    flying: Vec<(Flight, Vec<Change>, bool)>,
    /// The page that is to be read, and what was read.
    window: Option<Window>,
    page: Option<(Vec<Item>, bool)>,
}

#[derive(Debug, Clone)]
enum Act {
    /// Announces a batch; it is in the storage at once, or only when its outcome is told.
    Begin(Vec<(u8, Option<u64>)>, bool),
    Stored,
    Refused,
    InDoubt,
    /// Asks which page to read.
    Open,
    /// Reads it, up to so many records.
    Read(usize),
    Take,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let change = (0..24_u8, prop::option::weighted(0.7, 1..5_u64));
    let act = prop_oneof![
        4 => (prop::collection::vec(change, 1..4), any::<bool>()).prop_map(|(batch, early)| Act::Begin(batch, early)),
        4 => Just(Act::Stored),
        1 => Just(Act::Refused),
        1 => Just(Act::InDoubt),
        5 => Just(Act::Open),
        5 => (1..8_usize).prop_map(Act::Read),
        5 => Just(Act::Take),
    ];
    prop::collection::vec(act, 1..120)
}

impl Bench {
    fn new() -> Self {
        let forest = Forest::new(hash(), partitions(1024), Epoch(1));
        Self { forest, stored: BTreeMap::new(), flying: Vec::new(), window: None, page: None }
    }

    fn run(&mut self, act: Act) {
        match act {
            Act::Begin(batch, early) => self.begin(batch, early),
            Act::Stored => self.end(|forest, flight| forest.stored(flight), true),
            Act::Refused if self.flying.first().is_some_and(|(_, _, early)| *early) => {}
            Act::Refused => self.end(|forest, flight| forest.refused(flight), false),
            // Such a batch may well be there.
            Act::InDoubt => self.end(|forest, flight| forest.in_doubt(flight), true),
            Act::Open => self.open(),
            Act::Read(count) => self.read(count),
            Act::Take => {
                if let Some((items, more)) = self.page.take() {
                    self.forest.take_page(&self.window.take().unwrap(), items, more);
                }
            }
        }
    }

    /// One batch at a time touches a key, as the writer sees to.
    fn begin(&mut self, batch: Vec<(u8, Option<u64>)>, early: bool) {
        let mut changes: Vec<Change> = Vec::new();
        for (number, new) in batch {
            let key = key(number);
            let busy = self.flying.iter().flat_map(|(_, changes, _)| changes).chain(&changes);
            if busy.into_iter().any(|change| change.key == key) {
                continue;
            }
            let old = self.stored.get(&key).copied();
            changes.push(Change { position: POSITION, key, copies: Copies::settled(3), old, new, readable: true });
        }
        let flight = self.forest.begin(Epoch(1), changes.clone());
        if early {
            self.store(&changes);
        }
        self.flying.push((flight, changes, early));
    }

    fn store(&mut self, changes: &[Change]) {
        for change in changes {
            match change.new {
                Some(digest) => drop(self.stored.insert(change.key.clone(), digest)),
                None => drop(self.stored.remove(&change.key)),
            }
        }
    }

    fn end(&mut self, tell: impl FnOnce(&mut Forest, &Flight), stored: bool) {
        if self.flying.is_empty() {
            return;
        }
        let (flight, changes, early) = self.flying.remove(0);
        if stored && !early {
            self.store(&changes);
        }
        tell(&mut self.forest, &flight);
    }

    fn open(&mut self) {
        if self.window.is_some() {
            return;
        }
        if self.forest.checking().is_none() {
            self.forest.begin_check(PARTITION);
        }
        self.window = self.forest.next_page();
    }

    fn read(&mut self, count: usize) {
        let Some(window) = self.window.as_ref().filter(|_| self.page.is_none()) else { return };
        let rest = self.stored.iter().filter(|(key, _)| window.after.as_ref().is_none_or(|after| *key > after));
        let mut items: Vec<Item> = rest
            .map(|(key, digest)| Item { key: key.clone(), copies: Copies::settled(3), digest: Some(*digest) })
            .collect();
        let more = items.len() > count;
        items.truncate(count);
        self.page = Some((items, more));
    }
}

proptest! {
    #[test]
    fn a_known_tree_is_always_that_of_the_records(acts in acts()) {
        let mut bench = Bench::new();
        for act in acts {
            bench.run(act);
            if let (true, Some(tree)) = (bench.flying.is_empty(), bench.forest.tree(PARTITION, Copies::settled(3))) {
                prop_assert_eq!(tree, &tree_of(&bench.stored));
            }
        }
        while !bench.flying.is_empty() {
            bench.run(Act::Stored);
        }
        for _ in 0..100 {
            bench.run(Act::Open);
            bench.run(Act::Read(5));
            bench.run(Act::Take);
        }
        prop_assert_eq!(bench.forest.tree(PARTITION, Copies::settled(3)), Some(&tree_of(&bench.stored)));
    }

    #[test]
    fn a_descent_finds_the_leaves_that_differ_and_no_others(
        records in prop::collection::btree_map(0..200_u8, 0..9_u64, 0..200),
        others in prop::collection::btree_map(0..200_u8, 0..9_u64, 0..6),
        count in prop::sample::select(vec![16_u32, 256, 1024, 65_536]),
    ) {
        let shape = Shape::of(partitions(count));
        let mut changed = records.clone();
        changed.extend(others);
        let tree = |records: &BTreeMap<u8, u64>| {
            let mut tree = Tree::new(shape);
            for (number, digest) in records {
                let tree_key = hash().tree_key(&key(*number));
                tree.add(tree_key, hash().tree_item(tree_key, *digest));
            }
            tree
        };
        let (own, theirs) = (tree(&records), tree(&changed));
        let differ = changed.iter().filter(|(number, digest)| records.get(number) != Some(digest));
        let differ: std::collections::BTreeSet<u32> =
            differ.map(|(number, _)| shape.leaf(hash().tree_key(&key(*number)))).collect();
        let mut descent = Descent::new(shape);
        let found = loop {
            prop_assert!(descent.nodes().len() <= crate::limits::SYNC_SUMS_MAX);
            let sums = |tree: &Tree| tree.sums(descent.level(), descent.nodes()).unwrap();
            match descent.clone().take(&sums(&own), &sums(&theirs)).unwrap() {
                Step::Deeper => { descent.take(&sums(&own), &sums(&theirs)); }
                end => break end,
            }
        };
        match found {
            Step::Equal => prop_assert!(differ.is_empty()),
            Step::Differ(Leaves::Some(leaves)) => prop_assert_eq!(leaves, differ),
            Step::Differ(Leaves::All) => prop_assert!(differ.len() * 2 > usize::try_from(shape.leaves()).unwrap()),
            Step::Deeper => prop_assert!(false),
        }
    }

    #[test]
    fn what_either_side_lacks_is_told_apart(
        own in prop::collection::btree_map(0..30_u64, 0..3_u64, 0..30),
        theirs in prop::collection::btree_map(0..30_u64, 0..3_u64, 0..30),
    ) {
        let mut held = Held::new(&theirs.iter().map(|(key, digest)| (*key, *digest)).collect::<Vec<_>>());
        let sent: Vec<u64> =
            own.iter().filter(|(key, digest)| held.lacks(**key, **digest)).map(|(key, _)| *key).collect();
        let differ = |one: &BTreeMap<u64, u64>, other: &BTreeMap<u64, u64>| -> Vec<u64> {
            one.iter().filter(|(key, digest)| other.get(key) != Some(digest)).map(|(key, _)| *key).collect()
        };
        prop_assert_eq!(sent, differ(&own, &theirs));
        prop_assert_eq!(held.wanted(), differ(&theirs, &own));
    }
}

#[test]
fn all_trees_of_a_node_stay_within_bounds_whatever_the_number_of_partitions() {
    for bits in 4..=16 {
        let count = 1_u32 << bits;
        let leaves = Shape::of(partitions(count)).leaves() * count;
        assert!(leaves <= crate::limits::TREE_LEAVES_MAX, "{count} partitions have {leaves} leaves");
    }
}

#[test]
fn sums_that_do_not_exist_are_refused() {
    let tree = Tree::new(Shape::of(partitions(1024)));
    assert_eq!(tree.sums(0, &[0]), Some(vec![0]));
    assert_eq!(tree.sums(0, &[1]), None);
    assert_eq!(tree.sums(1, &[16]), None);
    assert_eq!(tree.sums(2, &[255, u32::MAX]), None);
    assert_eq!(tree.sums(3, &[]), None);
    let shape = Shape::of(partitions(1024));
    assert!(Tree::from_leaves(shape, vec![1; 256], 255, 2).is_none(), "leaves that do not add up");
    assert!(Tree::from_leaves(shape, vec![1; 255], 255, 2).is_none());
    assert!(Tree::from_leaves(shape, vec![1; 256], 256, 2).is_some());
}

/// Damage must be found again: by its absence from the tree, which the other replicas' trees do not share.
#[test]
fn a_record_that_cannot_be_read_is_missing_from_the_tree_until_it_is_overwritten() {
    let mut forest = Forest::new(hash(), partitions(1024), Epoch(1));
    let read = |forest: &mut Forest, digest| {
        if forest.checking().is_none() {
            forest.begin_check(PARTITION);
        }
        let window = forest.next_page().unwrap();
        forest.take_page(&window, vec![Item { key: key(1), copies: Copies::settled(3), digest }], false)
    };
    assert_eq!(read(&mut forest, Some(5)), Page::Built);
    assert_eq!(read(&mut forest, Some(5)), Page::Right);
    assert_eq!(read(&mut forest, None), Page::Wrong);
    assert_eq!(forest.tree(PARTITION, Copies::settled(3)).unwrap().root(), 0);
    let change = Change {
        position: POSITION,
        key: key(1),
        copies: Copies::settled(3),
        old: Some(9),
        new: Some(5),
        readable: false,
    };
    let flight = forest.begin(Epoch(1), vec![change]);
    forest.stored(&flight);
    assert!(!forest.is_known(PARTITION), "what the tree said of the damaged record was taken for known");
    assert_eq!(read(&mut forest, Some(5)), Page::Built);
}

#[test]
fn another_epoch_of_the_storage_ends_all_knowledge_and_an_earlier_one_changes_nothing() {
    let mut forest = Forest::new(hash(), partitions(1024), Epoch(5));
    forest.begin_check(PARTITION);
    let window = forest.next_page().unwrap();
    assert_eq!(forest.take_page(&window, Vec::new(), false), Page::Built);
    assert!(!forest.reset(Epoch(4)));
    assert!(forest.is_known(PARTITION));
    forest.begin_check(PARTITION);
    let window = forest.next_page().unwrap();
    let flight = forest.begin(Epoch(6), Vec::new());
    assert!(!forest.is_known(PARTITION));
    assert_eq!(forest.take_page(&window, Vec::new(), false), Page::Stale);
    forest.stored(&flight);
}

/// Otherwise a page read before the batch is stored would be taken for the whole truth.
#[test]
fn a_batch_under_way_when_all_is_forgotten_puts_its_partition_in_doubt() {
    let mut forest = Forest::new(hash(), partitions(1024), Epoch(1));
    let change =
        Change { position: POSITION, key: key(1), copies: Copies::settled(3), old: None, new: Some(5), readable: true };
    let flight = forest.begin(Epoch(1), vec![change]);
    forest.clear();
    forest.begin_check(PARTITION);
    let window = forest.next_page().unwrap();
    assert_eq!(forest.take_page(&window, Vec::new(), false), Page::Built);
    forest.stored(&flight);
    assert!(!forest.is_known(PARTITION));
}

#[test]
fn when_partitions_are_cut_nothing_is_known_of_the_parts_and_what_is_under_way_puts_its_part_in_doubt() {
    let mut forest = Forest::new(hash(), partitions(512), Epoch(1));
    let (whole, rest) = (partitions(512).of(POSITION), partitions(1024).of(POSITION ^ 1 << 54));
    let read = |forest: &mut Forest, partition: PartitionId, keys: &[u8]| {
        forest.begin_check(partition);
        let window = forest.next_page().unwrap();
        let item = |number: &u8| Item { key: key(*number), copies: Copies::settled(3), digest: Some(5) };
        forest.take_page(&window, keys.iter().map(item).collect(), false)
    };
    assert_eq!(read(&mut forest, whole, &[]), Page::Built);
    let change =
        Change { position: POSITION, key: key(1), copies: Copies::settled(3), old: None, new: Some(5), readable: true };
    let flight = forest.begin(Epoch(1), vec![change.clone()]);
    forest.repartition(partitions(1024));
    assert!(!forest.is_known(whole) && !forest.is_known(PARTITION));
    assert_eq!(forest.shape(), Shape::of(partitions(1024)));
    assert_eq!([read(&mut forest, PARTITION, &[]), read(&mut forest, rest, &[])], [Page::Built, Page::Built]);
    forest.stored(&flight);
    assert!(
        !forest.is_known(PARTITION) && forest.is_known(rest),
        "a page from before the batch was taken for the truth"
    );
    assert_eq!(read(&mut forest, PARTITION, &[1]), Page::Built);
    let flight = forest.begin(Epoch(1), vec![Change { key: key(2), ..change }]);
    forest.stored(&flight);
    assert_eq!(read(&mut forest, PARTITION, &[1, 2]), Page::Right);
    assert_eq!(forest.tree(rest, Copies::settled(3)).unwrap().records(), 0);
}
