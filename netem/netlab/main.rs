//! A lab of bad networks on one machine: nodes in network namespaces, links as `tc-netem` words say, scenarios, measured runs.
//!
//! Here is the command line only. netem/README.md says what can be done with it.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr, missing_docs)]

mod actions;
mod bench;
mod cluster;
mod emulator;
mod fabric;
mod gauge;
mod groups;
mod kernel;
mod lab;
mod ladder;
mod link;
#[path = "../membership/log.rs"]
#[allow(dead_code, reason = "the test of membership uses more of it")]
mod log;
mod net;
mod peer;
mod place;
mod plot;
mod remote;
mod serve;
mod shell;
mod table;
mod trips;
#[path = "../membership/wait.rs"]
mod wait;
mod words;

use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;

use crate::cluster::Plan;
use crate::cluster::Storage;
use crate::lab::Wanted;
use crate::net::Way;
use crate::place::Place;
use crate::remote::Remote;

/// How long a lab may take to do something.
const PATIENCE: Duration = Duration::from_secs(120);

/// Nodes in network namespaces of this machine, and bad links between them.
#[derive(Debug, clap::Parser)]
#[command(name = "netem/lab", after_help = HELP)]
struct Arguments {
    /// The folder of the lab, removed with it.
    #[arg(long, global = true, default_value = ".netlab", overrides_with = "dir")]
    dir: PathBuf,
    /// Inside the namespaces already.
    #[arg(long, hide = true)]
    inside: bool,
    #[command(subcommand)]
    verb: Verb,
}

const HELP: &str = "While a lab is up, actions are given as they stand in scenarios (netem/README.md), for example:
  netem/lab apply wan
  netem/lab link n1 n3 one-way delay 50ms 5ms loss 1%
  netem/lab partition n1,n2 n3        cut n2 n1        heal        clear
  netem/lab kill n3                   start n3         freeze n2   thaw n2        move n2";

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Make a lab, and keep it until ^C or `down`.
    Up(UpArgs),
    /// Make a lab, play a scenario in it, and tell what was counted.
    Play {
        /// The scenario.
        file: PathBuf,
        #[command(flatten)]
        up: UpArgs,
    },
    /// Run a program in the namespace of a node, as a client of the cluster.
    Exec {
        node: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        program: Vec<String>,
    },
    /// Say who is where, and what links are like.
    Show,
    /// Say what was counted, and how late the emulator was.
    Report {
        #[arg(long)]
        json: bool,
    },
    /// Say who hears whom: a line for each that listens, a column for each that speaks.
    Matrix,
    /// Begin to count anew.
    Forget,
    /// End the lab, or take away what a killed one has left.
    Down,
    /// Measure a cluster under each profile: the whole ladder, as a table and a picture.
    Run(ladder::Args),
    /// Measure what links do to packets, case by case.
    Gauge(gauge::Args),
    /// Measure puts and gets in round trips of a lossy link, beside Redis over TCP.
    Trips(trips::Args),
    #[command(hide = true)]
    Emulate { nodes: usize, seed: u64, control: PathBuf },
    #[command(hide = true)]
    RedisLoad(peer::Args),
    #[command(external_subcommand)]
    Action(Vec<String>),
}

/// What a lab is to be like.
#[derive(Debug, Clone, clap::Args)]
struct UpArgs {
    /// How many nodes.
    #[arg(default_value_t = 3)]
    nodes: usize,
    #[command(flatten)]
    common: Common,
    /// What all links are like at first: a profile, `none`, `regions`, or words.
    #[arg(long, value_name = "SPEC", default_value = "none")]
    apply: String,
    /// Regions of the nodes for `apply regions`, the first again after the last. By default all of regions.tsv.
    #[arg(long, value_delimiter = ',')]
    regions: Vec<String>,
    /// Namespaces and links alone, without nodes.
    #[arg(long)]
    bare: bool,
    /// Where nodes keep their records.
    #[arg(long, default_value = "embedded")]
    storage: Storage,
}

