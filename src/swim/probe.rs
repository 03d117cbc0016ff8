//! Probes: a ping, relays and a stream when it is not answered, and what this member does as a relay of others.

use std::time::Duration;

use crate::limits;
use crate::swim::Swim;
use crate::swim::event::Effect;
use crate::swim::member::Member;
use crate::swim::member::State;
use crate::swim::message::Accusation;
use crate::swim::message::Part;
use crate::swim::message::Writer;
use crate::swim::timers::Timer;
use crate::types::NodeId;

/// Shortest time between two rounds of probes of one member that begin with a refusal.
const REFUSAL_EVERY: Duration = Duration::from_millis(200);

/// How long a refusal that this member saw itself counts.
pub(super) const REFUSAL_COUNTS: Duration = Duration::from_secs(2);

/// What comes next in a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// A second direct ping.
    Again,
    /// Relays, a stream and one more direct ping.
    Widen,
    /// The last direct ping.
    Last,
    /// Nobody answered.
    Fail,
}

/// A member that is being probed.
#[derive(Debug)]
pub(super) struct Probe {
    target: NodeId,
    next: Step,
    /// When that is due.
    at: Duration,
    began: Duration,
    direct: Duration,
    indirect: Duration,
    pings: u32,
    asked: Vec<NodeId>,
    nacked: Vec<NodeId>,
    refused: bool,
    /// Whether a relay was refused, too.
    relay_refused: bool,
    /// Whether it was begun in turn; others do not tell how this member itself fares.
    in_turn: bool,
}

/// A ping on behalf of another member.
#[derive(Debug)]
pub(super) struct Relayed {
    asker: NodeId,
    seq: u32,
    target: NodeId,
    /// The incarnation of the target that the asker knows.
    held: u64,
    /// What is done next: ping again, say that there was no answer, forget.
    steps: u8,
    at: Duration,
}

impl Swim {
    /// The next probe in turn.
    pub(super) fn tick(&mut self, now: Duration) {
        let interval = self.chance.jitter(self.config.probe_interval) * self.health.factor();
        self.timers.at(now + interval, Timer::Tick);
        if self.left {
            return;
        }
        self.ticks += 1;
        let target = if self.ticks.is_multiple_of(2) { self.next_in_order() } else { None };
        let target = target.or_else(|| self.next_in_round());
        if let Some(target) = target {
            let patience = self.config.patience(self.table.get(target).and_then(|member| member.rtt));
            let factor = self.health.factor();
            let indirect = self.config.relay_timeout.max(patience) * factor;
            self.probe(now, target, patience * factor, indirect, true);
        }
    }

    /// The first member after this one that is up and not accused: accusers look at those.
    fn next_in_order(&self) -> Option<NodeId> {
        self.table.after(self.me).find(|(_, member)| member.is_up()).map(|(node, _)| node)
    }

    fn next_in_round(&mut self) -> Option<NodeId> {
        for _ in 0..2 {
            while let Some(node) = self.round.pop() {
                if self.table.get(node).is_some_and(Member::is_up) {
                    return Some(node);
                }
            }
            self.round = self.table.reachable().to_vec();
            self.chance.shuffle(&mut self.round);
        }
        None
    }

    /// Gives a new member a place in the round.
    pub(super) fn enter_round(&mut self, node: NodeId) {
        if self.round.len() < limits::MEMBERS_REMEMBERED_MAX {
            let at = self.chance.below(self.round.len() + 1);
            self.round.insert(at, node);
        }
    }

    /// Probes an accused member by all ways at once.
    pub(super) fn recheck(&mut self, now: Duration, node: NodeId) {
        let patience = self.config.patience(self.table.get(node).and_then(|member| member.rtt));
        let indirect = self.config.relay_timeout.max(patience) * self.health.factor();
        self.probe(now, node, Duration::ZERO, indirect, false);
    }

    fn probe(&mut self, now: Duration, target: NodeId, direct: Duration, indirect: Duration, in_turn: bool) {
        if self.left || self.probes.values().any(|probe| probe.target == target) {
            return;
        }
        if self.probes.len() >= limits::PROBES_MAX {
            self.counters.crowded += 1;
            return;
        }
        self.counters.probes += 1;
        let seq = self.next_seq();
        let probe = Probe {
            target,
            next: if direct.is_zero() { Step::Widen } else { Step::Again },
            at: now + direct / 2,
            began: now,
            direct,
            indirect,
            pings: 0,
            asked: Vec::new(),
            nacked: Vec::new(),
            refused: false,
            relay_refused: false,
            in_turn,
        };
        self.timers.at(probe.at, Timer::Probe(seq));
        let first = !direct.is_zero();
        self.probes.insert(seq, probe);
        if first {
            self.ping(now, seq);
        }
    }

