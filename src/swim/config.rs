//! The pace of gossip: intervals, time-outs and counts, with presets, and the formulas that follow from them.

use std::time::Duration;

use crate::limits;

/// How fast members are probed, suspected and told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Time between two probes by a healthy member. Every other one goes to the next member in the order of
    /// identifiers, the rest round robin through a shuffled list.
    pub probe_interval: Duration,
    /// How long a direct ping may take before relays and a stream are tried. Members that are known to be farther
    /// away get four times their round-trip time.
    pub ping_timeout: Duration,
    /// How long those may take before the member is suspected.
    pub relay_timeout: Duration,
    /// Members asked to ping one that did not answer.
    pub relays: usize,
    /// How long a suspicion lasts at least, which is when enough members confirmed it.
    pub suspicion_min: Duration,
    /// How long it lasts when nobody confirms it.
    pub suspicion_max: Duration,
    /// How long it lasts when enough confirm it, and two of them saw their pings refused by a closed port.
    pub suspicion_refused: Duration,
    /// Independent accusers, the first included, after whom a suspicion is as short as it gets.
    pub accusers: usize,
    /// Time between two rounds of gossip while there is something to tell.
    pub gossip_interval: Duration,
    /// Members told in each round.
    pub fanout: usize,
    /// News are sent this many times the decimal logarithm of the number of members.
    pub retransmit: u32,
    /// Shortest time between two synchronisations that one member starts.
    pub sync_interval: Duration,
    /// First wait before a dead member is tried again, and for all members together about the time between trials.
    pub retry_interval: Duration,
    /// Bytes of one datagram before sealing.
    pub datagram_max: usize,
}

impl Config {
    /// For members that reach each other within a few tens of milliseconds. Members farther away are waited for
    /// longer, as their round-trip times say.
    pub fn lan() -> Self {
        Self {
            probe_interval: Duration::from_millis(800),
            ping_timeout: Duration::from_millis(300),
            relay_timeout: Duration::from_millis(400),
            relays: 3,
            suspicion_min: Duration::from_millis(1_800),
            suspicion_max: Duration::from_millis(8_000),
            suspicion_refused: Duration::from_millis(350),
            accusers: 3,
            gossip_interval: Duration::from_millis(200),
            fanout: 3,
            retransmit: 4,
            sync_interval: Duration::from_secs(1),
            retry_interval: Duration::from_secs(1),
            datagram_max: limits::GOSSIP_DATAGRAM_MAX - limits::GOSSIP_SEAL_MAX,
        }
    }

    /// For members on one machine: everything sooner.
    pub fn local() -> Self {
        Self {
            probe_interval: Duration::from_millis(400),
            ping_timeout: Duration::from_millis(200),
            relay_timeout: Duration::from_millis(250),
            suspicion_min: Duration::from_millis(1_000),
            suspicion_max: Duration::from_millis(5_000),
            gossip_interval: Duration::from_millis(100),
            ..Self::lan()
        }
    }

    /// For members on several continents, over links that stall: everything later, and fewer bytes.
    pub fn wan() -> Self {
        Self {
            probe_interval: Duration::from_millis(2_500),
            ping_timeout: Duration::from_millis(1_000),
            relay_timeout: Duration::from_millis(1_500),
            suspicion_min: Duration::from_millis(5_000),
            suspicion_max: Duration::from_millis(30_000),
            suspicion_refused: Duration::from_millis(1_500),
            gossip_interval: Duration::from_millis(500),
            fanout: 4,
            sync_interval: Duration::from_secs(3),
            retry_interval: Duration::from_secs(2),
            ..Self::lan()
        }
    }

    /// How often each piece of news is sent in a cluster of this many members.
    pub(super) fn sends(&self, members: usize) -> u32 {
        // The decimal logarithm rounded up, in whole numbers: the digits of the count.
        self.retransmit * (members + 1).checked_ilog10().map_or(1, |log| log + 1)
    }

    /// Accusers that are enough when `observers` members could tell.
    pub(super) fn enough(&self, observers: usize) -> usize {
        self.accusers.min(limits::ACCUSERS_MAX).min(observers).max(1)
    }

    /// How long a suspicion lasts with this many accusers out of those that are enough: from the longest time down to
    /// the shortest with the logarithm of their number, as in Lifeguard.
    pub(super) fn suspicion(&self, accusers: usize, enough: usize) -> Duration {
        let (min, max) = (self.suspicion_min, self.suspicion_max.max(self.suspicion_min));
        if enough <= 1 {
            // Nobody else can confirm it, so it is given the time of several rounds of probes instead.
            return (2 * min).min(max);
        }
        if accusers >= enough {
            return min;
        }
        let count = |number: usize| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
        let share = count(accusers.max(1)).ln() / count(enough).ln();
        max - (max - min).mul_f64(share.clamp(0.0, 1.0))
    }

    /// How long a ping to a member with this round-trip time may take.
    pub(super) fn patience(&self, rtt: Option<Duration>) -> Duration {
        let far = rtt.map_or(Duration::ZERO, |rtt| 4 * rtt);
        far.clamp(self.ping_timeout, 5 * self.ping_timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspicion_shrinks_with_each_accuser_down_to_the_shortest() {
        let config = Config::lan();
        let times: Vec<Duration> = (1..=5).map(|accusers| config.suspicion(accusers, 3)).collect();
        assert_eq!(times[0], config.suspicion_max);
        assert!(times[0] > times[1] && times[1] > times[2], "{times:?}");
        assert_eq!(times[2..], [config.suspicion_min; 3]);
    }

    #[test]
    fn sends_grow_with_the_logarithm_of_the_members() {
        let config = Config::lan();
        assert_eq!([1, 8, 9, 99, 999, 5000].map(|members| config.sends(members)), [4, 4, 8, 12, 16, 16]);
    }
}
