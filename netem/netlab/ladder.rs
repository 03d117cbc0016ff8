//! The ladder: a cluster under each profile, of each size and on each engine, as a table that grows row by row.
//!
//! A row that is in the table already is not measured again, so a run that was ended goes on where it was.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use crate::Common;
use crate::actions;
use crate::bench;
use crate::cluster::Storage;
use crate::groups;
use crate::lab::Lab;
use crate::lab::pause;
use crate::place::say;
use crate::plot;

/// The columns of the table.
const COLUMNS: [&str; 18] = [
    "profile",
    "nodes",
    "engine",
    "per_second",
    "p50_ms",
    "p99_ms",
    "p99_9_ms",
    "errors",
    "not_begun",
    "suspicions",
    "false_deaths",
    "detected_first_s",
    "detected_all_s",
    "whole_again_s",
    "emulator_late_p99_us",
    "emulator_late_max_us",
    "unmodelled",
    "load",
];
/// How many columns say which row it is.
const KEYS: usize = 3;
/// Time that links and connections get to get used to a profile.
const SETTLE: Duration = Duration::from_secs(3);

/// What is to be measured.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Profiles, by default all.
    #[arg(long, value_delimiter = ',')]
    profiles: Vec<String>,
    /// Sizes of the cluster.
    #[arg(long, value_delimiter = ',', default_value = "3,5")]
    nodes: Vec<usize>,
    /// Where nodes keep their records.
    #[arg(long, value_delimiter = ',', default_value = "embedded,redis")]
    engines: Vec<Storage>,
    /// Seconds of load for each row.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Mix of operations, as `dynamomini bench` takes it.
    #[arg(long, default_value = "mixed")]
    mix: String,
    /// Operations under way at once.
    #[arg(long, default_value_t = 32)]
    in_flight: u32,
    #[arg(long, default_value_t = 2_000)]
    keys: u64,
    #[arg(long, default_value = "1KiB")]
    value_size: String,
    /// The folder of the results: ladder.tsv, ladder.md, ladder.svg.
    #[arg(long, default_value = "netem-results")]
    out: PathBuf,
    /// Begin the table anew.
    #[arg(long)]
    fresh: bool,
    #[command(flatten)]
    common: Common,
}

/// A row, by the names of its columns.
pub(crate) type Row = BTreeMap<String, String>;

impl Args {
    /// Measures what is not in the table yet, and draws it.
    ///
    /// # Errors
    /// What went wrong; rows that were measured before stay.
    pub(crate) fn run(&self, folder: &Path) -> Result<(), String> {
        let profiles: Vec<String> = match self.profiles.as_slice() {
            [] => actions::profiles().into_iter().map(str::to_owned).collect(),
            named => named.to_vec(),
        };
        for profile in &profiles {
            actions::spec(&["profile", profile])?;
        }
        let table = Table::open(&self.out, self.fresh)?;
        let total = profiles.len() * self.nodes.len() * self.engines.len();
        let mut done = 0;
        for nodes in &self.nodes {
            for engine in &self.engines {
                let is_missing = |profile: &&String| !table.has(&[profile, &nodes.to_string(), engine.name()]);
                let missing: Vec<&String> = profiles.iter().filter(is_missing).collect();
                done += profiles.len() - missing.len();
                if missing.is_empty() {
                    continue;
                }
                // Each cluster in namespaces of its own names: those before are gone only with this process.
                done = self.climb(folder, *nodes, *engine, &missing, &table, (done, total))?;
            }
        }
        table.publish(&self.out)
    }

