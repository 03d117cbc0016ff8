//! Why a change should not be: what it would put at risk, or what would keep it from ever ending.

use crate::layout::Change;
use crate::layout::Layout;
use crate::plan::Facts;
use crate::plan::NodePlan;
use crate::plan::Plan;
use crate::plan::ZonePlan;
use crate::types::Consistency;
use crate::types::Copies;
use crate::types::Namespace;
use crate::types::NamespacePolicy;
use crate::types::NodeName;
use crate::view::ClusterView;

/// Ratio of what a node owns to its ideal above which that is worth a note.
const UNEVEN: f64 = 1.05;

/// Notes what is dangerous and what is worth knowing, by the view that is planned and the layout that is voted on now.
pub(super) fn judge(plan: &mut Plan, view: &ClusterView, change: &Change, facts: &Facts, now: &Layout) {
    if *change == Change::Cancel {
        return;
    }
    let mut dangers = of_the_change(change, facts);
    dangers.extend(of_copies(plan, view));
    dangers.extend(of_counts(plan, view));
    dangers.extend(of_members(plan, view, facts, now));
    if let Change::Copies { namespace, .. } = change {
        dangers.extend(of_fewer_copies(view, namespace));
    }
    plan.dangers = dangers;
    for ring in plan.rings.iter().filter(|ring| ring.max_over_mean.1 > UNEVEN) {
        let (n, ratio) = (ring.copies.next, ring.max_over_mean.1);
        plan.notes
            .push(format!("with {n} copies, one node owns {ratio:.2} times what is its share by weight and zones"));
    }
    let owners = plan.nodes.iter().filter(|node| node.weight.1.is_some_and(|weight| weight > 0)).count();
    let partitions = view.partitions();
    if owners > partitions.suits_nodes() {
        let (count, suits) = (partitions.count(), partitions.suits_nodes());
        let text =
            format!("{count} partitions suit up to {suits} nodes: with more of them (`cluster split`) less would move");
        plan.notes.push(text);
    }
    if matches!(change, Change::Split { .. }) {
        let text =
            "each node reads its storage once, for the hash trees of the smaller partitions, before anything is copied";
        plan.notes.push(text.to_owned());
    }
    if plan.next.next.as_ref().is_some_and(|next| next.since < plan.next.version) {
        plan.notes.push(
            "a change is under way: this one joins it, and both begin again with what is still to be copied".to_owned(),
        );
    }
}

/// Of what is asked for itself.
fn of_the_change(change: &Change, facts: &Facts) -> Vec<String> {
    let lives = |name: &NodeName| facts.alive.contains(name);
    let text = match change {
        Change::Remove { name } if lives(name) => {
            format!(
                "{name} answers: `leave` lets it hand over what it has, `remove` is for a node that will not come back"
            )
        }
        Change::Replace { old, .. } if lives(old) => {
            format!(
                "{old} answers: `replace` is for a node that will not come back; let the new one join, then let {old} leave"
            )
        }
        Change::Replace { new, .. } if !lives(new) => format!("{new} does not answer: start it first"),
        Change::Join { name, .. } if !lives(name) => format!("{name} does not answer: start it first"),
        Change::Leave { name } if !lives(name) => {
            format!("{name} does not answer and can hand over nothing: `remove` it if it will not come back")
        }
        _ => return Vec::new(),
    };
    vec![text]
}

/// Of too few copies that answer while it goes on.
fn of_copies(plan: &Plan, view: &ClusterView) -> Vec<String> {
    let short = view.namespaces().filter_map(|(name, policy)| {
        let copies = view.copies(name)?;
        let ring = plan.rings.iter().find(|ring| ring.copies == copies)?;
        let sides = [(copies.now, ring.live_least.0), (copies.next, ring.live_least.1)];
        let needs = sides.map(|(n, live)| (levels(policy, n), live));
        let (r, w, live) = needs.into_iter().find_map(|((r, w), live)| (live < r.max(w)).then_some((r, w, live)))?;
        Some(format!("namespace {name} needs R={r} and W={w}, and of some partition only {live} owners would answer while it goes on"))
    });
    short.collect()
}

