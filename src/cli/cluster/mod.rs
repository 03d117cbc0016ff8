//! `dynamomini cluster`: what an administrator does to a running cluster: who owns data, and the keys of gossip.
//!
//! What a change would do is worked out in [`crate::plan`]; that it is carried out is the nodes' matter.

mod change;
mod facts;
mod keys;
mod show;
mod text;
mod wait;
mod wish;

use clap::Subcommand;

use crate::cli::Context;
use crate::cli::connect::Connect;

pub(crate) use wait::wait;

/// Arguments of `cluster`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A change gives data new owners while the cluster serves. Its plan is shown first: what moves, for how long, how many \
copies answer meanwhile, how even it is in the end; a plan that is not safe is refused, with the reasons, unless --force is \
given. Changes need an administrator's certificate and a majority of the members.

Examples:
  dynamomini cluster show
  dynamomini cluster plan leave n2
  dynamomini cluster leave n2 --wait
  dynamomini cluster replace n2 n5 --yes --wait --within 10m
  dynamomini cluster weight n1 50
  dynamomini cluster copies default 5
  dynamomini cluster plan split
  dynamomini cluster cancel"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show who has which part in owning data, and the change that is under way.
    Show {
        #[command(flatten)]
        connect: Connect,
    },
    /// Show what a change would do and whether it is safe, without asking for it.
    #[command(after_help = "Exit status 1 when the change would be refused without --force.")]
    Plan {
        #[command(subcommand)]
        wish: wish::Wish<wish::Looking>,
    },
    #[command(flatten)]
    Change(wish::Wish<wish::Doing>),
    /// List and change the keys that seal gossip datagrams.
    Keys(keys::Keys),
}

impl Args {
    /// Asks, orders, and prints.
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        match self.what {
            What::Show { connect } => show::run(context, connect),
            What::Plan { wish } => change::plan(context, wish),
            What::Change(wish) => change::run(context, wish),
            What::Keys(keys) => keys.run(context),
        }
    }
}
