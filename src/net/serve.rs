//! The answering side of one connection: requests come in on lanes and bulk streams and go to a handler.
//!
//! It bounds what one peer may have under way, in requests and bytes, by not reading on; it knows no command. A
//! handler that panics costs its request, nothing else.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use quinn::ReadError;
use quinn::RecvStream;
use quinn::SendStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::env::BoxTask;
use crate::env::Env;
use crate::limits;
use crate::net::bulk;
use crate::net::census::Direction;
use crate::net::census::Party;
use crate::net::counters::NetCounters;
use crate::net::error::CloseCode;
use crate::net::frame;
use crate::net::frame::FrameError;
use crate::net::frame::FrameReader;
use crate::net::frame::Status;
use crate::net::identity::Identity;
use crate::net::lane::Lane;
use crate::net::pack;
use crate::net::peer::Peer;

/// What answers requests.
pub trait Handler: Clone + Send + Sync + 'static {
    /// Answers one request with the body of its reply. It should give up at the request's deadline, since nobody
    /// waits longer. The first stretch, up to where it first waits, runs before the next request is read.
    fn handle(&self, request: Incoming) -> impl Future<Output = Bytes> + Send;
}

/// A request as it came in.
#[derive(Debug)]
pub struct Incoming {
    /// Who asks.
    pub peer: Arc<Peer>,
    /// When it arrived.
    pub arrived: Instant,
    /// When the asker stops waiting.
    pub deadline: Instant,
    /// What is asked.
    pub body: Bytes,
    /// The request's number on its connection, for traces; 0 on a bulk stream.
    pub id: u64,
}

/// What every request costs of its connection's budget beside its bytes, so that one budget bounds both.
const REQUEST_COST: usize = limits::REQUEST_BYTES_PER_CONNECTION_MAX / limits::REQUESTS_PER_CONNECTION_MAX;
/// The whole budget of one connection.
const BUDGET: usize = limits::REQUEST_BYTES_PER_CONNECTION_MAX;

/// What all requests of one connection share.
pub(crate) struct Serving<H> {
    pub(crate) quic: quinn::Connection,
    pub(crate) peer: Arc<Peer>,
    pub(crate) handler: H,
    pub(crate) counters: Arc<NetCounters>,
    /// How long the peer may leave replies unread.
    pub(crate) patience: Duration,
    pub(crate) env: Env,
    /// Counts it among the connections with its peer.
    party: Arc<Party>,
    room: Arc<BulkRoom>,
    limits: Bounds,
}

struct Bounds {
    budget: Arc<Semaphore>,
    bulk: Semaphore,
    lanes: AtomicU32,
}

impl<H: Handler> Serving<H> {
    pub(crate) fn new(quic: quinn::Connection, peer: Arc<Peer>, handler: H, site: Site) -> Arc<Self> {
        let limits = Bounds {
            budget: Arc::new(Semaphore::new(BUDGET)),
            bulk: Semaphore::new(limits::FRAME_MAX),
            lanes: AtomicU32::new(0),
        };
        let party = site.counters.census.join(Direction::In, peer.identity());
        let Site { counters, patience, env, room } = site;
        Arc::new(Self { quic, peer, handler, counters, patience, env, party, room, limits })
    }

    /// Serves the peer until it goes or this side stops.
    pub(crate) async fn run(self: Arc<Self>) {
        let counters = self.counters.clone();
        let _served = counters.served.hold();
        loop {
            let stream = tokio::select! {
                biased;
                () = self.env.stopped() => return,
                stream = self.quic.accept_bi() => stream,
            };
            // An error is the connection's end, which its streams learn by themselves.
            let Ok((send, receive)) = stream else { return };
            let serving = self.clone();
            self.env.spawn("net/serve-stream", async move {
                if let Err(error) = serving.clone().stream(send, receive).await {
                    serving.fail(CloseCode::Protocol, &error.to_string());
                }
            });
        }
    }

    async fn stream(self: Arc<Self>, send: SendStream, mut receive: RecvStream) -> Result<(), FrameError> {
        let kind = tokio::select! {
            biased;
            () = self.env.stopped() => return Ok(()),
            kind = FrameReader::kind(&mut receive) => kind,
        };
        match given_up(kind)?.flatten() {
            None => Ok(()),
            Some(frame::LANE) if self.limits.lanes.fetch_add(1, Ordering::Relaxed) < limits::LANES_MAX => {
                let lane = Arc::new(Lane::new(self.counters.clone()));
                self.party.opened(&lane);
                let (serving, writing) = (self.clone(), lane.clone());
                self.env.spawn("net/reply-writer", async move {
                    if let Err(error) = writing.write(send, serving.patience).await {
                        serving.fail(CloseCode::SlowReader, &error.to_string());
                    }
                });
                let result = self.clone().lane(&lane, receive).await;
                lane.close();
                self.limits.lanes.fetch_sub(1, Ordering::Relaxed);
                result
            }
            Some(kind @ (frame::BULK | frame::PACKED)) => {
                given_up(self.bulk(send, receive, kind == frame::PACKED).await).map(drop)
            }
            Some(_) => Err(FrameError::Malformed),
        }
    }

