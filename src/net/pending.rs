//! Requests that wait for their reply, by id.
//!
//! A request that is dropped leaves no trace here. When the connection ends, all that wait learn it at once.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::net::error::NetError;
use crate::net::frame::Status;

/// A reply, or why there will be none.
pub(crate) type Outcome = Result<(Status, Bytes), NetError>;

/// The requests of one connection that wait for their reply.
#[derive(Default)]
pub(crate) struct Pending(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    next_id: u64,
    replies: BTreeMap<u64, oneshot::Sender<Outcome>>,
    /// Why no new request is taken.
    ended: Option<NetError>,
    /// Whether those who wait may still be answered all the same.
    draining: bool,
}

/// A place in [`Pending`], given up when dropped.
pub(crate) struct Ticket<'a> {
    pending: &'a Pending,
    pub(crate) id: u64,
    reply: oneshot::Receiver<Outcome>,
    answered: bool,
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing in here can be left half done by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new id with a place for its reply.
    pub(crate) fn register(&self) -> Result<Ticket<'_>, NetError> {
        let (sender, reply) = oneshot::channel();
        let mut waiting = self.lock();
        if let Some(error) = &waiting.ended {
            return Err(error.clone().before_sending());
        }
        let id = waiting.next_id;
        waiting.next_id += 1;
        waiting.replies.insert(id, sender);
        Ok(Ticket { pending: self, id, reply, answered: false })
    }

    /// Hands replies to those who wait for them; returns how many nobody waited for any more.
    pub(crate) fn complete(&self, replies: &mut Vec<(u64, Status, Bytes)>) -> usize {
        let mut matched = Vec::with_capacity(replies.len());
        let mut waiting = self.lock();
        for (id, status, body) in replies.drain(..) {
            matched.push((waiting.replies.remove(&id), (status, body)));
        }
        drop(waiting);
        // Outside the lock, because each of these may wake a task that registers its next request at once.
        let delivered = |(sender, reply): (Option<oneshot::Sender<Outcome>>, _)| {
            sender.is_some_and(|sender| sender.send(Ok(reply)).is_ok())
        };
        matched.into_iter().map(delivered).filter(|delivered| !delivered).count()
    }

    /// Fails all that wait and all that come; the first reason given stays.
    pub(crate) fn end(&self, error: NetError) {
        let mut waiting = self.lock();
        let reason = match waiting.ended.clone() {
            Some(first) if !waiting.draining => first,
            _ => error,
        };
        (waiting.ended, waiting.draining) = (Some(reason.clone()), false);
        let left = std::mem::take(&mut waiting.replies);
        drop(waiting);
        for sender in left.into_values() {
            // Fails when the request was given up meanwhile, which is all the same.
            drop(sender.send(Err(reason.clone())));
        }
    }

    /// Takes no more requests; those that wait may still be answered.
    pub(crate) fn drain(&self, error: NetError) {
        let mut waiting = self.lock();
        if waiting.ended.is_none() {
            (waiting.ended, waiting.draining) = (Some(error), true);
        }
    }

    /// Why the connection ended, if it did.
    pub(crate) fn ended(&self) -> Option<NetError> {
        self.lock().ended.clone()
    }

    /// How many requests wait.
    pub(crate) fn len(&self) -> usize {
        self.lock().replies.len()
    }
}

impl Ticket<'_> {
    /// Waits for the reply. Cancel-safe.
    pub(crate) async fn reply(&mut self) -> Option<Outcome> {
        let outcome = (&mut self.reply).await.ok();
        self.answered = true;
        outcome
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.pending.lock().replies.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn replies_find_their_requests_in_any_order() {
        let pending = Pending::default();
        let (mut first, mut second) = (pending.register().unwrap(), pending.register().unwrap());
        let reply = |id| (id, Status::Done, Bytes::from(format!("{id}")));
        assert_eq!(pending.complete(&mut vec![reply(second.id), reply(first.id), reply(99)]), 1);
        assert_eq!(first.reply().await, Some(Ok((Status::Done, Bytes::from("0")))));
        assert_eq!(second.reply().await, Some(Ok((Status::Done, Bytes::from("1")))));
    }

    #[tokio::test]
    async fn the_end_of_the_connection_fails_those_who_wait_and_those_who_come() {
        let pending = Pending::default();
        let mut waits = pending.register().unwrap();
        pending.end(NetError::unanswered("node a", "lost"));
        pending.end(NetError::Closed);
        assert_eq!(waits.reply().await, Some(Err(NetError::unanswered("node a", "lost"))));
        assert_eq!(pending.register().err(), Some(NetError::not_sent("node a", "lost")));
    }

    #[tokio::test]
    async fn a_draining_connection_takes_nothing_new_and_still_answers() {
        let pending = Pending::default();
        let mut waits = pending.register().unwrap();
        pending.drain(NetError::not_sent("node a", "shutting down"));
        assert!(pending.register().is_err());
        pending.complete(&mut vec![(waits.id, Status::Done, Bytes::new())]);
        assert!(waits.reply().await.unwrap().is_ok());
    }

    #[test]
    fn a_dropped_request_leaves_nothing() {
        let pending = Pending::default();
        drop(pending.register().unwrap());
        assert_eq!(pending.len(), 0);
    }
}
