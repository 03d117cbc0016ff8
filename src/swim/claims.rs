//! What is claimed of members: records, accusations, deaths, and what follows from each.
//!
//! A member's record counts by its edition and only with its own signature. An accusation counts only against the
//! edition it names.

use std::time::Duration;

use crate::limits;
use crate::swim::Swim;
use crate::swim::event::Event;
use crate::swim::event::Standing;
use crate::swim::member::Death;
use crate::swim::member::Member;
use crate::swim::member::State;
use crate::swim::member::Suspicion;
use crate::swim::message::Accusation;
use crate::swim::message::Accuser;
use crate::swim::message::Part;
use crate::swim::probe::REFUSAL_COUNTS;
use crate::swim::record::Envelope;
use crate::swim::record::RecordError;
use crate::swim::record::Signed;
use crate::swim::timers::Timer;
use crate::types::NodeId;

/// Tenths of a second after which a claim of death no longer counts against who is held alive: its side of a split
/// may be the one that was cut off.
const FRESH: u32 = 100;
/// Members before the accused, in the order of identifiers, that look at once whether an accusation is right.
const WATCHERS: usize = 3;
/// Accusers that saw a closed port, among those that are enough, after whom nobody else need see it: hosts say so rarely.
const REFUSALS_ENOUGH: usize = 2;
/// How long after a probe or relayed ping that failed an accusation makes this member look again.
const FAILURE_COUNTS: Duration = Duration::from_secs(3);

impl Swim {
    /// Takes a record, if it is news and genuine. A new member enters as dead if `dead` says so. Returns whether it
    /// was news.
    pub(super) fn on_record(&mut self, now: Duration, envelope: &Envelope<'_>, dead: bool) -> bool {
        let record = match envelope.open(self.own.record().cluster) {
            Ok(record) => record,
            Err(error) => {
                self.refuse(error);
                return false;
            }
        };
        let node = record.node();
        if node == self.me {
            self.on_own_record(now, envelope, record);
            return false;
        }
        if let Some(held) = self.table.get(node)
            && held.edition() >= record.edition()
        {
            return false;
        }
        match envelope.take(record, &*self.notary) {
            Ok(signed) => self.on_newer_record(now, node, signed, dead),
            Err(error) => {
                self.refuse(error);
                false
            }
        }
    }

    fn refuse(&mut self, error: RecordError) {
        match error {
            RecordError::Forged => self.counters.records_forged += 1,
            RecordError::OtherCluster => self.counters.records_other_cluster += 1,
            RecordError::Malformed | RecordError::TooLarge => self.counters.records_malformed += 1,
        }
    }

    fn on_newer_record(&mut self, now: Duration, node: NodeId, signed: Signed, dead: bool) -> bool {
        let Some(held) = self.table.get(node) else {
            return self.on_stranger(now, node, signed, dead);
        };
        let (before, old, shown) = (held.state.clone(), held.signed.clone(), held.standing());
        self.look_for_conflict(node, &old, &signed);
        let left = signed.record().left;
        let same_instance = old.record().instance == signed.record().instance;
        let changed = !old.record().same_content(signed.record());
        self.table.change(node, |member| {
            member.signed = signed;
            member.failed_probe = None;
            member.state = if left { State::Left } else { State::Up };
            if !same_instance {
                member.forgive();
            }
        });
        if dead && !left {
            self.bury(now, node, Vec::new());
            return true;
        }
        self.tell(now, node);
        if left {
            self.departed(now, node, shown);
            return true;
        }
        match before {
            State::Down(_) | State::Left | State::Unverified => {
                self.returned(now, node, same_instance && matches!(before, State::Down(_)));
                return true;
            }
            State::Suspect(_) if shown == Standing::Suspect => {
                self.stands(now, node);
                self.events.push(Event::Refuted(node));
            }
            State::Up | State::Suspect(_) => {}
        }
        if changed && let Some(member) = self.table.get(node) {
            self.events.push(Event::Updated(member.signed.shared().clone()));
        }
        true
    }

