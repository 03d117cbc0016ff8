//! The loop around the membership state machine: opens and seals datagrams, keeps its time, carries out what it wants,
//! and passes on what happened.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep_until};

use crate::limits;
use crate::net::Datagrams;
use crate::net::TlsMaterial;
use crate::net::datagram::KNOCK;
use crate::net::link;
use crate::net::tls::TlsError;
use crate::node::ask::By;
use crate::node::core::Core;
use crate::node::gossip::members::{Kept, MembersFile};
use crate::node::gossip::orders::Order;
use crate::node::gossip::report::Portrait;
use crate::node::gossip::warn::Warnings;
use crate::node::gossip::{Gossip, GossipParts, Prepared};
use crate::node::peers::Judged;
use crate::seal::{Opener, Sealer};
use crate::swim::{Effect, Event, Input, Record, Seen, StorageHealth, Swim};
use crate::types::NodeId;
use crate::wire::blob::Blob;
use crate::wire::gossip::{GossipReply, GossipRequest};
use crate::wire::rpc::{Reply, Request};

/// Longest wait for an answer to a ping over a connection.
const PING_PATIENCE: Duration = Duration::from_secs(2);
/// Longest wait for an answer to a synchronisation.
const SYNC_PATIENCE: Duration = Duration::from_secs(5);
/// How long a closed port has to say so: about as long as probes wait once they knock.
const KNOCK_PATIENCE: Duration = Duration::from_millis(400);
/// Messages older than this are not tried again when a certificate comes.
const PUT_ASIDE: Duration = Duration::from_secs(3);
/// Longest pause between attempts to resolve this node's own name.
const RESOLVE_MAX: Duration = Duration::from_secs(5);

/// The task.
pub(crate) async fn run(core: Arc<Core>, gossip: Arc<Gossip>, prepared: Prepared) {
    let Prepared { parts, file, kept, inbox } = prepared;
    let env = gossip.env.clone();
    let begun = tokio::select! {
        biased;
        () = env.stopped() => return,
        begun = Driver::begin(core, gossip, parts, file, kept) => begun,
    };
    match begun {
        Ok(mut driver) => driver.run(inbox).await,
        Err(error) => tracing::error!(%error, "gossip cannot begin: this node's record is refused"),
    }
}

struct Driver {
    core: Arc<Core>,
    gossip: Arc<Gossip>,
    socket: Arc<dyn Datagrams>,
    swim: Swim,
    sealer: Sealer,
    opener: Opener,
    /// Messages whose records name certificates that have not come yet.
    put_aside: VecDeque<(Duration, SocketAddr, Vec<u8>)>,
    /// The keyring and the credentials that were last taken into account.
    keys: u64,
    credentials: u64,
    file: MembersFile,
    /// Whether there is something to write.
    unsaved: bool,
    /// When somebody may look at something next, and when what came by connections and what is to be kept is looked at.
    next_turn: Instant,
    next_look: Instant,
    warnings: Warnings,
    /// Room for one writing of the file at a time.
    writing: Arc<Semaphore>,
}

impl Driver {
    async fn begin(
        core: Arc<Core>,
        gossip: Arc<Gossip>,
        parts: GossipParts,
        file: MembersFile,
        kept: Kept,
    ) -> Result<Self, crate::swim::RecordError> {
        let address = own_address(&parts, &gossip).await;
        *gossip.address.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
        let record = own_record(&core, &gossip, &parts, kept.incarnation, address);
        let (now, wall_ms) = (gossip.now(), gossip.env.wall_ms());
        let restored = kept.restore(&core.hash, &*gossip.notary, wall_ms);
        let seed = gossip.env.rng("gossip/swim").random();
        let swim = Swim::new(parts.config, record, restored, gossip.notary.clone(), seed, now)?;
        for seen in swim.members() {
            core.peers.met(seen.node, &seen.record.name, &seen.record.quic);
            core.peers.judge(seen.node, judged(&seen));
            // The configuration may name the address from which it has moved since.
            core.moved(seen.node, &seen.record.quic);
        }
        core.peers.follow(&core.view());
        let mut driver = Self {
            sealer: Sealer::new(&gossip.cluster, core.id, gossip.boot),
            opener: Opener::new(&gossip.cluster, core.id),
            socket: parts.socket,
            swim,
            put_aside: VecDeque::new(),
            keys: 0,
            credentials: 0,
            file,
            unsaved: true,
            next_turn: Instant::now(),
            next_look: Instant::now(),
            warnings: Warnings::default(),
            writing: Arc::new(Semaphore::new(1)),
            core,
            gossip,
        };
        driver.sealer.follow(&driver.gossip.keys.ring(), now);
        driver.gossip.begun.cancel();
        Ok(driver)
    }

