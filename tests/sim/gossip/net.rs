//! The simulated network and its hosts: datagrams with loss, delay, reordering, duplication and one-way cuts; processes
//! that stop, die and start again; streams that are slow under loss; a queue of moments.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dynamomini::net::datagram::KNOCK;
use dynamomini::swim::Certificate;
use dynamomini::swim::ClusterState;
use dynamomini::swim::Config;
use dynamomini::swim::Effect;
use dynamomini::swim::Event;
use dynamomini::swim::Input;
use dynamomini::swim::Record;
use dynamomini::swim::Restored;
use dynamomini::swim::Standing;
use dynamomini::swim::StorageHealth;
use dynamomini::swim::Swim;
use dynamomini::types::NodeId;
use dynamomini::types::NodeName;
use dynamomini::types::Zone;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::conditions::Conditions;
use super::notary::SimNotary;

/// The cluster all members are of.
pub(crate) const CLUSTER: u64 = 0x1122_3344_5566_7788;
/// Bytes a datagram takes beside what the core made: sealing, and the headers of UDP and IP.
pub(crate) const AROUND: usize = 40 + 28;
/// How often somebody knocks, and how many times, as the driver of real nodes does.
const KNOCKS_EVERY: Duration = Duration::from_millis(100);
const KNOCKS: u32 = 4;
/// How often a host tells another one that a port is closed.
const CLOSED_EVERY: Duration = Duration::from_secs(1);
/// How long a stream's exchange is waited for.
const STREAM_PATIENCE: Duration = Duration::from_secs(4);

enum Moment {
    Deliver {
        from: SocketAddr,
        to: SocketAddr,
        bytes: Vec<u8>,
    },
    Wake(usize),
    Knock {
        from: usize,
        to: SocketAddr,
    },
    /// The network tells a host that an address is closed.
    Closed {
        host: usize,
        address: SocketAddr,
    },
    StreamArrives {
        stream: Stream,
    },
    StreamReturns {
        stream: Stream,
        reply: Option<Vec<u8>>,
    },
    Resume(usize),
}

struct Stream {
    host: usize,
    life: u64,
    peer: usize,
    kind: StreamKind,
    bytes: Vec<u8>,
    began: Duration,
}

#[derive(Clone, Copy)]
enum StreamKind {
    Ping(u32),
    Sync,
}

/// A machine and the process on it.
pub(crate) struct Host {
    pub(crate) name: NodeName,
    pub(crate) id: NodeId,
    pub(crate) address: SocketAddr,
    /// The running process.
    pub(crate) swim: Option<Swim>,
    /// Which process it is, counted from one.
    pub(crate) life: u64,
    /// Whether the process is stopped: what comes waits.
    pub(crate) paused: bool,
    /// Whether the machine is off: no port is closed, there is only silence.
    pub(crate) silent: bool,
    backlog: Vec<(SocketAddr, Vec<u8>)>,
    /// Whether others have reason to hold it dead or alive as they like: its deaths are not false.
    pub(crate) excused: bool,
    pub(crate) events: Vec<(Duration, Event)>,
    pub(crate) bytes_out: u64,
    pub(crate) largest: usize,
    /// When it may next tell each of the others that a port is closed.
    says_closed: BTreeMap<usize, Duration>,
    woken: Duration,
}

/// A cluster and all that is between its members.
pub(crate) struct Net {
    pub(crate) seed: u64,
    pub(crate) now: Duration,
    pub(crate) hosts: Vec<Host>,
    pub(crate) conditions: Conditions,
    /// Directions in which nothing passes.
    pub(crate) cut: BTreeSet<(usize, usize)>,
    /// Share lost on the way to a host, beside the general one.
    pub(crate) deaf: BTreeMap<usize, f64>,
    pub(crate) config: Config,
    /// Deaths declared of members that were in health: when, by whom, of whom.
    pub(crate) false_deaths: Vec<(Duration, usize, usize)>,
    /// What was sent, if that is to be kept.
    pub(crate) overheard: Option<Vec<Vec<u8>>>,
    queue: BTreeMap<(Duration, u64), Moment>,
    order: u64,
    by_address: BTreeMap<SocketAddr, usize>,
    by_id: BTreeMap<NodeId, usize>,
    rng: StdRng,
}

