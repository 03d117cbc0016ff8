//! The lab's network: a namespace for each node, and links between them by one of two ways, with the same names and addresses.
//!
//! By the emulator, each node's `eth0` is a TUN device whose other end the emulator holds. By the kernel, it is a cable into a bridge,
//! whose far end shapes what the node receives, sender by sender. Which way is the caller's choice: none is taken instead of the other.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::BufRead as _;
use std::io::BufReader;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use crate::actions::Action;
use crate::emulator;
use crate::emulator::Report;
use crate::groups;
use crate::groups::Set;
use crate::kernel;
use crate::remote::Remote;
use crate::shell;

/// The longest wait for the emulator's answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a node's address grows by when it moves.
const MOVE: usize = 32;
/// Most nodes of a lab: what a report of all links finds room in, and what keeps moved addresses apart.
pub(crate) const NODES_MAX: usize = 24;

/// How links are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Way {
    /// The kernel's netem, on cables of a bridge.
    Kernel,
    /// This program's emulator, on TUN devices.
    Emulator,
}

impl Way {
    /// Whether the kernel has netem, tried on a device of this namespace.
    pub(crate) fn of_this_kernel() -> Self {
        let tried = shell::tc("qdisc add dev lo root netem delay 1ms\nqdisc del dev lo root\n");
        if tried.is_ok() { Self::Kernel } else { Self::Emulator }
    }
}

enum Links {
    Kernel,
    Emulator { remote: Remote, _process: Process },
}

/// A process that ends with its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is waited for.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A lab's network.
pub(crate) struct Net {
    nodes: usize,
    links: Links,
    /// How often each node has moved.
    moves: Vec<usize>,
    cuts: BTreeSet<(usize, usize)>,
    words: BTreeMap<(usize, usize), String>,
    /// Packets that each node's device had dropped when counting began.
    dropped: Vec<u64>,
    hosts: PathBuf,
    six: bool,
}

/// What a lab's links did, and whether that can be relied on.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct Account {
    /// `None` when the kernel makes the links: it counts otherwise (`tc -s qdisc`).
    pub(crate) emulator: Option<Report>,
    /// Packets lost on no account of what was asked for; a run counts only when there are none.
    pub(crate) unmodelled: u64,
}

/// A command that runs in the namespace of a node.
pub(crate) fn inside(node: usize, program: &Path) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &groups::name(node)]).arg(program);
    command
}

impl Net {
    /// Makes namespaces with clean links. `folder` takes what must have a place in a file system; names are resolved to
    /// IPv6 addresses if `six` says so.
    ///
    /// # Errors
    /// What could not be made.
    pub(crate) fn new(nodes: usize, way: Way, folder: &Path, seed: u64, six: bool) -> Result<Self, String> {
        let text = |error: std::io::Error| format!("{}: {error}", folder.display());
        std::fs::create_dir_all("/run/netns").map_err(text)?;
        let hosts = folder.join("hosts");
        std::fs::write(&hosts, "").map_err(text)?;
        let shown = hosts.display().to_string();
        shell::run("mount", &["--bind", &shown, "/etc/hosts"])?;
        let names: String = (0..nodes).map(|node| format!("netns add {}\n", groups::name(node))).collect();
        shell::ip(None, &format!("link set lo up\n{names}"))?;
        let links = match way {
            Way::Kernel => {
                kernel::lay(nodes)?;
                Links::Kernel
            }
            Way::Emulator => emulate(nodes, seed, folder)?,
        };
        let (moves, dropped) = (vec![0; nodes], vec![0; nodes]);
        let (cuts, words) = (BTreeSet::new(), BTreeMap::new());
        let mut net = Self { nodes, links, moves, cuts, words, dropped, hosts, six };
        (0..nodes).try_for_each(|node| net.settle(node, None))?;
        Ok(net)
    }

    /// How many nodes there are.
    pub(crate) fn nodes(&self) -> usize {
        self.nodes
    }

    /// The IPv4 and the IPv6 address of a node.
    pub(crate) fn addresses(&self, node: usize) -> [String; 2] {
        addresses(node, self.moves[node])
    }