    /// Reads a lane until it ends or this side stops, and then waits for the requests under way.
    async fn lane(self: Arc<Self>, lane: &Arc<Lane>, receive: RecvStream) -> Result<(), FrameError> {
        let mut reader = FrameReader::lane(receive);
        let stopped = self.env.stopped();
        tokio::pin!(stopped);
        loop {
            let more = tokio::select! {
                biased;
                () = &mut stopped => false,
                more = reader.fill() => more?,
            };
            if !more {
                break;
            }
            let arrived = Instant::now();
            while let Some(frame) = reader.next()? {
                self.start(lane, frame, arrived).await?;
            }
        }
        let all = u32::try_from(BUDGET).unwrap_or(u32::MAX);
        // Fails only when the semaphore is closed, which nobody does.
        drop(self.limits.budget.acquire_many(all).await);
        Ok(())
    }

    /// Starts one request of a lane, once the budget allows.
    async fn start(self: &Arc<Self>, lane: &Arc<Lane>, frame: Bytes, arrived: Instant) -> Result<(), FrameError> {
        let (request, permit) = self.admit(frame, arrived).await?;
        let guard = ReplyGuard { lane: lane.clone(), id: request.id, answered: false };
        let serving = self.clone();
        let mut task: BoxTask = Box::pin(async move {
            let guard = guard;
            let (status, body) = serving.answer(request).await;
            serving.reply(guard, status, body).await;
            drop(permit);
        });
        // Most requests end, or begin to wait for the store, at the first poll: a task of its own only for the rest.
        // Whatever wakes the request before that task first polls it is not lost, since that poll looks again.
        match catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(&mut Context::from_waker(Waker::noop())))) {
            Ok(Poll::Ready(())) => {}
            Ok(Poll::Pending) => self.env.spawn("net/request", task),
            Err(_) => tracing::error!(peer = %self.peer.label(), "a handler panicked; its request was dropped"),
        }
        Ok(())
    }

    /// Waits until the connection's budget has room for the request.
    async fn admit(
        &self,
        mut frame: Bytes,
        arrived: Instant,
    ) -> Result<(Incoming, Option<OwnedSemaphorePermit>), FrameError> {
        self.counters.frames_received.one();
        self.counters.bytes_received.count(frame.len());
        let head = frame::take_request(&mut frame)?;
        let permit = self.reserve(frame.len()).await;
        let wait = Duration::from_millis(head.deadline_ms.into()).min(limits::DEADLINE_MAX);
        Ok((Incoming { peer: self.peer.clone(), arrived, deadline: arrived + wait, body: frame, id: head.id }, permit))
    }

    async fn reserve(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let cost = u32::try_from((bytes + REQUEST_COST).min(BUDGET)).unwrap_or(u32::MAX);
        match self.limits.budget.clone().try_acquire_many_owned(cost) {
            Ok(permit) => Some(permit),
            // Fails only when the semaphore is closed, which nobody does.
            Err(_) => self.limits.budget.clone().acquire_many_owned(cost).await.ok(),
        }
    }

    async fn answer(&self, request: Incoming) -> (Status, Bytes) {
        if Instant::now() >= request.deadline {
            self.counters.requests_expired.one();
            return (Status::Expired, Bytes::new());
        }
        let body = self.handler.handle(request).await;
        if body.len() > limits::FRAME_MAX { (Status::ReplyTooLarge, Bytes::new()) } else { (Status::Done, body) }
    }

    async fn reply(&self, mut guard: ReplyGuard, status: Status, body: Bytes) {
        guard.answered = true;
        self.counters.frames_sent.one();
        let id = guard.id;
        if body.len() <= limits::LANE_FRAME_MAX {
            // Fails when the lane is closed, and then there is nobody left to answer.
            let _closed = guard.lane.push(|buffer| frame::put_reply(buffer, id, status, &body)).await;
            return;
        }
        let prefix = frame::bulk_prefix(frame::BULK, body.len(), |buffer| {
            frame::put_reply_head(buffer, id, status);
        });
        let _share = bulk::acquire(&self.limits.bulk, body.len()).await;
        match self.quic.open_uni().await {
            Ok(send) => self.write_large(send, [prefix, body]).await,
            Err(error) => tracing::debug!(peer = %self.peer.label(), %error, "a large reply could not be sent"),
        }
    }

    /// Answers the single request of a bulk stream, on that stream.
    async fn bulk(self: Arc<Self>, send: SendStream, receive: RecvStream, is_packed: bool) -> Result<(), FrameError> {
        let mut reader = FrameReader::bulk(receive);
        while reader.announced().is_none() {
            if !reader.fill().await? {
                return Err(FrameError::Truncated);
            }
        }
        // The rest is read only when the budgets of the connection and of the endpoint have room for all of it.
        let unpacked = if is_packed { limits::PACKED_MAX } else { 0 };
        let size = reader.announced().unwrap_or(0).saturating_add(unpacked).min(limits::FRAME_MAX);
        let permit = self.reserve(size).await;
        let _room = self.room.of(self.peer.identity()).acquire_many(u32::try_from(size).unwrap_or(u32::MAX)).await;
        // Nobody waits longer for an answer.
        let whole = tokio::time::timeout(limits::DEADLINE_MAX, reader.whole()).await;
        let mut frame = whole.map_err(|_| FrameError::Truncated)??;
        let arrived = Instant::now();
        self.counters.frames_received.one();
        self.counters.bytes_received.count(frame.len());
        let head = frame::take_request(&mut frame)?;
        let frame = pack::unpack(frame, is_packed)?;
        let wait = Duration::from_millis(head.deadline_ms.into()).min(limits::DEADLINE_MAX);
        let request = Incoming { peer: self.peer.clone(), arrived, deadline: arrived + wait, body: frame, id: head.id };
        let (status, body) = self.answer(request).await;
        drop(permit);
        self.counters.frames_sent.one();
        let (length, body) = pack::pack(body, is_packed, &self.counters.packing_saved);
        let mut prefix = frame::bulk_prefix(frame::BULK, body.len(), |buffer| {
            frame::put_reply_head(buffer, head.id, status);
            pack::put_length(buffer, length);
        });
        // This stream has said what it is in the other direction.
        let prefix = prefix.split_off(1);
        let _share = bulk::acquire(&self.limits.bulk, body.len()).await;
        self.write_large(send, [prefix, body]).await;
        Ok(())
    }

    /// Writes a large reply and waits until the peer has it, so that its share of the send window is free again.
    async fn write_large(&self, send: SendStream, parts: [Bytes; 2]) {
        self.counters.bulk_streams.one();
        self.counters.bytes_sent.count(parts.iter().map(Bytes::len).sum());
        match bulk::send(send, parts, self.patience).await {
            Ok(sent) => {
                if let Some(stream) = sent.leave() {
                    drop(tokio::time::timeout(self.patience, stream.stopped()).await);
                }
            }
            Err(error) => tracing::debug!(peer = %self.peer.label(), %error, "a large reply was broken off"),
        }
    }

    /// Disconnects the peer because of what it did, unless it is gone already.
    fn fail(&self, code: CloseCode, reason: &str) {
        if self.quic.close_reason().is_none() {
            self.counters.peers_disconnected.one();
            tracing::warn!(peer = %self.peer.label(), reason, "peer disconnected");
            self.quic.close(code.code(), reason.as_bytes());
        }
    }
}

