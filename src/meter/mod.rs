//! What is counted and timed: numbers that many tasks add to, and plain values of what was read from them.
//!
//! Beside what is shown there is what decides: percentiles of late, and budgets of extra work. Nothing here reads a clock, since durations are arguments, and no form of output is known: rendering is for the edges.

mod budget;
mod count;
mod distribution;
mod family;
mod histogram;
mod recent;

pub(crate) use budget::Budget;
pub(crate) use budget::Rule;
pub use count::Counter;
pub use count::Gauge;
pub use count::Held;
pub use distribution::Distribution;
pub use family::Family;
pub use family::Sample;
pub use family::Value;
pub use histogram::Histogram;
pub(crate) use recent::Recent;
pub(crate) use recent::micros;