    fn ping(&mut self, now: Duration, seq: u32) {
        let Some(probe) = self.probes.get_mut(&seq) else { return };
        probe.pings += 1;
        let target = probe.target;
        self.send_parts(now, target, &[Part::Ping { seq, target }]);
    }

    pub(super) fn on_probe_timer(&mut self, now: Duration, seq: u32) {
        let Some(probe) = self.probes.get_mut(&seq) else { return };
        if now < probe.at {
            return;
        }
        let step = probe.next;
        (probe.next, probe.at) = match step {
            Step::Again => (Step::Widen, probe.at + probe.direct / 2),
            Step::Widen => (Step::Last, probe.at + probe.indirect / 2),
            Step::Last | Step::Fail => (Step::Fail, probe.at + probe.indirect / 2),
        };
        self.timers.at(probe.at, Timer::Probe(seq));
        match step {
            Step::Again => {
                self.ping(now, seq);
                // Early, since it may take a second until the host may say again that the port is closed.
                self.knock(seq);
            }
            Step::Last => self.ping(now, seq),
            Step::Widen => {
                self.ping(now, seq);
                self.widen(now, seq);
            }
            Step::Fail => self.fail(now, seq),
        }
    }

    /// Asks relays, and pings by a stream.
    fn widen(&mut self, now: Duration, seq: u32) {
        let Some(target) = self.probes.get(&seq).map(|probe| probe.target) else { return };
        let Some(held) = self.table.get(target).map(|member| member.edition().incarnation) else { return };
        let table = &self.table;
        let usable = |node: NodeId| node != target && table.get(node).is_some_and(|member| member.is_up());
        let relays = self.chance.sample(table.reachable(), self.config.relays, usable);
        // Whoever relays tells the accused, too, since it learns of the accusation first.
        let accusation = self.accusation(target);
        for relay in &relays {
            let mut parts = vec![Part::Relay { seq, target, held }];
            parts.extend(accusation.clone().map(Part::Suspect));
            self.send_parts(now, *relay, &parts);
        }
        if let Some(probe) = self.probes.get_mut(&seq) {
            probe.asked = relays;
        }
        self.knock(seq);
        self.stream_ping(now, seq, target);
    }

    /// Has the network asked whether the target's port is closed.
    fn knock(&mut self, seq: u32) {
        self.effects.extend(self.probes.get(&seq).map(|probe| Effect::Knock { peer: probe.target }));
    }

    fn stream_ping(&mut self, now: Duration, seq: u32, target: NodeId) {
        let mut writer = Writer::new(&self.header(self.belief(target, None)), self.config.datagram_max);
        writer.push(&Part::Ping { seq, target });
        writer.push(&Part::Record(self.own.envelope()));
        self.fill(now, &mut writer, target);
        self.effects.push(Effect::StreamPing { peer: target, token: seq, bytes: writer.finish() });
    }

    /// What this member would say against another that it holds suspect.
    pub(super) fn accusation(&self, node: NodeId) -> Option<Accusation> {
        let member = self.table.get(node)?;
        let State::Suspect(suspicion) = &member.state else { return None };
        Some(Accusation { node, edition: member.edition(), accusers: suspicion.accusers.clone() })
    }

    pub(super) fn on_stream_pong(&mut self, now: Duration, token: u32, reply: Option<&[u8]>) {
        let Some(bytes) = reply else { return };
        self.counters.probes_streamed += u64::from(self.probes.contains_key(&token));
        // The acknowledgement inside ends the probe. Where it is late for that, it still says that the member is there.
        // What this member would say back has no stream to go by; the next datagram says it, too.
        drop(self.take_datagram(now, bytes));
    }

    pub(super) fn on_ack(&mut self, now: Duration, from: NodeId, seq: u32) {
        if let Some(probe) = self.probes.get(&seq) {
            if from == probe.target || probe.asked.contains(&from) {
                self.succeed(now, from, seq);
            } else {
                self.counters.unasked += 1;
            }
        } else if self.relayed.get(&seq).is_some_and(|relayed| relayed.target == from) {
            self.forward(now, seq);
        } else if seq != 0 {
            // Also the second answer to a ping that was sent twice, by far the most usual kind.
            self.counters.unasked += 1;
            self.answered(now, from);
        }
    }

