//! Versions of a key: dots, causal contexts, and sets of siblings under one context.
//!
//! This is the dotted version vector set of Almeida, Baquero, Gonçalves, Preguiça and Fonte ("Scalable and Accurate
//! Causality Tracking for Eventually Consistent Stores", DAIS 2014), kept as a causal context plus the surviving
//! (dot, version) pairs. A plain vector clock would multiply siblings when clients interleave; this does not.
//!
//! Nothing here reads a clock or knows a node: stamps, actors and the present time are arguments.

mod context;
mod dot;
mod hlc;
mod siblings;
#[cfg(test)]
mod tests;

pub use context::{Causality, Context};
pub use dot::{Actor, Dot, RequestId};
pub use hlc::{Clock, Stamp};
pub use siblings::{NewVersion, Put, Siblings, Version};
