//! How much each node ought to own: shares by weight, within what zones and distinctness allow, and capacities.
//!
//! Decides amounts only, not which partitions.

use std::collections::BTreeMap;

use crate::hash::ClusterHash;
use crate::ring::RingMember;
use crate::ring::score;
use crate::types::Partitions;
use crate::types::Zone;

/// How far above its ideal a node may be, as a fraction of it...
const SLACK: f64 = 0.05;
/// ... and in partitions, where that is more.
const SLACK_PARTITIONS: f64 = 1.0;
/// Slack that rounding capacities differently must leave: with less, displaced partitions wander on and on.
const SLACK_KEPT: f64 = 0.75;

/// How many owners of one partition may lie in a zone: as evenly as the sizes of the zones allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ZoneBounds {
    /// Each partition has at least this many owners here.
    pub(super) least: usize,
    /// Each partition has at most this many owners here.
    pub(super) most: usize,
}

/// Shares and capacities of the members with weight, by their index.
pub(super) struct Shares {
    /// Length of each preference list.
    pub(super) width: usize,
    /// Index of each node's zone.
    pub(super) zone_of: Vec<usize>,
    /// Bounds of each zone.
    pub(super) zones: Vec<ZoneBounds>,
    /// How many owners of a partition may lie in zones above their `least`.
    pub(super) extras: usize,
    /// Partitions each node ought to own.
    pub(super) ideal: Vec<f64>,
    /// Partitions each node may own.
    pub(super) limit: Vec<usize>,
    /// Partitions each node accepts at first; at most its limit.
    pub(super) capacity: Vec<usize>,
}

impl Shares {
    /// Computes the shares of `members`, all with weight above 0, for lists of `width`, which is at most their number.
    pub(super) fn new(hash: &ClusterHash, partitions: Partitions, width: usize, members: &[&RingMember]) -> Self {
        let (zone_of, sizes) = number_zones(members);
        let zones = zone_bounds(&sizes, width);
        let extras = width - zones.iter().map(|zone| zone.least).sum::<usize>();
        let weights: Vec<f64> = members.iter().map(|member| f64::from(member.weight)).collect();
        let count = f64::from(partitions.count());
        let ideal: Vec<f64> =
            fractions(&weights, &zone_of, &zones, width).into_iter().map(|part| part * count).collect();
        let limit: Vec<usize> = ideal.iter().map(|&ideal| floor(allowed(ideal).min(count))).collect();
        let dithered: Vec<usize> = members
            .iter()
            .zip(&ideal)
            .map(|(member, &ideal)| floor((allowed(ideal) - dither(hash, member, ideal)).min(count)))
            .collect();
        let capacity = with_room(&zone_of, zones.len(), &ideal, &limit, dithered);
        Self { width, zone_of, zones, extras, ideal, limit, capacity }
    }
}

/// The most a node with this ideal may own, before rounding down.
pub(super) fn allowed(ideal: f64) -> f64 {
    (ideal * (1.0 + SLACK)).max(ideal + SLACK_PARTITIONS)
}

/// What is taken off a node's capacity before it is rounded down. Without it the capacities of equal nodes would all
/// drop by one at the same join, and every full node would hand over a partition at once.
fn dither(hash: &ClusterHash, member: &RingMember, ideal: f64) -> f64 {
    score::rounding(hash, member.seat) * (allowed(ideal) - ideal - SLACK_KEPT).clamp(0.0, 1.0)
}

/// Rounds down; `x` is between 0 and the partition count.
pub(super) fn floor(x: f64) -> usize {
    // Sums of shares that are whole numbers may come out a little below them.
    const TOLERANCE: f64 = 1e-6;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to the partition count")]
    let whole = (x + TOLERANCE) as usize;
    whole
}

/// The capacities with dither, or the limits in zones where dither took too much.
fn with_room(zone_of: &[usize], zones: usize, ideal: &[f64], limit: &[usize], dithered: Vec<usize>) -> Vec<usize> {
    let mut missing = vec![0.0; zones];
    for (node, &zone) in zone_of.iter().enumerate() {
        missing[zone] += ideal[node] - dithered[node] as f64;
    }
    let chosen = dithered.into_iter().enumerate();
    chosen.map(|(node, capacity)| if missing[zone_of[node]] > 0.0 { limit[node] } else { capacity }).collect()
}

/// Numbers the zones by name: the zone of each member, and the members in each zone.
fn number_zones(members: &[&RingMember]) -> (Vec<usize>, Vec<usize>) {
    let mut numbers: BTreeMap<&Zone, usize> = members.iter().map(|member| (&member.zone, 0)).collect();
    for (number, slot) in numbers.values_mut().enumerate() {
        *slot = number;
    }
    let zone_of: Vec<usize> = members.iter().map(|member| numbers[&member.zone]).collect();
    let mut sizes = vec![0; numbers.len()];
    for &zone in &zone_of {
        sizes[zone] += 1;
    }
    (zone_of, sizes)
}

