//! Starting the log on standard error, once per process.

use anyhow::Context;
use anyhow::anyhow;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::config::node::LogConfig;

/// Starts logging as configured.
///
/// # Errors
/// When the filters are malformed, or logging was started before.
pub fn start(log: &LogConfig) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().parse(&log.level).context("log.level")?;
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if log.json { builder.json().try_init() } else { builder.try_init() };
    started.map_err(|error| anyhow!("logging cannot be started: {error}"))
}
