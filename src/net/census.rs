//! Which connections and lanes there are, with whom and in which direction: counted when somebody asks, so that nothing of
//! it is on the way of a frame.
//!
//! Nodes are told apart by name, of which there are as many as members; clients and administrators, of which there may be
//! thousands, are taken together.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::Weak;

use crate::limits;
use crate::net::identity::Identity;
use crate::net::lane::Lane;

/// Which side made a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// The other side, which asks on it.
    In,
    /// This side.
    Out,
}

impl Direction {
    /// A label for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}

/// What is known as clients.
const CLIENTS: &str = "clients";
/// Nodes beyond those that are told apart.
const OTHERS: &str = "other nodes";

/// The connections with one party, in one direction: each holds one of these.
#[derive(Default)]
pub(crate) struct Party(Mutex<Vec<Weak<Lane>>>);

impl Party {
    /// A lane was opened.
    pub(crate) fn opened(&self, lane: &Arc<Lane>) {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|lane| lane.strong_count() > 0);
        lanes.push(Arc::downgrade(lane));
    }

    fn open(&self) -> Vec<Arc<Lane>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect()
    }
}

impl fmt::Debug for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Party").finish_non_exhaustive()
    }
}

/// How much there is with one party, in one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartyCount {
    /// Which side made the connections.
    pub direction: Direction,
    /// A node's name, or `clients`.
    pub peer: String,
    /// Connections.
    pub connections: usize,
    /// Lanes on them that are open.
    pub lanes: usize,
    /// Bytes of frames that wait to be written to these lanes.
    pub queued_bytes: usize,
}

/// All connections of an endpoint.
#[derive(Debug, Default)]
pub struct Census(Mutex<BTreeMap<(Direction, String), Arc<Party>>>);

impl Census {
    /// Counts a connection for as long as it holds the result.
    pub(crate) fn join(&self, direction: Direction, peer: &Identity) -> Arc<Party> {
        let mut parties = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parties.retain(|_, party| Arc::strong_count(party) > 1);
        let name = match peer {
            Identity::Node(name) if parties.len() < limits::CENSUS_MAX => name.as_str(),
            Identity::Node(_) => OTHERS,
            Identity::Client { .. } | Identity::Admin(_) => CLIENTS,
        };
        parties.entry((direction, name.to_owned())).or_default().clone()
    }

    /// How much there is now.
    pub fn read(&self) -> Vec<PartyCount> {
        let parties = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |((direction, peer), party): (&(Direction, String), &Arc<Party>)| {
            let lanes = party.open();
            PartyCount {
                direction: *direction,
                peer: peer.clone(),
                // All but the one that is kept here.
                connections: Arc::strong_count(party) - 1,
                lanes: lanes.iter().filter(|lane| lane.is_open()).count(),
                queued_bytes: lanes.iter().map(|lane| lane.queued()).sum(),
            }
        };
        parties.iter().map(count).filter(|count| count.connections > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> Identity {
        Identity::Node(name.parse().unwrap())
    }

    #[tokio::test]
    async fn nodes_are_told_apart_clients_are_not_and_what_is_gone_is_not_counted() {
        let census = Census::default();
        let (one, two) = (Identity::Admin("a".into()), Identity::Admin("b".into()));
        let clients = [census.join(Direction::In, &one), census.join(Direction::In, &two)];
        let peer = census.join(Direction::Out, &node("n2"));
        let lane = Arc::new(Lane::new(Arc::default()));
        peer.opened(&lane);
        lane.push(|buffer| buffer.extend_from_slice(b"frame")).await.unwrap();
        let counted =
            |peer: &str, direction| census.read().into_iter().find(|c| c.peer == peer && c.direction == direction);
        assert_eq!(counted("clients", Direction::In).unwrap().connections, 2);
        let out = counted("n2", Direction::Out).unwrap();
        assert_eq!((out.connections, out.lanes, out.queued_bytes), (1, 1, 5));
        lane.close();
        assert_eq!(counted("n2", Direction::Out).unwrap().lanes, 0);
        drop((peer, clients));
        assert_eq!(census.read(), []);
    }

    #[test]
    fn there_are_never_more_names_than_the_limit_and_those_of_the_rest() {
        let census = Census::default();
        let held: Vec<_> = (0..2 * limits::CENSUS_MAX)
            .map(|number| census.join(Direction::In, &node(&format!("n{number}"))))
            .collect();
        assert_eq!(census.read().len(), limits::CENSUS_MAX + 1);
        assert_eq!(census.read().iter().map(|count| count.connections).sum::<usize>(), held.len());
    }
}
