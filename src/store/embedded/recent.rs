//! Records that were read or written lately, as they are in the database now.
//!
//! A read that finds all it wants here needs neither the database nor a hop to a thread that may block; nothing here
//! waits for a disk. What is here never lags behind the database: records that are about to change are hidden before
//! the change can be seen there, and shown with their new values after. When memory runs out, records go in the order
//! in which they came, but one that was read since gets another turn. Nothing here knows of failures or epochs: a
//! change that failed leaves its records hidden, and whoever closes the database, or reopens it with what is left of
//! it, clears this before anyone can read.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::RwLockReadGuard;
use std::sync::RwLockWriteGuard;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::limits;
use crate::store::Mutation;
use crate::store::Slot;
use crate::types::Bucket;

const SHARDS: usize = 64;
/// Counters of changes; records share them, so that a read beside the change of another is now and then not kept.
const STRIPES: usize = 4096;
/// What a record takes at most beside its key and value: its places in map and queue, both not quite full, and three
/// blocks of the allocator.
const OVERHEAD: usize = 300;

/// A record's value, or that there is none.
pub(super) type Value = Option<Bytes>;

/// The records.
pub(super) struct Recent {
    shards: Vec<RwLock<Shard>>,
    /// How often the records of each stripe changed, doubled; odd while one of them is about to.
    stripes: Vec<AtomicU32>,
    shard_bytes_max: usize,
}

#[derive(Default)]
struct Shard {
    records: BTreeMap<Slot, Entry>,
    /// The same slots, oldest first.
    queue: VecDeque<Slot>,
    bytes: usize,
}

struct Entry {
    value: Value,
    hidden: AtomicBool,
    /// Whether it was read since it came, or since it was last spared.
    used: AtomicBool,
}

/// Records that are about to change; they stay hidden unless the change is finished.
pub(super) struct Changing<'a> {
    recent: &'a Recent,
    mutations: &'a [Mutation],
}

impl Recent {
    /// Room for this many bytes.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            stripes: (0..STRIPES).map(|_| AtomicU32::new(0)).collect(),
            shard_bytes_max: bytes_max / SHARDS,
        }
    }

    /// What is known of these slots, in order.
    pub(super) fn find(&self, slots: &[Slot]) -> Vec<Option<Value>> {
        slots.iter().map(|slot| self.get(slot)).collect()
    }

    fn get(&self, slot: &Slot) -> Option<Value> {
        let shard = self.read(stripe(slot));
        let entry = shard.records.get(slot)?;
        if entry.hidden.load(Ordering::Acquire) {
            return None;
        }
        if !entry.used.load(Ordering::Relaxed) {
            entry.used.store(true, Ordering::Relaxed);
        }
        Some(entry.value.clone())
    }

    /// To be taken before a record is read from the database, and given back with what was read.
    pub(super) fn note(&self, slot: &Slot) -> u32 {
        self.stripes[stripe(slot)].load(Ordering::Acquire)
    }

    /// Keeps what was read from the database, unless it may have changed since it was noted.
    pub(super) fn keep(&self, slot: &Slot, value: &Value, noted: u32) {
        let stripe = stripe(slot);
        let mut shard = self.write(stripe);
        if noted.is_multiple_of(2) && self.stripes[stripe].load(Ordering::Acquire) == noted {
            shard.put(slot, value.as_ref(), self.shard_bytes_max);
        }
    }

    /// Hides the records that the batch is about to change. Only one batch at a time may.
    pub(super) fn change<'a>(&'a self, mutations: &'a [Mutation]) -> Changing<'a> {
        for mutation in mutations {
            let stripe = stripe(mutation.slot());
            // Under the lock, so that a read that is about to be kept is either refused or hidden.
            let shard = self.read(stripe);
            self.stripes[stripe].fetch_or(1, Ordering::AcqRel);
            if let Some(entry) = shard.records.get(mutation.slot()) {
                entry.hidden.store(true, Ordering::Release);
            }
        }
        Changing { recent: self, mutations }
    }

    /// Forgets the records of a bucket.
    pub(super) fn forget(&self, bucket: Bucket) {
        for shard in 0..SHARDS {
            let mut shard = self.write(shard);
            let shard = &mut *shard;
            shard.queue.retain(|slot| slot.bucket != bucket);
            let bytes = &mut shard.bytes;
            shard.records.retain(|slot, entry| {
                let stays = slot.bucket != bucket;
                if !stays {
                    *bytes -= size(slot, entry);
                }
                stays
            });
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        for shard in 0..SHARDS {
            *self.write(shard) = Shard::default();
        }
    }

    fn read(&self, stripe: usize) -> RwLockReadGuard<'_, Shard> {
        self.shards[stripe % SHARDS].read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, stripe: usize) -> RwLockWriteGuard<'_, Shard> {
        self.shards[stripe % SHARDS].write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Changing<'_> {
    /// Shows the records with their new values.
    pub(super) fn finish(self) {
        for mutation in self.mutations {
            let value = match mutation {
                Mutation::Put { value, .. } => Some(value),
                Mutation::Delete { .. } => None,
            };
            let mut shard = self.recent.write(stripe(mutation.slot()));
            shard.put(mutation.slot(), value, self.recent.shard_bytes_max);
        }
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        for mutation in self.mutations {
            let counter = &self.recent.stripes[stripe(mutation.slot())];
            // Two records of the batch may share a stripe.
            if !counter.load(Ordering::Acquire).is_multiple_of(2) {
                counter.fetch_add(1, Ordering::AcqRel);
            }
        }
    }
}

