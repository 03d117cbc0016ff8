//! The score of each (partition, node) pair: weighted rendezvous hashing with less noise.
//!
//! In plain rendezvous hashing a score is an independent random number, and how many partitions a node wins varies
//! accordingly. Here a node's scores are a random *permutation* of Q evenly spaced numbers (with a random rest below the
//! spacing). Every node has equally many good scores, which takes away about two thirds of the variance of its load, and
//! with it what capacities have to correct.
//!
//! When every partition is cut in two, one half keeps the scores of the whole and the other gets new ones, a permutation
//! of their own ([`Counts`]). So half of the data stays where it was, and loads vary no more than where there were as many
//! partitions from the beginning.
//!
//! Floating point is used with addition, multiplication and division alone, which IEEE 754 defines to the bit: all
//! machines compute the same. Library functions such as `ln` differ between platforms, so there is one of our own.

use crate::hash::ClusterHash;
use crate::ring::Counts;
use crate::ring::RingMember;
use crate::types::NodeId;
use crate::types::PartitionId;

/// What a score decides; each use has numbers of its own.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum Use {
    /// Who owns a partition.
    Own = 0x100,
    /// The order of its owners.
    Order = 0x200,
    /// Who stands in for an owner.
    StandIn = 0x300,
    /// By how much a capacity is rounded.
    Round = 0x400,
}

/// Rounds of the permutation; two mix well enough already, the rest is margin.
const ROUNDS: u32 = 4;
/// Random numbers behind one permutation: two for each round, and one for what is below the spacing.
const DRAWS: u32 = 2 * ROUNDS + 1;
/// Bits of a uniform number; with the odd lowest bit that is added they fill the mantissa of an `f64`.
const UNIFORM_BITS: u32 = 52;

/// The scores of one node for all partitions.
pub(super) struct Scores {
    /// By how often partitions had been cut when those were made that they are for.
    generations: Vec<Permutation>,
    weight: f64,
}

/// The scores for the partitions that were made at one time.
struct Permutation {
    rounds: [(u64, u64); ROUNDS as usize],
    rest: u64,
    /// How many partitions there are of them, as a power of two.
    bits: u32,
}

impl Scores {
    /// Prepares the scores of a node for one use.
    pub(super) fn new(hash: &ClusterHash, counts: Counts, node: NodeId, weight: u32, purpose: Use) -> Self {
        let founded = counts.founded.count().trailing_zeros();
        let cuts = counts.placed.count().trailing_zeros().saturating_sub(founded);
        let generation = |cut: u32| {
            let draw = |n: u32| hash.placement(cut * DRAWS + n, node, purpose as u32);
            // An odd factor can be undone modulo a power of two, so each round is a permutation.
            let rounds = [0, 1, 2, 3].map(|round| (draw(2 * round) | 1, draw(2 * round + 1)));
            // Each cut makes as many new ones as there were before.
            Permutation { rounds, rest: draw(2 * ROUNDS), bits: founded + cut.saturating_sub(1) }
        };
        Self { generations: (0..=cuts).map(generation).collect(), weight: f64::from(weight) }
    }

    /// The score of a partition: the lower, the better. Scores are the bits of positive floating point numbers, which
    /// are ordered as the numbers are.
    pub(super) fn of(&self, partition: u32) -> u64 {
        // The even half of a partition counts as the partition itself, the odd one as new.
        let mut cut = self.generations.len() - 1;
        let mut number = partition;
        while cut > 0 && number.is_multiple_of(2) {
            number /= 2;
            cut -= 1;
        }
        let number = if cut > 0 { number / 2 } else { number };
        exponential(self.generations[cut].uniform(number), self.weight).to_bits()
    }
}

impl Permutation {
    fn uniform(&self, number: u32) -> u64 {
        let mask = (1_u64 << self.bits) - 1;
        let mut stratum = u64::from(number);
        for (factor, summand) in self.rounds {
            stratum = stratum.wrapping_mul(factor).wrapping_add(summand) & mask;
            stratum ^= stratum >> (self.bits / 2);
        }
        let rest_bits = UNIFORM_BITS - self.bits;
        let rest = scramble(self.rest ^ u64::from(number)) >> (64 - rest_bits);
        stratum << rest_bits | rest
    }
}

/// The score by which a member stands in for an owner of the partition: the lower, the sooner.
pub(super) fn stand_in(hash: &ClusterHash, partition: PartitionId, member: &RingMember) -> u64 {
    let uniform = hash.placement(partition.number(), member.seat, Use::StandIn as u32) >> (64 - UNIFORM_BITS);
    exponential(uniform, f64::from(member.weight)).to_bits()
}

