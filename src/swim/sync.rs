//! Synchronisation of two members that hold different things: what each lacks, in bounded messages over QUIC.
//!
//! When it happens is decided by the digest in every datagram.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::limits;
use crate::swim::Swim;
use crate::swim::event::Effect;
use crate::swim::member::State;
use crate::swim::message::Accusation;
use crate::swim::message::Belief;
use crate::swim::message::Holding;
use crate::swim::message::SyncReply;
use crate::swim::message::SyncRequest;
use crate::swim::message::VERSION;
use crate::swim::record::Edition;
use crate::swim::record::Signed;
use crate::types::NodeId;

/// How long views may differ before members synchronise: news that are on their way need less.
const TOLERATED: Duration = Duration::from_millis(700);
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(6);
/// Most that the interval grows by while synchronising brings nothing.
const USELESS_MAX: u32 = 8;

/// When to synchronise.
#[derive(Debug, Default)]
pub(super) struct SyncState {
    /// Since when no view was equal to this member's.
    differs: Option<Duration>,
    next: Duration,
    /// Whom the running one is with, until when it is waited for, and how many messages it took.
    running: Option<(NodeId, Duration, u32)>,
    /// What the interval is multiplied by.
    useless: u32,
    ever: bool,
}

impl Swim {
    /// Compares another member's digest with this one's.
    pub(super) fn compare_views(&mut self, now: Duration, from: NodeId, view: u32) {
        if self.header(Belief::Unknown).view == view {
            self.sync.differs = None;
            self.sync.useless = 0;
            return;
        }
        let since = *self.sync.differs.get_or_insert(now);
        let long = now.saturating_sub(since) >= TOLERATED || !self.sync.ever;
        let running = self.sync.running.is_some_and(|(_, until, _)| now < until);
        if long && !running && now >= self.sync.next && !self.left {
            self.sync.running = Some((from, now + PATIENCE, 1));
            self.counters.syncs += 1;
            self.request(from, &BTreeMap::new());
        }
    }

    fn request(&mut self, peer: NodeId, records: &BTreeMap<NodeId, Signed>) {
        let mut all: Vec<&Signed> = vec![&self.own];
        let mut room = limits::GOSSIP_SYNC_RECORDS;
        for signed in records.values().filter(|signed| signed.record().node() != self.me) {
            if signed.size() > room {
                break;
            }
            room -= signed.size();
            all.push(signed);
        }
        let request = SyncRequest {
            version: VERSION,
            cluster: self.own.record().cluster,
            from: self.me,
            records: all.into_iter().map(Signed::envelope).collect(),
            held: self.holdings(),
        };
        let bytes = postcard::to_stdvec(&request).expect("numbers and byte strings always encode");
        self.effects.push(Effect::Sync { peer, bytes });
    }

    fn holdings(&self) -> Vec<Holding> {
        let claimed = self.table.iter().filter(|(_, member)| member.state != State::Unverified);
        let others = claimed.map(|(node, member)| Holding {
            node,
            edition: member.edition(),
            dead: matches!(member.state, State::Down(_)),
        });
        let own = Holding { node: self.me, edition: self.own.record().edition(), dead: false };
        others.chain([own]).collect()
    }

    /// Answers a synchronisation that a peer began: the bytes to send back. `None` when they are no request of a
    /// member of this cluster.
    pub fn answer_sync(&mut self, now: Duration, bytes: &[u8]) -> Option<Vec<u8>> {
        if self.yielded {
            return None;
        }
        self.notice_pause(now);
        let reply = self.on_sync_request(now, bytes);
        self.run_timers(now);
        reply
    }

    fn on_sync_request(&mut self, now: Duration, bytes: &[u8]) -> Option<Vec<u8>> {
        let request = postcard::take_from_bytes::<SyncRequest<'_>>(bytes);
        let request = match request {
            Ok((request, [])) if bytes.len() <= limits::GOSSIP_SYNC_MAX && request.version == VERSION => request,
            _ => {
                self.counters.syncs_malformed += 1;
                return None;
            }
        };
        if request.cluster != self.own.record().cluster {
            self.counters.other_cluster += 1;
            return None;
        }
        if request.from == self.me || request.held.len() > limits::MEMBERS_REMEMBERED_MAX {
            self.counters.syncs_malformed += 1;
            return None;
        }
        let held: BTreeMap<NodeId, Holding> = request.held.iter().map(|one| (one.node, *one)).collect();
        for envelope in &request.records {
            let dead = envelope.open(request.cluster).is_ok_and(|record| {
                held.get(&record.node()).is_some_and(|one| one.dead && one.edition == record.edition())
            });
            self.on_record(now, envelope, dead);
        }
        Some(self.reply(now, request.from, &held))
    }