/// Spreads `width` owners over zones of these sizes: every zone gets one, as long as there are enough, then a second...
fn zone_bounds(sizes: &[usize], width: usize) -> Vec<ZoneBounds> {
    let filled = |level: usize| sizes.iter().map(|&size| size.min(level)).sum::<usize>();
    let level = (0..width).take_while(|&level| filled(level + 1) <= width).count();
    sizes.iter().map(|&size| ZoneBounds { least: size.min(level), most: size.min(level + 1) }).collect()
}

/// The part of all partitions that each node ought to own: proportional to its weight, but at most 1 (a node holds one
/// copy of a partition), and within the bounds of its zone.
fn fractions(weights: &[f64], zone_of: &[usize], zones: &[ZoneBounds], width: usize) -> Vec<f64> {
    let mut by_zone: Vec<Vec<f64>> = vec![Vec::new(); zones.len()];
    for (&weight, &zone) in weights.iter().zip(zone_of) {
        by_zone[zone].push(weight);
    }
    let zone_share = |zone: usize, factor: f64| {
        capped_sum(&by_zone[zone], factor).clamp(zones[zone].least as f64, zones[zone].most as f64)
    };
    let common = solve(width as f64, |factor| (0..zones.len()).map(|zone| zone_share(zone, factor)).sum());
    let factors: Vec<f64> = (0..zones.len())
        .map(|zone| {
            let share = zone_share(zone, common);
            solve(share, |factor| capped_sum(&by_zone[zone], factor))
        })
        .collect();
    weights.iter().zip(zone_of).map(|(weight, &zone)| (weight * factors[zone]).min(1.0)).collect()
}

fn capped_sum(weights: &[f64], factor: f64) -> f64 {
    weights.iter().map(|weight| (weight * factor).min(1.0)).sum()
}

/// The factor from 0 to 1 at which a rising function reaches `goal`. At 1 every node, whose weight is at least 1, has
/// the largest share there is, so the goal is always reached.
fn solve(goal: f64, at: impl Fn(f64) -> f64) -> f64 {
    let (mut below, mut above) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = (below + above) / 2.0;
        if at(middle) < goal { below = middle } else { above = middle }
    }
    above
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_take_owners_as_evenly_as_their_sizes_allow() {
        type Case<'a> = (&'a [usize], usize, &'a [(usize, usize)]);
        let cases: [Case<'_>; 6] = [
            (&[1, 1, 1], 3, &[(1, 1), (1, 1), (1, 1)]),
            (&[5, 5], 3, &[(1, 2), (1, 2)]),
            (&[5, 5, 5], 4, &[(1, 2), (1, 2), (1, 2)]),
            (&[5, 1], 3, &[(2, 3), (1, 1)]),
            (&[5, 5, 5, 5], 3, &[(0, 1), (0, 1), (0, 1), (0, 1)]),
            (&[2], 2, &[(2, 2)]),
        ];
        for (sizes, width, want) in cases {
            let got: Vec<_> = zone_bounds(sizes, width).iter().map(|zone| (zone.least, zone.most)).collect();
            assert_eq!(got, want, "zones {sizes:?}, {width} owners");
        }
    }

    #[test]
    fn shares_follow_weight_until_a_bound_is_met() {
        type Case<'a> = (&'a [f64], &'a [usize], usize, &'a [f64]);
        let cases: [Case<'_>; 5] = [
            (&[1.0, 1.0, 2.0], &[0, 0, 0], 1, &[0.25, 0.25, 0.5]),
            // One copy of each partition is all that a node can hold.
            (&[1.0, 1.0, 1000.0], &[0, 0, 0], 2, &[0.5, 0.5, 1.0]),
            // Two zones, two owners: each zone holds one copy.
            (&[1.0, 1.0, 1.0], &[0, 0, 1], 2, &[0.5, 0.5, 1.0]),
            // The third zone's only node holds a copy of all, though its weight is small.
            (&[9.0, 9.0, 1.0], &[0, 1, 2], 3, &[1.0, 1.0, 1.0]),
            (&[1.0, 3.0, 2.0, 2.0], &[0, 0, 1, 1], 2, &[0.25, 0.75, 0.5, 0.5]),
        ];
        for (weights, zone_of, width, want) in cases {
            let mut sizes = vec![0; zone_of.iter().max().unwrap() + 1];
            zone_of.iter().for_each(|&zone| sizes[zone] += 1);
            let got = fractions(weights, zone_of, &zone_bounds(&sizes, width), width);
            let close = got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-9);
            assert!(close, "weights {weights:?} in zones {zone_of:?}: {got:?} instead of {want:?}");
        }
    }
}
