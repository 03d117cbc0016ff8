//! Mixes: how often each kind of operation comes.

use std::fmt;
use std::str::FromStr;

use rand::Rng;
use rand::RngExt;

use crate::cli::bench::popularity::Popularity;
use crate::types::Invalid;

const FORMS: &str = "put, get, mixed, ycsb-a to ycsb-f, or shares such as get=95,put=5 (get, put, insert, scan, rmw)";

/// A kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Reads a key.
    Get,
    /// Writes a key that is there.
    Put,
    /// Writes a key that was not there before.
    Insert,
    /// Reads some neighbouring keys.
    Scan,
    /// Reads a key and writes it with the context that was read.
    ReadModifyWrite,
}

impl Kind {
    /// All of them.
    pub(super) const ALL: [Self; 5] = [Self::Get, Self::Put, Self::Insert, Self::Scan, Self::ReadModifyWrite];

    /// Its name in mixes and reports.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Insert => "insert",
            Self::Scan => "scan",
            Self::ReadModifyWrite => "rmw",
        }
    }
}

/// Kinds with their shares, each above 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mix {
    shares: Vec<(Kind, u32)>,
    total: u32,
    name: String,
    ycsb: Option<u8>,
}

impl Mix {
    fn new(name: &str, shares: &[(Kind, u32)]) -> Self {
        let shares: Vec<_> = shares.iter().copied().filter(|(_, share)| *share > 0).collect();
        let total = shares.iter().map(|(_, share)| share).sum();
        Self { shares, total, name: name.to_owned(), ycsb: None }
    }

    /// Draws a kind.
    pub(super) fn draw(&self, rng: &mut impl Rng) -> Kind {
        let mut left = rng.random_range(0..self.total);
        let chosen = self.shares.iter().find(|(_, share)| {
            let here = left < *share;
            left = left.saturating_sub(*share);
            here
        });
        chosen.map_or(Kind::Get, |(kind, _)| *kind)
    }

    /// Whether operations of this kind come at all.
    pub(super) fn has(&self, kind: Kind) -> bool {
        self.shares.iter().any(|(other, _)| *other == kind)
    }

    /// Which keys it asks for unless something else is said: as the workload of that name does, else all alike.
    pub(super) fn popularity(&self) -> Popularity {
        match self.ycsb {
            Some(b'd') => Popularity::Latest(Popularity::THETA),
            Some(_) => Popularity::Zipf(Popularity::THETA),
            None => Popularity::Uniform,
        }
    }

    fn named(text: &str) -> Option<Self> {
        let shares: &[(Kind, u32)] = match text {
            "put" => &[(Kind::Put, 1)],
            "get" => &[(Kind::Get, 1)],
            "mixed" | "ycsb-a" => &[(Kind::Get, 50), (Kind::Put, 50)],
            "ycsb-b" => &[(Kind::Get, 95), (Kind::Put, 5)],
            "ycsb-c" => &[(Kind::Get, 100)],
            "ycsb-d" => &[(Kind::Get, 95), (Kind::Insert, 5)],
            "ycsb-e" => &[(Kind::Scan, 95), (Kind::Insert, 5)],
            "ycsb-f" => &[(Kind::Get, 50), (Kind::ReadModifyWrite, 50)],
            _ => return None,
        };
        let ycsb = text.strip_prefix("ycsb-").and_then(|letter| letter.bytes().next());
        Some(Self { ycsb, ..Self::new(text, shares) })
    }

    fn counted(text: &str) -> Option<Self> {
        let mut shares = Vec::new();
        for part in text.split(',') {
            let (name, share) = part.split_once('=')?;
            let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name.trim())?;
            // Small enough that no sum of them overflows.
            let share = share.trim().parse::<u16>().ok()?;
            if shares.iter().any(|(other, _)| *other == kind) {
                return None;
            }
            shares.push((kind, u32::from(share)));
        }
        Some(Self::new(text, &shares)).filter(|mix| mix.total > 0)
    }
}

impl FromStr for Mix {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::named(text).or_else(|| Self::counted(text)).ok_or_else(|| Invalid::new("mix", text, FORMS))
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::draw;

    fn counts(mix: &str) -> Vec<(Kind, u32)> {
        let (mix, mut rng) = (mix.parse::<Mix>().unwrap(), draw::stream(&[3]));
        let drawn: Vec<Kind> = (0..10_000).map(|_| mix.draw(&mut rng)).collect();
        let count = |kind| u32::try_from(drawn.iter().filter(|other| **other == kind).count()).unwrap();
        Kind::ALL.map(|kind| (kind, count(kind))).into_iter().filter(|(_, count)| *count > 0).collect()
    }

    #[test]
    fn kinds_come_as_often_as_the_mix_says() {
        for (mix, wanted) in [
            ("put", vec![(Kind::Put, 10_000)]),
            ("ycsb-a", vec![(Kind::Get, 5_000), (Kind::Put, 5_000)]),
            ("ycsb-d", vec![(Kind::Get, 9_500), (Kind::Insert, 500)]),
            ("ycsb-e", vec![(Kind::Insert, 500), (Kind::Scan, 9_500)]),
            ("ycsb-f", vec![(Kind::Get, 5_000), (Kind::ReadModifyWrite, 5_000)]),
            ("get=3,put=1,scan=0", vec![(Kind::Get, 7_500), (Kind::Put, 2_500)]),
        ] {
            let got = counts(mix);
            assert_eq!(got.len(), wanted.len(), "{mix}: {got:?}");
            for ((kind, count), (wanted_kind, wanted)) in got.into_iter().zip(wanted) {
                assert!(kind == wanted_kind && count.abs_diff(wanted) < 200, "{mix}: {kind:?} {count}, not {wanted}");
            }
        }
    }

    #[test]
    fn what_is_no_mix_is_refused_and_each_workload_has_its_popularity() {
        for bad in
            ["", "ycsb-g", "get", "get=1,get=2", "get=0", "get=70000", "frob=1"].into_iter().filter(|bad| *bad != "get")
        {
            assert!(bad.parse::<Mix>().is_err(), "{bad:?} was taken");
        }
        assert_eq!("ycsb-d".parse::<Mix>().unwrap().popularity(), Popularity::Latest(Popularity::THETA));
        assert_eq!("ycsb-b".parse::<Mix>().unwrap().popularity(), Popularity::Zipf(Popularity::THETA));
        assert_eq!("mixed".parse::<Mix>().unwrap().popularity(), Popularity::Uniform);
    }
}
