//! How landmarks and frontiers are stored: beside the hint markers, where no marker is, each with a checksum.
//!
//! They go back with the storage when it does, which is the point: the others' do not.

use bytes::{BufMut, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::hash::ClusterHash;
use crate::store::Slot;
use crate::types::{Bucket, Epoch, NodeId, PartitionId};
use crate::version::Stamp;
use crate::wire::past::Landmark;

/// What keeps these checksums apart from those of records.
const DOMAIN: &[u8] = b"past";

/// What a storage says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Own {
    pub(super) landmark: Landmark,
    /// Its epoch when this was written: another one at the start means that it may have lost something.
    pub(super) epoch: Epoch,
    /// Whether the node answered reads.
    pub(super) served: bool,
}

fn slot(own: NodeId, kind: &[u8], rest: &[u8]) -> Slot {
    let mut key = BytesMut::with_capacity(8 + kind.len() + rest.len());
    // No node keeps hints for itself, so no marker begins like this.
    key.put_u64(own.0);
    key.put_slice(kind);
    key.put_slice(rest);
    Slot { bucket: Bucket::HINTS, key: key.freeze() }
}

/// Where a storage says how far it has come.
pub(super) fn own_slot(own: NodeId) -> Slot {
    slot(own, b"past", b"")
}

/// Where it is kept how far another node's storage had come.
pub(super) fn seen_slot(own: NodeId, of: NodeId) -> Slot {
    slot(own, b"seen", &of.0.to_be_bytes())
}

/// What all of these begin with.
pub(super) fn seen_prefix(own: NodeId) -> Bytes {
    slot(own, b"seen", b"").key
}

/// Whose landmark lies at this key.
pub(super) fn seen_of(key: &[u8]) -> Option<NodeId> {
    key.get(12..)?.try_into().ok().map(u64::from_be_bytes).map(NodeId)
}

/// Where the frontier of a namespace in a partition is kept: of a namespace, since what is dropped in one says nothing of
/// another that comes to have as many copies later.
pub(crate) fn frontier_slot(own: NodeId, partition: PartitionId, namespace: &str) -> Slot {
    slot(own, b"frontier", &[&partition.0.to_be_bytes()[..], namespace.as_bytes()].concat())
}

/// The stored form of a frontier.
pub(crate) fn encode_frontier(hash: &ClusterHash, frontier: Stamp) -> Bytes {
    encode(hash, &frontier)
}

/// Reads a frontier; the least where none is, or a damaged one: then nothing can be told to have been dropped.
pub(crate) fn decode_frontier(hash: &ClusterHash, stored: Option<&Bytes>) -> Stamp {
    stored.and_then(|stored| decode(hash, stored)).unwrap_or_default()
}

pub(super) fn encode<T: Serialize>(hash: &ClusterHash, value: &T) -> Bytes {
    let body = postcard::to_stdvec(value).expect("plain numbers always encode into memory");
    let mut bytes = BytesMut::with_capacity(8 + body.len());
    bytes.put_u64(hash.checksum(DOMAIN, &body));
    bytes.put_slice(&body);
    bytes.freeze()
}

/// `None` when it is damaged.
pub(super) fn decode<T: DeserializeOwned>(hash: &ClusterHash, stored: &[u8]) -> Option<T> {
    let (checksum, body) = stored.split_first_chunk::<8>()?;
    (hash.checksum(DOMAIN, body) == u64::from_be_bytes(*checksum)).then(|| postcard::from_bytes(body).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::replica::marker;
    use crate::types::ClusterName;

    #[test]
    fn what_is_kept_is_read_back_unless_it_is_damaged() {
        let hash = ClusterHash::new(&ClusterName::new("demo").unwrap());
        let own = Own { landmark: Landmark { starts: 3, life: 4, mark: 5 }, epoch: Epoch(6), served: true };
        let stored = encode(&hash, &own);
        assert_eq!(decode::<Own>(&hash, &stored), Some(own));
        for at in 0..stored.len() {
            let mut bent = stored.to_vec();
            bent[at] ^= 1;
            assert_eq!(decode::<Own>(&hash, &bent), None, "byte {at}");
        }
        assert_eq!(decode_frontier(&hash, Some(&encode_frontier(&hash, Stamp(9)))), Stamp(9));
        assert_eq!(decode_frontier(&hash, Some(&Bytes::from_static(b"junk that is long"))), Stamp(0));
    }

    #[test]
    fn places_lead_back_to_whom_they_speak_of_and_no_marker_lies_there() {
        let (own, other) = (NodeId(7), NodeId(9));
        let seen = seen_slot(own, other);
        assert!(seen.key.starts_with(&seen_prefix(own)));
        assert_eq!(seen_of(&seen.key), Some(other));
        let places = [
            seen,
            own_slot(own),
            frontier_slot(own, PartitionId(17), "default"),
            marker::floor_slot(own),
            marker::check_slot(own),
        ];
        let distinct: std::collections::BTreeSet<_> = places.iter().collect();
        assert_eq!(distinct.len(), places.len());
        assert!(places.iter().all(|place| !place.key.starts_with(&marker::prefix(other))));
    }
}
