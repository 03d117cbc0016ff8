//! Latencies in multiples of a round trip: quorum puts and gets of a client beside its coordinator over lossy links, and beside
//! them Redis over TCP, which is given the same links, the same moments and the same number of copies.

use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Stdio;
use std::time::Duration;

use crate::Common;
use crate::actions;
use crate::bench;
use crate::bench::Measured;
use crate::cluster;
use crate::cluster::Storage;
use crate::groups;
use crate::lab::Lab;
use crate::lab::Wanted;
use crate::lab::pause;
use crate::net;
use crate::place::say;
use crate::shell;
use crate::wait::within;

/// Time that connections get to get used to a link.
const SETTLE: Duration = Duration::from_secs(4);
/// Nodes, and copies of each key, of both stores.
const NODES: usize = 3;

/// What is to be measured.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Losses of each way, in per cent.
    #[arg(long, value_delimiter = ',', default_value = "0,1,3,5")]
    losses: Vec<f64>,
    /// The round trip, in milliseconds.
    #[arg(long, default_value_t = 50.0)]
    rtt: f64,
    /// Operations a second.
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Seconds of each.
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// What is measured: put, get, redis.
    #[arg(long, value_delimiter = ',', default_value = "put,get,redis")]
    what: Vec<String>,
    /// Bytes of a value.
    #[arg(long, default_value_t = 1_024)]
    value_size: u32,
    /// Where nodes keep their records.
    #[arg(long, default_value = "embedded")]
    storage: Storage,
    /// The table's file, which rows are added to.
    #[arg(long, default_value = "netem-results/trips.tsv")]
    out: PathBuf,
    /// A word for the rows, such as what was changed.
    #[arg(long, default_value = "-")]
    label: String,
    #[command(flatten)]
    common: Common,
}

impl Args {
    /// Measures, and adds rows to the table.
    ///
    /// # Errors
    /// What went wrong.
    pub(crate) fn run(&self, folder: &Path) -> Result<(), String> {
        if let Some(other) = self.what.iter().find(|what| !["put", "get", "redis"].contains(&what.as_str())) {
            return Err(format!("{other} is not to be measured: put, get, redis"));
        }
        let mut wanted = self.common.wanted(NODES, self.storage)?;
        wanted.plan.settings.insert(0, "namespaces.default.conflict=last-write-wins".to_owned());
        if self.what.iter().any(|what| what != "redis") {
            self.own(&wanted, folder)?;
        }
        if self.what.iter().any(|what| what == "redis") {
            self.redis(&Wanted { bare: true, ..wanted }, folder)?;
        }
        Ok(())
    }

    /// Makes all links so, and forgets what was counted.
    fn lossy(&self, lab: &mut Lab, loss: f64) -> Result<(), String> {
        let line = format!("apply delay {}ms loss {loss}% limit 20000", self.rtt / 2.0);
        lab.perform(&actions::parse(&line, NODES, &[])?)?;
        pause(SETTLE);
        lab.net.forget()
    }

    fn own(&self, wanted: &Wanted, folder: &Path) -> Result<(), String> {
        let mut lab = Lab::new(wanted, &folder.join("own"))?;
        let (keys, size) = ("2000".to_owned(), self.value_size.to_string());
        bench::fill(&lab, 2_000, &size)?;
        for loss in &self.losses {
            for mix in self.what.iter().filter(|what| *what != "redis") {
                self.lossy(&mut lab, *loss)?;
                let (rate, span) = (format!("{}/s", self.rate), format!("{}s", self.seconds));
                let arguments = ["--node", "n1", "--mix", mix, "--rate", &rate, "--duration", &span, "--blind"];
                let arguments = [&arguments[..], &["--keys", &keys, "--value-size", &size]].concat();
                let measured = bench::begin(&lab, 0, &arguments)?.end()?;
                self.tell(&lab, mix, *loss, &measured)?;
            }
        }
        drop(lab);
        net::take_down(NODES)
    }

