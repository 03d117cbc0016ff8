//! The cluster as one immutable value: members, namespaces, and the ring of each replica count in use.
//!
//! Nodes and clients compute it from the same [`ClusterInfo`], so they route alike. It says who owns what, never who is
//! alive.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::hash::ClusterHash;
use crate::layout::{Layout, Placement, Role, Stage};
use crate::limits;
use crate::ring::{Counts, Ring, RingError, RingMember};
use crate::types::{Invalid, Namespace, NamespacePolicy, NodeId, NodeName, PartitionId, Partitions};
use crate::wire::rpc::{ClusterInfo, MemberInfo};

/// Why a cluster's description makes no cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// Two members have one name, or names with the same hash.
    #[error("members {0} and {1} are the same node or have the same identifier: rename one")]
    SameNode(NodeName, NodeName),
    /// The members make no ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// A namespace's numbers do not fit.
    #[error("namespace {0}: {1}")]
    Namespace(Namespace, Invalid),
    /// The layout has fewer partitions than the cluster was founded with.
    #[error(
        "{now} partitions in the layout, {founded} at the founding: cluster.partitions must be the same on all nodes"
    )]
    Partitions {
        /// By the layout.
        now: u32,
        /// By the configuration.
        founded: u32,
    },
    /// The members are not those of the layout.
    #[error("the members are not those who have a role in the layout of version {0}")]
    Layout(u64),
    /// There are more members than the limit.
    #[error("{0} members are more than the limit of {max}", max = limits::MEMBERS_MAX)]
    TooManyMembers(usize),
    /// There are more namespaces than the limit.
    #[error("{0} namespaces are more than the limit of {max}", max = limits::NAMESPACES_MAX)]
    TooManyNamespaces(usize),
}

/// The cluster, ready for routing.
#[derive(Debug, Clone)]
pub struct ClusterView {
    info: ClusterInfo,
    hash: ClusterHash,
    members: BTreeMap<NodeId, MemberInfo>,
    namespaces: BTreeMap<Namespace, NamespacePolicy>,
    rings: BTreeMap<u8, Ring>,
    /// While ownership changes, those of the owners that are written to as well.
    other: BTreeMap<u8, Ring>,
    digest: u64,
}

impl ClusterView {
    /// Computes the rings.
    ///
    /// # Errors
    /// [`ViewError`] when the description contradicts itself.
    pub fn new(info: ClusterInfo) -> Result<Self, ViewError> {
        if info.members.len() > limits::MEMBERS_MAX {
            return Err(ViewError::TooManyMembers(info.members.len()));
        }
        let mut members = BTreeMap::<NodeId, MemberInfo>::new();
        for member in &info.members {
            if let Some(twin) = members.insert(ClusterHash::node_id(&member.name), member.clone()) {
                return Err(ViewError::SameNode(twin.name, member.name.clone()));
            }
        }
        let expected = info.layout.members();
        if expected.len() != members.len() || info.members.iter().any(|member| !expected.contains_key(&member.name)) {
            return Err(ViewError::Layout(info.layout.version));
        }
        if info.namespaces.len() > limits::NAMESPACES_MAX {
            return Err(ViewError::TooManyNamespaces(info.namespaces.len()));
        }
        let partitions = info.layout.partitions();
        let fewest = info.layout.current.partitions.min(info.layout.last_placement().partitions);
        if fewest < info.partitions {
            return Err(ViewError::Partitions { now: fewest.count(), founded: info.partitions.count() });
        }
        let hash = ClusterHash::new(&info.cluster);
        let namespaces: BTreeMap<_, _> = info.namespaces.iter().cloned().collect();
        for (name, policy) in &namespaces {
            policy.check().map_err(|invalid| ViewError::Namespace(name.clone(), invalid))?;
        }
        let counts: BTreeSet<u8> = namespaces.values().map(|policy| policy.n).collect();
        let rings = |placement: &Placement| -> Result<BTreeMap<u8, Ring>, RingError> {
            let cuts = Counts { founded: info.partitions, placed: placement.partitions };
            let ring = |n: &u8| {
                let ring = Ring::new(hash, cuts, *n, placement.roles.iter().map(ring_member))?;
                Ok((*n, ring.cut_into(partitions)))
            };
            counts.iter().map(ring).collect()
        };
        let other = info.layout.other_placement().map(rings).transpose()?.unwrap_or_default();
        let rings = rings(info.layout.read_placement())?;
        let digest = digest(&hash, &info, &members, &namespaces);
        Ok(Self { info, hash, members, namespaces, rings, other, digest })
    }

