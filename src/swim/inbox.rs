//! What a datagram does: its header first, its records, then the rest, and one datagram in reply.

use core::net::SocketAddr;
use std::time::Duration;

use crate::limits;
use crate::swim::Swim;
use crate::swim::event::Effect;
use crate::swim::member::State;
use crate::swim::message::Belief;
use crate::swim::message::Datagram;
use crate::swim::message::Header;
use crate::swim::message::Part;
use crate::swim::message::Writer;
use crate::swim::message::decode;
use crate::swim::record::Edition;
use crate::swim::timers::Timer;
use crate::types::NodeId;

/// Shortest time between two datagrams to one member that were not asked for and only correct it.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// Records that one reply carries because they were wanted or because older ones were spoken of.
const RECORDS_A_REPLY: usize = 8;

/// What is to be said in reply.
#[derive(Debug, Default)]
struct Reply {
    acks: Vec<u32>,
    nacks: Vec<u32>,
    /// Members whose records are wanted, or better than what was said.
    records: Vec<NodeId>,
    /// Members whose records are asked for.
    want: Vec<NodeId>,
    /// Whether this member's own record goes first.
    own: bool,
    /// Whether the header alone has something to say.
    correct: bool,
}

impl Reply {
    fn answers(&self) -> bool {
        !(self.acks.is_empty() && self.nacks.is_empty() && self.records.is_empty() && self.want.is_empty())
    }

    fn record(&mut self, node: NodeId) {
        if self.records.len() < RECORDS_A_REPLY && !self.records.contains(&node) {
            self.records.push(node);
        }
    }

    fn want(&mut self, node: NodeId) {
        if self.want.len() < RECORDS_A_REPLY && !self.want.contains(&node) {
            self.want.push(node);
        }
    }
}

impl Swim {
    pub(super) fn on_datagram(&mut self, now: Duration, from: SocketAddr, bytes: &[u8]) {
        if let Some(bytes) = self.take_datagram(now, bytes) {
            self.send_raw(from, bytes);
        }
    }

    /// Answers a stream ping that a peer sent: the bytes to send back. `None` when they are not a member's datagram.
    pub fn answer_ping(&mut self, now: Duration, bytes: &[u8]) -> Option<Vec<u8>> {
        if self.yielded {
            return None;
        }
        self.notice_pause(now);
        let reply = self.take_datagram(now, bytes);
        self.run_timers(now);
        reply
    }

    /// Takes a datagram and gives the one to send back, if there is something to say.
    pub(super) fn take_datagram(&mut self, now: Duration, bytes: &[u8]) -> Option<Vec<u8>> {
        let Datagram { header, parts } = self.admit(bytes)?;
        let mut reply = Reply::default();
        for part in &parts {
            if let Part::Record(envelope) = part {
                self.on_record(now, envelope, false);
            }
        }
        self.on_header(now, &header, &mut reply);
        for part in parts {
            self.on_part(now, header.from, part, &mut reply);
        }
        if self.yielded {
            return None;
        }
        let tell = (reply.own || reply.correct) && self.may_tell(now, header.from);
        (reply.answers() || tell).then(|| self.compose(now, &header, &reply))
    }