    fn succeed(&mut self, now: Duration, from: NodeId, seq: u32) {
        let Some(probe) = self.probes.remove(&seq) else { return };
        self.timers.cancel(probe.at, Timer::Probe(seq));
        if probe.in_turn {
            self.health.better();
        }
        if from != probe.target {
            self.counters.probes_relayed += 1;
        } else if probe.pings == 1
            && let Some(member) = self.table.get_mut(from)
        {
            let sample = now.saturating_sub(probe.began);
            member.rtt = Some(member.rtt.map_or(sample, |rtt| (7 * rtt + sample) / 8));
        }
        self.answered(now, probe.target);
    }

    /// A member answered this one.
    fn answered(&mut self, now: Duration, node: NodeId) {
        if let Some(member) = self.table.get_mut(node) {
            member.failed_probe = None;
        }
        if self.accusation(node).is_some_and(|accusation| accusation.accusers.iter().any(|one| one.node == self.me)) {
            self.withdraw(now, node);
        }
    }

    fn fail(&mut self, now: Duration, seq: u32) {
        let Some(probe) = self.probes.remove(&seq) else { return };
        self.counters.probes_failed += 1;
        let missing = probe.asked.len().saturating_sub(probe.nacked.len());
        if probe.in_turn && (missing > 0 || probe.asked.is_empty()) {
            self.health.worse(1);
        }
        let node = probe.target;
        // A host says rarely that a port is closed, so that refusals of a moment ago and those of other accusers count.
        let seen = probe.refused || self.was_refused(now, node);
        let witnessed = probe.asked.is_empty()
            || probe.relay_refused
            || self.accusation(node).is_some_and(|accusation| {
                accusation.accusers.iter().any(|accuser| accuser.refused && accuser.node != self.me)
            });
        if !seen && let Some(member) = self.table.get_mut(node) {
            member.failed_probe = Some((now, false));
        }
        self.accuse(now, node, seen && witnessed);
        // Accusers go on looking until the end.
        if self.accusation(node).is_some() {
            self.recheck(now, node);
        }
    }

    /// Whether the port of a member was closed for this one a moment ago, and it has not answered since.
    fn was_refused(&self, now: Duration, node: NodeId) -> bool {
        let failed = self.table.get(node).and_then(|member| member.failed_probe);
        failed.is_some_and(|(at, refused)| refused && now.saturating_sub(at) < REFUSAL_COUNTS)
    }

    pub(super) fn on_nack(&mut self, now: Duration, from: NodeId, seq: u32, refused: bool) {
        match self.probes.get_mut(&seq) {
            Some(probe) if probe.asked.contains(&from) => {
                if !probe.nacked.contains(&from) {
                    probe.nacked.push(from);
                }
                probe.relay_refused |= refused;
                self.fail_if_refused(now, seq);
            }
            _ => self.counters.unasked += 1,
        }
    }

    /// The network, or the member's data plane, says that nobody is there.
    pub(super) fn on_refusal(&mut self, now: Duration, node: NodeId) {
        let Some(member) = self.table.get_mut(node) else { return };
        if !member.is_reachable() {
            return;
        }
        // Refusals cost nothing to forge, so few of them make this member look.
        let again = member.refused_at.is_some_and(|at| now.saturating_sub(at) < REFUSAL_EVERY);
        member.failed_probe = Some((now, true));
        if !again {
            member.refused_at = Some(now);
        }
        let relayed: Vec<u32> =
            self.relayed.iter().filter(|(_, relayed)| relayed.target == node).map(|(seq, _)| *seq).collect();
        for seq in relayed {
            self.nack(now, seq, true);
        }
        let running: Vec<u32> =
            self.probes.iter().filter(|(_, probe)| probe.target == node).map(|(seq, _)| *seq).collect();
        for seq in &running {
            let Some(probe) = self.probes.get_mut(seq) else { continue };
            probe.refused = true;
            if probe.next == Step::Again || probe.next == Step::Widen {
                (probe.next, probe.at) = (Step::Widen, now);
                self.timers.at(now, Timer::Probe(*seq));
            }
            self.fail_if_refused(now, *seq);
        }
        if running.is_empty() && !again {
            self.recheck(now, node);
        }
    }

