//! `dynamomini top`: what each node does, second by second.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use clap::ValueEnum;
use serde_json::Value;
use serde_json::json;
use tokio::time::Instant;

use crate::cli::Context;
use crate::cli::connect::Connect;
use crate::cli::rates::Rates;
use crate::cli::table::bytes;
use crate::cli::table::row;
use crate::cli::table::table;
use crate::cli::watch;
use crate::cli::watch::Frame;
use crate::cli::watch::Report;
use crate::meter::Distribution;
use crate::types::NodeName;
use crate::wire::status::NodeStatus;

/// Arguments of `top`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "All figures are of the last interval. PUT/S, GET/S and SCAN/S count keys and pages that clients asked this \
node for; PEER/S counts requests of other coordinators. Latencies are the median and what 1 in 100 exceeds, in milliseconds, \
seen by the node from a request's arrival to its answer; READ and WRITE are calls of the storage, each for many requests. \
CPU is in percent of one core. Estimates come from buckets: they may be off by up to half.

Examples:
  dynamomini top
  dynamomini top --sort p99 --interval 5s
  dynamomini top --json --count 10"
)]
pub(crate) struct Args {
    /// Time between looks: a number and a unit, as in 500ms or 5s.
    #[arg(long, value_name = "SPAN", default_value = "1s", value_parser = watch::interval)]
    interval: Duration,
    /// What comes first.
    #[arg(long, value_enum, value_name = "COLUMN", default_value = "name")]
    sort: Sort,
    /// Stop after so many looks.
    #[arg(long, value_name = "NUMBER")]
    count: Option<u64>,
    #[command(flatten)]
    connect: Connect,
}

/// The order of nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// By name.
    Name,
    /// Most operations first.
    Ops,
    /// Slowest first.
    P99,
    /// Busiest first.
    Cpu,
    /// Most memory first.
    Rss,
    /// Most keys first.
    Keys,
}

/// A node in one interval.
struct Line {
    report: Report,
    rates: Option<Rates>,
}

impl Args {
    /// Shows until ^C.
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let Self { interval, sort, count, connect } = self;
        connect.run(context, async |client, _| {
            let mut before: BTreeMap<NodeName, (Instant, NodeStatus)> = BTreeMap::new();
            let mut is_first = true;
            watch::run(context, interval, count, async || {
                let reports = watch::ask_all(client, watch::patience(interval)).await;
                let now = Instant::now();
                let line = |report: Report| {
                    let status = report.1.as_ref().ok();
                    let rates = status.and_then(|status| {
                        let (at, before) = before.get(&status.node)?;
                        Rates::between(before, status, now.saturating_duration_since(*at))
                    });
                    Line { report, rates }
                };
                let mut lines: Vec<Line> = reports.into_iter().map(line).collect();
                for status in lines.iter().filter_map(|line| line.report.1.as_ref().ok()) {
                    before.insert(status.node.clone(), (now, status.clone()));
                }
                sort.apply(&mut lines);
                // The first look is what the second is compared with.
                let shown = !std::mem::take(&mut is_first);
                shown.then(|| Frame { object: object(&lines, interval), text: text(&lines) })
            })
            .await
        })
    }
}

impl Sort {
    fn apply(self, lines: &mut [Line]) {
        let usage = |line: &Line| line.report.1.as_ref().ok().and_then(|status| status.process);
        let rates = |line: &Line| line.rates.clone().unwrap_or_default();
        // Hundredths are as fine as anybody looks.
        let hundredths = |number: f64| Duration::try_from_secs_f64(number).unwrap_or_default();
        match self {
            Self::Name => lines.sort_by(|a, b| a.report.0.name.cmp(&b.report.0.name)),
            Self::Ops => lines.sort_by_key(|line| Reverse(hundredths(rates(line).operations()))),
            Self::P99 => lines.sort_by_key(|line| Reverse(rates(line).slowest())),
            Self::Cpu => lines.sort_by_key(|line| Reverse(rates(line).cores.map(hundredths))),
            Self::Rss => lines.sort_by_key(|line| Reverse(usage(line).map(|usage| usage.resident))),
            Self::Keys => lines.sort_by_key(|line| Reverse(line.report.1.as_ref().ok().map(|status| status.keys))),
        }
    }
}

