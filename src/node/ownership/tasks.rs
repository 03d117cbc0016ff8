//! The work on ownership as tasks that administrators see, hold and resume, and those that ended lately.
//!
//! Which tasks are held, and which have ended, is kept in a file; how far those under way are is known from
//! [`Work`](crate::node::ownership::progress::Work) and the layout.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::layout::{Change, Layout, Stage};
use crate::limits;
use crate::node::core::Core;
use crate::node::kept::KeptFile;
use crate::node::ownership::copy;
use crate::node::ownership::kept::save;
use crate::node::ownership::progress::Progress;
use crate::node::timeouts::millis;
use crate::types::NodeName;
use crate::wire::rpc::ServeError;
use crate::wire::tasks::{Task, TaskKind, TaskState};

/// What is kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Kept {
    /// Names of tasks that are held.
    paused: BTreeSet<String>,
    /// Tasks that have ended, oldest first.
    ended: VecDeque<Task>,
}

/// The tasks of one node.
#[derive(Debug)]
pub(crate) struct Tasks {
    kept: Mutex<Kept>,
    file: Option<KeptFile>,
    /// Held while the file is written.
    writing: Arc<tokio::sync::Mutex<()>>,
}

impl Tasks {
    pub(super) fn open(data_dir: Option<&Path>) -> io::Result<Self> {
        let file = data_dir.map(|dir| KeptFile::new(dir, "tasks", b"DMTASKS1"));
        let body = file.as_ref().map(KeptFile::load).transpose()?.flatten();
        // It says what an administrator held; without it everything goes on, which harms nobody.
        let kept = body.and_then(|body| postcard::from_bytes(&body).ok()).unwrap_or_default();
        Ok(Self { kept: Mutex::new(kept), file, writing: Arc::default() })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_paused(&self, id: &str) -> bool {
        self.kept().paused.contains(id)
    }

    async fn write(&self, core: &Core) -> Result<(), ServeError> {
        let turn = self.writing.clone().lock_owned().await;
        let kept = self.kept().clone();
        match &self.file {
            Some(file) => save(file, &kept, turn, &core.rest).await.map(drop),
            None => Ok(()),
        }
    }

    /// Holds a task, or lets it go on. Durable when this returns.
    async fn hold(&self, core: &Core, id: &str, paused: bool) -> Result<(), ServeError> {
        {
            let mut kept = self.kept();
            if paused && kept.paused.len() >= limits::TASKS_PAUSED_MAX {
                let text = format!("{} tasks are held already: resume one first", limits::TASKS_PAUSED_MAX);
                return Err(ServeError::Limit(text));
            }
            let changed = if paused { kept.paused.insert(id.to_owned()) } else { kept.paused.remove(id) };
            if !changed {
                return Ok(());
            }
        }
        self.write(core).await?;
        tracing::warn!(
            task = id,
            "{}",
            if paused { "held by an administrator" } else { "resumed by an administrator" }
        );
        core.ownership.held.notify_waiters();
        Ok(())
    }

    /// Remembers tasks that have ended.
    pub(super) async fn end(&self, core: &Core, tasks: Vec<Task>) {
        {
            let mut kept = self.kept();
            for task in tasks {
                kept.paused.remove(&task.id);
                kept.ended.retain(|ended| ended.id != task.id);
                kept.ended.push_back(task);
            }
            let over = kept.ended.len().saturating_sub(limits::TASKS_ENDED_MAX);
            kept.ended.drain(..over);
        }
        if let Err(error) = self.write(core).await {
            tracing::warn!(%error, "the tasks that have ended cannot be kept");
        }
    }
}

fn whole_id(since: u64) -> String {
    format!("layout-{since}")
}

fn copy_id(since: u64, node: &NodeName) -> String {
    format!("copy-{since}-{node}")
}

fn shed_id(version: u64, node: &NodeName) -> String {
    format!("shed-{version}-{node}")
}

/// Whether this node's fetching for the change under way is held.
pub(crate) fn holds_copying(core: &Core) -> bool {
    let view = core.view();
    let next = view.layout().next.as_ref();
    next.is_some_and(|next| core.ownership.tasks.is_paused(&copy_id(next.since, &core.own_name())))
}

/// Whether this node's dropping by this version of the layout is held.
pub(super) fn holds_shedding(core: &Core, version: u64) -> bool {
    core.ownership.tasks.is_paused(&shed_id(version, &core.own_name()))
}

/// All tasks of this node's part in who owns data.
pub(crate) fn list(core: &Core) -> Vec<Task> {
    let view = core.view();
    let layout = view.layout();
    let mut tasks: Vec<Task> = core.ownership.tasks.kept().ended.iter().cloned().collect();
    if let Some(next) = &layout.next {
        let copy = copy_task(core, layout);
        let mut whole = Task { waits_for: obstacles(core), ..whole_task(core, layout, next.since) };
        if let Some(copy) = &copy {
            (whole.done, whole.total, whole.records, whole.bytes) = (copy.done, copy.total, copy.records, copy.bytes);
            whole.active_ms = copy.active_ms;
            if copy.state == TaskState::Paused {
                whole.state = TaskState::Paused;
            }
        }
        tasks.push(whole);
        tasks.extend(copy);
    }
    tasks.extend(shed_task(core));
    tasks
}

fn obstacles(core: &Core) -> Vec<String> {
    core.ownership.state().obstacles.iter().map(ToString::to_string).collect()
}

fn task(core: &Core, id: String, kind: TaskKind, change: u64) -> Task {
    Task {
        id,
        kind,
        node: core.own_name(),
        state: TaskState::Running,
        what: String::new(),
        change,
        done: 0,
        total: 0,
        records: 0,
        bytes: 0,
        active_ms: 0,
        began_ms: 0,
        ended_ms: 0,
        waits_for: Vec::new(),
    }
}

fn progressed(task: Task, progress: Progress) -> Task {
    Task {
        done: progress.done as u64,
        total: progress.total as u64,
        records: progress.records,
        bytes: progress.bytes,
        active_ms: millis(progress.active),
        began_ms: progress.began_ms,
        ..task
    }
}

fn whole_task(core: &Core, layout: &Layout, since: u64) -> Task {
    let what: Vec<String> = layout.differences().iter().map(Change::describe).collect();
    let stage = layout.stage().map_or("settled", Stage::as_str);
    Task {
        what: format!("{} ({stage})", what.join("; ")),
        began_ms: core.ownership.state().change_began_ms,
        ..task(core, whole_id(since), TaskKind::Rebalance, since)
    }
}

/// This node's fetching for the change under way; `None` when there is nothing to fetch.
fn copy_task(core: &Core, layout: &Layout) -> Option<Task> {
    let next = layout.next.as_ref()?;
    let progress = core.ownership.copying.progress().filter(|progress| progress.since == next.since);
    let name = core.own_name();
    let blank = task(core, copy_id(next.since, &name), TaskKind::Copy, next.since);
    let id = blank.id.clone();
    let blank = Task { what: format!("{name} fetches what it is to own"), ..blank };
    let copied = core.ownership.state().copied;
    let is_begun = progress.is_some_and(|progress| progress.version == layout.version);
    let state = match next.stage {
        Stage::Reading => TaskState::Done,
        Stage::Copying if copied >= layout.version => TaskState::Done,
        _ if core.ownership.tasks.is_paused(&id) => TaskState::Paused,
        Stage::Copying if is_begun => TaskState::Running,
        Stage::Copying | Stage::Spreading => TaskState::Pending,
    };
    let told = match progress {
        Some(progress) if is_begun || next.stage == Stage::Reading => progressed(blank, progress),
        earlier => {
            let (records, bytes) = earlier.map_or((0, 0), |progress| (progress.records, progress.bytes));
            Task { total: copy::wanted(core) as u64, records, bytes, ..blank }
        }
    };
    (told.total > 0).then_some(Task { state, ..told })
}

/// Trees that this node has still to fetch.
pub(crate) fn copies_left(core: &Core) -> u64 {
    let task = copy_task(core, core.view().layout()).filter(|task| task.state != TaskState::Done);
    task.map_or(0, |task| task.total.saturating_sub(task.done))
}

/// This node's dropping, while there is something to drop.
fn shed_task(core: &Core) -> Option<Task> {
    let progress = core.ownership.shedding.progress()?;
    let name = core.own_name();
    let id = shed_id(progress.since, &name);
    let state = if core.ownership.tasks.is_paused(&id) { TaskState::Paused } else { TaskState::Running };
    let what = format!("{name} drops what it owns no more");
    let unfinished = progress.done < progress.total;
    let told = Task { what, state, ..task(core, id, TaskKind::Shed, progress.since) };
    unfinished.then(|| progressed(told, progress))
}

/// The tasks that have ended because this layout took the place of the one before.
pub(super) fn ended_by(core: &Core, before: &Layout, layout: &Layout) -> Vec<Task> {
    let Some(next) = &before.next else { return Vec::new() };
    if layout.next.as_ref().is_some_and(|now| now.since == next.since) {
        return Vec::new();
    }
    // A node that has missed some versions sees it by the outcome.
    let state = if layout.current == next.placement { TaskState::Done } else { TaskState::Cancelled };
    let ended_ms = core.rest.wall_ms();
    let what: Vec<String> = before.differences().iter().map(Change::describe).collect();
    let mut tasks = Vec::new();
    let copy = copy_task(core, before);
    let whole = Task { what: what.join("; "), ..whole_task(core, before, next.since) };
    let whole = match &copy {
        Some(copy) => Task {
            done: copy.done,
            total: copy.total,
            records: copy.records,
            bytes: copy.bytes,
            active_ms: copy.active_ms,
            ..whole
        },
        None => whole,
    };
    tasks.push(Task { state, ended_ms, ..whole });
    tasks.extend(copy.map(|copy| {
        // What was fetched before the rest was cancelled is here all the same, but of no use.
        Task { state, ended_ms, ..copy }
    }));
    tasks
}

/// This node's dropping has ended.
pub(super) async fn shed_ended(core: &Core) {
    let Some(progress) = core.ownership.shedding.progress() else { return };
    let name = core.own_name();
    let what = format!("{name} drops what it owns no more");
    let blank = task(core, shed_id(progress.since, &name), TaskKind::Shed, progress.since);
    let task = Task { what, state: TaskState::Done, ended_ms: core.rest.wall_ms(), ..progressed(blank, progress) };
    core.ownership.tasks.end(core, vec![task]).await;
}

/// Holds a task of this node, or lets it go on. Returns whether it has such a task.
pub(crate) async fn hold(core: &Core, id: &str, paused: bool) -> Result<bool, ServeError> {
    let name = core.own_name();
    let own = list(core).into_iter().find(|task| {
        let is_part = task.kind == TaskKind::Copy && whole_id(task.change) == id;
        (task.id == id || is_part) && matches!(task.kind, TaskKind::Copy | TaskKind::Shed) && task.node == name
    });
    match own {
        Some(task) if task.state.has_ended() => Ok(true),
        Some(task) => core.ownership.tasks.hold(core, &task.id, paused).await.map(|()| true),
        // A node that has nothing to fetch has nothing to hold.
        None => Ok(list(core).iter().any(|task| task.id == id && task.kind == TaskKind::Rebalance)),
    }
}
