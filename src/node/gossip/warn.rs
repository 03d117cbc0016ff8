//! Warnings about what members say of themselves: settings that should agree, clocks, certificates, versions. Each is
//! logged once until it changes. Nothing is done about any of it here.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::limits;
use crate::swim::Record;
use crate::types::NodeId;

/// Clocks further apart than this are warned of.
const CLOCK_MAX_MS: i32 = 1_000;
/// Certificates that expire within this time are warned of.
const EXPIRY: Duration = Duration::from_secs(14 * 86_400);

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
pub(crate) struct Warnings(BTreeMap<(NodeId, Kind), u64>);

impl Warnings {
    /// Compares a member's record with this node's own. Returns how many new warnings were given.
    pub(crate) fn look(&mut self, own: &Record, record: &Record, wall_ms: u64) -> usize {
        let (node, name) = (record.node(), &record.name);
        let mut given = 0;
        let settings = (record.config != own.config).then_some(record.config);
        if self.is_news(node, Kind::Settings, settings) {
            given += 1;
            tracing::warn!(
                "the settings of member {name} differ: cluster.partitions and namespaces must be equal on all nodes"
            );
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

    fn is_news(&mut self, node: NodeId, kind: Kind, state: Option<u64>) -> bool {
        let Some(state) = state else {
            self.0.remove(&(node, kind));
            return false;
        };
        if self.0.len() >= 4 * limits::MEMBERS_REMEMBERED_MAX {
            self.0.clear();
        }
        self.0.insert((node, kind), state) != Some(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::gossip::fixture::record;

    #[test]
    fn each_disagreement_is_warned_of_once_until_it_changes() {
        let (own, mut other, mut warnings) = (record("n1"), record("n2"), Warnings::default());
        assert_eq!(warnings.look(&own, &other, 0), 0);
        (other.config, other.clock_offset_ms) = (8, Some(-5_000));
        (other.protocol, other.certificate.expires_s) = (2, 86_400);
        assert_eq!(warnings.look(&own, &other, 0), 4);
        assert_eq!(warnings.look(&own, &other, 0), 0, "said before");
        (other.clock_offset_ms, other.config) = (Some(3), 9);
        assert_eq!(warnings.look(&own, &other, 0), 1, "only the settings differ anew");
        other.clock_offset_ms = Some(-5_000);
        assert_eq!(warnings.look(&own, &other, 0), 1, "it was right in between");
    }
}