/// `None` when the asker gave its request up while it was still sending it, which is its right.
fn given_up<T>(result: Result<T, FrameError>) -> Result<Option<T>, FrameError> {
    match result {
        Err(FrameError::Read(ReadError::Reset(_))) => Ok(None),
        result => result.map(Some),
    }
}

/// Ends the connection when nothing serves it any more: the last request is answered and the answer has arrived.
impl<H> Drop for Serving<H> {
    fn drop(&mut self) {
        self.quic.close(CloseCode::Done.code(), b"shutting down");
    }
}

/// Where a connection is served.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) counters: Arc<NetCounters>,
    pub(crate) patience: Duration,
    pub(crate) env: Env,
    pub(crate) room: Arc<BulkRoom>,
}

/// Bytes of requests on bulk streams, of all connections of an endpoint. Nodes have their own, since what clients ask waits for
/// what nodes ask.
#[derive(Debug)]
pub(crate) struct BulkRoom {
    nodes: Semaphore,
    others: Semaphore,
}

impl Default for BulkRoom {
    fn default() -> Self {
        let room = || Semaphore::new(limits::BULK_REQUEST_BYTES_MAX);
        Self { nodes: room(), others: room() }
    }
}

impl BulkRoom {
    fn of(&self, peer: &Identity) -> &Semaphore {
        match peer {
            Identity::Node(_) => &self.nodes,
            Identity::Client { .. } | Identity::Admin(_) => &self.others,
        }
    }
}

/// Tells the asker when its request was dropped without an answer, by a panic or at shutdown.
struct ReplyGuard {
    lane: Arc<Lane>,
    id: u64,
    answered: bool,
}

impl Drop for ReplyGuard {
    fn drop(&mut self) {
        if !self.answered {
            self.lane.push_if_room(|buffer| frame::put_reply(buffer, self.id, Status::Broken, &[]));
        }
    }
}
