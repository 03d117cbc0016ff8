//! Starting the log on standard error, once per process, and changing what it takes while it runs.

use std::io::IsTerminal;

use anyhow::Context;
use anyhow::anyhow;
use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::Registry;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use crate::admin;
use crate::config::node::LogConfig;
use crate::config::settings;
use crate::node::Host;
use crate::wire::status::ProcessUsage;

/// The process as its node sees it: its log, and what it takes of its machine.
#[derive(Debug, Clone)]
pub struct ThisProcess {
    filter: reload::Handle<EnvFilter, Registry>,
}

/// Starts logging as configured.
///
/// # Errors
/// When the filters are malformed, or logging was started before.
pub fn start(log: &LogConfig) -> anyhow::Result<ThisProcess> {
    let (subscriber, process) = subscriber(log)?;
    subscriber.try_init().map_err(|error| anyhow!("logging cannot be started: {error}"))?;
    Ok(process)
}

fn subscriber(log: &LogConfig) -> anyhow::Result<(impl Subscriber, ThisProcess)> {
    let filter = EnvFilter::builder().parse(&log.level).context("log.level")?;
    let (filter, handle) = reload::Layer::new(filter);
    // A log in a file is for grep: colours are for terminals.
    let lines = fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    let lines = if log.json { lines.json().boxed() } else { lines.boxed() };
    Ok((tracing_subscriber::registry().with(filter).with(lines), ThisProcess { filter: handle }))
}

impl Host for ThisProcess {
    fn usage(&self) -> Option<ProcessUsage> {
        admin::usage()
    }

    fn log_filters(&self) -> Result<String, String> {
        self.filter.with_current(ToString::to_string).map_err(|error| error.to_string())
    }

    fn set_log_filters(&self, filters: &str) -> Result<(), String> {
        settings::log_level(filters)?;
        let parsed = EnvFilter::builder().parse(filters).map_err(|error| error.to_string())?;
        self.filter.reload(parsed).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use tracing::level_filters::LevelFilter;

    use super::*;

    #[test]
    fn what_is_not_logged_costs_nothing_before_and_after_a_change() {
        let log = LogConfig { level: "info".to_owned(), json: false, slow: None };
        let (subscriber, process) = subscriber(&log).unwrap();
        let _only_here = tracing::subscriber::set_default(subscriber);
        // Below the greatest level, events are not even looked at.
        assert_eq!(LevelFilter::current(), LevelFilter::INFO);
        process.set_log_filters("info,dynamomini::none=debug").unwrap();
        assert_eq!(LevelFilter::current(), LevelFilter::DEBUG);
        assert_eq!(process.log_filters().unwrap(), "dynamomini::none=debug,info");
        assert!(process.set_log_filters("loud").unwrap_err().contains("not valid"));
        process.set_log_filters("info").unwrap();
        assert_eq!(LevelFilter::current(), LevelFilter::INFO);
        assert!(process.usage().is_some() || !cfg!(target_os = "linux"));
    }
}
