//! Metrics, health and status of a node over HTTP: for Prometheus, for what starts and stops nodes, for people with curl.
//!
//! Nothing can be changed here, since nobody is asked who he is; what changes a node goes through the QUIC listener with an
//! administrator's certificate. It knows neither how metrics come about nor what they mean.

mod answer;
mod listener;
mod process;
mod render;
mod report;

pub use listener::Admin;
pub use listener::AdminError;
pub use listener::Desk;
pub use process::usage;
pub use render::text;
pub use report::hints_for;
pub use report::report;
pub use report::sync;
