//! Dots: the unique names of writes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::types::{Epoch, NodeId};

/// Who issues dots: a node in one life of its storage. The epoch changes whenever the storage may have forgotten
/// writes, so a counter that starts again can never name an old write anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Actor {
    /// The node that coordinated the write.
    pub node: NodeId,
    /// The life of its storage.
    pub epoch: Epoch,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.node, self.epoch)
    }
}

/// The unique name of one write to one key: the `counter`-th of this actor, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dot {
    /// Who issued it.
    pub actor: Actor,
    /// The actor's count for this key.
    pub counter: u64,
}

impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.actor, self.counter)
    }
}

/// The client's own name for one request, the same in every retry, so that a write that was applied but whose
/// reply was lost is recognised when it is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId {
    /// A random number of the client's session.
    pub client: u64,
    /// The count of requests in that session.
    pub sequence: u64,
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.client, self.sequence)
    }
}
