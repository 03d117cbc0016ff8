//! The cluster as one immutable value: members, namespaces, and the ring of each replica count in use.
//!
//! Nodes and clients compute it from the same [`ClusterInfo`], so they route alike. It says who owns what, never who is
//! alive.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::hash::ClusterHash;
use crate::layout::{Change, ChangeError, Layout, Placement, Role};
use crate::limits;
use crate::ring::{Counts, Ring, RingError, RingMember};
use crate::types::{Copies, Invalid, Namespace, NamespacePolicy, NodeId, NodeName, PartitionId, Partitions};
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
    copies: BTreeMap<Namespace, Copies>,
    /// Each value of those once.
    all_copies: BTreeSet<Copies>,
    /// By the number of copies that reads go by.
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
        Self::with(info, &[])
    }

    /// The same cluster by another description. Rings that are as they were are not computed again, so that the stages of a
    /// change, and a member's new address, cost little.
    ///
    /// # Errors
    /// As [`ClusterView::new`].
    pub fn becoming(&self, info: ClusterInfo) -> Result<Self, ViewError> {
        let known: Vec<&Ring> = self.rings.values().chain(self.other.values()).collect();
        Self::with(info, &known)
    }

    fn with(info: ClusterInfo, known: &[&Ring]) -> Result<Self, ViewError> {
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
        let (mut namespaces, mut copies) = (BTreeMap::new(), BTreeMap::new());
        for (name, policy) in &info.namespaces {
            policy.check().map_err(|invalid| ViewError::Namespace(name.clone(), invalid))?;
            let of = info.layout.copies(name, policy.n);
            namespaces.insert(name.clone(), policy.with_copies(read_number(&info.layout, of)));
            copies.insert(name.clone(), of);
        }
        let all_copies: BTreeSet<Copies> = copies.values().copied().collect();
        let rings = |placement: &Placement, number: fn(&Layout, Copies) -> u8| -> Result<_, RingError> {
            let counts: BTreeSet<u8> = all_copies.iter().map(|copies| number(&info.layout, *copies)).collect();
            let cuts = Counts { founded: info.partitions, placed: placement.partitions };
            let members: Vec<RingMember> = placement.roles.iter().map(ring_member).collect();
            let ring = |n: u8| {
                let same = |ring: &&&Ring| ring.partitions() == partitions && ring.is_of(&hash, cuts, n, &members);
                let ring = match known.iter().find(same) {
                    Some(ring) => Ring::clone(ring),
                    None => Ring::new(hash, cuts, n, members.iter().cloned())?.cut_into(partitions),
                };
                Ok((n, ring))
            };
            counts.into_iter().map(ring).collect()
        };
        let other = info.layout.other_placement().map(|other| rings(other, other_number));
        let other = other.transpose()?.unwrap_or_default();
        let rings = rings(info.layout.read_placement(), read_number)?;
        let digest = digest(&hash, &info, &members, &namespaces);
        Ok(Self { info, hash, members, namespaces, copies, all_copies, rings, other, digest })
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

    /// How a namespace's keys are kept, with the copies that reads go by. `None` when there is no such namespace.
    pub fn policy(&self, namespace: &Namespace) -> Option<&NamespacePolicy> {
        self.namespaces.get(namespace)
    }

    /// The same with the copies that writes go by as well while the number is being changed.
    pub fn other_policy(&self, namespace: &Namespace) -> Option<NamespacePolicy> {
        Some(self.policy(namespace)?.with_copies(other_number(self.layout(), self.copies(namespace)?)))
    }

    /// All namespaces in order.
    pub fn namespaces(&self) -> impl Iterator<Item = (&Namespace, &NamespacePolicy)> {
        self.namespaces.iter()
    }

    /// The copies of a namespace's keys. `None` when there is no such namespace.
    pub fn copies(&self, namespace: &Namespace) -> Option<Copies> {
        self.copies.get(namespace).copied()
    }

    /// The copies of each namespace, in order.
    pub fn copies_of_each(&self) -> impl Iterator<Item = (&Namespace, Copies)> {
        self.copies.iter().map(|(namespace, copies)| (namespace, *copies))
    }

    /// All that there are of copies, each once.
    pub fn all_copies(&self) -> impl Iterator<Item = Copies> {
        self.all_copies.iter().copied()
    }

    /// Namespaces that are configured with another number of copies than the layout gives them, with both.
    pub fn overruled(&self) -> impl Iterator<Item = (&Namespace, u8, u8)> {
        self.info.namespaces.iter().filter_map(|(name, policy)| {
            let next = self.copies(name)?.next;
            (next != policy.n).then_some((name, policy.n, next))
        })
    }

    /// Whether the namespaces, as they are configured, allow a change.
    ///
    /// # Errors
    /// [`ChangeError`] says why they do not.
    pub fn check_change(&self, change: &Change) -> Result<(), ChangeError> {
        let Change::Copies { namespace, n } = change else { return Ok(()) };
        let configured = self.info.namespaces.iter().find(|(name, _)| name == namespace);
        let (_, policy) = configured.ok_or_else(|| ChangeError::NotANamespace(namespace.clone()))?;
        for (letter, level) in [('R', policy.r), ('W', policy.w)] {
            if level.within(*n) != level {
                return Err(ChangeError::Above { namespace: namespace.clone(), letter, level, n: *n });
            }
        }
        Ok(())
    }

    /// The ring for keys of which there are so many copies: whom reads ask, and who coordinates. `None` when no namespace
    /// has so many.
    pub fn ring(&self, copies: Copies) -> Option<&Ring> {
        self.of(&self.rings, copies, read_number)
    }

    /// While ownership changes, the ring by which writes go as well: that of the next owners, and then that of those
    /// before.
    pub fn other_ring(&self, copies: Copies) -> Option<&Ring> {
        self.of(&self.other, copies, other_number)
    }

    fn of<'a>(
        &self,
        rings: &'a BTreeMap<u8, Ring>,
        copies: Copies,
        number: fn(&Layout, Copies) -> u8,
    ) -> Option<&'a Ring> {
        if self.all_copies.contains(&copies) { rings.get(&number(self.layout(), copies)) } else { None }
    }

    /// The ring of the present owners, which that of [`ClusterView::ring`] is no more once reads ask the next ones.
    pub fn ring_before(&self, copies: Copies) -> Option<&Ring> {
        if self.layout().reads_next() { self.other_ring(copies) } else { self.ring(copies) }
    }

    /// The rings that reads go by, one for each number of copies.
    pub fn rings(&self) -> impl Iterator<Item = &Ring> {
        self.rings.values()
    }

    /// The owners of a partition that are written to beside those of [`ClusterView::ring`], which a write has to reach a
    /// quorum of, too. Empty where there are no others.
    pub fn other_owners(&self, copies: Copies, partition: PartitionId) -> &[NodeId] {
        let Some(other) = self.other_ring(copies).map(|ring| ring.preference_list(partition)) else { return &[] };
        let same = self.ring(copies).is_some_and(|ring| same_set(ring.preference_list(partition), other));
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

/// How many copies reads go by.
fn read_number(layout: &Layout, copies: Copies) -> u8 {
    if layout.reads_next() { copies.next } else { copies.now }
}

/// How many copies the other placement has, which writes go by as well.
fn other_number(layout: &Layout, copies: Copies) -> u8 {
    if layout.reads_next() { copies.now } else { copies.next }
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
    use crate::layout::{Next, Stage};

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
        let next =
            stage.map(|stage| Next { since: 1, placement: named(["d", "e", "f", "g"]), stage, dead: BTreeSet::new() });
        info.layout.next = next;
        ClusterView::new(info.by(info.layout.clone())).unwrap()
    }

    #[test]
    fn while_ownership_changes_reads_go_by_one_ring_and_writes_by_the_other_as_well() {
        let settled = changing(None);
        let now = settled.ring(Copies::settled(3)).unwrap().clone();
        assert_eq!(
            (settled.other_ring(Copies::settled(3)), settled.ring_before(Copies::settled(3))),
            (None, Some(&now))
        );
        assert!(
            now.partitions().iter().all(|partition| settled.other_owners(Copies::settled(3), partition).is_empty())
        );
        for stage in [Stage::Spreading, Stage::Copying] {
            let view = changing(Some(stage));
            assert_eq!(
                (view.ring(Copies::settled(3)), view.ring_before(Copies::settled(3))),
                (Some(&now), Some(&now)),
                "{stage:?}"
            );
            let next = view.other_ring(Copies::settled(3)).unwrap();
            for partition in now.partitions().iter() {
                assert_eq!(view.other_owners(Copies::settled(3), partition), next.preference_list(partition));
            }
        }
        let reading = changing(Some(Stage::Reading));
        assert_eq!(
            (reading.other_ring(Copies::settled(3)), reading.ring_before(Copies::settled(3))),
            (Some(&now), Some(&now))
        );
        assert_eq!(reading.ring(Copies::settled(3)), changing(Some(Stage::Copying)).other_ring(Copies::settled(3)));
        assert_eq!(reading.members().len(), 7);
        let (none, first) = (Copies::settled(4), now.partitions().nth(0));
        assert!(reading.ring(none).is_none() && reading.other_owners(none, first).is_empty());
    }

    /// The rings of a view, both of each number of copies.
    fn rings(view: &ClusterView) -> Vec<(u8, Ring)> {
        view.rings.iter().chain(&view.other).map(|(n, ring)| (*n, ring.clone())).collect()
    }

    #[test]
    fn a_view_made_from_another_is_as_one_made_anew() {
        let apply = |layout: &Layout, change: Change| change.apply(layout).unwrap();
        let name = |name: &str| NodeName::new(name).unwrap();
        let founded = info(&["a", "b", "c", "d", "e"], "a");
        let staged = |stage, layout: &Layout| {
            let next = layout.next.clone().map(|next| Next { stage, ..next });
            Layout { next, ..layout.clone() }
        };
        let leave = apply(&founded.layout, Change::Leave { name: name("b") });
        let weight = apply(&founded.layout, Change::Weight { name: name("c"), weight: 50 });
        let split = Partitions::new(32).unwrap();
        let split = apply(&leave, Change::Split { partitions: split });
        let copies = apply(&split, Change::Copies { namespace: Namespace::default(), n: 2 });
        let layouts = [&founded.layout, &leave, &weight, &split, &copies].map(|layout| {
            let stages = [Stage::Spreading, Stage::Reading].map(|stage| staged(stage, layout));
            stages.into_iter().chain(layout.completed())
        });
        let views: Vec<ClusterView> =
            layouts.into_iter().flatten().map(|layout| ClusterView::new(founded.by(layout)).unwrap()).collect();
        for (from, to) in views.iter().flat_map(|from| views.iter().map(move |to| (from, to))) {
            let view = from.becoming(to.info().clone()).unwrap();
            assert_eq!((rings(&view), view.digest()), (rings(to), to.digest()));
        }
    }

    #[test]
    fn owners_that_stay_the_same_are_written_to_once() {
        let mut info = info(&["a", "b", "c"], "a");
        let mut placement = info.layout.current.clone();
        placement.roles.get_mut(&NodeName::new("a").unwrap()).unwrap().weight = 90;
        let stage = Stage::Spreading;
        info.layout.next = Some(Next { since: 1, placement, stage, dead: BTreeSet::new() });
        let view = ClusterView::new(info).unwrap();
        let (now, other) = (view.ring(Copies::settled(3)).unwrap(), view.other_ring(Copies::settled(3)).unwrap());
        assert_ne!(now, other);
        assert!(now.partitions().iter().all(|partition| view.other_owners(Copies::settled(3), partition).is_empty()));
    }

    #[test]
    fn members_that_are_not_those_of_the_layout_make_no_view() {
        let mut info = info(&["a", "b", "c"], "a");
        info.members.pop();
        assert_eq!(ClusterView::new(info).unwrap_err(), ViewError::Layout(0));
    }

    /// A cluster of so many nodes, whose namespace has `now` copies and is to have `next`.
    fn copying(nodes: usize, now: u8, next: u8, stage: Option<Stage>) -> ClusterView {
        let names: Vec<String> = (0..nodes).map(|number| format!("n{number}")).collect();
        let mut info = info(&names.iter().map(String::as_str).collect::<Vec<_>>(), "n0");
        info.layout.current.copies.insert(Namespace::default(), now);
        let mut placement = info.layout.current.clone();
        placement.copies.insert(Namespace::default(), next);
        info.layout.next = stage.map(|stage| Next { since: 1, placement, stage, dead: BTreeSet::new() });
        ClusterView::new(info).unwrap()
    }

    #[test]
    fn while_the_number_of_copies_changes_each_side_has_its_own_owners_and_quorums() {
        let namespace = Namespace::default();
        let needed = |policy: &NamespacePolicy| (policy.n, policy.w.needed(policy.n).unwrap());
        let sides = |stage| {
            let view = copying(6, 2, 5, Some(stage));
            let copies = view.copies(&namespace).unwrap();
            let lists = [view.ring(copies), view.other_ring(copies)].map(|ring| ring.unwrap().replicas());
            assert_eq!(view.ring_before(copies).unwrap().replicas(), 2);
            (needed(view.policy(&namespace).unwrap()), needed(&view.other_policy(&namespace).unwrap()), lists)
        };
        assert_eq!(sides(Stage::Copying), ((2, 2), (5, 3), [2, 5]));
        assert_eq!(sides(Stage::Reading), ((5, 3), (2, 2), [5, 2]));
        let view = copying(6, 2, 5, Some(Stage::Copying));
        assert!(view.ring(Copies::settled(2)).is_none(), "no namespace has that");
        // The configuration of this node says three.
        assert_eq!(view.overruled().collect::<Vec<_>>(), [(&namespace, 3, 5)]);
        assert_eq!(copying(6, 3, 3, None).overruled().count(), 0);
    }

    #[test]
    fn a_number_of_copies_below_what_the_configuration_asks_for_is_refused() {
        let mut info = info(&["a", "b", "c"], "a");
        info.namespaces[0].1.w = crate::types::Consistency::Count(3);
        let view = ClusterView::new(info).unwrap();
        let copies = |name: &str, n| view.check_change(&Change::Copies { namespace: Namespace::new(name).unwrap(), n });
        assert!(matches!(copies("default", 2), Err(ChangeError::Above { letter: 'W', n: 2, .. })));
        assert!(matches!(copies("elsewhere", 2), Err(ChangeError::NotANamespace(_))));
        assert_eq!(copies("default", 4), Ok(()));
    }

    /// By how many of whom a write is acknowledged, and a read answered.
    type Quorum<'a> = (usize, &'a [NodeId]);

    fn quorums(view: &ClusterView, partition: PartitionId) -> (Quorum<'_>, Vec<Quorum<'_>>) {
        let namespace = Namespace::default();
        let (copies, policy) = (view.copies(&namespace).unwrap(), view.policy(&namespace).unwrap());
        let of = |level: crate::types::Consistency, n, owners| (usize::from(level.needed(n).unwrap()), owners);
        let owners = view.ring(copies).unwrap().preference_list(partition);
        let other = view.other_policy(&namespace).unwrap();
        let others = view.other_ring(copies).map(|ring| of(other.w, other.n, ring.preference_list(partition)));
        (of(policy.r, policy.n, owners), [of(policy.w, policy.n, owners)].into_iter().chain(others).collect())
    }

    /// Coordinators work by one stage or the one after it: whatever either of them writes, the other one reads.
    #[test]
    fn quorums_of_neighbouring_stages_overlap_whatever_the_numbers_of_copies() {
        for (nodes, pair) in [2, 4, 6].into_iter().flat_map(|nodes| (0..25).map(move |pair| (nodes, pair))) {
            let (now, next) = (pair / 5 + 1, pair % 5 + 1);
            let settled = |n| copying(nodes, n, n, None);
            let at = |stage| copying(nodes, now, next, Some(stage));
            let stages = [settled(now), at(Stage::Spreading), at(Stage::Copying), at(Stage::Reading), settled(next)];
            let pairs = stages.windows(2).flat_map(|pair| [(&pair[0], &pair[1]), (&pair[1], &pair[0])]);
            for (writer, reader) in pairs {
                for partition in writer.info().partitions.iter() {
                    let ((r, asked), writes) = (quorums(reader, partition).0, quorums(writer, partition).1);
                    let overlaps = |(w, written): &Quorum<'_>| same_set(written, asked) && r + w > asked.len();
                    assert!(writes.iter().any(overlaps), "{nodes} nodes, {now} to {next}: {writes:?} {r} of {asked:?}");
                }
            }
        }
    }
}
