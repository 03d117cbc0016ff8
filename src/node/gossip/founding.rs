//! The description of the cluster for a node that was not given the list of its members: learnt from the seeds, and kept.
//!
//! It says who owns data. A node that is not in it takes part in gossip without owning any.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::env::Env;
use crate::limits;
use crate::net::{Endpoint, Expect, link};
use crate::node::kept::KeptFile;
use crate::node::peers::encode;
use crate::types::{ClusterName, NodeName};
use crate::wire::blob;
use crate::wire::rpc::{ClusterInfo, Reply, Request, Traced};

/// Longest wait for one address.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long the seeds get to say something newer than what is kept.
const NEWER: Duration = Duration::from_secs(3);
/// First and longest pause between rounds of attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Why there is no description.
#[derive(Debug, thiserror::Error)]
pub enum FoundingError {
    /// The file cannot be read or written.
    #[error("the description of the cluster in the data directory: {0}")]
    Kept(#[from] io::Error),
    /// There is nobody to ask.
    #[error("neither [[members]] nor cluster.seeds is given: list the members, or name a node to learn them from")]
    NoSeeds,
    /// The seeds are of another cluster.
    #[error("the node at {0} is of cluster {1}, not {2}: correct cluster.seeds or cluster.name")]
    Another(String, ClusterName, ClusterName),
}

/// Where the description is kept.
#[derive(Debug)]
pub struct Founding {
    file: KeptFile,
    cluster: ClusterName,
    node: NodeName,
}

impl Founding {
    /// The description that the node of this name keeps in its data directory.
    pub fn at(data_dir: &Path, cluster: &ClusterName, node: &NodeName) -> Self {
        let file = KeptFile::new(data_dir, "founding", b"DMFOUND1");
        Self { file, cluster: cluster.clone(), node: node.clone() }
    }

    /// Keeps a description.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep(&self, info: &ClusterInfo) -> Result<(), FoundingError> {
        let body = postcard::to_stdvec(info).map_err(io::Error::other)?;
        Ok(self.file.save(&body)?)
    }

    fn kept(&self) -> Result<Option<ClusterInfo>, FoundingError> {
        let body = self.file.load()?;
        let info = body.and_then(|body| postcard::from_bytes::<ClusterInfo>(&body).ok());
        Ok(info.filter(|info| info.cluster == self.cluster && info.node == self.node))
    }

    /// Asks the seeds, for ever if nothing is kept from before.
    ///
    /// # Errors
    /// When there is nobody to ask, a seed is of another cluster, or the file cannot be used.
    pub async fn learn(&self, endpoint: &Endpoint, seeds: &[String], env: &Env) -> Result<ClusterInfo, FoundingError> {
        let kept = self.kept()?;
        if seeds.is_empty() {
            return kept.ok_or(FoundingError::NoSeeds);
        }
        let asking = self.ask_for_ever(endpoint, seeds, env);
        let learnt = match kept {
            Some(kept) => match timeout(NEWER, asking).await {
                Ok(learnt) => learnt?,
                Err(_) => {
                    tracing::warn!("no seed answers: the cluster is taken to be as it was last known");
                    return Ok(kept);
                }
            },
            None => asking.await?,
        };
        self.keep(&learnt)?;
        Ok(learnt)
    }

    async fn ask_for_ever(
        &self,
        endpoint: &Endpoint,
        seeds: &[String],
        env: &Env,
    ) -> Result<ClusterInfo, FoundingError> {
        let (mut pause, mut said) = (PAUSE.0, false);
        loop {
            for seed in seeds.iter().take(limits::SEEDS_MAX) {
                let found = link::resolve(seed).await.unwrap_or_else(|error| {
                    tracing::debug!(seed, %error, "a seed's name cannot be resolved");
                    Vec::new()
                });
                for address in found.into_iter().take(limits::ADDRESSES_MAX) {
                    match ask(endpoint, address).await {
                        Ok(info) if info.cluster != self.cluster => {
                            return Err(FoundingError::Another(seed.clone(), info.cluster, self.cluster.clone()));
                        }
                        Ok(info) => return Ok(ClusterInfo { node: self.node.clone(), ..info }),
                        Err(why) => tracing::debug!(seed, %address, why, "a seed did not describe the cluster"),
                    }
                }
            }
            if pause == PAUSE.1 && !std::mem::replace(&mut said, true) {
                tracing::warn!("no seed describes the cluster yet; asked for ever: {}", seeds.join(", "));
            }
            if env.is_stopping() {
                return Err(FoundingError::NoSeeds);
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }
}

async fn ask(endpoint: &Endpoint, address: std::net::SocketAddr) -> Result<ClusterInfo, String> {
    let until = Instant::now() + PATIENCE;
    let connecting = timeout_at(until, endpoint.connect(address, &Expect::AnyNode, 1)).await;
    let connection = connecting.map_err(|_| "nobody answered".to_owned())?.map_err(|error| error.to_string())?;
    let answer = connection.request(PATIENCE, |frame| encode(&Traced::untraced(Request::View), frame)).await;
    connection.close();
    match blob::decode(&answer.map_err(|error| error.to_string())?) {
        Ok(Reply::View(info)) => Ok(info),
        Ok(Reply::Error(error)) => Err(error.to_string()),
        Ok(_) => Err("it sent a reply of the wrong kind".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