    /// The description this was computed from.
    pub fn info(&self) -> &ClusterInfo {
        &self.info
    }

    /// A hash of all that is the same on every node: members in whatever order, namespaces, partitions.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The cluster's hashes.
    pub fn hash(&self) -> &ClusterHash {
        &self.hash
    }

    /// All members by identifier.
    pub fn members(&self) -> &BTreeMap<NodeId, MemberInfo> {
        &self.members
    }

    /// The name of a member; its identifier in hexadecimal, which is a valid name, for one that is not known.
    pub fn name_of(&self, node: NodeId) -> NodeName {
        match self.members.get(&node) {
            Some(member) => member.name.clone(),
            None => NodeName::new(node.to_string()).expect("hexadecimal digits are a label"),
        }
    }

    /// How a namespace's keys are kept. `None` when there is no such namespace.
    pub fn policy(&self, namespace: &Namespace) -> Option<&NamespacePolicy> {
        self.namespaces.get(namespace)
    }

    /// All namespaces in order.
    pub fn namespaces(&self) -> impl Iterator<Item = (&Namespace, &NamespacePolicy)> {
        self.namespaces.iter()
    }

    /// The ring for keys of which there are `n` copies: whom reads ask, and who coordinates. `None` when no namespace has
    /// that many.
    pub fn ring(&self, n: u8) -> Option<&Ring> {
        self.rings.get(&n)
    }

    /// While ownership changes, the ring by which writes go as well: that of the next owners, and then that of those
    /// before.
    pub fn other_ring(&self, n: u8) -> Option<&Ring> {
        self.other.get(&n)
    }

    /// The ring of the present owners, which that of [`ClusterView::ring`] is no more once reads ask the next ones.
    pub fn ring_before(&self, n: u8) -> Option<&Ring> {
        if self.info.layout.stage() == Some(Stage::Reading) { self.other_ring(n) } else { self.ring(n) }
    }

    /// The owners of a partition that are written to beside those of [`ClusterView::ring`], which a write has to reach a
    /// quorum of, too. Empty where there are no others.
    pub fn other_owners(&self, n: u8, partition: PartitionId) -> &[NodeId] {
        let Some(other) = self.other_ring(n).map(|ring| ring.preference_list(partition)) else { return &[] };
        let same = self.ring(n).is_some_and(|ring| same_set(ring.preference_list(partition), other));
        if same { &[] } else { other }
    }

    /// The version of the layout that this view is of.
    pub fn version(&self) -> u64 {
        self.info.layout.version
    }

    /// Who owns data, and who will.
    pub fn layout(&self) -> &Layout {
        &self.info.layout
    }

    /// How many partitions there are; both rings have so many.
    pub fn partitions(&self) -> Partitions {
        self.info.layout.partitions()
    }

    /// A key's position in the hash space and its partition.
    pub fn place(&self, namespace: &Namespace, key: &[u8]) -> (u64, PartitionId) {
        let position = self.hash.position(namespace, key);
        (position, self.partitions().of(position))
    }
}

fn same_set(one: &[NodeId], other: &[NodeId]) -> bool {
    one.len() == other.len() && one.iter().all(|node| other.contains(node))
}

/// How a member with this role is placed.
pub fn ring_member((name, role): (&NodeName, &Role)) -> RingMember {
    RingMember {
        id: ClusterHash::node_id(name),
        seat: ClusterHash::node_id(&role.seat),
        zone: role.zone.clone(),
        weight: role.weight,
    }
}

