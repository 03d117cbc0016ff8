//! The links of one process, by the name of the node they lead to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use crate::env::Env;
use crate::net::endpoint::Endpoint;
use crate::net::endpoint::Expect;
use crate::net::link::Link;
use crate::net::link::LinkSettings;
use crate::types::NodeName;

/// The links of one process. Clones share them.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    endpoint: Endpoint,
    settings: LinkSettings,
    env: Env,
    links: Mutex<BTreeMap<NodeName, Link>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.links().iter().map(|link| (link.expect(), link.state()))).finish()
    }
}

impl Pool {
    /// An empty pool on an endpoint.
    pub fn new(endpoint: &Endpoint, settings: LinkSettings, env: &Env) -> Self {
        Self(Arc::new(Inner { endpoint: endpoint.clone(), settings, env: env.clone(), links: Mutex::default() }))
    }

    /// The link to a node at these addresses: a new one, or the one that exists, moved there if it led elsewhere.
    pub fn link(&self, name: &NodeName, addresses: &[String]) -> Link {
        let link = self
            .lock()
            .entry(name.clone())
            .or_insert_with(|| {
                let expect = Expect::Node(name.clone());
                Link::new(&self.0.endpoint, expect, addresses.to_vec(), self.0.settings.clone(), &self.0.env)
            })
            .clone();
        link.set_addresses(addresses.to_vec());
        link
    }

    /// The link to a node, if there is one.
    pub fn get(&self, name: &NodeName) -> Option<Link> {
        self.lock().get(name).cloned()
    }

    /// Drops the links to nodes that are not wanted any more.
    pub fn retain(&self, wanted: impl Fn(&NodeName) -> bool) {
        self.lock().retain(|name, _| wanted(name));
    }

    /// All links, by name of their node.
    pub fn links(&self) -> Vec<Link> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeName, Link>> {
        // Nothing in here can be left half done by a panic.
        self.0.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