impl Net {
    /// A world with nobody in it.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            now: Duration::from_secs(1),
            hosts: Vec::new(),
            conditions: Conditions::default(),
            cut: BTreeSet::new(),
            deaf: BTreeMap::new(),
            config: Config::lan(),
            false_deaths: Vec::new(),
            overheard: None,
            queue: BTreeMap::new(),
            order: 0,
            by_address: BTreeMap::new(),
            by_id: BTreeMap::new(),
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// A world with a cluster that knows itself already.
    pub(crate) fn settled(seed: u64, members: usize) -> Self {
        Self::settled_with(seed, members, |_| {})
    }

    /// The same in surroundings that are changed before anybody starts.
    pub(crate) fn settled_with(seed: u64, members: usize, change: impl FnOnce(&mut Self)) -> Self {
        let mut net = Self::new(seed);
        change(&mut net);
        net.add_many(members);
        let records: Vec<Record> = (0..members).map(|at| net.record(at, 1, 1)).collect();
        let signed: Vec<_> = records.iter().map(|record| net.signed(record)).collect();
        for at in 0..members {
            let others = signed.iter().filter(|one| one.record().name != net.hosts[at].name);
            let restored = others.map(|one| Restored { signed: one.clone(), alive: true }).collect();
            net.start(at, 1, restored, &[]);
        }
        net
    }

    fn signed(&self, record: &Record) -> dynamomini::swim::Signed {
        dynamomini::swim::Signed::new(record.clone(), &SimNotary(record.name.clone())).unwrap()
    }

    /// Adds machines on which nothing runs yet.
    pub(crate) fn add_many(&mut self, count: usize) {
        for _ in 0..count {
            self.add();
        }
    }

    /// Adds a machine on which nothing runs yet.
    pub(crate) fn add(&mut self) -> usize {
        let at = self.hosts.len();
        let name = NodeName::new(format!("node-{at}")).unwrap();
        let id = dynamomini::hash::ClusterHash::node_id(&name);
        let address = Self::address(at, 7401);
        self.by_address.insert(address, at);
        self.by_id.insert(id, at);
        self.hosts.push(Host {
            name,
            id,
            address,
            swim: None,
            life: 0,
            paused: false,
            silent: false,
            backlog: Vec::new(),
            excused: false,
            events: Vec::new(),
            bytes_out: 0,
            largest: 0,
            says_closed: BTreeMap::new(),
            woken: Duration::MAX,
        });
        at
    }

    fn address(at: usize, port: u16) -> SocketAddr {
        let at = u32::try_from(at).unwrap();
        SocketAddr::from((Ipv4Addr::from(0x0a00_0001 + at), port))
    }

    /// What a host says about itself in a life.
    pub(crate) fn record(&self, at: usize, life: u64, incarnation: u64) -> Record {
        let host = &self.hosts[at];
        Record {
            cluster: CLUSTER,
            name: host.name.clone(),
            instance: (life << 32) | u64::try_from(at).unwrap(),
            incarnation,
            rival: None,
            left: false,
            gossip: host.address,
            quic: format!("{}:7400", host.address.ip()),
            admin: Some(format!("{}:7402", host.address.ip())),
            zone: Zone::new("zone-a").unwrap(),
            weight: 100,
            software: "0.1.0".to_owned(),
            protocol: 1,
            state: ClusterState::Active,
            storage: StorageHealth::Ok,
            clock_offset_ms: Some(3),
            certificate: Certificate { fingerprint: [at.to_le_bytes()[0]; 32], expires_s: 1_800_000_000 },
            key: vec![7; 32],
            config: 99,
        }
    }

    /// Starts a process with what was on its disk.
    pub(crate) fn start(&mut self, at: usize, incarnation: u64, restored: Vec<Restored>, seeds: &[usize]) {
        let life = self.hosts[at].life + 1;
        let record = self.record(at, life, incarnation);
        let notary = Arc::new(SimNotary(record.name.clone()));
        let seed = self.rng.random();
        let swim = Swim::new(self.config.clone(), record, restored, notary, seed, self.now).unwrap();
        let host = &mut self.hosts[at];
        (host.swim, host.life, host.silent, host.paused) = (Some(swim), life, false, false);
        host.woken = Duration::MAX;
        host.backlog.clear();
        let seeds: Vec<SocketAddr> = seeds.iter().map(|seed| self.hosts[*seed].address).collect();
        self.touch(at, |swim, now| swim.handle(now, Input::Seeds(&seeds)));
    }