    async fn run(&mut self, mut inbox: mpsc::Receiver<Order>) {
        let env = self.gossip.env.clone();
        let mut buffer = vec![0; limits::GOSSIP_DATAGRAM_MAX + 1];
        let mut datagrams = 0;
        loop {
            // A look waits for the next probe, which is seldom longer than it may wait.
            let overdue = self.next_look + limits::LOOK_EVERY;
            let due = self.swim.deadline().map_or(overdue, |at| (self.gossip.started + at).min(overdue));
            let due = env.slot(due);
            let socket = self.socket.clone();
            // What clients ask must not hold up what the other members say, nor that everything else for long.
            tokio::select! {
                biased;
                () = env.stopped() => break,
                received = receive(&*socket, &mut buffer), if datagrams < limits::GOSSIP_DATAGRAMS_IN_A_ROW => {
                    datagrams += 1;
                    match received {
                        Ok((length, from)) => self.take(from, &buffer[..length]),
                        Err(error) => tracing::debug!(%error, "the socket of gossip failed for a moment"),
                    }
                }
                order = inbox.recv() => match order {
                    Some(order) => {
                        datagrams = 0;
                        self.obey(order);
                    }
                    None => break,
                },
                () = sleep_until(due) => {}
                () = std::future::ready(()), if datagrams >= limits::GOSSIP_DATAGRAMS_IN_A_ROW => datagrams = 0,
            }
            self.keep_time();
        }
        let _alone = self.writing.acquire().await;
        self.file.clone().save(self.kept(), &env).await;
    }

    /// Whatever came, time passes: neither a flood of junk nor one of questions holds up what is due.
    fn keep_time(&mut self) {
        let now = self.gossip.now();
        if self.swim.deadline().is_some_and(|at| at <= now) {
            self.swim.handle(now, Input::Timer);
        }
        self.carry_out();
        self.pass_on();
        let now = Instant::now();
        if now >= self.next_turn {
            // What was missed meanwhile is made up for, one at each time it wakes up.
            self.next_turn =
                (self.next_turn + limits::LOOK_TURN).max(now.checked_sub(limits::LOOK_EVERY).unwrap_or(now));
            self.gossip.env.awake();
        }
        if now >= self.next_look {
            self.next_look = now + limits::LOOK_EVERY;
            self.learn();
            self.save_later();
            let of_member = |node| self.swim.member(node).map(|seen| seen.record);
            self.warnings.ripen(self.gossip.now(), self.swim.own().record(), of_member);
        }
    }

    /// Opens a datagram and hands it to the state machine.
    fn take(&mut self, from: SocketAddr, datagram: &[u8]) {
        if datagram == KNOCK {
            return;
        }
        let now = self.gossip.now();
        let opened = match self.opener.open(datagram, &self.gossip.keys.ring(), now) {
            Ok(opened) => opened,
            Err(why) => {
                self.gossip.tally.refused(why);
                return;
            }
        };
        self.gossip.tally.opened.one();
        let (unknown, _) = self.gossip.notary.progress();
        self.swim.handle(now, Input::Datagram { from, bytes: &opened.message });
        if self.gossip.notary.progress().0 > unknown {
            // It brought records that cannot be checked yet. Who sent them has the certificates.
            if self.put_aside.len() >= limits::GOSSIP_PUT_ASIDE_MAX {
                self.put_aside.pop_front();
            }
            self.put_aside.push_back((now, from, opened.message));
            self.gossip.lacks_from(opened.sender);
        }
    }