    fn admit<'a>(&mut self, bytes: &'a [u8]) -> Option<Datagram<'a>> {
        if bytes.len() > limits::GOSSIP_DATAGRAM_MAX {
            self.counters.oversized += 1;
            return None;
        }
        let Some(datagram) = decode(bytes) else {
            self.counters.malformed += 1;
            return None;
        };
        if datagram.header.cluster != self.short_cluster() {
            self.counters.other_cluster += 1;
            return None;
        }
        if datagram.header.from == self.me {
            self.counters.own_name += 1;
            return None;
        }
        self.counters.received += 1;
        Some(datagram)
    }

    pub(super) fn short_cluster(&self) -> u32 {
        let [a, b, c, d, ..] = self.own.record().cluster.to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// What the sender is, and what it holds about this member.
    fn on_header(&mut self, now: Duration, header: &Header, reply: &mut Reply) {
        let (own, proof) = self.heed(now, header.you);
        reply.own |= own;
        if proof {
            reply.want(self.me);
        }
        let Some(member) = self.table.get(header.from) else {
            reply.correct = true;
            return;
        };
        if member.edition() != header.edition {
            reply.correct = true;
            if member.edition().instance != header.edition.instance {
                reply.record(header.from);
            }
            return;
        }
        match member.state {
            State::Unverified => self.verified(now, header.from),
            State::Suspect(_) | State::Down(_) | State::Left => reply.correct = true,
            State::Up => {}
        }
        self.compare_views(now, header.from, header.view);
    }

    fn on_part(&mut self, now: Duration, from: NodeId, part: Part<'_>, reply: &mut Reply) {
        match part {
            Part::Record(_) => {}
            Part::Ping { seq, target } if target == self.me => reply.acks.push(seq),
            Part::Ping { .. } => {
                self.counters.misdirected += 1;
                reply.own = true;
            }
            Part::Ack { seq } => self.on_ack(now, from, seq),
            Part::Relay { seq, target, held } => {
                if !self.relay(now, from, seq, target, held) {
                    reply.nacks.push(seq);
                }
            }
            Part::Nack { seq, refused } => self.on_nack(now, from, seq, refused),
            Part::Hello => (reply.own, reply.correct) = (true, true),
            Part::Suspect(accusation) => {
                let (node, edition) = (accusation.node, accusation.edition);
                self.on_accusation(now, from, accusation, None);
                self.correct(node, edition, reply);
            }
            Part::Dead { accusation, age } => {
                let (node, edition) = (accusation.node, accusation.edition);
                self.on_accusation(now, from, accusation, Some(age));
                self.correct(node, edition, reply);
            }
            Part::Want { node } => reply.record(node),
        }
    }

    /// Has the reply say better when an edition that was spoken of is not the one that is held.
    fn correct(&mut self, node: NodeId, edition: Edition, reply: &mut Reply) {
        if node == self.me {
            reply.own |= edition != self.own.record().edition();
            return;
        }
        match self.table.get(node).map(|member| (member.edition(), &member.state)) {
            // Who is not known is learnt of by its record or a synchronisation, not by what is said against it.
            None | Some((_, State::Unverified)) => {}
            Some((held, _)) if held > edition => reply.record(node),
            Some((held, _)) if held < edition => reply.want(node),
            Some(_) => {}
        }
    }

    /// Whether a datagram may be sent only to tell this member something: seldom enough that two members which
    /// cannot agree do not flood each other.
    fn may_tell(&mut self, now: Duration, node: NodeId) -> bool {
        // Strangers share one allowance, which is why it is a larger one.
        let (told, every) = match self.table.get_mut(node) {
            Some(member) => (&mut member.told, TELL_EVERY),
            None => (&mut self.told_stranger, TELL_EVERY / 50),
        };
        if told.is_some_and(|at| now.saturating_sub(at) < every) {
            return false;
        }
        *told = Some(now);
        true
    }

    fn compose(&mut self, now: Duration, to: &Header, reply: &Reply) -> Vec<u8> {
        let header = self.header(self.belief(to.from, Some(to.edition.instance)));
        let mut writer = Writer::new(&header, self.config.datagram_max);
        for seq in &reply.acks {
            writer.push(&Part::Ack { seq: *seq });
        }
        if reply.own {
            writer.push(&Part::Record(self.own.envelope()));
        }
        for seq in &reply.nacks {
            writer.push(&Part::Nack { seq: *seq, refused: false });
        }
        for node in &reply.want {
            writer.push(&Part::Want { node: *node });
        }
        for node in &reply.records {
            if let Some(member) = self.table.get(*node) {
                writer.push(&Part::Record(member.signed.envelope()));
            }
            if let Some((accusation, age)) = self.death(now, *node).filter(|_| *node != to.from) {
                writer.push(&Part::Dead { accusation, age });
            }
        }
        self.fill(now, &mut writer, to.from);
        self.sent(writer)
    }

    /// What this member holds about another, whose present instance may be known from a datagram of its own.
    pub(super) fn belief(&self, node: NodeId, instance: Option<u64>) -> Belief {
        let Some(member) = self.table.get(node) else { return Belief::Unknown };
        let edition = member.edition();
        if instance.is_some_and(|instance| instance != edition.instance) {
            return Belief::Other(edition.incarnation);
        }
        match member.state {
            State::Up => Belief::Up(edition.incarnation),
            State::Suspect(_) => Belief::Suspect(edition.incarnation),
            State::Down(_) => Belief::Dead(edition.incarnation),
            State::Left => Belief::Left(edition.incarnation),
            State::Unverified => Belief::Unknown,
        }
    }

    /// Somebody known from before the start is there.
    fn verified(&mut self, now: Duration, node: NodeId) {
        self.table.change(node, |member| {
            member.state = State::Up;
            member.since = now;
        });
        self.enter_round(node);
        self.announce_joined(node);
    }

    pub(super) fn send_raw(&mut self, to: SocketAddr, bytes: Vec<u8>) {
        self.effects.push(Effect::Send { to, bytes });
    }

    /// Counts a finished datagram.
    pub(super) fn sent(&mut self, writer: Writer) -> Vec<u8> {
        let bytes = writer.finish();
        self.counters.sent += 1;
        self.counters.sent_bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        bytes
    }

    /// Makes sure that the timers of a member that waits for its return are kept.
    pub(super) fn on_probation_timer(&mut self, now: Duration, node: NodeId) {
        let Some(member) = self.table.get_mut(node) else { return };
        let Some(until) = member.probation else { return };
        if !member.is_reachable() {
            return;
        }
        if now < until || !member.is_up() {
            self.timers.at(until.max(now + self.config.probe_interval), Timer::Probation(node));
            return;
        }
        member.probation = None;
        member.since = now;
        self.announce_alive(node);
    }
}
