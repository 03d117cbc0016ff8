//! The asking side of one connection: requests go out on lanes, replies come back to whoever waits.
//!
//! It does not reconnect (see [`crate::net::pool`]). Bodies too large for a lane travel on streams of their own at lower
//! priority, so that they never stand in the way of small ones.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BufMut;
use bytes::Bytes;
use bytes::BytesMut;
use quinn::ReadError;
use quinn::RecvStream;
use tokio::sync::OnceCell;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio::time::timeout_at;

use crate::env::Env;
use crate::limits;
use crate::net::bulk;
use crate::net::census::Direction;
use crate::net::census::Party;
use crate::net::congestion;
use crate::net::counters::NetCounters;
use crate::net::error::CloseCode;
use crate::net::error::NetError;
use crate::net::error::lost;
use crate::net::frame;
use crate::net::frame::FrameError;
use crate::net::frame::FrameReader;
use crate::net::frame::Placed;
use crate::net::frame::RequestHead;
use crate::net::frame::Status;
use crate::net::lane::Lane;
use crate::net::pack;
use crate::net::peer::Peer;
use crate::net::pending::Pending;
use crate::net::vigil::Bell;
use crate::net::vigil::Silence;
use crate::net::vigil::Watched;

/// What is sent to have a peer acknowledge something; nobody reads it.
const SIGN_OF_LIFE: &[u8] = &[0];

/// One connection to a node, for asking it. Clones share it; it is closed when the last is dropped.
#[derive(Clone)]
pub struct Connection(Arc<Handle>);

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("peer", self.peer().label()).field("pending", &self.pending()).finish()
    }
}

struct Handle {
    shared: Arc<Shared>,
    lanes: Vec<OnceCell<Arc<Lane>>>,
    next_lane: AtomicUsize,
    /// Whether all lanes are used only while the path is a far one.
    by_distance: bool,
    is_far: AtomicBool,
    env: Env,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.quic.close(CloseCode::Done.code(), b"no longer needed");
    }
}

/// Lanes of a far path, where a lost packet would hold up all requests of its lane for a round trip. On near ones that is
/// short, and one lane, whose requests share packets, is cheapest.
const LANES_FAR: usize = 16;
/// Requests after which the length of the path is looked at again.
const LOOK_EVERY: usize = 64;

/// What the connection's tasks hold.
pub(crate) struct Shared {
    quic: quinn::Connection,
    peer: Arc<Peer>,
    pending: Pending,
    bulk: Semaphore,
    /// Requests in bulk that wait for their reply.
    bulk_pending: AtomicUsize,
    silence: Silence,
    /// Rung when somebody begins to care whether the peer is there.
    bell: Arc<Bell>,
    answered: AtomicBool,
    counters: Arc<NetCounters>,
    /// Counts it among the connections with its peer.
    party: Arc<Party>,
    patience: Duration,
}

/// What a connection is made from.
pub(crate) struct ConnectionParts {
    pub(crate) quic: quinn::Connection,
    pub(crate) peer: Arc<Peer>,
    /// How many, or 0 for as many as the path's length suggests.
    pub(crate) lanes: usize,
    pub(crate) counters: Arc<NetCounters>,
    /// How long a peer that ends its lanes may take to close the connection.
    pub(crate) patience: Duration,
    /// Of the vigil that it is watched by.
    pub(crate) bell: Arc<Bell>,
    pub(crate) env: Env,
}

