//! What may be asked for, and the layout that comes of it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use serde::Deserialize;
use serde::Serialize;

use crate::layout::Layout;
use crate::layout::Next;
use crate::layout::Role;
use crate::layout::Stage;
use crate::limits;
use crate::types::Consistency;
use crate::types::Namespace;
use crate::types::NodeName;
use crate::types::Partitions;
use crate::types::Zone;

/// A change of who owns data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A node that owned nothing gets its share.
    Join {
        /// The node.
        name: NodeName,
        /// Where its data plane is: host and port.
        quic: String,
        /// Its failure zone.
        zone: Zone,
        /// Its share against others.
        weight: u32,
    },
    /// A member gives its share to the others. It serves until they have it.
    Leave {
        /// The member.
        name: NodeName,
    },
    /// The same for a member that will not come back: the others make the copies among themselves.
    Remove {
        /// The member.
        name: NodeName,
    },
    /// A node takes the place of a member that will not come back: just the same partitions, and nothing else moves.
    Replace {
        /// The member that is gone.
        old: NodeName,
        /// The node that takes its place.
        new: NodeName,
        /// Where that one's data plane is: host and port.
        quic: String,
    },
    /// A member gets another share.
    Weight {
        /// The member.
        name: NodeName,
        /// Its new share against others; with 0 it owns nothing.
        weight: u32,
    },
    /// A member is in another failure zone.
    Zone {
        /// The member.
        name: NodeName,
        /// Its zone from now on.
        zone: Zone,
    },
    /// The change under way is given up: owners stay who they are.
    Cancel,
    /// The keys of a namespace get another number of copies.
    Copies {
        /// The namespace.
        namespace: Namespace,
        /// Copies of each key from now on.
        n: u8,
    },
    /// Every partition is cut in two, and owners are chosen for each half.
    Split {
        /// How many there are afterwards: twice as many as before.
        partitions: Partitions,
    },
}

/// Why a change cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ChangeError {
    /// It would change nothing.
    #[error("there is nothing to change: {0}")]
    Nothing(String),
    /// Somebody it names is not a member.
    #[error("{0} owns no share of this cluster: see `dynamomini ring`")]
    NotAMember(NodeName),
    /// Somebody it names is a member.
    #[error("{0} has a share already")]
    Member(NodeName),
    /// A limit.
    #[error("{0}")]
    Limit(String),
    /// Nobody would own data.
    #[error("{0} is the last member that owns data: without it nobody would")]
    Last(NodeName),
    /// The change before it is nearly done.
    #[error(
        "the change before it is being completed: ask again in a few seconds (`dynamomini cluster show` says what it waits for)"
    )]
    Busy,
    /// It is to be done without a majority, and that is not for this change, or not now; why.
    #[error("--without-majority is not possible: {0}")]
    NotWithoutMajority(String),
    /// It would put data or its own end at risk; why.
    #[error("refused, since it is not safe: {}; --force does it all the same", .0.join("; "))]
    Unsafe(Vec<String>),
    /// It names a namespace that there is not.
    #[error("there is no namespace {0}: a new one is added in every node's configuration")]
    NotANamespace(Namespace),
    /// A namespace's configuration asks for more replicas than there would be copies.
    #[error(
        "namespace {namespace} is configured with {letter} = {level}, which is above {n} copies: change namespaces.{namespace} in every node's configuration first, to `quorum` for example"
    )]
    Above {
        /// The namespace.
        namespace: Namespace,
        /// `R` or `W`.
        letter: char,
        /// What is asked for.
        level: Consistency,
        /// The copies there would be.
        n: u8,
    },
}

impl ChangeError {
    fn limit() -> Self {
        Self::Limit(format!(
            "at most {} members with weights up to {} and addresses up to {} bytes are possible, each place taken once",
            limits::MEMBERS_MAX,
            limits::WEIGHT_MAX,
            limits::GOSSIP_ADDRESS_MAX,
        ))
    }
}

/// Refuses a node whose seat another one has.
fn check_seat(roles: &BTreeMap<NodeName, Role>, name: &NodeName) -> Result<(), ChangeError> {
    let holder = roles.iter().find(|(of, role)| role.seat == *name && *of != name);
    let taken =
        |(holder, _)| format!("{holder} was put in the place of {name} and has it still: give the node another name");
    holder.map_or(Ok(()), |holder| Err(ChangeError::Limit(taken(holder))))
}

fn check_copies(n: u8) -> Result<(), ChangeError> {
    if (1..=limits::REPLICAS_MAX).contains(&usize::from(n)) {
        return Ok(());
    }
    Err(ChangeError::Limit(format!("{n} copies of each key are not possible: choose 1 to {}", limits::REPLICAS_MAX)))
}