impl Shard {
    fn put(&mut self, slot: &Slot, value: Option<&Bytes>, bytes_max: usize) {
        let large = value.is_some_and(|value| value.len() > limits::STORE_RECENT_VALUE_MAX);
        // Copies, because the given ones may be parts of much larger buffers.
        let value = value.filter(|_| !large).map(|value| Bytes::copy_from_slice(value));
        let size = value.as_ref().map_or(0, Bytes::len);
        if let Some(entry) = self.records.get_mut(slot) {
            self.bytes = self.bytes + size - entry.value.as_ref().map_or(0, Bytes::len);
            entry.value = value;
            *entry.hidden.get_mut() = large;
        } else if !large {
            let slot = Slot { bucket: slot.bucket, key: Bytes::copy_from_slice(&slot.key) };
            self.bytes += slot.key.len() + size + OVERHEAD;
            self.queue.push_back(slot.clone());
            self.records.insert(slot, Entry { value, hidden: AtomicBool::new(false), used: AtomicBool::new(false) });
        }
        while self.bytes > bytes_max && self.evict() {}
    }

    /// Forgets the oldest record that was not read, or spares it. Returns whether there was one.
    fn evict(&mut self) -> bool {
        let Some(slot) = self.queue.pop_front() else { return false };
        let Some(entry) = self.records.get_mut(&slot) else { return true };
        if std::mem::take(entry.used.get_mut()) {
            self.queue.push_back(slot);
            return true;
        }
        self.bytes -= size(&slot, entry);
        self.records.remove(&slot);
        true
    }
}

/// Bytes that a record takes here.
fn size(slot: &Slot, entry: &Entry) -> usize {
    slot.key.len() + entry.value.as_ref().map_or(0, Bytes::len) + OVERHEAD
}