/// R and W of so many copies.
fn levels(policy: &NamespacePolicy, n: u8) -> (usize, usize) {
    let level = |asked: Consistency| usize::from(asked.within(n).needed(n).unwrap_or(n));
    (level(policy.r), level(policy.w))
}

/// Of a number of copies that protects less than the present one.
fn of_fewer_copies(view: &ClusterView, namespace: &Namespace) -> Vec<String> {
    let (Some(policy), Some(copies)) = (view.policy(namespace), view.copies(namespace)) else { return Vec::new() };
    let at = |n: u8| {
        let (r, w) = levels(policy, n);
        (r, w, usize::from(n) - r.max(w), r + w > usize::from(n))
    };
    let (_, _, spare_now, overlap_now) = at(copies.now);
    let (r, w, spare, overlap) = at(copies.next);
    let n = copies.next;
    let mut dangers = Vec::new();
    if n == 1 && copies.now > 1 {
        dangers.push(format!("each key of namespace {namespace} would be on one node: what that loses is lost"));
    } else if spare == 0 && spare_now > 0 {
        dangers.push(format!(
            "with R={r} and W={w} of {n} copies, namespace {namespace} needs all owners of a key: none may be down"
        ));
    }
    if overlap_now && !overlap {
        dangers.push(format!(
            "R={r} and W={w} of {n} copies do not overlap: reads of namespace {namespace} could miss what was written"
        ));
    }
    dangers
}

/// Of too few nodes or zones in the end.
fn of_counts(plan: &Plan, view: &ClusterView) -> Vec<String> {
    let most = |of: fn(Copies) -> u8| view.all_copies().map(of).max().map_or(1, usize::from);
    let (most_before, most) = (most(|copies| copies.now), most(|copies| copies.next));
    let owners = |after: bool| {
        let weight = |node: &NodePlan| if after { node.weight.1 } else { node.weight.0 };
        plan.nodes.iter().filter(|node| weight(node).is_some_and(|weight| weight > 0)).count()
    };
    let mut dangers = Vec::new();
    let (before, after) = (owners(false), owners(true));
    if after < most && (after < before || most > most_before) {
        dangers.push(format!("there would be {after} nodes for {most} copies of each key"));
    }
    let zones = |of: fn(&ZonePlan) -> usize| plan.zones.iter().filter(|zone| of(zone) > 0).count();
    let (before, after) = (zones(|zone| zone.nodes.0), zones(|zone| zone.nodes.1));
    if after < before && after < most {
        let lost: Vec<&str> =
            plan.zones.iter().filter(|zone| zone.nodes.1 == 0).map(|zone| zone.name.as_str()).collect();
        dangers.push(format!(
            "no node would be left in zone {}: {most} copies of each key would be in {after} zones instead of {}",
            lost.join(", "),
            before.min(most)
        ));
    }
    dangers
}

/// Of members that would keep it from ending.
fn of_members(plan: &Plan, view: &ClusterView, facts: &Facts, now: &Layout) -> Vec<String> {
    let layout = view.layout();
    let mut dangers = Vec::new();
    let voters: Vec<&NodeName> = now.voters().collect();
    let up = voters.iter().filter(|name| facts.alive.contains(**name)).count();
    if up * 2 <= voters.len() {
        dangers.push(format!("{up} of {} members answer: a change needs a majority of them; if the others are gone for good, see --without-majority of `cluster remove`", voters.len()));
    }
    for node in plan.nodes.iter().filter(|node| !node.alive && node.gains > 0 && !layout.is_dead(&node.name)) {
        let name = &node.name;
        // Of one that is to join it was said already.
        if layout.current.has(name) {
            dangers.push(format!(
                "{name} does not answer and would get {} partitions more: the change waits for it",
                node.gains
            ));
        }
    }
    dangers
}