/// What all that make labs ask.
#[derive(Debug, Clone, clap::Args)]
struct Common {
    /// How links are made. By default by the kernel where it has netem, else by the emulator.
    #[arg(long)]
    links: Option<Way>,
    /// What losses and jitter follow from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Names of nodes are those of IPv6 addresses.
    #[arg(long)]
    ipv6: bool,
    /// A setting of all nodes.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// The program; by default the one built beside this.
    #[arg(long)]
    program: Option<PathBuf>,
}

impl Common {
    /// A lab of so many nodes.
    fn wanted(&self, nodes: usize, storage: Storage) -> Result<Wanted, String> {
        let beside = || std::env::current_exe().ok().map(|own| own.with_file_name("dynamomini"));
        let program = self.program.clone().or_else(beside).filter(|path| path.exists());
        let program = program.ok_or("the program dynamomini is not there: cargo build, or --program")?;
        let program = program.canonicalize().map_err(|error| error.to_string())?;
        let plan = Plan { nodes, storage, program, settings: self.settings.clone() };
        Ok(Wanted { plan, way: self.links, seed: self.seed, six: self.ipv6, bare: false })
    }
}

impl UpArgs {
    fn run(&self, folder: &Path, scenario: Option<&Path>) -> Result<(), String> {
        let mut wanted = self.common.wanted(self.nodes, self.storage)?;
        wanted.bare = self.bare;
        let all = || actions::regions().into_iter().map(str::to_owned).collect();
        let home: Vec<String> = if self.regions.is_empty() { all() } else { self.regions.clone() };
        serve::run(&wanted, folder, &self.apply, &home, scenario)
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.run() {
        Ok(code) => code,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

impl Arguments {
    fn run(self) -> Result<ExitCode, String> {
        let folder = self.dir;
        let done = |()| ExitCode::SUCCESS;
        match self.verb {
            Verb::Up(_) | Verb::Play { .. } | Verb::Run(_) | Verb::Trips(_) | Verb::Gauge(_) if !self.inside => {
                outside(&folder)
            }
            Verb::Up(up) => up.run(&folder, None).map(done),
            Verb::Play { file, up } => up.run(&folder, Some(&file)).map(done),
            Verb::Run(run) => run.run(&folder).map(done),
            Verb::Trips(trips) => trips.run(&folder).map(done),
            Verb::Gauge(gauge) => gauge.run(&folder).map(done),
            Verb::Exec { node, program } => exec(&folder, &node, &program),
            Verb::Show => ask(&folder, "show"),
            Verb::Report { json: false } => ask(&folder, "report"),
            Verb::Report { json: true } => ask(&folder, "report json"),
            Verb::Matrix => ask(&folder, "matrix"),
            Verb::Forget => ask(&folder, "forget"),
            Verb::Down => place::down(&folder).map(done),
            Verb::Emulate { nodes, seed, control } => emulator::run(nodes, seed, &control).map(done),
            Verb::RedisLoad(load) => load.run().map(done),
            Verb::Action(words) => ask(&folder, &words.join(" ")),
        }
    }
}

/// Makes the place, and does the same again inside it.
fn outside(folder: &Path) -> Result<ExitCode, String> {
    let place = Place::take(folder)?;
    let mut arguments = vec!["--inside".to_owned()];
    arguments.extend(std::env::args().skip(1));
    // Last, so that it goes over one that was given; the folder is known by its whole path inside.
    arguments.extend(["--dir".to_owned(), place.folder().display().to_string()]);
    place::enter(&place, &arguments)
}

fn ask(folder: &Path, question: &str) -> Result<ExitCode, String> {
    let remote = Remote::connect(&serve::control(folder), PATIENCE)
        .map_err(|why| format!("no lab answers in {}: {why}", folder.display()))?;
    place::say(remote.ask(question)?.trim_end());
    Ok(ExitCode::SUCCESS)
}

fn exec(folder: &Path, node: &str, program: &[String]) -> Result<ExitCode, String> {
    let mut command = place::command(folder, node, program)?;
    let folder = folder.canonicalize().map_err(|error| error.to_string())?;
    command.env("DYNAMOMINI_CLIENT_CONFIG", folder.join("client.toml"));
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", lab::programs(&folder).display()));
    let status = command.status().map_err(|error| format!("nsenter: {error}"))?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
