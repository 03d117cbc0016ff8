//! All links of a lab: which packet goes where, when, and what is counted on the way.
//!
//! Pure: packets and times in, packets out when they are due. It opens no device and reads no clock.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::time::Duration;

use crate::link::Fate;
use crate::link::Link;
use crate::table::Table;
use crate::words::Impairment;

/// What one direction of a link did to its packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Counts {
    pub(crate) offered: u64,
    pub(crate) arrived: u64,
    /// As the words have it.
    pub(crate) lost: u64,
    /// The link held as many as its limit.
    pub(crate) full: u64,
    /// Dropped because the way was cut, before or during the journey.
    pub(crate) cut: u64,
    pub(crate) duplicated: u64,
    pub(crate) corrupted: u64,
    pub(crate) reordered: u64,
}

/// A packet that waits for its time.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    at: Duration,
    /// In which order packets of one time leave.
    number: u64,
    from: usize,
    to: usize,
    packet: Vec<u8>,
}

/// A packet that has arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) to: usize,
    pub(crate) packet: Vec<u8>,
    /// How long after its time.
    pub(crate) late: Duration,
}

struct Way {
    link: Link,
    /// As it was asked for, to be shown.
    words: String,
    is_cut: bool,
    counts: Counts,
}

/// The links between all pairs of nodes.
pub(crate) struct Fabric {
    nodes: usize,
    places: BTreeMap<IpAddr, usize>,
    ways: Vec<Way>,
    waiting: BinaryHeap<Reverse<Waiting>>,
    number: u64,
    /// Packets to addresses that nobody has.
    strays: u64,
}

impl Fabric {
    /// Clean links between so many nodes. Each link draws from a stream of its own, which follows from the seed.
    pub(crate) fn new(nodes: usize, seed: u64) -> Self {
        let way = |number: usize| {
            // Neighbouring seeds give unrelated streams: they are hashed by the generator's setup.
            let own = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number as u64);
            let link = Link::new(Impairment::default(), None, own);
            Way { link, words: String::new(), is_cut: false, counts: Counts::default() }
        };
        let ways = (0..nodes * nodes).map(way).collect();
        Self { nodes, places: BTreeMap::new(), ways, waiting: BinaryHeap::new(), number: 0, strays: 0 }
    }

    /// How many nodes there are.
    pub(crate) fn nodes(&self) -> usize {
        self.nodes
    }

    /// A node is reached at this address from now on, beside those it has.
    pub(crate) fn place(&mut self, address: IpAddr, node: usize) {
        self.places.insert(address, node);
    }

    /// Nobody is reached at this address any more.
    pub(crate) fn vacate(&mut self, address: IpAddr) {
        self.places.remove(&address);
    }

    fn way(&mut self, from: usize, to: usize) -> &mut Way {
        &mut self.ways[from * self.nodes + to]
    }

    /// Changes one direction.
    pub(crate) fn change(&mut self, from: usize, to: usize, words: &str, read: Impairment, table: Option<Table>) {
        let way = self.way(from, to);
        way.link.change(read, table);
        words.clone_into(&mut way.words);
    }

    /// Cuts one direction, or ends the cut.
    pub(crate) fn cut(&mut self, from: usize, to: usize, is_cut: bool) {
        self.way(from, to).is_cut = is_cut;
    }

    /// What each direction is and has counted: from, to, words, whether it is cut.
    pub(crate) fn ways(&self) -> impl Iterator<Item = (usize, usize, &str, bool, Counts)> {
        self.ways.iter().enumerate().filter_map(|(at, way)| {
            let (from, to) = (at / self.nodes, at % self.nodes);
            (from != to).then_some((from, to, way.words.as_str(), way.is_cut, way.counts))
        })
    }

    /// Packets to nobody.
    pub(crate) fn strays(&self) -> u64 {
        self.strays
    }

    /// Begins to count anew.
    pub(crate) fn forget(&mut self) {
        self.ways.iter_mut().for_each(|way| way.counts = Counts::default());
        self.strays = 0;
    }

    /// A node has sent a packet.
    pub(crate) fn offer(&mut self, now: Duration, from: usize, packet: &[u8]) {
        let Some(to) = destination(packet).and_then(|address| self.places.get(&address).copied()) else {
            self.strays += 1;
            return;
        };
        let way = self.way(from, to);
        way.counts.offered += 1;
        if way.is_cut {
            way.counts.cut += 1;
            return;
        }
        let (one, two) = way.link.offer(now, packet.len());
        // The copy goes in front, as in the kernel.
        for fate in two.into_iter().chain(Some(one)) {
            self.send(fate, from, to, packet);
        }
    }

    fn send(&mut self, fate: Fate, from: usize, to: usize, packet: &[u8]) {
        let counts = &mut self.way(from, to).counts;
        match fate {
            Fate::Lost => counts.lost += 1,
            Fate::Full => counts.full += 1,
            Fate::Arrives { at, flip, overtakes, is_copy } => {
                counts.duplicated += u64::from(is_copy);
                counts.reordered += u64::from(overtakes);
                counts.corrupted += u64::from(flip.is_some());
                let mut packet = packet.to_vec();
                if let Some(drawn) = flip {
                    invert(&mut packet, drawn);
                }
                self.number += 1;
                self.waiting.push(Reverse(Waiting { at, number: self.number, from, to, packet }));
            }
        }
    }

    /// The next packet whose time has come.
    pub(crate) fn due(&mut self, now: Duration) -> Option<Arrival> {
        while self.next()? <= now {
            let Reverse(Waiting { at, from, to, packet, .. }) = self.waiting.pop()?;
            let way = self.way(from, to);
            way.link.arrived();
            if way.is_cut {
                way.counts.cut += 1;
                continue;
            }
            way.counts.arrived += 1;
            return Some(Arrival { to, packet, late: now.saturating_sub(at) });
        }
        None
    }

    /// When the next packet is due.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.waiting.peek().map(|Reverse(waiting)| waiting.at)
    }
}

