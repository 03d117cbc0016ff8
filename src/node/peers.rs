//! The other members as this node reaches them: one connection each, typed requests, and who is up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::Instrument;

use crate::env::Env;
use crate::limits;
use crate::net::link::{Link, LinkSettings, LinkState};
use crate::net::{Endpoint, Expect, NetError};
use crate::node::ask::By;
use crate::node::timeouts::millis;
use crate::swim::{Standing, StorageHealth};
use crate::types::{NodeId, NodeName};
use crate::view::ClusterView;
use crate::wire::blob;
use crate::wire::rpc::{Fetched, PageRequest, ReplicaWrite, Reply, Request, ServeError, SlotRef, Traced};
use crate::wire::status::PeerStatus;

/// After a request to a node timed out, how long others are preferred to it.
const SHUN_MS: u64 = 1_000;
/// How often the others are looked after where there is no gossip.
const PATROL: Duration = Duration::from_secs(1);

/// Why a peer's answer is missing.
#[derive(Debug, Clone)]
pub(crate) struct PeerError {
    /// For the error text.
    pub(crate) why: String,
    /// Whether the request may have been executed.
    pub(crate) maybe: bool,
}

impl From<NetError> for PeerError {
    fn from(error: NetError) -> Self {
        let maybe = !error.surely_not_executed();
        let why = match error {
            NetError::NotSent { reason, .. } | NetError::Refused { reason, .. } => reason.to_string(),
            NetError::Unanswered { reason, .. } => format!("no answer: {reason}"),
            other => other.to_string(),
        };
        Self { why, maybe }
    }
}

impl From<ServeError> for PeerError {
    fn from(error: ServeError) -> Self {
        Self { why: error.to_string(), maybe: matches!(error, ServeError::Deadline(_) | ServeError::Uncertain(_)) }
    }
}

/// Bytes of one exchange of messages.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Traffic {
    /// That went out.
    pub(crate) sent: u64,
    /// That came in.
    pub(crate) received: u64,
}

/// One other member.
struct Peer {
    link: Link,
    /// Milliseconds after `started` until which others are preferred.
    shunned_until: AtomicU64,
}

/// How a member is, as gossip says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Judged {
    /// Whether it answers.
    pub(crate) standing: Standing,
    /// How its storage is.
    pub(crate) storage: StorageHealth,
    /// Which life of its process this is about.
    pub(crate) instance: u64,
}

/// The other members.
pub(crate) struct Peers {
    own: NodeId,
    endpoint: Endpoint,
    settings: LinkSettings,
    env: Env,
    peers: RwLock<BTreeMap<NodeId, Arc<Peer>>>,
    /// Members that gossip knows, with where they are: those that own data and those that do not.
    met: RwLock<BTreeMap<NodeId, (NodeName, String)>>,
    /// What gossip says of them; nothing of those it has not heard of.
    judged: RwLock<BTreeMap<NodeId, Judged>>,
    /// A peer refused a request, since this node works by an old layout.
    pub(crate) outdated: Notify,
    started: Instant,
}

impl Peers {
    /// Nobody yet: [`Peers::follow`] says whom to connect to.
    pub(crate) fn new(endpoint: &Endpoint, settings: &LinkSettings, own: NodeId, env: &Env) -> Arc<Self> {
        Arc::new(Self {
            own,
            endpoint: endpoint.clone(),
            settings: settings.clone(),
            env: env.clone(),
            peers: RwLock::default(),
            met: RwLock::default(),
            judged: RwLock::default(),
            outdated: Notify::new(),
            started: Instant::now(),
        })
    }

    /// Connects to every member but this one, in the background and for as long as it is a member: those of the view, and
    /// those that gossip knows beside them.
    pub(crate) fn follow(&self, view: &ClusterView) {
        let mut wanted = self.met.read().unwrap_or_else(PoisonError::into_inner).clone();
        for (id, member) in view.members() {
            wanted.insert(*id, (member.name.clone(), member.quic.clone()));
        }
        wanted.remove(&self.own);
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        peers.retain(|id, _| wanted.contains_key(id));
        for (id, (name, quic)) in wanted {
            let addresses = vec![quic];
            if let Some(peer) = peers.get(&id) {
                peer.link.set_addresses(addresses);
                continue;
            }
            let link = Link::new(&self.endpoint, Expect::Node(name), addresses, self.settings.clone(), &self.env);
            link.start();
            peers.insert(id, Arc::new(Peer { link, shunned_until: AtomicU64::new(0) }));
        }
    }

