//! What nodes say to each other about who owns data, and what administrators ask for.

use serde::Deserialize;
use serde::Serialize;

use crate::layout::Ballot;
use crate::layout::Change;
use crate::layout::ChangeError;
use crate::layout::Layout;
use crate::layout::Obstacle;
use crate::layout::Prepared;
use crate::layout::Refusal;
use crate::layout::Report;

/// A question or order about the layout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum LayoutRequest {
    /// Anybody: the layout as the node knows it, and what it is waiting for.
    Show,
    /// Nodes only: this is decided. Answered with a report.
    Tell(Box<Layout>),
    /// Nodes only: answered with a report once all work of an earlier version than this has ended; the requests of
    /// coordinators that work by an earlier one are refused from then on.
    Confirm(u64),
    /// Voters only: a promise for a ballot on this version.
    Prepare {
        /// The version.
        version: u64,
        /// The ballot.
        ballot: Ballot,
    },
    /// Voters only: a vote for a layout.
    Accept {
        /// The ballot.
        ballot: Ballot,
        /// What is proposed.
        layout: Box<Layout>,
    },
    /// Administrators: have the layout changed.
    Change(ChangeOrder),
}

/// A change that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeOrder {
    /// The change.
    pub change: Change,
    /// Despite what it is asked for.
    pub despite: Despite,
}

/// Despite what a change is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Despite {
    /// Nothing: only if it is safe.
    Nothing,
    /// Although it is not safe.
    Danger,
    /// Although no majority of those who own data can agree on it, nor ever will, since they are gone for good. Only a
    /// member that is gone can be removed or replaced like this. Should the others be alive after all, they are removed, too,
    /// once they are heard from: what only they hold they hand over, but what they acknowledged meanwhile was not seen here.
    NoMajority,
}

/// The answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum LayoutReply {
    /// The layout, and what the change under way is waiting for as far as this node knows.
    Show(Box<Shown>),
    /// How far the node has come.
    Report(Report),
    /// A promise.
    Prepared(Prepared),
    /// A vote.
    Accepted,
    /// No promise and no vote.
    Refused(Refusal),
    /// The layout that was agreed on because of the change.
    Changed(Box<Layout>),
    /// Why it cannot be changed like that.
    Impossible(ChangeError),
}

/// The layout as one node knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// The layout.
    pub layout: Layout,
    /// How far this node itself has come with it.
    pub report: Report,
    /// What the change under way is waiting for; only the node that leads it knows.
    pub obstacles: Vec<Obstacle>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Next;
    use crate::layout::Placement;
    use crate::layout::Role;
    use crate::layout::Stage;
    use crate::types::Namespace;
    use crate::types::NodeName;
    use crate::types::Partitions;
    use crate::wire::golden::hex;

    #[test]
    fn messages_are_pinned_because_other_versions_read_them() {
        let (name, namespace) = (NodeName::new("a").unwrap(), Namespace::new("s").unwrap());
        let role = Role { quic: "q".to_owned(), zone: "z".parse().unwrap(), weight: 100, seat: name.clone() };
        let partitions = Partitions::new(2048).unwrap();
        let placement = |n| Placement {
            roles: [(name.clone(), role.clone())].into(),
            copies: [(namespace.clone(), n)].into(),
            partitions,
        };
        let next = Next { since: 4, placement: placement(3), stage: Stage::Copying, dead: [name.clone()].into() };
        let layout = Layout { version: 5, current: placement(2), next: Some(next) };
        let order = ChangeOrder { change: Change::Copies { namespace, n: 3 }, despite: Despite::Nothing };
        let placed = |n: &str| format!("0101610171017a640161010173{n}");
        assert_eq!(hex(&layout), format!("05{}0104{}01010161", placed("028010"), placed("038010")));
        assert_eq!(hex(&LayoutRequest::Change(order)), "050701730300");
        let order = ChangeOrder { change: Change::Split { partitions }, despite: Despite::Nothing };
        assert_eq!(hex(&LayoutRequest::Change(order)), "0508801000");
    }
}
