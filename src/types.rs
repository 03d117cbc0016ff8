//! The small nouns that everything speaks of: nodes, namespaces, partitions, quorums, policies.
//!
//! Each is checked when it is built and cannot be wrong afterwards. Nothing here does I/O.

mod partition;

pub use partition::Bucket;
pub use partition::PartitionId;
pub use partition::Partitions;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use crate::limits;

/// Why a name or number was refused; the text says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {given:?} is not valid: {allowed}")]
pub struct Invalid {
    what: &'static str,
    given: String,
    allowed: String,
}

impl Invalid {
    /// Describes a refused value.
    pub fn new(what: &'static str, given: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self { what, given: given.into(), allowed: allowed.into() }
    }
}

/// Defines a checked, cheaply cloned name.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:ident, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes the text.
            ///
            /// # Errors
            /// [`Invalid`] says what is allowed.
            pub fn new(text: impl AsRef<str>) -> Result<Self, Invalid> {
                let text = text.as_ref();
                if $check(text) {
                    Ok(Self(Arc::from(text)))
                } else {
                    Err(Invalid::new($what, text, $allowed))
                }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = Invalid;
            fn from_str(text: &str) -> Result<Self, Invalid> {
                Self::new(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

fn is_label(text: &str, longest: usize) -> bool {
    !text.is_empty()
        && text.len() <= longest
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
}

fn is_node_name(text: &str) -> bool {
    // A node's name is a DNS label, so that any certificate authority can put it into a certificate.
    is_label(text, limits::NODE_NAME_MAX) && !text.contains('_') && !text.starts_with('-') && !text.ends_with('-')
}

fn is_namespace(text: &str) -> bool {
    is_label(text, limits::NAMESPACE_NAME_MAX)
}

fn is_zone(text: &str) -> bool {
    is_label(text, limits::ZONE_NAME_MAX)
}

fn is_cluster_name(text: &str) -> bool {
    is_label(text, limits::CLUSTER_NAME_MAX)
}

name!(
    /// The name of a node: a DNS label, unique in its cluster.
    NodeName,
    "node name",
    is_node_name,
    "1 to 63 of a-z, 0-9 and '-', not beginning or ending with '-'"
);
name!(
    /// The name of a namespace, which carries N, R, W, conflict policy and expiry of its keys.
    Namespace,
    "namespace",
    is_namespace,
    "1 to 64 of a-z, 0-9, '-' and '_'"
);
name!(
    /// The failure zone of a node (rack, hall, region): replicas are spread over zones.
    Zone,
    "zone",
    is_zone,
    "1 to 64 of a-z, 0-9, '-' and '_'"
);
name!(
    /// The name of a cluster, fixed at its creation: nodes and clients of another cluster are refused, and the
    /// hash space is keyed by it.
    ClusterName,
    "cluster name",
    is_cluster_name,
    "1 to 64 of a-z, 0-9, '-' and '_'"
);

impl Namespace {
    /// The name of the namespace that is used where none is given.
    pub const DEFAULT: &'static str = "default";
}

impl Default for Namespace {
    fn default() -> Self {
        Self(Arc::from(Self::DEFAULT))
    }
}

/// A node, as the machinery knows it: the hash of its name (see [`crate::hash::ClusterHash::node_id`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u64);

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The life of a node's storage: it changes whenever the storage may have lost writes, so that no dot is ever
/// issued twice (DESIGN "Versions"; Riak's kv679).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// The number of one request of a client, drawn by it and carried to every node that takes part, so that their logs can be
/// laid side by side. It decides nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TraceId(pub u64);

impl TraceId {
    /// Of work that no request asked for.
    pub const NONE: Self = Self(0);
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// How many replicas must take part in one read or write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Consistency {
    /// One replica.
    One,
    /// More than half of the N replicas.
    Quorum,
    /// All N replicas.
    All,
    /// Exactly this many.
    Count(u8),
}

impl Consistency {
    /// The number of replicas out of `n`.
    ///
    /// # Errors
    /// When a count is zero or above `n`.
    pub fn needed(self, n: u8) -> Result<u8, Invalid> {
        match self {
            Self::One => Ok(1),
            Self::Quorum => Ok(n / 2 + 1),
            Self::All => Ok(n),
            Self::Count(count) if count >= 1 && count <= n => Ok(count),
            Self::Count(count) => {
                Err(Invalid::new("replica count", count.to_string(), format!("1 to {n}, the N of the namespace")))
            }
        }
    }

    /// The same, with a count lowered to `n` where it is above.
    #[must_use]
    pub fn within(self, n: u8) -> Self {
        if let Self::Count(count) = self { Self::Count(count.min(n)) } else { self }
    }
}

impl FromStr for Consistency {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "one" => Ok(Self::One),
            "quorum" => Ok(Self::Quorum),
            "all" => Ok(Self::All),
            number => match number.parse::<u8>() {
                Ok(count) if count > 0 && usize::from(count) <= limits::REPLICAS_MAX => Ok(Self::Count(count)),
                _ => Err(Invalid::new(
                    "consistency",
                    text,
                    format!("one, quorum, all, or a number from 1 to {}", limits::REPLICAS_MAX),
                )),
            },
        }
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One => f.write_str("one"),
            Self::Quorum => f.write_str("quorum"),
            Self::All => f.write_str("all"),
            Self::Count(count) => write!(f, "{count}"),
        }
    }
}

