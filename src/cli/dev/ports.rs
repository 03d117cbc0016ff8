//! The ports of a dev cluster: ten for each node, free, and claimed against another `dev` that starts at the same time.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::Ipv4Addr;
use std::net::TcpListener;
use std::net::UdpSocket;

use anyhow::anyhow;

use crate::cli::Usage;
use crate::cli::lock::Lock;

/// Where the search for free ports begins.
pub(super) const BASE: u16 = 7600;
/// Where it ends: systems hand out the ports above for outgoing connections.
const LAST: u16 = 32_000;
/// Ports from one node to the next.
const STRIDE: u16 = 10;
/// Ports that are claimed together.
const BLOCK: u16 = 100;

/// The addresses of one node, all on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NodePorts {
    pub(super) quic: u16,
    pub(super) gossip: u16,
    pub(super) admin: u16,
}

/// Ports that were free, and that no other `dev` will take while this lives.
#[derive(Debug)]
pub(super) struct Ports {
    pub(super) base: u16,
    /// Blocks of ports, by number.
    claims: BTreeMap<u16, Lock>,
}

impl Ports {
    /// The ports of the node with this number, from 0.
    pub(super) fn of(&self, index: u16) -> NodePorts {
        ports(self.base, index)
    }

    /// Takes those of one node more; otherwise says which is taken.
    pub(super) fn extend(&mut self, index: u16) -> Result<(), String> {
        let first = u32::from(self.base) + u32::from(index) * u32::from(STRIDE);
        let last = u16::try_from(first + u32::from(STRIDE) - 1).map_err(|_| "there are no higher ports".to_owned())?;
        for block in (last - STRIDE + 1) / BLOCK..=last / BLOCK {
            if let Entry::Vacant(free) = self.claims.entry(block) {
                free.insert(claim_block(block)?);
            }
        }
        check_free(self.base, index)
    }
}

fn ports(base: u16, index: u16) -> NodePorts {
    let quic = base + index * STRIDE;
    NodePorts { quic, gossip: quic + 1, admin: quic + 2 }
}

/// Takes the first free ones.
///
/// # Errors
/// When there are none.
pub(super) fn find(nodes: u16) -> anyhow::Result<Ports> {
    let bases = (BASE..LAST).step_by(usize::from(BLOCK));
    let free = bases.into_iter().find_map(|base| claim(base, nodes).ok());
    free.ok_or_else(|| anyhow!("no {nodes} times ten free ports from {BASE} to {LAST}: give --base-port"))
}

/// Takes those from `base` on; otherwise says which is taken.
pub(super) fn claim(base: u16, nodes: u16) -> Result<Ports, String> {
    let blocks = base / BLOCK..=last(base, nodes) / BLOCK;
    let claims = blocks.map(|block| Ok((block, claim_block(block)?))).collect::<Result<_, String>>()?;
    (0..nodes).try_for_each(|index| check_free(base, index))?;
    Ok(Ports { base, claims })
}

fn claim_block(block: u16) -> Result<Lock, String> {
    let start = u32::from(block) * u32::from(BLOCK);
    let path = std::env::temp_dir().join(format!("dynamomini-dev-{start}.lock"));
    // A file that cannot be opened is another user's, who has claimed the block or may do so at any time.
    Lock::take(&path).map_err(|_| format!("ports {start} and on are claimed by another `dynamomini dev`"))
}

fn check_free(base: u16, index: u16) -> Result<(), String> {
    let NodePorts { quic, gossip, admin } = ports(base, index);
    let local = |port| (Ipv4Addr::LOCALHOST, port);
    for port in [quic, gossip] {
        UdpSocket::bind(local(port)).map_err(|error| format!("UDP port {port}: {error}"))?;
    }
    TcpListener::bind(local(admin)).map_err(|error| format!("TCP port {admin}: {error}"))?;
    Ok(())
}

fn last(base: u16, nodes: u16) -> u16 {
    base + nodes * STRIDE - 1
}

/// Refuses a base from which the ports would go beyond the last there is.
///
/// # Errors
/// [`Usage`] with the highest that will do.
pub(super) fn check(base: u16, nodes: u16) -> Result<(), Usage> {
    let highest = u16::MAX - nodes * STRIDE;
    if base == 0 || base > highest {
        return Err(Usage(format!("--base-port {base}: give 1 to {highest} for {nodes} nodes")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_clusters_never_get_the_same_ports() {
        let (first, second) = (find(3).unwrap(), find(12).unwrap());
        let apart = first.base + 30 <= second.base || second.base + 120 <= first.base;
        assert!(apart, "{} and {}", first.base, second.base);
        assert!(claim(first.base, 1).unwrap_err().contains("claimed"));
    }

    #[test]
    fn a_node_more_gets_ports_that_nobody_else_takes_then() {
        let mut first = find(10).unwrap();
        match first.extend(10) {
            Ok(()) => assert!(claim(first.base + 100, 1).unwrap_err().contains("claimed")),
            // Another test holds the next block.
            Err(taken) => assert!(taken.contains("claimed") || taken.contains("port"), "{taken}"),
        }
        assert!(first.extend(u16::MAX / 8).is_err());
    }

    #[test]
    fn a_port_in_use_is_named() {
        let base = find(2).unwrap().base;
        let taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, base + 11)).unwrap();
        assert!(claim(base, 2).unwrap_err().contains(&format!("UDP port {}", base + 11)));
        drop(taken);
    }

    #[test]
    fn a_base_that_leaves_no_room_is_refused() {
        assert!(check(0, 1).is_err() && check(65_500, 32).is_err() && check(65_000, 32).is_ok());
    }
}