    /// Gossip knows a member; [`Peers::follow`] then connects to it.
    pub(crate) fn met(&self, node: NodeId, name: &NodeName, quic: &str) {
        let mut met = self.met.write().unwrap_or_else(PoisonError::into_inner);
        if met.len() < limits::MEMBERS_MAX || met.contains_key(&node) {
            met.insert(node, (name.clone(), quic.to_owned()));
        }
    }

    /// Gossip knows a member no more.
    pub(crate) fn forget(&self, node: NodeId) {
        self.met.write().unwrap_or_else(PoisonError::into_inner).remove(&node);
        self.judged.write().unwrap_or_else(PoisonError::into_inner).remove(&node);
    }

    /// Whether gossip knows a member.
    pub(crate) fn knows(&self, node: NodeId) -> bool {
        self.met.read().unwrap_or_else(PoisonError::into_inner).contains_key(&node)
    }

    /// The name of a member that gossip knows.
    pub(crate) fn name_of(&self, node: NodeId) -> Option<NodeName> {
        self.met.read().unwrap_or_else(PoisonError::into_inner).get(&node).map(|(name, _)| name.clone())
    }

    /// Gossip says how a member is.
    pub(crate) fn judge(&self, node: NodeId, judged: Judged) {
        let before = self.judged.write().unwrap_or_else(PoisonError::into_inner).insert(node, judged);
        // Its connection may be as dead as it is, or was: what stands by chance only would fail the next request.
        if before.is_none_or(|old| (old.standing, old.instance) != (judged.standing, judged.instance))
            && let Some(peer) = self.get(node)
        {
            peer.link.doubt();
        }
    }

    /// Looks whether those that are connected are there, over and over: where there is no gossip, nobody else does.
    pub(crate) async fn patrol(self: Arc<Self>, env: Env) {
        loop {
            tokio::select! {
                biased;
                () = env.stopped() => return,
                () = env.beat(PATROL) => {}
            }
            let peers: Vec<Arc<Peer>> =
                self.peers.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
            peers.iter().for_each(|peer| peer.link.doubt());
        }
    }

    fn judged(&self, node: NodeId) -> Option<Judged> {
        self.judged.read().unwrap_or_else(PoisonError::into_inner).get(&node).copied()
    }

    /// Ends the wait for the next attempt to connect: there is news that the member is back.
    pub(crate) fn retry_now(&self, node: NodeId) {
        if let Some(peer) = self.get(node).filter(|peer| matches!(peer.link.state(), LinkState::Down { .. })) {
            peer.link.retry_now();
        }
    }

