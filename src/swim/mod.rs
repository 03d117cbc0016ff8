//! Who is a member of the cluster and who answers: SWIM with Lifeguard, as a state machine without a world.
//!
//! Datagrams, time and a seed for random numbers go in; datagrams, events and the next deadline come out. It opens no
//! socket, seals nothing, resolves no names, keeps nothing on disk, and decides nothing about data.
//!
//! # How a driver uses it
//!
//! One task owns a [`Swim`]. Its clock is any monotonic one, as a [`Duration`] since a moment of the driver's choice.
//!
//! - [`Swim::new`] with a [`Config`], this member's [`Record`] and the records that were on disk ([`Restored`]). The
//!   record's `instance` is drawn at each start. Its `incarnation` may be what was on disk or zero: a member that
//!   comes back with a lower one than others hold is told so, and rises above it.
//! - [`Input::Seeds`] with the addresses of the seeds, again whenever names resolve otherwise. Retries are made here.
//! - In a loop: wait for [`Swim::deadline`] or an input, call [`Swim::handle`], carry out [`Swim::take_effects`], look
//!   at [`Swim::take_events`]. Unsealing, replay protection and the socket's error queue come before `handle`.
//! - A peer's stream ping is answered with [`Swim::answer_ping`], its synchronisation with [`Swim::answer_sync`];
//!   effects and events are to be taken after these, too.
//! - [`Swim::update`] when something about this member changes (storage health, certificate, addresses).
//! - [`Swim::leave`] at a graceful end; then go on until the moment it returns.
//! - [`Swim::members`] for routing and for the disk: [`Swim::snapshot`] is what [`Swim::new`] takes back.
//! - After [`Event::Conflict`] that `yields`, the state machine is silent: end the process with an error.
//!
//! # What differs from the papers
//!
//! - *Only who looked itself declares.* A suspicion that is heard of starts no timer of death. Those who probed in vain
//!   accuse; the three members before the accused in the order of identifiers, and relays that failed, look at once
//!   and confirm. Accusers go on probing until the end, and one answer withdraws the accusation. A claim of death counts
//!   where it names enough accusers; otherwise it is a suspicion.
//! - *Every datagram says what its sender holds about its receiver*, so whoever is wrongly suspected, held dead, or
//!   known by an old record, learns it from whoever speaks to it and answers with its record.
//! - *Every datagram carries a digest of its sender's view.* Members that differ for long synchronise over QUIC; those
//!   that agree never do.
//! - *Every other probe goes to the next member in the order of identifiers*, so that each member is looked at once
//!   in two intervals for certain, not only on average. The others go round robin through a shuffled list.
//! - *A closed port is evidence*: it starts a short round of all kinds of probes at once, and a suspicion which enough
//!   members confirm, two of whom saw it, is short. One forged refusal leads to one answered ping.
//! - *A process that was stopped does not blame others*: when deadlines are found long past, probes are dropped and
//!   suspicions prolonged by the time lost.
//! - *The dead are tried for ever*, about once a second or two by all others together, and all soon when one returns,
//!   because a split may have ended. Members that die and return again and again are held dead a while longer.
//!
//! # What was chosen, and why
//!
//! Times are those of [`Config::lan`]; figures are of `tests/sim/gossip` in a release build (`figures`, which prints them).
//!
//! A host that falls silent must be seen by all within 5 s at any size. The first probe comes within 1.8 s (every other
//! one of 0.8 s goes to the next in order), fails after 0.7 s, and the suspicion lasts 1.8 s where three confirm it,
//! which they do within it; fresh news are sent on at once. Only the last grows with the size: a thousand know
//! 0.4 s later than three. The shortest suspicion could be 1.4 s or less without a false death in simulation; the
//! rest of the five seconds is given to processes that are woken late.
//!
//! A probe sends up to four direct pings, asks three relays, of which each pings twice, and tries a stream, because at 40 %
//! loss each way one ping with its answer fails in 64 of 100 cases. While a suspicion lasts, each accuser repeats that every 0.4 s,
//! so a healthy member has about nine direct and two dozen relayed chances to answer each of them, beside its refutation.
//!
//! | members | killed: seen by all, median and worst | silent: seen by all, median and worst | runs |
//! |---|---|---|---|
//! | 3 | 0.78 s, 1.52 s | 2.94 s, 3.68 s | 300 |
//! | 16 | 0.84 s, 1.56 s | 3.02 s, 3.86 s | 300 |
//! | 128 | 1.00 s, 1.80 s | 3.32 s, 3.98 s | 100 |
//! | 1000 | 1.02 s, 1.76 s | 3.34 s, 4.04 s | 10 |
//!
//! The column of kills is older than the simulated hosts' terseness: Linux says only about once a second to each other host
//! that a port is closed. Real processes are in `netem/README.md`. The other presets, 200 runs each (`presets::figures`):
//!
//! | preset, members, surroundings | killed: median and worst | silent: median and worst |
//! |---|---|---|
//! | local, 5, below 2 ms | 1.06 s, 1.90 s | 1.66 s, 2.30 s |
//! | wan, 16, 150 ms there and back and 1 % lost each way | 5.80 s, 9.30 s | 9.42 s, 12.94 s |
//!
//! In the latter surroundings nobody was suspected in 600 s.
//!
//! With every path losing 40 %, in 300 s: no false death in 10 runs of 16 members, 5 of 32 and one of 128.
//!
//! An idle member sends 265 B/s, sealing and headers included (40 and 28 bytes a datagram), whatever the size. At 40 %
//! loss it sends 2.8 kB/s among 16, 4.4 kB/s among 32 and 18 kB/s among 128, since each refutation is a signed record
//! that all tell each other. Rounds of gossip bound it: three datagrams each 200 ms, 20 kB/s, beside what probes carry. The
//! core takes about 16 microseconds of CPU a second for an idle member.

