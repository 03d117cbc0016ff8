//! Hint markers: "this owner lacks this record", kept beside the data in a bucket of their own; and *marks*, "this owner may
//! lack whatever lies in this bucket", which stand for all hints beyond a target's budget.
//!
//! Neither holds a value: the record itself lies at its ordinary place, also on a node that only stands in. A marker or mark
//! is written in one batch with its record. Who makes which is not decided here.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::store::Slot;
use crate::types::{Bucket, NodeId};

const FIXED: usize = 8 + 4;

/// The value of a marker, or of a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marker {
    /// Another one after each renewal: the digest of the record then; of a mark, how often it was renewed.
    pub(crate) digest: u64,
    /// When it was made, renewals apart: milliseconds since the Unix epoch.
    pub(crate) made_ms: u64,
}

impl Marker {
    /// The stored form.
    pub(crate) fn encode(self) -> Bytes {
        Bytes::from(postcard::to_stdvec(&self).expect("plain numbers always encode into memory"))
    }

    /// Reads the stored form. `None` when it is damaged.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }
}

/// A place that no marker uses, for trying out the storage: no node keeps hints for itself.
pub(crate) fn check_slot(own: NodeId) -> Slot {
    let mut key = BytesMut::with_capacity(FIXED);
    key.put_u64(own.0);
    key.put_slice(b"check");
    Slot { bucket: Bucket::HINTS, key: key.freeze() }
}

/// The place of the least count of this node's dots, which is no marker either.
pub(crate) fn floor_slot(own: NodeId) -> Slot {
    let mut key = BytesMut::with_capacity(FIXED + 1);
    key.put_u64(own.0);
    key.put_slice(b"floor");
    Slot { bucket: Bucket::HINTS, key: key.freeze() }
}

/// The place of the marker for this target and record; of the mark, where the record is [`all_of`] a bucket.
pub(crate) fn slot(target: NodeId, of: &Slot) -> Slot {
    let mut key = BytesMut::with_capacity(FIXED + of.key.len());
    key.put_u64(target.0);
    key.put_u32(of.bucket.0);
    key.put_slice(&of.key);
    Slot { bucket: Bucket::HINTS, key: key.freeze() }
}

/// What a mark speaks of: a key that no record has stands for all of its bucket.
pub(crate) fn all_of(bucket: Bucket) -> Slot {
    Slot { bucket, key: Bytes::new() }
}

/// Whether this is [`all_of`] a bucket.
pub(crate) fn is_all(of: &Slot) -> bool {
    of.key.is_empty()
}

/// Bytes that a marker of this record takes, about.
pub(crate) fn size(of: &Slot) -> usize {
    const VALUE: usize = 16;
    FIXED + of.key.len() + VALUE
}

/// What all markers for one target begin with.
pub(crate) fn prefix(target: NodeId) -> [u8; 8] {
    target.0.to_be_bytes()
}

/// The record that a marker at this key speaks of, or all of a bucket. `None` when the key is damaged.
pub(crate) fn record_slot(marker_key: &Bytes) -> Option<Slot> {
    let bucket = marker_key.get(8..FIXED)?.try_into().ok().map(u32::from_be_bytes)?;
    Some(Slot { bucket: Bucket(bucket), key: marker_key.slice(FIXED..) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_leads_back_to_its_record_and_a_mark_to_its_bucket() {
        let record = Slot { bucket: Bucket(7), key: Bytes::from_static(b"default\0key") };
        let marker = slot(NodeId(9), &record);
        assert!(marker.key.starts_with(&prefix(NodeId(9))));
        assert_eq!(record_slot(&marker.key), Some(record));
        assert_eq!(record_slot(&Bytes::from_static(b"short")), None);
        let mark = slot(NodeId(9), &all_of(Bucket(7)));
        assert!(
            mark.key < marker.key && record_slot(&mark.key).is_some_and(|of| is_all(&of) && of.bucket == Bucket(7))
        );
    }
}
