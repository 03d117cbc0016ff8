//! A process between `dev` and a redis-server: it ends the server when `dev` is gone, however that ended, which a
//! redis-server would not do by itself.
//!
//! On standard output it says `pid NUMBER`, and in the end `ended HOW`.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::bail;
use tokio::process::Command;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::time::timeout;

use crate::cli::Context;
use crate::cli::dev::process;
use crate::cli::dev::redis;
use crate::cli::parent::Parent;

/// How long the node, which is told to stop at the same time, may go on using the server.
const CLIENT_PATIENCE: Duration = Duration::from_secs(15);
/// How long the server may take to end.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// Both together, for whoever waits for the guard.
pub(super) const PATIENCE: Duration = CLIENT_PATIENCE.saturating_add(END_PATIENCE);

/// What to run.
#[derive(Debug, clap::Args)]
pub(super) struct Guard {
    /// The redis-server.
    #[arg(long)]
    program: PathBuf,
    /// Its configuration.
    #[arg(long)]
    config: PathBuf,
    /// Where it listens.
    #[arg(long)]
    socket: PathBuf,
}

impl Guard {
    /// Runs the server until it ends, the parent is gone, or a signal comes.
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        // Any of these would end the guard by default, and leave the server behind.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut parent = Parent::on_stdin()?;
        let mut command = Command::new(&self.program);
        command.arg(&self.config).stdin(Stdio::null()).stdout(Stdio::null());
        let mut server = command.spawn().with_context(|| self.program.display().to_string())?;
        let pid = server.id().context("the redis-server ended at once")?;
        context.output.line(&format!("pid {pid}"))?;
        tokio::select! {
            biased;
            status = server.wait() => {
                let how = process::how(status?);
                context.output.line(&format!("ended {how}"))?;
                bail!("redis-server ended by itself: {how}");
            }
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
            () = parent.gone() => {}
        }
        // The node closes its storage first; one that hangs must not keep the server for ever.
        if timeout(CLIENT_PATIENCE, redis::idle(&self.socket)).await.is_err() {
            tracing::warn!("ending a redis-server that is still in use");
        }
        process::terminate(&server)?;
        let status = match timeout(END_PATIENCE, server.wait()).await {
            Ok(status) => status?,
            Err(_) => {
                server.start_kill()?;
                server.wait().await?
            }
        };
        context.output.line(&format!("ended {}", process::how(status)))
    }
}
