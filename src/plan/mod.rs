//! What a change of owners would do, worked out before it is asked for: what moves, how long that takes, how many copies
//! answer meanwhile, how even it is in the end, and why one should not.
//!
//! Pure: who answers, what nodes hold and how fast they copy are arguments. It changes nothing, and knows nothing of how a
//! change is carried out beyond [`crate::layout`].

mod dangers;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use crate::hash::ClusterHash;
use crate::layout::Change;
use crate::layout::ChangeError;
use crate::layout::Layout;
use crate::ring::Ring;
use crate::types::Copies;
use crate::types::NodeId;
use crate::types::NodeName;
use crate::types::Zone;
use crate::view::ClusterView;
use crate::view::ViewError;

/// What is known of the nodes.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Nodes that answer, members or not.
    pub alive: BTreeSet<NodeName>,
    /// Bytes in the storage of each that said so.
    pub bytes: BTreeMap<NodeName, u64>,
    /// Bytes a second that one node takes in; more than 0.
    pub rate: u64,
}

/// A change, worked out.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The layout with which it begins.
    pub next: Layout,
    /// All that is then under way: a change that was under way before is part of it.
    pub changes: Vec<Change>,
    /// For each number of copies in use.
    pub rings: Vec<RingPlan>,
    /// The nodes concerned, by name.
    pub nodes: Vec<NodePlan>,
    /// The zones, by name.
    pub zones: Vec<ZonePlan>,
    /// Copies of partitions that are made.
    pub copies: u64,
    /// Those that no placement with the same shares could avoid.
    pub least_copies: u64,
    /// Bytes that move, if every copy of a partition is like the others. `None` when no node said what it holds.
    pub bytes: Option<u64>,
    /// How long the node that gets most takes for it.
    pub takes: Option<Duration>,
    /// Why it should not be; empty when it is safe.
    pub dangers: Vec<String>,
    /// What should be known all the same.
    pub notes: Vec<String>,
}

/// The partitions of which there are so many copies.
#[derive(Debug, Clone, PartialEq)]
pub struct RingPlan {
    /// Copies wanted.
    pub copies: Copies,
    /// Least number of owners of a partition that answer now.
    pub live_now: usize,
    /// The same while it goes on, of the present owners and of the next.
    pub live_least: (usize, usize),
    /// The weighted maximum of what nodes own over the mean, now and afterwards.
    pub max_over_mean: (f64, f64),
}

/// A node before and after.
#[derive(Debug, Clone, PartialEq)]
pub struct NodePlan {
    /// Its name.
    pub name: NodeName,
    /// Its zone afterwards, or else now.
    pub zone: Zone,
    /// Whether it answers.
    pub alive: bool,
    /// Its weight before and after; `None` where it has no role.
    pub weight: (Option<u32>, Option<u32>),
    /// Partitions that it owns before and after, counted once for each number of copies.
    pub owned: (u32, u32),
    /// Partitions that it has to fetch.
    pub gains: u32,
    /// Those that it gives up.
    pub loses: u32,
    /// Bytes that it has to fetch.
    pub bytes: Option<u64>,
    /// What it owns afterwards as a part of what it ought to.
    pub ratio: f64,
}

/// A zone before and after.
#[derive(Debug, Clone, PartialEq)]
pub struct ZonePlan {
    /// Its name.
    pub name: Zone,
    /// Nodes with a share, before and after.
    pub nodes: (usize, usize),
    /// Partitions owned before and after, counted once for each number of copies.
    pub owned: (u32, u32),
}

/// Why nothing could be worked out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// It cannot be.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// There is no placement for it.
    #[error(transparent)]
    View(#[from] ViewError),
}

impl Plan {
    /// Works a change out. One that has to wait until the change before is completed is worked out from the outcome of that.
    ///
    /// # Errors
    /// [`PlanError`] when it cannot be at all, forced or not.
    pub fn of(view: &ClusterView, change: &Change, facts: &Facts) -> Result<Self, PlanError> {
        view.check_change(change)?;
        let layout = view.layout();
        let Some(completed) = layout.completed().filter(|_| *change != Change::Cancel) else {
            return Self::from(view, change.apply(layout)?, change, facts);
        };
        match (change.apply(&completed), change.give_up(layout)) {
            // It leaves anyhow, and nothing more is expected of it.
            (Err(ChangeError::NotAMember(_)), Ok(given_up)) => Self::from(view, given_up, change, facts),
            (next, _) => Self::from(&view.becoming(view.info().by(completed))?, next?, change, facts),
        }
    }

    fn from(view: &ClusterView, next: Layout, change: &Change, facts: &Facts) -> Result<Self, PlanError> {
        let planned = view.becoming(view.info().by(next.clone()))?;
        let rings = rings(&planned);
        let changes = next.differences();
        let per_copy = bytes_per_copy(&planned, facts);
        let nodes = nodes(&planned, &rings, facts, per_copy);
        let mut plan = Self {
            rings: rings.iter().map(|rings| ring_plan(&planned, rings, facts)).collect(),
            zones: zones(&planned, &nodes),
            copies: nodes.iter().map(|node| u64::from(node.gains)).sum(),
            least_copies: rings.iter().map(|rings| rings.now.moves_to(rings.next).least).sum(),
            bytes: nodes.iter().map(|node| node.bytes).sum(),
            takes: nodes.iter().filter_map(|node| node.bytes).max().map(|most| takes(most, facts.rate)),
            dangers: Vec::new(),
            notes: Vec::new(),
            next,
            changes,
            nodes,
        };
        dangers::judge(&mut plan, &planned, change, facts, view.layout());
        Ok(plan)
    }
}

