//! When a change goes on to its next stage.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use crate::layout::Layout;
use crate::layout::Next;
use crate::layout::Stage;
use crate::types::NodeName;

/// How far one member has come with a layout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The version it works by.
    pub adopted: u64,
    /// The version by which all its work goes: what began under an earlier one has ended, and it refuses the requests of
    /// coordinators that work by an earlier one.
    pub confirmed: u64,
    /// The version for which it holds all that it is to own, compared tree by tree with those who owned it.
    pub copied: u64,
}

/// What the members say, and who is taken to be down.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    /// The last report of each member that answered.
    pub reports: BTreeMap<NodeName, Report>,
    /// Members that failure detection holds failed. A member that is neither here nor answers is waited for.
    pub failed: Vec<NodeName>,
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Obstacle {
    /// A member does not work by the layout yet, or has not ended what it began before.
    #[error("{0} has not taken over the layout yet")]
    Behind(NodeName),
    /// Too many of those who own something are down: they might answer requests by the old layout among themselves.
    #[error(
        "{0} is down, and with the others that are, too many owners of a partition: they might go on by the old layout; bring them back, or remove those that are gone"
    )]
    Down(NodeName),
    /// A next owner is down.
    #[error("{0} is to own data and is down: bring it back, or cancel")]
    OwnerDown(NodeName),
    /// A next owner has not fetched all that it is to own.
    #[error("{0} is copying")]
    Copying(NodeName),
}

/// What to do about a layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// No change is under way, and everybody that is up works by this layout.
    Settled,
    /// Everybody that is up has adopted the layout: tell these members to confirm it.
    Confirm(Vec<NodeName>),
    /// Not yet.
    Wait(Vec<Obstacle>),
    /// Agree on this layout now.
    Advance(Box<Layout>),
}

/// Decides what is next.
///
/// `is_crowd` says whether these members, left to themselves, could answer requests by the layout before: among the owners
/// of some partition there are so many of them that they make a quorum of reads or of writes.
pub fn advance(layout: &Layout, watch: &Watch, is_crowd: impl Fn(&[&NodeName]) -> bool) -> Progress {
    let expected: Vec<&NodeName> =
        layout.members().into_keys().filter(|name| !layout.dead().any(|dead| dead == *name)).collect();
    let (down, up): (Vec<&NodeName>, Vec<&NodeName>) =
        expected.into_iter().partition(|name| watch.failed.contains(name));
    let report = |name: &NodeName| watch.reports.get(name).copied().unwrap_or_default();
    let lagging = |reached: fn(&Report) -> u64| -> Vec<NodeName> {
        up.iter().filter(|name| reached(&report(name)) < layout.version).map(|name| (*name).clone()).collect()
    };
    let behind = lagging(|report| report.adopted);
    if !behind.is_empty() {
        return Progress::Wait(behind.into_iter().map(Obstacle::Behind).collect());
    }
    let unconfirmed = lagging(|report| report.confirmed);
    if !unconfirmed.is_empty() {
        return Progress::Confirm(unconfirmed);
    }
    let Some(next) = &layout.next else { return Progress::Settled };
    if is_crowd(&down) {
        return Progress::Wait(down.into_iter().cloned().map(Obstacle::Down).collect());
    }
    if next.stage == Stage::Copying {
        let owns = |name: &&NodeName| next.placement.roles.get(*name).is_some_and(|role| role.weight > 0);
        let gone = down.iter().filter(|name| owns(name)).map(|name| Obstacle::OwnerDown((*name).clone()));
        let copies = |name: &&&NodeName| report(name).copied < layout.version;
        let busy = up.iter().filter(|name| owns(name)).filter(copies).map(|name| Obstacle::Copying((*name).clone()));
        let obstacles: Vec<Obstacle> = gone.chain(busy).collect();
        if !obstacles.is_empty() {
            return Progress::Wait(obstacles);
        }
    }
    Progress::Advance(Box::new(after(layout, next)))
}

fn after(layout: &Layout, next: &Next) -> Layout {
    let at = |stage| layout.followed_by(Some(Next { stage, ..next.clone() }));
    match next.stage {
        Stage::Spreading => at(Stage::Copying),
        Stage::Copying => at(Stage::Reading),
        Stage::Reading => Layout { version: layout.version + 1, current: next.placement.clone(), next: None },
    }
}
