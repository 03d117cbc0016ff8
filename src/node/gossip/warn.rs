//! Warnings about what members say of themselves: settings that should agree, clocks, certificates, versions. Each is
//! logged once until it changes. Nothing is done about any of it here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::limits;
use crate::swim::Record;
use crate::types::NodeId;

/// Clocks further apart than this are warned of.
const CLOCK_MAX_MS: i32 = 1_000;
/// Certificates that expire within this time are warned of.
const EXPIRY: Duration = Duration::from_secs(14 * 86_400);

/// How long a change of settings may take to be known everywhere.
const TELLING: Duration = Duration::from_secs(10);

/// A kind of warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Settings,
    Clock,
    Certificate,
    Protocol,
}

/// The warnings that hold now.
#[derive(Debug, Default)]
pub(crate) struct Warnings {
    given: BTreeMap<(NodeId, Kind), u64>,
    /// Members whose settings are to be compared, and since when.
    fresh: BTreeMap<NodeId, Duration>,
}

impl Warnings {
    /// Compares a member's record with this node's own; settings wait for [`Warnings::ripen`]. Returns how many
    /// new warnings were given.
    pub(crate) fn look(&mut self, now: Duration, own: &Record, record: &Record, wall_ms: u64) -> usize {
        let (node, name) = (record.node(), &record.name);
        let mut given = 0;
        if self.fresh.len() < limits::MEMBERS_REMEMBERED_MAX {
            self.fresh.entry(node).or_insert(now);
        }
        let clock = record.clock_offset_ms.filter(|offset| offset.abs() > CLOCK_MAX_MS);
        if self.is_news(node, Kind::Clock, clock.map(|offset| u64::from(offset > 0))) {
            given += 1;
            let offset = clock.unwrap_or_default();
            tracing::warn!("the clock of member {name} is {offset} ms ahead of the others: synchronise it (NTP)");
        }
        let expires_s = record.certificate.expires_s;
        let soon =
            expires_s.saturating_mul(1000) < wall_ms.saturating_add(u64::try_from(EXPIRY.as_millis()).unwrap_or(0));
        if self.is_news(node, Kind::Certificate, soon.then_some(expires_s)) {
            given += 1;
            tracing::warn!("the certificate of member {name} expires within {} days", EXPIRY.as_secs() / 86_400);
        }
        let protocol = (record.protocol != own.protocol).then_some(u64::from(record.protocol));
        if self.is_news(node, Kind::Protocol, protocol) {
            given += 1;
            tracing::warn!(
                "member {name} runs version {} and speaks protocol {}, this node {} and {}",
                record.software,
                record.protocol,
                own.software,
                own.protocol
            );
        }
        given
    }

    /// Warns of settings that still differ a while after they were told. `record` gives what a member says of itself now. Returns
    /// how many new warnings were given.
    pub(crate) fn ripen(
        &mut self,
        now: Duration,
        own: &Record,
        record: impl Fn(NodeId) -> Option<Arc<Record>>,
    ) -> usize {
        let is_ripe = |_: &NodeId, since: &mut Duration| *since + TELLING <= now;
        let ripe: Vec<NodeId> = self.fresh.extract_if(.., is_ripe).map(|(node, _)| node).collect();
        let records: Vec<Arc<Record>> = ripe.into_iter().filter_map(record).collect();
        let mut given = 0;
        for record in records {
            let settings = (record.config != own.config).then_some(record.config);
            if self.is_news(record.node(), Kind::Settings, settings) {
                given += 1;
                tracing::warn!(
                    "the settings of member {} differ: cluster.partitions and namespaces must be equal on all nodes",
                    record.name
                );
            }
        }
        given
    }

    fn is_news(&mut self, node: NodeId, kind: Kind, state: Option<u64>) -> bool {
        let Some(state) = state else {
            self.given.remove(&(node, kind));
            return false;
        };
        if self.given.len() >= 4 * limits::MEMBERS_REMEMBERED_MAX {
            self.given.clear();
        }
        self.given.insert((node, kind), state) != Some(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::gossip::fixture::record;

    #[test]
    fn each_disagreement_is_warned_of_once_until_it_changes() {
        let (own, mut other, mut warnings) = (record("n1"), record("n2"), Warnings::default());
        let mut look = |other: &Record| warnings.look(Duration::ZERO, &own, other, 0);
        assert_eq!(look(&other), 0);
        other.clock_offset_ms = Some(-5_000);
        (other.protocol, other.certificate.expires_s) = (2, 86_400);
        assert_eq!(look(&other), 3);
        assert_eq!(look(&other), 0, "said before");
        other.clock_offset_ms = Some(3);
        assert_eq!(look(&other), 0);
        other.clock_offset_ms = Some(-5_000);
        assert_eq!(look(&other), 1, "it was right in between");
    }

    #[test]
    fn settings_are_warned_of_when_they_still_differ_after_a_while() {
        let (mut own, mut other, mut warnings) = (record("n1"), record("n2"), Warnings::default());
        other.config = 8;
        warnings.look(Duration::ZERO, &own, &other, 0);
        let ripen = |warnings: &mut Warnings, own: &Record, other: &Record, seconds| {
            let other = Arc::new(other.clone());
            warnings.ripen(Duration::from_secs(seconds), own, |node| (node == other.node()).then(|| other.clone()))
        };
        assert_eq!(ripen(&mut warnings, &own, &other, 9), 0, "it may be a change that is being told");
        assert_eq!(ripen(&mut warnings, &own, &other, 10), 1);
        warnings.look(Duration::from_secs(11), &own, &other, 0);
        assert_eq!(ripen(&mut warnings, &own, &other, 30), 0, "said before");
        other.config = 9;
        warnings.look(Duration::from_secs(31), &own, &other, 0);
        own.config = 9;
        assert_eq!(ripen(&mut warnings, &own, &other, 60), 0, "this node followed");
    }
}