/// The state of a node in a word or two.
pub(crate) fn state(status: &NodeStatus) -> &str {
    match status.health.split(':').next().unwrap_or_default() {
        "ok" if status.not_ready.is_empty() => "up",
        "ok" => "not ready",
        health => health,
    }
}

fn text(lines: &[Line]) -> String {
    let head = [
        "NODE", "STATE", "PUT/S", "GET/S", "SCAN/S", "PEER/S", "FAIL/S", "PUT MS", "GET MS", "READ MS", "WRITE MS",
        "KEYS", "BYTES", "HINTS", "CONNS", "BUSY", "CPU", "RSS",
    ];
    let mut rows = vec![row(head)];
    let mut troubles = String::new();
    let mut sum = Rates::default();
    for Line { report: (member, answer), rates } in lines {
        match answer {
            Ok(status) => {
                rows.push(cells(member.name.as_str(), status, rates.as_ref()));
                for reason in &status.not_ready {
                    troubles.push_str(&format!("{}: {reason}\n", member.name));
                }
            }
            Err(error) => {
                rows.push(row([member.name.as_str(), "unreachable"]));
                troubles.push_str(&format!("{}: {error}\n", member.name));
            }
        }
        if let Some(rates) = rates {
            sum.puts += rates.puts;
            sum.gets += rates.gets;
            sum.scans += rates.scans;
            sum.put.merge(&rates.put);
            sum.get.merge(&rates.get);
        }
    }
    let total =
        ["ALL", "", &rate(sum.puts), &rate(sum.gets), &rate(sum.scans), "", "", &millis(&sum.put), &millis(&sum.get)];
    rows.push(row(total));
    let gap = if troubles.is_empty() { "" } else { "\n" };
    format!("{}{gap}{troubles}", table(&rows))
}

fn cells(name: &str, status: &NodeStatus, rates: Option<&Rates>) -> Vec<String> {
    let number = |of: fn(&Rates) -> f64| rates.map_or_else(|| "-".to_owned(), |rates| rate(of(rates)));
    let took = |of: fn(&Rates) -> &Distribution| rates.map_or_else(|| "-".to_owned(), |rates| millis(of(rates)));
    let cores = rates.and_then(|rates| rates.cores);
    row([
        name,
        state(status),
        &number(|rates| rates.puts),
        &number(|rates| rates.gets),
        &number(|rates| rates.scans),
        &number(|rates| rates.replica),
        &number(|rates| rates.failures),
        &took(|rates| &rates.put),
        &took(|rates| &rates.get),
        &took(|rates| &rates.read),
        &took(|rates| &rates.write),
        &status.keys.to_string(),
        &bytes(status.bytes),
        &status.hints.to_string(),
        &status.connections.to_string(),
        &status.in_flight.to_string(),
        &cores.map_or_else(|| "-".to_owned(), |cores| format!("{:.0}%", cores * 100.0)),
        &status.process.map_or_else(|| "-".to_owned(), |usage| bytes(usage.resident)),
    ])
}

fn rate(per_second: f64) -> String {
    if per_second > 0.0 && per_second < 10.0 { format!("{per_second:.1}") } else { format!("{per_second:.0}") }
}

/// Median and what 1 in 100 exceeds, in milliseconds.
fn millis(held: &Distribution) -> String {
    let show = |per_mille| held.per_mille(per_mille).map(|took| format!("{:.1}", took.as_secs_f64() * 1e3));
    match (show(500), show(990)) {
        (Some(median), Some(high)) => format!("{median}/{high}"),
        _ => "-".to_owned(),
    }
}

fn object(lines: &[Line], interval: Duration) -> Value {
    let nodes = lines.iter().map(|Line { report: (member, answer), rates }| match answer {
        Err(error) => json!({"id": member.name.as_str(), "reachable": false, "state": "unreachable", "error": error}),
        Ok(status) => json!({
            "id": member.name.as_str(),
            "reachable": true,
            "state": state(status),
            "rates": rates.as_ref().map(Rates::object),
            "keys": status.keys,
            "bytes": status.bytes,
            "hints": status.hints,
            "connections": status.connections,
            "in_flight": status.in_flight,
            "pid": status.process.map(|usage| usage.pid),
            "rss_bytes": status.process.map(|usage| usage.resident),
            "not_ready": status.not_ready,
        }),
    });
    json!({"interval_s": interval.as_secs_f64(), "nodes": nodes.collect::<Vec<_>>()})
}
