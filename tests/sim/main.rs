//! Deterministic simulation: the production code on a virtual network and clock, everything random from one seed.

#[path = "../support/certs.rs"]
mod certs;
mod network;
mod provider;
mod world;

mod transport;
