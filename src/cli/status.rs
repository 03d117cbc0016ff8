//! `dynamomini status`: how each node is.

use std::time::Duration;

use anyhow::bail;
use futures_util::future::join_all;
use serde_json::Value;
use serde_json::json;

use crate::cli::Context;
use crate::cli::Said;
use crate::cli::connect::Connect;
use crate::cli::table::bytes;
use crate::cli::table::row;
use crate::cli::table::span;
use crate::cli::table::table;
use crate::client::ClientError;
use crate::wire::rpc::MemberInfo;
use crate::wire::rpc::NodeStatus;

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "All nodes are asked at once, each for as long as --timeout says. A node that does not answer is shown \
with the reason, and the exit status is 1. KEYS counts tombstones and hints, too; PEERS is how many of the other nodes \
the node has connections to, GOSSIP how many of the members it knows are alive.

Examples:
  dynamomini status
  dynamomini status --json | jq '.nodes[] | select(.health != \"ok\") | .id'"
)]
pub(crate) struct Args {
    #[command(flatten)]
    connect: Connect,
}

type Report = (MemberInfo, Result<NodeStatus, ClientError>);

impl Args {
    /// Asks and prints.
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let (cluster, reports) = self.connect.run(context, async |client, _| {
            let view = client.view();
            let members = &view.info().members;
            let answers = join_all(members.iter().map(|member| client.status(&member.name))).await;
            Ok((view.info().cluster.clone(), members.iter().cloned().zip(answers).collect::<Vec<Report>>()))
        })?;
        let nodes: Vec<Value> = reports.iter().map(object).collect();
        context.output.print(&json!({"cluster": cluster.as_str(), "nodes": nodes}), |_| text(&reports))?;
        match reports.iter().filter(|(_, answer)| answer.is_err()).count() {
            0 => Ok(()),
            _ if context.output.is_json() => Err(Said.into()),
            silent => bail!("{silent} of {} nodes cannot be reached", reports.len()),
        }
    }
}

fn text(reports: &[Report]) -> String {
    let head = [
        "NODE", "STATE", "VERSION", "ENGINE", "HEALTH", "EPOCH", "KEYS", "BYTES", "HINTS", "UPTIME", "PEERS", "GOSSIP",
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
            "up",
            &status.version,
            &status.engine,
            health,
            &status.epoch.to_string(),
            &status.keys.to_string(),
            &bytes(status.bytes),
            &status.hints.to_string(),
            &span(Duration::from_secs(status.uptime_s)),
            &format!("{up}/{}", status.peers.len()),
            &status.gossip,
        ]));
        if status.health != "ok" {
            troubles.push_str(&format!("{}: {}\n", member.name, status.health));
        }
        for peer in status.peers.iter().filter(|peer| peer.state != "up") {
            troubles.push_str(&format!("{}: its peer {} is {}\n", member.name, peer.name, peer.state));
        }
    }
    for (member, answer) in reports {
        if let Err(error) = answer {
            troubles.push_str(&format!("{}: {error}\n", member.name));
        }
    }
    let gap = if troubles.is_empty() { "" } else { "\n" };
    format!("{}{gap}{troubles}", table(&rows))
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
        Err(error) => json!({"error": error.to_string()}),
        Ok(status) => json!({
            "version": status.version,
            "uptime_s": status.uptime_s,
            "engine": status.engine,
            "epoch": status.epoch.to_string(),
            "health": status.health,
            "keys": status.keys,
            "bytes": status.bytes,
            "hints": status.hints,
            "gossip": status.gossip,
            "peers": status.peers.iter().map(|peer| json!({
                "id": peer.name.as_str(), "quic": peer.quic, "state": peer.state, "rtt_us": peer.rtt_us,
            })).collect::<Vec<_>>(),
            "counters": status.counters.iter().map(|(name, count)| (name.clone(), json!(count)))
                .collect::<serde_json::Map<_, _>>(),
        }),
    };
    if let (Some(fields), Value::Object(more)) = (object.as_object_mut(), more) {
        fields.extend(more);
    }
    object
}