/// Who answers is left out, so that all nodes that know the same have the same digest.
fn digest(
    hash: &ClusterHash,
    info: &ClusterInfo,
    members: &BTreeMap<NodeId, MemberInfo>,
    namespaces: &BTreeMap<Namespace, NamespacePolicy>,
) -> u64 {
    let description = (info.partitions, members.values().collect::<Vec<_>>(), namespaces, &info.layout);
    hash.view(&postcard::to_stdvec(&description).expect("a description always encodes into memory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(members: &[&str], node: &str) -> ClusterInfo {
        let member = |name: &&str| MemberInfo {
            name: NodeName::new(*name).unwrap(),
            quic: format!("{name}:7400"),
            zone: "default".parse().unwrap(),
            weight: 100,
        };
        ClusterInfo {
            cluster: "test".parse().unwrap(),
            partitions: crate::types::Partitions::new(16).unwrap(),
            members: members.iter().map(member).collect(),
            namespaces: vec![(Namespace::default(), NamespacePolicy::default())],
            node: NodeName::new(node).unwrap(),
            layout: Layout::default(),
        }
        .founding()
    }

    #[test]
    fn the_digest_is_the_same_whoever_describes_the_cluster_and_another_for_another_cluster() {
        let digest = |info| ClusterView::new(info).unwrap().digest();
        let first = digest(info(&["a", "b", "c"], "a"));
        assert_eq!(first, digest(info(&["c", "a", "b"], "b")));
        assert_ne!(first, digest(info(&["a", "b"], "a")));
        let mut moved = info(&["a", "b", "c"], "a");
        moved.members[1].quic = "elsewhere:7400".to_owned();
        assert_ne!(first, digest(moved));
    }

    /// A cluster of four that becomes one of four others, but for one.
    fn changing(stage: Option<Stage>) -> ClusterView {
        let named = |names: [&str; 4]| info(&names, "a").layout.current;
        let mut info = info(&["a", "b", "c", "d"], "a");
        let next = stage.map(|stage| crate::layout::Next {
            since: 1,
            placement: named(["d", "e", "f", "g"]),
            stage,
            dead: BTreeSet::new(),
        });
        info.layout.next = next;
        ClusterView::new(info.by(info.layout.clone())).unwrap()
    }

    #[test]
    fn while_ownership_changes_reads_go_by_one_ring_and_writes_by_the_other_as_well() {
        let settled = changing(None);
        let now = settled.ring(3).unwrap().clone();
        assert_eq!((settled.other_ring(3), settled.ring_before(3)), (None, Some(&now)));
        assert!(now.partitions().iter().all(|partition| settled.other_owners(3, partition).is_empty()));
        for stage in [Stage::Spreading, Stage::Copying] {
            let view = changing(Some(stage));
            assert_eq!((view.ring(3), view.ring_before(3)), (Some(&now), Some(&now)), "{stage:?}");
            let next = view.other_ring(3).unwrap();
            for partition in now.partitions().iter() {
                assert_eq!(view.other_owners(3, partition), next.preference_list(partition));
            }
        }
        let reading = changing(Some(Stage::Reading));
        assert_eq!((reading.other_ring(3), reading.ring_before(3)), (Some(&now), Some(&now)));
        assert_eq!(reading.ring(3), changing(Some(Stage::Copying)).other_ring(3));
        assert_eq!(reading.members().len(), 7);
        assert!(reading.ring(4).is_none() && reading.other_owners(4, now.partitions().nth(0)).is_empty());
    }

    #[test]
    fn owners_that_stay_the_same_are_written_to_once() {
        let mut info = info(&["a", "b", "c"], "a");
        let mut placement = info.layout.current.clone();
        placement.roles.get_mut(&NodeName::new("a").unwrap()).unwrap().weight = 90;
        let stage = Stage::Spreading;
        info.layout.next = Some(crate::layout::Next { since: 1, placement, stage, dead: BTreeSet::new() });
        let view = ClusterView::new(info).unwrap();
        let (now, other) = (view.ring(3).unwrap(), view.other_ring(3).unwrap());
        assert_ne!(now, other);
        assert!(now.partitions().iter().all(|partition| view.other_owners(3, partition).is_empty()));
    }

    #[test]
    fn members_that_are_not_those_of_the_layout_make_no_view() {
        let mut info = info(&["a", "b", "c"], "a");
        info.members.pop();
        assert_eq!(ClusterView::new(info).unwrap_err(), ViewError::Layout(0));
    }
}