    /// Measures one cluster under these profiles.
    fn climb(
        &self,
        folder: &Path,
        nodes: usize,
        engine: Storage,
        profiles: &[&String],
        table: &Table,
        (mut done, total): (usize, usize),
    ) -> Result<usize, String> {
        let mut wanted = self.common.wanted(nodes, engine)?;
        // Writes carry no contexts, so that nothing is read beforehand; siblings would pile up otherwise.
        wanted.plan.settings.insert(0, "namespaces.default.conflict=last-write-wins".to_owned());
        let own = folder.join(format!("{nodes}-{}", engine.name()));
        let mut lab = Lab::new(&wanted, &own)?;
        bench::fill(&lab, self.keys, &self.value_size)?;
        for profile in profiles {
            let began = Instant::now();
            let row = self.row(&mut lab, profile, nodes, engine)?;
            done += 1;
            say(&format!(
                "{done}/{total} {profile}, {nodes} nodes, {}: {}/s, p50 {} p99 {} ms, {} errors, {} false suspicions, found dead in {} s ({:.0} s)",
                engine.name(),
                row[3],
                row[4],
                row[5],
                row[7],
                row[9],
                row[12],
                began.elapsed().as_secs_f64()
            ));
            table.add(&row)?;
            table.publish(&self.out)?;
        }
        drop(lab);
        crate::net::take_down(nodes)?;
        Ok(done)
    }

    fn row(&self, lab: &mut Lab, profile: &str, nodes: usize, engine: Storage) -> Result<Vec<String>, String> {
        let apply = |lab: &mut Lab, spec: &str| {
            actions::parse(&format!("apply {spec}"), nodes, &[]).and_then(|action| lab.perform(&action))
        };
        apply(lab, profile)?;
        pause(SETTLE);
        lab.net.forget()?;
        let began = Instant::now();
        let (span, keys, flight) = (format!("{}s", self.seconds), self.keys.to_string(), self.in_flight.to_string());
        let arguments = ["--mix", &self.mix, "--duration", &span, "--keys", &keys, "--value-size", &self.value_size];
        let arguments = [&arguments[..], &["--in-flight", &flight, "--blind", "--distribution", "uniform"]].concat();
        let measured = bench::begin(lab, 0, &arguments)?.end()?;
        let account = lab.net.account()?;
        let cluster = lab.cluster.as_mut().ok_or("there is no cluster")?;
        let (suspicions, deaths) = cluster.accusations(began);
        let (found, whole) = kill_and_restart(lab, nodes - 1)?;
        apply(lab, "none")?;
        lab.cluster.as_ref().map_or(Ok(Duration::ZERO), |cluster| cluster.until_whole())?;
        let ms = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
        let s = |span: Option<Duration>| span.map_or("-".to_owned(), |span| format!("{:.2}", span.as_secs_f64()));
        let late = account.emulator.as_ref().map(|report| (report.late_us.p99, report.late_us.max));
        let us = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
        Ok(vec![
            profile.to_owned(),
            nodes.to_string(),
            engine.name().to_owned(),
            format!("{:.0}", measured.per_second),
            ms(measured.p50),
            ms(measured.p99),
            ms(measured.p99_9),
            measured.errors.to_string(),
            measured.not_begun.to_string(),
            suspicions.to_string(),
            deaths.to_string(),
            s(found.map(|(first, _)| first)),
            s(found.map(|(_, all)| all)),
            s(whole),
            us(late.map(|late| late.0)),
            us(late.map(|late| late.1)),
            account.unmodelled.to_string(),
            load(),
        ])
    }
}

/// What became of a death: when the first and when all others said so.
type Found = Option<(Duration, Duration)>;

/// Kills a node, starts it again: when it was found dead, and how long after its start all saw all; `None` for what did not come about.
fn kill_and_restart(lab: &mut Lab, node: usize) -> Result<(Found, Option<Duration>), String> {
    let cluster = lab.cluster.as_mut().ok_or("there is no cluster")?;
    let killed = Instant::now();
    cluster.kill(node)?;
    let found = cluster.until_failed(node, killed);
    if found.is_none() {
        say(&format!("not all found out that {} was dead", groups::name(node)));
    }
    cluster.start(node)?;
    Ok((found, cluster.until_whole().ok()))
}

/// The machine's load of the last minute: with more than its cores, figures say less.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("-").to_owned()
}

/// The table of results, a file.
pub(crate) struct Table(PathBuf);