/// Where a packet of IP goes.
fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?).into()),
        6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(24..40)?).ok()?).into()),
        _ => None,
    }
}

/// Inverts one bit behind the first byte, without which the receiver's kernel would not take the packet at all.
fn invert(packet: &mut [u8], drawn: u64) {
    let bits = (packet.len() as u64).saturating_sub(1) * 8;
    if let Some(bit) = drawn.checked_rem(bits)
        && let Some(byte) = usize::try_from(bit / 8 + 1).ok().and_then(|at| packet.get_mut(at))
    {
        *byte ^= 1 << (bit % 8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(to: usize, body: u8) -> Vec<u8> {
        let mut packet = vec![0; 60];
        packet[0] = 0x45;
        packet[16..20].copy_from_slice(&[10, 0, 0, u8::try_from(to).unwrap()]);
        packet[59] = body;
        packet
    }

    fn fabric() -> Fabric {
        let mut fabric = Fabric::new(3, 1);
        (0..3).for_each(|node| fabric.place(IpAddr::from([10, 0, 0, u8::try_from(node).unwrap()]), node));
        fabric
    }

    fn change(fabric: &mut Fabric, from: usize, to: usize, words: &str) {
        fabric.change(from, to, words, Impairment::parse(words).unwrap(), None);
    }

    fn counts(fabric: &Fabric, from: usize, to: usize) -> Counts {
        fabric.ways().find(|way| (way.0, way.1) == (from, to)).unwrap().4
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn packets_arrive_in_the_order_of_their_times_and_only_where_they_belong() {
        let mut fabric = fabric();
        change(&mut fabric, 0, 1, "delay 5ms");
        fabric.offer(MS, 0, &packet(1, 1));
        fabric.offer(MS, 0, &packet(2, 2));
        fabric.offer(2 * MS, 0, &packet(1, 3));
        assert_eq!(fabric.due(3 * MS), Some(Arrival { to: 2, packet: packet(2, 2), late: 2 * MS }));
        assert_eq!((fabric.due(5 * MS), fabric.next()), (None, Some(6 * MS)));
        assert_eq!(fabric.due(10 * MS).unwrap().packet, packet(1, 1));
        assert_eq!(fabric.due(10 * MS).unwrap().packet, packet(1, 3));
        assert_eq!((fabric.due(10 * MS), fabric.next()), (None, None));
    }

    #[test]
    fn packets_of_one_time_keep_their_order() {
        let mut fabric = fabric();
        (0..100).for_each(|body| fabric.offer(MS, 0, &packet(1, body)));
        let bodies: Vec<u8> = std::iter::from_fn(|| fabric.due(MS)).map(|arrival| arrival.packet[59]).collect();
        assert_eq!(bodies, (0..100).collect::<Vec<u8>>());
    }

    #[test]
    fn a_cut_is_one_way_and_takes_what_is_under_way() {
        let mut fabric = fabric();
        change(&mut fabric, 0, 1, "delay 5ms");
        fabric.offer(MS, 0, &packet(1, 1));
        fabric.cut(0, 1, true);
        fabric.offer(2 * MS, 0, &packet(1, 2));
        fabric.offer(2 * MS, 1, &packet(0, 3));
        assert_eq!(fabric.due(10 * MS).unwrap().packet, packet(0, 3));
        assert_eq!(fabric.due(10 * MS), None);
        assert_eq!(counts(&fabric, 0, 1), Counts { offered: 2, cut: 2, ..Counts::default() });
        fabric.cut(0, 1, false);
        fabric.offer(11 * MS, 0, &packet(1, 4));
        assert!(fabric.due(20 * MS).is_some());
    }

    #[test]
    fn every_packet_is_accounted_for() {
        let mut fabric = fabric();
        change(&mut fabric, 0, 1, "delay 5ms 4ms loss 10% duplicate 10% corrupt 10% limit 20");
        for step in 1..=2_000 {
            fabric.offer(step * MS / 4, 0, &packet(1, 0));
            while fabric.due(step * MS / 4).is_some() {}
        }
        while fabric.due(MS * 10_000).is_some() {}
        let Counts { offered, arrived, lost, full, duplicated, corrupted, .. } = counts(&fabric, 0, 1);
        assert_eq!(offered, 2_000);
        assert!(lost > 100 && full > 0 && duplicated > 100 && corrupted > 100);
        // A copy that was lost or found no room is counted as lost or full and not as duplicated.
        assert!(offered + duplicated <= arrived + lost + full);
    }

    #[test]
    fn a_flip_changes_one_bit() {
        let mut fabric = fabric();
        change(&mut fabric, 0, 1, "corrupt 100%");
        fabric.offer(MS, 0, &packet(1, 0));
        let arrived = fabric.due(MS).unwrap().packet;
        let bits: u32 = arrived.iter().zip(packet(1, 0)).map(|(one, two)| (one ^ two).count_ones()).sum();
        assert_eq!(bits, 1);
    }

    #[test]
    fn strays_are_counted_and_addresses_move() {
        let mut fabric = fabric();
        fabric.offer(MS, 0, &packet(9, 0));
        fabric.offer(MS, 0, &[0x60, 0]);
        fabric.offer(MS, 0, &[]);
        assert_eq!(fabric.strays(), 3);
        fabric.place(IpAddr::from([10, 0, 0, 9]), 1);
        fabric.vacate(IpAddr::from([10, 0, 0, 1]));
        fabric.offer(MS, 0, &packet(9, 7));
        fabric.offer(MS, 0, &packet(1, 8));
        assert_eq!(fabric.due(MS).unwrap().packet[59], 7);
        assert_eq!((fabric.due(MS), fabric.strays()), (None, 4));
    }
}
