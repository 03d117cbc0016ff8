//! Which keys are asked for how often.

use std::fmt;
use std::str::FromStr;

use rand::RngExt;
use rand_distr::Distribution;
use rand_distr::Zipf;

use crate::cli::bench::draw;
use crate::cli::bench::draw::Stream;
use crate::types::Invalid;

/// How often keys are asked for, against each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Popularity {
    /// All alike.
    Uniform,
    /// The k-th most popular in proportion to k to the power of minus theta; the popular ones lie scattered.
    Zipf(f64),
    /// As zipf, by age: the newest is the most popular.
    Latest(f64),
    /// One after the other, and from the beginning again.
    Sequential,
}

impl Popularity {
    /// Theta unless something else is said: that of the YCSB workloads.
    pub(super) const THETA: f64 = 0.99;
}

impl FromStr for Popularity {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refused = || Invalid::new("distribution", text, "uniform, sequential, zipf or latest, or zipf:0.8");
        let (name, theta) = match text.split_once(':') {
            None => (text, None),
            Some((name, theta)) => (name, Some(theta.parse::<f64>().map_err(|_| refused())?)),
        };
        // Above, nearly all operations would meet one key.
        if theta.is_some_and(|theta| !(0.01..=5.0).contains(&theta)) {
            return Err(refused());
        }
        match (name, theta) {
            ("uniform", None) => Ok(Self::Uniform),
            ("sequential", None) => Ok(Self::Sequential),
            ("zipf", theta) => Ok(Self::Zipf(theta.unwrap_or(Self::THETA))),
            ("latest", theta) => Ok(Self::Latest(theta.unwrap_or(Self::THETA))),
            _ => Err(refused()),
        }
    }
}

impl fmt::Display for Popularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::Sequential => f.write_str("sequential"),
            Self::Zipf(theta) => write!(f, "zipf:{theta}"),
            Self::Latest(theta) => write!(f, "latest:{theta}"),
        }
    }
}

/// Chooses keys by their numbers.
#[derive(Debug, Clone)]
pub(super) struct Chooser {
    popularity: Popularity,
    /// Ranks among the keys there were at the beginning; it is not drawn anew for each insert.
    ranks: Option<Zipf<f64>>,
    /// The next of a sequence, and by how much it goes on.
    next: u64,
    step: u64,
}

impl Chooser {
    /// The chooser of one of several drivers, by its place among them.
    pub(super) fn new(popularity: Popularity, keys: u64, place: u64, drivers: u64) -> Self {
        let ranks = match popularity {
            Popularity::Zipf(theta) | Popularity::Latest(theta) => Zipf::new(draw::float(keys.max(1)), theta).ok(),
            Popularity::Uniform | Popularity::Sequential => None,
        };
        Self { popularity, ranks, next: place, step: drivers.max(1) }
    }

    /// One of the first `keys` keys; `keys` may have grown, but is never 0.
    pub(super) fn choose(&mut self, keys: u64, rng: &mut Stream) -> u64 {
        let keys = keys.max(1);
        let rank = |rng: &mut Stream| self.ranks.map_or(0, |ranks| draw::whole(ranks.sample(rng)).saturating_sub(1));
        match self.popularity {
            Popularity::Uniform => rng.random_range(0..keys),
            Popularity::Zipf(_) => draw::scatter(rank(rng)) % keys,
            Popularity::Latest(_) => keys - 1 - rank(rng).min(keys - 1),
            Popularity::Sequential => {
                let chosen = self.next % keys;
                self.next = self.next.wrapping_add(self.step);
                chosen
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const KEYS: u64 = 1_000;
    const DRAWS: u32 = 100_000;

    fn counts(popularity: Popularity) -> Vec<(u64, u32)> {
        let (mut chooser, mut rng) = (Chooser::new(popularity, KEYS, 0, 1), draw::stream(&[5]));
        let mut counts = BTreeMap::new();
        for _ in 0..DRAWS {
            *counts.entry(chooser.choose(KEYS, &mut rng)).or_insert(0_u32) += 1;
        }
        assert!(counts.keys().all(|key| *key < KEYS));
        let mut counts: Vec<(u64, u32)> = counts.into_iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counts
    }

    #[test]
    fn uniform_asks_for_all_keys_about_as_often() {
        let counts = counts(Popularity::Uniform);
        assert_eq!(counts.len(), 1_000);
        assert!(counts.iter().all(|(_, count)| (50..160).contains(count)), "{counts:?}");
    }

    #[test]
    fn zipf_follows_its_law_and_scatters_what_is_popular() {
        let counts = counts(Popularity::Zipf(1.0));
        // The sum of 1/k up to 1000 is 7.485: the first has a share of 13.4 %, the tenth of 1.34 %.
        assert!(counts[0].1.abs_diff(13_360) < 600, "{:?}", &counts[..10]);
        assert!(counts[9].1.abs_diff(1_336) < 250, "{:?}", &counts[..10]);
        assert!(counts[..10].iter().any(|(key, _)| *key > KEYS / 2) && counts[0].0 != 0, "{:?}", &counts[..10]);
    }

    #[test]
    fn latest_likes_the_newest_most_also_as_keys_are_added() {
        let counts = counts(Popularity::Latest(0.99));
        assert_eq!((counts[0].0, counts[1].0), (KEYS - 1, KEYS - 2));
        let (mut chooser, mut rng) = (Chooser::new(Popularity::Latest(0.99), 10, 0, 1), draw::stream(&[5]));
        let newest = (0..1_000).filter(|_| chooser.choose(50, &mut rng) == 49).count();
        assert!(newest > 200, "{newest}");
    }

    #[test]
    fn drivers_of_a_sequence_share_it_out() {
        let mut rng = draw::stream(&[5]);
        let mut choosers = [0, 1].map(|place| Chooser::new(Popularity::Sequential, 5, place, 2));
        let mut chosen: Vec<u64> =
            (0..3).flat_map(|_| choosers.each_mut().map(|one| one.choose(5, &mut rng))).collect();
        assert_eq!(chosen.pop(), Some(0));
        assert_eq!(chosen, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn distributions_are_read_and_shown_in_one_form() {
        for text in ["uniform", "sequential", "zipf:0.8", "latest:1.2"] {
            assert_eq!(text.parse::<Popularity>().unwrap().to_string(), text);
        }
        assert_eq!("zipf".parse(), Ok(Popularity::Zipf(0.99)));
        for bad in ["", "zipf:", "zipf:x", "zipf:NaN", "zipf:0", "uniform:1", "normal"] {
            assert!(bad.parse::<Popularity>().is_err(), "{bad:?} was taken");
        }
    }
}
