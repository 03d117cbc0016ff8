//! Deterministic simulation: the production code on a virtual network and clock, everything random from one seed.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this crate is tests only")]

#[path = "../support/certs.rs"]
mod certs;
mod checks;
mod history;
mod network;
mod provider;
mod replicas;
#[path = "../support/steady.rs"]
mod steady;
mod world;

mod client;
mod cluster;

mod gossip;
mod hints;
mod membership;
mod overload;
mod ownership;
mod past;
mod quorum;
mod reap;
mod storms;
mod sync;
mod traces;
mod transport;

/// `SIM_SEED=7 cargo test --release --test sim seed_from_environment -- --exact --nocapture` runs one seed of the scenario with
/// every kind of fault. `SIM_LOG=FILE` writes every packet and event to a file, so that two runs that differ can be compared.
#[test]
fn seed_from_environment() {
    let seed = std::env::var("SIM_SEED").map_or(1, |text| text.parse().expect("SIM_SEED is a number"));
    println!("trace {:016x}", storms::run(seed));
}