    fn obey(&mut self, order: Order) {
        let now = self.gossip.now();
        match order {
            Order::AnswerPing(bytes, reply) => drop(reply.send(self.swim.answer_ping(now, &bytes))),
            Order::AnswerSync(from, bytes, reply) => {
                let (unknown, _) = self.gossip.notary.progress();
                drop(reply.send(self.swim.answer_sync(now, &bytes)));
                self.look_for_certificates(from, unknown);
            }
            Order::Pong(token, reply) => self.swim.handle(now, Input::StreamPong { token, reply: reply.as_deref() }),
            Order::Synced(peer, reply) => {
                let (unknown, _) = self.gossip.notary.progress();
                self.swim.handle(now, Input::SyncReply { peer, reply: reply.as_deref() });
                self.look_for_certificates(peer, unknown);
            }
            Order::Closed(address) => self.swim.handle(now, Input::Unreachable { address }),
            Order::Seeds(addresses) => self.swim.handle(now, Input::Seeds(&addresses)),
            Order::Expect(node, boot) => self.opener.expect(node, boot, now),
            Order::Learnt => self.learn(),
            Order::Change(change) => match self.swim.update(now, change) {
                Ok(changed) => self.unsaved |= changed,
                Err(error) => tracing::warn!(%error, "this node's record cannot be changed"),
            },
            Order::Renew(material, reply) => drop(reply.send(self.renew(now, &material))),
            Order::Portrait(reply) => drop(reply.send(Portrait::of(&self.swim, now))),
            Order::Seals(reply) => drop(reply.send(self.sealer.key_id())),
            Order::Leave(reply) => drop(reply.send(self.swim.leave(now))),
        }
    }

    /// Signs with other material from now on, and has everybody learn of it.
    fn renew(&mut self, now: Duration, material: &TlsMaterial) -> Result<(), TlsError> {
        let notary = &self.gossip.notary;
        notary.renew(material)?;
        let (certificate, key) = (notary.certificate(), notary.public_key());
        let changed = self.swim.update(now, |record| (record.certificate, record.key) = (certificate, key));
        match changed {
            Ok(changed) => self.unsaved |= changed,
            Err(error) => tracing::warn!(%error, "this node's record cannot name its new certificate"),
        }
        self.gossip.greet_anew();
        Ok(())
    }

    fn look_for_certificates(&self, peer: NodeId, unknown_before: u64) {
        if self.gossip.notary.progress().0 > unknown_before {
            self.gossip.lacks_from(peer);
        }
    }

    /// Takes into account what came by connections: keys and credentials.
    fn learn(&mut self) {
        let (now, ring) = (self.gossip.now(), self.gossip.keys.ring());
        self.sealer.follow(&ring, now);
        if self.keys != self.gossip.keys.digest() {
            self.keys = self.gossip.keys.digest();
            self.opener.keys_changed(&ring);
        }
        let (_, credentials) = self.gossip.notary.progress();
        if self.credentials != credentials {
            self.credentials = credentials;
            for (at, from, message) in std::mem::take(&mut self.put_aside) {
                if now < at + PUT_ASIDE {
                    self.swim.handle(now, Input::Datagram { from, bytes: &message });
                }
            }
        }
    }

    /// Does what the state machine wants done.
    fn carry_out(&mut self) {
        for effect in self.swim.take_effects() {
            match effect {
                Effect::Send { to, bytes } => self.send(to, &bytes),
                Effect::Knock { peer } => self.knock(peer),
                Effect::StreamPing { peer, token, bytes } => {
                    let request = GossipRequest::Ping(Blob(bytes.into()));
                    self.stream(peer, request, PING_PATIENCE, move |reply| Order::Pong(token, reply));
                }
                Effect::Sync { peer, bytes } => {
                    let request = GossipRequest::Sync(Blob(bytes.into()));
                    self.stream(peer, request, SYNC_PATIENCE, move |reply| Order::Synced(peer, reply));
                }
            }
        }
    }

