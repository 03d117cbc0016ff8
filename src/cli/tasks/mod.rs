//! `dynamomini tasks`: what the nodes work on for a while: changes of owners and their parts, repairs.

mod merge;

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::anyhow;
use anyhow::bail;
use clap::Subcommand;
use serde_json::Value;
use serde_json::json;
use tokio::time::Instant;
use tokio::time::sleep;

use crate::cli::Context;
use crate::cli::Said;
use crate::cli::confirm;
use crate::cli::connect::Connect;
use crate::cli::output;
use crate::cli::table::bytes;
use crate::cli::table::row;
use crate::cli::table::span;
use crate::cli::table::table;
use crate::cli::waiting;
use crate::client::Client;
use crate::layout::Change;
use crate::types::NodeName;
use crate::wire::layout::Despite;
use crate::wire::tasks::TaskKind;
use crate::wire::tasks::TaskOrder;
use crate::wire::tasks::TaskState;
use crate::wire::tasks::TasksReport;

pub(crate) use merge::Whole;
pub(crate) use merge::merge;

/// How often is looked how a task gets on.
const PAUSE: Duration = Duration::from_millis(500);

/// Arguments of `tasks`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "KIND is rebalance (a change of owners as a whole), copy (one node's fetching for it), shed (one node's dropping of \
what it owns no more) or repair (comparisons that were asked for). STATE is pending, running, paused, done, failed or \
cancelled. DONE counts partitions, once for each number of copies. A node remembers its last 16 tasks that have ended; of repairs the last one. \
Orders need an administrator's certificate.

Examples:
  dynamomini tasks list
  dynamomini tasks pause layout-7
  dynamomini tasks resume layout-7
  dynamomini tasks wait layout-7 --within 10m
  dynamomini tasks list --json | jq -r '.tasks[] | select(.state == \"running\") | .id'"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the tasks of all nodes, and those that ended lately.
    List {
        #[command(flatten)]
        connect: Connect,
    },
    /// Show one task.
    Show {
        /// The task, as listed.
        id: String,
        #[command(flatten)]
        connect: Connect,
    },
    /// Hold a copy or shed task between two pages, or all copying of a rebalance, also over restarts.
    Pause {
        /// The task, as listed.
        id: String,
        #[command(flatten)]
        connect: Connect,
    },
    /// Go on with a task that is held.
    Resume {
        /// The task, as listed.
        id: String,
        #[command(flatten)]
        connect: Connect,
    },
    /// Give up the change that a rebalance or copy belongs to: owners stay who they are.
    Cancel {
        /// The task, as listed.
        id: String,
        /// Do not ask whether to go on.
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        connect: Connect,
    },
    /// Wait until a task has ended. Exit status 1 when it has not succeeded.
    Wait {
        /// The task, as listed.
        id: String,
        /// How long to wait at most, such as 30s or 5m; by default for as long as it takes.
        #[arg(long, value_name = "SPAN", value_parser = waiting::within)]
        within: Option<Duration>,
        #[command(flatten)]
        connect: Connect,
    },
}

impl Args {
    /// Asks, orders, and prints.
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        match self.what {
            What::List { connect } => connect.run(context, async |client, _| {
                let listed = Listed::of(client.tasks(TaskOrder::List).await?);
                context.output.print(&listed.object(), |_| listed.text(context.env.wall_ms()))
            }),
            What::Show { id, connect } => connect.run(context, async |client, _| {
                let listed = Listed::of(client.tasks(TaskOrder::List).await?);
                show(context, listed.named(&id)?)
            }),
            What::Pause { id, connect } => order(context, connect, &id, TaskOrder::Pause(id.clone())),
            What::Resume { id, connect } => order(context, connect, &id, TaskOrder::Resume(id.clone())),
            What::Cancel { id, yes, connect } => {
                confirm::check(
                    context,
                    yes,
                    "this gives up a change of owners, and what was fetched for it is dropped",
                )?;
                connect.run(context, async |client, _| cancel(context, client, &id, yes).await)
            }
            What::Wait { id, within, connect } => {
                let ended = connect.run(context, async |client, _| wait(client, &id, within).await)?;
                show(context, &ended)?;
                match ended.state {
                    TaskState::Done => Ok(()),
                    _ if context.output.is_json() => Err(Said.into()),
                    state if state.has_ended() => bail!("task {id} is {}", state.as_str()),
                    _ => bail!("task {id} has not ended in time, and goes on"),
                }
            }
        }
    }
}

/// What all nodes told.
struct Listed {
    tasks: Vec<Whole>,
    silent: Vec<(NodeName, String)>,
}

impl Listed {
    fn of(report: TasksReport) -> Self {
        Self { tasks: merge(report.tasks), silent: report.silent }
    }

    fn named(&self, id: &str) -> anyhow::Result<&Whole> {
        let unknown = || anyhow!("no node that answers knows a task {id}: see `dynamomini tasks list`");
        self.tasks.iter().find(|task| task.id == id).ok_or_else(unknown)
    }

    fn object(&self) -> Value {
        let silent = self.silent.iter().map(|(name, why)| json!({"id": name.as_str(), "error": why}));
        json!({"tasks": self.tasks.iter().map(Whole::object).collect::<Vec<_>>(), "silent": silent.collect::<Vec<_>>()})
    }

