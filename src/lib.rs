//! DynamoMini: a leaderless, replicated key-value store in the Dynamo family.

pub mod limits;

pub mod hash;
pub mod types;

pub mod wire;

pub mod env;

#[cfg(feature = "server")]
pub mod store;
