//! Anti-entropy: each tree of this node is compared with each other owner's, over and over, and what differs is brought
//! together.
//!
//! Always on and paced: what was compared least recently comes first, one exchange at a time, and after each a pause in
//! proportion to what it took. A peer that is back, a partition that was read anew: these only change the order. What nodes
//! stand in for is not compared; that is the hints' to deliver.

pub(crate) mod answer;
mod busy;
pub(crate) mod check;
mod exchange;
pub(crate) mod file;
pub(crate) mod records;
mod report;
mod schedule;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use crate::limits;
use crate::merkle::Leaves;
use crate::node::core::Core;
use crate::node::sync::busy::Busy;
use crate::node::sync::exchange::{Exchange, Moved, SyncError};
use crate::node::sync::report::Asked;
use crate::node::sync::schedule::Schedule;
use crate::types::{NodeId, PartitionId};
use crate::view::ClusterView;
use crate::wire::sync::{RootVerdict, TreeId, TreeRoot};

pub(crate) use report::{knows_all, repair, repair_task, status};

/// How long a peer has been connected before trees are compared with it: hints bring most of what it missed more cheaply.
const SETTLING: Duration = Duration::from_secs(2);
/// Pause after comparisons that found nothing, in times of what they took.
const PAUSE_EQUAL: u32 = 9;
/// Pause while there is something to bring together.
const PAUSE_DIFFERENT: u32 = 1;
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// What is added to the interval between comparisons, at random, so that they spread.
const SPREAD: Range<Duration> = Duration::ZERO..Duration::from_secs(8);
/// What is added to the shorter pauses, so that two nodes that got in each other's way do not again.
const SPREAD_SHORT: Range<Duration> = Duration::ZERO..Duration::from_millis(500);

/// What anti-entropy keeps in mind.
#[derive(Debug)]
pub(crate) struct Sync {
    schedule: Mutex<Schedule>,
    owned: Mutex<Arc<[PartitionId]>>,
    /// Partitions whose trees are kept: those that are owned, or all where owners have changed, since this node may have to
    /// fetch or to hand over any.
    known: Mutex<Arc<[PartitionId]>>,
    busy: Busy,
    /// Room for pages that are put together for peers.
    answers: Semaphore,
    traffic: Mutex<BTreeMap<NodeId, Traffic>>,
    /// The last repair that an administrator asked for.
    repair: Mutex<Option<Asked>>,
    /// Trees that could not be made equal with a peer, since records were not taken over.
    refused: Mutex<BTreeSet<(NodeId, TreeId)>>,
    rng: Mutex<StdRng>,
}

