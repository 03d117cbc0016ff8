//! The state of one key: its surviving versions under one causal context.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::limits;
use crate::version::context::{Causality, Context};
use crate::version::dot::{Actor, Dot, RequestId};
use crate::version::hlc::Stamp;

/// One write that has not been superseded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Its unique name.
    pub dot: Dot,
    /// When it was coordinated.
    pub stamp: Stamp,
    /// The client's name for the request.
    pub request: RequestId,
    /// Milliseconds since the Unix epoch from which on it counts as deleted.
    pub expires_at: Option<u64>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Requests whose versions this one superseded, the latest last and at most [`limits::SUPERSEDED_MAX`]. A request
    /// that was coordinated twice, because its first reply was late, has two dots, and a writer may have seen but one:
    /// by this the other is recognised as superseded too, whenever it comes.
    pub supersedes: Vec<RequestId>,
}

impl Version {
    /// Whether a reader sees a value here.
    pub fn is_live(&self, wall_ms: u64) -> bool {
        self.value.is_some() && self.expires_at.is_none_or(|at| wall_ms < at)
    }
}

/// A write before it has a dot.
#[derive(Debug, Clone)]
pub struct NewVersion {
    /// The client's name for the request.
    pub request: RequestId,
    /// The writes that this one's writer has made or read, the latest last. A version vector alone cannot name its own
    /// without naming what its actor issued before it, which the writer may not have seen; nor the twin of one that was
    /// coordinated twice, nor can a coordinator that has not heard of a write yet tell who made it.
    pub after: Vec<RequestId>,
    /// The coordinator's stamp; raised where needed, so that it exceeds those of the versions already here.
    pub stamp: Stamp,
    /// Milliseconds since the Unix epoch from which on it counts as deleted.
    pub expires_at: Option<u64>,
    /// The value; `None` deletes.
    pub value: Option<Bytes>,
}

/// What a put did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// A version was added under this dot.
    Added(Dot),
    /// The same request had been applied before, under this dot; nothing changed.
    Repeated(Dot),
}

/// The versions of one key and what has been seen of it. Versions are sorted by dot and every dot is covered by the
/// context, so that equal states are equal bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Siblings {
    context: Context,
    versions: Vec<Version>,
}

impl Siblings {
    /// The state of a key that was never written.
    pub fn new() -> Self {
        Self::default()
    }

    /// The state of a key of which this much has been seen and nothing is left.
    pub fn seen(context: Context) -> Self {
        Self { context, versions: Vec::new() }
    }

    /// Whether every version was written, and deleted or expired, by this time.
    pub fn is_dead(&self, wall_ms: u64) -> bool {
        self.versions.iter().all(|version| version.stamp.wall_ms() <= wall_ms && !version.is_live(wall_ms))
    }

    /// Takes parts from outside. `None` unless the versions are sorted by dot without repetition and covered by
    /// the context.
    pub fn from_parts(context: Context, versions: Vec<Version>) -> Option<Self> {
        let valid = context.is_valid()
            && versions.is_sorted_by(|a, b| a.dot < b.dot)
            && versions.iter().all(|version| {
                version.dot.counter > 0
                    && context.covers(version.dot)
                    && version.supersedes.len() <= limits::SUPERSEDED_MAX
            });
        valid.then_some(Self { context, versions })
    }

    /// All writes that were seen, including those since superseded.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The surviving versions, tombstones and expired ones among them, sorted by dot.
    pub fn versions(&self) -> &[Version] {
        &self.versions
    }

    /// Whether the key was never written.
    pub fn is_empty(&self) -> bool {
        self.versions.is_empty() && self.context.is_empty()
    }

    /// What a reader sees: values that are neither deleted nor expired. A request that was coordinated twice,
    /// because its first reply was lost, counts once, and not at all once it was superseded under one of its dots.
    pub fn live(&self, wall_ms: u64) -> impl Iterator<Item = &Version> {
        let mut seen = BTreeSet::new();
        self.current().filter(move |version| version.is_live(wall_ms) && seen.insert(version.request))
    }

    /// The version with the latest stamp, what a reader of a last-write-wins namespace sees, if it is live.
    pub fn latest(&self, wall_ms: u64) -> Option<&Version> {
        // Ties between stamps of two coordinators are broken by the dot, the same on every replica.
        let latest = self.current().max_by_key(|version| (version.stamp, version.dot));
        latest.filter(|version| version.is_live(wall_ms))
    }

    /// The versions that no other one supersedes by their request.
    fn current(&self) -> impl Iterator<Item = &Version> {
        self.versions.iter().filter(|version| self.successor(version.request).is_none())
    }

    /// What a writer with this context has not seen, tombstones among it. A write that was coordinated twice has been seen
    /// with either of its versions; `after` are the writes that the writer has made or read.
    pub fn unseen<'a>(&'a self, seen: &'a Context, after: &[RequestId]) -> impl Iterator<Item = &'a Version> {
        let known: BTreeSet<RequestId> = self
            .versions
            .iter()
            .filter(|version| seen.covers(version.dot))
            .map(|version| version.request)
            .chain(after.iter().copied())
            .collect();
        self.current().filter(move |version| !seen.covers(version.dot) && !known.contains(&version.request))
    }

