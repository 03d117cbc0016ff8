//! What may be asked of a replica's write loop, and what it answers.

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::node::past::kept;
#[cfg(doc)]
use crate::node::replica::marker;
use crate::record;
use crate::store::Slot;
use crate::types::{NodeId, PartitionId};
use crate::version::{Context, Dot, RequestId};
use crate::wire::rpc::ServeError;

/// Where an outcome goes. The receiver may have given up; the work was done all the same.
pub(crate) type ReplyTo<T> = oneshot::Sender<Result<T, ServeError>>;

/// A write to this replica.
#[derive(Debug)]
pub(crate) enum Op {
    /// Coordinate a new version here.
    Mint(Mint, ReplyTo<Minted>),
    /// Merge a record of another replica.
    Apply(Apply, ReplyTo<()>),
    /// Make markers or marks, at these places, for a record that is here already.
    Hint(Slot, Vec<Slot>, ReplyTo<()>),
    /// A hint was delivered.
    HintDone(HintDone, ReplyTo<()>),
    /// A step towards dropping a dead record.
    Reap(Reap, ReplyTo<bool>),
    /// Remove versions that the other owners have dropped.
    Forget(Forget, ReplyTo<bool>),
}

/// Versions that the other owners have dropped.
#[derive(Debug)]
pub(crate) struct Forget {
    /// The place of their record.
    pub(crate) slot: Slot,
    /// Their names.
    pub(crate) dots: Vec<Dot>,
}

/// A dead record that is to be dropped everywhere.
#[derive(Debug)]
pub(crate) struct Reap {
    /// Its place.
    pub(crate) slot: Slot,
    /// Its owners, for any of which there may be a hint.
    pub(crate) owners: Vec<NodeId>,
    /// The partition that it is in.
    pub(crate) partition: PartitionId,
    /// What this node is to do.
    pub(crate) step: Step,
    /// What the record has seen.
    pub(crate) seen: Context,
}

impl Reap {
    /// Where this node keeps the frontier that it belongs to.
    pub(crate) fn frontier(&self, node: NodeId) -> Slot {
        kept::frontier_slot(node, self.partition, record::namespace_of(&self.slot.key).unwrap_or_default())
    }
}

/// A part in dropping a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Agree to have nothing of it, and from now on to take nothing that it has seen.
    Bury,
    /// Agree to have just this record.
    Confirm {
        /// Its digest.
        digest: u64,
        /// Milliseconds for which all of it must have been dead.
        dead_ms: u64,
    },
    /// Drop it, whatever it says, if it still is this one: those who own it have it.
    Shed {
        /// Its digest.
        digest: u64,
    },
    /// Drop it, if it still is this one.
    Drop {
        /// Its digest.
        digest: u64,
        /// Milliseconds for which all of it must have been dead.
        dead_ms: u64,
    },
}

/// A new version to be named and stored.
#[derive(Debug)]
pub(crate) struct Mint {
    /// Its place.
    pub(crate) slot: Slot,
    /// What its writer has seen; `None` supersedes all that is here (last write wins).
    pub(crate) seen: Option<Context>,
    /// The client's name for the write.
    pub(crate) request: RequestId,
    /// The writer's own write before this one.
    pub(crate) after: Vec<RequestId>,
    /// Milliseconds since the Unix epoch from which on it is gone.
    pub(crate) expires_at: Option<u64>,
    /// The value; `None` deletes.
    pub(crate) value: Option<Bytes>,
    /// Places of the markers or marks for the owners, when this node is none of them and stands in for all.
    pub(crate) hints: Vec<Slot>,
}

/// A version that was named and stored.
#[derive(Debug, Clone)]
pub(crate) struct Minted {
    /// Its name.
    pub(crate) dot: Dot,
    /// The key's record, as it is to be on every replica.
    pub(crate) record: Bytes,
}

/// A record to be merged.
#[derive(Debug)]
pub(crate) struct Apply {
    /// Its place.
    pub(crate) slot: Slot,
    /// The record.
    pub(crate) record: Bytes,
    /// Places of the markers or marks for the owners that this node stands in for.
    pub(crate) hints: Vec<Slot>,
    /// Whether it is done before it is on disk: whoever wants it there flushes the storage.
    pub(crate) unsynced: bool,
}

/// A hint that reached its owner, by its own marker or by a mark.
#[derive(Debug)]
pub(crate) struct HintDone {
    /// The place of the record; [all of a bucket](marker::all_of) when all that its mark speaks of has arrived.
    pub(crate) slot: Slot,
    /// The owner that has it now.
    pub(crate) target: NodeId,
    /// The digest in the marker when the record was read for delivery; a renewed marker stays.
    pub(crate) marked: u64,
    /// The digest of the record that was delivered, `None` where there was none; a later record stays.
    pub(crate) delivered: Option<u64>,
    /// All owners, when this node is none of them: the record goes with its last hint, also one that cannot be read.
    pub(crate) drop_with: Option<Vec<NodeId>>,
}

impl Op {
    /// What it is, for traces.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Mint(..) => "mint",
            Self::Apply(..) => "apply",
            Self::Hint(..) => "hint",
            Self::HintDone(..) => "hint_done",
            Self::Reap(..) => "reap",
            Self::Forget(..) => "forget",
        }
    }

    /// Whether it is a put that nobody waits for any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        matches!(self, Self::Mint(_, reply) if reply.is_closed())
    }

    /// Whether it may be done before it is on disk. What is dropped since others own it is dropped again if it comes back.
    pub(crate) fn may_be_unsynced(&self) -> bool {
        match self {
            Self::Apply(apply, _) => apply.unsynced,
            Self::Reap(reap, _) => matches!(reap.step, Step::Shed { .. }),
            Self::Mint(..) | Self::Hint(..) | Self::HintDone(..) | Self::Forget(..) => false,
        }
    }

    /// Places this operation reads at most.
    pub(crate) fn slots(&self) -> usize {
        1 + match self {
            Self::Mint(mint, _) => mint.hints.len(),
            Self::Apply(apply, _) => apply.hints.len(),
            Self::Hint(_, hints, _) => hints.len(),
            Self::Reap(reap, _) => 1 + reap.owners.len(),
            Self::Forget(..) => 0,
            Self::HintDone(done, _) => 2 + done.drop_with.as_ref().map_or(0, |owners| 2 * owners.len()),
        }
    }

    /// Bytes this operation holds in memory.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Mint(mint, _) => mint.value.as_ref().map_or(0, Bytes::len) + mint.slot.key.len(),
            Self::Apply(apply, _) => apply.record.len() + apply.slot.key.len(),
            Self::Hint(slot, ..) => slot.key.len(),
            Self::HintDone(done, _) => done.slot.key.len(),
            Self::Reap(reap, _) => reap.slot.key.len() + reap.seen.len() * size_of::<(Dot, u64)>(),
            Self::Forget(forget, _) => forget.slot.key.len() + forget.dots.len() * size_of::<Dot>(),
        }
    }
}
