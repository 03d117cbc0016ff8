//! `dynamomini hints`: what nodes keep for others that missed it, and waiting until that has arrived.
//!
//! Nodes deliver hints by themselves; this only looks. When a hint was made is told by the clock of the node that has it.

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::bail;
use serde_json::Value;
use serde_json::json;
use tokio::time::Instant;
use tokio::time::sleep;

use crate::admin;
use crate::cli::Context;
use crate::cli::Said;
use crate::cli::connect::Connect;
use crate::cli::output;
use crate::cli::table::bytes;
use crate::cli::table::row;
use crate::cli::table::span;
use crate::cli::table::table;
use crate::cli::waiting::Waiting;
use crate::cli::watch;
use crate::cli::watch::Report;
use crate::wire::status::NodeStatus;

/// How often it is looked.
const PAUSE: Duration = Duration::from_millis(500);

/// Arguments of `hints`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A hint is kept for an owner that missed a write, by the node that took the write in its place, and delivered \
once the owner is back. HINTS counts those of NODE for TARGET, BYTES is what their markers take. Beyond storage.hints_max \
hints, partitions are marked: all that is kept of them is delivered, and MARKED says how many they are. OLDEST is the age of \
the oldest of both. With --wait it ends when all that was there at its beginning has been delivered, whatever has come since. \
Exit status 1 when a node does not answer, or --within passes first.

Examples:
  dynamomini hints
  dynamomini hints --wait --within 5m"
)]
pub(crate) struct Args {
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    connect: Connect,
}

impl Args {
    /// Asks, waits if told to, and prints.
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let Self { waiting: Waiting { wait, within }, connect } = self;
        let (reports, left) = connect.run(context, async |client, config| {
            let (began, shows) = (Instant::now(), std::io::stderr().is_terminal());
            loop {
                let reports = watch::ask_all(client, config.timeout).await;
                let left = left(&reports, began.elapsed());
                let late = within.is_some_and(|within| began.elapsed() >= within);
                if !wait || left == Some(0) || late {
                    if wait && shows {
                        output::progress("");
                    }
                    return Ok((reports, left));
                }
                if shows {
                    let left = left.map_or_else(|| "not counted yet".to_owned(), |left| format!("{left} left"));
                    output::progress(&format!("hints: {left}"));
                }
                sleep(PAUSE).await;
            }
        })?;
        let nodes: Vec<Value> = reports.iter().map(object).collect();
        context.output.print(&json!({"done": left == Some(0), "nodes": nodes}), |_| text(&reports))?;
        let silent = reports.iter().filter(|(_, answer)| answer.is_err()).count();
        match (silent, wait && left != Some(0)) {
            (0, false) => Ok(()),
            _ if context.output.is_json() => Err(Said.into()),
            (0, true) => bail!("not all hints were delivered in time: a node may be down"),
            _ => bail!("{silent} of {} nodes cannot be reached", reports.len()),
        }
    }
}

/// Hints and marks among which there are some as old as this; `None` while a node does not answer or has not counted all of its own.
fn left(reports: &[Report], age: Duration) -> Option<u64> {
    let mut left = 0;
    for (_, answer) in reports {
        let status = answer.as_ref().ok().filter(|status| status.hints_counted)?;
        let old = status.hints_for.iter().filter(|hints| u128::from(hints.oldest_ms) >= age.as_millis());
        left += old.map(|hints| hints.count + hints.marked).sum::<u64>();
    }
    Some(left)
}

fn text(reports: &[Report]) -> String {
    let mut rows = vec![row(["NODE", "TARGET", "HINTS", "BYTES", "MARKED", "OLDEST"])];
    let mut troubles = String::new();
    for (member, answer) in reports {
        let status: &NodeStatus = match answer {
            Ok(status) => status,
            Err(error) => {
                troubles.push_str(&format!("{}: {error}\n", member.name));
                continue;
            }
        };
        rows.extend(status.hints_for.iter().map(|hints| {
            row([
                member.name.as_str(),
                hints.name.as_str(),
                &hints.count.to_string(),
                &bytes(hints.bytes),
                &hints.marked.to_string(),
                &span(Duration::from_millis(hints.oldest_ms)),
            ])
        }));
        if !status.hints_counted {
            troubles.push_str(&format!("{}: has not counted all of its hints yet\n", member.name));
        }
    }
    if rows.len() == 1 && troubles.is_empty() {
        return "no hints\n".to_owned();
    }
    let gap = if troubles.is_empty() { "" } else { "\n" };
    format!("{}{gap}{troubles}", table(&rows))
}

fn object((member, answer): &Report) -> Value {
    match answer {
        Ok(status) => json!({
            "id": member.name.as_str(),
            "counted": status.hints_counted,
            "hints_for": status.hints_for.iter().map(admin::hints_for).collect::<Vec<_>>(),
        }),
        Err(error) => json!({"id": member.name.as_str(), "error": error.to_string()}),
    }
}