    /// The writes that whoever reads this has seen: first what was superseded lately, then what is here, the latest last.
    pub fn writes_seen(&self) -> Vec<RequestId> {
        let mut versions: Vec<&Version> = self.versions.iter().collect();
        versions.sort_by_key(|version| (version.stamp, version.dot));
        writes_of(&versions)
    }

    /// Whether this write was done, though it may have been superseded since.
    pub fn has_done(&self, request: RequestId) -> bool {
        self.versions.iter().any(|version| version.request == request) || self.successor(request).is_some()
    }

    /// The version that superseded a request.
    fn successor(&self, request: RequestId) -> Option<&Version> {
        self.versions.iter().find(|version| version.supersedes.contains(&request))
    }

    /// The latest stamp among the versions.
    pub fn latest_stamp(&self) -> Option<Stamp> {
        self.versions.iter().map(|version| version.stamp).max()
    }

    /// Bytes of all values together.
    pub fn value_bytes(&self) -> usize {
        self.versions.iter().filter_map(|version| version.value.as_ref()).map(Bytes::len).sum()
    }

    /// Number and bytes of the writes here. One that was coordinated twice counts once: its writer made but one, and is not
    /// to be refused another because a node was slow.
    pub fn writes(&self) -> (usize, usize) {
        let mut seen = BTreeSet::new();
        let writes = self.versions.iter().filter(|version| seen.insert(version.request));
        let bytes = |version: &Version| version.value.as_ref().map_or(0, Bytes::len);
        writes.fold((0, 0), |(count, total), version| (count + 1, total + bytes(version)))
    }

    /// Adds a write that has seen `seen`: it supersedes exactly the versions which that covers, and is concurrent
    /// with the others. Its dot counts from above `floor`: what the actor may have named in a record that was forgotten.
    pub fn put(&mut self, seen: &Context, new: NewVersion, actor: Actor, floor: u64) -> Put {
        let same = self.versions.iter().find(|version| version.request == new.request);
        if let Some(same) = same.or_else(|| self.successor(new.request)) {
            return Put::Repeated(same.dot);
        }
        let stamp = self.latest_stamp().map_or(new.stamp, |latest| new.stamp.max(latest.next()));
        let supersedes = self.supersede(seen, new.after);
        self.context.merge(seen);
        let dot = Dot { actor, counter: self.context.count(actor).max(floor) + 1 };
        self.context.add(dot);
        let NewVersion { request, expires_at, value, .. } = new;
        let version = Version { dot, stamp, request, expires_at, value, supersedes };
        let at = self.versions.partition_point(|other| other.dot < dot);
        self.versions.insert(at, version);
        Put::Added(dot)
    }

    /// Removes the versions that were seen, with their twins from other coordinators and what those superseded. Returns
    /// the requests that are superseded, the latest last.
    fn supersede(&mut self, seen: &Context, after: Vec<RequestId>) -> Vec<RequestId> {
        let mut requests = after;
        loop {
            let (mut gone, kept): (Vec<Version>, Vec<Version>) = std::mem::take(&mut self.versions)
                .into_iter()
                .partition(|version| seen.covers(version.dot) || requests.contains(&version.request));
            self.versions = kept;
            if gone.is_empty() {
                break;
            }
            gone.sort_by_key(|version| (version.stamp, version.dot));
            let mut found = writes_of(&gone.iter().collect::<Vec<_>>());
            found.retain(|request| !requests.contains(request));
            requests.splice(..0, found);
        }
        requests.drain(..requests.len().saturating_sub(limits::SUPERSEDED_MAX));
        requests
    }

    /// Joins with the state of another replica: commutative, associative and idempotent. A version survives when
    /// both have it, or when the side that lacks it has not seen it.
    pub fn merge(&mut self, other: &Self) {
        let (mine, theirs) = (&self.versions, &other.versions);
        let has = |versions: &[Version], dot| versions.binary_search_by_key(&dot, |version| version.dot).is_ok();
        let survives_mine = |version: &&Version| has(theirs, version.dot) || !other.context.covers(version.dot);
        let survives_theirs = |version: &&Version| !has(mine, version.dot) && !self.context.covers(version.dot);
        let mut versions: Vec<Version> = mine.iter().filter(survives_mine).cloned().collect();
        versions.extend(theirs.iter().filter(survives_theirs).cloned());
        versions.sort_by_key(|version| version.dot);
        self.versions = versions;
        self.context.merge(&other.context);
    }

    /// Removes the versions with these names, as if they had been superseded. Returns whether there were any.
    pub fn forget(&mut self, dots: &[Dot]) -> bool {
        let before = self.versions.len();
        self.versions.retain(|version| !dots.contains(&version.dot));
        self.versions.len() < before
    }

    /// How this state relates to `other`, by what each has seen.
    pub fn compare(&self, other: &Self) -> Causality {
        self.context.compare(&other.context)
    }
}

/// The writes of these versions, without repetition: first those that they superseded, which matter less when there is no room
/// for all, then their own.
fn writes_of(versions: &[&Version]) -> Vec<RequestId> {
    let own: Vec<RequestId> = versions.iter().map(|version| version.request).collect();
    let before = versions.iter().flat_map(|version| &version.supersedes).filter(|request| !own.contains(request));
    let mut seen = BTreeSet::new();
    before.chain(&own).copied().filter(|request| seen.insert(*request)).collect()
}
