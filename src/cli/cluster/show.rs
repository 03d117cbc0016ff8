//! `dynamomini cluster show`: who has which part in owning data, and the change that is under way.

use serde_json::Value;
use serde_json::json;

use crate::cli::Context;
use crate::cli::cluster::wait::Heard;
use crate::cli::cluster::wait::hear;
use crate::cli::connect::Connect;
use crate::cli::table::row;
use crate::cli::table::table;
use crate::layout::Change;
use crate::layout::Role;
use crate::layout::Stage;
use crate::types::NodeName;

/// Asks all members and prints.
pub(super) fn run(context: &Context, connect: Connect) -> anyhow::Result<()> {
    connect.run(context, async |client, _| {
        let heard = hear(client).await?;
        context.output.print(&object(&heard), |_| text(&heard))
    })
}

/// The part of a member.
fn part(heard: &Heard, name: &NodeName) -> &'static str {
    let layout = &heard.layout;
    let after = layout.next.as_ref().map(|next| next.placement.has(name));
    match (layout.current.has(name), after) {
        (true, Some(false)) if layout.dead().any(|dead| dead == name) => "removed",
        (true, Some(false)) => "leaving",
        (true, _) => "active",
        (false, _) => "joining",
    }
}

fn members(heard: &Heard) -> Vec<(&NodeName, &Role)> {
    heard.layout.members().into_iter().collect()
}

fn text(heard: &Heard) -> String {
    let mut rows =
        vec![row(["NODE", "PART", "ZONE", "WEIGHT", "PLACED AS", "WORKS BY", "CONFIRMED", "COPIED", "QUIC"])];
    let mut troubles = String::new();
    for (name, role) in members(heard) {
        let said = heard.shown.iter().find(|(asked, _)| asked == name).map(|(_, shown)| shown);
        let report = match said {
            Some(Ok(shown)) => {
                [shown.report.adopted, shown.report.confirmed, shown.report.copied].map(|at| at.to_string())
            }
            Some(Err(error)) => {
                troubles.push_str(&format!("{name}: {error}\n"));
                ["-", "-", "-"].map(str::to_owned)
            }
            None => ["-", "-", "-"].map(str::to_owned),
        };
        let [adopted, confirmed, copied] = &report;
        let seat = if role.seat == *name { "itself" } else { role.seat.as_str() };
        let weight = role.weight.to_string();
        rows.push(row([
            name.as_str(),
            part(heard, name),
            role.zone.as_str(),
            &weight,
            seat,
            adopted,
            confirmed,
            copied,
            &role.quic,
        ]));
    }
    let mut text = format!("layout of version {}\n\n{}", heard.layout.version, table(&rows));
    match &heard.layout.next {
        None => text.push_str("\nno change is under way\n"),
        Some(next) => {
            text.push_str(&format!("\nchange layout-{} is under way ({}):\n", next.since, next.stage.as_str()));
            let changes = heard.layout.differences();
            changes.iter().for_each(|change| text.push_str(&format!("  {}\n", change.describe())));
            heard.obstacles.iter().for_each(|obstacle| text.push_str(&format!("waits: {obstacle}\n")));
        }
    }
    let gap = if troubles.is_empty() { "" } else { "\n" };
    format!("{text}{gap}{troubles}")
}

fn object(heard: &Heard) -> Value {
    let layout = &heard.layout;
    let member = |(name, role): (&NodeName, &Role)| {
        let said = heard.shown.iter().find(|(asked, _)| asked == name).and_then(|(_, shown)| shown.as_ref().ok());
        json!({
            "id": name.as_str(), "part": part(heard, name), "zone": role.zone.as_str(), "weight": role.weight,
            "placed_as": role.seat.as_str(), "quic": role.quic,
            "adopted": said.map(|shown| shown.report.adopted),
            "confirmed": said.map(|shown| shown.report.confirmed),
            "copied": said.map(|shown| shown.report.copied),
        })
    };
    json!({
        "version": layout.version,
        "task": layout.next.as_ref().map(|next| format!("layout-{}", next.since)),
        "stage": layout.stage().map_or("settled", Stage::as_str),
        "changes": layout.differences().iter().map(Change::describe).collect::<Vec<_>>(),
        "waits_for": heard.obstacles,
        "confirmed": heard.confirmed,
        "members": members(heard).into_iter().map(member).collect::<Vec<_>>(),
    })
}
