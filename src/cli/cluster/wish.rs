//! The changes that can be asked for on the command line, with different flags for looking and for doing.

use clap::Subcommand;

use crate::cli::connect::Connect;
use crate::cli::waiting::Waiting;
use crate::types::Namespace;
use crate::types::NodeName;
use crate::types::Zone;
use crate::wire::layout::Despite;

/// A change.
#[derive(Debug, Subcommand)]
pub(super) enum Wish<F: clap::Args> {
    /// Give a node that owns nothing its share. A new node asks for it itself, unless its cluster.join is `approve`.
    Join {
        /// The node; it must run, and have found the cluster.
        name: NodeName,
        #[command(flatten)]
        role: Role,
        #[command(flatten)]
        flags: F,
    },
    /// Let a member hand its share over to the others. It serves until they have it.
    Leave {
        /// The member.
        name: NodeName,
        #[command(flatten)]
        flags: F,
    },
    /// Give up a member that will not come back: the others make the copies among themselves.
    Remove {
        /// The member.
        name: NodeName,
        #[command(flatten)]
        flags: F,
    },
    /// Let a node take the place of a member that will not come back: just its partitions move.
    Replace {
        /// The member that is gone.
        old: NodeName,
        /// The node that takes its place; it must run, have found the cluster, and own nothing.
        new: NodeName,
        #[command(flatten)]
        flags: F,
    },
    /// Give a member another share against the others.
    Weight {
        /// The member.
        name: NodeName,
        /// Its share, 100 by default; with 0 it owns nothing.
        #[arg(value_parser = clap::value_parser!(u32).range(0..=i64::from(crate::limits::WEIGHT_MAX)))]
        weight: u32,
        #[command(flatten)]
        flags: F,
    },
    /// Say that a member is in another failure zone.
    Zone {
        /// The member.
        name: NodeName,
        /// Its zone from now on.
        #[arg(id = "member-zone", value_name = "ZONE")]
        zone: Zone,
        #[command(flatten)]
        flags: F,
    },
    /// Keep another number of copies of each key of a namespace.
    Copies {
        // `--namespace` is an argument of this verb, too, and has the name of the field.
        /// The namespace.
        #[arg(id = "whose", value_name = "NAMESPACE")]
        namespace: Namespace,
        /// Copies of each key from now on: its N.
        #[arg(value_name = "N")]
        n: u8,
        #[command(flatten)]
        flags: F,
    },
    /// Cut every partition in two, for a cluster that has outgrown them: half of the data gets other owners, once, and from
    /// then on joins and leaves move less.
    Split {
        #[command(flatten)]
        flags: F,
    },
    /// Give up the change that is under way: owners stay who they are.
    Cancel {
        #[command(flatten)]
        flags: F,
    },
}

/// As what a node joins, where that is not what it says itself.
#[derive(Debug, Default, Clone, clap::Args)]
pub(super) struct Role {
    /// Its failure zone, if not the one it says it is in.
    #[arg(long = "zone", id = "member-zone", value_name = "ZONE")]
    pub(super) zone: Option<Zone>,
    /// Its share against others, if not the one it says.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(crate::limits::WEIGHT_MAX)))]
    pub(super) weight: Option<u32>,
}

/// Flags for looking only.
#[derive(Debug, clap::Args)]
pub(super) struct Looking {
    #[command(flatten)]
    pub(super) connect: Connect,
}

/// Flags for doing it.
#[derive(Debug, clap::Args)]
pub(super) struct Doing {
    #[command(flatten)]
    pub(super) order: Order,
    #[command(flatten)]
    pub(super) connect: Connect,
}

/// How it is to be carried out.
#[derive(Debug, clap::Args)]
pub(super) struct Order {
    /// Do not ask whether to go on.
    #[arg(long)]
    pub(super) yes: bool,
    /// Also when the plan is not safe.
    #[arg(long)]
    pub(super) force: bool,
    /// Have one node decide it alone, with `remove` and `replace`, when most members that own data are gone for good and no
    /// majority can agree any more. Not for members that are only cut off: both sides would go on.
    #[arg(long)]
    pub(super) without_majority: bool,
    #[command(flatten)]
    pub(super) waiting: Waiting,
}

impl Order {
    /// Despite what the change is ordered.
    pub(super) fn despite(&self) -> Despite {
        match (self.without_majority, self.force) {
            (true, _) => Despite::NoMajority,
            (false, true) => Despite::Danger,
            (false, false) => Despite::Nothing,
        }
    }
}

/// A change without its flags.
#[derive(Debug, Clone)]
pub(super) enum Asked {
    Join(NodeName, Role),
    Leave(NodeName),
    Remove(NodeName),
    Replace(NodeName, NodeName),
    Weight(NodeName, u32),
    Zone(NodeName, Zone),
    Copies(Namespace, u8),
    Split,
    Cancel,
}

impl<F: clap::Args> Wish<F> {
    /// What is asked for, and how.
    pub(super) fn split(self) -> (Asked, F) {
        match self {
            Self::Join { name, role, flags } => (Asked::Join(name, role), flags),
            Self::Leave { name, flags } => (Asked::Leave(name), flags),
            Self::Remove { name, flags } => (Asked::Remove(name), flags),
            Self::Replace { old, new, flags } => (Asked::Replace(old, new), flags),
            Self::Weight { name, weight, flags } => (Asked::Weight(name, weight), flags),
            Self::Zone { name, zone, flags } => (Asked::Zone(name, zone), flags),
            Self::Copies { namespace, n, flags } => (Asked::Copies(namespace, n), flags),
            Self::Split { flags } => (Asked::Split, flags),
            Self::Cancel { flags } => (Asked::Cancel, flags),
        }
    }
}