fn takes(bytes: u64, rate: u64) -> Duration {
    Duration::from_secs(bytes.div_ceil(rate.max(1)))
}

/// The rings for one number of copies.
struct Rings<'a> {
    copies: Copies,
    now: &'a Ring,
    next: &'a Ring,
}

fn rings(view: &ClusterView) -> Vec<Rings<'_>> {
    let rings = view.all_copies().filter_map(|copies| {
        let now = view.ring(copies)?;
        Some(Rings { copies, now, next: view.other_ring(copies).unwrap_or(now) })
    });
    rings.collect()
}

/// The mean of what a copy of a partition takes, over the nodes that said what they hold.
fn bytes_per_copy(view: &ClusterView, facts: &Facts) -> Option<f64> {
    let (mut copies, mut bytes) = (0, 0.0);
    for (name, held) in &facts.bytes {
        let node = ClusterHash::node_id(name);
        let owned: usize =
            view.all_copies().filter_map(|copies| view.ring(copies)).map(|ring| ring.owned(node).count()).sum();
        if owned > 0 {
            copies += owned;
            bytes += *held as f64;
        }
    }
    (copies > 0).then(|| bytes / copies as f64)
}

fn is_alive(view: &ClusterView, node: NodeId, facts: &Facts) -> bool {
    view.members().get(&node).is_some_and(|member| facts.alive.contains(&member.name))
}

fn ring_plan(view: &ClusterView, rings: &Rings<'_>, facts: &Facts) -> RingPlan {
    let dead: BTreeSet<NodeId> = view.layout().dead().map(ClusterHash::node_id).collect();
    let live =
        |owners: &[NodeId]| owners.iter().filter(|node| !dead.contains(*node) && is_alive(view, **node, facts)).count();
    let least =
        |of: &dyn Fn(crate::types::PartitionId) -> usize| rings.now.partitions().iter().map(of).min().unwrap_or(0);
    let now = least(&|partition| {
        rings.now.preference_list(partition).iter().filter(|node| is_alive(view, **node, facts)).count()
    });
    let least_of = |ring: &Ring| least(&|partition| live(ring.preference_list(partition)));
    let max_over_mean = (rings.now.balance().max_over_mean, rings.next.balance().max_over_mean);
    RingPlan {
        copies: rings.copies,
        live_now: now,
        live_least: (least_of(rings.now), least_of(rings.next)),
        max_over_mean,
    }
}

fn nodes(view: &ClusterView, rings: &[Rings<'_>], facts: &Facts, per_copy: Option<f64>) -> Vec<NodePlan> {
    let layout = view.layout();
    let after = &layout.last_placement().roles;
    let mut ideals: BTreeMap<NodeId, f64> = BTreeMap::new();
    for load in rings.iter().flat_map(|rings| rings.next.balance().nodes) {
        *ideals.entry(load.node).or_default() += load.ideal;
    }
    let plan = |(name, role): (&NodeName, &crate::layout::Role)| {
        let node = ClusterHash::node_id(name);
        let (mut owned, mut gains, mut loses) = ((0, 0), 0, 0);
        for Rings { now, next, .. } in rings {
            let (before, later): (BTreeSet<_>, BTreeSet<_>) = (now.owned(node).collect(), next.owned(node).collect());
            owned = (owned.0 + count(before.len()), owned.1 + count(later.len()));
            gains += count(later.difference(&before).count());
            loses += count(before.difference(&later).count());
        }
        let ideal = ideals.get(&node).copied().unwrap_or(0.0);
        NodePlan {
            name: name.clone(),
            zone: after.get(name).map_or_else(|| role.zone.clone(), |role| role.zone.clone()),
            alive: facts.alive.contains(name),
            weight: (layout.current.roles.get(name).map(|role| role.weight), after.get(name).map(|role| role.weight)),
            owned,
            gains,
            loses,
            bytes: per_copy.map(|bytes| whole(bytes * f64::from(gains))),
            ratio: if ideal > 0.0 { f64::from(owned.1) / ideal } else { 1.0 },
        }
    };
    layout.members().into_iter().map(plan).collect()
}

fn count(items: usize) -> u32 {
    u32::try_from(items).unwrap_or(u32::MAX)
}

/// A whole number of bytes, as near as an estimate needs.
fn whole(bytes: f64) -> u64 {
    Duration::try_from_secs_f64(bytes).map_or(u64::MAX, |span| span.as_secs())
}

fn zones(view: &ClusterView, nodes: &[NodePlan]) -> Vec<ZonePlan> {
    let layout = view.layout();
    let mut zones: BTreeMap<Zone, ZonePlan> = BTreeMap::new();
    let blank = |name: &Zone| ZonePlan { name: name.clone(), nodes: (0, 0), owned: (0, 0) };
    for node in nodes {
        // A node may be in one zone before and in another afterwards.
        let before = layout.current.roles.get(&node.name);
        if let Some(role) = before.filter(|role| role.weight > 0) {
            let zone = zones.entry(role.zone.clone()).or_insert_with(|| blank(&role.zone));
            (zone.nodes.0, zone.owned.0) = (zone.nodes.0 + 1, zone.owned.0 + node.owned.0);
        }
        if node.weight.1.is_some_and(|weight| weight > 0) {
            let zone = zones.entry(node.zone.clone()).or_insert_with(|| blank(&node.zone));
            (zone.nodes.1, zone.owned.1) = (zone.nodes.1 + 1, zone.owned.1 + node.owned.1);
        }
    }
    zones.into_values().collect()
}