    /// Gives a node its addresses, instead of those before.
    fn settle(&mut self, node: usize, before: Option<[String; 2]>) -> Result<(), String> {
        let name = groups::name(node);
        let [four, six] = self.addresses(node);
        let mut lines = String::new();
        // First the old ones: with the first address of a network go all that came to it later.
        for gone in before.iter().flatten() {
            let length = if gone.contains(':') { 64 } else { 24 };
            writeln!(lines, "addr del {gone}/{length} dev eth0").map_err(|error| error.to_string())?;
        }
        lines += &format!("addr add {four}/24 dev eth0\naddr add {six}/64 dev eth0 nodad\n");
        shell::ip(Some(&name), &lines)?;
        match &self.links {
            Links::Kernel => kernel::settle(node, self.nodes, &[four, six])?,
            Links::Emulator { remote, .. } => {
                let mut orders = format!("place {four} {name}\nplace {six} {name}\n");
                orders.extend(before.iter().flatten().map(|gone| format!("vacate {gone}\n")));
                remote.ask(&orders)?;
            }
        }
        self.tell_names()
    }

    /// Writes whose name has which address.
    fn tell_names(&self) -> Result<(), String> {
        let mut text = String::from("127.0.0.1 localhost\n::1 localhost\n");
        for node in 0..self.nodes {
            let address = &self.addresses(node)[usize::from(self.six)];
            writeln!(text, "{address} {}", groups::name(node)).map_err(|error| error.to_string())?;
        }
        std::fs::write(&self.hosts, text).map_err(|error| format!("{}: {error}", self.hosts.display()))
    }

    /// Does what concerns links and addresses; other actions are nothing to it.
    ///
    /// # Errors
    /// What could not be done.
    pub(crate) fn perform(&mut self, action: &Action) -> Result<(), String> {
        match action {
            Action::Shape(ways) => {
                let changed = ways.iter().map(|(from, to, words)| ((*from, *to), words.clone()));
                self.words.extend(changed);
                self.shape(&ways.iter().map(|(from, to, _)| (*from, *to)).collect())
            }
            Action::Partition(cuts) => self.cut(cuts.clone()),
            Action::Cut(cuts) => self.cut(&self.cuts | cuts),
            Action::Heal => self.cut(BTreeSet::new()),
            Action::Clear => {
                self.cut(BTreeSet::new())?;
                let shaped = std::mem::take(&mut self.words).into_keys().collect();
                self.shape(&shaped)
            }
            Action::Note(_) | Action::End | Action::Do(..) => Ok(()),
        }
    }

    fn shape(&self, ways: &BTreeSet<(usize, usize)>) -> Result<(), String> {
        match &self.links {
            Links::Kernel => kernel::shape(ways, &self.words, &self.cuts),
            Links::Emulator { remote, .. } => {
                let order = |way: &(usize, usize)| {
                    let words = self.words.get(way).map_or("", String::as_str);
                    order("shape", way) + " " + words + "\n"
                };
                remote.ask(&ways.iter().map(order).collect::<String>()).map(drop)
            }
        }
    }

    /// Cuts exactly these.
    fn cut(&mut self, cuts: BTreeSet<(usize, usize)>) -> Result<(), String> {
        let before = std::mem::replace(&mut self.cuts, cuts);
        let changed = &before ^ &self.cuts;
        match &self.links {
            Links::Kernel => kernel::shape(&changed, &self.words, &self.cuts),
            Links::Emulator { remote, .. } => {
                let verb = |way| if self.cuts.contains(way) { "cut" } else { "mend" };
                let orders: String = changed.iter().map(|way| order(verb(way), way) + "\n").collect();
                if orders.is_empty() { Ok(()) } else { remote.ask(&orders).map(drop) }
            }
        }
    }

    /// Gives nodes other addresses, which their names then have.
    ///
    /// # Errors
    /// What could not be done.
    pub(crate) fn move_nodes(&mut self, set: &Set) -> Result<(), String> {
        for node in set {
            let before = self.addresses(*node);
            self.moves[*node] = (self.moves[*node] + 1) % 6;
            self.settle(*node, Some(before))?;
        }
        Ok(())
    }

    /// What the links are like, for people.
    pub(crate) fn show(&self) -> String {
        let mut text = String::new();
        for node in 0..self.nodes {
            text += &format!("{} {}\n", groups::name(node), self.addresses(node).join(" "));
        }
        for (way, words) in self.words.iter().filter(|(_, words)| !words.is_empty()) {
            text += &format!("{}\n", order("", way).trim_start().replace(' ', " > ") + ": " + words);
        }
        let cuts = self.cuts.iter().map(|way| order("", way).trim_start().replace(' ', " > ") + ": cut\n");
        text.extend(cuts);
        text
    }

