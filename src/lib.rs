//! DynamoMini: a leaderless, replicated key-value store in the Dynamo family.

pub mod limits;

pub mod hash;
pub mod types;

pub mod wire;

pub mod env;

#[cfg(feature = "client")]
pub mod net;

#[cfg(feature = "cli")]
pub mod config;

#[cfg(feature = "cli")]
pub mod certs;

#[cfg(feature = "cli")]
pub mod cli;
