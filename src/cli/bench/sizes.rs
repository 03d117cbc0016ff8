//! Sizes of keys and values: fixed or drawn, the same for the same seed.
//!
//! A size is a function of a number that its caller names, so that whoever checks a data set draws the same one.

use std::fmt;
use std::str::FromStr;

use rand::Rng;
use rand::RngExt;
use rand_distr::Distribution;
use rand_distr::Zipf;

use crate::cli::bench::draw;
use crate::types::Invalid;

/// Theta of `zipf:LOW..HIGH`: of a thousand sizes the smallest tenth makes up about 70 %.
const THETA: f64 = 0.99;

const FORMS: &str = "a size such as 100, 4KiB or 1MiB, uniform:100..2000, or zipf:100..2000";

/// How large keys or values are, in bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Sizes {
    /// All alike.
    Fixed(usize),
    /// Each size from the first to the second equally often.
    Uniform(usize, usize),
    /// From the first to the second, small ones most often.
    Zipf(usize, usize),
}

impl Sizes {
    /// Draws a size.
    pub(super) fn draw(self, rng: &mut impl Rng) -> usize {
        match self {
            Self::Fixed(size) => size,
            Self::Uniform(low, high) => rng.random_range(low..=high),
            Self::Zipf(low, high) => {
                let ranks = draw::float(u64::try_from(high - low + 1).unwrap_or(u64::MAX));
                // A count of at least one and a positive theta are all that it asks for.
                let rank = Zipf::new(ranks, THETA).map_or(1.0, |zipf| zipf.sample(rng));
                low + usize::try_from(draw::whole(rank)).unwrap_or(usize::MAX).saturating_sub(1).min(high - low)
            }
        }
    }

    /// The smallest and the largest there are.
    pub(super) fn bounds(self) -> (usize, usize) {
        match self {
            Self::Fixed(size) => (size, size),
            Self::Uniform(low, high) | Self::Zipf(low, high) => (low, high),
        }
    }
}

impl FromStr for Sizes {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refused = || Invalid::new("size", text, FORMS);
        let range = |range: &str| {
            let (low, high) = range.split_once("..")?;
            let (low, high) = (size(low)?, size(high)?);
            (low <= high).then_some((low, high))
        };
        match text.split_once(':') {
            None => size(text).map(Self::Fixed),
            Some(("uniform", rest)) => range(rest).map(|(low, high)| Self::Uniform(low, high)),
            Some(("zipf", rest)) => range(rest).map(|(low, high)| Self::Zipf(low, high)),
            Some(_) => None,
        }
        .ok_or_else(refused)
    }
}

fn size(text: &str) -> Option<usize> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(unit)
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Uniform(low, high) => write!(f, "uniform:{low}..{high}"),
            Self::Zipf(low, high) => write!(f, "zipf:{low}..{high}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_shown_in_one_form() {
        for (text, sizes) in [
            ("100", Sizes::Fixed(100)),
            ("4KiB", Sizes::Fixed(4096)),
            ("1MiB", Sizes::Fixed(1 << 20)),
            ("uniform:100..2KiB", Sizes::Uniform(100, 2048)),
            ("zipf:10..10", Sizes::Zipf(10, 10)),
        ] {
            assert_eq!(text.parse(), Ok(sizes), "{text}");
            assert_eq!(sizes.to_string().parse(), Ok(sizes), "{text}");
        }
        for bad in ["", "x", "4kb", "uniform:9..1", "uniform:9", "normal:1..2", "99999999999999999999"] {
            assert!(bad.parse::<Sizes>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn drawn_sizes_stay_within_their_bounds_and_reach_them() {
        for sizes in [Sizes::Uniform(10, 14), Sizes::Zipf(10, 14)] {
            let mut rng = draw::stream(&[1]);
            let mut counts = [0_u32; 5];
            for _ in 0..10_000 {
                counts[sizes.draw(&mut rng) - 10] += 1;
            }
            assert!(counts.iter().all(|count| *count > 500), "{sizes}: {counts:?}");
            if matches!(sizes, Sizes::Zipf(..)) {
                assert!(counts.is_sorted_by(|small, large| small > large), "{counts:?}");
            }
        }
    }
}
