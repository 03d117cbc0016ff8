//! Starting the log on standard error, once per process.

use std::io::IsTerminal;

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
    // A log in a file is for grep: colours are for terminals.
    let colours = std::io::stderr().is_terminal();
    let builder = fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    let started = if log.json { builder.json().try_init() } else { builder.try_init() };
    started.map_err(|error| anyhow!("logging cannot be started: {error}"))
}
