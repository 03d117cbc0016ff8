//! Namespaces on one bridge, and what is done to the paths between them.
//!
//! Loss happens at the input of a namespace, unseen by the sender. Neighbours are permanent entries: the kernel's table of
//! learnt ones is shared by all namespaces, and would overflow and lose packets on its own account.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Command;
use std::process::Stdio;

/// The address of the harness itself, whose packets are never lost.
const OWN: usize = 254;

/// The address of a member.
pub(crate) fn address(member: usize) -> String {
    format!("10.99.0.{}", member + 1)
}

fn hardware(member: usize) -> String {
    format!("02:00:00:00:00:{:02x}", member + 1)
}

/// A command that runs in the namespace of a member.
pub(crate) fn inside(member: usize, program: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &format!("n{}", member + 1), program]);
    command
}

/// Makes the place for namespaces and files: in memory, and gone with this process.
pub(crate) fn prepare() -> Result<(), String> {
    feed(Command::new("sh"), "set -e\nmount -t tmpfs none /run\nmkdir -p /run/netns\nip link set lo up\n")
}

/// Traffic that arrived at or left a member.
#[derive(Clone, Copy, Default)]
pub(crate) struct Traffic {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

/// The network, which one cluster after the other uses.
pub(crate) struct Net {
    members: usize,
}

impl Net {
    /// A bridge with a namespace for each member.
    pub(crate) fn new(members: usize) -> Result<Self, String> {
        let net = Self { members };
        let mut all = String::from("link add br0 type bridge\nlink set br0 address 02:00:00:00:00:fe\n");
        all += "addr add 10.99.0.254/24 dev br0\nlink set br0 up\n";
        for member in 0..members {
            let (name, port) = (format!("n{}", member + 1), format!("v{}", member + 1));
            writeln!(all, "netns add {name}\nlink add {port} type veth peer name eth0 netns {name}").map_err(text)?;
            writeln!(all, "link set {port} master br0\nlink set {port} addrgenmode none up").map_err(text)?;
            let (at, mac) = (address(member), hardware(member));
            writeln!(all, "neigh replace {at} lladdr {mac} dev br0 nud permanent").map_err(text)?;
        }
        feed_ip(&["-batch", "-"], &all)?;
        for member in 0..members {
            net.furnish(member)?;
        }
        Ok(net)
    }

    fn furnish(&self, member: usize) -> Result<(), String> {
        let mut lines = format!("link set lo up\nlink set eth0 addrgenmode none address {} up\n", hardware(member));
        writeln!(lines, "addr add {}/24 dev eth0", address(member)).map_err(text)?;
        for other in (0..self.members).chain([OWN - 1]).filter(|other| *other != member) {
            let (at, mac) = (address(other), hardware(other));
            writeln!(lines, "neigh replace {at} lladdr {mac} dev eth0 nud permanent").map_err(text)?;
        }
        feed_ip(&["-n", &format!("n{}", member + 1), "-batch", "-"], &lines)?;
        // Ports: 7400 QUIC and 7401 gossip of DynamoMini; 7946 both of Serf.
        let rules = "table inet lab {
            counter datagrams {}
            counter streams {}
            chain loss {}
            chain cut {}
            chain input { type filter hook input priority 0; ip saddr 10.99.0.254 accept; jump cut; jump loss; }
            chain output {
                type filter hook output priority 0; ip daddr 10.99.0.254 accept;
                udp dport { 7401, 7946 } counter name datagrams
                udp dport 7400 counter name streams
                tcp dport 7946 counter name streams
                tcp sport 7946 counter name streams
            }
        }\n";
        self.rules(member, rules)
    }

    fn rules(&self, member: usize, rules: &str) -> Result<(), String> {
        let mut command = inside(member, "nft");
        command.args(["-f", "-"]);
        feed(command, rules)
    }

    /// Lets every path lose this share of its packets, in per cent.
    pub(crate) fn lose(&self, percent: u32) -> Result<(), String> {
        let mut rules = String::from("flush chain inet lab loss\n");
        if percent > 0 {
            writeln!(rules, "add rule inet lab loss iifname eth0 numgen random mod 100 < {percent} counter drop")
                .map_err(text)?;
        }
        (0..self.members).try_for_each(|member| self.rules(member, &rules))
    }

    /// Packets that the rules of loss have dropped since they were last changed.
    pub(crate) fn dropped(&self) -> u64 {
        (0..self.members).map(|member| counted(&self.listed(member, &["chain", "inet", "lab", "loss"])).packets).sum()
    }

    /// What these members send no longer arrives at `member`.
    pub(crate) fn cut(&self, member: usize, from: &[usize]) -> Result<(), String> {
        let addresses: Vec<String> = from.iter().map(|other| address(*other)).collect();
        self.rules(member, &format!("add rule inet lab cut ip saddr {{ {} }} drop\n", addresses.join(", ")))
    }

    /// Ends all cuts.
    pub(crate) fn mend(&self) -> Result<(), String> {
        (0..self.members).try_for_each(|member| self.rules(member, "flush chain inet lab cut\n"))
    }

    /// Takes a member's cable out of the bridge, which nobody is told of, or puts it back.
    pub(crate) fn plug(&self, member: usize, plugged: bool) -> Result<(), String> {
        let how = if plugged { "master br0" } else { "nomaster" };
        feed_ip(&["-batch", "-"], &format!("link set v{} {how}\n", member + 1))
    }

    /// Makes all paths good again.
    pub(crate) fn repair(&self) -> Result<(), String> {
        self.lose(0)?;
        self.mend()?;
        (0..self.members).try_for_each(|member| self.plug(member, true))
    }

    /// What a member has sent so far: datagrams of gossip, and streams (QUIC or TCP), headers of IP included.
    pub(crate) fn sent(&self, member: usize) -> (Traffic, Traffic) {
        let of = |name| counted(&self.listed(member, &["counter", "inet", "lab", name]));
        (of("datagrams"), of("streams"))
    }

    fn listed(&self, member: usize, what: &[&str]) -> String {
        let output = inside(member, "nft").arg("list").args(what).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
    }
}

/// The first counter in what nft printed.
fn counted(listed: &str) -> Traffic {
    let mut words = listed.split_whitespace();
    let mut after = |name: &str| {
        words.find(|word| *word == name);
        words.next().and_then(|number| number.parse().ok()).unwrap_or(0)
    };
    Traffic { packets: after("packets"), bytes: after("bytes") }
}

fn feed_ip(arguments: &[&str], lines: &str) -> Result<(), String> {
    let mut command = Command::new("ip");
    command.args(arguments);
    feed(command, lines)
}

/// Runs a command with this as its input.
fn feed(mut command: Command, input: &str) -> Result<(), String> {
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|error| format!("{command:?}: {error}"))?;
    let written = child.stdin.take().map_or(Ok(()), |mut pipe| pipe.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(text)?;
    if !output.status.success() || written.is_err() {
        return Err(format!("{command:?} failed: {}\n{input}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(())
}

fn text(error: impl ToString) -> String {
    error.to_string()
}
