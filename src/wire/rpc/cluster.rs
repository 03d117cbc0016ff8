//! The cluster as nodes tell of it: members, namespaces, and the layout that says who owns data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::layout::Layout;
use crate::layout::Placement;
use crate::layout::Role;
use crate::types::{ClusterName, Namespace, NamespacePolicy, NodeName, Partitions, Zone};

/// The cluster: members, placement and namespaces.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterInfo {
    /// Its name.
    pub cluster: ClusterName,
    /// Partitions of the hash space when the cluster was founded.
    pub partitions: Partitions,
    /// The members, sorted by name.
    pub members: Vec<MemberInfo>,
    /// The namespaces, sorted by name.
    pub namespaces: Vec<(Namespace, NamespacePolicy)>,
    /// The node that answers.
    pub node: NodeName,
    /// Who owns data, and who will.
    pub layout: Layout,
}

impl ClusterInfo {
    /// The same cluster as it is founded: every member owns its share.
    #[must_use]
    pub fn founding(mut self) -> Self {
        let role = |member: &MemberInfo| {
            let MemberInfo { name, quic, zone, weight } = member.clone();
            (name.clone(), Role { quic, zone, weight, seat: name })
        };
        let roles = self.members.iter().map(role).collect();
        let copies = self.namespaces.iter().map(|(name, policy)| (name.clone(), policy.n)).collect();
        self.layout = Layout::founding(Placement { roles, copies, partitions: self.partitions });
        self
    }

    /// The same cluster by another layout. Members stay where they are known to be.
    #[must_use]
    pub fn by(&self, layout: Layout) -> Self {
        let known: BTreeMap<&NodeName, &str> =
            self.members.iter().map(|member| (&member.name, &*member.quic)).collect();
        let member = |(name, role): (&NodeName, &Role)| MemberInfo {
            name: name.clone(),
            quic: known.get(name).map_or_else(|| role.quic.clone(), |quic| (*quic).to_owned()),
            zone: role.zone.clone(),
            weight: role.weight,
        };
        let members = layout.members().into_iter().map(member).collect();
        Self { members, layout, ..self.clone() }
    }
}

/// One member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// Its name.
    pub name: NodeName,
    /// Where others and clients reach its data plane: host and port.
    pub quic: String,
    /// Its failure zone.
    pub zone: Zone,
    /// Its share of the data against others.
    pub weight: u32,
}