impl Connection {
    pub(crate) fn new(parts: ConnectionParts) -> Self {
        let party = parts.counters.census.join(Direction::Out, parts.peer.identity());
        let shared = Arc::new(Shared {
            party,
            quic: parts.quic,
            peer: parts.peer,
            pending: Pending::default(),
            bulk: Semaphore::new(limits::FRAME_MAX),
            bulk_pending: AtomicUsize::new(0),
            silence: Silence::default(),
            bell: parts.bell,
            answered: AtomicBool::new(false),
            counters: parts.counters,
            patience: parts.patience,
        });
        let by_distance = parts.lanes == 0;
        let lanes = if by_distance { LANES_FAR } else { parts.lanes };
        let lanes = lanes.clamp(1, usize::try_from(limits::LANES_MAX).unwrap_or(1));
        let lanes = std::iter::repeat_with(OnceCell::new).take(lanes).collect();
        parts.env.spawn("net/large-replies", accept_large_replies(shared.clone(), parts.env.clone()));
        let (next_lane, is_far) = (AtomicUsize::new(0), AtomicBool::new(false));
        Self(Arc::new(Handle { shared, lanes, next_lane, by_distance, is_far, env: parts.env }))
    }

    /// Sends a request, whose body `encode` appends to the buffer it is given, and waits for the reply's body.
    /// Cancel-safe: when dropped before the request went out, it never goes out; afterwards the reply is discarded.
    ///
    /// # Errors
    /// See [`NetError`]; after `timeout` (at most [`limits::DEADLINE_MAX`]) it is `NotSent` or `Unanswered`.
    pub async fn request(&self, timeout: Duration, encode: impl FnOnce(&mut BytesMut)) -> Result<Bytes, NetError> {
        self.request_until(Instant::now() + timeout.min(limits::DEADLINE_MAX), encode).await
    }

    /// Like [`Connection::request`] for a deadline that is known already, at most [`limits::DEADLINE_MAX`] from now.
    ///
    /// # Errors
    /// See [`Connection::request`].
    pub async fn request_until(
        &self,
        deadline: Instant,
        encode: impl FnOnce(&mut BytesMut),
    ) -> Result<Bytes, NetError> {
        let shared = &*self.0.shared;
        let late = || shared.not_sent("its lane stayed full until the deadline");
        let lane = self.lane(deadline).await?;
        let mut ticket = shared.pending.register()?;
        shared.bell.ring();
        let id = ticket.id;
        let push = lane
            .push(|buffer| frame::put_request(buffer, RequestHead { id, deadline_ms: remaining_ms(deadline) }, encode));
        let placed = timeout_at(deadline, push).await.map_err(|_| late())?;
        match placed.map_err(|_| shared.gone())? {
            Placed::Lane => {}
            Placed::Bulk(body) => {
                drop(ticket);
                return self.ask_in_bulk(Bytes::from_static(&[frame::BULK]), body, deadline).await;
            }
            Placed::TooLarge(size) => return Err(NetError::TooLarge { size, max: limits::FRAME_MAX }),
        }
        shared.counters.frames_sent.one();
        match timeout_at(deadline, ticket.reply()).await {
            Ok(Some(Ok((status, body)))) => shared.verdict(status, body),
            Ok(Some(Err(error))) => Err(error),
            Ok(None) => Err(shared.lost("the connection was dropped")),
            Err(_) => Err(shared.lost("no reply came before the deadline")),
        }
    }

    /// Like [`Connection::request`] for a body that exists already; a large one is not copied.
    ///
    /// # Errors
    /// See [`Connection::request`].
    pub async fn request_bytes(&self, timeout: Duration, body: Bytes) -> Result<Bytes, NetError> {
        if body.len() <= limits::LANE_FRAME_MAX {
            return self.request(timeout, |buffer| buffer.put_slice(&body)).await;
        }
        self.request_in_bulk(timeout, body).await
    }

    /// Like [`Connection::request_bytes`], but on a stream of its own and at lower priority however small the body is,
    /// and the reply, too; both are packed where the path is a far one.
    ///
    /// # Errors
    /// See [`Connection::request`].
    pub async fn request_in_bulk(&self, timeout: Duration, body: Bytes) -> Result<Bytes, NetError> {
        let is_far = self.0.shared.quic.rtt() >= congestion::FAR;
        self.request_aside(timeout, body, is_far).await
    }

