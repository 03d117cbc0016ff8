//! One member as this one holds it, and the table of all others.
//!
//! The table keeps what follows from its members in step with them: who is at an address, who is reachable, and the
//! digest by which two members notice that they hold different things.

use core::net::SocketAddr;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::ops::Bound;
use std::time::Duration;

use crate::swim::chance::mix;
use crate::swim::event::Standing;
use crate::swim::message::Accuser;
use crate::swim::record::{Edition, Signed};
use crate::types::NodeId;

/// Deaths within this time count as flapping.
const FLAP_WINDOW: Duration = Duration::from_secs(120);
/// Deaths within the window from which on a return is put off.
const FLAPS: usize = 3;
/// How long a return is put off at first; it doubles with each further death.
const PROBATION: Duration = Duration::from_secs(5);
/// How long it is put off at most: longer than a process that hardly runs needs to die again, and soon enough for one that
/// has recovered. Another process under the name, as after a restart, is never put off.
const PROBATION_MAX: Duration = Duration::from_secs(15);

/// A member that is accused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Suspicion {
    pub(super) began: Duration,
    pub(super) accusers: Vec<Accuser>,
    /// When this member acts on it: declares the other dead if it is an accuser itself, else has a look.
    pub(super) deadline: Duration,
}

/// A member that is held dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Death {
    pub(super) at: Duration,
    pub(super) accusers: Vec<Accuser>,
}

/// What is held of a member's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Up,
    Suspect(Suspicion),
    Down(Death),
    Left,
    /// Known from before the start only, and not heard of yet. Nothing is claimed about it to others.
    Unverified,
}

/// A member.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) signed: Signed,
    pub(super) state: State,
    /// When its standing changed last.
    pub(super) since: Duration,
    pub(super) rtt: Option<Duration>,
    /// When a probe by this member failed last, and whether by a closed port.
    pub(super) failed_probe: Option<(Duration, bool)>,
    /// When a refusal last made this member probe it.
    pub(super) refused_at: Option<Duration>,
    /// When it was last sent a datagram only to tell it something.
    pub(super) told: Option<Duration>,
    /// When a dead one is tried next, and the wait after that.
    pub(super) retry_at: Duration,
    pub(super) retry_wait: Duration,
    /// When it died, lately.
    deaths: VecDeque<Duration>,
    /// Until when its return is put off.
    pub(super) probation: Option<Duration>,
}

impl Member {
    pub(super) fn new(signed: Signed, state: State, now: Duration) -> Self {
        Self {
            signed,
            state,
            since: now,
            rtt: None,
            failed_probe: None,
            refused_at: None,
            told: None,
            retry_at: now,
            retry_wait: Duration::ZERO,
            deaths: VecDeque::new(),
            probation: None,
        }
    }

    pub(super) fn edition(&self) -> Edition {
        self.signed.record().edition()
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.signed.record().gossip
    }

    pub(super) fn standing(&self) -> Standing {
        match self.state {
            State::Up | State::Suspect(_) if self.probation.is_some() => Standing::Failed,
            State::Up => Standing::Alive,
            State::Suspect(_) => Standing::Suspect,
            State::Down(_) | State::Unverified => Standing::Failed,
            State::Left => Standing::Left,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.state, State::Up)
    }

    pub(super) fn is_reachable(&self) -> bool {
        matches!(self.state, State::Up | State::Suspect(_))
    }

    /// Notes a death.
    pub(super) fn died(&mut self, now: Duration) {
        self.deaths.push_back(now);
        if self.deaths.len() > FLAPS + 8 {
            self.deaths.pop_front();
        }
        self.probation = None;
    }

    /// How long a return at this time is put off, because the member came and went too often.
    pub(super) fn damping(&mut self, now: Duration) -> Option<Duration> {
        self.deaths.retain(|at| now.saturating_sub(*at) < FLAP_WINDOW);
        let beyond = self.deaths.len().checked_sub(FLAPS)?;
        let doubled = PROBATION * 2u32.saturating_pow(u32::try_from(beyond).unwrap_or(u32::MAX)).min(64);
        Some(doubled.min(PROBATION_MAX))
    }

