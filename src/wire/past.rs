//! The messages by which nodes tell each other how far their storages have come, and what has been dropped since.

use serde::{Deserialize, Serialize};

use crate::types::{Copies, PartitionId};
use crate::version::{Dot, Stamp};
use crate::wire::blob::Blob;
use crate::wire::rpc::SlotRef;

/// How far a node's storage had come when it was seen. It only grows, so a storage that is behind what somebody saw of it
/// was put back to an older copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Landmark {
    /// How often a node was started on it.
    pub starts: u64,
    /// Drawn at that start: two starts from one and the same copy are told apart by it.
    pub life: u64,
    /// Raised now and then while it is written to, and before anything is dropped.
    pub mark: u64,
}

impl Landmark {
    /// Whether a storage that is here now has seen less than this one had, or something else.
    pub fn is_beyond(&self, now: &Self) -> bool {
        let other_life = self.starts == now.starts && self.life != now.life;
        other_life || (self.starts, self.mark) > (now.starts, now.mark)
    }
}

/// What a node last saw of another one's storage.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sight {
    /// How far it had come, if that was ever told.
    pub landmark: Option<Landmark>,
    /// Records that were in it since, as far as this life of the node remembers: at most two.
    pub held: Vec<Held>,
}

/// A record that a storage was seen to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Its place.
    pub slot: SlotRef,
    /// Writes that it had seen.
    pub dots: Vec<Dot>,
}

/// Asks another owner which versions have been dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedRequest {
    /// The partition.
    pub partition: PartitionId,
    /// The copies of the keys' namespaces, which decide who owns them.
    pub copies: Copies,
    /// Keys with the names and stamps of the versions that the asker has; at most
    /// [`crate::limits::DROPPED_KEYS_MAX`].
    pub keys: Vec<(Blob, Vec<(Dot, Stamp)>)>,
}

/// What has been dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedAnswer {
    /// The latest stamp of anything that the answerer dropped of these namespaces; zero where it has dropped nothing.
    pub frontier: Stamp,
    /// For each key, in order, those of the versions that were dropped.
    pub dropped: Vec<Vec<Dot>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Epoch, NodeId};
    use crate::version::Actor;
    use crate::wire::golden::hex;

    #[test]
    fn messages_are_pinned_because_other_versions_read_them() {
        assert_eq!(hex(&Landmark { starts: 1, life: 2, mark: 300 }), "0102ac02");
        let dot = Dot { actor: Actor { node: NodeId(1), epoch: Epoch(2) }, counter: 3 };
        let keys = vec![(Blob::copy(b"k"), vec![(dot, Stamp(4))])];
        let slot = SlotRef { bucket: crate::types::Bucket(7), key: Blob::copy(b"k") };
        let landmark = Some(Landmark { starts: 1, life: 2, mark: 3 });
        let sight = Sight { landmark, held: vec![Held { slot, dots: vec![dot] }] };
        assert_eq!(hex(&sight), "010102030107016b01010203");
        assert_eq!(
            hex(&DroppedRequest { partition: PartitionId(7), copies: Copies::settled(3), keys }),
            "07030301016b0101020304"
        );
        let answer = DroppedAnswer { frontier: Stamp(5), dropped: vec![vec![dot], vec![]] };
        assert_eq!(hex(&answer), "05020101020300");
    }

    #[test]
    fn a_copy_is_behind_when_others_saw_more_or_something_else() {
        let at = |starts, life, mark| Landmark { starts, life, mark };
        let now = at(3, 7, 5);
        for seen in [at(3, 7, 5), at(3, 7, 4), at(2, 9, 8)] {
            assert!(!seen.is_beyond(&now), "{seen:?}");
        }
        for seen in [at(3, 7, 6), at(3, 8, 0), at(4, 1, 0)] {
            assert!(seen.is_beyond(&now), "{seen:?}");
        }
    }
}
