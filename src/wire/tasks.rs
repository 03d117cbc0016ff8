//! What nodes work on for a while, and what administrators ask about it.
//!
//! See [`crate::wire::rpc`] for the rules of messages.

use serde::Deserialize;
use serde::Serialize;

use crate::types::NodeName;

/// A question or order about tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TasksRequest {
    /// What is to be done.
    pub order: TaskOrder,
    /// Whether the node passes it on to all others that it is connected to, members or not, and puts their answers together.
    pub everywhere: bool,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskOrder {
    /// Anybody: tell of all tasks.
    List,
    /// Administrators only: hold this task until it is resumed, also over restarts. Of a change as a whole that is all its
    /// copying.
    Pause(String),
    /// Administrators only: go on with it.
    Resume(String),
}

/// What nodes say of their tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TasksReport {
    /// The tasks, also those that ended lately. One that several nodes have a part in comes from each of them.
    pub tasks: Vec<Task>,
    /// Whether the task that the order is for was found.
    pub found: bool,
    /// Members that were not heard, with the reason.
    pub silent: Vec<(NodeName, String)>,
}

/// One task as one node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its name, the same on all nodes that have a part in it.
    pub id: String,
    /// Its kind.
    pub kind: TaskKind,
    /// The node that tells of it.
    pub node: NodeName,
    /// Its state.
    pub state: TaskState,
    /// What it does, in a few words.
    pub what: String,
    /// The change that it is a part of, by the version of the layout in which that began; 0 for none.
    pub change: u64,
    /// Partitions that are done with, counted once for each number of copies. Of a change as a whole: those that this
    /// node fetches.
    pub done: u64,
    /// All there are.
    pub total: u64,
    /// Records that were fetched or dropped.
    pub records: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Milliseconds that were worked on it.
    pub active_ms: u64,
    /// When it began, in milliseconds since the Unix epoch; 0 when it has not.
    pub began_ms: u64,
    /// When it ended; 0 when it has not.
    pub ended_ms: u64,
    /// What it waits for, as far as this node knows.
    pub waits_for: Vec<String>,
}

/// Kinds of tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TaskKind {
    /// A change of owners as a whole.
    Rebalance,
    /// One node's fetching of what it is to own.
    Copy,
    /// One node's dropping of what it owns no more.
    Shed,
    /// A comparison with all other owners that an administrator asked for.
    Repair,
}

impl TaskKind {
    /// The kind in a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rebalance => "rebalance",
            Self::Copy => "copy",
            Self::Shed => "shed",
            Self::Repair => "repair",
        }
    }
}

/// How a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TaskState {
    /// It has not begun.
    Pending,
    /// It is being worked on.
    Running,
    /// An administrator holds it.
    Paused,
    /// It has succeeded.
    Done,
    /// It was given up by itself.
    Failed,
    /// An administrator gave it up, or another change took its place.
    Cancelled,
}

impl TaskState {
    /// The state in a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more will come of it.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::golden::hex;

    #[test]
    fn messages_are_pinned_because_other_versions_read_them() {
        let order = TaskOrder::Pause("c".to_owned());
        assert_eq!(hex(&TasksRequest { order, everywhere: true }), "01016301");
        let task = Task {
            id: "c".to_owned(),
            kind: TaskKind::Copy,
            node: "n".parse().unwrap(),
            state: TaskState::Paused,
            what: "w".to_owned(),
            change: 1,
            done: 2,
            total: 3,
            records: 4,
            bytes: 5,
            active_ms: 6,
            began_ms: 7,
            ended_ms: 8,
            waits_for: vec!["x".to_owned()],
        };
        let report = TasksReport { tasks: vec![task], found: true, silent: Vec::new() };
        assert_eq!(hex(&report), "01016301016e02017701020304050607080101780100");
    }
}