    /// Those whose connection stands, whatever gossip says.
    pub(crate) fn connected(&self) -> Vec<NodeId> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.iter().filter(|(_, peer)| matches!(peer.link.state(), LinkState::Up)).map(|(id, _)| *id).collect()
    }

    /// Whether a first attempt to connect to some member is still under way.
    pub(crate) fn is_connecting(&self) -> bool {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.values().any(|peer| matches!(peer.link.state(), LinkState::Idle | LinkState::Connecting))
    }

    /// Those that are up by any account: their connection stands, or gossip hears them.
    pub(crate) fn in_contact(&self) -> Vec<NodeId> {
        let heard = |judged: Judged| matches!(judged.standing, Standing::Alive | Standing::Suspect);
        let mut nodes: BTreeSet<NodeId> = self.connected().into_iter().collect();
        nodes.extend(
            self.judged
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .iter()
                .filter(|(_, judged)| heard(**judged))
                .map(|(id, _)| *id),
        );
        nodes.into_iter().collect()
    }

    /// What everything travels on.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Requests to each peer that wait for their answer.
    pub(crate) fn pending(&self) -> Vec<(NodeId, usize)> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.iter().map(|(node, peer)| (*node, peer.link.pending())).collect()
    }

    fn get(&self, node: NodeId) -> Option<Arc<Peer>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).get(&node).cloned()
    }

    /// What is known of a member now, looked up once.
    pub(crate) fn seen(&self, node: NodeId) -> Seen<'_> {
        Seen { peers: self, peer: self.get(node), judged: self.judged(node) }
    }

    /// See [`Seen::is_connected`] and [`Seen::is_prompt`].
    pub(crate) fn is_up(&self, node: NodeId) -> bool {
        let seen = self.seen(node);
        seen.is_connected() && seen.is_prompt()
    }

    /// See [`Seen::is_connected`].
    pub(crate) fn is_connected(&self, node: NodeId) -> bool {
        self.seen(node).is_connected()
    }

    /// Round-trip time to a node, for choosing the nearest.
    pub(crate) fn rtt(&self, node: NodeId) -> Option<Duration> {
        self.seen(node).rtt()
    }

    /// The peers for the status report.
    pub(crate) fn status(&self, view: &ClusterView) -> Vec<PeerStatus> {
        let describe = |(id, peer): (&NodeId, &Arc<Peer>)| {
            let state = match peer.link.state() {
                LinkState::Up => "up".to_owned(),
                LinkState::Idle | LinkState::Connecting => "connecting".to_owned(),
                LinkState::Down { error, .. } => format!("down: {error}"),
            };
            let quic = peer.link.addresses().into_iter().next().unwrap_or_default();
            let rtt_us = peer.link.rtt().and_then(|rtt| u64::try_from(rtt.as_micros()).ok());
            let name = self.name_of(*id).unwrap_or_else(|| view.name_of(*id));
            PeerStatus { name, quic, state, rtt_us }
        };
        self.peers.read().unwrap_or_else(PoisonError::into_inner).iter().map(describe).collect()
    }

    /// Merges records into a peer's replica; one outcome each.
    pub(crate) async fn apply(
        &self,
        node: NodeId,
        writes: Vec<ReplicaWrite>,
        by: By,
    ) -> Result<Vec<Result<(), ServeError>>, PeerError> {
        match self.request(node, Request::Apply(writes), by).await? {
            Reply::Apply(outcomes) => Ok(outcomes),
            other => Err(unexpected(other)),
        }
    }

    /// Reads records, or only their digests, from a peer's replica.
    pub(crate) async fn fetch(
        &self,
        node: NodeId,
        slots: Vec<SlotRef>,
        digest_only: bool,
        by: By,
    ) -> Result<Vec<Result<Fetched, ServeError>>, PeerError> {
        match self.request(node, Request::Fetch { slots, digest_only }, by).await? {
            Reply::Fetch(outcomes) => Ok(outcomes),
            other => Err(unexpected(other)),
        }
    }

    /// Reads a page of a partition from a peer's replica.
    pub(crate) async fn page(
        &self,
        node: NodeId,
        page: PageRequest,
        by: By,
    ) -> Result<(Vec<(Bytes, Bytes)>, bool), PeerError> {
        match self.request(node, Request::FetchPage(page), by).await? {
            Reply::FetchPage { items, more } => {
                Ok((items.into_iter().map(|(key, record)| (key.0, record.0)).collect(), more))
            }
            other => Err(unexpected(other)),
        }
    }

    /// Sends any request to a peer.
    pub(crate) async fn request(&self, node: NodeId, request: Request, by: By) -> Result<Reply, PeerError> {
        let gone = || PeerError { why: "is not a member".to_owned(), maybe: false };
        let peer = self.get(node).ok_or_else(gone)?;
        let span = tracing::debug_span!("peer_call", %node, verb = request.verb());
        let traced = Traced { trace: by.trace, layout: by.layout, request };
        let asked = peer.link.request_until(by.deadline, |frame| encode(&traced, frame));
        let answer = asked.instrument(span).await;
        if let Err(error @ NetError::Unanswered { .. }) = &answer {
            tracing::debug!(request = %by.trace, %node, %error, "a peer did not answer");
            self.shun(node);
        }
        let answer = answer?;
        let reply = blob::decode(&answer)
            .map_err(|error| PeerError { why: format!("sent an unreadable reply: {error}"), maybe: true })?;
        if let Reply::Error(ServeError::OldLayout(_)) = reply {
            self.outdated.notify_one();
        }
        Ok(reply)
    }

    /// Prefers others to a node for a while, since it was silent.
    pub(crate) fn shun(&self, node: NodeId) {
        if let Some(peer) = self.get(node) {
            peer.shunned_until.store(self.now_ms() + SHUN_MS, Ordering::Relaxed);
        }
    }

    /// Sends a request that is in no hurry: it keeps no other waiting, and if it is not answered that is held against
    /// nobody. Returns the bytes of request and reply, too.
    pub(crate) async fn request_in_bulk(
        &self,
        node: NodeId,
        request: Request,
        deadline: Instant,
    ) -> Result<(Reply, Traffic), PeerError> {
        let gone = || PeerError { why: "is not a member".to_owned(), maybe: false };
        let peer = self.get(node).ok_or_else(gone)?;
        let mut body = BytesMut::new();
        encode(&Traced::untraced(request), &mut body);
        let sent = body.len() as u64;
        let answer = peer.link.request_in_bulk(deadline - Instant::now(), body.freeze()).await?;
        let reply = blob::decode(&answer)
            .map_err(|error| PeerError { why: format!("sent an unreadable reply: {error}"), maybe: true })?;
        match reply {
            Reply::Error(error) => Err(error.into()),
            reply => Ok((reply, Traffic { sent, received: answer.len() as u64 })),
        }
    }

    fn now_ms(&self) -> u64 {
        millis(self.started.elapsed())
    }
}