    fn reply(&mut self, now: Duration, from: NodeId, held: &BTreeMap<NodeId, Holding>) -> Vec<u8> {
        let mut wanted = Vec::new();
        let mut accused = Vec::new();
        for (node, theirs) in held {
            if *node == self.me {
                if theirs.dead && theirs.edition == self.own.record().edition() {
                    self.refute(now);
                } else if theirs.edition > self.own.record().edition() {
                    wanted.push(*theirs);
                }
                continue;
            }
            match self.table.get(*node) {
                None => wanted.push(*theirs),
                Some(mine) if mine.edition() < theirs.edition => wanted.push(*theirs),
                Some(mine) if mine.edition() == theirs.edition && theirs.dead && mine.is_reachable() => {
                    accused.push(*node);
                }
                Some(_) => {}
            }
        }
        for node in accused {
            self.tell_accused(now, node, from);
        }
        let better = |node: NodeId, edition: Edition| held.get(&node).is_none_or(|theirs| theirs.edition < edition);
        let mut records: Vec<&Signed> = Vec::new();
        let (mut room, mut more) = (limits::GOSSIP_SYNC_RECORDS, false);
        let others = self
            .table
            .iter()
            .filter(|(node, member)| member.state != State::Unverified && better(*node, member.edition()));
        let own = better(self.me, self.own.record().edition()).then_some(&self.own);
        for signed in own.into_iter().chain(others.map(|(_, one)| &one.signed)) {
            if signed.size() > room {
                more = true;
                break;
            }
            room -= signed.size();
            records.push(signed);
        }
        let dead: Vec<(Accusation, u32)> = self
            .table
            .iter()
            .filter(|(node, mine)| !held.get(node).is_some_and(|one| one.dead && one.edition == mine.edition()))
            .filter_map(|(node, _)| self.death(now, node))
            .collect();
        let reply = SyncReply {
            version: VERSION,
            cluster: self.own.record().cluster,
            from: self.me,
            records: records.into_iter().map(Signed::envelope).collect(),
            dead,
            wanted,
            more,
        };
        postcard::to_stdvec(&reply).expect("numbers and byte strings always encode")
    }

    pub(super) fn on_sync_reply(&mut self, now: Duration, peer: NodeId, reply: Option<&[u8]>) {
        let Some((_, _, rounds)) = self.sync.running.take_if(|(running, _, _)| *running == peer) else {
            self.counters.unasked += u64::from(reply.is_some());
            return;
        };
        let news = reply.and_then(|bytes| self.take_sync_reply(now, peer, bytes));
        let Some((useful, wanted, more)) = news else {
            self.pace_syncs(now, false);
            return;
        };
        self.sync.ever = true;
        if (more || !wanted.is_empty()) && rounds < limits::GOSSIP_SYNC_ROUNDS {
            self.sync.running = Some((peer, now + PATIENCE, rounds + 1));
            self.request(peer, &wanted);
        } else {
            self.pace_syncs(now, useful || rounds > 1);
        }
    }

    fn pace_syncs(&mut self, now: Duration, useful: bool) {
        self.sync.useless = if useful { 0 } else { (self.sync.useless + 1).min(USELESS_MAX) };
        self.sync.next = now + self.chance.jitter(self.config.sync_interval) * self.sync.useless.max(1);
    }

    /// Takes what the other side sent. Returns whether there was news in it, which records it asks for, and whether it
    /// has more.
    fn take_sync_reply(
        &mut self,
        now: Duration,
        peer: NodeId,
        bytes: &[u8],
    ) -> Option<(bool, BTreeMap<NodeId, Signed>, bool)> {
        let decoded = postcard::take_from_bytes::<SyncReply<'_>>(bytes);
        let reply = match decoded {
            Ok((reply, []))
                if bytes.len() <= limits::GOSSIP_SYNC_MAX
                    && reply.version == VERSION
                    && reply.from == peer
                    && reply.cluster == self.own.record().cluster
                    && reply.wanted.len() <= limits::MEMBERS_REMEMBERED_MAX
                    && reply.dead.len() <= limits::MEMBERS_REMEMBERED_MAX =>
            {
                reply
            }
            _ => {
                self.counters.syncs_malformed += 1;
                return None;
            }
        };
        let dead: BTreeMap<NodeId, Edition> = reply.dead.iter().map(|(one, _)| (one.node, one.edition)).collect();
        let mut useful = false;
        for envelope in &reply.records {
            let is_dead = envelope
                .open(reply.cluster)
                .is_ok_and(|record| dead.get(&record.node()).is_some_and(|edition| *edition == record.edition()));
            useful |= self.on_record(now, envelope, is_dead);
        }
        for (accusation, age) in reply.dead {
            if accusation.accusers.len() <= limits::ACCUSERS_MAX {
                self.on_accusation(now, peer, accusation, Some(age));
            }
        }
        let mut wanted = BTreeMap::new();
        for one in reply.wanted {
            if let Some(member) = self.table.get(one.node) {
                wanted.insert(one.node, member.signed.clone());
            }
        }
        Some((useful, wanted, reply.more))
    }
}
