//! Streams of random numbers that follow from a seed, and the passage between whole numbers and floats.
//!
//! The same seed gives the same data set on every machine and in every version, so the generator is named, not "the
//! default one".

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;

/// The generator of all that `bench` draws: fast, and no secret hangs on it.
pub(super) type Stream = Xoshiro256PlusPlus;

/// The stream that these numbers name together.
pub(super) fn stream(parts: &[u64]) -> Stream {
    Stream::seed_from_u64(parts.iter().fold(0, |seed, part| scatter(seed ^ *part)))
}

/// A number that looks unrelated to the one it comes from; different ones stay different.
pub(super) fn scatter(number: u64) -> u64 {
    // Two rounds of multiply and fold; both steps can be undone, so no two numbers meet.
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    for factor in [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb] {
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(factor);
    }
    mixed ^ (mixed >> 31)
}

/// A count as a float; beyond 2^53 it is rounded.
#[expect(clippy::cast_precision_loss, reason = "figures of a report, not identities")]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

/// A float as the whole number below it, 0 for what is negative or no number.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the conversion saturates, as is wanted")]
pub(super) fn whole(number: f64) -> u64 {
    number as u64
}