/// What went to and fro in exchanges that this node began.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Traffic {
    pub(crate) records_in: u64,
    pub(crate) records_out: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sync {
    /// Nothing to compare yet.
    pub(crate) fn new(rng: StdRng) -> Self {
        Self {
            schedule: Mutex::default(),
            owned: Mutex::new(Arc::from([])),
            known: Mutex::new(Arc::from([])),
            busy: Busy::default(),
            answers: Semaphore::new(limits::SYNC_ANSWERS_MAX),
            traffic: Mutex::default(),
            repair: Mutex::default(),
            refused: Mutex::default(),
            rng: Mutex::new(rng),
        }
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        lock(&self.schedule)
    }

    fn owned(&self) -> Arc<[PartitionId]> {
        lock(&self.owned).clone()
    }

    fn known(&self) -> Arc<[PartitionId]> {
        lock(&self.known).clone()
    }

    fn count(&self, peer: NodeId, add: impl FnOnce(&mut Traffic)) {
        add(lock(&self.traffic).entry(peer).or_default());
    }

    fn random<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut lock(&self.rng))
    }

    /// Makes all comparisons due at once.
    pub(crate) fn compare_all(&self) {
        self.schedule().hurry(None, None, Instant::now());
    }

    /// Whether this node's trees were found equal with those of their other owners since then, as far as those are waited
    /// for and can be made equal; with one of them at least, if there are any.
    pub(crate) fn is_equal_since(&self, core: &Core, since: Instant, waits_for: impl Fn(NodeId) -> bool) -> bool {
        let owned = self.owned();
        let known = core.trees.with(|forest| owned.iter().all(|partition| forest.is_known(*partition)));
        let refused = lock(&self.refused);
        known && self.schedule().is_done(since, |peer, tree| waits_for(peer) && !refused.contains(&(peer, tree)))
    }

    /// Forgets where records were not taken over, of a partition or of all.
    fn forget_refused(&self, partition: Option<PartitionId>) {
        let keep = |tree: &TreeId| partition.is_some_and(|partition| partition != tree.partition);
        lock(&self.refused).retain(|(_, tree)| keep(tree));
    }

    /// With how many of its other owners a tree cannot be made equal.
    fn refused(&self, tree: TreeId) -> u32 {
        let count = lock(&self.refused).iter().filter(|(_, of)| *of == tree).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Whether a tree was found equal with all its other owners since then.
    pub(crate) fn agreed_since(&self, tree: TreeId, since: Instant) -> bool {
        let trees = self.schedule().by_tree(Some(tree.partition), since);
        trees.get(&tree).is_some_and(|progress| progress.done == progress.pairs)
    }

    /// Notes whether records were not taken over when a tree was brought together with a peer. Returns whether that is
    /// worth a warning: it may go on for ever, once for each try.
    fn note_refused(&self, peer: NodeId, tree: TreeId, refused: bool) -> bool {
        let mut noted = lock(&self.refused);
        if refused {
            return noted.insert((peer, tree));
        }
        noted.remove(&(peer, tree));
        false
    }

    /// Compares what this node owns in this view, with those who own it, too.
    fn follow(&self, own: NodeId, view: &ClusterView) {
        let (mut pairs, mut owned) = (BTreeSet::new(), BTreeSet::new());
        for (copies, ring) in view.all_copies().filter_map(|copies| Some((copies, view.ring(copies)?))) {
            for partition in ring.owned(own) {
                owned.insert(partition);
                let others = ring.preference_list(partition).iter().filter(|peer| **peer != own);
                pairs.extend(others.map(|peer| (*peer, TreeId { partition, copies })));
            }
        }
        let owned: Arc<[PartitionId]> = owned.into_iter().collect();
        let all = || view.partitions().iter().collect();
        *lock(&self.known) = if view.version() == 0 { owned.clone() } else { all() };
        *lock(&self.owned) = owned;
        self.schedule().follow(&pairs, Instant::now());
        lock(&self.refused).retain(|pair| pairs.contains(pair));
        lock(&self.traffic).retain(|peer, _| view.members().contains_key(peer));
    }
}

/// What looking for differences in a tree came to.
pub(crate) enum Descended {
    /// There are none.
    Equal,
    /// These leaves differ.
    Differ(Leaves),
    /// One of the sides cannot say now.
    Unknown(String),
    /// This node does not own the tree.
    NotComparable,
}

/// Looks for the leaves in which a peer's tree differs from this node's.
pub(crate) async fn descend(core: &Arc<Core>, peer: NodeId, tree: TreeId) -> Descended {
    let view = core.view();
    if !view.ring(tree.copies).is_some_and(|ring| ring.preference_list(tree.partition).contains(&core.id)) {
        return Descended::NotComparable;
    }
    match (Exchange { core, peer, takes: true, copies: false }).descend(tree).await {
        Ok(None) => Descended::Equal,
        Ok(Some(leaves)) => Descended::Differ(leaves),
        Err(error) => Descended::Unknown(error.to_string()),
    }
}

/// Compares until the scope of `core` is stopped.
pub(crate) async fn run(core: Arc<Core>) {
    tokio::select! {
        biased;
        () = core.rest.stopped() => {}
        () = compare_on(&core) => {}
    }
}

