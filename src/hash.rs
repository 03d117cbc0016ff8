//! The one place where SipHash keys live: positions in the hash space, record checksums, node identifiers, hash trees.
//!
//! All hashes of a cluster are keyed by its name, so that nobody who does not know it can prepare colliding keys,
//! and each use has a domain of its own, so that equal bytes in two uses give unrelated hashes.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;
use siphasher::sip128::{Hasher128, SipHasher13 as SipHasher13x128};

use crate::types::{ClusterName, Namespace, NodeId, NodeName};

/// SipHash key for turning a cluster's name into its own key; any fixed value serves.
const ROOT_KEY: (u64, u64) = (0x6479_6e61_6d6f_6d69, 0x6e69_2d72_6f6f_7431);

#[derive(Clone, Copy)]
#[repr(u8)]
enum Domain {
    Position = 1,
    Checksum = 2,
    Placement = 3,
    Cluster = 4,
    View = 5,
    TreeKey = 6,
    TreeItem = 7,
}

/// The keyed hashes of one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterHash {
    key: (u64, u64),
}

impl ClusterHash {
    /// Derives the key from the cluster's name.
    pub fn new(cluster: &ClusterName) -> Self {
        let mut hasher = SipHasher13x128::new_with_keys(ROOT_KEY.0, ROOT_KEY.1);
        hasher.write(cluster.as_str().as_bytes());
        let hash = hasher.finish128();
        Self { key: (hash.h1, hash.h2) }
    }

    /// The identifier of the node with this name. It does not depend on the cluster: tools may compute it alone.
    pub fn node_id(name: &NodeName) -> NodeId {
        let mut hasher = SipHasher13::new_with_keys(ROOT_KEY.0, ROOT_KEY.1);
        hasher.write(name.as_str().as_bytes());
        NodeId(hasher.finish())
    }

    /// Where a key lies in the hash space.
    pub fn position(&self, namespace: &Namespace, key: &[u8]) -> u64 {
        self.position_in(namespace.as_str(), key)
    }

    /// The same for the namespace with this name.
    pub fn position_in(&self, namespace: &str, key: &[u8]) -> u64 {
        self.parts(Domain::Position, &[namespace.as_bytes(), key])
    }

    /// The checksum of a record's body, bound to the storage key that it belongs to, so that a record that was
    /// misplaced is as damaged as one with a flipped bit.
    pub fn checksum(&self, storage_key: &[u8], body: &[u8]) -> u64 {
        self.parts(Domain::Checksum, &[storage_key, body])
    }

    /// A score for placement decisions: unrelated numbers for each (partition, node, salt).
    pub fn placement(&self, partition: u32, node: NodeId, salt: u32) -> u64 {
        let mut hasher = self.hasher(Domain::Placement);
        hasher.write(&partition.to_le_bytes());
        hasher.write(&node.0.to_le_bytes());
        hasher.write(&salt.to_le_bytes());
        hasher.finish()
    }

    /// A number that stands for the cluster where its name would be too long: members of others are told by it.
    pub fn cluster_id(&self) -> u64 {
        self.hasher(Domain::Cluster).finish()
    }

    /// The digest of a cluster's description, by which two sides find out whether they hold the same.
    pub fn view(&self, description: &[u8]) -> u64 {
        self.parts(Domain::View, &[description])
    }

    /// Where a stored key lies among the leaves of a hash tree; unrelated to its position.
    pub fn tree_key(&self, storage_key: &[u8]) -> u64 {
        self.parts(Domain::TreeKey, &[storage_key])
    }

    /// What a record with this digest, under the key with this [`ClusterHash::tree_key`], adds to its leaf. Sums of such
    /// numbers are equal, but for an accident of 1 in 2^128, only for equal sets of records.
    pub fn tree_item(&self, tree_key: u64, digest: u64) -> u128 {
        let mut hasher = SipHasher13x128::new_with_keys(self.key.0 ^ (Domain::TreeItem as u64), self.key.1);
        hasher.write(&tree_key.to_le_bytes());
        hasher.write(&digest.to_le_bytes());
        hasher.finish128().as_u128()
    }

    fn hasher(&self, domain: Domain) -> SipHasher13 {
        SipHasher13::new_with_keys(self.key.0 ^ (domain as u64), self.key.1)
    }

    /// Hashes the parts with their lengths, so that bytes cannot wander from one part to the next.
    fn parts(&self, domain: Domain, parts: &[&[u8]]) -> u64 {
        let mut hasher = self.hasher(domain);
        for part in parts {
            hasher.write(&(part.len() as u64).to_le_bytes());
            hasher.write(part);
        }
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(name: &str) -> ClusterHash {
        ClusterHash::new(&ClusterName::new(name).unwrap())
    }

    #[test]
    fn hashes_are_pinned_because_data_on_disk_depends_on_them() {
        let hash = hash("demo");
        let got = [
            hash.position(&Namespace::default(), b"key"),
            hash.checksum(b"key", b"body"),
            hash.placement(1, NodeId(2), 3),
            ClusterHash::node_id(&NodeName::new("n1").unwrap()).0,
            hash.tree_key(b"key"),
        ];
        assert_eq!(got, PINNED, "{got:#x?}");
    }

    const PINNED: [u64; 5] = [
        0x48da_457a_074e_06ea,
        0x71be_cc5f_42fb_478f,
        0x2dd2_0241_d61d_2ea9,
        0x6a20_6243_5a2d_75a3,
        0x03a9_3ffa_1edf_ad90,
    ];

    #[test]
    fn clusters_domains_and_part_borders_are_apart() {
        let (a, b) = (hash("a"), hash("b"));
        let ns = Namespace::default();
        assert_ne!(a.position(&ns, b"k"), b.position(&ns, b"k"));
        assert_ne!(a.checksum(b"ab", b"c"), a.checksum(b"a", b"bc"));
        assert_ne!(a.position(&Namespace::new("xa").unwrap(), b"b"), a.position(&Namespace::new("x").unwrap(), b"ab"));
    }
}
