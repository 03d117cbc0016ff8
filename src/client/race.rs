//! The attempts at one operation that are under way: at most a few, at different nodes; the first to end is taken out.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tracing::Instrument;

use crate::client::call::Sent;
use crate::client::error::ClientError;
use crate::client::route::encode;
use crate::client::target::Target;
use crate::limits;
use crate::net::NetError;
use crate::wire::blob;
use crate::wire::rpc::{Reply, Traced};

/// Why an attempt was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It is the first.
    First,
    /// Another node is slow.
    Hedge,
    /// Another node is silent.
    Failover,
    /// Another attempt failed.
    Retry,
}

/// Why an attempt brought no reply.
pub(crate) enum Lost {
    /// No attempt will.
    Never(ClientError),
    /// Another one may.
    Link(NetError),
}

/// One request to one node.
pub(crate) struct Attempt {
    pub(crate) target: Arc<Target>,
    pub(crate) reason: Reason,
    pub(crate) sent: Sent,
    /// By the client's clock.
    pub(crate) started_us: u64,
    /// When the node was last looked at, and how many packets had come from it by then.
    looked: (u64, Option<u64>),
}

impl Attempt {
    pub(crate) fn new(target: Arc<Target>, reason: Reason, sent: Sent, started_us: u64) -> Self {
        Self { target, reason, sent, started_us, looked: (started_us, None) }
    }

    /// Whether the node has answered nothing, to anybody, since it was last looked at, and not even acknowledged anything.
    fn is_silent(&self) -> bool {
        let (looked_us, packets) = self.looked;
        let quiet = || self.packets().is_none_or(|now| packets == Some(now));
        !self.target.heard_since(looked_us) && quiet()
    }

    /// Packets that have come from the node; `None` without a connection.
    fn packets(&self) -> Option<u64> {
        self.target.link.stats().map(|stats| stats.udp_rx.datagrams)
    }
}

type Answer = Result<Reply, Lost>;

/// Attempts under way.
#[derive(Default)]
pub(crate) struct Race([Option<(Attempt, BoxFuture<'static, Answer>)>; limits::CLIENT_ATTEMPTS_MAX]);

impl Race {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    pub(crate) fn has_room(&self) -> bool {
        self.0.iter().any(Option::is_none)
    }

    pub(crate) fn attempts(&self) -> impl Iterator<Item = &Attempt> {
        self.0.iter().flatten().map(|(attempt, _)| attempt)
    }

    /// Whether this node is being asked.
    pub(crate) fn has(&self, target: &Target) -> bool {
        self.attempts().any(|attempt| attempt.target.number == target.number)
    }

    /// When the latest attempt began, by the client's clock.
    pub(crate) fn latest_us(&self) -> u64 {
        self.attempts().map(|attempt| attempt.started_us).max().unwrap_or(0)
    }

    /// Looks at what has come from the nodes, so that [`Race::is_silent`] can tell later.
    pub(crate) fn look(&mut self, now_us: u64) {
        for (attempt, _) in self.0.iter_mut().flatten() {
            attempt.looked = (now_us, attempt.packets());
        }
    }

    /// Whether all of the nodes are silent.
    pub(crate) fn is_silent(&self) -> bool {
        self.attempts().all(Attempt::is_silent)
    }

    /// Sends a request. There must be room.
    pub(crate) fn start(&mut self, attempt: Attempt, patience: Duration, request: Traced) {
        let span = tracing::debug_span!("attempt", node = %attempt.target.label, reason = ?attempt.reason);
        let answer = Box::pin(ask(attempt.target.clone(), patience, request).instrument(span));
        if let Some(free) = self.0.iter_mut().find(|place| place.is_none()) {
            *free = Some((attempt, answer));
        }
    }

    /// The next attempt to end; never, while none is under way.
    pub(crate) async fn next(&mut self) -> (Attempt, Answer) {
        poll_fn(|cx| {
            for place in &mut self.0 {
                let Some((_, answer)) = place else { continue };
                if let Poll::Ready(answer) = answer.as_mut().poll(cx)
                    && let Some((attempt, _)) = place.take()
                {
                    return Poll::Ready((attempt, answer));
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Asks one node once.
async fn ask(target: Arc<Target>, patience: Duration, request: Traced) -> Answer {
    let _under_way = target.load.begin();
    match target.link.request(patience, |frame| encode(&request, frame)).await {
        Ok(bytes) => blob::decode::<Reply>(&bytes).map_err(|error| {
            let text = format!("{} sent an unreadable reply ({error}): upgrade it or this client", target.label);
            Lost::Never(ClientError::Protocol(text))
        }),
        Err(error @ NetError::TooLarge { .. }) => Err(Lost::Never(ClientError::Config(error.to_string()))),
        Err(error) => Err(Lost::Link(error)),
    }
}