    /// The same, packed or not.
    pub(crate) async fn request_aside(
        &self,
        timeout: Duration,
        body: Bytes,
        is_packed: bool,
    ) -> Result<Bytes, NetError> {
        if body.len() > limits::FRAME_MAX {
            return Err(NetError::TooLarge { size: body.len(), max: limits::FRAME_MAX });
        }
        let deadline = Instant::now() + timeout.min(limits::DEADLINE_MAX);
        // The id matters on lanes only: this request has a stream to itself.
        let head = RequestHead { id: 0, deadline_ms: remaining_ms(deadline) };
        let kind = if is_packed { frame::PACKED } else { frame::BULK };
        let (length, body) = pack::pack(body, is_packed, &self.0.shared.counters.packing_saved);
        let prefix = frame::bulk_prefix(kind, body.len(), |buffer| {
            frame::put_request_head(buffer, head);
            pack::put_length(buffer, length);
        });
        let reply = self.ask_in_bulk(prefix, body, deadline).await?;
        pack::unpack(reply, is_packed).map_err(|error| self.0.shared.lost(error.to_string()))
    }

    /// Sends a request on a stream of its own and reads the reply there.
    async fn ask_in_bulk(&self, prefix: Bytes, body: Bytes, deadline: Instant) -> Result<Bytes, NetError> {
        let shared = &*self.0.shared;
        if let Some(error) = shared.pending.ended() {
            return Err(error.before_sending());
        }
        let _waiting = Waiting::of(&shared.bulk_pending);
        shared.bell.ring();
        // Until its last byte is written, the peer cannot have executed the request.
        let sent = timeout_at(deadline, async {
            let permit = bulk::acquire(&shared.bulk, body.len()).await;
            let (send, receive) =
                shared.quic.open_bi().await.map_err(|error| shared.lost_by(&error).before_sending())?;
            let write = bulk::send(send, [prefix, body], limits::DEADLINE_MAX);
            let sent = write.await.map_err(|error| shared.not_sent(error.to_string()))?;
            Ok((permit, sent, receive))
        });
        let (_permit, sent, receive) =
            sent.await.map_err(|_| shared.not_sent("it was not written before its deadline"))??;
        shared.counters.bulk_streams.one();
        shared.counters.frames_sent.one();
        let mut reader = FrameReader::bulk(receive);
        let reply = timeout_at(deadline, reader.whole()).await;
        let mut reply = reply.map_err(|_| shared.lost("no reply came before the deadline"))?.map_err(|error| {
            shared.quic.close_reason().map_or_else(|| shared.lost(error.to_string()), |reason| shared.lost_by(&reason))
        })?;
        drop(sent.leave());
        shared.counters.frames_received.one();
        shared.counters.bytes_received.count(reply.len());
        let (_, status) = frame::take_reply(&mut reply).map_err(|error| shared.lost(error.to_string()))?;
        shared.answered.store(true, Ordering::Relaxed);
        shared.verdict(status, reply)
    }

    /// The lane for the next request; opened when it is first needed.
    async fn lane(&self, deadline: Instant) -> Result<&Arc<Lane>, NetError> {
        let lanes = &self.0.lanes;
        let turn = self.turn();
        if let Some(lane) = lanes[turn].get() {
            return Ok(lane);
        }
        let opened = timeout_at(deadline, lanes[turn].get_or_try_init(|| self.open_lane())).await;
        opened.map_err(|_| self.0.shared.not_sent("no lane opened before the deadline"))?
    }

    /// Which lane is next.
    fn turn(&self) -> usize {
        let handle = &*self.0;
        if handle.lanes.len() == 1 {
            return 0;
        }
        let number = handle.next_lane.fetch_add(1, Ordering::Relaxed);
        // Not each time: the round trip stands behind a lock of the connection's.
        if handle.by_distance && number.is_multiple_of(LOOK_EVERY) {
            handle.is_far.store(handle.shared.quic.rtt() >= congestion::FAR, Ordering::Relaxed);
        }
        let is_spread = !handle.by_distance || handle.is_far.load(Ordering::Relaxed);
        if is_spread { number % handle.lanes.len() } else { 0 }
    }

