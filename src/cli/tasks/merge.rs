//! Tasks that several nodes have a part in, put together.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use crate::cli::table::bytes;
use crate::cli::table::span;
use crate::types::NodeName;
use crate::wire::tasks::Task;
use crate::wire::tasks::TaskKind;
use crate::wire::tasks::TaskState;

/// A task as a whole.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Whole {
    pub(crate) id: String,
    pub(crate) kind: TaskKind,
    pub(crate) state: TaskState,
    /// The version of the layout in which the change began that it belongs to; 0 for none.
    pub(crate) change: u64,
    pub(crate) what: String,
    /// Nodes that told of it.
    pub(crate) nodes: Vec<NodeName>,
    pub(crate) done: u64,
    pub(crate) total: u64,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    /// Bytes a second of all nodes together, while they worked on it.
    pub(crate) rate: u64,
    /// How long it still takes, if it goes on as before.
    pub(crate) left: Option<Duration>,
    pub(crate) began_ms: u64,
    pub(crate) ended_ms: u64,
    pub(crate) waits_for: Vec<String>,
}

/// Puts together what nodes told, changes first, then by name.
pub(crate) fn merge(tasks: Vec<Task>) -> Vec<Whole> {
    let mut by_id: BTreeMap<(TaskKind, u64, String), Vec<Task>> = BTreeMap::new();
    for task in tasks {
        by_id.entry((task.kind, task.change, task.id.clone())).or_default().push(task);
    }
    by_id.into_values().map(whole).collect()
}

fn whole(parts: Vec<Task>) -> Whole {
    let sum = |of: fn(&Task) -> u64| parts.iter().map(of).sum::<u64>();
    let state = parts.iter().map(|task| task.state).max_by_key(|state| rank(*state)).unwrap_or(TaskState::Pending);
    let mut waits_for: Vec<String> = parts.iter().flat_map(|task| task.waits_for.clone()).collect();
    waits_for.sort();
    waits_for.dedup();
    let of_rate = |task: &Task| task.bytes.saturating_mul(1000) / task.active_ms.max(1);
    let earliest = parts.iter().map(|task| task.began_ms).filter(|at| *at > 0).min();
    let lead = parts.iter().find(|task| !task.waits_for.is_empty()).or(parts.first());
    let (first, what) = (&parts[0], lead.map_or_else(String::new, |task| task.what.clone()));
    let left = parts.iter().filter_map(left).max().filter(|_| state == TaskState::Running);
    Whole {
        id: first.id.clone(),
        kind: first.kind,
        state,
        change: first.change,
        what,
        nodes: parts.iter().map(|task| task.node.clone()).collect(),
        done: sum(|task| task.done),
        total: sum(|task| task.total),
        records: sum(|task| task.records),
        bytes: sum(|task| task.bytes),
        rate: parts.iter().map(of_rate).sum(),
        left,
        began_ms: earliest.unwrap_or(0),
        ended_ms: parts.iter().map(|task| task.ended_ms).max().unwrap_or(0),
        waits_for,
    }
}

/// What is decided by one node holds for all, also while others have not heard of it.
fn rank(state: TaskState) -> u8 {
    match state {
        TaskState::Pending => 0,
        TaskState::Running => 1,
        TaskState::Paused => 2,
        TaskState::Failed => 3,
        TaskState::Cancelled => 4,
        TaskState::Done => 5,
    }
}

/// How long one node's part still takes.
fn left(task: &Task) -> Option<Duration> {
    let open = task.total.saturating_sub(task.done);
    (task.done > 0).then(|| Duration::from_millis(task.active_ms.saturating_mul(open) / task.done))
}

impl Whole {
    /// How much of it is done, in percent; of a task that has not begun, 0.
    pub(crate) fn percent(&self) -> u64 {
        match (self.state, self.total) {
            (TaskState::Done, _) => 100,
            (_, 0) => 0,
            (_, total) => self.done.saturating_mul(100) / total,
        }
    }

    /// Share, rate and time that is left, for people.
    pub(crate) fn progress(&self) -> String {
        let rate = if self.rate > 0 { format!(", {}/s", bytes(self.rate)) } else { String::new() };
        let left = self.left.map_or_else(String::new, |left| format!(", {} left", span(left)));
        format!("{} % ({} of {}){rate}{left}", self.percent(), self.done, self.total)
    }

    /// For programs.
    pub(crate) fn object(&self) -> Value {
        let time = |ms: u64| (ms > 0).then_some(ms);
        json!({
            "id": self.id,
            "kind": self.kind.as_str(),
            "state": self.state.as_str(),
            "what": self.what,
            "nodes": self.nodes.iter().map(|node| node.as_str()).collect::<Vec<_>>(),
            "percent": self.percent(),
            "done": self.done,
            "total": self.total,
            "records": self.records,
            "bytes": self.bytes,
            "bytes_per_second": self.rate,
            "left_ms": self.left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            "began_ms": time(self.began_ms),
            "ended_ms": time(self.ended_ms),
            "waits_for": self.waits_for,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(node: &str, kind: TaskKind, state: TaskState, done: u64) -> Task {
        Task {
            id: if kind == TaskKind::Rebalance { "layout-3".to_owned() } else { format!("copy-3-{node}") },
            kind,
            node: node.parse().unwrap(),
            state,
            what: "n4 joins".to_owned(),
            change: 3,
            done,
            total: 10,
            records: 5,
            bytes: 4000,
            active_ms: 2000,
            began_ms: 1,
            ended_ms: 0,
            waits_for: Vec::new(),
        }
    }

    #[test]
    fn the_parts_of_several_nodes_are_one_task() {
        let waits = |task: Task| Task { waits_for: vec!["n1 is copying".to_owned()], ..task };
        let tasks = vec![
            task("n1", TaskKind::Copy, TaskState::Paused, 2),
            waits(task("n1", TaskKind::Rebalance, TaskState::Running, 2)),
            task("n2", TaskKind::Rebalance, TaskState::Running, 5),
        ];
        let merged = merge(tasks.clone());
        assert_eq!(merged.iter().map(|task| task.id.as_str()).collect::<Vec<_>>(), ["layout-3", "copy-3-n1"]);
        let whole = &merged[0];
        assert_eq!((whole.done, whole.total, whole.percent(), whole.rate), (7, 20, 35, 4000));
        // The slower of the two: 8 more at a second each.
        assert_eq!(whole.left, Some(Duration::from_secs(8)));
        assert_eq!(whole.waits_for, ["n1 is copying"]);
        assert_eq!(merged[1].left, None, "what is held has no end in sight");
        let ended = merge([tasks, vec![task("n3", TaskKind::Rebalance, TaskState::Cancelled, 0)]].concat());
        assert_eq!(ended[0].state, TaskState::Cancelled, "the others have not heard of it yet");
        assert_eq!(ended[0].object()["state"], "cancelled");
    }
}
