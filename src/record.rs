//! The stored form of one key: format version, checksum, causal context, versions, values.
//!
//! Layout: `[format: u8][checksum: u64 LE][body]`, where the body is a postcard header followed by the values one after
//! another. The checksum (keyed SipHash-1-3) covers the body, the storage key and the format, so a damaged or misplaced
//! record is recognised on every read. The encoding is canonical: equal states are equal bytes, so the checksum is also the digest
//! by which replicas compare what they hold.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::hash::ClusterHash;
use crate::types::Namespace;
use crate::version::{Actor, Context, Dot, RequestId, Siblings, Stamp, Version};

/// The one format there is so far.
const FORMAT: u8 = 1;
const PREFIX: usize = 1 + 8;

/// Why stored bytes are not the record they should be. None of them is ever served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Bits were lost or the record belongs to another key; another replica has it.
    #[error("the record's checksum does not match: it is damaged or misplaced")]
    Damaged,
    /// Written by a later version of the program.
    #[error("the record has format {0}, this program knows up to {FORMAT}: upgrade this node")]
    UnknownFormat(u8),
    /// The checksum holds but the content breaks the rules of a record: a defect of the writer.
    #[error("the record's content is not valid")]
    Malformed,
}

/// The key under which a user's key is stored within its partition: namespace, a zero byte, key.
pub fn storage_key(namespace: &Namespace, key: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(namespace.as_str().len() + 1 + key.len());
    bytes.put_slice(namespace.as_str().as_bytes());
    bytes.put_u8(0);
    bytes.put_slice(key);
    bytes.freeze()
}

/// The namespace and key of a storage key. `None` when it is not one.
pub fn split_storage_key(stored: &Bytes) -> Option<(Namespace, Bytes)> {
    let name = namespace_of(stored)?;
    Some((Namespace::new(name).ok()?, stored.slice(name.len() + 1..)))
}

/// The name of the namespace in a storage key. `None` when it is not one.
pub fn namespace_of(stored: &[u8]) -> Option<&str> {
    let zero = stored.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(&stored[..zero]).ok()
}

/// Where a storage key lies in the hash space. `None` when it is not one.
pub fn position(hash: &ClusterHash, stored: &[u8]) -> Option<u64> {
    let name = namespace_of(stored)?;
    Some(hash.position_in(name, &stored[name.len() + 1..]))
}

#[derive(Serialize, Deserialize)]
struct Header {
    context: Vec<(Actor, u64)>,
    versions: Vec<VersionHeader>,
}

#[derive(Serialize, Deserialize)]
struct VersionHeader {
    /// The dot's actor, by its place in the context, which covers every dot.
    actor: u32,
    counter: u64,
    stamp: Stamp,
    request: RequestId,
    expires_at: Option<u64>,
    value_len: Option<u32>,
    supersedes: Vec<RequestId>,
}

/// Encodes the state of the key that is stored under `storage_key`.
pub fn encode(hash: &ClusterHash, storage_key: &[u8], siblings: &Siblings) -> Bytes {
    let context = siblings.context().entries();
    let place = |actor| context.binary_search_by_key(&actor, |entry| entry.0).unwrap_or(usize::MAX);
    let short = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let versions = siblings.versions().iter().map(|version| VersionHeader {
        actor: short(place(version.dot.actor)),
        counter: version.dot.counter,
        stamp: version.stamp,
        request: version.request,
        expires_at: version.expires_at,
        value_len: version.value.as_ref().map(|value| short(value.len())),
        supersedes: version.supersedes.clone(),
    });
    let header = Header { context: context.to_vec(), versions: versions.collect() };

    let mut bytes = BytesMut::with_capacity(PREFIX + 48 + 48 * header.versions.len() + siblings.value_bytes());
    bytes.put_bytes(0, PREFIX);
    let mut writer = bytes.writer();
    postcard::to_io(&header, &mut writer).expect("plain numbers always encode into memory");
    let mut bytes = writer.into_inner();
    for value in siblings.versions().iter().filter_map(|version| version.value.as_ref()) {
        bytes.put_slice(value);
    }
    bytes[0] = FORMAT;
    let checksum = checksum(hash, storage_key, FORMAT, &bytes[PREFIX..]);
    bytes[1..PREFIX].copy_from_slice(&checksum.to_le_bytes());
    bytes.freeze()
}

/// Checks and decodes a record; its values are slices of `record`.
///
/// # Errors
/// [`RecordError`] when the bytes are not the record of this storage key.
pub fn decode(hash: &ClusterHash, storage_key: &[u8], record: &Bytes) -> Result<Siblings, RecordError> {
    check(hash, storage_key, record)?;
    parse(&record.slice(PREFIX..)).ok_or(RecordError::Malformed)
}

/// Checks format and checksum without decoding.
///
/// # Errors
/// [`RecordError`] when the bytes are not the record of this storage key.
pub fn check(hash: &ClusterHash, storage_key: &[u8], record: &Bytes) -> Result<(), RecordError> {
    let format = *record.first().ok_or(RecordError::Damaged)?;
    let stored = digest(record).ok_or(RecordError::Damaged)?;
    if stored != checksum(hash, storage_key, format, &record[PREFIX..]) {
        return Err(RecordError::Damaged);
    }
    if format == FORMAT { Ok(()) } else { Err(RecordError::UnknownFormat(format)) }
}