/// A number from 0 to below 1 that belongs to the node.
pub(super) fn rounding(hash: &ClusterHash, node: NodeId) -> f64 {
    unit(hash.placement(0, node, Use::Round as u32) >> (64 - UNIFORM_BITS))
}

/// The middle of the `uniform`th of 2^52 equal parts of the unit interval.
fn unit(uniform: u64) -> f64 {
    const PARTS: f64 = (1_u64 << (UNIFORM_BITS + 1)) as f64;
    (uniform * 2 + 1) as f64 / PARTS
}

/// An exponentially distributed number with the weight as its rate: of several, each is the least with a probability
/// proportional to its weight.
fn exponential(uniform: u64, weight: f64) -> f64 {
    -ln(unit(uniform)) / weight
}

/// One step of a 64-bit mixer (the finisher of MurmurHash3): enough for the rest below a stratum.
fn scramble(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^ (x >> 29)
}

/// The natural logarithm of a normal positive number, the same on all machines.
fn ln(x: f64) -> f64 {
    const MANTISSA: u64 = (1 << 52) - 1;
    let bits = x.to_bits();
    let mut exponent = f64::from(u16::try_from(bits >> 52 & 0x7ff).unwrap_or(0)) - 1023.0;
    let mut mantissa = f64::from_bits(bits & MANTISSA | 1.0_f64.to_bits());
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa /= 2.0;
        exponent += 1.0;
    }
    // ln m = 2 artanh((m - 1) / (m + 1)); the argument is below 0.172, so eight terms reach 1e-14.
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let square = t * t;
    let mut sum = 0.0;
    for odd in [15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        sum = sum * square + 1.0 / odd;
    }
    exponent * std::f64::consts::LN_2 + 2.0 * t * sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ClusterName;
    use crate::types::Partitions;

    #[test]
    fn the_logarithm_agrees_with_the_library() {
        for step in 1..10_000 {
            let x = f64::from(step) / 10_000.0;
            assert!((ln(x) - x.ln()).abs() < 1e-12, "ln {x} is {}", ln(x));
        }
        assert!(exponential((1 << UNIFORM_BITS) - 1, 1000.0) > 0.0, "a score may not be zero or negative");
        assert!(exponential(0, 1.0).is_finite());
    }

    #[test]
    fn every_node_has_one_score_in_each_stratum() {
        let hash = ClusterHash::new(&ClusterName::new("test").unwrap());
        for count in [16, 32, 1024, 65_536] {
            let partitions = Partitions::new(count).unwrap();
            let scores = Scores::new(&hash, Counts::new(partitions), NodeId(7), 1, Use::Own);
            let mut all: Vec<f64> = (0..count).map(|p| f64::from_bits(scores.of(p))).collect();
            all.sort_by(f64::total_cmp);
            for (rank, score) in all.iter().enumerate() {
                let stratum = (1.0 - (-score).exp()) * f64::from(count);
                assert!((stratum - rank as f64 - 0.5).abs() <= 0.5 + 1e-6, "rank {rank} lies in stratum {stratum}");
            }
        }
    }

    #[test]
    fn the_even_halves_of_partitions_keep_their_scores_and_the_others_are_spread_by_themselves() {
        let hash = ClusterHash::new(&ClusterName::new("test").unwrap());
        let founded = Partitions::new(64).unwrap();
        let scores = |placed: u32| {
            let counts = Counts { founded, placed: Partitions::new(placed).unwrap() };
            Scores::new(&hash, counts, NodeId(7), 1, Use::Own)
        };
        let (before, cut, twice) = (scores(64), scores(128), scores(256));
        assert!((0..64).all(|p| cut.of(2 * p) == before.of(p) && twice.of(4 * p) == before.of(p)));
        assert!((0..64).all(|p| twice.of(4 * p + 2) == cut.of(2 * p + 1)));
        for (scores, count) in [(&cut, 64), (&twice, 128)] {
            let mut new: Vec<f64> = (0..count).map(|p| f64::from_bits(scores.of(2 * p + 1))).collect();
            new.sort_by(f64::total_cmp);
            for (rank, score) in new.iter().enumerate() {
                let stratum = (1.0 - (-score).exp()) * f64::from(count);
                assert!((stratum - rank as f64 - 0.5).abs() <= 0.5 + 1e-6, "rank {rank} lies in stratum {stratum}");
            }
        }
    }
}