    fn send(&mut self, to: SocketAddr, message: &[u8]) {
        let tally = &self.gossip.tally;
        let Some(datagram) = self.sealer.seal(message) else {
            tally.unsealed.one();
            return;
        };
        match self.socket.send(to, &datagram) {
            Ok(()) => {
                tally.sent.one();
                tally.sent_bytes.count(datagram.len());
            }
            Err(error) => {
                tally.unsent.one();
                tracing::trace!(%to, %error, "a datagram of gossip was not sent");
            }
        }
    }

    /// Finds out whether the process of a silent member is gone: then its host says so.
    fn knock(&self, peer: NodeId) {
        let Some(seen) = self.swim.member(peer) else { return };
        let address = seen.record.gossip;
        let (gossip, closed) = (self.gossip.clone(), self.socket.is_closed(address, KNOCK_PATIENCE));
        let Ok(permit) = gossip.streams.clone().try_acquire_owned() else { return };
        self.gossip.env.spawn("gossip/knock", async move {
            if closed.await {
                gossip.tally.closed_ports.one();
                gossip.order(Order::Closed(address)).await;
            }
            drop(permit);
        });
    }

    /// Asks a member over its connection, and brings back what it answers.
    fn stream(
        &self,
        peer: NodeId,
        request: GossipRequest,
        patience: Duration,
        outcome: impl FnOnce(Option<Bytes>) -> Order + Send + 'static,
    ) {
        let (core, gossip) = (self.core.clone(), self.gossip.clone());
        let permit = gossip.streams.clone().try_acquire_owned().ok();
        if permit.is_none() {
            gossip.tally.streams_crowded.one();
        }
        self.gossip.env.spawn("gossip/stream", async move {
            let mut reply = None;
            if permit.is_some() {
                let answer = core.peers.request(peer, Request::Gossip(request), By::itself(patience)).await;
                reply = match answer {
                    Ok(Reply::Gossip(GossipReply::Pong(bytes) | GossipReply::Sync(bytes))) => Some(bytes.0),
                    Ok(_) => None,
                    Err(error) => {
                        tracing::trace!(%peer, why = error.why, "no answer of gossip over the connection");
                        None
                    }
                };
            }
            gossip.order(outcome(reply)).await;
            drop(permit);
        });
    }

    /// Tells the log and the rest of the node what happened.
    fn pass_on(&mut self) {
        for event in self.swim.take_events() {
            self.unsaved = true;
            match event {
                Event::Joined(record) | Event::Alive(record) => {
                    self.say(record.node(), "alive");
                    self.take_record(&record);
                    self.core.peers.retry_now(record.node());
                    self.gossip.greet.notify_one();
                }
                Event::Refuted(node) => self.say(node, "alive"),
                Event::Suspect(node) => self.say(node, "suspect"),
                Event::Failed(node) => self.say(node, "failed"),
                Event::Left(node) => {
                    self.say(node, "left");
                    self.forget(node);
                }
                Event::Forgotten(node) => self.forget(node),
                Event::Updated(record) => self.take_record(&record),
                Event::Conflict { node, addresses, yields } => {
                    let name = self.name_of(node);
                    let [one, other] = addresses;
                    tracing::error!(
                        "two processes run as member {name}, at {one} and {other}: stop one, or give it another name \
                         and certificate{}",
                        if yields { "; this one ends, since it came later" } else { "" }
                    );
                    if yields {
                        self.gossip.yielded.cancel();
                    }
                }
            }
        }
    }

    /// Drops the connection to somebody who is gone, unless the cluster's description lists it.
    fn forget(&self, node: NodeId) {
        if !self.core.view().members().contains_key(&node) {
            self.core.peers.forget(node);
            self.core.peers.follow(&self.core.view());
        }
    }

    fn name_of(&self, node: NodeId) -> String {
        if node == self.core.id {
            return self.gossip.name.to_string();
        }
        self.swim.member(node).map_or_else(|| node.to_string(), |seen| seen.record.name.to_string())
    }

    /// The one line for each event that people look for.
    fn say(&mut self, node: NodeId, what: &str) {
        tracing::info!("member {} {what}", self.name_of(node));
        if let Some(seen) = self.swim.member(node) {
            self.core.peers.judge(node, judged(&seen));
        }
    }

