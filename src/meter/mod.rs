//! What is counted and timed: numbers that many tasks add to, and plain values of what was read from them.
//!
//! Nothing here reads a clock, since durations are arguments, and no form of output is known: rendering is for the edges.

mod count;
mod distribution;
mod family;
mod histogram;

pub use count::Counter;
pub use count::Gauge;
pub use count::Held;
pub use distribution::Distribution;
pub use family::Family;
pub use family::Sample;
pub use family::Value;
pub use histogram::Histogram;
