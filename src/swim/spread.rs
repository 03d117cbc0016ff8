//! Spreading news: what is told, how often, in which order, and how it is packed into datagrams.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::swim::Swim;
use crate::swim::member::State;
use crate::swim::message::Accusation;
use crate::swim::message::Accuser;
use crate::swim::message::Belief;
use crate::swim::message::Header;
use crate::swim::message::Part;
use crate::swim::message::VERSION;
use crate::swim::message::Writer;
use crate::swim::timers::Timer;
use crate::types::NodeId;

/// How soon fresh news are sent on: late enough that those of one moment travel together.
const AT_ONCE: Duration = Duration::from_millis(5);
/// Rounds of gossip ahead of the interval that may follow each other.
const HASTE: u32 = 10;
/// A message is not tried when fewer bytes than this are free.
const SMALLEST: usize = 32;

/// Members of whom there is something to tell, and how often each was told of.
#[derive(Debug, Default)]
pub(super) struct News {
    sends: BTreeMap<NodeId, u32>,
    /// When the next round is due.
    next: Option<Duration>,
    /// Up to when rounds ahead of time are used up.
    used: Duration,
}

impl News {
    pub(super) fn forget(&mut self, node: NodeId) {
        self.sends.remove(&node);
    }
}

impl Swim {
    /// What is held of a member is news: it is sent on at once, and again until enough were told.
    pub(super) fn tell(&mut self, now: Duration, node: NodeId) {
        self.news.sends.insert(node, 0);
        let interval = self.config.gossip_interval;
        let pace = interval / 2;
        let soon = if self.news.used <= now + pace * HASTE {
            self.news.used = self.news.used.max(now) + pace;
            now + AT_ONCE
        } else {
            now + interval
        };
        if self.news.next.is_none_or(|next| soon < next) {
            self.news.next = Some(soon);
            self.timers.at(soon, Timer::Gossip);
        }
    }

    /// One round of gossip.
    pub(super) fn gossip(&mut self, now: Duration) {
        if self.news.next.is_none_or(|next| now < next) {
            return;
        }
        self.news.next = None;
        let targets = self.chance.sample(self.table.reachable(), self.config.fanout, |_| true);
        for target in &targets {
            self.send_parts(now, *target, &[]);
        }
        if !self.news.sends.is_empty() && !targets.is_empty() {
            let next = now + self.chance.jitter(self.config.gossip_interval);
            self.news.next = Some(next);
            self.timers.at(next, Timer::Gossip);
        }
    }

    pub(super) fn header(&self, you: Belief) -> Header {
        let [a, b, c, d, ..] = self.view_digest().to_le_bytes();
        Header {
            version: VERSION,
            cluster: self.short_cluster(),
            from: self.me,
            edition: self.own.record().edition(),
            view: u32::from_le_bytes([a, b, c, d]),
            you,
        }
    }

    /// Sends a member these messages, and news as far as there is room.
    pub(super) fn send_parts(&mut self, now: Duration, to: NodeId, parts: &[Part<'_>]) {
        let Some(address) = self.table.get(to).map(|member| member.address()) else { return };
        let mut writer = Writer::new(&self.header(self.belief(to, None)), self.config.datagram_max);
        for part in parts {
            writer.push(part);
        }
        self.fill(now, &mut writer, to);
        let bytes = self.sent(writer);
        self.send_raw(address, bytes);
    }

    /// Adds news: those told least often first, then the largest that fits.
    pub(super) fn fill(&mut self, now: Duration, writer: &mut Writer, to: NodeId) {
        if self.news.sends.is_empty() {
            return;
        }
        let most = self.config.sends(self.table.reachable().len() + 1);
        let mut order: Vec<(u32, Reverse<usize>, NodeId)> =
            self.news.sends.iter().map(|(node, sends)| (*sends, Reverse(self.size_of(*node)), *node)).collect();
        order.sort_unstable();
        for (sends, _, node) in order {
            if writer.room() < SMALLEST {
                return;
            }
            // A member learns what is said of itself from the header.
            if node == to {
                continue;
            }
            let pushed = self.claim(now, node).map(|part| writer.push(&part));
            match pushed {
                Some(true) if sends + 1 < most => {
                    self.news.sends.insert(node, sends + 1);
                }
                Some(true) | None => self.news.forget(node),
                Some(false) => {}
            }
        }
    }

    /// About how many bytes the news of a member takes.
    fn size_of(&self, node: NodeId) -> usize {
        if node == self.me {
            return self.own.size();
        }
        self.table.get(node).map_or(0, |member| match member.state {
            State::Up | State::Left => member.signed.size(),
            _ => SMALLEST,
        })
    }

    /// What is told of a member: its record, or what is held against it.
    fn claim(&self, now: Duration, node: NodeId) -> Option<Part<'_>> {
        if node == self.me {
            return Some(Part::Record(self.own.envelope()));
        }
        let member = self.table.get(node)?;
        match &member.state {
            State::Up | State::Left => Some(Part::Record(member.signed.envelope())),
            State::Suspect(_) => self.accusation(node).map(Part::Suspect),
            State::Down(_) => self.death(now, node).map(|(accusation, age)| Part::Dead { accusation, age }),
            State::Unverified => None,
        }
    }

    /// What is claimed of a dead member: its edition, its accusers, and for how many tenths of a second it is dead.
    pub(super) fn death(&self, now: Duration, node: NodeId) -> Option<(Accusation, u32)> {
        let member = self.table.get(node)?;
        let State::Down(death) = &member.state else { return None };
        let age = now.saturating_sub(death.at).as_millis() / 100;
        let mut accusers = death.accusers.clone();
        if accusers.is_empty() {
            accusers.push(Accuser { node: self.me, refused: false });
        }
        let accusation = Accusation { node, edition: member.edition(), accusers };
        Some((accusation, u32::try_from(age).unwrap_or(u32::MAX)))
    }
}
