//! What a reader makes of concurrent values. Pure; nothing is written back: the next write under the context of the read
//! replaces them all.

use std::collections::BTreeSet;
use std::fmt;

use bytes::{Bytes, BytesMut};

use crate::client::{Found, Sibling};

/// Makes of the siblings of a key what its readers get to see. Set with [`crate::client::Client::with_resolver`].
pub trait Resolve: fmt::Debug + Send + Sync + 'static {
    /// What to make of these siblings, of which there are two or more. Whatever the order they come in, the result should be
    /// the same, so that all readers agree.
    fn resolve(&self, key: &[u8], siblings: Vec<Sibling>) -> Vec<Sibling>;
}

/// Keeps all siblings, as clients without a resolver do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeepAll;

impl Resolve for KeepAll {
    fn resolve(&self, _key: &[u8], siblings: Vec<Sibling>) -> Vec<Sibling> {
        siblings
    }
}

/// Keeps the sibling that was written last, by the nodes' clocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LastWriteWins;

impl Resolve for LastWriteWins {
    fn resolve(&self, _key: &[u8], siblings: Vec<Sibling>) -> Vec<Sibling> {
        siblings.into_iter().max_by_key(|sibling| (sibling.stamp, sibling.dot)).into_iter().collect()
    }
}

/// Takes values for sets, written as their members with a separator between, and joins them: what any sibling has stays. A
/// member that one writer took out while another wrote comes back, as in the paper's shopping cart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnionOfSets {
    /// The byte between members, which no member contains.
    pub separator: u8,
}

impl Default for UnionOfSets {
    fn default() -> Self {
        Self { separator: b'\n' }
    }
}

impl UnionOfSets {
    /// The members of a set; empty ones are left out.
    pub fn members(&self, value: &Bytes) -> BTreeSet<Bytes> {
        let parts = value.split(|byte| *byte == self.separator).filter(|member| !member.is_empty());
        parts.map(|member| value.slice_ref(member)).collect()
    }

    /// The set of these members, in order.
    pub fn value(&self, members: &BTreeSet<Bytes>) -> Bytes {
        let mut value = BytesMut::new();
        for member in members {
            if !value.is_empty() {
                value.extend_from_slice(&[self.separator]);
            }
            value.extend_from_slice(member);
        }
        value.freeze()
    }
}

impl Resolve for UnionOfSets {
    /// The union has name and stamp of the last write, and lives as long as the sibling that lives longest.
    fn resolve(&self, _key: &[u8], siblings: Vec<Sibling>) -> Vec<Sibling> {
        let members = siblings.iter().flat_map(|sibling| self.members(&sibling.value)).collect();
        let expires_at = siblings.iter().map(|sibling| sibling.expires_at.unwrap_or(u64::MAX)).max();
        let last = siblings.into_iter().max_by_key(|sibling| (sibling.stamp, sibling.dot));
        let expires_at = expires_at.filter(|at| *at < u64::MAX);
        last.map(|last| Sibling { value: self.value(&members), expires_at, ..last }).into_iter().collect()
    }
}

/// What a resolver makes of what was found.
pub(crate) fn apply(resolver: Option<&dyn Resolve>, key: &[u8], mut found: Found) -> Found {
    if let Some(resolver) = resolver.filter(|_| found.siblings.len() > 1) {
        found.siblings = resolver.resolve(key, found.siblings);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Epoch, NodeId};
    use crate::version::{Actor, Dot, Stamp};

    fn sibling(value: &'static str, counter: u64, expires_at: Option<u64>) -> Sibling {
        let dot = Dot { actor: Actor { node: NodeId(1), epoch: Epoch(1) }, counter };
        Sibling { value: Bytes::from_static(value.as_bytes()), expires_at, dot, stamp: Stamp::default() }
    }

    fn resolved(resolver: &impl Resolve, siblings: &[Sibling]) -> Vec<Sibling> {
        let forth = resolver.resolve(b"k", siblings.to_vec());
        let back = resolver.resolve(b"k", siblings.iter().rev().cloned().collect());
        if forth.len() == 1 {
            assert_eq!(forth, back, "the result depends on the order");
        }
        forth
    }

    #[test]
    fn the_built_in_resolvers_keep_all_the_last_or_the_union() {
        let siblings = [sibling("milk\napples", 1, Some(7)), sibling("milk\npears\n", 2, Some(5))];
        assert_eq!(resolved(&KeepAll, &siblings), siblings);
        assert_eq!(resolved(&LastWriteWins, &siblings), siblings[1..]);
        let union = resolved(&UnionOfSets::default(), &siblings);
        assert_eq!(union[0].value, "apples\nmilk\npears");
        assert_eq!(union[0].expires_at, Some(7));
        let lasting = [siblings[0].clone(), sibling("x", 3, None)];
        assert_eq!(resolved(&UnionOfSets::default(), &lasting)[0].expires_at, None);
    }

    #[test]
    fn a_single_value_is_left_as_it_is() {
        let found = Found { siblings: vec![sibling("b\na", 1, None)], ..Found::default() };
        assert_eq!(apply(Some(&UnionOfSets::default()), b"k", found.clone()), found);
    }
}
