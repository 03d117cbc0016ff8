//! A lab: its network and its cluster, and all that can be done to both.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use crate::actions::Action;
use crate::actions::Deed;
use crate::cluster::Cluster;
use crate::cluster::Plan;
use crate::groups;
use crate::net;
use crate::net::Account;
use crate::net::Net;
use crate::net::Way;
use crate::place::say;

/// What a lab is to be like.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) plan: Plan,
    /// `None` takes the kernel's netem where it is there, and says what it takes.
    pub(crate) way: Option<Way>,
    pub(crate) seed: u64,
    pub(crate) six: bool,
    /// Nodes alone, without processes.
    pub(crate) bare: bool,
}

/// A lab.
pub(crate) struct Lab {
    // Before the network, so that processes end before their addresses.
    pub(crate) cluster: Option<Cluster>,
    pub(crate) net: Net,
    folder: PathBuf,
}

impl Lab {
    /// Makes it, in the namespaces of this process.
    ///
    /// # Errors
    /// What could not be made.
    pub(crate) fn new(wanted: &Wanted, folder: &Path) -> Result<Self, String> {
        let nodes = wanted.plan.nodes;
        if !(2..=net::NODES_MAX).contains(&nodes) {
            return Err(format!("2 to {} nodes are possible", net::NODES_MAX));
        }
        let way = wanted.way.unwrap_or_else(Way::of_this_kernel);
        let why = match (wanted.way, way) {
            (Some(_), _) => "as asked for",
            (None, Way::Kernel) => "the kernel has netem",
            (None, Way::Emulator) => "the kernel has no netem (sch_netem)",
        };
        let name = match way {
            Way::Kernel => "the kernel's netem",
            Way::Emulator => "the emulator",
        };
        say(&format!("links: by {name}, {why}"));
        let programs = programs(folder);
        std::fs::create_dir_all(&programs)
            .and_then(|()| symlink(&wanted.plan.program, programs.join("dynamomini")))
            .map_err(|error| format!("{}: {error}", programs.display()))?;
        let net = Net::new(nodes, way, folder, wanted.seed, wanted.six)?;
        let cluster = if wanted.bare { None } else { Some(Cluster::new(wanted.plan.clone(), folder)?) };
        let mut lab = Self { cluster, net, folder: folder.to_owned() };
        if let Some(cluster) = &mut lab.cluster {
            let took = cluster.start_all()?;
            say(&format!("{nodes} nodes see each other after {:.1} s", took.as_secs_f64()));
        }
        Ok(lab)
    }

    /// Does something to it.
    ///
    /// # Errors
    /// What could not be done.
    pub(crate) fn perform(&mut self, action: &Action) -> Result<(), String> {
        match action {
            Action::Do(Deed::Move, set) => self.net.move_nodes(set),
            Action::Do(deed, set) => {
                let cluster = self.cluster.as_mut().ok_or("this lab runs no nodes (--bare)")?;
                set.iter().try_for_each(|node| match deed {
                    Deed::Kill => cluster.kill(*node),
                    Deed::Start => cluster.start(*node),
                    Deed::Freeze => cluster.signal(*node, "STOP"),
                    Deed::Thaw => cluster.signal(*node, "CONT"),
                    Deed::Move => Ok(()),
                })
            }
            Action::Note(text) => {
                say(text);
                Ok(())
            }
            links => self.net.perform(links),
        }
    }

    /// A command with this program that runs beside a node, as a client of the cluster.
    pub(crate) fn client(&self, node: usize) -> Result<std::process::Command, String> {
        let cluster = self.cluster.as_ref().ok_or("this lab runs no nodes (--bare)")?;
        let mut command = net::inside(node, &cluster.plan.program);
        command.env("DYNAMOMINI_CLIENT_CONFIG", cluster.client_file()).stdin(Stdio::null());
        Ok(command)
    }

    /// Its folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Where `exec` finds the program that the nodes of a lab run.
pub(crate) fn programs(folder: &Path) -> PathBuf {
    folder.join("bin")
}

/// What was counted, for people.
pub(crate) fn told(account: &Account) -> String {
    let mut text = String::new();
    if let Some(report) = &account.emulator {
        for way in report.ways.iter().filter(|way| way.counts.offered > 0) {
            let counts = &way.counts;
            text += &format!(
                "{} > {}: {} sent, {} arrived, {} lost, {} cut, {} over the limit, {} doubled, {} corrupted, {} reordered\n",
                groups::name(way.from),
                groups::name(way.to),
                counts.offered,
                counts.arrived,
                counts.lost,
                counts.cut,
                counts.full,
                counts.duplicated,
                counts.corrupted,
                counts.reordered
            );
        }
        let late = &report.late_us;
        let policy = if report.is_realtime { "at real-time priority" } else { "at normal priority" };
        text += &format!(
            "emulator {policy}: {} packets passed on {:.0} us late on average, p99 {} us, at most {} us; {} to nobody\n",
            late.packets, late.mean, late.p99, late.max, report.strays
        );
    }
    text + &format!("lost on no account of what was asked for: {}\n", account.unmodelled)
}

/// Sleeps.
pub(crate) fn pause(span: Duration) {
    std::thread::sleep(span);
}
