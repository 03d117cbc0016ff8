//! Configuration: TOML, overridden by the environment, overridden by flags, and judged as a whole before anything starts.
//!
//! One table of settings ([`settings`]) is the home of every key. What comes out, [`NodeConfig`] and [`ClientConfig`],
//! is plain and valid; all that is wrong is reported at once. Nothing below this room reads files, arguments or the
//! environment for its settings, and nothing here starts anything.

pub mod settings;

pub mod value;

pub mod problem;

mod document;

pub mod settle;

pub mod node;

pub mod redis;

pub mod client;

mod check;

pub mod flags;

pub mod show;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::path::PathBuf;

pub use client::ClientConfig;
pub use flags::ClientFlags;
pub use flags::NodeFlags;
pub use node::NodeConfig;
pub use problem::ConfigError;
pub use problem::Problem;
use settings::CLIENT;
use settings::NODE;
use settle::ENV_CONFIG;
use settle::Inputs;
use settle::Settled;

/// Which checks of the host are made beside those of the values themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostChecks {
    /// Files, certificates, the data directory, and that the ports are free.
    All,
    /// All but the ports: for the configuration of a node that runs.
    WithoutPorts,
    /// None: only the values are judged.
    None,
}

/// A configuration that was judged: the values with their sources, and the result if nothing is wrong.
#[derive(Debug)]
pub struct Judged<T> {
    /// All values, problems and warnings.
    pub settled: Settled,
    config: Option<T>,
}

impl<T> Judged<T> {
    /// The configuration.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with everything that is wrong.
    pub fn into_result(self) -> Result<T, ConfigError> {
        let title = self.settled.catalogue.title;
        match self.config {
            Some(config) if self.settled.problems.is_empty() => Ok(config),
            _ => Err(ConfigError::Invalid { title, problems: self.settled.problems }),
        }
    }
}

/// Judges a node's configuration. `now_ms` is the wall clock, for the dates of certificates.
pub fn judge_node(inputs: &Inputs, checks: HostChecks, now_ms: u64) -> Judged<NodeConfig> {
    let mut settled = Settled::new(&NODE, inputs);
    if settled.broken {
        return Judged { settled, config: None };
    }
    let config = node::build(&mut settled);
    if checks != HostChecks::None {
        check::node(&mut settled, checks == HostChecks::All, now_ms);
    }
    Judged { settled, config }
}

/// Judges a client's configuration. `now_ms` is the wall clock, for the dates of certificates.
pub fn judge_client(inputs: &Inputs, checks: HostChecks, now_ms: u64) -> Judged<ClientConfig> {
    let mut settled = Settled::new(&CLIENT, inputs);
    if settled.broken {
        return Judged { settled, config: None };
    }
    let config = client::build(&settled);
    if checks != HostChecks::None {
        check::client(&mut settled, now_ms);
    }
    Judged { settled, config }
}

impl NodeFlags {
    /// The flags together with the environment of this process; the file is the flag's, the environment's, or
    /// `./dynamomini.toml` if that exists.
    pub fn inputs(self) -> Inputs {
        let mut inputs = Inputs::from_process();
        let named = self.config.or_else(|| inputs.env.get(ENV_CONFIG).map(PathBuf::from));
        inputs.file = named.or_else(|| Some(PathBuf::from("dynamomini.toml")).filter(|path| path.exists()));
        inputs.flags = self.flags;
        inputs.sets = self.sets;
        inputs.members = self.members;
        inputs
    }
}

impl ClientFlags {
    /// The flags together with the environment of this process and the file that [`client::find`] names.
    ///
    /// # Errors
    /// [`ConfigError::NotFound`] when there is no file and the flags and environment do not suffice.
    pub fn inputs(self) -> Result<Inputs, ConfigError> {
        let mut inputs = Inputs { flags: self.flags, ..Inputs::from_process() };
        inputs.file = client::find(self.config.as_deref(), &inputs)?;
        Ok(inputs)
    }
}

/// Loads a node's configuration from a file and nothing else, without checks of the host: for tools that only want to
/// know what it says.
///
/// # Errors
/// [`ConfigError::Invalid`] with everything that is wrong.
pub fn read_node_file(path: &Path) -> Result<NodeConfig, ConfigError> {
    let inputs = Inputs { file: Some(path.to_owned()), ..Inputs::default() };
    judge_node(&inputs, HostChecks::None, 0).into_result()
}
