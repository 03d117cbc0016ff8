//! What the embedded engine keeps in its database: one keyspace of records, and among them a few facts.
//!
//! A record's key is its bucket, big-endian, before the key within the bucket: so a bucket is one range. The
//! facts stand where no bucket is. These are the operations themselves, blocking and without policy: durability,
//! repair and epochs are decided by the callers in this folder. Two things that fjall would do by itself are done
//! here: it asks its one worker for a new memtable by a bounded queue that the worker fills, too, and waits for it
//! without end, dead or alive. So the queue is kept short, and whoever has to wait is told so.

use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use fjall::AbstractTree;
use fjall::CompressionType;
use fjall::Database;
use fjall::Keyspace;
use fjall::KeyspaceCreateOptions;
use fjall::KvSeparationOptions;
use fjall::OwnedWriteBatch;
use fjall::PersistMode;
use fjall::Readable;
use fjall::Snapshot;
use fjall::UserKey;
use fjall::config::CompressionPolicy;

use crate::limits;
use crate::store::Mutation;
use crate::store::ScanPage;
use crate::store::ScanRange;
use crate::store::Slot;
use crate::store::UNREADABLE;
use crate::store::embedded::EmbeddedOptions;
use crate::store::embedded::fault::Fault;
use crate::store::embedded::journal;
use crate::store::epoch::Seal;
use crate::store::prefix_end;
use crate::types::Bucket;

/// A bucket that no cluster has: above [`limits::PARTITIONS_MAX`] and below [`Bucket::HINTS`].
const FACTS: Bucket = Bucket(0x6661_6374);
const IDENTITY: &[u8] = b"identity";
const SEAL: &[u8] = b"seal";
const ROOM: &[u8] = b"room";

/// Merging and writing tables is one thread's work: a second one would mostly wait, and burn time while it does.
const WORKERS: usize = 1;
/// Part of the cache's size that one memtable may have.
const MEMTABLE_SHARE: u64 = 16;
const JOURNALS_MAX: u64 = 512 * 1024 * 1024;

/// The open database.
pub(super) struct Db {
    pub(super) database: Database,
    pub(super) records: Keyspace,
    /// Bytes written since the memtable was new.
    fresh: AtomicU64,
    memtable_bytes: u64,
}

/// Changes to be made together.
pub(super) struct Batch<'a> {
    db: &'a Db,
    changes: OwnedWriteBatch,
    bytes: u64,
}

type Result<T> = std::result::Result<T, Fault>;

impl Db {
    /// Opens the database in this directory, creating it if there is nothing.
    pub(super) fn open(directory: &Path, options: EmbeddedOptions) -> Result<Self> {
        let version = directory.join("version").try_exists().map_err(fjall::Error::Io)?;
        let journals = journal::count(directory, !version).map_err(fjall::Error::Io)?;
        if version == (journals == 0) {
            // fjall would begin anew, and number its changes from zero beside tables that know better.
            return Err(Fault::Damaged("some of its files are missing".to_owned()));
        }
        let cache_bytes = options.cache_bytes as u64;
        let database = Database::builder(directory)
            .cache_size(cache_bytes / 2)
            .worker_threads(WORKERS)
            .max_cached_files(Some(limits::STORE_OPEN_FILES))
            .max_journaling_size(JOURNALS_MAX)
            .journal_compression(CompressionType::None)
            .manual_journal_persist(true)
            .open()?;
        let records = database.keyspace("records", keyspace_options)?;
        let memtable_bytes =
            (cache_bytes / MEMTABLE_SHARE).clamp(limits::STORE_MEMTABLE_MIN, limits::STORE_MEMTABLE_MAX);
        Ok(Self { database, records, fresh: AtomicU64::new(0), memtable_bytes })
    }