mod chance;
mod claims;
mod config;
mod counters;
mod event;
mod heal;
mod health;
mod inbox;
mod member;
mod message;
mod own;
mod probe;
mod record;
mod spread;
mod sync;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub use self::config::Config;
pub use self::counters::Counters;
pub use self::event::Effect;
pub use self::event::Event;
pub use self::event::Input;
pub use self::event::Seen;
pub use self::event::Standing;
pub use self::record::Certificate;
pub use self::record::ClusterState;
pub use self::record::Edition;
pub use self::record::Notary;
pub use self::record::Record;
pub use self::record::RecordError;
pub use self::record::Signed;
pub use self::record::StorageHealth;

use self::chance::Chance;
use self::heal::Seeds;
use self::health::LocalHealth;
use self::member::Member;
use self::member::State;
use self::member::Table;
use self::probe::Probe;
use self::probe::Relayed;
use self::spread::News;
use self::sync::SyncState;
use self::timers::Timer;
use self::timers::Timers;
use crate::limits;
use crate::types::NodeId;

/// Timers run at most in one call; the rest are due at once again.
const TIMERS_AT_ONCE: usize = 4 * limits::MEMBERS_REMEMBERED_MAX;

/// A member known from before the start.
#[derive(Debug, Clone)]
pub struct Restored {
    /// Its signed record, as it was kept.
    pub signed: Signed,
    /// Whether to hold it alive until it proves dead, which is for snapshots of the last half a minute in which it was
    /// alive. Otherwise it is held failed until it proves alive.
    pub alive: bool,
}

/// This member's view of the cluster.
pub struct Swim {
    config: Config,
    notary: Arc<dyn Notary>,
    me: NodeId,
    own: Signed,
    left: bool,
    /// The instance that won this name.
    yielded: bool,
    table: Table,
    health: LocalHealth,
    chance: Chance,
    timers: Timers,
    probes: BTreeMap<u32, Probe>,
    relayed: BTreeMap<u32, Relayed>,
    last_seq: u32,
    /// Members still to be probed in this round.
    round: Vec<NodeId>,
    ticks: u64,
    news: News,
    sync: SyncState,
    seeds: Seeds,
    /// When the dead are looked through next.
    retries_due: Option<Duration>,
    /// When a datagram was last sent only to tell a stranger something.
    told_stranger: Option<Duration>,
    counters: Counters,
    effects: Vec<Effect>,
    events: Vec<Event>,
}

impl std::fmt::Debug for Swim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Swim").field("own", self.own.record()).field("members", &self.table.len()).finish()
    }
}

impl Swim {
    /// A member that knows what is restored, and begins at `now`. Equal seeds and inputs give equal outputs.
    ///
    /// # Errors
    /// [`RecordError::TooLarge`] when this member's record is above a limit.
    pub fn new(
        config: Config,
        record: Record,
        restored: Vec<Restored>,
        notary: Arc<dyn Notary>,
        seed: u64,
        now: Duration,
    ) -> Result<Self, RecordError> {
        let me = record.node();
        let own = Signed::new(record, &*notary)?;
        let mut chance = Chance::new(seed ^ me.0);
        let last_seq = u32::try_from(chance.next() >> 32).unwrap_or(0);
        let mut swim = Self {
            config,
            notary,
            me,
            own,
            left: false,
            yielded: false,
            table: Table::default(),
            health: LocalHealth::default(),
            chance,
            timers: Timers::default(),
            probes: BTreeMap::new(),
            relayed: BTreeMap::new(),
            last_seq,
            round: Vec::new(),
            ticks: 0,
            news: News::default(),
            sync: SyncState::default(),
            seeds: Seeds::default(),
            retries_due: None,
            told_stranger: None,
            counters: Counters::default(),
            effects: Vec::new(),
            events: Vec::new(),
        };
        swim.restore(now, restored);
        let first = swim.chance.up_to(swim.config.probe_interval);
        swim.timers.at(now + first, Timer::Tick);
        Ok(swim)
    }