    fn redis(&self, wanted: &Wanted, folder: &Path) -> Result<(), String> {
        let mut lab = Lab::new(wanted, &folder.join("redis"))?;
        let servers = servers(lab.folder())?;
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        for loss in &self.losses {
            self.lossy(&mut lab, *loss)?;
            let mut command = net::inside(0, &own);
            let numbers = [self.rate, self.seconds, self.value_size].map(|number| number.to_string());
            command.args(["redis-load", "--rate", &numbers[0], "--seconds", &numbers[1], "--size", &numbers[2]]);
            let said = shell::feed(command, "")?;
            let said = serde_json::from_str(&said).map_err(|error| format!("{error}: {said}"))?;
            let measured = bench::read(&said).ok_or_else(|| format!("redis-load said {said}"))?;
            self.tell(&lab, "redis", *loss, &measured)?;
        }
        drop(lab);
        drop(servers);
        net::take_down(NODES)
    }

    fn tell(&self, lab: &Lab, what: &str, loss: f64, measured: &Measured) -> Result<(), String> {
        let account = lab.net.account()?;
        let late = account.emulator.as_ref().map_or(0, |report| report.late_us.p99);
        let trips = |ms: Option<f64>| ms.map_or("-".to_owned(), |ms| format!("{:.2}", ms / self.rtt));
        let row = [
            self.label.clone(),
            what.to_owned(),
            format!("{}", self.rtt),
            format!("{loss}"),
            format!("{}", self.rate),
            trips(measured.p50),
            trips(measured.p99),
            trips(measured.p99_9),
            measured.errors.to_string(),
            measured.not_begun.to_string(),
            account.unmodelled.to_string(),
            late.to_string(),
        ];
        say(&format!(
            "{} {what} at {loss} % loss: p50 {} p99 {} p99.9 {} round trips, {} errors, {} not begun, unmodelled {}, late p99 {late} us",
            self.label, row[5], row[6], row[7], row[8], row[9], row[10]
        ));
        self.add(&row.join("\t"))
    }

    fn add(&self, row: &str) -> Result<(), String> {
        let text = |error: std::io::Error| format!("{}: {error}", self.out.display());
        if let Some(folder) = self.out.parent() {
            std::fs::create_dir_all(folder).map_err(text)?;
        }
        let is_new = !self.out.exists();
        let mut file = std::fs::File::options().create(true).append(true).open(&self.out).map_err(text)?;
        if is_new {
            let head = "label\twhat\trtt_ms\tloss_percent\trate\tp50_rtt\tp99_rtt\tp99_9_rtt\terrors\tnot_begun\tunmodelled\tlate_p99_us";
            writeln!(file, "{head}").map_err(text)?;
        }
        writeln!(file, "{row}").map_err(text)
    }
}

/// Redis servers that end with this.
struct Servers(Vec<Child>);

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended by itself; either way it is waited for.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// A Redis in each namespace, all but the first replicas of the first, in memory only.
fn servers(folder: &Path) -> Result<Servers, String> {
    let mut servers = Servers(Vec::new());
    for node in 0..NODES {
        let own = folder.join(groups::name(node));
        std::fs::create_dir_all(&own).map_err(|error| format!("{}: {error}", own.display()))?;
        let of_first = ["--replicaof", "n1", "6379"];
        let more: &[&str] = if node == 0 { &[] } else { &of_first };
        let more = [&["--bind", "*", "--repl-diskless-sync-delay", "0"], more].concat();
        servers.0.push(cluster::redis(node, &own, &more)?);
    }
    let linked = || {
        let mut command = net::inside(0, Path::new("redis-cli"));
        command.args(["info", "replication"]).stdin(Stdio::null());
        shell::feed(command, "").is_ok_and(|said| said.matches("state=online").count() == NODES - 1)
    };
    within(cluster::PATIENCE, linked).map(|_| servers).ok_or_else(|| "Redis does not replicate".to_owned())
}
