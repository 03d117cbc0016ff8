//! DynamoMini: a leaderless, replicated key-value store in the Dynamo family.

pub mod limits;

pub mod hash;
pub mod types;

pub mod record;
pub mod version;
pub mod wire;

pub mod quorum;

pub mod env;
