//! Waiting until a change is settled, with what it waits for meanwhile.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::time::Duration;

use anyhow::bail;
use futures_util::future::join_all;
use serde_json::Value;
use serde_json::json;
use tokio::time::Instant;
use tokio::time::sleep;

use crate::cli::output;
use crate::cli::table::span;
use crate::cli::tasks;
use crate::client::Client;
use crate::layout::Change;
use crate::layout::ChangeError;
use crate::layout::Layout;
use crate::types::NodeName;
use crate::wire::layout::Shown;
use crate::wire::tasks::TaskOrder;

/// Pause between looks.
const PAUSE: Duration = Duration::from_millis(500);

/// What came of waiting.
pub(crate) enum Waited {
    /// It is done, everywhere.
    Done(Duration),
    /// It was given up.
    Cancelled,
    /// Time was up.
    TooLong(Vec<String>),
}

impl Waited {
    /// Whether it is done.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Done(_))
    }

    /// For programs.
    pub(crate) fn object(&self) -> Value {
        match self {
            Self::Done(took) => {
                json!({"outcome": "done", "took_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX)})
            }
            Self::Cancelled => json!({"outcome": "cancelled"}),
            Self::TooLong(waits_for) => json!({"outcome": "timed-out", "waits_for": waits_for}),
        }
    }

    /// For people.
    ///
    /// # Errors
    /// When it is not done.
    pub(crate) fn text(&self) -> anyhow::Result<String> {
        match self {
            Self::Done(took) => Ok(format!("settled after {}", span(*took))),
            Self::Cancelled => bail!("the change was given up before it was done: see `dynamomini tasks list`"),
            Self::TooLong(waits_for) if waits_for.is_empty() => bail!("it is not settled yet, and goes on"),
            Self::TooLong(waits_for) => bail!("it is not settled yet, and goes on; it waits: {}", waits_for.join("; ")),
        }
    }
}

/// All that members say of the layout: the latest, whether all that answer have confirmed it, what the leader waits for.
pub(super) struct Heard {
    pub(super) layout: Layout,
    pub(super) confirmed: bool,
    pub(super) obstacles: Vec<String>,
    pub(super) shown: Vec<(NodeName, Result<Shown, String>)>,
}

/// Asks all members.
pub(super) async fn hear(client: &Client) -> anyhow::Result<Heard> {
    // While nobody answers, those known last are asked.
    if let Err(error) = client.refresh().await {
        tracing::debug!(%error, "the cluster cannot be learnt anew");
    }
    let view = client.view();
    let names: Vec<NodeName> = view.info().members.iter().map(|member| member.name.clone()).collect();
    let asked = names.into_iter().map(async |name| {
        let shown = client.layout(&name).await.map_err(|error| error.to_string());
        (name, shown)
    });
    let shown = join_all(asked).await;
    let answers = || shown.iter().filter_map(|(_, shown)| shown.as_ref().ok());
    let latest = answers().map(|shown| &shown.layout).max_by_key(|layout| layout.version);
    let layout = latest.unwrap_or_else(|| view.layout()).clone();
    let at = |shown: &&Shown| shown.layout.version == layout.version;
    let obstacles: BTreeSet<String> =
        answers().filter(at).flat_map(|shown| shown.obstacles.iter().map(ToString::to_string)).collect();
    let confirmed = layout.version == 0 || answers().all(|shown| shown.report.confirmed >= layout.version);
    Ok(Heard { confirmed, obstacles: obstacles.into_iter().collect(), layout, shown })
}

/// Waits until a change that began with this version is done or given up, and everybody that answers works by the outcome.
pub(crate) async fn wait(
    client: &Client,
    change: &Change,
    version: u64,
    within: Option<Duration>,
) -> anyhow::Result<Waited> {
    let began = Instant::now();
    let shows = std::io::stderr().is_terminal();
    let waited = loop {
        let heard = hear(client).await?;
        if heard.layout.version >= version && heard.layout.next.is_none() && heard.confirmed {
            break if holds(change, &heard.layout) { Waited::Done(began.elapsed()) } else { Waited::Cancelled };
        }
        if within.is_some_and(|within| began.elapsed() >= within) {
            break Waited::TooLong(heard.obstacles);
        }
        if shows {
            output::progress(&progress(client, &heard).await);
        }
        sleep(PAUSE).await;
    };
    if shows {
        output::progress("");
    }
    Ok(waited)
}

/// Whether a layout is as the change wants it.
pub(super) fn holds(change: &Change, layout: &Layout) -> bool {
    matches!(change.apply(layout), Err(ChangeError::Nothing(_) | ChangeError::Member(_) | ChangeError::NotAMember(_)))
}

async fn progress(client: &Client, heard: &Heard) -> String {
    let stage = heard.layout.stage().map_or("settling", |stage| stage.as_str());
    let since = heard.layout.next.as_ref().map(|next| next.since);
    let tasks = client.tasks(TaskOrder::List).await.map(|report| tasks::merge(report.tasks)).unwrap_or_default();
    let whole = tasks.iter().find(|task| Some(task.change) == since);
    let share = whole.map_or_else(String::new, |task| format!(", {}", task.progress()));
    let waits =
        if heard.obstacles.is_empty() { String::new() } else { format!("; waits: {}", heard.obstacles.join("; ")) };
    format!("{stage}{share}{waits}")
}