    /// Ends a process as `kill -9` does: its port is closed from then on. Gives what is on its disk.
    pub(crate) fn kill(&mut self, at: usize) -> Vec<Restored> {
        let host = &mut self.hosts[at];
        host.paused = false;
        host.backlog.clear();
        host.says_closed.clear();
        host.swim.take().map_or_else(Vec::new, |swim| swim.snapshot())
    }

    /// The power of a machine fails: no answer, no closed port.
    pub(crate) fn switch_off(&mut self, at: usize) -> Vec<Restored> {
        self.hosts[at].silent = true;
        self.kill(at)
    }

    /// Stops a process for a while; what is sent to it waits.
    pub(crate) fn pause(&mut self, at: usize, until: Duration) {
        self.hosts[at].paused = true;
        self.at(until, Moment::Resume(at));
    }

    /// Moves a host to another address. Its process is to be started anew.
    pub(crate) fn move_to(&mut self, at: usize, port: u16) {
        let address = SocketAddr::from((self.hosts[at].address.ip(), port));
        self.by_address.remove(&self.hosts[at].address);
        self.by_address.insert(address, at);
        self.hosts[at].address = address;
    }

    /// Gives a host the name of another one.
    pub(crate) fn rename(&mut self, at: usize, as_one: usize) {
        (self.hosts[at].name, self.hosts[at].id) = (self.hosts[as_one].name.clone(), self.hosts[as_one].id);
    }

    /// Cuts both ways between two groups.
    pub(crate) fn split(&mut self, one: &[usize], other: &[usize]) {
        for a in one {
            for b in other {
                self.cut.insert((*a, *b));
                self.cut.insert((*b, *a));
            }
        }
    }

    /// Does something with a running process, and carries out what comes of it.
    pub(crate) fn touch<T>(&mut self, at: usize, with: impl FnOnce(&mut Swim, Duration) -> T) -> Option<T> {
        let now = self.now;
        let swim = self.hosts[at].swim.as_mut()?;
        let result = with(swim, now);
        let (effects, events, deadline) = (swim.take_effects(), swim.take_events(), swim.deadline());
        for event in events {
            self.note(at, event);
        }
        for effect in effects {
            self.carry_out(at, effect);
        }
        if let Some(deadline) = deadline {
            let host = &mut self.hosts[at];
            let when = deadline.max(now + Duration::from_micros(1));
            if when < host.woken || host.woken <= now {
                host.woken = when;
                self.at(when, Moment::Wake(at));
            }
        }
        Some(result)
    }

    fn note(&mut self, at: usize, event: Event) {
        if let Event::Failed(node) = &event {
            let of = self.by_id[node];
            let sick = |host: &Host| host.excused || host.paused || host.swim.is_none();
            // A death of the process before this one is true, though the news of the next one overtook it.
            let held = self.hosts[at].swim.as_ref().and_then(|swim| swim.member(*node));
            let present = held.is_some_and(|seen| seen.record.instance >> 32 == self.hosts[of].life);
            if present && !sick(&self.hosts[of]) && !sick(&self.hosts[at]) {
                self.false_deaths.push((self.now, at, of));
            }
        }
        let now = self.now;
        self.hosts[at].events.push((now, event));
    }

    fn carry_out(&mut self, at: usize, effect: Effect) {
        if let Some(overheard) = &mut self.overheard
            && let Effect::Send { bytes, .. } | Effect::StreamPing { bytes, .. } | Effect::Sync { bytes, .. } = &effect
        {
            overheard.push(bytes.clone());
        }
        match effect {
            Effect::Send { to, bytes } => {
                let host = &mut self.hosts[at];
                host.bytes_out += u64::try_from(bytes.len() + AROUND).unwrap();
                host.largest = host.largest.max(bytes.len());
                self.send(at, to, bytes);
            }
            Effect::Knock { peer } => {
                let to = self.hosts[self.by_id[&peer]].address;
                for late in 0..KNOCKS {
                    self.at(self.now + KNOCKS_EVERY * late, Moment::Knock { from: at, to });
                }
            }
            Effect::StreamPing { peer, token, bytes } => self.stream(at, peer, StreamKind::Ping(token), bytes),
            Effect::Sync { peer, bytes } => self.stream(at, peer, StreamKind::Sync, bytes),
        }
    }