    fn text(&self, now_ms: u64) -> String {
        let mut rows =
            vec![row(["ID", "KIND", "STATE", "PERCENT", "DONE", "RECORDS", "BYTES", "RATE", "LEFT", "BEGAN", "WHAT"])];
        rows.extend(self.tasks.iter().map(|task| {
            let ago = |ms: u64| {
                if ms == 0 {
                    "-".to_owned()
                } else {
                    format!("{} ago", span(Duration::from_millis(now_ms.saturating_sub(ms))))
                }
            };
            row([
                &task.id,
                task.kind.as_str(),
                task.state.as_str(),
                &format!("{} %", task.percent()),
                &format!("{}/{}", task.done, task.total),
                &task.records.to_string(),
                &bytes(task.bytes),
                &format!("{}/s", bytes(task.rate)),
                &task.left.map_or_else(|| "-".to_owned(), span),
                &ago(task.began_ms),
                &task.what,
            ])
        }));
        let mut text = if self.tasks.is_empty() { "no tasks\n".to_owned() } else { table(&rows) };
        let waiting = self.tasks.iter().filter(|task| !task.state.has_ended() && !task.waits_for.is_empty());
        let waiting: String =
            waiting.map(|task| format!("{} waits: {}\n", task.id, task.waits_for.join("; "))).collect();
        let silent: String = self.silent.iter().map(|(name, why)| format!("{name} was not heard: {why}\n")).collect();
        if !(waiting.is_empty() && silent.is_empty()) {
            text.push_str(&format!("\n{waiting}{silent}"));
        }
        text
    }
}

fn show(context: &Context, task: &Whole) -> anyhow::Result<()> {
    context.output.print(&task.object(), |_| {
        let mut text = format!("{} ({}): {}\n", task.id, task.kind.as_str(), task.what);
        text.push_str(&format!("{}, {}\n", task.state.as_str(), task.progress()));
        text.push_str(&format!("{} records, {}\n", task.records, bytes(task.bytes)));
        task.waits_for.iter().for_each(|what| text.push_str(&format!("waits: {what}\n")));
        text
    })
}

/// Has nodes hold a task or go on with it.
fn order(context: &Context, connect: Connect, id: &str, order: TaskOrder) -> anyhow::Result<()> {
    connect.run(context, async |client, _| {
        let report = client.tasks(order).await?;
        let found = report.found;
        let listed = Listed::of(report);
        let task = listed.named(id)?;
        if !found {
            bail!("a {} cannot be held: only copy and shed tasks, and the copying of a rebalance", task.kind.as_str());
        }
        if task.state.has_ended() {
            bail!("task {id} is {} already", task.state.as_str());
        }
        if !listed.silent.is_empty() && task.kind == TaskKind::Rebalance {
            let names: Vec<&str> = listed.silent.iter().map(|(name, _)| name.as_str()).collect();
            output::note(&format!("not heard, and not told: {}", names.join(", ")));
        }
        show(context, task)
    })
}

async fn cancel(context: &Context, client: &Client, id: &str, yes: bool) -> anyhow::Result<()> {
    let listed = Listed::of(client.tasks(TaskOrder::List).await?);
    let task = listed.named(id)?;
    if task.change == 0 || task.kind == TaskKind::Shed {
        bail!("a {} cannot be cancelled, only held: `dynamomini tasks pause {id}`", task.kind.as_str());
    }
    let under_way = client.refresh().await?.layout().next.as_ref().map(|next| next.since);
    if under_way != Some(task.change) {
        bail!("the change that {id} belongs to is not under way any more");
    }
    if !yes {
        context.output.line(&format!("{}: {}, {}", task.id, task.what, task.progress()))?;
    }
    confirm::ask(yes)?;
    client.change_layout(Change::Cancel, Despite::Nothing).await?;
    let value = json!({"id": id, "state": TaskState::Cancelled.as_str()});
    context.output.print(&value, |_| "the change is given up: owners stay who they are".to_owned())
}

/// Waits until a task has ended; returns how it is then, or when time is up.
async fn wait(client: &Client, id: &str, within: Option<Duration>) -> anyhow::Result<Whole> {
    let began = Instant::now();
    let shows = std::io::stderr().is_terminal();
    let mut known: Option<Whole> = None;
    loop {
        match client.tasks(TaskOrder::List).await {
            Ok(report) => {
                let listed = Listed::of(report);
                match (listed.named(id), &known) {
                    (Ok(task), _) => known = Some(task.clone()),
                    (Err(error), None) => return Err(error),
                    // A node that was restarted has forgotten it, or is silent for a moment.
                    (Err(_), Some(_)) => {}
                }
            }
            Err(error) if known.is_none() => return Err(error.into()),
            Err(error) => tracing::debug!(%error, "no node tells of its tasks now"),
        }
        if let Some(task) = &known {
            if shows {
                output::progress(&task.progress());
            }
            if task.state.has_ended() || within.is_some_and(|within| began.elapsed() >= within) {
                if shows {
                    output::progress("");
                }
                return Ok(task.clone());
            }
        }
        sleep(PAUSE).await;
    }
}
