//! Whole clusters over real QUIC on loopback.

#![allow(clippy::unwrap_used, reason = "this crate is tests only")]

#[path = "../support/certs.rs"]
mod certs;
mod inprocess;

mod client;
mod limits;
mod retries;
mod trust;
