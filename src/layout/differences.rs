//! What a change does, told by the placements before and after it: several that were asked for may have become one.

use std::collections::BTreeSet;

use crate::layout::Change;
use crate::layout::Layout;
use crate::layout::Placement;
use crate::layout::Roles;
use crate::types::Namespace;
use crate::types::NodeName;

impl Layout {
    /// What the change under way does, in the order of the members concerned, then of namespaces. Empty when none is.
    pub fn differences(&self) -> Vec<Change> {
        self.next.as_ref().map_or_else(Vec::new, |next| differences(&self.current, &next.placement, &next.dead))
    }
}

fn differences(before: &Placement, after: &Placement, dead: &BTreeSet<NodeName>) -> Vec<Change> {
    let mut changes = Vec::new();
    if before.partitions != after.partitions {
        changes.push(Change::Split { partitions: after.partitions });
    }
    changes.extend(of_roles(&before.roles, &after.roles, dead));
    let other = |(namespace, n): &(&Namespace, &u8)| before.copies.get(*namespace) != Some(*n);
    let copies = after.copies.iter().filter(other);
    changes.extend(copies.map(|(namespace, n)| Change::Copies { namespace: namespace.clone(), n: *n }));
    changes
}

fn of_roles(before: &Roles, after: &Roles, dead: &BTreeSet<NodeName>) -> Vec<Change> {
    let mut changes = Vec::new();
    let replaces = |new: &NodeName| {
        let seat = &after.get(new)?.seat;
        let is_old = |old: &&NodeName| !after.contains_key(*old) && before[*old].seat == *seat;
        (!before.contains_key(new)).then(|| before.keys().find(is_old))?
    };
    let replaced: BTreeSet<&NodeName> = after.keys().filter_map(replaces).collect();
    for (name, role) in after {
        let (name, quic, zone) = (name.clone(), role.quic.clone(), role.zone.clone());
        match (before.get(&name), replaces(&name)) {
            (_, Some(old)) => changes.push(Change::Replace { old: old.clone(), new: name, quic }),
            (None, None) => changes.push(Change::Join { name, quic, zone, weight: role.weight }),
            (Some(old), None) => {
                if old.weight != role.weight {
                    changes.push(Change::Weight { name: name.clone(), weight: role.weight });
                }
                if old.zone != role.zone {
                    changes.push(Change::Zone { name, zone });
                }
            }
        }
    }
    for name in before.keys().filter(|name| !after.contains_key(*name) && !replaced.contains(name)) {
        let name = name.clone();
        changes.push(if dead.contains(&name) { Change::Remove { name } } else { Change::Leave { name } });
    }
    changes
}
