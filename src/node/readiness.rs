//! Whether this node can do its part, and what keeps it from that.

use crate::node::core::Core;
use crate::ring::Ring;
use crate::store::Health;
use crate::types::{Consistency, NamespacePolicy};

/// Most reasons that are told; the others are alike.
const REASONS_MAX: usize = 8;

/// Why this node is not ready; empty when it is.
pub(crate) fn obstacles(core: &Core) -> Vec<String> {
    let mut reasons = Vec::new();
    if core.rest.is_stopping() {
        reasons.push("the node is shutting down".to_owned());
    }
    match core.engine.health() {
        Health::Down { reason } => reasons.push(format!("storage is down: {reason}")),
        Health::ReadOnly { reason } => reasons.push(format!("storage takes no writes: {reason}")),
        Health::Ok | Health::Slow { .. } | Health::LosingData { .. } => {}
    }
    if let Some(reason) = core.past.catching_up() {
        reasons.push(format!("the node answers no reads until it has caught up: {reason}"));
    }
    reasons.extend(quorums(core));
    reasons.truncate(REASONS_MAX);
    reasons
}

/// The namespaces in which partitions of this node have too few nodes for their quorums.
fn quorums(core: &Core) -> Vec<String> {
    let view = core.view();
    let lost: Vec<String> = view
        .members()
        .iter()
        .filter(|(id, _)| !core.is_reachable(**id))
        .map(|(_, member)| member.name.to_string())
        .collect();
    if lost.is_empty() {
        return Vec::new();
    }
    let short = view.namespaces().filter_map(|(name, policy)| {
        let needed = needed(policy);
        let (own, short) = count(core, view.ring(view.copies(name)?)?, policy, needed);
        let lost = lost.join(", ");
        (short > 0).then(|| {
            format!("namespace {name}: {short} of this node's {own} partitions lack a quorum of {needed}: not connected to {lost}")
        })
    });
    short.collect()
}

/// The replicas that both reads and writes of a namespace can count on needing, unless a request says otherwise.
fn needed(policy: &NamespacePolicy) -> usize {
    // A level above N was refused when the view was made.
    let level = |level: Consistency| level.needed(policy.n).unwrap_or(policy.n);
    usize::from(level(policy.r).max(level(policy.w)))
}

/// How many partitions this node owns, and how many of them have too few nodes.
fn count(core: &Core, ring: &Ring, policy: &NamespacePolicy, needed: usize) -> (usize, usize) {
    let (mut own, mut short) = (0, 0);
    for partition in ring.partitions().iter() {
        let owners = ring.preference_list(partition);
        if !owners.contains(&core.id) {
            continue;
        }
        own += 1;
        let mut reachable = owners.iter().filter(|node| core.is_reachable(**node)).count();
        if reachable < needed && policy.sloppy {
            reachable += ring.stand_ins(partition).into_iter().filter(|node| core.is_reachable(*node)).count();
        }
        short += usize::from(reachable < needed);
    }
    (own, short)
}
