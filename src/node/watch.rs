//! Telling clients that the cluster has changed: a request that is answered when there is news. It sends nothing unasked, and
//! says nothing of who is up.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::limits;
use crate::net::{ConnectionNumber, Peer};
use crate::node::core::Core;
use crate::wire::rpc::{Reply, ServeError};

/// Who waits for news: one request of each connection, so that no client takes the places of the others.
#[derive(Debug, Default)]
pub(crate) struct Watchers(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    /// The request that waits, and what ends its wait.
    taken: BTreeMap<ConnectionNumber, (u64, CancellationToken)>,
    given: u64,
}

/// The place of one waiting request, given back when dropped.
struct Place<'a> {
    watchers: &'a Watchers,
    connection: ConnectionNumber,
    ticket: u64,
    replaced: CancellationToken,
}

impl Watchers {
    fn lock(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the place of this connection; the request that had it waits no more. `None` when too many wait.
    fn enter(&self, connection: ConnectionNumber) -> Option<Place<'_>> {
        let mut places = self.lock();
        if places.taken.len() >= limits::WATCHERS_MAX && !places.taken.contains_key(&connection) {
            return None;
        }
        places.given += 1;
        let (ticket, replaced) = (places.given, CancellationToken::new());
        if let Some((_, before)) = places.taken.insert(connection, (ticket, replaced.clone())) {
            before.cancel();
        }
        Some(Place { watchers: self, connection, ticket, replaced })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut places = self.watchers.lock();
        if places.taken.get(&self.connection).is_some_and(|(ticket, _)| *ticket == self.ticket) {
            places.taken.remove(&self.connection);
        }
    }
}

/// Waits for another cluster than the one the asker knows, until the deadline, the end of the connection or of this node,
/// or the next such request of the same connection.
pub(crate) async fn watch(core: &Core, peer: &Peer, known: u64, deadline: Instant) -> Result<Reply, ServeError> {
    let Some(place) = core.watchers.enter(peer.number()) else {
        let text = format!("{} clients wait for news of the cluster here already", limits::WATCHERS_MAX);
        return Err(ServeError::Unavailable(text));
    };
    tokio::select! {
        biased;
        () = core.rest.stopped() => Ok(Reply::Unchanged),
        () = peer.gone() => Ok(Reply::Unchanged),
        () = place.replaced.cancelled() => Ok(Reply::Unchanged),
        view = core.views.other_than(known) => Ok(Reply::View(view.info().clone())),
        () = sleep_until(deadline.min(Instant::now() + limits::WATCH_MAX)) => Ok(Reply::Unchanged),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_connection_has_one_place_and_its_last_request_has_it() {
        let watchers = Watchers::default();
        let (one, other) = (ConnectionNumber(1), ConnectionNumber(2));
        let first = watchers.enter(one).unwrap();
        let beside = watchers.enter(other).unwrap();
        let second = watchers.enter(one).unwrap();
        assert!(first.replaced.is_cancelled() && !second.replaced.is_cancelled() && !beside.replaced.is_cancelled());
        drop(first);
        assert_eq!(watchers.lock().taken.len(), 2, "who was replaced took the place away from its successor");
        drop((second, beside));
        assert!(watchers.lock().taken.is_empty());
    }

    #[test]
    fn there_is_room_for_so_many_connections_and_those_that_wait_may_ask_again() {
        let watchers = Watchers::default();
        let places: Vec<Place<'_>> =
            (0..limits::WATCHERS_MAX).map(|number| watchers.enter(ConnectionNumber(number)).unwrap()).collect();
        assert!(watchers.enter(ConnectionNumber(places.len())).is_none());
        assert!(watchers.enter(ConnectionNumber(0)).is_some());
    }
}
