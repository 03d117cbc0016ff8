//! When a change goes on to its next stage.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

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
    /// Those of the failed that have to fetch something before they may be read from.
    pub gaining: BTreeSet<NodeName>,
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Obstacle {
    /// A member does not work by the layout yet, or has not ended what it began before.
    #[error("{0} has not taken over the layout yet; if that lasts, see `dynamomini members`")]
    Behind(NodeName),
    /// Too many of those who own something are down: they might answer requests by the old layout among themselves, and may
    /// hold what no other owner has.
    #[error(
        "{0} is down, and with the others that are, too many owners of a partition: they might go on by the old layout, and hold what nobody else has; start it again, or, if it is gone for good, `dynamomini cluster remove {0}`"
    )]
    Down(NodeName),
    /// A next owner that has to fetch something is down.
    #[error(
        "{0} is to fetch data and is down: start it again; if it is gone for good, the change goes on without it after `dynamomini cluster remove {0}` or `dynamomini cluster replace {0} NEW`, and is given up by `dynamomini cluster cancel`"
    )]
    OwnerDown(NodeName),
    /// A next owner has not fetched all that it is to own.
    #[error("{0} is copying")]
    Copying(NodeName),
    /// There is no majority for the next stage; why.
    #[error("{0}; start those again that are down")]
    NoMajority(String),
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
    let expected: Vec<&NodeName> = layout.members().into_keys().filter(|name| !layout.is_dead(name)).collect();
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
        // One that fetches nothing need not be there: what it is to own it has, as far as it ever had it.
        let gone = down.iter().filter(|name| watch.gaining.contains(**name));
        let gone = gone.map(|name| Obstacle::OwnerDown((*name).clone()));
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
    let stage = if next.stage == Stage::Spreading { Stage::Copying } else { Stage::Reading };
    layout.completed().unwrap_or_else(|| layout.followed_by(Some(Next { stage, ..next.clone() })))
}
