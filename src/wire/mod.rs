//! The messages that nodes and clients exchange, and their encoding.

mod about;
pub mod blob;
#[cfg(test)]
mod golden;
pub mod gossip;
pub mod hints;
pub mod layout;
pub mod past;
pub mod reap;
pub mod rpc;
pub mod status;
pub mod sync;
pub mod tasks;
