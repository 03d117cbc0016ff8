//! The report of a run: one value, as JSON for programs and as text for people.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cli::bench::attempts::Attempts;
use crate::cli::bench::draw;
use crate::cli::bench::measure::Measured;
use crate::cli::bench::measure::Point;
use crate::cli::bench::mix::Kind;
use crate::cli::bench::processes::Process;
use crate::cli::bench::processes::Usage;
use crate::cli::bench::recorder::Latencies;
use crate::cli::table;

/// What was asked for.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Asked {
    pub(super) mix: String,
    pub(super) distribution: String,
    pub(super) keys: u64,
    pub(super) key_size: String,
    pub(super) value_size: String,
    pub(super) clients: usize,
    pub(super) in_flight: usize,
    /// Operations a second; `None` for a closed loop.
    pub(super) rate: Option<u64>,
    pub(super) seed: u64,
    pub(super) namespace: String,
    /// `None` as the namespace says.
    pub(super) r: Option<String>,
    pub(super) w: Option<String>,
    /// Whether writes carried the contexts that the run had seen.
    pub(super) contexts: bool,
    /// Whether the clients asked a second node when one was slow.
    pub(super) hedging: bool,
}

/// The latencies of some operations, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
struct Summary {
    operations: u64,
    per_second: f64,
    mean: f64,
    min: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
}

#[derive(Debug, Clone, Serialize)]
struct ErrorKind {
    count: u64,
    example: String,
}

/// What a process used during the measurement; `None` where it was gone at the end, or started meanwhile.
#[derive(Debug, Clone, Serialize)]
struct ProcessUse {
    node: String,
    program: String,
    pid: u32,
    cpu_s: Option<f64>,
    rss_bytes: Option<u64>,
}

/// What was asked for and what came of it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    asked: Asked,
    interrupted: bool,
    seconds: f64,
    /// Of operations that succeeded; `None` when none did.
    all: Option<Summary>,
    kinds: BTreeMap<&'static str, Summary>,
    failed: Option<Summary>,
    errors: u64,
    error_kinds: BTreeMap<&'static str, ErrorKind>,
    not_begun: u64,
    missing: u64,
    siblings: u64,
    settled: u64,
    contexts_refused: u64,
    requests: Attempts,
    processes: Vec<ProcessUse>,
    node_cpu_s_per_1000: Option<f64>,
    own_cpu_s_per_1000: Option<f64>,
    own_rss_bytes: Option<u64>,
    timeline: Vec<Moment>,
}

/// A point of the line of time.
#[derive(Debug, Clone, Copy, Serialize)]
struct Moment {
    at_s: f64,
    per_second: f64,
    errors: u64,
    p50: Option<f64>,
    p99: Option<f64>,
    max: Option<f64>,
}

impl From<&Point> for Moment {
    fn from(point: &Point) -> Self {
        let Point { at_s, per_second, errors, p50_ms, p99_ms, max_ms } = *point;
        Self { at_s, per_second, errors, p50: p50_ms, p99: p99_ms, max: max_ms }
    }
}

/// The use that processes made of the machine, by what they had used at two moments.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// The cluster's, with what each had used at the beginning.
    pub(super) nodes: Vec<(Process, Option<Usage>)>,
    /// This program.
    pub(super) own: Option<(Process, Option<Usage>)>,
}

impl Watched {
    /// Looks at these processes, and at this one, for the first time.
    pub(super) fn begin(nodes: &[Process], own: Option<&Process>) -> Self {
        let look = |process: &Process| (process.clone(), process.usage());
        Self { nodes: nodes.iter().map(look).collect(), own: own.map(look) }
    }
}

fn used(watched: &(Process, Option<Usage>)) -> ProcessUse {
    let (process, before) = watched;
    let after = process.usage();
    let cpu_s = after.zip(*before).map(|(after, before)| after.cpu_s - before.cpu_s);
    let Process { node, program, pid, .. } = process.clone();
    ProcessUse { node, program, pid, cpu_s, rss_bytes: after.map(|after| after.rss) }
}

