//! The command line: one file per verb, each with an `Args` struct and its `run(self, &Context)`.
//!
//! To add a verb: write `src/cli/VERB.rs` with `pub(crate) struct Args` (derive `clap::Args`) and
//! `impl Args { pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> }`, add it to `Verb` and to its `match`.
//! Results go out through [`Output`], errors are returned; nothing here exits the process or prints by itself.

mod output;

mod confirm;

mod failure;

mod logging;

mod completions;

mod config;

mod certs;

mod node;

mod dev;

mod parent;

mod renewal;

mod lock;

mod table;

mod connect;

mod waiting;

mod put;

mod put_batch;

mod get;

mod delete;

mod scan;

mod status;

mod members;

mod cluster;

mod watch;

mod rates;

mod top;

mod log_level;

mod repair;

mod hints;

mod tasks;

mod ring;

mod bench;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::time::Duration;

use clap::Parser;
use clap::Subcommand;

pub use failure::Failure;
pub use failure::Said;
pub use failure::Usage;
pub use logging::ThisProcess;
pub use logging::start as start_logging;
pub use output::Output;

use crate::config::node::LogConfig;
use crate::env::Env;

/// A leaderless, replicated key-value store: it always takes writes, and never loses one that it acknowledged.
#[derive(Debug, Parser)]
#[command(name = "dynamomini", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Exit status: 0 done, 1 failed or refused, 2 wrong usage or configuration.")]
pub struct Cli {
    /// Print results, and errors, as JSON.
    #[arg(long, global = true)]
    json: bool,
    /// Log more to standard error: -v info, -vv debug, -vvv trace.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a node of a cluster.
    Node(node::Args),
    /// Run a whole cluster on this machine, certificates included, until ^C.
    Dev(dev::Args),

    /// Write a key, or many.
    Put(put::Args),
    /// Read keys.
    Get(get::Args),
    /// Delete a key.
    Delete(delete::Args),
    /// List keys.
    Scan(scan::Args),
    /// Show how each node is.
    Status(status::Args),
    /// Show the members as gossip sees them.
    Members(members::Args),
    /// Administer the cluster: who owns data, and the keys of gossip.
    Cluster(cluster::Args),
    /// Show what each node does, second by second.
    Top(top::Args),
    /// Show or change what running nodes log.
    LogLevel(log_level::Args),
    /// Show, hold and wait for what nodes work on: changes of owners, repairs.
    Tasks(tasks::Args),
    /// Compare replicas now, and repair what differs.
    Repair(repair::Args),
    /// Show the hints that nodes keep for others, or wait until they are delivered.
    Hints(hints::Args),
    /// Show who owns a key, or how evenly keys are spread.
    Ring(ring::Args),
    /// Put load on a cluster and measure it; fill and check a data set.
    Bench(Box<bench::Args>),
    /// Check and show configuration, and list its keys.
    Config(config::Args),
    /// Make, request, renew and show certificates.
    Certs(certs::Args),
    /// Print a completion script for a shell.
    Completions(completions::Args),
}

/// What every verb is given.
#[derive(Debug, Clone)]
pub struct Context {
    /// The world: clock, random numbers, tasks.
    pub env: Env,
    /// Where results go.
    pub output: Output,
    /// How often `-v` was given.
    pub verbose: u8,
}

/// How long a thread for blocking work waits for more: longer than the pause between looks at certificates, for which an
/// idle node would make one each time.
const BLOCKING_THREADS_KEPT: Duration = Duration::from_secs(60);

impl Context {
    /// Runs a verb's future to its end on a runtime of its own; `threads` as in `runtime.threads`, `None` for one per core.
    ///
    /// # Errors
    /// Those of the future, and when the runtime cannot be started.
    pub fn block_on<T>(
        &self,
        threads: Option<usize>,
        future: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        if let Some(threads) = threads {
            builder.worker_threads(threads);
        }
        // What waits for slots of the runtime's timers counts them from here.
        self.env.born();
        builder.enable_all().thread_keep_alive(BLOCKING_THREADS_KEPT).build()?.block_on(future)
    }

    /// Starts logging for a verb without log settings of its own: warnings, and more with `-v`.
    ///
    /// # Errors
    /// When logging was started before.
    pub fn log_for_people(&self) -> anyhow::Result<()> {
        let level = match self.verbose {
            0 => "warn",
            1 => "info",
            2 => "debug",
            _ => "trace",
        };
        logging::start(&LogConfig { level: level.to_owned(), json: false, slow: None }).map(drop)
    }
}

impl Cli {
    /// Does what was asked for.
    ///
    /// # Errors
    /// What to print, and the exit status.
    pub fn run(self) -> Result<(), Failure> {
        let json = self.json;
        let context = Context { env: Env::real(), output: Output::new(json), verbose: self.verbose };
        let done = match self.verb {
            Verb::Node(args) => args.run(&context),
            Verb::Dev(args) => args.run(&context),

            Verb::Put(args) => args.run(&context),
            Verb::Get(args) => args.run(&context),
            Verb::Delete(args) => args.run(&context),
            Verb::Scan(args) => args.run(&context),
            Verb::Status(args) => args.run(&context),
            Verb::Members(args) => args.run(&context),
            Verb::Cluster(args) => args.run(&context),
            Verb::Top(args) => args.run(&context),
            Verb::LogLevel(args) => args.run(&context),
            Verb::Tasks(args) => args.run(&context),
            Verb::Repair(args) => args.run(&context),
            Verb::Hints(args) => args.run(&context),
            Verb::Ring(args) => args.run(&context),
            Verb::Bench(args) => args.run(&context),
            Verb::Config(args) => args.run(&context),
            Verb::Certs(args) => args.run(&context),
            Verb::Completions(args) => args.run(&context),
        };
        done.map_err(|error| Failure::new(error, json))
    }
}
