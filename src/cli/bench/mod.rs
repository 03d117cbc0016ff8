//! `dynamomini bench`: load on a cluster through the client library, and what came of it.
//!
//! Pure parts (`mix`, `popularity`, `sizes`, `data`, `workload`, `schedule`) say what is asked for and when; `driver` and
//! `measure` do it to any [`target::Target`]; `cluster` is the one of them that is real. It decides nothing about data:
//! whether a cluster keeps what it promises under faults is for the tests to show.

mod args;

mod attempts;

mod draw;

mod sizes;

mod mix;

mod popularity;

mod data;

mod workload;

mod schedule;

mod pacer;

mod target;

mod contexts;

mod cluster;

mod recorder;

mod driver;

mod measure;

#[cfg(test)]
mod measure_tests;

#[cfg(test)]
mod redis_benchmark_tests;

mod processes;

mod report;

mod plot;

mod run;

mod tally;

mod load;

mod check;

pub(crate) use args::Args;
