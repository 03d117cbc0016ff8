//! Reading past damaged places: which records there are in a range of which some block of a file fails its checksum.
//!
//! The database's own iterator drops the rest of a file behind a damaged place, and says so only once. So here the keys are
//! gathered file by file, and each record is then read by itself: that finds its newest version, or that this one cannot
//! be read. What only a damaged block knew of is not found; the other replicas know of it. Nothing is repaired here:
//! a file keeps its damaged place until the database has no more use for the file.

use std::collections::BTreeSet;

use bytes::Bytes;
use fjall::AbstractTree;
use fjall::LsmError;
use fjall::UserKey;

use crate::store::ScanPage;
use crate::store::ScanRange;
use crate::store::embedded::database::Db;
use crate::store::embedded::database::PARTITION_BYTES;
use crate::store::embedded::database::bounds;
use crate::store::embedded::database::record_key;
use crate::store::embedded::fault::Fault;

/// What the files know of a range.
#[derive(Default)]
struct Keys {
    /// As they lie in the keyspace.
    keys: BTreeSet<UserKey>,
    /// For each damaged place, the last key of its file before it.
    holes: Vec<UserKey>,
    /// Whether there may be more behind the last key.
    more: bool,
}

impl Db {
    /// Reads a page of a bucket in which there is damage.
    pub(super) fn salvage(&self, range: &ScanRange) -> Result<ScanPage, Fault> {
        let now = self.database.snapshot();
        let mut page = ScanPage::default();
        let (mut range, mut bytes) = (range.clone(), 0);
        loop {
            let found = self.gather(&range)?;
            page.more = found.more;
            for key in &found.keys {
                if page.items.len() == range.limit || bytes >= range.bytes.max(1) {
                    page.more = true;
                    break;
                }
                let Some(value) = self.value(&now, key)? else { continue };
                let key = Bytes::copy_from_slice(&key[PARTITION_BYTES..]);
                bytes += key.len() + value.len();
                page.items.push((key, value));
            }
            // Places behind the page are the next one's to tell.
            let end = page.items.last().map(|(key, _)| record_key(range.bucket, key)).filter(|_| page.more);
            let is_passed = |hole: &&UserKey| end.as_ref().is_none_or(|end| ***hole < **end);
            page.damaged += found.holes.iter().filter(is_passed).count() as u64;
            match found.keys.last() {
                // Nothing but deleted records so far.
                Some(last) if page.more && page.items.is_empty() => {
                    range.after = Some(Bytes::copy_from_slice(&last[PARTITION_BYTES..]));
                }
                _ => return Ok(page),
            }
        }
    }

    /// The first keys of a range, deleted ones among them.
    fn gather(&self, range: &ScanRange) -> Result<Keys, Fault> {
        let bounds = bounds(range);
        // In this order, so that whatever leaves memory meanwhile is seen here or there.
        let newest = self.records.tree.active_memtable();
        if self.records.sealed_memtable_count() > 0 {
            let text = "a file has a damaged place, and what is newer is just being written: try again";
            return Err(Fault::Damaged(text.to_owned()));
        }
        let files = self.records.tree.current_version();
        let mut found = Keys::default();
        let start = record_key(range.bucket, range.after.as_ref().unwrap_or(&range.prefix));
        let fresh = newest.iter().map(|item| item.key.user_key);
        let fresh = fresh.filter(|key| std::ops::RangeBounds::contains(&bounds, key)).map(Ok);
        found.take(fresh, &start, range.limit)?;
        for file in files.iter_tables() {
            let keys = file.range(bounds.clone()).map(|item| item.map(|item| item.key.user_key));
            found.take(keys, &start, range.limit)?;
        }
        while found.keys.len() > range.limit {
            found.keys.pop_last();
            found.more = true;
        }
        Ok(found)
    }
}

impl Keys {
    /// Takes the first keys of one file. No place can hide more than one file's blocks, so this ends.
    fn take(
        &mut self,
        keys: impl Iterator<Item = Result<UserKey, LsmError>>,
        start: &[u8],
        limit: usize,
    ) -> Result<(), Fault> {
        let (mut last, mut count) = (UserKey::from(start), 0);
        for key in keys {
            match key.map_err(|error| Fault::from(fjall::Error::from(error))) {
                Ok(key) if count > 0 && key == last => {}
                Ok(_) if count == limit => {
                    self.more = true;
                    break;
                }
                Ok(key) => {
                    count += 1;
                    last = key.clone();
                    self.keys.insert(key);
                }
                Err(fault) if fault.is_damage() => self.holes.push(last.clone()),
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }
}