    /// Ends a probe early when the port is closed for this member and all relays have given up, one by a refusal.
    fn fail_if_refused(&mut self, now: Duration, seq: u32) {
        let Some(target) = self.probes.get(&seq).map(|probe| probe.target) else { return };
        // Accusers that look again do so at the pace of silence.
        let accused = self.accusation(target).is_some_and(|one| one.accusers.iter().any(|one| one.node == self.me));
        let Some(probe) = self.probes.get_mut(&seq) else { return };
        let widened = probe.next == Step::Last || probe.next == Step::Fail;
        let relays_done = probe.nacked.len() == probe.asked.len() && (probe.relay_refused || probe.asked.is_empty());
        if probe.refused && widened && relays_done && probe.pings > 0 && !accused {
            (probe.next, probe.at) = (Step::Fail, now);
            self.timers.at(now, Timer::Probe(seq));
        }
    }

    /// Gives all probes, this member's and those it relays, the time that passed while it was stopped.
    pub(super) fn postpone_probes(&mut self, late: Duration) {
        for (seq, probe) in &mut self.probes {
            probe.at += late;
            // How long the answer took will not be known.
            probe.pings += 1;
            self.timers.at(probe.at, Timer::Probe(*seq));
        }
        for (seq, relayed) in &mut self.relayed {
            relayed.at += late;
            self.timers.at(relayed.at, Timer::Relay(*seq));
        }
    }

    pub(super) fn drop_probes(&mut self, node: NodeId) {
        self.probes.retain(|_, probe| probe.target != node);
    }

    /// Pings a member on behalf of another. `false` when that cannot be done.
    pub(super) fn relay(&mut self, now: Duration, asker: NodeId, seq: u32, target: NodeId, held: u64) -> bool {
        if self.table.get(asker).is_none() {
            self.counters.unknown += 1;
            return false;
        }
        if target == self.me || !self.table.get(target).is_some_and(Member::is_reachable) {
            return false;
        }
        if self.relayed.len() >= limits::RELAYS_MAX {
            self.counters.crowded += 1;
            return false;
        }
        let own = self.next_seq();
        let at = now + self.config.relay_timeout * 2 / 5;
        self.relayed.insert(own, Relayed { asker, seq, target, held, steps: 0, at });
        self.timers.at(at, Timer::Relay(own));
        self.send_parts(now, target, &[Part::Ping { seq: own, target }]);
        // Only relays that see the closed port themselves make a refusal count.
        self.effects.push(Effect::Knock { peer: target });
        true
    }

    pub(super) fn on_relay_timer(&mut self, now: Duration, own: u32) {
        let Some(relayed) = self.relayed.get_mut(&own) else { return };
        if now < relayed.at {
            return;
        }
        let (step, target) = (relayed.steps, relayed.target);
        match step {
            0 => {
                relayed.steps = 1;
                relayed.at += self.config.relay_timeout * 2 / 5;
                self.timers.at(relayed.at, Timer::Relay(own));
                self.send_parts(now, target, &[Part::Ping { seq: own, target }]);
            }
            // At four fifths of the time that the asker waits, so that the answer is in time.
            1 => {
                let refused = self.was_refused(now, target);
                self.nack(now, own, refused);
            }
            _ => {
                self.relayed.remove(&own);
            }
        }
    }

    /// Tells the asker that the target did not answer yet. A later answer is still passed on.
    fn nack(&mut self, now: Duration, own: u32, refused: bool) {
        let Some(relayed) = self.relayed.get_mut(&own) else { return };
        if relayed.steps >= 2 {
            return;
        }
        relayed.steps = 2;
        relayed.at = now + 4 * self.config.relay_timeout;
        let (asker, seq, target) = (relayed.asker, relayed.seq, relayed.target);
        self.timers.at(relayed.at, Timer::Relay(own));
        if let Some(member) = self.table.get_mut(target)
            && member.failed_probe.is_none_or(|(_, refused)| !refused)
        {
            member.failed_probe = Some((now, refused));
        }
        self.send_parts(now, asker, &[Part::Nack { seq, refused }]);
    }

    fn forward(&mut self, now: Duration, own: u32) {
        let Some(relayed) = self.relayed.remove(&own) else { return };
        self.timers.cancel(relayed.at, Timer::Relay(own));
        let newer = self.table.get(relayed.target).filter(|member| member.edition().incarnation > relayed.held);
        let record = newer.map(|member| member.signed.clone());
        let mut parts = vec![Part::Ack { seq: relayed.seq }];
        if let Some(record) = &record {
            parts.push(Part::Record(record.envelope()));
        }
        self.send_parts(now, relayed.asker, &parts);
        self.answered(now, relayed.target);
    }
}
