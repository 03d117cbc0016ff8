//! Membership in a simulated world: hundreds and thousands of members in one process, all from one seed.
//!
//! The core of `dynamomini::swim` is pure, so there is no runtime here: `net` has a queue of moments, `judge` the
//! named checkers, and the rest are scenarios. A failure prints its seed and how to run that alone again.

mod conditions;
mod faults;
mod figures;
mod fuzz;
mod hostile;
mod judge;
mod life;
mod net;
mod notary;
mod presets;
mod scale;

/// Seeds of one scenario: `SIM_SEED` alone if it is set, else `usual` many, times `SIM_SEEDS` if that is set.
fn seeds(usual: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("seeds are numbers"));
    if let Some(seed) = number("SIM_SEED") {
        return seed..seed + 1;
    }
    1..1 + usual * number("SIM_SEEDS").unwrap_or(1).max(1)
}
