//! Where everything of a dev cluster is, below its folder.

use std::path::PathBuf;

use crate::cli::dev::folder;
use crate::types::NodeName;

/// The paths of one cluster. All are absolute, so that they work from everywhere.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) root: PathBuf,
}

impl Layout {
    /// Authority and certificates.
    pub(super) fn certs(&self) -> PathBuf {
        self.root.join("certs")
    }

    /// What clients are told.
    pub(super) fn client_config(&self) -> PathBuf {
        self.root.join("client.toml")
    }

    /// What programs are told, while the cluster runs.
    pub(super) fn cluster_json(&self) -> PathBuf {
        self.root.join("cluster.json")
    }

    /// The file whose lock a running `dev` holds.
    pub(super) fn dev_lock(&self) -> PathBuf {
        self.root.join(folder::LOCK)
    }

    /// The file whose lock the one `dev add` holds that is under way.
    pub(super) fn add_lock(&self) -> PathBuf {
        self.root.join("add.lock")
    }

    /// What it asks of the running `dev`.
    pub(super) fn add_request(&self) -> PathBuf {
        self.root.join("add.request")
    }

    /// What that answers.
    pub(super) fn add_answer(&self) -> PathBuf {
        self.root.join("add.answer")
    }

    /// A node's folder.
    pub(super) fn node(&self, name: &NodeName) -> PathBuf {
        self.root.join(name.as_str())
    }

    /// Where a node keeps its state.
    pub(super) fn node_data(&self, name: &NodeName) -> PathBuf {
        self.node(name).join("data")
    }

    /// What a node is told.
    pub(super) fn node_config(&self, name: &NodeName) -> PathBuf {
        self.node(name).join("node.toml")
    }

    /// What a node says.
    pub(super) fn node_log(&self, name: &NodeName) -> PathBuf {
        self.node(name).join("node.log")
    }

    /// The folder of a node's redis-server.
    pub(super) fn redis(&self, name: &NodeName) -> PathBuf {
        self.node(name).join("redis")
    }

    /// What a redis-server is told.
    pub(super) fn redis_config(&self, name: &NodeName) -> PathBuf {
        self.redis(name).join("redis.conf")
    }

    /// What a redis-server says.
    pub(super) fn redis_log(&self, name: &NodeName) -> PathBuf {
        self.redis(name).join("redis.log")
    }

    /// Where a redis-server listens.
    pub(super) fn redis_socket(&self, name: &NodeName) -> PathBuf {
        self.redis(name).join("socket")
    }
}

/// The name of the node with this number, from 0.
pub(super) fn node_name(index: u16) -> NodeName {
    NodeName::new(format!("n{}", index + 1)).expect("a letter and digits are a node name")
}
