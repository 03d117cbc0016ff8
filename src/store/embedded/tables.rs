//! What the embedded engine keeps in its database: one table of records, one of facts about the storage.
//!
//! A record's key is its partition, big-endian, before the key within the partition: so a partition is one range.
//! These are the transactions themselves, blocking and without policy: durability, repair and epochs are decided by
//! the callers in this folder.

use std::ops::Bound;

use bytes::Bytes;
use redb::Database;
use redb::Durability;
use redb::ReadableDatabase;
use redb::ReadableTable;
use redb::ReadableTableMetadata;
use redb::TableDefinition;
use redb::WriteTransaction;
use serde::Deserialize;
use serde::Serialize;

use crate::limits;
use crate::store::Mutation;
use crate::store::ScanPage;
use crate::store::ScanRange;
use crate::store::Slot;
use crate::store::epoch::Mark;
use crate::store::prefix_end;
use crate::types::PartitionId;

const RECORDS: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("records");
const FACTS: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("facts");
const IDENTITY: &str = "identity";
const SEAL: &str = "seal";
const ROOM: &str = "room";

/// What the storage says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seal {
    pub(super) mark: Mark,
    /// Whether it was closed in order.
    pub(super) clean: bool,
    /// Whether each write of the session was durable before it was acknowledged.
    pub(super) synced: bool,
}

/// Whether a transaction is on disk when its commit returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sync {
    No,
    /// It is, and opening after a crash need not walk the file: redb keeps its allocator's state with the commit.
    /// At intervals that costs nothing that could be measured.
    Quick,
    /// It is, with one sync of the disk in place of two, but opening after a crash walks the whole file once: by
    /// `benches/store.rs` 140 in place of 250 µs CPU for a put of its own, and 0.3 s to walk 285 MB in the page cache.
    Walk,
}

type Result<T> = std::result::Result<T, redb::Error>;

/// Begins a write transaction, waiting for the one before it.
pub(super) fn begin(db: &Database, sync: Sync) -> Result<WriteTransaction> {
    let mut tx = db.begin_write()?;
    tx.set_durability(if sync == Sync::No { Durability::None } else { Durability::Immediate })?;
    tx.set_quick_repair(sync == Sync::Quick);
    Ok(tx)
}

/// Creates the tables and returns whose storage it is and its seal; both `None` when it is new.
pub(super) fn create(tx: &WriteTransaction) -> Result<(Option<Vec<u8>>, Option<Seal>)> {
    tx.open_table(RECORDS)?;
    let facts = tx.open_table(FACTS)?;
    let identity = facts.get(IDENTITY)?.map(|text| text.value().to_vec());
    Ok((identity, read_seal(&facts)?))
}

/// The seal of an existing storage.
pub(super) fn seal(db: &Database) -> Result<Option<Seal>> {
    read_seal(&db.begin_read()?.open_table(FACTS)?)
}

