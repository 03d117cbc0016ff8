//! A client's configuration, and the places where it is looked for.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::node;
use crate::config::problem::ConfigError;
use crate::config::settle::ENV_CLIENT_CONFIG;
use crate::config::settle::Inputs;
use crate::config::settle::Settled;
use crate::config::value::HostPort;
use crate::config::value::Value;
use crate::net::TlsFiles;
use crate::types::ClusterName;
use crate::types::Consistency;
use crate::types::Namespace;
use crate::types::Zone;

/// Everything a client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// The cluster to talk to.
    pub cluster: ClusterName,
    /// Nodes to ask first.
    pub nodes: Vec<HostPort>,
    /// The client's certificate.
    pub tls: TlsFiles,
    /// The namespace of keys.
    pub namespace: Namespace,
    /// Its nodes are asked before others.
    pub zone: Option<Zone>,
    /// Deadline of one request.
    pub timeout: Duration,
    /// Replicas that answer a read; `None` means as the namespace says.
    pub r: Option<Consistency>,
    /// Replicas that hold a write; `None` means as the namespace says.
    pub w: Option<Consistency>,
}

/// Where `dynamomini dev` leaves the client's configuration, relative to the working directory.
pub const DEV_CLIENT_FILE: &str = ".dynamomini/client.toml";

/// Finds the file: the one named by the flag, else by the environment, else the first that exists of the working
/// directory's and the user's.
///
/// # Errors
/// [`ConfigError::NotFound`] when there is none and settings alone do not suffice.
pub fn find(flag: Option<&Path>, inputs: &Inputs) -> Result<Option<PathBuf>, ConfigError> {
    if let Some(named) = flag {
        return Ok(Some(named.to_owned()));
    }
    if let Some(named) = inputs.env.get(ENV_CLIENT_CONFIG) {
        return Ok(Some(PathBuf::from(named)));
    }
    let places: Vec<PathBuf> = [Some(PathBuf::from(DEV_CLIENT_FILE)), user_file()].into_iter().flatten().collect();
    if let Some(found) = places.iter().find(|place| place.exists()) {
        return Ok(Some(found.clone()));
    }
    let enough = Settled::new(&crate::config::settings::CLIENT, inputs).problems.is_empty();
    if enough {
        return Ok(None);
    }
    let shown: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
    Err(ConfigError::NotFound { looked: shown.join(", ") })
}

fn user_file() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")))?;
    Some(folder.join("dynamomini").join("client.toml"))
}

/// Makes the configuration; `None` when something essential is missing, which is then among the problems.
pub(crate) fn build(settled: &Settled) -> Option<ClientConfig> {
    let nodes = match settled.get("nodes").map(|found| &found.value) {
        Some(Value::List(texts)) => texts.iter().filter_map(|text| text.parse().ok()).collect(),
        _ => return None,
    };
    Some(ClientConfig {
        cluster: settled.parsed("cluster.name")?,
        nodes,
        tls: node::tls(settled)?,
        namespace: settled.parsed("namespace")?,
        zone: settled.parsed("zone"),
        timeout: Duration::from_millis(settled.number("timeout_ms")),
        r: settled.parsed("r"),
        w: settled.parsed("w"),
    })
}
