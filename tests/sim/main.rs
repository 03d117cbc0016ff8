//! Deterministic simulation: the production code on a virtual network and clock, everything random from one seed.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this crate is tests only")]

#[path = "../support/certs.rs"]
mod certs;
mod network;
mod provider;
#[path = "../support/steady.rs"]
mod steady;
mod world;

mod client;
mod cluster;
mod gossip;
mod membership;
mod overload;
mod reap;
mod sync;
mod traces;
mod transport;
