//! Counts of what came to the socket of gossip and was dropped, by kind.

use crate::meter::Counter;
use crate::seal::Refused;

/// The counts.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) opened: Counter,
    pub(crate) sent: Counter,
    pub(crate) sent_bytes: Counter,
    pub(crate) unsent: Counter,
    pub(crate) unsealed: Counter,
    pub(crate) greetings: Counter,
    pub(crate) closed_ports: Counter,
    pub(crate) streams_crowded: Counter,
    pub(crate) orders_crowded: Counter,
    junk: Counter,
    truncated: Counter,
    wrong_cluster: Counter,
    unknown_key: Counter,
    replayed: Counter,
    old_boot: Counter,
    forged: Counter,
    own_name: Counter,
}

impl Tally {
    /// A datagram was dropped.
    pub(crate) fn refused(&self, why: Refused) {
        let count = match why {
            Refused::Junk => &self.junk,
            Refused::Truncated => &self.truncated,
            Refused::WrongCluster => &self.wrong_cluster,
            Refused::UnknownKey => &self.unknown_key,
            Refused::Replayed => &self.replayed,
            Refused::OldBoot => &self.old_boot,
            Refused::Forged => &self.forged,
            Refused::OwnName => &self.own_name,
        };
        count.one();
    }

    /// All counts by name.
    pub(crate) fn list(&self) -> Vec<(&'static str, u64)> {
        let named = [
            ("datagrams_opened", &self.opened),
            ("datagrams_sent", &self.sent),
            ("datagrams_sent_bytes", &self.sent_bytes),
            ("datagrams_unsent", &self.unsent),
            ("datagrams_without_key", &self.unsealed),
            ("greetings", &self.greetings),
            ("closed_ports", &self.closed_ports),
            ("streams_crowded", &self.streams_crowded),
            ("orders_crowded", &self.orders_crowded),
            ("dropped_junk", &self.junk),
            ("dropped_truncated", &self.truncated),
            ("dropped_wrong_cluster", &self.wrong_cluster),
            ("dropped_unknown_key", &self.unknown_key),
            ("dropped_replayed", &self.replayed),
            ("dropped_old_boot", &self.old_boot),
            ("dropped_forged", &self.forged),
            ("dropped_own_name", &self.own_name),
        ];
        named.into_iter().map(|(name, count)| (name, count.get())).collect()
    }
}