    fn on_stranger(&mut self, now: Duration, node: NodeId, signed: Signed, dead: bool) -> bool {
        if !self.make_room() {
            self.counters.records_crowded += 1;
            return false;
        }
        let state = match (signed.record().left, dead) {
            (true, _) => State::Left,
            (false, true) => State::Down(Death { at: now, accusers: Vec::new() }),
            (false, false) => State::Up,
        };
        let up = state == State::Up;
        self.table.insert(node, Member::new(signed, state, now));
        if up {
            self.enter_round(node);
            self.announce_joined(node);
            self.tell(now, node);
        } else {
            self.retry_by(now);
        }
        true
    }

    /// Makes room for one more member by forgetting the one that is gone longest. `false` when all are there.
    fn make_room(&mut self) -> bool {
        if self.table.reachable().len() + 1 >= limits::MEMBERS_MAX {
            return false;
        }
        if self.table.len() < limits::MEMBERS_REMEMBERED_MAX {
            return true;
        }
        let gone = self.table.iter().filter(|(_, member)| !member.is_reachable());
        let longest = gone.min_by_key(|(_, member)| member.since).map(|(node, _)| node);
        if let Some(node) = longest {
            self.table.remove(node);
            self.events.push(Event::Forgotten(node));
        }
        longest.is_some()
    }

    fn look_for_conflict(&mut self, node: NodeId, old: &Signed, new: &Signed) {
        let (old, new) = (old.record(), new.record());
        let mutual = new.rival == Some(old.instance) && old.rival == Some(new.instance);
        if mutual && old.instance != new.instance {
            self.events.push(Event::Conflict { node, addresses: [old.gossip, new.gossip], yields: false });
        }
    }

    /// A member that was dead, gone or unverified has a newer record.
    fn returned(&mut self, now: Duration, node: NodeId, refuted: bool) {
        self.enter_round(node);
        let Some(member) = self.table.get_mut(node) else { return };
        match member.damping(now) {
            Some(wait) if refuted => {
                member.probation = Some(now + wait);
                self.counters.damped += 1;
                self.timers.at(now + wait, Timer::Probation(node));
            }
            _ => {
                member.since = now;
                self.announce_alive(node);
                if refuted {
                    self.hurry_retries(now);
                }
            }
        }
    }

    fn departed(&mut self, now: Duration, node: NodeId, shown: Standing) {
        self.drop_probes(node);
        self.stands(now, node);
        if shown != Standing::Left {
            self.events.push(Event::Left(node));
        }
    }

    fn stands(&mut self, now: Duration, node: NodeId) {
        if let Some(member) = self.table.get_mut(node) {
            member.since = now;
        }
    }

    pub(super) fn announce_joined(&mut self, node: NodeId) {
        if let Some(member) = self.table.get(node) {
            self.events.push(Event::Joined(member.signed.shared().clone()));
        }
    }

    pub(super) fn announce_alive(&mut self, node: NodeId) {
        if let Some(member) = self.table.get(node) {
            self.events.push(Event::Alive(member.signed.shared().clone()));
        }
    }

