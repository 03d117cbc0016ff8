//! Counts of what came to the socket of gossip and was dropped, by kind.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::seal::Refused;

/// The counts.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) opened: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) sent_bytes: AtomicU64,
    pub(crate) unsent: AtomicU64,
    pub(crate) unsealed: AtomicU64,
    pub(crate) greetings: AtomicU64,
    pub(crate) closed_ports: AtomicU64,
    pub(crate) streams_crowded: AtomicU64,
    pub(crate) orders_crowded: AtomicU64,
    junk: AtomicU64,
    truncated: AtomicU64,
    wrong_cluster: AtomicU64,
    unknown_key: AtomicU64,
    replayed: AtomicU64,
    old_boot: AtomicU64,
    forged: AtomicU64,
    own_name: AtomicU64,
}

/// Counts one more.
pub(crate) fn one(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

impl Tally {
    /// A datagram was dropped.
    pub(crate) fn refused(&self, why: Refused) {
        one(match why {
            Refused::Junk => &self.junk,
            Refused::Truncated => &self.truncated,
            Refused::WrongCluster => &self.wrong_cluster,
            Refused::UnknownKey => &self.unknown_key,
            Refused::Replayed => &self.replayed,
            Refused::OldBoot => &self.old_boot,
            Refused::Forged => &self.forged,
            Refused::OwnName => &self.own_name,
        });
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
        named.into_iter().map(|(name, count)| (name, count.load(Ordering::Relaxed))).collect()
    }
}
