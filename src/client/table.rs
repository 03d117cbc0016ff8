//! Routes worked out once for each view of the cluster, so that a request finds its owners without a search.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::client::target::Target;
use crate::types::{Copies, Namespace, NodeId, NodeName, PartitionId, Zone};
use crate::view::ClusterView;

/// The nodes of one view, and the owners of each partition as places among them.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) view: Arc<ClusterView>,
    /// In the order of their identifiers.
    pub(crate) targets: Vec<Arc<Target>>,
    /// Whether each is in the client's zone; all are when it has none.
    pub(crate) near: Vec<bool>,
    places: Places,
}

/// Members and owners as places in the list of members, by identifier.
#[derive(Debug)]
struct Places {
    names: BTreeMap<NodeName, u16>,
    /// By copies.
    owners: BTreeMap<Copies, Owners>,
}

/// The owners of all partitions, in one list.
#[derive(Debug)]
struct Owners {
    width: usize,
    list: Box<[u16]>,
}

impl Places {
    fn new(view: &ClusterView) -> Self {
        // There are fewer members than a u16 counts: see limits::MEMBERS_MAX.
        let places: BTreeMap<NodeId, u16> = view.members().keys().copied().zip(0_u16..).collect();
        let names = view.members().values().map(|member| member.name.clone()).zip(0_u16..).collect();
        let mut owners = BTreeMap::new();
        for (copies, ring) in view.all_copies().filter_map(|copies| Some((copies, view.ring(copies)?))) {
            let lists = view.partitions().iter().map(|partition| ring.preference_list(partition));
            let width = ring.preference_list(view.partitions().nth(0)).len();
            let list = lists.flatten().filter_map(|node| places.get(node).copied()).collect();
            owners.insert(copies, Owners { width, list });
        }
        Self { names, owners }
    }

    /// Of the partition with this place among all.
    fn owners(&self, copies: Copies, at: usize) -> &[u16] {
        let Some(owners) = self.owners.get(&copies) else { return &[] };
        let start = at.saturating_mul(owners.width);
        owners.list.get(start..start.saturating_add(owners.width)).unwrap_or(&[])
    }
}

impl Table {
    /// Works out the routes. `target` gives the target of a member, in the order of identifiers.
    pub(crate) fn new(view: Arc<ClusterView>, zone: Option<&Zone>, target: impl Fn(&NodeName) -> Arc<Target>) -> Self {
        let members = view.members();
        let targets = members.values().map(|member| target(&member.name)).collect();
        let near = members.values().map(|member| zone.is_none_or(|zone| *zone == member.zone)).collect();
        let places = Places::new(&view);
        Self { view, targets, near, places }
    }

    /// The places of a partition's owners, best first; none when there is no such namespace.
    pub(crate) fn owners(&self, namespace: &Namespace, partition: PartitionId) -> &[u16] {
        let Some(at) = self.view.partitions().place(partition) else { return &[] };
        self.view.copies(namespace).map_or(&[], |copies| self.places.owners(copies, at))
    }

    /// The target of a member.
    pub(crate) fn named(&self, name: &NodeName) -> Option<&Arc<Target>> {
        self.places.names.get(name).and_then(|at| self.targets.get(usize::from(*at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{NamespacePolicy, Partitions};
    use crate::wire::rpc::{ClusterInfo, MemberInfo};

    #[test]
    fn the_places_of_owners_are_those_of_the_ring_in_its_order() {
        let member = |number: u8| MemberInfo {
            name: NodeName::new(format!("n{number}")).unwrap(),
            quic: format!("127.0.0.1:{number}"),
            zone: Zone::new("z").unwrap(),
            weight: 100,
        };
        let namespace = |name, n| {
            let one = crate::types::Consistency::One;
            (Namespace::new(name).unwrap(), NamespacePolicy { n, r: one, w: one, ..NamespacePolicy::default() })
        };
        let info = ClusterInfo {
            cluster: "test".parse().unwrap(),
            partitions: Partitions::new(64).unwrap(),
            members: (1..=5).map(member).collect(),
            namespaces: vec![namespace("default", 3), namespace("single", 1)],
            node: "n1".parse().unwrap(),
            layout: crate::layout::Layout::default(),
        }
        .founding();
        let view = ClusterView::new(info).unwrap();
        let places = Places::new(&view);
        let ids: Vec<NodeId> = view.members().keys().copied().collect();
        let both = [3, 1].map(Copies::settled);
        for ((at, partition), copies) in
            view.partitions().iter().enumerate().flat_map(|of| both.map(|copies| (of, copies)))
        {
            let owners: Vec<NodeId> = places.owners(copies, at).iter().map(|at| ids[usize::from(*at)]).collect();
            assert_eq!(owners, view.ring(copies).unwrap().preference_list(partition));
        }
        let none = [(2, 0), (3, 64)].map(|(n, at)| places.owners(Copies::settled(n), at));
        assert!(none.iter().all(|owners| owners.is_empty()));
        for (at, member) in view.members().values().enumerate() {
            assert_eq!(usize::from(places.names[&member.name]), at);
        }
    }
}
