//! Records in memory, in order: what the engines without files are made of. Knows no epoch, no faults and no time.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::store::Mutation;
use crate::store::ScanPage;
use crate::store::ScanRange;
use crate::store::Slot;
use crate::store::StoreSize;
use crate::types::Bucket;

/// Records by place.
#[derive(Debug, Clone, Default)]
pub(crate) struct Records {
    bytes: u64,
    records: BTreeMap<(Bucket, Bytes), Bytes>,
}

impl Records {
    /// The values at these places, in the order asked for.
    pub(crate) fn get_many(&self, slots: &[Slot]) -> Vec<Option<Bytes>> {
        slots.iter().map(|slot| self.records.get(&(slot.bucket, slot.key.clone())).cloned()).collect()
    }

    /// Makes all these changes, in order.
    pub(crate) fn apply(&mut self, batch: Vec<Mutation>) {
        for mutation in batch {
            match mutation {
                Mutation::Put { slot, value } => self.put((slot.bucket, slot.key), value),
                Mutation::Delete { slot } => self.delete(&(slot.bucket, slot.key)),
            }
        }
    }

    /// A page of a bucket.
    pub(crate) fn scan(&self, range: ScanRange) -> ScanPage {
        let lower = match range.after {
            Some(after) => Bound::Excluded((range.bucket, after)),
            None => Bound::Included((range.bucket, range.prefix.clone())),
        };
        let mut page = ScanPage::default();
        let mut bytes = 0;
        for ((bucket, key), value) in self.records.range((lower, Bound::Unbounded)) {
            if *bucket != range.bucket || !key.starts_with(&range.prefix) {
                return page;
            }
            if page.items.len() == range.limit || bytes >= range.bytes.max(1) {
                page.more = true;
                return page;
            }
            bytes += key.len() + value.len();
            page.items.push((key.clone(), value.clone()));
        }
        page
    }

    /// The keys of a bucket, in order.
    pub(crate) fn keys(&self, bucket: Bucket) -> Vec<Bytes> {
        let from = self.records.range((bucket, Bytes::new())..).map(|(key, _)| key);
        from.take_while(|(at, _)| *at == bucket).map(|(_, key)| key.clone()).collect()
    }

    /// How many there are, and the bytes of their keys and values.
    pub(crate) fn size(&self) -> StoreSize {
        StoreSize { keys: self.records.len() as u64, bytes: self.bytes }
    }

    fn put(&mut self, key: (Bucket, Bytes), value: Bytes) {
        self.bytes += (key.1.len() + value.len()) as u64;
        if let Some(old) = self.records.insert(key.clone(), value) {
            self.bytes -= (key.1.len() + old.len()) as u64;
        }
    }

    fn delete(&mut self, key: &(Bucket, Bytes)) {
        if let Some(old) = self.records.remove(key) {
            self.bytes -= (key.1.len() + old.len()) as u64;
        }
    }
}
