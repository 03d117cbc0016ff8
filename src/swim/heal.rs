//! Finding members again: the dead, those known from before the start, and the seeds.

use core::net::SocketAddr;
use std::time::Duration;

use crate::limits;
use crate::swim::Swim;
use crate::swim::member::State;
use crate::swim::message::Belief;
use crate::swim::message::Part;
use crate::swim::message::Writer;
use crate::swim::timers::Timer;
use crate::types::NodeId;

/// Shortest time between two rounds in which the dead are tried.
const ROUND: Duration = Duration::from_millis(200);
/// Dead members tried in one round.
const AT_ONCE: usize = 4;
/// Longest wait before a dead member is tried again, by each of the others.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// How long a member known from before the start may take to answer.
const UNVERIFIED: Duration = Duration::from_secs(15);
/// Dead members that are tried soon because one of them came back.
const HURRY: usize = 32;
/// Wait between two trials of seeds while nobody is known, at most.
const ALONE_MAX: Duration = Duration::from_secs(3);
/// Time between two trials of a seed that is no member, while there are others.
const NOT_ALONE: Duration = Duration::from_secs(20);
/// Seeds tried at once.
const SEEDS_AT_ONCE: usize = 4;

/// The addresses to begin with.
#[derive(Debug, Default)]
pub(super) struct Seeds {
    addresses: Vec<SocketAddr>,
    wait: Duration,
    next: Duration,
}

impl Swim {
    /// Tries dead members whose time has come. Each is tried by somebody about once in two retry intervals.
    pub(super) fn retry_dead(&mut self, now: Duration) {
        if self.left || self.retries_due.is_none_or(|at| now < at) {
            return;
        }
        self.retries_due = None;
        let mut due: Vec<(Duration, NodeId)> = Vec::new();
        let mut later: Option<Duration> = None;
        for (node, member) in self.table.iter() {
            if !matches!(member.state, State::Down(_) | State::Unverified) {
                continue;
            }
            if member.retry_at <= now {
                due.push((member.retry_at, node));
            } else {
                later = Some(later.map_or(member.retry_at, |at| at.min(member.retry_at)));
            }
        }
        due.sort_unstable();
        let next = if due.len() > AT_ONCE { Some(now + ROUND) } else { later.map(|at| at.max(now + ROUND)) };
        for (_, node) in due.into_iter().take(AT_ONCE) {
            self.retry(now, node);
        }
        if let Some(next) = next {
            self.retry_by(next);
        }
    }

    /// Has the dead be looked through at this moment, if not before.
    pub(super) fn retry_by(&mut self, when: Duration) {
        if self.retries_due.is_none_or(|due| when < due) {
            self.retries_due = Some(when);
            self.timers.at(when, Timer::Retry);
        }
    }

    fn retry(&mut self, now: Duration, node: NodeId) {
        let alive = u32::try_from(self.table.reachable().len() + 1).unwrap_or(u32::MAX);
        let interval = self.config.retry_interval;
        // All others together keep one pace, however many they are.
        let most = (interval / 2 * alive).clamp(2 * interval, WAIT_MAX);
        let Some(member) = self.table.get_mut(node) else { return };
        let unanswered = member.state == State::Unverified && now.saturating_sub(member.since) > UNVERIFIED;
        let wait = (member.retry_wait * 2).clamp(interval, most);
        let jittered = self.chance.jitter(wait);
        if let Some(member) = self.table.get_mut(node) {
            member.retry_wait = wait;
            member.retry_at = now + jittered;
        }
        self.retry_by(now + jittered.max(ROUND));
        self.send_parts(now, node, &[Part::Ping { seq: 0, target: node }]);
        if unanswered {
            self.give_up(now, node);
        }
    }

    /// One that was held dead is back: a split may have ended, so others are tried soon.
    pub(super) fn hurry_retries(&mut self, now: Duration) {
        let down = self.table.iter().filter(|(_, member)| matches!(member.state, State::Down(_)));
        let mut nodes: Vec<NodeId> = down.map(|(node, _)| node).collect();
        self.chance.shuffle(&mut nodes);
        for node in nodes.into_iter().take(HURRY) {
            let soon = now + self.chance.up_to(self.config.retry_interval / 2);
            if let Some(member) = self.table.get_mut(node)
                && member.retry_at > soon
            {
                (member.retry_at, member.retry_wait) = (soon, Duration::ZERO);
                self.retry_by(soon);
            }
        }
    }

    pub(super) fn on_seeds(&mut self, now: Duration, addresses: &[SocketAddr]) {
        let own = self.own.record().gossip;
        let others = addresses.iter().copied().filter(|address| *address != own);
        self.seeds.addresses = others.take(limits::SEEDS_MAX).collect();
        (self.seeds.wait, self.seeds.next) = (Duration::ZERO, now);
        self.timers.at(now, Timer::Seeds);
    }

    /// Speaks to seeds: often while nobody is known, and now and then to those that are no members, because another
    /// part of the cluster may have grown there.
    pub(super) fn retry_seeds(&mut self, now: Duration) {
        if now < self.seeds.next || self.left || self.seeds.addresses.is_empty() {
            return;
        }
        let alone = self.table.reachable().is_empty();
        let member_at = |address: SocketAddr| {
            self.table.at(address).and_then(|node| self.table.get(node)).is_some_and(|member| member.is_reachable())
        };
        let strangers: Vec<SocketAddr> =
            self.seeds.addresses.iter().copied().filter(|address| !member_at(*address)).collect();
        let count = if alone { SEEDS_AT_ONCE } else { 1 };
        for address in self.chance.sample(&strangers, count, |_| true) {
            let mut writer = Writer::new(&self.header(Belief::Unknown), self.config.datagram_max);
            writer.push(&Part::Hello);
            writer.push(&Part::Record(self.own.envelope()));
            let bytes = self.sent(writer);
            self.send_raw(address, bytes);
        }
        let interval = self.config.retry_interval / 2;
        self.seeds.wait = if alone { (self.seeds.wait * 2).clamp(interval, ALONE_MAX) } else { NOT_ALONE };
        // While alone turns into not alone or back, the shorter wait applies.
        let wait = self.chance.jitter(self.seeds.wait);
        self.seeds.next = now + wait;
        self.timers.at(self.seeds.next, Timer::Seeds);
    }
}