/// A member as it was found a moment ago: how it is reached, and what gossip says of it.
pub(crate) struct Seen<'a> {
    peers: &'a Peers,
    peer: Option<Arc<Peer>>,
    judged: Option<Judged>,
}

impl Seen<'_> {
    /// Whether the connection stands, however slowly the member answers, and gossip does not hold it dead or gone. One
    /// that never answered is not.
    pub(crate) fn is_connected(&self) -> bool {
        let gone = |judged: Judged| matches!(judged.standing, Standing::Failed | Standing::Left);
        self.peer.as_ref().is_some_and(|peer| matches!(peer.link.state(), LinkState::Up))
            && !self.judged.is_some_and(gone)
    }

    /// Whether it is taken to be down: by gossip, or where there is none, by its connection.
    pub(crate) fn is_failed(&self) -> bool {
        let gone = |judged: Judged| matches!(judged.standing, Standing::Failed | Standing::Left);
        self.judged.map_or_else(|| !self.is_connected(), gone)
    }

    /// Whether it was neither suspected nor silent of late: others are asked before one that was.
    pub(crate) fn is_prompt(&self) -> bool {
        let until = self.peer.as_ref().map_or(0, |peer| peer.shunned_until.load(Ordering::Relaxed));
        self.judged.is_none_or(|judged| judged.standing == Standing::Alive)
            && (until == 0 || self.peers.now_ms() >= until)
    }

    /// How its storage is, as far as is known.
    pub(crate) fn storage(&self) -> StorageHealth {
        self.judged.map_or(StorageHealth::Ok, |judged| judged.storage)
    }

    /// Whether it can be read from.
    pub(crate) fn takes_reads(&self) -> bool {
        self.is_connected() && !matches!(self.storage(), StorageHealth::Down | StorageHealth::CatchingUp)
    }

    /// The round trip to it, while the connection stands.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.peer.as_ref()?.link.rtt()
    }
}

/// Appends a message to a frame.
pub(crate) fn encode<T: serde::Serialize>(message: &T, frame: &mut BytesMut) {
    postcard::to_io(message, frame.writer()).expect("messages always encode into memory");
}

/// What a reply of another kind than was asked for means.
pub(crate) fn unexpected(reply: Reply) -> PeerError {
    match reply {
        Reply::Error(error) => error.into(),
        _ => PeerError { why: "sent a reply of the wrong kind".to_owned(), maybe: true },
    }
}