fn stripe(slot: &Slot) -> usize {
    let hash = xxh3_64_with_seed(&slot.key, u64::from(slot.bucket.0));
    usize::try_from(hash % STRIPES as u64).expect("less than the number of stripes")
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::Just;
    use proptest::prelude::Strategy;
    use proptest::prelude::any;
    use proptest::prelude::prop_assert_eq;
    use proptest::prelude::prop_oneof;
    use proptest::prelude::proptest;

    use crate::store::contract::delete;
    use crate::store::contract::put;
    use crate::store::contract::slot;

    fn one(recent: &Recent, key: &str) -> Option<Value> {
        recent.find(&[slot(1, key)]).remove(0)
    }

    fn keep(recent: &Recent, key: &str, value: &Value) {
        let noted = recent.note(&slot(1, key));
        recent.keep(&slot(1, key), value, noted);
    }

    #[test]
    fn changes_hide_what_was_known_until_they_are_finished() {
        let recent = Recent::new(1 << 20);
        keep(&recent, "a", &Some("old".into()));
        keep(&recent, "b", &None);
        assert_eq!((one(&recent, "a"), one(&recent, "b")), (Some(Some("old".into())), Some(None)));
        let batch = [put(1, "a", "new"), put(1, "c", "x"), delete(1, "c")];
        let changing = recent.change(&batch);
        assert_eq!(one(&recent, "a"), None);
        keep(&recent, "a", &Some("read in the meantime".into()));
        assert_eq!(one(&recent, "a"), None, "a read beside the change was kept");
        changing.finish();
        assert_eq!((one(&recent, "a"), one(&recent, "c")), (Some(Some("new".into())), Some(None)));
        drop(recent.change(&batch));
        assert_eq!(one(&recent, "a"), None, "a change that failed is not known to have left things as they were");
    }

    #[test]
    fn a_read_that_began_before_a_change_is_not_kept_after_it() {
        let recent = Recent::new(1 << 20);
        let noted = recent.note(&slot(1, "a"));
        recent.change(&[put(1, "a", "new")]).finish();
        recent.keep(&slot(1, "a"), &Some("old".into()), noted);
        assert_eq!(one(&recent, "a"), Some(Some("new".into())));
    }

    /// A record, and the byte that fills its new value; `None` deletes it.
    type NewByte = (u8, Option<u8>);

    /// Something that happens to one of a few records.
    #[derive(Debug, Clone)]
    enum Step {
        /// A reader notes the record and reads the database.
        Read(u8),
        /// The oldest reader under way keeps what it read.
        Keep,
        /// A writer says what it is about to change. The one before gives up, and nobody knows whether its batch is
        /// in the database.
        Change(Vec<NewByte>, bool),
        /// The writer's batch is in the database.
        Commit,
        /// The writer is done with a batch that is there.
        Finish,
        /// The database was closed and opened again: no reader and no writer is left.
        Clear,
    }

    fn step() -> impl Strategy<Value = Step> {
        let change = (0..6u8, proptest::option::of(any::<u8>()));
        let batch = proptest::collection::vec(change, 1..4);
        prop_oneof![
            4 => (0..6u8).prop_map(Step::Read),
            4 => Just(Step::Keep),
            2 => (batch, any::<bool>()).prop_map(|(batch, made)| Step::Change(batch, made)),
            2 => Just(Step::Commit),
            2 => Just(Step::Finish),
            1 => Just(Step::Clear),
        ]
    }

    fn value(byte: u8) -> Bytes {
        vec![byte; 200].into()
    }

    /// The database, and who is at work on it.
    #[derive(Default)]
    struct World<'a> {
        database: BTreeMap<u8, u8>,
        readers: VecDeque<(Slot, u32, Value)>,
        /// What is being changed, and whether it is in the database.
        writer: Option<(&'a [NewByte], bool)>,
        changing: Option<Changing<'a>>,
    }

    impl<'a> World<'a> {
        fn take(&mut self, recent: &'a Recent, step: &'a Step, mutations: &'a [Mutation]) {
            match step {
                Step::Read(key) => {
                    let slot = slot(1, key.to_string());
                    let noted = recent.note(&slot);
                    self.readers.push_back((slot, noted, self.database.get(key).copied().map(value)));
                }
                Step::Keep => {
                    if let Some((slot, noted, value)) = self.readers.pop_front() {
                        recent.keep(&slot, &value, noted);
                    }
                }
                Step::Change(batch, made) => {
                    if let Some((before, false)) = self.writer
                        && *made
                    {
                        self.apply(before);
                    }
                    // First the one before ends: only one at a time may change anything.
                    drop(self.changing.take());
                    self.changing = Some(recent.change(mutations));
                    self.writer = Some((batch, false));
                }
                Step::Commit => {
                    if let Some((batch, false)) = self.writer {
                        self.apply(batch);
                        self.writer = Some((batch, true));
                    }
                }
                Step::Finish => {
                    if let Some((_, true)) = self.writer {
                        self.changing.take().unwrap().finish();
                        self.writer = None;
                    }
                }
                Step::Clear => {
                    (self.changing, self.writer) = (None, None);
                    self.readers.clear();
                    recent.clear();
                }
            }
        }

        fn apply(&mut self, batch: &[NewByte]) {
            for (key, value) in batch {
                match value {
                    Some(value) => drop(self.database.insert(*key, *value)),
                    None => drop(self.database.remove(key)),
                }
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_happens_what_is_told_is_what_the_database_holds(
            steps in proptest::collection::vec(step(), 1..60),
            room in prop_oneof![Just(0), Just(1100), Just(10_000)],
        ) {
            let recent = Recent::new(SHARDS * room);
            let mutation = |(key, byte): &NewByte| match byte {
                Some(byte) => put(1, key.to_string(), value(*byte)),
                None => delete(1, key.to_string()),
            };
            let batches: Vec<Vec<_>> = steps.iter().map(|step| match step {
                Step::Change(batch, _) => batch.iter().map(mutation).collect(),
                _ => Vec::new(),
            }).collect();
            let mut world = World::default();
            for (step, mutations) in steps.iter().zip(&batches) {
                world.take(&recent, step, mutations);
                for key in 0..6u8 {
                    if let Some(told) = one(&recent, &key.to_string()) {
                        prop_assert_eq!(told, world.database.get(&key).copied().map(value), "{} after {:?}", key, step);
                    }
                }
            }
        }
    }

    #[test]
    fn memory_is_bounded_and_what_is_read_stays_longer() {
        let recent = Recent::new(SHARDS * 10_000);
        for n in 0..100_000 {
            keep(&recent, &n.to_string(), &Some(vec![0; 1000].into()));
            assert!(n == 0 || one(&recent, "0").is_some(), "evicted after {n} although it was read all the time");
        }
        let held: usize = recent.shards.iter().map(|shard| shard.read().unwrap().bytes).sum();
        assert!((SHARDS * 7_000..=SHARDS * 10_000).contains(&held), "{held}");
        for shard in &recent.shards {
            let shard = shard.read().unwrap();
            assert_eq!(shard.queue.len(), shard.records.len());
        }
        keep(&recent, "large", &Some(vec![0; limits::STORE_RECENT_VALUE_MAX + 1].into()));
        assert_eq!(one(&recent, "large"), None);
        recent.clear();
        assert_eq!(one(&recent, "0"), None);
    }
}
