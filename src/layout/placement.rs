//! What the layout says of where data is to be: the same value for the present owners and for the next.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use serde::Deserialize;
use serde::Serialize;

use crate::layout::ChangeError;
use crate::limits;
use crate::types::Namespace;
use crate::types::NodeName;
use crate::types::Partitions;
use crate::types::Zone;

/// What a member is to own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Where its data plane was when it got the role: host and port. Gossip knows of later addresses.
    pub quic: String,
    /// Its failure zone.
    pub zone: Zone,
    /// Its share of the data against others; with 0 it owns nothing.
    pub weight: u32,
    /// The name under which it is placed: its own, or that of the member whose place it has taken.
    pub seat: NodeName,
}

/// The members that have a role, by name.
pub type Roles = BTreeMap<NodeName, Role>;

/// All that decides who owns what: owners are a function of it, and of nothing else that changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The members and their shares.
    pub roles: Roles,
    /// Copies of each key, by namespace. A namespace that is not here came with a later configuration, which says it.
    pub copies: BTreeMap<Namespace, u8>,
    /// How many partitions owners are chosen for, each by itself.
    pub partitions: Partitions,
}

impl Placement {
    /// Whether this member has a role.
    pub fn has(&self, name: &NodeName) -> bool {
        self.roles.contains_key(name)
    }

    /// Chooses owners for twice as many partitions; does nothing where there are that many already.
    pub(super) fn cut_into(&mut self, partitions: Partitions) -> Result<(), ChangeError> {
        let before = self.partitions;
        if partitions > before && before.halved() != Some(partitions) {
            let (before, after) = (before.count(), partitions.count());
            let text = format!("{before} partitions are cut into twice as many at a time, not into {after}");
            return Err(ChangeError::Limit(text));
        }
        self.partitions = before.max(partitions);
        Ok(())
    }

    /// Whether nobody would own data.
    pub(super) fn is_ownerless(&self) -> bool {
        self.roles.values().all(|role| role.weight == 0)
    }

    /// Whether no limit is broken. For what comes from elsewhere.
    pub(super) fn is_sound(&self) -> bool {
        let roles = &self.roles;
        let seats: BTreeSet<&NodeName> = roles.values().map(|role| &role.seat).collect();
        let within = |role: &Role| role.weight <= limits::WEIGHT_MAX && role.quic.len() <= limits::GOSSIP_ADDRESS_MAX;
        let possible = |copies: &u8| (1..=limits::REPLICAS_MAX).contains(&usize::from(*copies));
        !roles.is_empty()
            && roles.len() <= limits::MEMBERS_MAX
            && seats.len() == roles.len()
            && roles.values().all(within)
            && self.copies.len() <= limits::NAMESPACES_MAX
            && self.copies.values().all(possible)
    }
}
