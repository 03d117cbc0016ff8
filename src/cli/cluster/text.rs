//! A plan for people and for programs.

use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use crate::cli::cluster::facts::Situation;
use crate::cli::table::bytes;
use crate::cli::table::row;
use crate::cli::table::span;
use crate::cli::table::table;
use crate::layout::Change;
use crate::plan::NodePlan;
use crate::plan::Plan;
use crate::plan::RingPlan;

/// The plan as text.
pub(super) fn text(plan: &Plan, situation: &Situation) -> String {
    let mut text = String::new();
    match plan.changes.as_slice() {
        [] => text.push_str("plan: no change is under way afterwards; owners stay who they are\n"),
        changes => changes.iter().for_each(|change| text.push_str(&format!("plan: {}\n", change.describe()))),
    }
    text.push_str(&format!("\n{}", nodes(plan)));
    if plan.zones.len() > 1 {
        text.push_str(&format!("\n{}", zones(plan)));
    }
    text.push_str(&format!("\n{}\n", moves(plan, situation)));
    for ring in &plan.rings {
        let (now, then) = ring.max_over_mean;
        text.push_str(&format!(
            "of {} copies, {} answer now, {} at least while it goes on; max/mean {now:.3} now, {then:.3} afterwards\n",
            ring.copies,
            ring.live_now,
            least(ring)
        ));
    }
    plan.notes.iter().for_each(|note| text.push_str(&format!("note: {note}\n")));
    plan.dangers.iter().for_each(|danger| text.push_str(&format!("not safe: {danger}\n")));
    text
}

/// How many owners answer at the worst moment; of both placements where there are to be more or fewer.
fn least(ring: &RingPlan) -> String {
    let (present, next) = ring.live_least;
    if ring.copies.is_changing() {
        format!("{present} of the present and {next} of the next")
    } else {
        present.min(next).to_string()
    }
}

fn nodes(plan: &Plan) -> String {
    let mut rows =
        vec![row(["NODE", "STATE", "ZONE", "WEIGHT", "OWNS", "THEN", "FETCHES", "BYTES", "GIVES UP", "RATIO"])];
    rows.extend(plan.nodes.iter().map(|node| {
        let weight = |weight: Option<u32>| weight.map_or_else(|| "-".to_owned(), |weight| weight.to_string());
        let weight = match node.weight {
            (before, after) if before == after => weight(before),
            (before, after) => format!("{} > {}", weight(before), weight(after)),
        };
        row([
            node.name.as_str(),
            if node.alive { "up" } else { "down" },
            node.zone.as_str(),
            &weight,
            &node.owned.0.to_string(),
            &node.owned.1.to_string(),
            &node.gains.to_string(),
            &node.bytes.map_or_else(|| "?".to_owned(), bytes),
            &node.loses.to_string(),
            &format!("{:.3}", node.ratio),
        ])
    }));
    table(&rows)
}

fn zones(plan: &Plan) -> String {
    let mut rows = vec![row(["ZONE", "NODES", "THEN", "OWNS", "THEN"])];
    rows.extend(plan.zones.iter().map(|zone| {
        let numbers =
            [zone.nodes.0.to_string(), zone.nodes.1.to_string(), zone.owned.0.to_string(), zone.owned.1.to_string()];
        let [before, after, owns, then] = &numbers;
        row([zone.name.as_str(), before, after, owns, then])
    }));
    table(&rows)
}

fn moves(plan: &Plan, situation: &Situation) -> String {
    let rate = bytes(situation.facts.rate);
    let source = if situation.measured { "as it did last" } else { "assumed: nothing was measured here yet" };
    let about = match (plan.bytes, plan.takes) {
        (Some(moved), Some(takes)) => format!(
            ", about {} if all are alike; about {} at {rate}/s into each node ({source})",
            bytes(moved),
            minutes(takes)
        ),
        _ => String::new(),
    };
    format!("{} copies of partitions are made ({} at least){about}", plan.copies, plan.least_copies)
}

/// A span that is an estimate.
fn minutes(takes: Duration) -> String {
    if takes < Duration::from_secs(60) { "a minute or less".to_owned() } else { span(takes) }
}

/// The plan as one object.
pub(super) fn object(plan: &Plan, situation: &Situation) -> Value {
    let node = |node: &NodePlan| {
        json!({
            "id": node.name.as_str(), "alive": node.alive, "zone": node.zone.as_str(),
            "weight": node.weight.0, "weight_after": node.weight.1, "owned": node.owned.0, "owned_after": node.owned.1,
            "fetches": node.gains, "gives_up": node.loses, "bytes": node.bytes, "ratio_after": node.ratio,
        })
    };
    let zones = plan.zones.iter().map(|zone| {
        json!({
            "zone": zone.name.as_str(), "nodes": zone.nodes.0, "nodes_after": zone.nodes.1,
            "owned": zone.owned.0, "owned_after": zone.owned.1,
        })
    });
    let rings = plan.rings.iter().map(|ring| {
        json!({
            "n": ring.copies.now, "n_after": ring.copies.next, "live_now": ring.live_now,
            "live_least": ring.live_least.0, "live_least_after": ring.live_least.1,
            "max_over_mean": ring.max_over_mean.0, "max_over_mean_after": ring.max_over_mean.1,
        })
    });
    json!({
        "version": situation.view.version(),
        "changes": plan.changes.iter().map(Change::describe).collect::<Vec<_>>(),
        "copies": plan.copies,
        "least_copies": plan.least_copies,
        "bytes": plan.bytes,
        "seconds": plan.takes.map(|takes| takes.as_secs()),
        "bytes_per_second": situation.facts.rate,
        "rate_measured": situation.measured,
        "nodes": plan.nodes.iter().map(node).collect::<Vec<_>>(),
        "zones": zones.collect::<Vec<_>>(),
        "rings": rings.collect::<Vec<_>>(),
        "notes": plan.notes,
        "not_safe": plan.dangers,
    })
}