    /// Takes an accusation from another member; with an age it is a claim of death.
    pub(super) fn on_accusation(&mut self, now: Duration, from: NodeId, accusation: Accusation, age: Option<u32>) {
        let Accusation { node, edition, accusers } = accusation;
        if node == self.me {
            if edition == self.own.record().edition() {
                self.refute(now);
            }
            return;
        }
        let known = |accuser: &Accuser| {
            accuser.node != node && (accuser.node == self.me || self.table.get(accuser.node).is_some())
        };
        let accusers: Vec<Accuser> = accusers.into_iter().filter(known).collect();
        let Some(member) = self.table.get(node).filter(|_| self.table.get(from).is_some() && !accusers.is_empty())
        else {
            self.counters.unknown += 1;
            return;
        };
        if member.edition() != edition {
            self.counters.stale += 1;
            return;
        }
        let mut all = match &member.state {
            State::Down(_) | State::Left => return,
            State::Suspect(suspicion) => suspicion.accusers.clone(),
            State::Up | State::Unverified => Vec::new(),
        };
        let unverified = member.state == State::Unverified;
        merge(&mut all, &accusers);
        match age {
            Some(_) if unverified => self.bury(now, node, all),
            Some(age) if age <= FRESH && all.len() >= self.enough() => self.bury(now, node, all),
            Some(age) if age > FRESH => self.tell_accused(now, node, from),
            _ if unverified => {}
            _ => self.suspect(now, node, &accusers),
        }
    }

    /// Accusers that are enough, as many members as there are.
    fn enough(&self) -> usize {
        // The accused is among those that are reachable, and this member is not.
        self.config.enough(self.table.reachable().len())
    }

    /// Holds a member suspect, on the word of these.
    pub(super) fn suspect(&mut self, now: Duration, node: NodeId, accusers: &[Accuser]) {
        let Some(member) = self.table.get(node) else { return };
        let shown = member.standing();
        let (mut suspicion, fresh) = match &member.state {
            State::Up => (Suspicion { began: now, accusers: Vec::new(), deadline: now }, true),
            State::Suspect(suspicion) => (suspicion.clone(), false),
            State::Down(_) | State::Left | State::Unverified => return,
        };
        if !merge(&mut suspicion.accusers, accusers) {
            return;
        }
        let mine = suspicion.accusers.iter().any(|accuser| accuser.node == self.me);
        suspicion.deadline = suspicion.began + self.term(&suspicion, mine);
        self.timers.at(suspicion.deadline, Timer::Suspicion(node));
        self.table.change(node, |member| member.state = State::Suspect(suspicion));
        self.tell(now, node);
        if fresh && shown == Standing::Alive {
            self.stands(now, node);
            self.events.push(Event::Suspect(node));
        }
        if !mine {
            self.confirm(now, node);
        }
    }

    fn term(&self, suspicion: &Suspicion, mine: bool) -> Duration {
        let enough = self.enough();
        let refused = suspicion.accusers.iter().filter(|accuser| accuser.refused).count();
        if !mine {
            self.config.suspicion_max + Duration::from_secs(1)
        } else if suspicion.accusers.len() >= enough && refused >= enough.min(REFUSALS_ENOUGH) {
            self.config.suspicion_refused
        } else {
            self.config.suspicion(suspicion.accusers.len(), enough)
        }
    }

    /// Looks whether an accusation that came from others is right, if it is this member's turn.
    fn confirm(&mut self, now: Duration, node: NodeId) {
        let Some(member) = self.table.get(node) else { return };
        let since_failure = member.failed_probe.map(|(at, refused)| (now.saturating_sub(at), refused));
        match since_failure {
            Some((since, true)) if since < REFUSAL_COUNTS => self.accuse(now, node, true),
            Some((since, _)) if since < FAILURE_COUNTS => self.recheck(now, node),
            _ => {
                let up = self.table.before(node).filter(|(_, member)| member.is_up() || member.is_reachable());
                // This member is in the order, too, though not in the table.
                let between = up.take(WATCHERS).filter(|(other, _)| closer(*other, self.me, node)).count();
                if between < WATCHERS {
                    self.recheck(now, node);
                }
            }
        }
    }

    /// Accuses a member, since this member's own probe of it failed.
    pub(super) fn accuse(&mut self, now: Duration, node: NodeId, refused: bool) {
        if !self.left {
            self.counters.accusations += 1;
            self.suspect(now, node, &[Accuser { node: self.me, refused }]);
        }
    }

