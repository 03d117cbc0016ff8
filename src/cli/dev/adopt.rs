//! The running `dev` takes in a node that `dev add` asks for: by a file in the folder, answered by another.
//!
//! So all processes are started, watched and ended by one, and a new node goes on when `dev add` has returned.

use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::anyhow;
use anyhow::bail;
use serde::Deserialize;
use serde::Serialize;

use crate::cli::Context;
use crate::cli::dev::files;
use crate::cli::dev::files::NodeEntry;
use crate::cli::dev::folder;
use crate::cli::dev::folder::Added;
use crate::cli::dev::folder::Folder;
use crate::cli::dev::folder::Spec;
use crate::cli::dev::layout::Layout;
use crate::cli::dev::ports::Ports;
use crate::config::HostChecks;
use crate::config::judge_node;
use crate::config::settle::Inputs;
use crate::limits;

/// Pause between looks for a request.
pub(super) const PAUSE: Duration = Duration::from_millis(200);
/// How long the redis-server of a new node may take.
pub(super) const REDIS_PATIENCE: Duration = Duration::from_secs(20);

/// What the running `dev` answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    /// It is started.
    Started(NodeEntry),
    /// Why it is not.
    Refused(String),
}

/// Forgets what was asked of a `dev` that is gone.
pub(super) fn clear(layout: &Layout) -> anyhow::Result<()> {
    folder::remove(&layout.add_request())?;
    folder::remove(&layout.add_answer())
}

/// What is asked for now, if anything is. A request that cannot be read is answered so: it is no reason to end a cluster.
pub(super) fn requested(layout: &Layout) -> Option<Added> {
    let path = layout.add_request();
    let read = || -> anyhow::Result<Option<Added>> {
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        // Whatever it says, it is dealt with once.
        folder::remove(&path)?;
        Ok(Some(serde_json::from_str(&text)?))
    };
    read().unwrap_or_else(|error| {
        answer(layout, Err(error.context(path.display().to_string())));
        None
    })
}

/// Answers.
pub(super) fn answer(layout: &Layout, outcome: anyhow::Result<NodeEntry>) {
    let answer = match outcome {
        Ok(entry) => Answer::Started(entry),
        Err(error) => {
            tracing::warn!("no node was added: {error:#}");
            Answer::Refused(format!("{error:#}"))
        }
    };
    let text = serde_json::to_string(&answer).context("an answer");
    let written = text.and_then(|text| folder::write_whole(&layout.add_answer(), &text));
    if let Err(error) = written {
        tracing::warn!("`dynamomini dev add` cannot be answered: {error:#}");
    }
}

/// All that it takes to make a node.
pub(super) struct Adopter<'a> {
    pub(super) context: &'a Context,
    pub(super) folder: &'a Folder,
    pub(super) spec: Spec,
    pub(super) ports: Ports,
}

impl Adopter<'_> {
    /// Makes everything that one more node needs. When it fails, the cluster is what it was.
    pub(super) fn prepare(&mut self, layout: &Layout, wanted: Added) -> anyhow::Result<NodeEntry> {
        let index = self.spec.total();
        if index >= limits::DEV_NODES_MAX {
            bail!("this cluster has {index} nodes already, the most that `dynamomini dev` runs");
        }
        self.ports.extend(index).map_err(|taken| anyhow!("the ports of one more node are not free: {taken}"))?;
        let mut spec = self.spec.clone();
        spec.added.push(wanted);
        files::certificates(self.context, layout, &spec)?;
        files::configuration(layout, &spec, &self.ports, index)?;
        let entry = NodeEntry::of(layout, &self.ports, index);
        let inputs = Inputs { file: Some(entry.config.clone()), ..Inputs::default() };
        judge_node(&inputs, HostChecks::WithoutPorts, self.context.env.wall_ms()).into_result()?;
        self.folder.remember(&spec)?;
        self.spec = spec;
        Ok(entry)
    }
}