/// What must hold of a key for a write of it to happen. Writes with conditions exclude each other; writes without one are
/// not held up by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// The key has no value.
    IfAbsent,
    /// Nothing was written to the key that the write's context has not seen.
    IfCurrent,
}

/// What becomes of concurrent writes to one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConflictPolicy {
    /// All are kept as siblings; a put supersedes just what its causal context has seen.
    #[default]
    Siblings,
    /// The one with the latest hybrid logical stamp is read; a put supersedes all its coordinator has.
    LastWriteWins,
}

impl FromStr for ConflictPolicy {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "siblings" => Ok(Self::Siblings),
            "last-write-wins" => Ok(Self::LastWriteWins),
            _ => Err(Invalid::new("conflict policy", text, "siblings or last-write-wins")),
        }
    }
}

impl fmt::Display for ConflictPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Siblings => "siblings",
            Self::LastWriteWins => "last-write-wins",
        })
    }
}

/// How many copies there are of each key of a namespace, by the placement in force and by the next. The two differ only
/// while the number is being changed. Namespaces of which both are equal have the same owners, now and next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Copies {
    /// By the placement in force.
    pub now: u8,
    /// By the next one.
    pub next: u8,
}

impl Copies {
    /// A number that stays as it is.
    pub fn settled(n: u8) -> Self {
        Self { now: n, next: n }
    }

    /// Whether the number is being changed.
    pub fn is_changing(self) -> bool {
        self.now != self.next
    }
}

impl fmt::Display for Copies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_changing() {
            true => write!(f, "{} to {}", self.now, self.next),
            false => write!(f, "{}", self.now),
        }
    }
}

/// How the keys of one namespace are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespacePolicy {
    /// Copies of each key.
    pub n: u8,
    /// Replicas that answer a read unless the request says otherwise.
    pub r: Consistency,
    /// Replicas that hold a write before it is acknowledged, unless the request says otherwise.
    pub w: Consistency,
    /// What becomes of concurrent writes.
    pub conflict: ConflictPolicy,
    /// Expiry of a put that names none.
    pub ttl: Option<Duration>,
    /// Whether a healthy node outside the preference list stands in for an owner that does not answer.
    pub sloppy: bool,
}

impl NamespacePolicy {
    /// The same with another number of copies. R and W as numbers are no more than that.
    #[must_use]
    pub fn with_copies(&self, n: u8) -> Self {
        Self { n, r: self.r.within(n), w: self.w.within(n), ..self.clone() }
    }

    /// Checks the numbers against each other.
    ///
    /// # Errors
    /// When N is out of bounds, or R or W are above N.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.n == 0 || usize::from(self.n) > limits::REPLICAS_MAX {
            return Err(Invalid::new("n", self.n.to_string(), format!("1 to {}", limits::REPLICAS_MAX)));
        }
        self.r.needed(self.n)?;
        self.w.needed(self.n)?;
        Ok(())
    }
}

impl Default for NamespacePolicy {
    fn default() -> Self {
        Self {
            n: 3,
            r: Consistency::Quorum,
            w: Consistency::Quorum,
            conflict: ConflictPolicy::Siblings,
            ttl: None,
            sloppy: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_when_built() {
        assert!(NodeName::new("n1").is_ok());
        for bad in ["", "N1", "a.b", "-a", "a-", "a_b", &"x".repeat(64)] {
            assert!(NodeName::new(bad).is_err(), "{bad:?} was taken");
        }
        assert_eq!(
            Namespace::new("a/b").unwrap_err().to_string(),
            "namespace \"a/b\" is not valid: 1 to 64 of a-z, 0-9, '-' and '_'"
        );
    }

    #[test]
    fn consistency_counts_replicas() {
        assert_eq!(Consistency::Quorum.needed(3), Ok(2));
        assert_eq!(Consistency::Quorum.needed(4), Ok(3));
        assert_eq!(Consistency::All.needed(5), Ok(5));
        assert!(Consistency::Count(4).needed(3).is_err());
        assert_eq!("2".parse(), Ok(Consistency::Count(2)));
        assert!("most".parse::<Consistency>().is_err());
    }
}