impl Change {
    /// The layout that is next when this is asked for.
    ///
    /// # Errors
    /// [`ChangeError`] says why it cannot be.
    pub fn apply(&self, layout: &Layout) -> Result<Layout, ChangeError> {
        if layout.stage() == Some(Stage::Reading) {
            return Err(ChangeError::Busy);
        }
        if *self == Self::Cancel {
            let nothing = || ChangeError::Nothing("no change is under way".to_owned());
            return layout.next.as_ref().map(|_| layout.followed_by(None)).ok_or_else(nothing);
        }
        let mut dead = layout.next.as_ref().map_or_else(BTreeSet::new, |next| next.dead.clone());
        let mut placement = layout.last_placement().clone();
        let roles = &mut placement.roles;
        match self {
            Self::Join { name, quic, zone, weight } => {
                check_seat(roles, name)?;
                let role = Role { quic: quic.clone(), zone: zone.clone(), weight: *weight, seat: name.clone() };
                if roles.insert(name.clone(), role).is_some() {
                    return Err(ChangeError::Member(name.clone()));
                }
                dead.remove(name);
            }
            // One that was leaving and died on its way.
            Self::Remove { name } if !roles.contains_key(name) && layout.current.has(name) => {
                dead.insert(name.clone());
            }
            Self::Leave { name } | Self::Remove { name } => {
                roles.remove(name).ok_or_else(|| ChangeError::NotAMember(name.clone()))?;
                if matches!(self, Self::Remove { .. }) {
                    dead.insert(name.clone());
                }
                if placement.is_ownerless() {
                    return Err(ChangeError::Last(name.clone()));
                }
            }
            Self::Replace { old, new, quic } => {
                if roles.contains_key(new) {
                    return Err(ChangeError::Member(new.clone()));
                }
                let role = roles.remove(old).or_else(|| layout.current.roles.get(old).cloned());
                let role = role.ok_or_else(|| ChangeError::NotAMember(old.clone()))?;
                roles.insert(new.clone(), Role { quic: quic.clone(), ..role });
                dead.remove(new);
                dead.insert(old.clone());
            }
            Self::Weight { name, weight } => {
                let role = roles.get_mut(name).ok_or_else(|| ChangeError::NotAMember(name.clone()))?;
                role.weight = *weight;
                if placement.is_ownerless() {
                    return Err(ChangeError::Last(name.clone()));
                }
            }
            Self::Zone { name, zone } => {
                let role = roles.get_mut(name).ok_or_else(|| ChangeError::NotAMember(name.clone()))?;
                role.zone = zone.clone();
            }
            Self::Copies { namespace, n } => {
                check_copies(*n)?;
                placement.copies.insert(namespace.clone(), *n);
            }
            Self::Split { partitions } => placement.cut_into(*partitions)?,
            Self::Cancel => {}
        }
        if placement == *layout.last_placement() && layout.next.as_ref().is_none_or(|next| dead == next.dead) {
            return Err(ChangeError::Nothing("it is like that already".to_owned()));
        }
        let since = layout.next.as_ref().map_or(layout.version + 1, |next| next.since);
        let next = (placement != layout.current).then_some(Next { since, placement, stage: Stage::Spreading, dead });
        Some(layout.followed_by(next)).filter(Layout::is_sound).ok_or_else(ChangeError::limit)
    }

    /// The layout by which nothing more is expected of the member that this removes or replaces, while the change before it is
    /// nearly done: a member that is gone must not keep that from its end.
    ///
    /// # Errors
    /// [`ChangeError::Nothing`] where nothing is expected of it anyhow, or reads have not moved yet.
    pub fn give_up(&self, layout: &Layout) -> Result<Layout, ChangeError> {
        let (Some(name), Some(next)) = (self.gives_up(), &layout.next) else {
            return Err(ChangeError::Nothing("nobody is given up by this".to_owned()));
        };
        if next.stage != Stage::Reading || layout.is_dead(name) || !layout.members().contains_key(name) {
            return Err(ChangeError::Nothing(format!("nothing is waited for from {name}")));
        }
        let dead = next.dead.iter().chain([name]).cloned().collect();
        let given_up = layout.followed_by(Some(Next { dead, ..next.clone() }));
        if given_up.voters().next().is_none() {
            return Err(ChangeError::Last(name.clone()));
        }
        Ok(given_up)
    }

    /// The member that this gives up, if it does.
    pub fn gives_up(&self) -> Option<&NodeName> {
        match self {
            Self::Remove { name } | Self::Replace { old: name, .. } => Some(name),
            _ => None,
        }
    }

    /// The change in a few words, for tasks and logs.
    pub fn describe(&self) -> String {
        match self {
            Self::Join { name, weight, zone, .. } => format!("{name} joins with weight {weight} in zone {zone}"),
            Self::Leave { name } => format!("{name} leaves"),
            Self::Remove { name } => format!("{name} is removed"),
            Self::Replace { old, new, .. } => format!("{new} replaces {old}"),
            Self::Weight { name, weight } => format!("{name} gets weight {weight}"),
            Self::Zone { name, zone } => format!("{name} is in zone {zone}"),
            Self::Copies { namespace, n: 1 } => format!("namespace {namespace} gets 1 copy of each key"),
            Self::Copies { namespace, n } => format!("namespace {namespace} gets {n} copies of each key"),
            Self::Split { partitions } => format!("partitions are cut in two: {}", partitions.count()),
            Self::Cancel => "the change under way is cancelled".to_owned(),
        }
    }
}