    /// Begins a batch that is as durable as `mode` says when it is committed.
    pub(super) fn batch(&self, mode: PersistMode) -> Batch<'_> {
        Batch {
            db: self,
            changes: OwnedWriteBatch::with_capacity(self.database.clone(), 0).durability(Some(mode)),
            bytes: 0,
        }
    }

    /// Whose storage it is.
    pub(super) fn identity(&self) -> Result<Option<Vec<u8>>> {
        Ok(self.records.get(record_key(FACTS, IDENTITY))?.map(|text| text.to_vec()))
    }

    /// The seal of the last batch.
    pub(super) fn seal(&self) -> Result<Option<Seal>> {
        let Some(bytes) = self.records.get(record_key(FACTS, SEAL))? else { return Ok(None) };
        let seal = postcard::from_bytes(&bytes);
        seal.map(Some).map_err(|error| Fault::Damaged(format!("the seal of the storage: {error}")))
    }

    /// Begins a new memtable when this one is full. Returns whether writers should wait before they write more.
    pub(super) fn make_room(&self) -> Result<bool> {
        if self.fresh.load(Ordering::Relaxed) < self.memtable_bytes {
            return Ok(false);
        }
        if self.records.sealed_memtable_count() >= limits::STORE_MEMTABLES_WAITING {
            return Ok(true);
        }
        if self.records.l0_table_count() >= limits::STORE_TABLES_NEW_MAX {
            // The worker merges once per table that it writes, and it may choose others to merge than the new ones.
            self.records
                .tree
                .compact(self.records.config.compaction_strategy.clone(), 0)
                .map_err(fjall::Error::from)?;
            return Ok(true);
        }
        self.fresh.store(0, Ordering::Relaxed);
        self.records.rotate_memtable()?;
        Ok(false)
    }

    /// Fails when the database has given up: a write to its journal has failed, or its worker has.
    pub(super) fn check(&self) -> Result<()> {
        Ok(self.database.persist(PersistMode::Buffer)?)
    }

    /// Makes everything durable.
    pub(super) fn sync(&self) -> Result<()> {
        Ok(self.database.persist(PersistMode::SyncData)?)
    }

    /// Reads the records, in order, as they are at one time. One in a damaged place is given as [`UNREADABLE`].
    pub(super) fn get_many<'a>(&self, slots: impl ExactSizeIterator<Item = &'a Slot>) -> Result<Vec<Option<Bytes>>> {
        let now = self.database.snapshot();
        let mut values = Vec::with_capacity(slots.len());
        for slot in slots {
            values.push(self.value(&now, &record_key(slot.bucket, &slot.key))?);
        }
        Ok(values)
    }

    /// Reads one record; one in a damaged place is given as [`UNREADABLE`].
    pub(super) fn value(&self, now: &Snapshot, key: &[u8]) -> Result<Option<Bytes>> {
        match now.get(&self.records, key).map_err(Fault::from) {
            Ok(value) => Ok(value.map(|value| Bytes::copy_from_slice(&value))),
            Err(fault) if fault.is_damage() => {
                tracing::warn!(%fault, "a record lies in a damaged place of the storage's files");
                Ok(Some(UNREADABLE))
            }
            Err(fault) => Err(fault),
        }
    }

    /// Reads a page of a bucket, past damaged places if there are any.
    pub(super) fn scan(&self, range: &ScanRange) -> Result<ScanPage> {
        match self.whole_page(range) {
            Err(fault) if fault.is_damage() => self.salvage(range),
            page => page,
        }
    }

    fn whole_page(&self, range: &ScanRange) -> Result<ScanPage> {
        let mut page = ScanPage::default();
        let mut bytes = 0;
        for item in self.range(range) {
            if page.items.len() == range.limit || bytes >= range.bytes.max(1) {
                page.more = true;
                break;
            }
            let (key, value) = item.into_inner()?;
            let key = Bytes::copy_from_slice(&key[PARTITION_BYTES..]);
            let value = Bytes::copy_from_slice(&value);
            bytes += key.len() + value.len();
            page.items.push((key, value));
        }
        Ok(page)
    }

    /// Reads the keys of a page; where there is damage it may be a shorter one.
    pub(super) fn keys(&self, range: &ScanRange) -> Result<Vec<Bytes>> {
        let keys =
            self.range(range).take(range.limit).map(|item| Ok(Bytes::copy_from_slice(&item.key()?[PARTITION_BYTES..])));
        match keys.collect::<Result<_>>() {
            Err(fault) if fault.is_damage() => {
                let range = ScanRange { bytes: limits::SCAN_PAGE_BYTES, ..range.clone() };
                Ok(self.salvage(&range)?.items.into_iter().map(|(key, _)| key).collect())
            }
            keys => keys,
        }
    }

    /// Number of records: counted when there are few and no place is damaged, else estimated.
    pub(super) fn count(&self) -> Result<u64> {
        let entries = self.records.approximate_len();
        if entries > limits::STORE_COUNTED_MAX {
            return Ok(entries as u64);
        }
        let facts = FACTS.0.to_be_bytes();
        let mut count = 0;
        for item in self.database.snapshot().iter(&self.records) {
            match item.key().map_err(Fault::from) {
                Ok(key) => count += u64::from(!key.starts_with(&facts)),
                Err(fault) if fault.is_damage() => return Ok(entries as u64),
                Err(fault) => return Err(fault),
            }
        }
        Ok(count)
    }

    /// Bytes of the tables, and of what waits to be written to them.
    pub(super) fn bytes(&self) -> u64 {
        self.records.disk_space() + self.database.write_buffer_size()
    }

    /// Finds out whether the disk takes writes: writes and syncs a good piece, and takes it away again.
    pub(super) fn probe_room(&self) -> Result<()> {
        let mut batch = self.batch(PersistMode::SyncAll);
        batch.put(&record_key(FACTS, ROOM), &vec![0x5a; limits::STORE_ROOM_PROBE]);
        batch.commit()?;
        let mut batch = self.batch(PersistMode::SyncAll);
        batch.remove(&record_key(FACTS, ROOM));
        batch.commit()
    }

    fn range(&self, range: &ScanRange) -> fjall::Iter {
        self.database.snapshot().range(&self.records, bounds(range))
    }
}