    /// A member said something new about itself.
    fn take_record(&mut self, record: &Record) {
        let node = record.node();
        if node == self.core.id {
            return;
        }
        if let Some(seen) = self.swim.member(node) {
            self.core.peers.judge(node, judged(&seen));
        }
        // Also one that owns nothing any more: it may still hand over what it held.
        self.core.peers.met(node, &record.name, &record.quic);
        if !self.core.moved(node, &record.quic) {
            self.core.peers.follow(&self.core.view());
        }
        let (now, own) = (self.gossip.now(), self.swim.own().record());
        self.warnings.look(now, own, record, self.gossip.env.wall_ms());
    }

    /// Writes membership to the disk if something changed, without waiting for it.
    fn save_later(&mut self) {
        if !self.unsaved {
            return;
        }
        // Still writing: the next pause comes soon.
        let Ok(permit) = self.writing.clone().try_acquire_owned() else { return };
        self.unsaved = false;
        let (file, kept, env) = (self.file.clone(), self.kept(), self.gossip.env.clone());
        self.gossip.env.spawn("gossip/save", async move {
            file.save(kept, &env).await;
            drop(permit);
        });
    }

    fn kept(&self) -> Kept {
        let snapshot = self.swim.snapshot();
        let used: BTreeSet<[u8; 32]> =
            snapshot.iter().map(|restored| restored.signed.record().certificate.fingerprint).collect();
        self.gossip.notary.prune(&used);
        let wanted: Vec<[u8; 32]> = used.into_iter().collect();
        let mut credentials = Vec::new();
        for some in wanted.chunks(limits::CREDENTIALS_WANTED_MAX) {
            credentials.extend(self.gossip.notary.credentials(some, false).into_iter().skip(1));
        }
        Kept {
            boot: Some(self.gossip.boot.0),
            incarnation: self.swim.own().record().incarnation,
            saved_ms: self.gossip.env.wall_ms(),
            members: snapshot.iter().map(|one| (Blob(one.signed.to_bytes().into()), one.alive)).collect(),
            credentials,
        }
    }
}

fn judged(seen: &Seen) -> Judged {
    Judged { standing: seen.standing, storage: seen.record.storage, instance: seen.record.instance }
}

async fn receive(socket: &dyn Datagrams, buffer: &mut [u8]) -> std::io::Result<(usize, SocketAddr)> {
    std::future::poll_fn(|context| socket.poll_receive(context, buffer)).await
}

/// The address of this node that others are to use; a name is resolved, for as long as that takes.
async fn own_address(parts: &GossipParts, gossip: &Gossip) -> SocketAddr {
    let four = parts.socket.local_addr().is_ok_and(|address| address.is_ipv4());
    let mut pause = Duration::from_millis(100);
    loop {
        match link::resolve(&parts.gossip).await {
            Ok(found) => match found.iter().find(|address| address.is_ipv4() == four).or(found.first()) {
                Some(address) => return *address,
                None => tracing::warn!(address = parts.gossip, "the advertised address of gossip stands for none"),
            },
            Err(error) => tracing::warn!(address = parts.gossip, %error, "the advertised address of gossip is unknown"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RESOLVE_MAX);
        if gossip.env.is_stopping() {
            std::future::pending::<()>().await;
        }
    }
}

fn own_record(core: &Core, gossip: &Gossip, parts: &GossipParts, incarnation: u64, address: SocketAddr) -> Record {
    let view = core.view();
    let listed = view.members().get(&core.id);
    Record {
        cluster: core.hash.cluster_id(),
        name: gossip.name.clone(),
        instance: gossip.boot.0,
        incarnation,
        rival: None,
        left: false,
        gossip: address,
        quic: parts.quic.clone(),
        admin: parts.admin.clone(),
        zone: listed.map_or_else(|| parts.zone.clone(), |member| member.zone.clone()),
        weight: listed.map_or(parts.weight, |member| member.weight),
        software: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: 1,
        state: core.ownership.part(core),
        storage: StorageHealth::Ok,
        clock_offset_ms: None,
        certificate: gossip.notary.certificate(),
        key: gossip.notary.public_key(),
        config: core.settings_hash(),
    }
}
