//! What reads return and writes take: siblings, causal contexts, options.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;

use crate::types::{Condition, Consistency, Invalid};
use crate::version::{Causality, Dot, Stamp};
use crate::wire::rpc::{GetDone, KeyContext, PutDone, SiblingInfo};

/// What a client has read of one key, to be carried into its next write of that key: the write then supersedes exactly
/// what was read. It is opaque and has a text form for the command line and for storing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct CausalContext(pub(crate) KeyContext);

impl CausalContext {
    /// Whether nothing was read: a write under it is concurrent with whatever is there.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether what was read under this one includes all that was read under the other: a read whose context covers that
    /// of an earlier read of the same key has not gone back behind it.
    pub fn covers(&self, other: &Self) -> bool {
        matches!(other.0.context.compare(&self.0.context), Causality::Before | Causality::Equal)
    }
}

impl fmt::Display for CausalContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = postcard::to_stdvec(&self.0).map_err(|_| fmt::Error)?;
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for CausalContext {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        let context = bytes.and_then(|bytes| postcard::from_bytes::<KeyContext>(&bytes).ok());
        let context = context.filter(KeyContext::is_valid);
        context.map(Self).ok_or_else(|| Invalid::new("causal context", text, "the text that a get or put returned"))
    }
}

/// One of the concurrent values of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sibling {
    /// The value.
    pub value: Bytes,
    /// Milliseconds since the Unix epoch from which on it is gone.
    pub expires_at: Option<u64>,
    /// The name of the write.
    pub dot: Dot,
    /// When it was coordinated.
    pub stamp: Stamp,
}

impl From<SiblingInfo> for Sibling {
    fn from(info: SiblingInfo) -> Self {
        Self { value: info.value.0, expires_at: info.expires_at, dot: info.dot, stamp: info.stamp }
    }
}

/// What a read found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The concurrent values: none when the key does not exist, one in the common case.
    pub siblings: Vec<Sibling>,
    /// What was read, to be carried into the next write. A deleted key has one too.
    pub context: CausalContext,
}

impl Found {
    /// The value, when there is exactly one.
    pub fn single(&self) -> Option<&Bytes> {
        match &self.siblings[..] {
            [one] => Some(&one.value),
            _ => None,
        }
    }

    /// Whether the key has a value.
    pub fn exists(&self) -> bool {
        !self.siblings.is_empty()
    }
}

impl From<GetDone> for Found {
    fn from(done: GetDone) -> Self {
        let siblings = done.siblings.into_iter().map(Sibling::from).collect();
        Self { siblings, context: CausalContext(done.context) }
    }
}

/// A write that was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// What the writer has seen now, its own write included. A write that met others which its writer had not seen may
    /// be missing here: the next write under this context then becomes its sibling, until somebody reads all of them.
    pub context: CausalContext,
    /// The name of the write.
    pub dot: Dot,
    /// Replicas that had it when it was acknowledged.
    pub acks: u8,
}

impl From<PutDone> for Written {
    fn from(done: PutDone) -> Self {
        Self { context: CausalContext(done.context), dot: done.dot, acks: done.acks }
    }
}

/// How to write. The default follows the namespace.
#[derive(Debug, Clone, Default)]
pub struct PutOptions {
    /// What was read before.
    pub context: CausalContext,
    /// Life of the value from now on.
    pub ttl: Option<Duration>,
    /// What must hold of the key for the write to happen; otherwise it fails with [`ClientError::Condition`]. Such a
    /// write needs a majority of the key's owners, whatever W is, and no stand-in counts.
    ///
    /// [`ClientError::Condition`]: crate::client::ClientError::Condition
    pub condition: Option<Condition>,
    /// Replicas that must have it before it is acknowledged.
    pub w: Option<Consistency>,
    /// Whether stand-ins may count.
    pub sloppy: Option<bool>,
    /// Time for the operation with all its retries.
    pub timeout: Option<Duration>,
}

impl PutOptions {
    /// A write that supersedes what was read.
    pub fn after(context: &CausalContext) -> Self {
        Self { context: context.clone(), ..Self::default() }
    }

    /// A write that happens only if the key has no value.
    pub fn if_absent() -> Self {
        Self { condition: Some(Condition::IfAbsent), ..Self::default() }
    }

    /// A write that supersedes what was read, and happens only if nothing was written since.
    pub fn if_current(context: &CausalContext) -> Self {
        Self { condition: Some(Condition::IfCurrent), ..Self::after(context) }
    }
}

/// How to read. The default follows the namespace.
#[derive(Debug, Clone, Default)]
pub struct GetOptions {
    /// Replicas that must answer.
    pub r: Option<Consistency>,
    /// Time for the operation with all its retries.
    pub timeout: Option<Duration>,
    /// Whether those replicas must also hold what is returned, before it is: what one of them lacks is written to it first, instead
    /// of afterwards. With R + W above N, no later read is then older than this one, also after a write that failed half way.
    pub strict: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Epoch, NodeId};
    use crate::version::{Actor, Context};

    #[test]
    fn contexts_have_a_text_form() {
        let actor = Actor { node: NodeId(7), epoch: Epoch(8) };
        let context = Context::from_entries(vec![(actor, 3)]).unwrap();
        let context = CausalContext(KeyContext { position: 9, context, wrote: Vec::new() });
        assert_eq!(context.to_string().parse(), Ok(context));
        assert!("junk".parse::<CausalContext>().is_err());
    }
}
