//! The data set: keys by number, and values that say what they are, so that each can be checked byte for byte.
//!
//! A value is its key's number, the number of its write, bytes that follow from these and the seed, and a checksum over
//! all before it. Nothing of a data set is kept: all of it follows from the seed, the sizes and the numbers.

use bytes::Bytes;
use rand::Rng;
use xxhash_rust::xxh3::xxh3_64;

use crate::cli::Usage;
use crate::cli::bench::draw;
use crate::cli::bench::sizes::Sizes;
use crate::limits;

/// What every key begins with.
const KEY_HEAD: &str = "key:";
/// Digits of a key's number.
const KEY_DIGITS: usize = 12;
/// Shortest key.
const KEY_LEAST: usize = KEY_HEAD.len() + KEY_DIGITS;
/// Digits of a key's number that its neighbours do not share: a scan meets up to a hundred of them.
const NEIGHBOUR_DIGITS: usize = 2;
/// Most keys a scan meets.
pub(super) const NEIGHBOURS: u64 = 10_u64.pow(2);
/// Bytes of each number in a value, and of its checksum.
const WORD: usize = 8;
/// Smallest value: two numbers and a checksum.
const VALUE_LEAST: usize = 3 * WORD;

/// Streams of random numbers drawn for keys and for values, told apart.
const FOR_KEY: u64 = 1;
const FOR_VALUE_SIZE: u64 = 2;
const FOR_VALUE: u64 = 3;

/// What a data set follows from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct DataSet {
    /// Other seeds give other values under the same keys.
    pub(super) seed: u64,
    /// Lengths of keys.
    pub(super) key_sizes: Sizes,
    /// Lengths of values.
    pub(super) value_sizes: Sizes,
}

/// What is wrong with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Too short to be one, or its checksum does not fit: damaged, or not written by `bench`.
    Damaged,
    /// Whole, but of another key.
    OtherKey,
    /// Whole and of this key, but of another seed or other sizes.
    OtherSet,
}

impl DataSet {
    /// Checks the sizes.
    pub(super) fn new(seed: u64, key_sizes: Sizes, value_sizes: Sizes) -> Result<Self, Usage> {
        let within = |what: &str, sizes: Sizes, least: usize, most: usize| {
            let (low, high) = sizes.bounds();
            if low < least || high > most {
                let text = format!("--{what} {sizes} is out of bounds: from {least} to {most} bytes");
                return Err(Usage(text));
            }
            Ok(())
        };
        within("key-size", key_sizes, KEY_LEAST, limits::KEY_MAX)?;
        within("value-size", value_sizes, VALUE_LEAST, limits::VALUE_MAX)?;
        Ok(Self { seed, key_sizes, value_sizes })
    }

    /// The key with this number.
    pub(super) fn key(&self, number: u64) -> Bytes {
        let size = match self.key_sizes {
            Sizes::Fixed(size) => size,
            sizes => sizes.draw(&mut draw::stream(&[self.seed, FOR_KEY, number])),
        };
        let mut key = format!("{KEY_HEAD}{number:0KEY_DIGITS$}").into_bytes();
        key.resize(size.max(KEY_LEAST), b'x');
        key.into()
    }

    /// What a key and its neighbours begin with.
    pub(super) fn neighbours(&self, number: u64) -> Bytes {
        self.key(number).slice(..KEY_LEAST - NEIGHBOUR_DIGITS)
    }

    /// The value that this write gives this key.
    pub(super) fn value(&self, key: u64, write: u64) -> Bytes {
        let size = match self.value_sizes {
            Sizes::Fixed(size) => size,
            sizes => sizes.draw(&mut draw::stream(&[self.seed, FOR_VALUE_SIZE, key, write])),
        };
        let size = size.max(VALUE_LEAST);
        let mut value = vec![0; size];
        value[..WORD].copy_from_slice(&key.to_le_bytes());
        value[WORD..2 * WORD].copy_from_slice(&write.to_le_bytes());
        draw::stream(&[self.seed, FOR_VALUE, key, write]).fill_bytes(&mut value[2 * WORD..size - WORD]);
        let checksum = xxh3_64(&value[..size - WORD]);
        value[size - WORD..].copy_from_slice(&checksum.to_le_bytes());
        value.into()
    }