impl Report {
    /// Puts together what is known. The processes are looked at once more.
    pub(super) fn new(
        asked: Asked,
        measured: &Measured,
        watched: &Watched,
        (contexts_refused, requests): (u64, Attempts),
    ) -> Self {
        let Measured { total, elapsed, points, interrupted } = measured;
        let seconds = elapsed.as_secs_f64();
        let summary = |latencies: &Latencies| summary(latencies, seconds);
        let all = total.all();
        let per_1000 = |cpu_s: f64| (all.count() > 0).then(|| cpu_s * 1_000.0 / draw::float(all.count()));
        let processes: Vec<ProcessUse> = watched.nodes.iter().map(used).collect();
        // A sum without those that are gone would look like a saving.
        let node_cpu_s = processes.iter().map(|process| process.cpu_s).sum::<Option<f64>>();
        let own = watched.own.as_ref().map(used);
        let kinds = total.kinds.iter().filter_map(|(kind, latencies)| Some((kind.name(), summary(latencies)?)));
        let errors = total.errors.iter();
        Self {
            asked,
            interrupted: *interrupted,
            seconds,
            all: summary(&all),
            kinds: kinds.collect(),
            failed: summary(&total.failed),
            errors: total.failed.count(),
            error_kinds: errors
                .map(|(kind, errors)| (*kind, ErrorKind { count: errors.count, example: errors.example.clone() }))
                .collect(),
            not_begun: total.unsent,
            missing: total.missing,
            siblings: total.siblings,
            settled: total.settled,
            contexts_refused,
            requests,
            node_cpu_s_per_1000: node_cpu_s.filter(|_| !processes.is_empty()).and_then(per_1000),
            own_cpu_s_per_1000: own.as_ref().and_then(|own| own.cpu_s).and_then(per_1000),
            own_rss_bytes: own.and_then(|own| own.rss_bytes),
            processes,
            timeline: points.iter().map(Moment::from).collect(),
        }
    }

    /// How many operations failed, and how many were not begun.
    pub(super) fn shortfall(&self) -> (u64, u64) {
        (self.errors, self.not_begun)
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = self.head();
        text.push_str(&self.table());
        text.push_str(&self.remarks());
        text.push_str(&self.machine());
        text
    }

    fn head(&self) -> String {
        let Asked { mix, distribution, keys, key_size, value_size, clients, in_flight, rate, .. } = &self.asked;
        let loop_ = match rate {
            Some(rate) => format!("open loop at {rate}/s, latencies from when each should have begun"),
            None => "closed loop".to_owned(),
        };
        let plural = if *clients == 1 { "" } else { "s" };
        let early = if self.interrupted { ", ended early" } else { "" };
        format!(
            "{mix}: {keys} keys {distribution}, keys of {key_size} B, values of {value_size} B\n\
             {loop_}; {in_flight} in flight over {clients} client{plural}; {:.1} s{early}\n\n",
            self.seconds
        )
    }

    fn table(&self) -> String {
        let head = ["", "COUNT", "PER SECOND", "MEAN ms", "P50", "P90", "P99", "P99.9", "MAX"];
        let mut rows = vec![table::row(head)];
        let several = self.kinds.len() > 1;
        let kinds = Kind::ALL.iter().filter_map(|kind| Some((kind.name(), *self.kinds.get(kind.name())?)));
        let all = self.all.filter(|_| several || self.kinds.is_empty()).map(|all| ("all", all));
        for (name, one) in kinds.chain(all).chain(self.failed.map(|failed| ("failed", failed))) {
            let ms = |ms: f64| format!("{ms:.3}");
            rows.push(table::row([
                name,
                &one.operations.to_string(),
                &format!("{:.0}", one.per_second),
                &ms(one.mean),
                &ms(one.p50),
                &ms(one.p90),
                &ms(one.p99),
                &ms(one.p99_9),
                &ms(one.max),
            ]));
        }
        if rows.len() == 1 { "nothing was measured\n".to_owned() } else { table::table(&rows) }
    }

    fn remarks(&self) -> String {
        let mut text = String::new();
        for (kind, ErrorKind { count, example }) in &self.error_kinds {
            text.push_str(&format!("{count} errors, {kind}: {example}\n"));
        }
        let remarks = [
            (self.not_begun, "operations were never begun: the cluster was behind until the end"),
            (self.missing, "reads found nothing: fill the keys with bench load"),
            (self.siblings, "reads found siblings, values written concurrently"),
            (self.settled, "writes read first, to replace the siblings of a hot key"),
            (self.contexts_refused, "writes or reads of keys whose contexts found no room"),
        ];
        for (count, what) in remarks.into_iter().filter(|(count, _)| *count > 0) {
            text.push_str(&format!("{count} {what}\n"));
        }
        text.extend(self.requests.text());
        if text.is_empty() { text } else { format!("\n{text}") }
    }