    /// Forgets flapping: another process is behind the name.
    pub(super) fn forgive(&mut self) {
        self.deaths.clear();
        self.probation = None;
    }

    fn digest(&self, node: NodeId) -> u64 {
        let class = match self.state {
            State::Up | State::Suspect(_) => 1,
            State::Down(_) => 2,
            State::Left => 3,
            State::Unverified => return 0,
        };
        digest(node, self.edition(), class)
    }
}

/// One member's share of the digest of a view.
pub(super) fn digest(node: NodeId, edition: Edition, class: u64) -> u64 {
    mix(mix(mix(node.0) ^ edition.instance) ^ edition.incarnation) ^ mix(class)
}

/// All members but this one.
#[derive(Debug, Default)]
pub(super) struct Table {
    members: BTreeMap<NodeId, Member>,
    addresses: BTreeMap<SocketAddr, NodeId>,
    reachable: Vec<NodeId>,
    digest: u64,
    down: usize,
}

impl Table {
    pub(super) fn get(&self, node: NodeId) -> Option<&Member> {
        self.members.get(&node)
    }

    /// A member, for changes that leave its state and its record alone.
    pub(super) fn get_mut(&mut self, node: NodeId) -> Option<&mut Member> {
        self.members.get_mut(&node)
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (NodeId, &Member)> {
        self.members.iter().map(|(node, member)| (*node, member))
    }

    /// Members that are up or suspect, in no order.
    pub(super) fn reachable(&self) -> &[NodeId] {
        &self.reachable
    }

    /// How many are dead or unverified.
    pub(super) fn down(&self) -> usize {
        self.down
    }

    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    /// Who is at this gossip address.
    pub(super) fn at(&self, address: SocketAddr) -> Option<NodeId> {
        self.addresses.get(&address).copied()
    }

    /// Puts a member in, or replaces it.
    pub(super) fn insert(&mut self, node: NodeId, member: Member) {
        self.remove(node);
        self.addresses.insert(member.address(), node);
        self.members.insert(node, member);
        self.enter(node);
    }

    /// Takes a member out.
    pub(super) fn remove(&mut self, node: NodeId) {
        self.leave(node);
        if let Some(member) = self.members.remove(&node)
            && self.at(member.address()) == Some(node)
        {
            self.addresses.remove(&member.address());
        }
    }

    /// Changes a member in whatever way.
    pub(super) fn change(&mut self, node: NodeId, change: impl FnOnce(&mut Member)) {
        self.leave(node);
        if let Some(member) = self.members.get_mut(&node) {
            let before = member.address();
            change(member);
            let after = member.address();
            if before != after {
                if self.addresses.get(&before) == Some(&node) {
                    self.addresses.remove(&before);
                }
                self.addresses.insert(after, node);
            }
        }
        self.enter(node);
    }

    /// Takes a member out of what is derived.
    fn leave(&mut self, node: NodeId) {
        let Some(member) = self.members.get(&node) else { return };
        self.digest ^= member.digest(node);
        if member.is_reachable()
            && let Some(at) = self.reachable.iter().position(|other| *other == node)
        {
            self.reachable.swap_remove(at);
        }
        self.down -= usize::from(matches!(member.state, State::Down(_) | State::Unverified));
    }

    /// Puts it back into what is derived.
    fn enter(&mut self, node: NodeId) {
        let Some(member) = self.members.get(&node) else { return };
        self.digest ^= member.digest(node);
        if member.is_reachable() {
            self.reachable.push(node);
        }
        self.down += usize::from(matches!(member.state, State::Down(_) | State::Unverified));
    }

    /// The members after this identifier, round to it again.
    pub(super) fn after(&self, node: NodeId) -> impl Iterator<Item = (NodeId, &Member)> {
        let first = self.members.range((Bound::Excluded(node), Bound::Unbounded));
        first.chain(self.members.range(..node)).map(|(node, member)| (*node, member))
    }

    /// The members before this identifier, backwards round to it again.
    pub(super) fn before(&self, node: NodeId) -> impl Iterator<Item = (NodeId, &Member)> {
        let first = self.members.range(..node).rev();
        let rest = self.members.range((Bound::Excluded(node), Bound::Unbounded)).rev();
        first.chain(rest).map(|(node, member)| (*node, member))
    }
}
