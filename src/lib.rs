//! DynamoMini: a leaderless, replicated key-value store in the Dynamo family.

pub mod limits;

pub mod hash;
pub mod meter;
pub mod types;

pub mod layout;
pub mod record;
pub mod ring;
pub mod version;
pub mod wire;

#[cfg(feature = "server")]
pub mod merkle;
pub mod quorum;
#[cfg(feature = "server")]
pub mod seal;
pub mod swim;
pub mod view;

#[cfg(feature = "server")]
pub mod plan;

pub mod env;

#[cfg(feature = "client")]
pub mod net;
#[cfg(feature = "server")]
pub mod store;

#[cfg(feature = "client")]
pub mod client;

#[cfg(feature = "server")]
pub mod node;

#[cfg(feature = "cli")]
pub mod admin;
#[cfg(feature = "cli")]
pub mod certs;
#[cfg(feature = "cli")]
pub mod config;

#[cfg(feature = "cli")]
pub mod cli;