    /// Checks every byte of a value that was read under this key; any write of it will do.
    pub(super) fn judge(&self, key: u64, value: &[u8]) -> Result<(), Fault> {
        let body = value.len().checked_sub(WORD).filter(|body| *body >= 2 * WORD).ok_or(Fault::Damaged)?;
        if word(value, body) != Some(xxh3_64(&value[..body])) {
            return Err(Fault::Damaged);
        }
        match (word(value, 0), word(value, WORD)) {
            (Some(number), Some(write)) if number == key => {
                if self.value(key, write) == value {
                    Ok(())
                } else {
                    Err(Fault::OtherSet)
                }
            }
            _ => Err(Fault::OtherKey),
        }
    }
}

/// Whether a value says that it is of this key: costs nothing beside the read, and tells keys that were mixed up.
pub(super) fn is_of(key: u64, value: &[u8]) -> bool {
    word(value, 0) == Some(key)
}

fn word(value: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(value.get(at..at + WORD)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(seed: u64) -> DataSet {
        DataSet::new(seed, "uniform:16..40".parse().unwrap(), "uniform:24..400".parse().unwrap()).unwrap()
    }

    #[test]
    fn a_value_is_recognised_and_every_changed_byte_is_noticed() {
        let set = set(7);
        for key in 0..50 {
            let value = set.value(key, key + 3);
            assert_eq!(set.judge(key, &value), Ok(()));
            assert!(is_of(key, &value) && !is_of(key + 1, &value));
            for at in 0..value.len() {
                let mut damaged = value.to_vec();
                damaged[at] ^= 1;
                assert_eq!(set.judge(key, &damaged), Err(Fault::Damaged), "byte {at}");
            }
            assert_eq!(set.judge(key, &value[..value.len() - 1]), Err(Fault::Damaged));
        }
        assert_eq!(set.judge(0, b""), Err(Fault::Damaged));
    }

    #[test]
    fn values_of_other_keys_and_sets_are_told_apart() {
        let value = set(7).value(1, 2);
        assert_eq!(set(7).judge(2, &value), Err(Fault::OtherKey));
        assert_eq!(set(8).judge(1, &value), Err(Fault::OtherSet));
        let other = DataSet { value_sizes: Sizes::Fixed(500), ..set(7) };
        assert_eq!(other.judge(1, &value), Err(Fault::OtherSet));
        assert_ne!(set(7).value(1, 2), set(7).value(1, 3));
    }

    #[test]
    fn keys_are_distinct_stable_and_share_what_neighbours_are_found_by() {
        let set = set(7);
        assert!(set.key(1234).starts_with(b"key:000000001234"));
        assert_eq!(set.key(1234), set.key(1234));
        assert!(set.key(1299).starts_with(&set.neighbours(1200)));
        assert!(!set.key(1300).starts_with(&set.neighbours(1200)));
        let lengths: Vec<usize> = (0..50).map(|key| set.key(key).len()).collect();
        assert!(lengths.iter().all(|length| (16..=40).contains(length)) && lengths.iter().any(|length| *length > 30));
    }

    #[test]
    fn data_sets_stay_the_same_from_version_to_version() {
        let set = DataSet::new(1, Sizes::Fixed(16), Sizes::Fixed(40)).unwrap();
        let shown: String = set.value(5, 0).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(shown, PINNED);
    }

    const PINNED: &str = "050000000000000000000000000000003961c8c04380ad5a0463a4ec6429acc71446d4f57c1a4a4b";

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        assert!(DataSet::new(1, Sizes::Fixed(15), Sizes::Fixed(100)).is_err());
        assert!(DataSet::new(1, Sizes::Fixed(16), Sizes::Fixed(23)).is_err());
        assert!(DataSet::new(1, Sizes::Fixed(16), Sizes::Uniform(24, limits::VALUE_MAX + 1)).is_err());
    }
}