async fn compare_on(core: &Arc<Core>) {
    let mut followed: Option<Arc<ClusterView>> = None;
    let mut connected: BTreeMap<NodeId, Instant> = BTreeMap::new();
    loop {
        let view = core.view();
        if followed.as_ref().is_none_or(|followed| !Arc::ptr_eq(followed, &view)) {
            core.sync.follow(core.id, &view);
            followed = Some(view.clone());
        }
        note_connections(core, &view, &mut connected);
        let usable = |peer: NodeId| {
            let settled = connected.get(&peer).is_some_and(|since| since.elapsed() >= SETTLING);
            settled && !core.hints.is_delivering(peer)
        };
        let due = core.sync.schedule().next(Instant::now(), usable);
        let Some((peer, mut trees)) = due else {
            core.pace.look(&core.meters);
            core.rest.look(limits::LOOK_EVERY).await;
            continue;
        };
        let began = Instant::now();
        trees.retain(|tree| {
            !core.root(*tree).is_some_and(|root| core.sync.schedule().pass_over(peer, *tree, root, began))
        });
        if trees.is_empty() {
            continue;
        }
        if round(core, peer, trees).await {
            core.pace.rest(&core.meters, began.elapsed()).await;
        } else {
            sleep((began.elapsed() * PAUSE_EQUAL).min(PAUSE_MAX)).await;
        }
    }
}

/// Everything is compared with a peer that is back.
fn note_connections(core: &Core, view: &ClusterView, connected: &mut BTreeMap<NodeId, Instant>) {
    connected.retain(|peer, _| core.peers.is_connected(*peer));
    for peer in view.members().keys().filter(|peer| core.peers.is_connected(**peer)) {
        if !connected.contains_key(peer) {
            connected.insert(*peer, Instant::now());
            core.sync.schedule().hurry(Some(*peer), None, Instant::now());
        }
    }
}

/// Compares some trees with a peer and brings together those that differ. Returns whether any did.
async fn round(core: &Arc<Core>, peer: NodeId, trees: Vec<TreeId>) -> bool {
    let exchange = Exchange { core, peer, takes: true, copies: false };
    let spread = || core.sync.random(|rng| rng.random_range(SPREAD_SHORT));
    let offered = |tree: TreeId| core.root(tree).filter(|_| core.past.may_offer(tree));
    let root = |tree: TreeId| offered(tree).map(|root| TreeRoot { tree, root });
    let (known, unknown): (Vec<TreeId>, Vec<TreeId>) = trees.into_iter().partition(|tree| root(*tree).is_some());
    unknown.into_iter().for_each(|tree| core.sync.schedule().later(peer, tree, Instant::now(), spread()));
    let roots: Vec<TreeRoot> = known.into_iter().filter_map(root).collect();
    let verdicts = match exchange.roots(roots.clone()).await {
        Ok(verdicts) => verdicts,
        Err(error) => {
            tracing::debug!(%peer, %error, "trees cannot be compared now");
            roots.iter().for_each(|root| core.sync.schedule().postpone(peer, root.tree, Instant::now(), spread()));
            return false;
        }
    };
    let mut differ = Vec::new();
    for (TreeRoot { tree, root }, verdict) in roots.into_iter().zip(verdicts) {
        match verdict {
            RootVerdict::Differs => differ.push(tree),
            verdict => settle(core, peer, tree, Some(root), verdict),
        }
    }
    let any = !differ.is_empty();
    for tree in differ {
        bring_together(&exchange, tree).await;
    }
    any
}

/// Fetches what a peer has of a tree and this node lacks, and sends what it has that the peer lacks.
pub(crate) async fn fetch(core: &Arc<Core>, peer: NodeId, tree: TreeId) -> Result<Moved, SyncError> {
    once(&Exchange { core, peer, takes: true, copies: true }, tree).await
}

/// Sends what this node has of a tree and a peer lacks: after this, the peer has it all.
pub(crate) async fn hand_over(core: &Arc<Core>, peer: NodeId, tree: TreeId) -> Result<Moved, SyncError> {
    once(&Exchange { core, peer, takes: false, copies: false }, tree).await
}

/// One exchange that is not scheduled.
async fn once(exchange: &Exchange<'_>, tree: TreeId) -> Result<Moved, SyncError> {
    let (core, busy) = (exchange.core, || SyncError::Here("another exchange of the partition is under way".to_owned()));
    let _hold = core.sync.busy.hold(tree.partition).ok_or_else(busy)?;
    let _work = core.works.begin();
    let unknown = || SyncError::Here("the partition has to be read again first".to_owned());
    let root = core.root(tree).ok_or_else(unknown)?;
    match exchange.roots(vec![TreeRoot { tree, root }]).await?.first() {
        Some(RootVerdict::Equal) => Ok(Moved::default()),
        Some(RootVerdict::Differs) => exchange.run(tree).await,
        Some(RootVerdict::NotOwner) => Err(SyncError::Peer("owns no such records".to_owned())),
        Some(RootVerdict::Later) | None => Err(SyncError::Peer("is not ready to compare".to_owned())),
    }
}