    /// Begins to count anew.
    ///
    /// # Errors
    /// When somebody does not answer.
    pub(crate) fn forget(&mut self) -> Result<(), String> {
        if let Links::Emulator { remote, .. } = &self.links {
            remote.ask("forget")?;
        }
        self.dropped = self.all_dropped()?;
        Ok(())
    }

    /// What was counted.
    ///
    /// # Errors
    /// When somebody does not answer.
    pub(crate) fn account(&self) -> Result<Account, String> {
        let emulator = match &self.links {
            Links::Kernel => None,
            Links::Emulator { remote, .. } => {
                let report: Report = serde_json::from_str(&remote.ask("report")?).map_err(|error| error.to_string())?;
                Some(report)
            }
        };
        let now: u64 = self.all_dropped()?.iter().sum();
        let refused = emulator.as_ref().map_or(0, |report| report.refused);
        let unmodelled = now.saturating_sub(self.dropped.iter().sum()) + refused;
        Ok(Account { emulator, unmodelled })
    }

    /// What each node's device has dropped: of what it sent; and of what it received, unless the kernel's netem may have made it
    /// such that nobody wants it.
    fn all_dropped(&self) -> Result<Vec<u64>, String> {
        let both = matches!(self.links, Links::Emulator { .. });
        (0..self.nodes)
            .map(|node| dropped(node).map(|(sent, received)| sent + if both { received } else { 0 }))
            .collect()
    }
}

fn order(verb: &str, (from, to): &(usize, usize)) -> String {
    format!("{verb} {} {}", groups::name(*from), groups::name(*to))
}

fn addresses(node: usize, moves: usize) -> [String; 2] {
    let host = node + 1 + moves * MOVE;
    [format!("10.77.0.{host}"), format!("fd77::{host:x}")]
}

/// What a node's device has dropped so far of what it sent and of what it received.
fn dropped(node: usize) -> Result<(u64, u64), String> {
    let listed = shell::run("ip", &["-n", &groups::name(node), "-s", "-j", "link", "show", "eth0"])?;
    let listed: serde_json::Value = serde_json::from_str(&listed).map_err(|error| error.to_string())?;
    let of = |side: &str| listed[0]["stats64"][side]["dropped"].as_u64();
    of("tx").zip(of("rx")).ok_or_else(|| "ip does not say what was dropped".to_owned())
}

/// Starts the emulator, before all other work of the machine where that is allowed, and moves its devices to the nodes.
fn emulate(nodes: usize, seed: u64, folder: &Path) -> Result<Links, String> {
    let control = folder.join("emulator");
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new("chrt");
    // Its children, if it had any, would not inherit it.
    command.args(["--reset-on-fork", "--fifo", "10"]);
    if shell::run("chrt", &["--fifo", "10", "true"]).is_err() {
        command = Command::new("env");
    }
    command.arg(own).args(["emulate", &nodes.to_string(), &seed.to_string()]).arg(&control);
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut process = Process(spawned.map_err(|error| format!("{command:?}: {error}"))?);
    let mut line = String::new();
    if let Some(out) = process.0.stdout.take() {
        BufReader::new(out).read_line(&mut line).map_err(|error| error.to_string())?;
    }
    if line.trim() != "ready" {
        return Err("the emulator did not start: it needs /dev/net/tun, and the right to make devices".to_owned());
    }
    for node in 0..nodes {
        let (name, device) = (groups::name(node), emulator::device(node));
        shell::ip(None, &format!("link set dev {device} netns {name}\n"))?;
        let lines = format!("link set dev {device} name eth0\nlink set dev eth0 addrgenmode none up\nlink set lo up\n");
        shell::ip(Some(&name), &lines)?;
    }
    Ok(Links::Emulator { remote: Remote::connect(&control, PATIENCE)?, _process: process })
}

/// Takes namespaces of a network that is gone away, so that another can be made by the same names.
///
/// # Errors
/// When one cannot be.
pub(crate) fn take_down(nodes: usize) -> Result<(), String> {
    let mut lines: String = (0..nodes).map(|node| format!("netns del {}\n", groups::name(node))).collect();
    if shell::run("ip", &["link", "show", "br0"]).is_ok() {
        lines += "link del br0\n";
    }
    shell::ip(None, &lines)?;
    shell::run("umount", &["/etc/hosts"]).map(drop)
}
