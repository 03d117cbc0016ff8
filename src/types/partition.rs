//! Parts of the hash space: partitions, which are owned, compared and moved, and can be cut in two; and the buckets of a
//! storage, which stay as they are. Who owns them is not said here.

use std::fmt;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;

use crate::limits;
use crate::types::Invalid;

/// One of the equal parts of the hash space: the unit of ownership, of comparison and of transfers.
///
/// Parts are numbered as the nodes of a binary tree are: 1 is the whole hash space, and the halves of `i` are `2i` and
/// `2i + 1`. So a partition says by itself of how many it is one, and what was said of it stays true when it is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PartitionId(pub u32);

impl PartitionId {
    /// No part at all: where keys belong that are none.
    pub const NONE: Self = Self(0);

    /// Of how many it is one, as a power of two.
    fn bits(self) -> u32 {
        self.0.checked_ilog2().unwrap_or(0)
    }

    /// Its place among its equals, from 0: what people call it by.
    pub fn number(self) -> u32 {
        self.0 ^ (1 << self.bits())
    }

    /// Whether a position of the 64-bit hash space lies in it.
    pub fn holds(self, position: u64) -> bool {
        let leading = position.checked_shr(u64::BITS - self.bits()).unwrap_or(0);
        leading | 1 << self.bits() == u64::from(self.0)
    }

    /// Whether it is one of more than there can be.
    pub fn is_finer_than_any(self) -> bool {
        self.bits() > limits::PARTITIONS_MAX.trailing_zeros()
    }

    /// The partition that it was cut from.
    pub fn parent(self) -> Self {
        Self(self.0 >> 1)
    }
}

/// As one of how many.
impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number(), 1_u32 << self.bits())
    }
}

/// One of the parts into which a storage sorts records by their positions: as many as there were partitions when the cluster
/// was founded. Partitions may be cut later; buckets never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bucket(pub u32);

impl Bucket {
    /// Not a part of the hash space: where a node keeps notes on what it owes other nodes.
    pub const HINTS: Self = Self(u32::MAX);
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How many partitions the hash space has: a power of two within the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Partitions(u32);

impl Partitions {
    /// Checks the count.
    ///
    /// # Errors
    /// When it is not a power of two between [`limits::PARTITIONS_MIN`] and [`limits::PARTITIONS_MAX`].
    pub fn new(count: u32) -> Result<Self, Invalid> {
        if count.is_power_of_two() && (limits::PARTITIONS_MIN..=limits::PARTITIONS_MAX).contains(&count) {
            Ok(Self(count))
        } else {
            let allowed = format!("a power of two from {} to {}", limits::PARTITIONS_MIN, limits::PARTITIONS_MAX);
            Err(Invalid::new("partition count", count.to_string(), allowed))
        }
    }

    /// The count.
    pub fn count(self) -> u32 {
        self.0
    }

    /// Up to how many equal nodes this count suits: there a join or leave moves little more than it must, while the load
    /// stays balanced (measured: see [`crate::ring`]). More nodes work, and move more.
    pub fn suits_nodes(self) -> usize {
        // Q >= 4 n^1.5, in whole numbers.
        let enough = |nodes: &usize| 16 * (*nodes as u64).pow(3) <= u64::from(self.0).pow(2);
        (1..).take_while(enough).count()
    }

    /// The least count that suits so many nodes, and the largest there is for more than that.
    pub fn for_nodes(nodes: usize) -> Self {
        let counts =
            (limits::PARTITIONS_MIN.trailing_zeros()..limits::PARTITIONS_MAX.trailing_zeros()).map(|bit| 1 << bit);
        counts.map(Self).find(|count| count.suits_nodes() >= nodes).unwrap_or(Self(limits::PARTITIONS_MAX))
    }

    /// The partition that holds a position of the 64-bit hash space: its leading bits.
    pub fn of(self, position: u64) -> PartitionId {
        self.nth(self.leading(position))
    }

    /// Where a storage with so many buckets keeps what has this position.
    pub fn bucket_of(self, position: u64) -> Bucket {
        Bucket(self.leading(position))
    }

    fn leading(self, position: u64) -> u32 {
        u32::try_from(position >> (u64::BITS - self.bits())).expect("a count has fewer than 32 bits")
    }

    /// The partition of this count with this place, which is below it.
    pub fn nth(self, number: u32) -> PartitionId {
        PartitionId(self.0 | number)
    }

    /// All partitions in order.
    pub fn iter(self) -> impl Iterator<Item = PartitionId> {
        (0..self.0).map(move |number| self.nth(number))
    }

    /// All buckets of a storage that has so many, in order.
    pub fn buckets(self) -> impl Iterator<Item = Bucket> {
        (0..self.0).map(Bucket)
    }

    /// The partitions of this count, which is no less than that of the buckets, that lie in a bucket.
    pub fn within(self, bucket: Bucket, buckets: Self) -> impl Iterator<Item = PartitionId> {
        let finer = self.bits().saturating_sub(buckets.bits());
        ((bucket.0 << finer)..((bucket.0 + 1) << finer)).map(move |number| self.nth(number))
    }

    /// The one of so many that is this partition, or that this one was cut from. `None` for a larger part of the hash space.
    pub fn around(self, partition: PartitionId) -> Option<PartitionId> {
        let finer = partition.bits().checked_sub(self.bits())?;
        Some(PartitionId(partition.0 >> finer))
    }

    /// The place of a partition among these. `None` when it is one of more or fewer.
    pub fn place(self, partition: PartitionId) -> Option<usize> {
        (partition.bits() == self.bits()).then(|| usize::try_from(partition.number()).ok())?
    }

    /// As many of half the size. `None` when that is more than the limit.
    pub fn halved(self) -> Option<Self> {
        Self::new(self.0 * 2).ok()
    }

    fn bits(self) -> u32 {
        self.0.trailing_zeros()
    }
}

impl Default for Partitions {
    fn default() -> Self {
        Self(limits::PARTITIONS_DEFAULT)
    }
}

impl<'de> Deserialize<'de> for Partitions {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::new(u32::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_cut_the_hash_space_evenly() {
        let partitions = Partitions::new(1024).unwrap();
        assert_eq!(partitions.of(0).number(), 0);
        assert_eq!(partitions.of(u64::MAX).number(), 1023);
        assert_eq!(partitions.of(1 << 54).number(), 1);
        assert_eq!(partitions.bucket_of(u64::MAX), Bucket(1023));
        assert!(Partitions::new(1000).is_err());
        assert!(Partitions::new(8).is_err());
    }

    #[test]
    fn a_partition_that_is_cut_is_the_two_that_come_of_it() {
        let (before, after) = (Partitions::new(16).unwrap(), Partitions::new(32).unwrap());
        assert_eq!(before.halved(), Some(after));
        assert_eq!(Partitions::new(limits::PARTITIONS_MAX).unwrap().halved(), None);
        for position in (0..1000_u64).map(|step| step.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
            let (old, new) = (before.of(position), after.of(position));
            assert_eq!((new.parent(), before.around(new), after.around(old)), (old, Some(old), None));
            assert!(old.holds(position) && new.holds(position));
            assert_eq!(before.iter().filter(|other| other.holds(position)).collect::<Vec<_>>(), [old]);
            assert_eq!((before.place(new), after.place(new)), (None, usize::try_from(new.number()).ok()));
            assert!(after.within(before.bucket_of(position), before).any(|within| within == new));
        }
        assert_eq!(before.nth(3).to_string(), "3/16");
        assert!(PartitionId(1).holds(u64::MAX) && !PartitionId::NONE.holds(0));
    }
}
