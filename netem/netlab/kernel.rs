//! Links by the kernel's own netem: cables into one bridge, whose far ends shape what each node receives, sender by sender.
//!
//! Only text for `ip` and `tc` is made here. Before netem stands a token bucket whose bucket is smaller than two packets, so that the
//! kernel takes large sends apart and loses single datagrams, not all that one call has sent. A change of a link loses what is
//! under way on it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::groups;
use crate::shell;

/// The fastest a link can be, since all of its packets pass the token bucket.
const FASTEST: &str = "1gbit";

fn hardware(node: usize) -> String {
    format!("02:00:00:00:00:{:02x}", node + 1)
}

/// Makes the bridge and the cables. Neighbours are permanent entries: the kernel's table of learnt ones is shared by all namespaces.
pub(crate) fn lay(nodes: usize) -> Result<(), String> {
    let mut all = String::from("link add br0 type bridge\nlink set br0 up\n");
    for node in 0..nodes {
        let name = groups::name(node);
        all += &format!("link add v{name} type veth peer name eth0 netns {name}\n");
        all += &format!("link set v{name} master br0\nlink set v{name} addrgenmode none up\n");
    }
    shell::ip(None, &all)?;
    for node in 0..nodes {
        let lines = format!("link set eth0 address {} addrgenmode none up\nlink set lo up\n", hardware(node));
        shell::ip(Some(&groups::name(node)), &lines)?;
        shell::tc(&tree(node, nodes))?;
    }
    Ok(())
}

/// The classes of one cable: one for each sender, clean at first.
fn tree(to: usize, nodes: usize) -> String {
    let device = format!("v{}", groups::name(to));
    let mut lines = format!("qdisc add dev {device} root handle 1: htb\n");
    for from in (0..nodes).filter(|from| *from != to) {
        let (class, bucket) = (from + 1, 0x100 + from);
        lines += &format!("class add dev {device} parent 1: classid 1:{class:x} htb rate {FASTEST}\n");
        lines += &format!(
            "qdisc add dev {device} parent 1:{class:x} handle {bucket:x}: tbf rate {FASTEST} burst 2000 limit 10mb\n"
        );
        lines += &leaf("add", to, from, "limit 10000");
    }
    lines
}

fn leaf(verb: &str, to: usize, from: usize, words: &str) -> String {
    let (device, bucket, handle) = (format!("v{}", groups::name(to)), 0x100 + from, 0x200 + from);
    format!("qdisc {verb} dev {device} parent {bucket:x}:1 handle {handle:x}: netem {words}\n")
}

/// Lets all know a node's addresses: as neighbours, and in the filters of the cables.
pub(crate) fn settle(node: usize, nodes: usize, addresses: &[String; 2]) -> Result<(), String> {
    let mut filters = String::new();
    for other in (0..nodes).filter(|other| *other != node) {
        let mut lines = String::new();
        for address in addresses {
            writeln!(lines, "neigh replace {address} lladdr {} dev eth0 nud permanent", hardware(node))
                .map_err(|error| error.to_string())?;
        }
        shell::ip(Some(&groups::name(other)), &lines)?;
        let filter = format!("filter add dev v{} parent 1:", groups::name(other));
        let class = node + 1;
        filters += &format!("{filter} protocol ip prio 10 u32 match ip src {}/32 flowid 1:{class:x}\n", addresses[0]);
        filters +=
            &format!("{filter} protocol ipv6 prio 11 u32 match ip6 src {}/128 flowid 1:{class:x}\n", addresses[1]);
    }
    shell::tc(&filters)
}

/// Makes these directions as the words and the cuts have it.
pub(crate) fn shape(
    ways: &BTreeSet<(usize, usize)>,
    words: &BTreeMap<(usize, usize), String>,
    cuts: &BTreeSet<(usize, usize)>,
) -> Result<(), String> {
    let mut lines = String::new();
    for way in ways {
        let (from, to) = *way;
        let words = match words.get(way).map_or("", String::as_str) {
            _ if cuts.contains(way) => "loss 100%".to_owned(),
            "" => "limit 10000".to_owned(),
            // What tc has no table for, since the kernel does it by itself, and what old versions of it refuse.
            words => words.replace(" distribution uniform", "").replace("loss 0% ", ""),
        };
        // A change of a leaf would keep what the words leave out.
        lines += &format!("qdisc del dev v{} parent {:x}:1\n", groups::name(to), 0x100 + from);
        lines += &leaf("add", to, from, &words);
    }
    if lines.is_empty() { Ok(()) } else { shell::tc(&lines) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cable_has_a_class_for_each_sender_and_none_for_others() {
        let lines = tree(1, 3);
        let expected = "qdisc add dev vn2 root handle 1: htb\n\
            class add dev vn2 parent 1: classid 1:1 htb rate 1gbit\n\
            qdisc add dev vn2 parent 1:1 handle 100: tbf rate 1gbit burst 2000 limit 10mb\n\
            qdisc add dev vn2 parent 100:1 handle 200: netem limit 10000\n\
            class add dev vn2 parent 1: classid 1:3 htb rate 1gbit\n\
            qdisc add dev vn2 parent 1:3 handle 102: tbf rate 1gbit burst 2000 limit 10mb\n\
            qdisc add dev vn2 parent 102:1 handle 202: netem limit 10000\n";
        assert_eq!(lines, expected);
    }
}