    fn send(&mut self, from: usize, to: SocketAddr, bytes: Vec<u8>) {
        let source = self.hosts[from].address;
        let copies = if self.rng.random_bool(self.conditions.duplicated) { 2 } else { 1 };
        for _ in 0..copies {
            // The same number of draws whatever becomes of it, so that one fault does not reshuffle all others.
            let (luck, jitter, late) = (self.rng.random::<f64>(), self.rng.random::<f64>(), self.rng.random::<f64>());
            let Some(target) = self.by_address.get(&to).copied() else { continue };
            if luck < self.loss(from, target) {
                continue;
            }
            let mut delay = self.conditions.latency + self.conditions.jitter.mul_f64(jitter);
            if late < self.conditions.reordered {
                delay += Duration::from_millis(20).mul_f64(late / self.conditions.reordered);
            }
            self.at(self.now + delay, Moment::Deliver { from: source, to, bytes: bytes.clone() });
        }
    }

    fn loss(&self, from: usize, to: usize) -> f64 {
        if self.cut.contains(&(from, to)) {
            return 1.0;
        }
        1.0 - (1.0 - self.conditions.loss) * (1.0 - self.deaf.get(&to).copied().unwrap_or(0.0))
    }

    /// How long one way of a stream takes: sent again and again, ever more slowly, until it gets through.
    fn one_way(&mut self, from: usize, to: usize, first: Duration) -> Option<Duration> {
        let loss = self.loss(from, to);
        let (mut at, mut wait) = (Duration::ZERO, first);
        while at < STREAM_PATIENCE {
            if self.rng.random::<f64>() >= loss {
                return Some(at + self.conditions.latency + self.conditions.jitter);
            }
            at += wait;
            wait *= 2;
        }
        None
    }

    fn stream(&mut self, host: usize, peer: NodeId, kind: StreamKind, bytes: Vec<u8>) {
        let peer = self.by_id[&peer];
        let stream = Stream { host, life: self.hosts[host].life, peer, kind, bytes, began: self.now };
        // Half of the connections have to be made first, with the long first time-out of a handshake.
        let handshake = if self.rng.random_bool(0.5) {
            let there = self.one_way(host, peer, Duration::from_secs(1));
            let back = self.one_way(peer, host, Duration::from_secs(1));
            there.zip(back).map(|(there, back)| there + back)
        } else {
            Some(Duration::ZERO)
        };
        let there = self.one_way(host, peer, Duration::from_millis(40));
        match handshake.zip(there).map(|(handshake, there)| handshake + there) {
            Some(delay) if delay < STREAM_PATIENCE => self.at(self.now + delay, Moment::StreamArrives { stream }),
            _ => self.at(self.now + STREAM_PATIENCE, Moment::StreamReturns { stream, reply: None }),
        }
    }

    fn stream_arrives(&mut self, stream: Stream) {
        let answers = self.hosts[stream.peer].swim.is_some() && !self.hosts[stream.peer].paused;
        let reply = if answers {
            self.touch(stream.peer, |swim, now| match stream.kind {
                StreamKind::Ping(_) => swim.answer_ping(now, &stream.bytes),
                StreamKind::Sync => swim.answer_sync(now, &stream.bytes),
            })
            .flatten()
        } else {
            None
        };
        let back = self.one_way(stream.peer, stream.host, Duration::from_millis(40));
        let spent = self.now - stream.began;
        match reply.zip(back) {
            Some((reply, back)) if spent + back < STREAM_PATIENCE => {
                self.at(self.now + back, Moment::StreamReturns { stream, reply: Some(reply) });
            }
            _ => {
                let end = (stream.began + STREAM_PATIENCE).max(self.now);
                self.at(end, Moment::StreamReturns { stream, reply: None });
            }
        }
    }

    fn at(&mut self, when: Duration, moment: Moment) {
        self.order += 1;
        self.queue.insert((when, self.order), moment);
    }

