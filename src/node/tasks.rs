//! What this node works on for a while, for administrators: told, held, resumed; and their orders passed on to the others.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::limits;
use crate::node::ask::By;
use crate::node::core::Core;
use crate::node::ownership::tasks;
use crate::node::peers::unexpected;
use crate::node::sync;
use crate::types::NodeId;
use crate::wire::rpc::{Reply, Request, ServeError};
use crate::wire::tasks::{Task, TaskOrder, TasksReport, TasksRequest};

/// Longest wait for one other member.
const PATIENCE: Duration = Duration::from_secs(2);

/// Answers a question or order about tasks. Who may ask what is checked before.
pub(crate) async fn serve(core: &Arc<Core>, request: TasksRequest, until: Instant) -> Result<TasksReport, ServeError> {
    let TasksRequest { order, everywhere } = request;
    if let TaskOrder::Pause(id) | TaskOrder::Resume(id) = &order
        && id.len() > limits::TASK_ID_MAX
    {
        return Err(ServeError::Limit(format!("names of tasks have up to {} bytes", limits::TASK_ID_MAX)));
    }
    let found = match &order {
        TaskOrder::List => true,
        TaskOrder::Pause(id) => tasks::hold(core, id, true).await?,
        TaskOrder::Resume(id) => tasks::hold(core, id, false).await?,
    };
    let own: Vec<Task> = tasks::list(core).into_iter().chain(sync::repair_task(core)).collect();
    let mut report = TasksReport { tasks: own, found, silent: Vec::new() };
    if everywhere {
        let patience = PATIENCE.min(until.saturating_duration_since(Instant::now()));
        pass_on(core, order, patience, &mut report).await;
    }
    Ok(report)
}

/// Asks all others that are connected the same.
async fn pass_on(core: &Core, order: TaskOrder, patience: Duration, report: &mut TasksReport) {
    let view = core.view();
    let mut others: BTreeSet<NodeId> = core.peers.connected().into_iter().collect();
    others.extend(view.members().keys().filter(|node| **node != core.id));
    let one = async |node: NodeId| {
        let request = Request::Tasks(TasksRequest { order: order.clone(), everywhere: false });
        let answer = match core.peers.request(node, request, By::itself(patience)).await {
            Ok(Reply::Tasks(theirs)) => Ok(*theirs),
            Ok(other) => Err(unexpected(other)),
            Err(error) => Err(error),
        };
        (core.peers.name_of(node).unwrap_or_else(|| view.name_of(node)), answer)
    };
    for (name, answer) in join_all(others.into_iter().map(one)).await {
        match answer {
            Ok(theirs) => {
                report.found |= theirs.found;
                report.tasks.extend(theirs.tasks);
            }
            Err(error) => report.silent.push((name, error.why)),
        }
    }
}
