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
    /// Whether also when it is not safe.
    pub force: bool,
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
    use crate::types::Partitions;
    use crate::wire::golden::hex;

    #[test]
    fn the_encoding_is_pinned_because_nodes_of_one_cluster_may_differ_in_version() {
        let partitions = Partitions::new(2048).unwrap();
        let order = ChangeOrder { change: Change::Split { partitions }, force: false };
        assert_eq!(hex(&LayoutRequest::Change(order)), "0507801000");
    }
}