    async fn open_lane(&self) -> Result<Arc<Lane>, NetError> {
        let shared = &self.0.shared;
        let opened = shared.quic.open_bi().await;
        let (send, receive) = opened.map_err(|error| shared.lost_by(&error).before_sending())?;
        let lane = Arc::new(Lane::new(shared.counters.clone()));
        shared.party.opened(&lane);
        lane.push(|buffer| buffer.put_u8(frame::LANE)).await.map_err(|_| shared.gone())?;
        let (writer, writing) = (shared.clone(), lane.clone());
        self.0.env.spawn("net/lane-writer", async move {
            // A peer that is busy may stop reading for a while. Requests have deadlines of their own, and QUIC tells
            // when the peer is gone.
            if let Err(error) = writing.write(send, limits::DEADLINE_MAX).await {
                writer.fail(CloseCode::SlowReader, &error.to_string());
            }
        });
        let (reader, read) = (shared.clone(), lane.clone());
        self.0.env.spawn("net/lane-reader", async move {
            match reader.read_replies(receive).await {
                Ok(()) => reader.drain().await,
                Err(error) => reader.fail(CloseCode::Protocol, &error.to_string()),
            }
            read.close();
        });
        Ok(lane)
    }

    /// The other side.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.0.shared.peer
    }

    /// Requests that wait for their reply, without those in bulk.
    pub fn pending(&self) -> usize {
        self.0.shared.pending.len()
    }

    /// Why no request can be sent any more, once that is so.
    pub fn ended(&self) -> Option<NetError> {
        self.0.shared.pending.ended()
    }

    /// Waits until the connection is gone, and says why.
    pub async fn closed(&self) -> NetError {
        let error = self.0.shared.quic.closed().await;
        self.ended().unwrap_or_else(|| self.0.shared.lost_by(&error))
    }

    /// Whether any request was ever answered on it.
    pub fn has_answered(&self) -> bool {
        self.0.shared.answered.load(Ordering::Relaxed)
    }

    /// Finds out whether the peer is still there: if it does not answer within the endpoint's idle timeout, the
    /// connection is lost, and at once if the peer was restarted.
    pub fn doubt(&self) {
        self.0.shared.silence.doubt(&*self.0.shared, Instant::now());
        self.0.shared.bell.ring();
    }

    /// What watches over it needs.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    /// Closes the connection; requests that wait fail as `Unanswered`.
    pub fn close(&self) {
        self.0.shared.pending.end(self.0.shared.lost("this side closed the connection"));
        self.0.shared.quic.close(CloseCode::Done.code(), b"no longer needed");
    }
}

/// Counts a request for as long as it waits.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn of(count: &'a AtomicUsize) -> Self {
        // Ordered with the bell that is rung next.
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AsRef<Silence> for Shared {
    fn as_ref(&self) -> &Silence {
        &self.silence
    }
}

impl Watched for Shared {
    fn awaits(&self) -> bool {
        self.pending.len() > 0 || self.bulk_pending.load(Ordering::SeqCst) > 0
    }

    fn heard(&self) -> u64 {
        self.quic.stats().udp_rx.datagrams
    }

    fn call(&self) {
        // Fails only where the connection is about to end anyway, or an older datagram has not gone out yet.
        if let Err(error) = self.quic.send_datagram(Bytes::from_static(SIGN_OF_LIFE)) {
            tracing::trace!(peer = %self.peer.label(), %error, "no sign of life was asked for");
        }
    }

    fn give_up(&self, silent: Duration) {
        if self.quic.close_reason().is_none() {
            self.pending.end(self.lost(format!("nothing came from it for {:.1} s", silent.as_secs_f64())));
            self.quic.close(CloseCode::Done.code(), b"no sign of life");
        }
    }
}

impl Shared {
    fn not_sent(&self, reason: impl AsRef<str>) -> NetError {
        NetError::not_sent(self.peer.label(), reason)
    }

    fn lost(&self, reason: impl AsRef<str>) -> NetError {
        NetError::unanswered(self.peer.label(), reason)
    }