    /// Withdraws this member's own accusation: there was an answer.
    pub(super) fn withdraw(&mut self, now: Duration, node: NodeId) {
        let Some(State::Suspect(mut suspicion)) = self.table.get(node).map(|member| member.state.clone()) else {
            return;
        };
        suspicion.accusers.retain(|accuser| accuser.node != self.me);
        if suspicion.accusers.is_empty() {
            let shown = self.table.get(node).map(Member::standing);
            self.table.change(node, |member| member.state = State::Up);
            self.news.forget(node);
            if shown == Some(Standing::Suspect) {
                self.stands(now, node);
                self.events.push(Event::Refuted(node));
            }
        } else {
            suspicion.deadline = now + self.term(&suspicion, false);
            self.timers.at(suspicion.deadline, Timer::Suspicion(node));
            self.table.change(node, |member| member.state = State::Suspect(suspicion));
        }
    }

    /// The time of a suspicion is over, or should be.
    pub(super) fn on_suspicion_timer(&mut self, now: Duration, node: NodeId) {
        let Some(member) = self.table.get(node) else { return };
        let State::Suspect(suspicion) = &member.state else { return };
        if now < suspicion.deadline {
            return;
        }
        let accusers = suspicion.accusers.clone();
        if accusers.iter().any(|accuser| accuser.node == self.me) {
            self.counters.declared += 1;
            self.bury(now, node, accusers);
        } else {
            // Whoever raised it has neither proved it nor heard the refutation.
            let mut suspicion = suspicion.clone();
            suspicion.deadline = now + self.config.suspicion_max;
            self.timers.at(suspicion.deadline, Timer::Suspicion(node));
            self.table.change(node, |member| member.state = State::Suspect(suspicion));
            self.recheck(now, node);
        }
    }

    /// Holds a member dead.
    fn bury(&mut self, now: Duration, node: NodeId, accusers: Vec<Accuser>) {
        let Some(shown) = self.table.get(node).map(Member::standing) else { return };
        let wait = self.config.retry_interval;
        let retry_at = now + wait + self.chance.up_to(wait);
        self.table.change(node, |member| {
            member.state = State::Down(Death { at: now, accusers });
            member.died(now);
            (member.retry_at, member.retry_wait) = (retry_at, wait);
        });
        self.retry_by(retry_at);
        self.drop_probes(node);
        self.tell(now, node);
        if shown != Standing::Failed {
            self.stands(now, node);
            self.events.push(Event::Failed(node));
        }
    }

    /// Gives up on a member that is known from before the start only.
    pub(super) fn give_up(&mut self, now: Duration, node: NodeId) {
        self.bury(now, node, vec![Accuser { node: self.me, refused: false }]);
        self.events.push(Event::Failed(node));
    }

    /// Tells a member that is held alive here what others say of it, so that it can refute.
    pub(super) fn tell_accused(&mut self, now: Duration, node: NodeId, by: NodeId) {
        let Some(member) = self.table.get(node) else { return };
        let accusation =
            Accusation { node, edition: member.edition(), accusers: vec![Accuser { node: by, refused: false }] };
        self.send_parts(now, node, &[Part::Dead { accusation, age: 0 }]);
    }
}

/// Adds accusers that are not there yet, or that saw more. Returns whether anything changed.
fn merge(accusers: &mut Vec<Accuser>, others: &[Accuser]) -> bool {
    let mut changed = false;
    for other in others {
        match accusers.iter().position(|accuser| accuser.node == other.node) {
            Some(at) => {
                changed |= other.refused && !accusers[at].refused;
                accusers[at].refused |= other.refused;
            }
            None if accusers.len() < limits::ACCUSERS_MAX => {
                accusers.push(*other);
                changed = true;
            }
            None => {}
        }
    }
    changed
}

/// Whether `one` comes after `other` on the way up to `end`, round the order of identifiers.
fn closer(one: NodeId, other: NodeId, end: NodeId) -> bool {
    end.0.wrapping_sub(one.0) < end.0.wrapping_sub(other.0)
}
