//! What `dev` says while it runs: lines for people, or one JSON object a line for programs.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::cli::Output;
use crate::cli::dev::files::NodeEntry;
use crate::types::NodeName;

/// Something that people or programs want to know.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(super) enum Event {
    /// The processes are about to be started.
    Starting { nodes: u16, storage: &'static str, zones: u16, base_port: u16, dir: PathBuf, again: bool },
    /// Something takes its time.
    Waiting { what: String },
    /// Every node serves.
    Ready { nodes: Vec<NodeEntry>, client_config: PathBuf, dir: PathBuf, default_dir: bool },
    /// A node was added, and starts.
    Added { node: NodeEntry },
    /// A process has ended although it was not told to.
    Ended {
        id: NodeName,
        process: &'static str,
        pid: u32,
        how: String,
        restart: String,
        log: PathBuf,
        log_tail: Vec<String>,
    },
    /// All are being ended.
    Stopping { why: &'static str },
    /// One has ended as it was told to.
    Stopped { id: NodeName, process: &'static str, how: String },
    /// All have ended.
    Done { dir: PathBuf },
}

/// Where events go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Voice(pub(super) Output);

impl Voice {
    /// Says it. A cluster does not end because nobody can listen.
    pub(super) fn say(&self, event: &Event) {
        if let Err(error) = self.0.print(event, ToString::to_string) {
            tracing::warn!(%error, "standard output cannot be written");
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting { nodes, storage, zones, base_port, dir, again } => {
                let again = if *again { " again" } else { "" };
                let zones = if *zones > 1 { format!(" in {zones} zones") } else { String::new() };
                let dir = dir.display();
                write!(f, "starting {nodes} nodes{again}{zones}, {storage} storage, ports from {base_port}, in {dir}")
            }
            Self::Waiting { what } => write!(f, "waiting for {what}"),
            Self::Ready { nodes, client_config, dir, default_dir } => {
                ready(f, nodes)?;
                let config =
                    if *default_dir { String::new() } else { format!(" --config {}", client_config.display()) };
                next(f, nodes, &config)?;
                let dir = if *default_dir { String::new() } else { format!(" --dir {}", dir.display()) };
                write!(f, "\n^C stops all; `dynamomini dev{dir}` starts them again with their data.")
            }
            Self::Added { node } => write!(f, "added {} (pid {}), {}", node.id, node.pid, node.quic),
            Self::Ended { id, process, pid, how, restart, log, log_tail } => {
                write!(f, "the {process} of {id} (pid {pid}) has ended: {how}; the others go on")?;
                write!(f, "\n  the last lines of {}:", log.display())?;
                log_tail.iter().try_for_each(|line| write!(f, "\n    {line}"))?;
                write!(f, "\n  to start it again: {restart}")
            }
            Self::Stopping { why } => write!(f, "stopping: {why} (once more to stop at once)"),
            Self::Stopped { id, process, how } => write!(f, "stopped the {process} of {id}: {how}"),
            Self::Done { dir } => write!(f, "stopped; the data stays in {}", dir.display()),
        }
    }
}

fn ready(f: &mut fmt::Formatter<'_>, nodes: &[NodeEntry]) -> fmt::Result {
    writeln!(f, "ready: every one of {} nodes serves", nodes.len())?;
    for NodeEntry { id, pid, quic, admin, redis_pid, .. } in nodes {
        let redis = redis_pid.map_or_else(String::new, |pid| format!("  redis-server pid {pid}"));
        writeln!(f, "  {:4} pid {pid:<8} {quic}  http://{admin}/metrics{redis}", id.as_str())?;
    }
    Ok(())
}

fn next(f: &mut fmt::Formatter<'_>, nodes: &[NodeEntry], config: &str) -> fmt::Result {
    writeln!(f, "\nIn another terminal:")?;
    writeln!(f, "  dynamomini put{config} greeting hello")?;
    writeln!(f, "  dynamomini get{config} greeting")?;
    writeln!(f, "  dynamomini top{config}")?;
    if let Some(last) = nodes.last() {
        writeln!(f, "  kill -9 {:<8} # ends {}; the others go on", last.pid, last.id)?;
        writeln!(f, "  dynamomini node --config {}", last.config.display())?;
    }
    Ok(())
}