impl Table {
    /// Opens it, with its head if it is new.
    ///
    /// # Errors
    /// When it cannot be written.
    fn open(out: &Path, fresh: bool) -> Result<Self, String> {
        let path = out.join("ladder.tsv");
        let text = |error: std::io::Error| format!("{}: {error}", path.display());
        std::fs::create_dir_all(out).map_err(text)?;
        if fresh || !path.exists() {
            std::fs::write(&path, format!("{}\n", COLUMNS.join("\t"))).map_err(text)?;
        }
        Ok(Self(path))
    }

    fn rows(&self) -> Vec<Row> {
        rows(&std::fs::read_to_string(&self.0).unwrap_or_default())
    }

    fn has(&self, keys: &[&str]) -> bool {
        self.rows().iter().any(|row| COLUMNS[..KEYS].iter().zip(keys).all(|(column, key)| row[*column] == **key))
    }

    fn add(&self, row: &[String]) -> Result<(), String> {
        let text = |error: std::io::Error| format!("{}: {error}", self.0.display());
        let mut file = File::options().append(true).open(&self.0).map_err(text)?;
        writeln!(file, "{}", row.join("\t")).map_err(text)
    }

    /// Writes the table for people, and the picture.
    fn publish(&self, out: &Path) -> Result<(), String> {
        let rows = self.rows();
        for (name, text) in [("ladder.md", markdown(&rows)), ("ladder.svg", plot::ladder(&rows))] {
            let path = out.join(name);
            std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(())
    }
}

/// The rows of a table that are whole.
fn rows(text: &str) -> Vec<Row> {
    let mut lines = text.lines();
    let Some(head) = lines.next() else { return Vec::new() };
    let columns: Vec<&str> = head.split('\t').collect();
    let row = |line: &str| {
        let fields: Vec<&str> = line.split('\t').collect();
        let named = columns.iter().zip(&fields).map(|(column, field)| ((*column).to_owned(), (*field).to_owned()));
        (fields.len() == columns.len()).then(|| named.collect())
    };
    lines.filter_map(row).collect()
}

fn markdown(rows: &[Row]) -> String {
    let mut text = format!("| {} |\n|{}\n", COLUMNS.join(" | "), "---|".repeat(COLUMNS.len()));
    for row in rows {
        let fields: Vec<&str> = COLUMNS.iter().map(|column| row.get(*column).map_or("-", String::as_str)).collect();
        // A row with such losses says nothing.
        let void = if row.get("unmodelled").is_some_and(|lost| lost != "0") { " does not count |" } else { "" };
        // Writing to a String does not fail.
        let _ = writeln!(text, "| {} |{void}", fields.join(" | "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(profile: &str, unmodelled: &str) -> String {
        let mut fields = vec![profile, "3", "redis"];
        fields.resize(COLUMNS.len() - 2, "7");
        fields.extend([unmodelled, "1.5"]);
        fields.join("\t")
    }

    #[test]
    fn a_table_is_gone_on_with_and_torn_rows_are_measured_again() {
        let folder = tempfile::tempdir().unwrap();
        let table = Table::open(folder.path(), false).unwrap();
        assert!(!table.has(&["wan", "3", "redis"]));
        table.add(&line("wan", "0").split('\t').map(str::to_owned).collect::<Vec<_>>()).unwrap();
        table.add(&["lan".to_owned(), "3".to_owned(), "redis".to_owned()]).unwrap();
        let table = Table::open(folder.path(), false).unwrap();
        assert!(table.has(&["wan", "3", "redis"]) && !table.has(&["wan", "5", "redis"]));
        assert!(!table.has(&["lan", "3", "redis"]), "the row is torn");
        table.publish(folder.path()).unwrap();
        assert!(std::fs::read_to_string(folder.path().join("ladder.md")).unwrap().contains("| wan | 3 | redis |"));
        assert!(!Table::open(folder.path(), true).unwrap().has(&["wan", "3", "redis"]));
    }

    #[test]
    fn rows_that_lost_what_nobody_asked_for_do_not_count() {
        let text = format!("{}\n{}\n{}\n", COLUMNS.join("\t"), line("wan", "0"), line("lan", "2"));
        let shown = markdown(&rows(&text));
        assert_eq!(shown.matches("does not count").count(), 1);
        assert!(shown.lines().last().unwrap().starts_with("| lan"), "{shown}");
    }
}