    /// Lets time pass.
    pub(crate) fn run_until(&mut self, end: Duration) {
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((when, _), moment) = entry.remove_entry();
            self.now = self.now.max(when);
            self.run(moment);
        }
        self.now = end;
    }

    /// Lets time pass.
    pub(crate) fn run_for(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    /// Lets time pass until something holds, looking every 20 ms. Gives how long it took; `None` if it took too long.
    pub(crate) fn run_while(&mut self, longest: Duration, holds: impl Fn(&Self) -> bool) -> Option<Duration> {
        let began = self.now;
        while self.now - began <= longest {
            if holds(self) {
                return Some(self.now - began);
            }
            self.run_for(Duration::from_millis(20));
        }
        None
    }

    fn run(&mut self, moment: Moment) {
        match moment {
            Moment::Deliver { from, to, bytes } => self.deliver(from, to, bytes),
            Moment::Wake(at) if self.hosts[at].paused => {}
            Moment::Wake(at) => {
                if self.hosts[at].woken <= self.now {
                    self.touch(at, |swim, now| swim.handle(now, Input::Timer));
                }
            }
            Moment::Closed { host, address } => {
                if !self.hosts[host].paused {
                    self.touch(host, |swim, now| swim.handle(now, Input::Unreachable { address }));
                }
            }
            Moment::Knock { from, to } => {
                self.hosts[from].bytes_out += u64::try_from(KNOCK.len() + 28).unwrap();
                self.send(from, to, KNOCK.to_vec());
            }
            Moment::StreamArrives { stream } => self.stream_arrives(stream),
            Moment::StreamReturns { stream, reply } => {
                if self.hosts[stream.host].life != stream.life || self.hosts[stream.host].paused {
                    return;
                }
                let peer = self.hosts[stream.peer].id;
                let reply = reply.as_deref();
                self.touch(stream.host, |swim, now| match stream.kind {
                    StreamKind::Ping(token) => swim.handle(now, Input::StreamPong { token, reply }),
                    StreamKind::Sync => swim.handle(now, Input::SyncReply { peer, reply }),
                });
            }
            Moment::Resume(at) => {
                self.hosts[at].paused = false;
                for (from, bytes) in std::mem::take(&mut self.hosts[at].backlog) {
                    self.touch(at, |swim, now| swim.handle(now, Input::Datagram { from, bytes: &bytes }));
                }
                self.touch(at, |swim, now| swim.handle(now, Input::Timer));
            }
        }
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let Some(at) = self.by_address.get(&to).copied() else { return };
        let host = &mut self.hosts[at];
        if host.paused {
            // A socket's buffer is not endless.
            if host.backlog.len() < 2_000 {
                host.backlog.push((from, bytes));
            }
        } else if host.swim.is_some() {
            if bytes != KNOCK {
                self.touch(at, |swim, now| swim.handle(now, Input::Datagram { from, bytes: &bytes }));
            }
        } else if !host.silent
            // Only a knock comes from a socket that is told of closed ports.
            && bytes == KNOCK
            && let Some(sender) = self.by_address.get(&from).copied()
            && self.rng.random::<f64>() >= self.loss(at, sender)
            && self.says_closed(at, sender)
        {
            self.at(self.now + self.conditions.latency, Moment::Closed { host: sender, address: to });
        }
    }

    /// A host tells each other one at most once a second that a port is closed, as Linux does once it has told it a few times.
    fn says_closed(&mut self, at: usize, to: usize) -> bool {
        let first = self.now + CLOSED_EVERY.mul_f64(self.rng.random());
        let next = self.hosts[at].says_closed.entry(to).or_insert(first);
        let says = *next <= self.now;
        if says {
            *next = self.now + CLOSED_EVERY;
        }
        says
    }

    /// The hosts on which a process runs that is not excused.
    pub(crate) fn healthy(&self) -> impl Iterator<Item = usize> {
        (0..self.hosts.len()).filter(|at| self.hosts[*at].swim.is_some() && !self.hosts[*at].excused)
    }

    /// How one host sees another.
    pub(crate) fn standing(&self, by: usize, of: usize) -> Option<Standing> {
        self.hosts[by].swim.as_ref()?.member(self.hosts[of].id).map(|seen| seen.standing)
    }

    /// Whether all healthy hosts but the one itself see it so.
    pub(crate) fn all_see(&self, of: usize, standing: Standing) -> bool {
        self.healthy().all(|by| by == of || self.standing(by, of) == Some(standing))
    }

    /// Whether all healthy hosts see each other alive, in their present lives.
    pub(crate) fn is_whole(&self) -> bool {
        let healthy: Vec<usize> = self.healthy().collect();
        let editions: Vec<_> = healthy
            .iter()
            .map(|at| (self.hosts[*at].id, self.hosts[*at].swim.as_ref().map(|swim| swim.own().record().instance)))
            .collect();
        healthy.iter().all(|by| {
            let swim = self.hosts[*by].swim.as_ref().expect("healthy hosts run");
            editions.iter().all(|(id, instance)| {
                *id == swim.me()
                    || swim
                        .member(*id)
                        .is_some_and(|seen| seen.standing == Standing::Alive && Some(seen.record.instance) == *instance)
            })
        })
    }
}