fn read_seal(facts: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<Option<Seal>> {
    match facts.get(SEAL)? {
        None => Ok(None),
        Some(bytes) => match postcard::from_bytes(bytes.value()) {
            Ok(seal) => Ok(Some(seal)),
            Err(error) => Err(redb::Error::Corrupted(format!("the seal of the storage: {error}"))),
        },
    }
}

/// Writes whose storage it is.
pub(super) fn put_identity(tx: &WriteTransaction, identity: &[u8]) -> Result<()> {
    tx.open_table(FACTS)?.insert(IDENTITY, identity)?;
    Ok(())
}

/// Writes the seal.
pub(super) fn put_seal(tx: &WriteTransaction, seal: &Seal) -> Result<()> {
    let bytes = postcard::to_stdvec(seal).map_err(|error| redb::Error::Corrupted(error.to_string()))?;
    tx.open_table(FACTS)?.insert(SEAL, bytes.as_slice())?;
    Ok(())
}

/// Applies the changes.
pub(super) fn apply(tx: &WriteTransaction, batch: &[Mutation]) -> Result<()> {
    let mut records = tx.open_table(RECORDS)?;
    let mut key = Vec::with_capacity(64);
    for mutation in batch {
        let slot = mutation.slot();
        record_key(&mut key, slot.partition, &slot.key);
        match mutation {
            Mutation::Put { value, .. } => drop(records.insert(key.as_slice(), value.as_ref())?),
            Mutation::Delete { .. } => drop(records.remove(key.as_slice())?),
        }
    }
    Ok(())
}

/// Reads the records, in order.
pub(super) fn get_many(db: &Database, slots: &[Slot]) -> Result<Vec<Option<Bytes>>> {
    let records = db.begin_read()?.open_table(RECORDS)?;
    let mut key = Vec::with_capacity(64);
    let mut values = Vec::with_capacity(slots.len());
    for slot in slots {
        record_key(&mut key, slot.partition, &slot.key);
        values.push(records.get_owned(key.as_slice())?.map(|value| Bytes::copy_from_slice(value.value())));
    }
    Ok(values)
}

/// Reads a page of a partition.
pub(super) fn scan(db: &Database, range: &ScanRange) -> Result<ScanPage> {
    let records = db.begin_read()?.open_table(RECORDS)?;
    let mut first = Vec::new();
    record_key(&mut first, range.partition, range.after.as_ref().unwrap_or(&range.prefix));
    let mut whole_prefix = Vec::new();
    record_key(&mut whole_prefix, range.partition, &range.prefix);
    let end = prefix_end(&whole_prefix);
    let lower = if range.after.is_some() { Bound::Excluded(&first[..]) } else { Bound::Included(&first[..]) };
    let upper = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);

    let mut page = ScanPage::default();
    let mut bytes = 0;
    for item in records.range_owned::<&[u8]>((lower, upper))? {
        if page.items.len() == range.limit || bytes >= range.bytes.max(1) {
            page.more = true;
            break;
        }
        let (key, value) = item?;
        let key = Bytes::copy_from_slice(&key.value()[PARTITION_BYTES..]);
        let value = Bytes::copy_from_slice(value.value());
        bytes += key.len() + value.len();
        page.items.push((key, value));
    }
    Ok(page)
}

/// Deletes up to [`limits::STORE_DELETE_STEP`] records of a partition; returns how many.
pub(super) fn delete_some(tx: &WriteTransaction, partition: PartitionId) -> Result<u64> {
    let mut records = tx.open_table(RECORDS)?;
    let mut first = Vec::new();
    record_key(&mut first, partition, &[]);
    let end = prefix_end(&first);
    let upper = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    let last = {
        let mut range = records.range::<&[u8]>((Bound::Included(&first[..]), upper))?;
        let mut last = None;
        for item in range.by_ref().take(limits::STORE_DELETE_STEP) {
            last = Some(item?.0.value().to_vec());
        }
        last
    };
    let Some(last) = last else { return Ok(0) };
    let before = records.len()?;
    records.retain_in::<&[u8], _>(&first[..]..=&last[..], |_, _| false)?;
    Ok(before - records.len()?)
}

/// Number of records.
pub(super) fn count(db: &Database) -> Result<u64> {
    Ok(db.begin_read()?.open_table(RECORDS)?.len()?)
}

/// Finds out whether the disk takes writes: writes and syncs a good piece, and takes it away again.
pub(super) fn probe_room(db: &Database) -> Result<()> {
    let tx = begin(db, Sync::Quick)?;
    tx.open_table(FACTS)?.insert(ROOM, vec![0x5a; limits::STORE_ROOM_PROBE].as_slice())?;
    tx.commit()?;
    let tx = begin(db, Sync::Quick)?;
    tx.open_table(FACTS)?.remove(ROOM)?;
    tx.commit()?;
    Ok(())
}

const PARTITION_BYTES: usize = size_of::<u32>();

fn record_key(into: &mut Vec<u8>, partition: PartitionId, key: &[u8]) {
    into.clear();
    into.extend_from_slice(&partition.0.to_be_bytes());
    into.extend_from_slice(key);
}
