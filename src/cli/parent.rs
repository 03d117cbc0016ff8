//! Knowing that the process that started this one is gone: it holds the other end of standard input, a pipe, which the
//! kernel closes however it ends.

use std::fs::File;
use std::os::fd::AsFd;

use anyhow::Context as _;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use crate::cli::Usage;

/// The process that holds the other end of standard input.
pub(crate) struct Parent(Receiver);

impl Parent {
    /// Watches standard input, which must be a pipe. Needs a runtime.
    pub(crate) fn on_stdin() -> anyhow::Result<Self> {
        let pipe = std::io::stdin().as_fd().try_clone_to_owned().context("standard input")?;
        // Tokio's own standard input would keep a thread that blocks the end of this process.
        let receiver = Receiver::from_file(File::from(pipe));
        let receiver = receiver.map_err(|error| Usage(format!("standard input must be a pipe here: {error}")))?;
        Ok(Self(receiver))
    }

    /// Completes when the parent has ended or has closed the pipe. What it writes is ignored.
    pub(crate) async fn gone(&mut self) {
        let mut ignored = [0; 64];
        loop {
            match self.0.read(&mut ignored).await {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "standard input cannot be read; taking the parent for gone");
                    return;
                }
            }
        }
    }
}