impl Batch<'_> {
    /// Writes whose storage it is.
    pub(super) fn put_identity(&mut self, identity: &[u8]) {
        self.put(&record_key(FACTS, IDENTITY), identity);
    }

    /// Writes the seal.
    pub(super) fn put_seal(&mut self, seal: &Seal) -> Result<()> {
        let bytes = postcard::to_stdvec(seal).map_err(|error| Fault::Damaged(error.to_string()))?;
        self.put(&record_key(FACTS, SEAL), &bytes);
        Ok(())
    }

    /// Adds the changes.
    pub(super) fn apply(&mut self, mutations: &[Mutation]) {
        for mutation in mutations {
            let slot = mutation.slot();
            let key = record_key(slot.bucket, &slot.key);
            match mutation {
                Mutation::Put { value, .. } => self.put(&key, value),
                Mutation::Delete { .. } => self.remove(&key),
            }
        }
    }

    /// Makes the changes, all or none.
    pub(super) fn commit(self) -> Result<()> {
        self.changes.commit()?;
        self.db.fresh.fetch_add(self.bytes, Ordering::Relaxed);
        Ok(())
    }

    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.bytes += (key.len() + value.len() + ENTRY_OVERHEAD) as u64;
        self.changes.insert(&self.db.records, key, value);
    }

    fn remove(&mut self, key: &[u8]) {
        self.bytes += (key.len() + ENTRY_OVERHEAD) as u64;
        self.changes.remove(&self.db.records, key);
    }
}

/// The number of the batch, if this item of a journal is its seal.
pub(super) fn seal_commits(key: &[u8], value: &[u8]) -> Option<u64> {
    if key != record_key(FACTS, SEAL) {
        return None;
    }
    postcard::from_bytes::<Seal>(value).ok().map(|seal| seal.mark.commits)
}

fn keyspace_options() -> KeyspaceCreateOptions {
    let apart = KvSeparationOptions::default()
        .separation_threshold(limits::STORE_VALUE_APART)
        .compression(CompressionType::None);
    KeyspaceCreateOptions::default()
        .data_block_compression_policy(CompressionPolicy::disabled())
        .with_kv_separation(Some(apart))
        .manual_journal_persist(true)
        // `make_room` decides.
        .max_memtable_size(u64::MAX)
}

/// Where a range lies in the keyspace.
pub(super) fn bounds(range: &ScanRange) -> (Bound<UserKey>, Bound<UserKey>) {
    let first = UserKey::from(record_key(range.bucket, range.after.as_ref().unwrap_or(&range.prefix)));
    let end = prefix_end(&record_key(range.bucket, &range.prefix)).map(UserKey::from);
    let lower = if range.after.is_some() { Bound::Excluded(first) } else { Bound::Included(first) };
    (lower, end.map_or(Bound::Unbounded, Bound::Excluded))
}

pub(super) const PARTITION_BYTES: usize = size_of::<u32>();
/// About what an entry of a memtable takes beside its key and value.
const ENTRY_OVERHEAD: usize = 64;

pub(super) fn record_key(bucket: Bucket, key: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(PARTITION_BYTES + key.len());
    whole.extend_from_slice(&bucket.0.to_be_bytes());
    whole.extend_from_slice(key);
    whole
}