/// The format counts, from the first one on: a damaged number must not look like a later version's record, which nobody
/// would repair.
fn checksum(hash: &ClusterHash, storage_key: &[u8], format: u8, body: &[u8]) -> u64 {
    hash.checksum(storage_key, body).wrapping_add(u64::from(format.wrapping_sub(1)))
}

/// The digest of a record, as it was stored: equal for equal states. `None` when the bytes are too short.
pub fn digest(record: &[u8]) -> Option<u64> {
    let bytes = record.get(1..PREFIX)?;
    bytes.try_into().ok().map(u64::from_le_bytes)
}

fn parse(body: &Bytes) -> Option<Siblings> {
    let (header, rest): (Header, &[u8]) = postcard::take_from_bytes(body).ok()?;
    let mut values = body.slice(body.len() - rest.len()..);
    let mut versions = Vec::with_capacity(header.versions.len());
    for version in header.versions {
        let (actor, _) = *header.context.get(usize::try_from(version.actor).ok()?)?;
        let value = match version.value_len {
            Some(len) => {
                let len = usize::try_from(len).ok()?;
                (len <= values.len()).then(|| values.split_to(len)).map(Some)?
            }
            None => None,
        };
        versions.push(Version {
            dot: Dot { actor, counter: version.counter },
            stamp: version.stamp,
            request: version.request,
            expires_at: version.expires_at,
            value,
            supersedes: version.supersedes,
        });
    }
    values.is_empty().then_some(())?;
    Siblings::from_parts(Context::from_entries(header.context)?, versions)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::{ClusterName, Epoch, NodeId};
    use crate::version::NewVersion;

    fn hash() -> ClusterHash {
        ClusterHash::new(&ClusterName::new("demo").unwrap())
    }

    fn siblings(values: &[Option<Vec<u8>>]) -> Siblings {
        let mut siblings = Siblings::new();
        for (sequence, value) in (1u64..).zip(values) {
            let actor = Actor { node: NodeId(sequence % 3), epoch: Epoch(9) };
            let new = NewVersion {
                request: RequestId { client: 5, sequence },
                after: Vec::new(),
                stamp: Stamp::at(1_000 + sequence),
                expires_at: (sequence % 2 == 0).then_some(sequence),
                value: value.clone().map(Bytes::from),
            };
            siblings.put(&Context::new(), new, actor, 0);
        }
        siblings
    }

    #[test]
    fn the_format_is_pinned_because_data_on_disk_depends_on_it() {
        let record = encode(&hash(), b"default\0k", &siblings(&[Some(b"v".to_vec()), None]));
        let hex: String = record.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, PINNED, "changing the format needs a new format number");
    }

    const PINNED: &str = "016170b5b07560b71e020109010209010200018080a41f05010001010001018080a81f05020102000076";

    #[test]
    fn a_record_under_another_key_is_damaged() {
        let record = encode(&hash(), b"a", &siblings(&[Some(vec![1])]));
        assert_eq!(decode(&hash(), b"b", &record), Err(RecordError::Damaged));
    }

    #[test]
    fn a_later_format_is_named_not_guessed() {
        let mut record = encode(&hash(), b"a", &siblings(&[Some(vec![1])])).to_vec();
        record[0] = 9;
        let whole = checksum(&hash(), b"a", 9, &record[PREFIX..]);
        record[1..PREFIX].copy_from_slice(&whole.to_le_bytes());
        assert_eq!(decode(&hash(), b"a", &record.into()), Err(RecordError::UnknownFormat(9)));
    }

    #[test]
    fn a_bit_that_flips_is_damage_wherever_it_is() {
        let record = encode(&hash(), b"a", &siblings(&[Some(vec![1]), None]));
        for at in 0..record.len() * 8 {
            let mut bent = record.to_vec();
            bent[at / 8] ^= 1 << (at % 8);
            assert_eq!(check(&hash(), b"a", &bent.into()), Err(RecordError::Damaged), "bit {at}");
        }
    }

    #[test]
    fn storage_keys_split_again() {
        let ns = Namespace::new("orders").unwrap();
        let stored = storage_key(&ns, b"\0k\0");
        assert_eq!(position(&hash(), &stored), Some(hash().position(&ns, b"\0k\0")));
        assert_eq!(split_storage_key(&stored), Some((ns, Bytes::from_static(b"\0k\0"))));
        assert_eq!(split_storage_key(&Bytes::from_static(b"nozero")), None);
    }

    proptest! {
        #[test]
        fn records_round_trip(values in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..50)), 0..6)) {
            let state = siblings(&values);
            let record = encode(&hash(), b"k", &state);
            prop_assert_eq!(decode(&hash(), b"k", &record), Ok(state));
        }

        #[test]
        fn no_damage_goes_unseen(at in any::<prop::sample::Index>(), bit in 0..8u8, cut in any::<prop::sample::Index>()) {
            let record = encode(&hash(), b"k", &siblings(&[Some(vec![1, 2, 3]), None]));
            let mut flipped = record.to_vec();
            flipped[at.index(record.len())] ^= 1 << bit;
            prop_assert!(decode(&hash(), b"k", &flipped.into()).is_err());
            prop_assert!(decode(&hash(), b"k", &record.slice(..cut.index(record.len()))).is_err());
        }

        #[test]
        fn junk_never_panics_even_with_a_right_checksum(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut record = vec![FORMAT];
            record.extend(hash().checksum(b"k", &body).to_le_bytes());
            record.extend(&body);
            drop(decode(&hash(), b"k", &record.into()));
        }
    }
}