/// Notes what became of a comparison that ends here, of this root if that is known.
fn settle(core: &Core, peer: NodeId, tree: TreeId, root: Option<u128>, verdict: RootVerdict) {
    let (now, long) = (Instant::now(), core.sync.random(|rng| rng.random_range(SPREAD)));
    let short = core.sync.random(|rng| rng.random_range(SPREAD_SHORT));
    let mut schedule = core.sync.schedule();
    match verdict {
        RootVerdict::Equal => schedule.verified(peer, tree, root, now, long),
        RootVerdict::Later => schedule.later(peer, tree, now, short),
        RootVerdict::Differs | RootVerdict::NotOwner => schedule.postpone(peer, tree, now, short),
    }
}

/// One exchange, and a look whether it has made the trees equal.
async fn bring_together(exchange: &Exchange<'_>, tree: TreeId) {
    let (core, peer) = (exchange.core, exchange.peer);
    let Some(hold) = core.sync.busy.hold(tree.partition) else {
        return settle(core, peer, tree, None, RootVerdict::Later);
    };
    let began = Instant::now();
    let work = core.works.begin();
    let outcome = match exchange.run(tree).await {
        Ok(moved) => {
            let TreeId { partition, copies } = tree;
            tracing::debug!(%peer, %partition, %copies, moved.received, moved.sent, "records brought together");
            verify(exchange, tree).await
        }
        Err(error) => Err(error),
    };
    drop((hold, work));
    let verdict = outcome.unwrap_or_else(|error| {
        note_failure(core, peer, tree, &error);
        RootVerdict::Differs
    });
    if verdict == RootVerdict::Equal {
        core.sync.note_refused(peer, tree, false);
    }
    settle(core, peer, tree, None, verdict);
    if verdict != RootVerdict::Equal {
        // Whatever was in the way, the next tree must not follow at once.
        sleep((began.elapsed() * PAUSE_DIFFERENT).min(PAUSE_MAX)).await;
    }
}

/// Tells why two trees are still different, once as a warning where more tries may not help.
fn note_failure(core: &Core, peer: NodeId, tree: TreeId, error: &SyncError) {
    let TreeId { partition, copies } = tree;
    if let SyncError::Records(count, _) = error {
        core.meters.sync_refused.count(*count);
        if core.sync.note_refused(peer, tree, true) {
            tracing::warn!(%peer, %partition, %copies, %error, "replicas differ; they are tried again, silently from now on");
            return;
        }
    }
    tracing::debug!(%peer, %partition, %copies, %error, "trees were not brought together");
}

async fn verify(exchange: &Exchange<'_>, tree: TreeId) -> Result<RootVerdict, SyncError> {
    let Some(root) = exchange.core.root(tree) else { return Ok(RootVerdict::Later) };
    let verdicts = exchange.roots(vec![TreeRoot { tree, root }]).await?;
    Ok(verdicts.first().copied().unwrap_or(RootVerdict::Later))
}

#[cfg(test)]
mod tests {
    use super::*;

    use rand::SeedableRng;

    use crate::types::Copies;

    #[test]
    fn records_that_are_refused_again_and_again_are_worth_one_warning_until_the_trees_are_equal() {
        let sync = Sync::new(StdRng::seed_from_u64(1));
        let tree = |partition: u32| TreeId { partition: PartitionId(partition), copies: Copies::settled(3) };
        let note = |peer, at, refused| sync.note_refused(NodeId(peer), tree(at), refused);
        assert_eq!([note(1, 1, true), note(1, 1, true), note(1, 2, true), note(2, 1, true)], [true, false, true, true]);
        assert!(!note(1, 1, false));
        assert_eq!([note(1, 1, true), note(1, 2, true)], [true, false]);
    }
}
