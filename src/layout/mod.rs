//! Who is to own data: the placement in force, the change that is under way, and how it gets on.
//!
//! A [`Layout`] is a value with a version. Version n+1 is made from version n by a [`Change`] that somebody asked for, or by
//! [`advance`] once all that must have happened has. Each version is agreed on by a majority of the members that own data
//! in the one before it and are not given up there ([`Vote`]), so there is one sequence of layouts, however many changes are
//! asked for at once.
//!
//! A change goes through three stages, each a version of its own ([`Stage`]), and in each of them every coordinator that
//! works by this layout is compatible with every one that works by the layout before or after it:
//!
//! 1. *Spreading*: writes need their quorum among the present owners and among the next. Reads ask the present ones.
//! 2. *Copying*, once nobody writes to the present owners alone any more: next owners fetch what they lack.
//! 3. *Reading*, once every next owner has compared its hash trees with the present ones': reads ask the next owners.
//!
//! Once nobody reads from the owners before any more, the next owners are the present ones, and nobody else is written to.
//! When partitions are cut in two there are the finer ones as soon as the change begins ([`Layout::partitions`]); by the
//! present placement both halves of one have the owners of the whole. So a change is always between lists of owners for the
//! same partitions.
//!
//! (The idea of two quorums in a change is that of joint consensus, Raft §6; Garage's layouts are the nearest relative.)
//!
//! Pure. It knows neither rings nor who answers: both are arguments.

mod advance;
mod change;
mod differences;
mod placement;
mod vote;

pub use advance::Obstacle;
pub use advance::Progress;
pub use advance::Report;
pub use advance::Watch;
pub use advance::advance;
pub use change::Change;
pub use change::ChangeError;
pub use placement::Placement;
pub use placement::Role;
pub use placement::Roles;
pub use vote::Ballot;
pub use vote::Prepared;
pub use vote::Refusal;
pub use vote::Vote;

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use serde::Deserialize;
use serde::Serialize;

use crate::limits;
use crate::types::Copies;
use crate::types::Namespace;
use crate::types::NodeId;
use crate::types::NodeName;
use crate::types::Partitions;

/// Versions between one that was imposed and the next that is ([`Layout::imposed_by`]): more than a cluster ever agrees on.
const ERA: u64 = 1_000_000;
/// How many of them each node that imposes one has for itself, so that two nodes which do so at once, cut off from each other,
/// make different versions: the later one is what all go by in the end.
const ERA_SHARE: u64 = 1_000;

/// How far a change has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stage {
    /// Writes go to the present and the next owners; not everybody does that yet.
    Spreading,
    /// Everybody does. Next owners fetch what they lack.
    Copying,
    /// Reads go to the next owners, writes still to both.
    Reading,
}

impl Stage {
    /// The stage in a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Spreading => "spreading",
            Self::Copying => "copying",
            Self::Reading => "reading",
        }
    }
}

/// A change that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Next {
    /// The version in which it began; a change that was asked for meanwhile joins it.
    pub since: u64,
    /// The placement afterwards.
    pub placement: Placement,
    /// How far it has come.
    pub stage: Stage,
    /// Members that were given up: nothing is expected of them any more.
    pub dead: BTreeSet<NodeName>,
}

/// Who owns data, and who will.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Counts all versions there were; 0 is what the cluster was founded with.
    pub version: u64,
    /// The placement of the present owners.
    pub current: Placement,
    /// The change that is under way, if there is one.
    pub next: Option<Next>,
}

impl Layout {
    /// What a cluster is founded with.
    pub fn founding(placement: Placement) -> Self {
        Self { version: 0, current: placement, next: None }
    }

    /// Whether reads go by the next placement.
    pub fn reads_next(&self) -> bool {
        self.stage() == Some(Stage::Reading)
    }

    /// The placement that reads go by.
    pub fn read_placement(&self) -> &Placement {
        if self.reads_next() { self.last_placement() } else { &self.current }
    }

    /// The placement that writes go by as well, while there are two.
    pub fn other_placement(&self) -> Option<&Placement> {
        self.next.as_ref().map(|next| if self.reads_next() { &self.current } else { &next.placement })
    }

    /// The placement by which data will be, or is, when no change is under way.
    pub fn last_placement(&self) -> &Placement {
        self.next.as_ref().map_or(&self.current, |next| &next.placement)
    }

    /// How many partitions there are: as many as the finer of its placements has.
    pub fn partitions(&self) -> Partitions {
        self.current.partitions.max(self.last_placement().partitions)
    }

    /// Copies of each key of a namespace; `configured` is what goes for one that the layout does not know.
    pub fn copies(&self, namespace: &Namespace, configured: u8) -> Copies {
        let by = |placement: &Placement| placement.copies.get(namespace).copied().unwrap_or(configured);
        Copies { now: by(&self.current), next: by(self.last_placement()) }
    }

    /// All members with a role, now or next.
    pub fn members(&self) -> BTreeMap<&NodeName, &Role> {
        let next = self.next.iter().flat_map(|next| &next.placement.roles);
        next.chain(&self.current.roles).collect()
    }

    /// The members that vote on the version after this one: all that own data now, without those that are given up.
    pub fn voters(&self) -> impl Iterator<Item = &NodeName> {
        self.current.roles.keys().filter(|name| !self.is_dead(name))
    }

    /// Whether a member is given up.
    pub fn is_dead(&self, name: &NodeName) -> bool {
        self.next.as_ref().is_some_and(|next| next.dead.contains(name))
    }

    /// The members that are given up.
    pub fn dead(&self) -> impl Iterator<Item = &NodeName> {
        self.next.iter().flat_map(|next| &next.dead)
    }

    /// The stage of the change that is under way.
    pub fn stage(&self) -> Option<Stage> {
        self.next.as_ref().map(|next| next.stage)
    }

    /// Whether this can be a layout: somebody owns data, and nobody breaks a limit. For what comes from elsewhere.
    pub fn is_sound(&self) -> bool {
        let next_is_sound = |next: &Next| next.placement.is_sound() && next.dead.len() <= limits::MEMBERS_MAX;
        self.current.is_sound() && self.next.as_ref().is_none_or(next_is_sound)
    }

    /// What this becomes once reads have moved and nobody is waited for any more; `None` at any other stage.
    pub fn completed(&self) -> Option<Self> {
        let next = self.next.as_ref().filter(|next| next.stage == Stage::Reading)?;
        Some(Self { version: self.version + 1, current: next.placement.clone(), next: None })
    }

    /// This layout as one that a node decides alone, when a majority of the voters is lost for good. Its version is above all
    /// that those who were lost can agree on among themselves, should they only have been cut off: when they are back, they
    /// go by this one. Each version of such an era is thought to be made by one node, and to differ from those of others.
    #[must_use]
    pub fn imposed_by(mut self, node: NodeId) -> Self {
        let version = (self.version / ERA + 1) * ERA + node.0 % (ERA / ERA_SHARE) * ERA_SHARE;
        if let Some(next) = self.next.as_mut().filter(|next| next.since == self.version) {
            next.since = version;
        }
        self.version = version;
        self
    }

    /// The version after this one, with another change under way.
    fn followed_by(&self, next: Option<Next>) -> Self {
        Self { version: self.version + 1, current: self.current.clone(), next }
    }
}

#[cfg(test)]
mod tests;