    fn lost_by(&self, error: &quinn::ConnectionError) -> NetError {
        lost(self.peer.label(), error)
    }

    /// Why a closed lane takes no request.
    fn gone(&self) -> NetError {
        self.pending.ended().unwrap_or_else(|| self.lost("its lane is closed")).before_sending()
    }

    /// What a reply's status means to the caller.
    fn verdict(&self, status: Status, body: Bytes) -> Result<Bytes, NetError> {
        match status {
            Status::Done => Ok(body),
            Status::Expired => Err(self.not_sent("its deadline had passed before it was started")),
            Status::ReplyTooLarge => Err(self.lost("the reply is larger than a frame may be")),
            Status::Broken => Err(self.lost("the handler broke off")),
        }
    }

    /// Ends the connection because of what the peer did, unless it is gone already.
    fn fail(&self, code: CloseCode, reason: &str) {
        let error = self.quic.close_reason().map_or_else(
            || {
                self.counters.peers_disconnected.one();
                tracing::warn!(peer = %self.peer.label(), reason, "connection closed");
                self.lost(reason)
            },
            |gone| self.lost_by(&gone),
        );
        self.pending.end(error);
        self.quic.close(code.code(), reason.as_bytes());
    }

    /// Takes no more requests, because the peer ended a lane. It will close the connection when it has answered what
    /// it took; this side closes it when that takes too long.
    async fn drain(&self) {
        self.pending.drain(self.not_sent("it is shutting down"));
        if tokio::time::timeout(self.patience, self.quic.closed()).await.is_err() {
            self.quic.close(CloseCode::Done.code(), b"no longer needed");
        }
    }

    async fn read_replies(&self, receive: RecvStream) -> Result<(), FrameError> {
        let mut reader = FrameReader::lane(receive);
        let mut replies = Vec::new();
        while reader.fill().await? {
            while let Some(mut frame) = reader.next()? {
                self.counters.bytes_received.count(frame.len());
                let (id, status) = frame::take_reply(&mut frame)?;
                replies.push((id, status, frame));
            }
            self.deliver(&mut replies);
        }
        Ok(())
    }

    fn deliver(&self, replies: &mut Vec<(u64, Status, Bytes)>) {
        if replies.is_empty() {
            return;
        }
        self.answered.store(true, Ordering::Relaxed);
        self.counters.frames_received.count(replies.len());
        self.counters.replies_late.count(self.pending.complete(replies));
    }

    /// Reads one reply too large for a lane.
    async fn read_large_reply(&self, mut receive: RecvStream) -> Result<(), FrameError> {
        if FrameReader::kind(&mut receive).await? != Some(frame::BULK) {
            return Err(FrameError::Malformed);
        }
        let mut reply = FrameReader::bulk(receive).whole().await?;
        self.counters.bytes_received.count(reply.len());
        let (id, status) = frame::take_reply(&mut reply)?;
        self.deliver(&mut vec![(id, status, reply)]);
        Ok(())
    }
}

/// Reads the replies that come on streams of their own, until the connection ends; then fails all who wait.
async fn accept_large_replies(shared: Arc<Shared>, env: Env) {
    loop {
        match shared.quic.accept_uni().await {
            Ok(receive) => {
                let shared = shared.clone();
                env.spawn("net/large-reply", async move {
                    let read = shared.read_large_reply(receive).await;
                    if let Err(FrameError::Read(ReadError::Reset(_))) = read {
                        // The peer gave up on this one reply; its request meets its deadline.
                        tracing::debug!(peer = %shared.peer.label(), "a large reply was broken off");
                    } else if let Err(error) = read {
                        shared.fail(CloseCode::Protocol, &error.to_string());
                    }
                });
            }
            Err(error) => {
                shared.pending.end(shared.lost_by(&error));
                return;
            }
        }
    }
}

/// What is left until the deadline, rounded up so that a request never arrives already expired.
fn remaining_ms(deadline: Instant) -> u32 {
    let left = deadline.saturating_duration_since(Instant::now());
    u32::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}