    fn machine(&self) -> String {
        let mut text = String::new();
        let per_1000 = [("nodes", self.node_cpu_s_per_1000), ("this program", self.own_cpu_s_per_1000)];
        let known: Vec<String> =
            per_1000.iter().filter_map(|(who, cpu_s)| Some(format!("{who} {:.4} s", (*cpu_s)?))).collect();
        if !known.is_empty() {
            text.push_str(&format!("\nprocessor time per 1000 operations: {}\n", known.join(", ")));
        }
        for ProcessUse { node, program, pid, cpu_s, rss_bytes } in &self.processes {
            let used = match (cpu_s, rss_bytes) {
                (Some(cpu_s), Some(rss)) => format!("{cpu_s:.2} s of processor time, {} of memory", table::bytes(*rss)),
                _ => "gone before the end".to_owned(),
            };
            text.push_str(&format!("{node} ({program} {pid}): {used}\n"));
        }
        text
    }
}

fn summary(latencies: &Latencies, seconds: f64) -> Option<Summary> {
    let at = |share| latencies.quantile_ms(share);
    Some(Summary {
        operations: latencies.count(),
        per_second: draw::float(latencies.count()) / seconds.max(1e-9),
        mean: latencies.mean_ms()?,
        min: at(0.0)?,
        p50: at(0.5)?,
        p90: at(0.9)?,
        p99: at(0.99)?,
        p99_9: at(0.999)?,
        max: at(1.0)?,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::bench::recorder::Recorder;
    use crate::cli::bench::target::Answer;
    use crate::cli::bench::target::Problem;

    fn asked() -> Asked {
        Asked {
            mix: "get".into(),
            distribution: "uniform".into(),
            keys: 10,
            key_size: "16".into(),
            value_size: "1024".into(),
            clients: 1,
            in_flight: 64,
            rate: None,
            seed: 1,
            namespace: "default".into(),
            r: None,
            w: None,
            contexts: true,
            hedging: true,
        }
    }

    fn measured() -> Measured {
        let mut total = Recorder::default();
        for ms in 1..=1_000 {
            total.record(Kind::Get, Duration::from_millis(ms), Ok(Answer::default()));
        }
        let problem = Problem { kind: "quorum", text: "needed 2, got 1".into() };
        total.record(Kind::Get, Duration::from_secs(5), Err(problem));
        Measured { total, elapsed: Duration::from_secs(10), points: Vec::new(), interrupted: false }
    }

    #[test]
    fn text_and_json_tell_the_same() {
        let report = Report::new(asked(), &measured(), &Watched::default(), (0, Attempts::default()));
        let text = report.text();
        assert!(text.contains("closed loop; 64 in flight over 1 client; 10.0 s\n"), "{text}");
        assert!(text.contains("1 errors, quorum: needed 2, got 1"), "{text}");
        assert!(!text.contains("processor time"), "nothing is known of processes: {text}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["all"]["operations"], 1_000);
        assert_eq!(json["all"]["per_second"], 100.0);
        assert_eq!(json["error_kinds"]["quorum"]["count"], 1);
        assert!((json["kinds"]["get"]["p99_9"].as_f64().unwrap() - 999.0).abs() < 1.0, "{json}");
        assert!(json["node_cpu_s_per_1000"].is_null() && report.shortfall() == (1, 0));
    }

    #[test]
    fn processor_time_is_per_thousand_operations_and_not_told_of_what_is_gone() {
        let mut own = crate::cli::bench::processes::own().unwrap();
        own.node = "n1".into();
        let before = Usage { cpu_s: -5.0, rss: 0 };
        let watched = Watched { nodes: vec![(own.clone(), Some(before))], own: None };
        let report = Report::new(asked(), &measured(), &watched, (0, Attempts::default()));
        assert!((5.0..100.0).contains(&report.node_cpu_s_per_1000.unwrap()), "{report:?}");
        let watched = Watched { nodes: vec![(own.clone(), Some(before)), (own, None)], own: None };
        let report = Report::new(asked(), &measured(), &watched, (0, Attempts::default()));
        assert_eq!(report.node_cpu_s_per_1000, None);
        assert!(report.text().contains("gone before the end"), "{}", report.text());
    }

    #[test]
    fn a_run_without_operations_says_so() {
        let measured = Measured { total: Recorder::default(), ..measured() };
        let report = Report::new(asked(), &measured, &Watched::default(), (0, Attempts::default()));
        assert!(report.text().contains("nothing was measured") && report.all.is_none());
    }
}
