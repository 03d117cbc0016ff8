//! Which of several nodes to ask: a pure choice from how each stands.
//!
//! Nodes that stand better come first whatever they cost, then those of the own zone, then those that are not much farther
//! than the nearest, then the cheaper of two drawn at random: that spreads load without herds, and never takes the most
//! expensive one.

/// How a node stands, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// Connected, and answers.
    Ready,
    /// Not connected yet.
    Connecting,
    /// It let a request down, and has not answered since.
    Doubted,
    /// It cannot be connected to.
    Down,
}

/// What is known of a node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) standing: Standing,
    /// Whether it is in the client's own zone, or there is no such zone.
    pub(crate) near: bool,
    /// The round trip to it, in microseconds; 0 where it is not known.
    pub(crate) trip_us: u64,
    /// Expected wait: latency times queue.
    pub(crate) cost: u64,
}

/// What the choice is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pick {
    /// Any will do.
    Cheapest,
    /// Of the near ones, the first in order, so that writes of one key meet at one coordinator, unless others are far cheaper.
    First,
    /// The first in order that stands best: what is written depends on what the coordinator has.
    Same,
}

/// By how many times cheaper another node must be to get a write that the first in order would get.
const FIRST_IS_WORTH: u64 = 4;

/// By how many times, and by how many microseconds beyond that, a node may be farther than the nearest and count as near.
const NEAR_TIMES: u64 = 2;
const NEAR_US: u64 = 5_000;

/// The place of the best candidate; `None` where there is none to choose. `dice` is any random number.
pub(crate) fn choose(candidates: &[Option<Candidate>], pick: Pick, dice: u64) -> Option<usize> {
    let known = || candidates.iter().enumerate().filter_map(|(at, candidate)| candidate.map(|known| (at, known)));
    let standing = known().map(|(_, candidate)| candidate.standing).min()?;
    let best = || known().filter(|(_, candidate)| candidate.standing == standing);
    if pick == Pick::Same {
        return best().next().map(|(first, _)| first);
    }
    let near = best().any(|(_, candidate)| candidate.near);
    let of_zone = || best().filter(|(_, candidate)| candidate.near || !near);
    let nearest = of_zone().map(|(_, candidate)| candidate.trip_us).min()?;
    let far_us = nearest.saturating_mul(NEAR_TIMES).saturating_add(NEAR_US);
    let fit = || of_zone().filter(|(_, candidate)| candidate.trip_us <= far_us);
    let (first, its) = fit().next()?;
    let count = fit().count() as u64;
    let drawn = |skip: u64| fit().nth(usize::try_from(skip).unwrap_or(0));
    let one = drawn(dice % count)?;
    let two = if count > 1 { drawn((dice % count + 1 + (dice >> 32) % (count - 1)) % count)? } else { one };
    let cheaper = if two.1.cost < one.1.cost { two } else { one };
    match pick {
        Pick::First if its.cost <= cheaper.1.cost.saturating_mul(FIRST_IS_WORTH) => Some(first),
        _ => Some(cheaper.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(standing: Standing, near: bool, cost: u64) -> Option<Candidate> {
        Some(Candidate { standing, near, trip_us: 500, cost })
    }

    fn away(trip_us: u64) -> Option<Candidate> {
        candidate(Standing::Ready, true, 10).map(|candidate| Candidate { trip_us, ..candidate })
    }

    fn chosen(candidates: &[Option<Candidate>], pick: Pick) -> Vec<usize> {
        let dice = (0..2_000_u64).map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut chosen: Vec<usize> = dice.filter_map(|dice| choose(candidates, pick, dice)).collect();
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    }

    #[test]
    fn of_three_equals_each_is_drawn_and_the_dearest_never() {
        let equal = [candidate(Standing::Ready, true, 10); 3];
        assert_eq!(chosen(&equal, Pick::Cheapest), [0, 1, 2]);
        let mut uneven = equal;
        uneven[1] = candidate(Standing::Ready, true, 11);
        assert_eq!(chosen(&uneven, Pick::Cheapest), [0, 2]);
    }

    #[test]
    fn standing_goes_before_zone_and_zone_before_cost() {
        let nodes = [
            candidate(Standing::Doubted, true, 1),
            candidate(Standing::Ready, false, 1),
            candidate(Standing::Ready, true, 1_000),
            None,
        ];
        assert_eq!(chosen(&nodes, Pick::Cheapest), [2]);
        assert_eq!(chosen(&nodes[..2], Pick::Cheapest), [1]);
        assert_eq!(chosen(&nodes[..1], Pick::Cheapest), [0]);
        assert_eq!(chosen(&nodes[3..], Pick::Cheapest), Vec::<usize>::new());
        assert_eq!(chosen(&nodes, Pick::First), [2]);
    }

    #[test]
    fn a_node_far_beyond_the_nearest_is_not_asked_while_others_are_there() {
        assert_eq!(chosen(&[away(50_000), away(300), away(50_000)], Pick::Cheapest), [1]);
        assert_eq!(chosen(&[away(4_000), away(300), away(50_000)], Pick::Cheapest), [0, 1]);
        assert_eq!(chosen(&[away(50_000), away(80_000), away(60_000)], Pick::Cheapest), [0, 1, 2]);
        assert_eq!(chosen(&[away(50_000), None, None], Pick::Cheapest), [0]);
        assert_eq!(chosen(&[away(50_000), away(4_000), away(300)], Pick::First), [1]);
        assert_eq!(chosen(&[away(50_000), away(4_000), away(300)], Pick::Same), [0]);
    }

    #[test]
    fn writes_stay_with_the_first_until_it_is_far_dearer() {
        let mut nodes = [candidate(Standing::Ready, true, 40), candidate(Standing::Ready, true, 10)];
        assert_eq!(chosen(&nodes, Pick::First), [0]);
        nodes[0] = candidate(Standing::Ready, true, 41);
        assert_eq!(chosen(&nodes, Pick::First), [1]);
        assert_eq!(chosen(&nodes, Pick::Same), [0]);
        nodes[0] = candidate(Standing::Down, true, 1);
        assert_eq!(chosen(&nodes, Pick::Same), [1]);
    }
}
