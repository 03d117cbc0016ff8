//! Takes up certificates that were replaced while the node runs: when it is told to by SIGHUP, and by looking now and then
//! whether the files have changed.
//!
//! What cannot be used is said once, and the node goes on with what it has.

use std::fs;
use std::path::Path;
use std::time::Duration;
use std::time::SystemTime;

use tokio::signal::unix::Signal;

use crate::cli::table::span;
use crate::env::Env;
use crate::net::TlsFiles;
use crate::net::TlsMaterial;
use crate::node::Node;
use crate::node::RenewError;

/// Pause between looks at the files.
const PAUSE: Duration = Duration::from_secs(30);

/// How a file was when it was looked at. `None` when it was not there.
type Look = Option<(SystemTime, u64)>;

/// The files of one node, as they were last.
pub(crate) struct Renewal {
    files: TlsFiles,
    seen: [Look; 3],
}

impl Renewal {
    /// The files as they are now; to be called before they are read.
    pub(crate) fn new(files: &TlsFiles) -> Self {
        Self { files: files.clone(), seen: look(files) }
    }

    /// Has the node take up what is new, for as long as it runs.
    pub(crate) async fn keep_up(mut self, node: &Node, hangup: &mut Signal, env: &Env) {
        loop {
            let told = tokio::select! {
                biased;
                _ = hangup.recv() => true,
                () = env.beat(PAUSE) => false,
            };
            if self.is_due(told, env).await {
                self.take_up(node, env).await;
            }
        }
    }

    /// Whether somebody asks for it, or a file is not what it was.
    async fn is_due(&mut self, told: bool, env: &Env) -> bool {
        let files = self.files.clone();
        let Some(seen) = env.blocking(move || look(&files)).await else { return false };
        std::mem::replace(&mut self.seen, seen) != seen || told
    }

    async fn take_up(&mut self, node: &Node, env: &Env) {
        let file = self.files.cert.display().to_string();
        let files = self.files.clone();
        let Some(loaded) = env.blocking(move || TlsMaterial::load(&files)).await else { return };
        let outcome = match loaded {
            Ok(material) => node.renew(&material).await.map(|()| material),
            Err(error) => Err(error.into()),
        };
        match outcome {
            Ok(material) => {
                let ends = u64::try_from(material.certificate().not_after_ms).unwrap_or(0);
                let left = span(Duration::from_millis(ends.saturating_sub(env.wall_ms())));
                tracing::info!(file, expires_in = left, "certificates taken up");
            }
            Err(error) => {
                if matches!(error, RenewError::Busy) {
                    // So that the next look finds them changed.
                    self.seen = [None; 3];
                }
                tracing::error!(file, %error, "the certificates on disk are not taken up; those in use stay in use");
            }
        }
    }
}

fn look(files: &TlsFiles) -> [Look; 3] {
    let one = |path: &Path| fs::metadata(path).and_then(|found| Ok((found.modified()?, found.len()))).ok();
    [one(&files.ca), one(&files.cert), one(&files.key)]
}