    fn restore(&mut self, now: Duration, restored: Vec<Restored>) {
        for Restored { signed, alive } in restored {
            let record = signed.record();
            let node = record.node();
            let usable = node != self.me && record.cluster == self.own.record().cluster && !record.left;
            if usable && self.table.len() < limits::MEMBERS_MAX {
                let state = if alive { State::Up } else { State::Unverified };
                self.table.insert(node, Member::new(signed, state, now));
            }
        }
        if self.table.down() > 0 {
            self.retry_by(now);
        }
        self.tell(now, self.me);
    }

    /// Takes an input, and runs what is due. Effects and events are to be taken afterwards.
    pub fn handle(&mut self, now: Duration, input: Input<'_>) {
        if self.yielded {
            return;
        }
        self.notice_pause(now);
        match input {
            Input::Datagram { from, bytes } => self.on_datagram(now, from, bytes),
            Input::Unreachable { address } => {
                if let Some(node) = self.table.at(address) {
                    self.on_refusal(now, node);
                }
            }
            Input::StreamPong { token, reply } => self.on_stream_pong(now, token, reply),
            Input::SyncReply { peer, reply } => self.on_sync_reply(now, peer, reply),
            Input::Seeds(addresses) => self.on_seeds(now, addresses),
            Input::Timer => {}
        }
        self.run_timers(now);
    }

    fn run_timers(&mut self, now: Duration) {
        for _ in 0..TIMERS_AT_ONCE {
            let Some(timer) = self.timers.due(now) else { return };
            match timer {
                Timer::Tick => self.tick(now),
                Timer::Probe(seq) => self.on_probe_timer(now, seq),
                Timer::Relay(seq) => self.on_relay_timer(now, seq),
                Timer::Suspicion(node) => self.on_suspicion_timer(now, node),
                Timer::Probation(node) => self.on_probation_timer(now, node),
                Timer::Gossip => self.gossip(now),
                Timer::Retry => self.retry_dead(now),
                Timer::Seeds => self.retry_seeds(now),
            }
        }
    }

    /// A process that was stopped finds its deadlines long past. What it did not hear meanwhile is nobody's fault, so that
    /// everything it waits for has as much time left as when it was stopped.
    fn notice_pause(&mut self, now: Duration) {
        let Some(due) = self.timers.next() else { return };
        let late = now.saturating_sub(due);
        if late <= self.config.ping_timeout {
            return;
        }
        self.counters.pauses += 1;
        self.health.worse(1);
        self.postpone_probes(late);
        let accused: Vec<NodeId> = self.table.reachable().to_vec();
        for node in accused {
            let Some(State::Suspect(suspicion)) = self.table.get_mut(node).map(|member| &mut member.state) else {
                continue;
            };
            suspicion.began += late;
            suspicion.deadline = now.max(suspicion.deadline + late);
            self.timers.at(suspicion.deadline, Timer::Suspicion(node));
        }
    }

    /// When [`Input::Timer`] is due.
    pub fn deadline(&self) -> Option<Duration> {
        if self.yielded { None } else { self.timers.next() }
    }

    /// What the driver is to do, in order.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// What happened, in order.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// All other members that are remembered, in the order of their identifiers.
    pub fn members(&self) -> impl Iterator<Item = Seen> {
        self.table.iter().map(|(node, member)| seen(node, member))
    }

    /// One other member. `None` when it is not known.
    pub fn member(&self, node: NodeId) -> Option<Seen> {
        self.table.get(node).map(|member| seen(node, member))
    }

    /// What to keep on disk: all other members that did not leave, and whether each is alive.
    pub fn snapshot(&self) -> Vec<Restored> {
        let kept = self.table.iter().filter(|(_, member)| !matches!(member.state, State::Left));
        kept.map(|(_, member)| Restored { signed: member.signed.clone(), alive: member.is_reachable() }).collect()
    }

    /// This member's own record, as it is spread.
    pub fn own(&self) -> &Signed {
        &self.own
    }

    /// This member's identifier.
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// A number that is equal where members hold the same records and deaths.
    pub fn view_digest(&self) -> u64 {
        self.table.digest() ^ self.own_digest()
    }

    /// What this member multiplies its times by, because its own probes go badly: one in health, nine at worst.
    pub fn health_factor(&self) -> u32 {
        self.health.factor()
    }

    /// Counts since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn next_seq(&mut self) -> u32 {
        // Zero stands for pings whose answers nobody waits for.
        self.last_seq = self.last_seq.wrapping_add(1).max(1);
        self.last_seq
    }
}

fn seen(node: NodeId, member: &Member) -> Seen {
    let record = member.signed.shared().clone();
    Seen { node, record, standing: member.standing(), since: member.since, rtt: member.rtt }
}
