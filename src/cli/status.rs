//! `dynamomini status`: how each node is.

use std::time::Duration;

use anyhow::bail;
use serde_json::Value;
use serde_json::json;

use crate::admin;
use crate::cli::Context;
use crate::cli::Said;
use crate::cli::connect::Connect;
use crate::cli::table::bytes;
use crate::cli::table::row;
use crate::cli::table::span;
use crate::cli::table::table;
use crate::cli::watch;
use crate::cli::watch::Frame;
use crate::cli::watch::Report;
use crate::wire::sync::SyncStatus;

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "All nodes are asked at once, each for as long as --timeout says. A node that does not answer is shown \
with the reason, and the exit status is 1. STATE says not ready, and below the table why, where a node cannot do its \
part. KEYS counts tombstones and hints, too; PEERS is how many of the other nodes \
the node has connections to, GOSSIP how many of the members it knows are alive; VERIFIED is how long ago the least recent of \
its comparisons with other owners was made, `-` while some are still to be made (see `repair`).

Examples:
  dynamomini status
  dynamomini status --watch
  dynamomini status --json | jq '.nodes[] | select(.health != \"ok\") | .id'"
)]
pub(crate) struct Args {
    /// Show it again and again, every 2s or as often as given, until ^C.
    #[arg(long, value_name = "SPAN", num_args = 0..=1, default_missing_value = "2s", value_parser = watch::interval)]
    watch: Option<Duration>,
    /// With --watch: stop after so many times.
    #[arg(long, value_name = "NUMBER", requires = "watch")]
    count: Option<u64>,
    #[command(flatten)]
    connect: Connect,
}

impl Args {
    /// Asks and prints.
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let Self { watch: interval, count, connect } = self;
        if let Some(interval) = interval {
            return connect.run(context, async |client, _| {
                watch::run(context, interval, count, async || {
                    let reports = watch::ask_all(client, watch::patience(interval)).await;
                    let cluster = client.view().info().cluster.clone();
                    Some(Frame { object: whole(cluster.as_str(), &reports), text: text(&reports) })
                })
                .await
            });
        }
        let (cluster, reports) = connect.run(context, async |client, config| {
            let reports = watch::ask_all(client, config.timeout).await;
            Ok((client.view().info().cluster.clone(), reports))
        })?;
        context.output.print(&whole(cluster.as_str(), &reports), |_| text(&reports))?;
        match reports.iter().filter(|(_, answer)| answer.is_err()).count() {
            0 => Ok(()),
            _ if context.output.is_json() => Err(Said.into()),
            silent => bail!("{silent} of {} nodes cannot be reached", reports.len()),
        }
    }
}

fn whole(cluster: &str, reports: &[Report]) -> Value {
    json!({"cluster": cluster, "nodes": reports.iter().map(object).collect::<Vec<_>>()})
}

fn text(reports: &[Report]) -> String {
    let head = [
        "NODE", "STATE", "VERSION", "ENGINE", "HEALTH", "EPOCH", "KEYS", "BYTES", "HINTS", "VERIFIED", "UPTIME",
        "PEERS", "GOSSIP",
    ];
    let mut rows = vec![row(head)];
    let mut troubles = String::new();
    for (member, answer) in reports {
        let Ok(status) = answer else {
            rows.push(row([member.name.as_str(), "unreachable"]));
            continue;
        };
        let up = status.peers.iter().filter(|peer| peer.state == "up").count();
        let health = status.health.split(':').next().unwrap_or_default();
        rows.push(row([
            member.name.as_str(),
            if status.not_ready.is_empty() { "up" } else { "not ready" },
            &status.version,
            &status.engine,
            health,
            &status.epoch.to_string(),
            &status.keys.to_string(),
            &bytes(status.bytes),
            &status.hints.to_string(),
            &verified(&status.sync),
            &span(Duration::from_secs(status.uptime_s)),
            &format!("{up}/{}", status.peers.len()),
            &status.gossip,
        ]));
        if status.health != "ok" {
            troubles.push_str(&format!("{}: {}\n", member.name, status.health));
        }
        for reason in &status.not_ready {
            troubles.push_str(&format!("{}: {reason}\n", member.name));
        }
        for text in &status.layout.overruled {
            troubles.push_str(&format!("{}: {text}\n", member.name));
        }
        for peer in status.peers.iter().filter(|peer| peer.state != "up") {
            troubles.push_str(&format!("{}: its peer {} is {}\n", member.name, peer.name, peer.state));
        }
    }
    troubles.push_str(&under_way(reports));
    for (member, answer) in reports {
        if let Err(error) = answer {
            troubles.push_str(&format!("{}: {error}\n", member.name));
        }
    }
    let gap = if troubles.is_empty() { "" } else { "\n" };
    format!("{}{gap}{troubles}", table(&rows))
}

/// The change of owners that is under way by the latest that a node knows.
fn under_way(reports: &[Report]) -> String {
    let known = reports.iter().filter_map(|(_, answer)| Some(&answer.as_ref().ok()?.layout));
    let Some(change) = known.max_by_key(|layout| layout.version).and_then(|layout| layout.change.as_ref()) else {
        return String::new();
    };
    let (since, stage, what) = (change.since, change.stage.as_str(), change.what.join("; "));
    format!("owners change (layout-{since}, {stage}): {what}; see `dynamomini tasks list`\n")
}

/// How long ago all was equal, as far as compared.
fn verified(sync: &SyncStatus) -> String {
    let oldest = sync.peers.iter().map(|peer| peer.oldest_ms).collect::<Option<Vec<u64>>>().unwrap_or_default();
    oldest.into_iter().max().map_or_else(|| "-".to_owned(), |age| span(Duration::from_millis(age)))
}

fn object((member, answer): &Report) -> Value {
    let mut object = json!({
        "id": member.name.as_str(),
        "quic": member.quic,
        "zone": member.zone.as_str(),
        "weight": member.weight,
        "reachable": answer.is_ok(),
    });
    let more = match answer {
        Err(error) => json!({"error": error}),
        Ok(status) => admin::report(status),
    };
    if let (Some(fields), Value::Object(more)) = (object.as_object_mut(), more) {
        fields.extend(more);
    }
    object
}
