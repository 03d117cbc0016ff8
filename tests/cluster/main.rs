//! Whole clusters over real QUIC on loopback: in this process, and as processes of their own.

#![allow(clippy::unwrap_used, reason = "this crate is tests only")]

#[path = "../support/certs.rs"]
mod certs;
mod inprocess;
mod redis;
#[path = "../support/steady.rs"]
mod steady;

mod client;
mod conditional;
mod faults;
mod limits;
mod retries;
mod trust;

mod processes;

mod admin;
mod bench;
mod copies;
mod damage;
mod dev;
mod exposition;
mod failure;
mod membership;
mod ownership;
mod past;
mod reap;
mod refusals;
mod renewal;
mod restart;
mod split;
mod storage;
mod sync;
mod transfers;
