//! `dynamomini dev`: a whole cluster on this machine, each node a process of its own, certificates included.
//!
//! One more node is added by `dev add`, which asks the running `dev` for it, so that all processes have one owner.
//! It starts the processes, watches them, and ends them in order; a node that dies is reported and left alone, for that
//! is what people want to see. It is for trying out and for tests: nothing here runs on the nodes of a real cluster.

mod add;

mod adopt;

mod folder;

mod ports;

mod layout;

mod settings;

mod files;

mod redis;

mod guard;

mod process;

mod ready;

mod event;

mod cluster;

use std::path::PathBuf;

use clap::ValueEnum;
use serde::Deserialize;
use serde::Serialize;

use crate::cli::Context;
use crate::limits;

/// Arguments of `dev`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, after_help = HELP)]
pub(crate) struct Args {
    /// How many nodes. By default 3, or as many as the folder's cluster has.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=i64::from(limits::DEV_NODES_MAX)))]
    nodes: Option<u16>,
    /// Where each node keeps its records. By default embedded, or as the folder's cluster does.
    #[arg(long, value_enum)]
    storage: Option<Storage>,
    /// Failure zones, over which the nodes are dealt out in turn. By default 1, or as the folder's cluster has.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=i64::from(limits::DEV_NODES_MAX)))]
    zones: Option<u16>,
    /// Where everything is kept. If it holds a cluster, that one is started again with its data.
    #[arg(long, value_name = "FOLDER", default_value = ".dynamomini")]
    dir: PathBuf,
    /// First port: each node takes three of the ten from here on. By default 7600, or the next hundred that is free.
    #[arg(long, value_name = "PORT")]
    base_port: Option<u16>,
    /// Settings of all nodes, as `node` takes them, after `--`. By default those of the start before.
    #[arg(last = true, value_name = "NODE FLAGS")]
    settings: Vec<String>,
    #[command(subcommand)]
    what: Option<What>,
}

const HELP: &str = "Examples:
  dynamomini dev
  dynamomini dev --nodes 5 --storage redis --dir trial
  dynamomini dev add
  dynamomini dev --zones 3 -- --set storage.durability=interval --log-level debug

Once every node serves, a line that begins with \"ready\" is printed, and FOLDER/cluster.json says where everything is.
A node that was ended is started again by hand: dynamomini node --config FOLDER/n1/node.toml";

/// Where the nodes keep their records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Storage {
    /// In files below each node's folder.
    Embedded,
    /// In a redis-server of each node's own, which is started too.
    Redis,
    /// In memory: gone with the node.
    Memory,
}

impl Storage {
    fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Redis => "redis",
            Self::Memory => "memory",
        }
    }
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Add one more node to the cluster that runs in the folder.
    Add(add::Args),
    /// Run a redis-server that ends with the process that started this.
    #[command(hide = true)]
    GuardRedis(guard::Guard),
}

/// What the arguments ask of the cluster; `None` leaves it to the folder, or to the default.
#[derive(Debug, Default)]
struct Wanted {
    nodes: Option<u16>,
    storage: Option<Storage>,
    zones: Option<u16>,
    base_port: Option<u16>,
    settings: Option<Vec<String>>,
}

impl Args {
    /// Runs the cluster until SIGINT, SIGTERM or SIGHUP.
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        match self.what {
            Some(What::GuardRedis(guard)) => return context.block_on(Some(1), guard.run(context)),
            Some(What::Add(add)) => return add.run(context),
            None => {}
        }
        context.log_for_people()?;
        let settings = if self.settings.is_empty() { None } else { Some(settings::parse(&self.settings)?) };
        let Self { nodes, storage, zones, base_port, .. } = self;
        let wanted = Wanted { nodes, storage, zones, base_port, settings };
        context.block_on(Some(1), cluster::run(context, self.dir, wanted))
    }
}
