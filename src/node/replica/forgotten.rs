//! What a replica remembers of records that it has dropped.
//!
//! For good, and in the storage: the *floor*, a count that no dropped record of this storage epoch exceeded among this
//! node's own dots. New dots count from above it, so that none can name two values. For a while, and in memory: the
//! *graves*, what each dropped record had seen. A message that was under way when the record was dropped finds that all
//! it brings has been superseded. It needs no disk: with the process its connections end, and all that is in them.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::time::Instant;

use crate::hash::ClusterHash;
use crate::limits;
use crate::store::Slot;
use crate::version::{Actor, Context};

/// What keeps the checksum of a floor apart from those of records.
const DOMAIN: &[u8] = b"floor";
/// Bytes of a grave beside its key and context.
const OVERHEAD: usize = 128;

/// What is remembered.
#[derive(Debug, Default)]
pub(crate) struct Forgotten {
    /// The floor; `None` of it is stored while it is zero.
    pub(crate) floor: u64,
    graves: BTreeMap<Slot, Grave>,
    bytes: usize,
}

#[derive(Debug)]
struct Grave {
    seen: Context,
    until: Instant,
}

fn weight(slot: &Slot, seen: &Context) -> usize {
    slot.key.len() + seen.len() * size_of::<(Actor, u64)>() + OVERHEAD
}

impl Forgotten {
    /// What a record had seen that was dropped here of late, or that this node has agreed not to take.
    pub(crate) fn seen(&self, slot: &Slot) -> Option<Context> {
        let grave = self.graves.get(slot).filter(|grave| Instant::now() < grave.until)?;
        Some(grave.seen.clone())
    }

    /// Remembers what a record had seen. False when there is no room.
    pub(crate) fn bury(&mut self, slot: &Slot, seen: &Context) -> bool {
        let mut all = self.graves.get(slot).map(|grave| grave.seen.clone()).unwrap_or_default();
        all.merge(seen);
        let size = weight(slot, &all);
        if all.len() > limits::CONTEXT_ACTORS_MAX || !self.has_room(slot, size) {
            return false;
        }
        let grave = Grave { seen: all, until: Instant::now() + limits::GRAVE_LASTS };
        self.bytes += size;
        self.bytes -= self.graves.insert(slot.clone(), grave).map_or(0, |old| weight(slot, &old.seen));
        true
    }

    /// Whether a grave of this size may take the place of the one that is there; those that lapsed make room.
    fn has_room(&mut self, slot: &Slot, size: usize) -> bool {
        let fits = |this: &Self| {
            let old = this.graves.get(slot).map_or(0, |grave| weight(slot, &grave.seen));
            this.bytes - old + size <= limits::GRAVES_BYTES_MAX
        };
        if !fits(self) {
            self.lapse();
        }
        fits(self)
    }

    fn lapse(&mut self) {
        let now = Instant::now();
        self.graves.retain(|_, grave| now < grave.until);
        self.bytes = self.graves.iter().map(|(slot, grave)| weight(slot, &grave.seen)).sum();
    }

    /// Records that a record with this count is forgotten. The floor is never zero after that.
    pub(crate) fn raise(&mut self, count: u64) {
        self.floor = self.floor.max(count).max(1);
    }

    /// The stored form of the floor.
    pub(crate) fn encode_floor(&self, hash: &ClusterHash) -> Bytes {
        let mut bytes = BytesMut::with_capacity(16);
        bytes.put_u64(self.floor);
        bytes.put_u64(hash.checksum(DOMAIN, &self.floor.to_be_bytes()));
        bytes.freeze()
    }
}

/// Reads a stored floor. `None` when it is damaged.
pub(crate) fn decode_floor(hash: &ClusterHash, stored: &[u8]) -> Option<u64> {
    let (floor, checksum) = stored.split_at_checked(8)?;
    let floor = u64::from_be_bytes(floor.try_into().ok()?);
    (hash.checksum(DOMAIN, &floor.to_be_bytes()).to_be_bytes() == checksum).then_some(floor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Bucket, ClusterName, Epoch, NodeId};
    use crate::version::Dot;

    fn slot(number: usize) -> Slot {
        Slot { bucket: Bucket(0), key: Bytes::from(number.to_string()) }
    }

    fn context(actors: u64, counter: u64) -> Context {
        let mut context = Context::new();
        (0..actors).for_each(|node| context.add(Dot { actor: Actor { node: NodeId(node), epoch: Epoch(1) }, counter }));
        context
    }

    #[test]
    fn a_floor_is_read_back_unless_it_is_damaged() {
        let hash = ClusterHash::new(&ClusterName::new("demo").unwrap());
        let mut forgotten = Forgotten::default();
        forgotten.raise(0);
        assert_eq!(forgotten.floor, 1, "that something was forgotten is known");
        forgotten.raise(70_000);
        forgotten.raise(3);
        let stored = forgotten.encode_floor(&hash);
        assert_eq!(decode_floor(&hash, &stored), Some(70_000));
        for at in 0..stored.len() {
            let mut bent = stored.to_vec();
            bent[at] ^= 1;
            assert_eq!(decode_floor(&hash, &bent), None);
            assert_eq!(decode_floor(&hash, &stored[..at]), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn graves_add_up_lapse_and_are_bounded() {
        let mut forgotten = Forgotten::default();
        assert!(forgotten.bury(&slot(0), &context(1, 5)) && forgotten.bury(&slot(0), &context(2, 3)));
        let seen = forgotten.seen(&slot(0)).unwrap();
        assert_eq!(seen.entries().iter().map(|entry| entry.1).collect::<Vec<u64>>(), [5, 3]);
        let big = context(512, 1);
        let fit = (1..100_000).take_while(|number| forgotten.bury(&slot(*number), &big)).count();
        assert!((1_000..10_000).contains(&fit), "{fit} graves of 512 actors");
        assert!(forgotten.bytes <= limits::GRAVES_BYTES_MAX);
        tokio::time::advance(limits::GRAVE_LASTS).await;
        assert_eq!(forgotten.seen(&slot(0)), None);
        assert!(forgotten.bury(&slot(0), &big));
        assert_eq!(forgotten.bytes, weight(&slot(0), &big));
    }
}
