//! `dynamomini members`: who is a member and how it is, as one node sees it.

use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use tokio::time::sleep;

use crate::cli::Context;
use crate::cli::connect::Connect;
use crate::cli::table::row;
use crate::cli::table::span;
use crate::cli::table::table;
use crate::wire::gossip::MemberStatus;
use crate::wire::gossip::MembersReport;

/// Pause between looks with `--watch`.
const PAUSE: Duration = Duration::from_millis(500);

/// Arguments of `members`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The view is that of one node: --node chooses it. STATE is alive, suspect (did not answer some, and has \
time to prove that it is there), failed, or left (ended in order). DATA is its part in owning data: joining members own \
none yet, leaving ones hand it over or drop it, removed ones hold nothing any more or were given up. HEALTH is its storage's. CLOCK is how far its clock is ahead of the others'. The node that answers takes no \
round-trip time of itself.

Examples:
  dynamomini members
  dynamomini members --watch
  dynamomini members --json | jq -r '.members[] | select(.state != \"alive\") | .id'"
)]
pub(crate) struct Args {
    /// Go on, and print again whenever a member's state, health or address changes.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    connect: Connect,
}

impl Args {
    /// Asks and prints.
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let watch = self.watch;
        self.connect.run(context, async |client, _| {
            let mut shown: Option<Vec<MemberStatus>> = None;
            loop {
                let report = client.members().await?;
                let changed = shown.as_ref().is_none_or(|before| differs(before, &report.members));
                if changed {
                    let gap = if shown.is_some() && !context.output.is_json() { "\n" } else { "" };
                    context.output.print(&object(&report), |_| format!("{gap}{}", text(&report)))?;
                    shown = Some(report.members);
                }
                if !watch {
                    return Ok(());
                }
                sleep(PAUSE).await;
            }
        })
    }
}

/// Whether anything changed that is worth another print: not round trips and ages.
fn differs(before: &[MemberStatus], now: &[MemberStatus]) -> bool {
    let told = |members: &[MemberStatus]| -> Vec<MemberStatus> {
        let quiet = |member: &MemberStatus| MemberStatus {
            since_ms: 0,
            rtt_us: None,
            clock_offset_ms: None,
            incarnation: 0,
            ..member.clone()
        };
        members.iter().map(quiet).collect()
    };
    told(before) != told(now)
}

fn text(report: &MembersReport) -> String {
    let head = ["MEMBER", "STATE", "SINCE", "DATA", "HEALTH", "RTT", "CLOCK", "ZONE", "VERSION", "QUIC", "GOSSIP"]
        .map(str::to_owned);
    let mut rows = vec![head.to_vec()];
    for member in &report.members {
        let rtt = member.rtt_us.map_or_else(|| "-".to_owned(), milliseconds);
        let clock = member.clock_offset_ms.map_or_else(|| "-".to_owned(), |offset| format!("{offset:+} ms"));
        rows.push(row([
            member.name.as_str(),
            member.state.as_str(),
            &span(Duration::from_millis(member.since_ms)),
            &member.ownership,
            &member.storage,
            &rtt,
            &clock,
            &member.zone,
            &member.software,
            &member.quic,
            &member.gossip,
        ]));
    }
    let mut text = table(&rows);
    if !report.gossip {
        text.push_str("\nThis node takes no part in gossip: states are what its connections say.\n");
    } else if report.health_factor > 1 {
        let (node, factor) = (&report.node, report.health_factor);
        text.push_str(&format!(
            "\n{node} doubts itself: its own probes go badly, and it waits {factor} times as long.\n"
        ));
    }
    text
}

fn milliseconds(micros: u64) -> String {
    format!("{}.{:02} ms", micros / 1000, micros % 1000 / 10)
}

fn object(report: &MembersReport) -> Value {
    let members: Vec<Value> = report
        .members
        .iter()
        .map(|member| {
            json!({
                "id": member.name.as_str(),
                "state": member.state.as_str(),
                "since_ms": member.since_ms,
                "ownership": member.ownership,
                "health": member.storage,
                "zone": member.zone,
                "weight": member.weight,
                "quic": member.quic,
                "gossip": member.gossip,
                "admin": member.admin,
                "version": member.software,
                "protocol": member.protocol,
                "rtt_us": member.rtt_us,
                "clock_offset_ms": member.clock_offset_ms,
                "certificate_expires_s": member.certificate_expires_s,
                "settings": format!("{:016x}", member.config),
                "incarnation": member.incarnation,
            })
        })
        .collect();
    let counters = report.counters.iter().map(|(name, count)| (name.clone(), json!(count)));
    json!({
        "node": report.node.as_str(),
        "gossip": report.gossip,
        "health_factor": report.health_factor,
        "members": members,
        "counters": counters.collect::<serde_json::Map<_, _>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::gossip::MemberState;

    fn report() -> MembersReport {
        let member = |name: &str, state| MemberStatus {
            name: name.parse().unwrap(),
            state,
            since_ms: 61_000,
            ownership: "active".to_owned(),
            quic: "10.0.0.1:1".to_owned(),
            gossip: "10.0.0.1:2".to_owned(),
            zone: "z".to_owned(),
            weight: 100,
            storage: "ok".to_owned(),
            software: "0.1.0".to_owned(),
            protocol: 1,
            rtt_us: Some(1_234),
            clock_offset_ms: Some(-5),
            certificate_expires_s: 7,
            config: 1,
            incarnation: 2,
            admin: None,
        };
        MembersReport {
            node: "n1".parse().unwrap(),
            gossip: true,
            health_factor: 1,
            members: vec![member("n1", MemberState::Alive), member("n2", MemberState::Failed)],
            counters: vec![("probes".to_owned(), 3)],
        }
    }

    #[test]
    fn a_view_is_shown_to_people_and_programs() {
        let report = report();
        let text = text(&report);
        assert!(text.contains("n2      failed  1m 1s  active  ok      1.23 ms  -5 ms  z     0.1.0"), "{text}");
        let object = object(&report);
        assert_eq!(object["members"][1]["state"], "failed");
        assert_eq!(object["counters"]["probes"], 3);
    }

    #[test]
    fn only_what_people_wait_for_is_printed_again() {
        let (before, mut now) = (report().members, report().members);
        (now[0].rtt_us, now[0].since_ms, now[0].incarnation) = (None, 9, 9);
        assert!(!differs(&before, &now));
        now[1].state = MemberState::Alive;
        assert!(differs(&before, &now));
    }
}
