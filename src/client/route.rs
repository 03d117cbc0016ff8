//! Which node to ask: the owners of the key first, those that answer before those that do not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::env::Env;
use crate::net::link::{Link, LinkSettings, LinkState};
use crate::net::pool::Pool;
use crate::net::{Endpoint, Expect};
use crate::types::{Namespace, NodeId, NodeName};
use crate::view::ClusterView;

/// How long others are preferred to a node that let a request down: about as long as it takes until the connection to
/// a node that was killed counts as lost.
const SHUN: Duration = Duration::from_secs(5);

/// A node to ask.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Its name, or the address of a seed whose name is not known yet.
    pub(crate) label: String,
    pub(crate) link: Link,
}

/// The nodes a client knows.
#[derive(Debug)]
pub(crate) struct Routes {
    endpoint: Endpoint,
    pool: Pool,
    seeds: Vec<Target>,
    view: Mutex<Option<Arc<ClusterView>>>,
    /// When each node last let a request down, by label.
    failed: Mutex<BTreeMap<String, Instant>>,
}

impl Routes {
    pub(crate) fn new(endpoint: Endpoint, seeds: &[String], settings: &LinkSettings, env: &Env) -> Self {
        let seeds = seeds.iter().map(|seed| Target {
            label: seed.clone(),
            link: Link::new(&endpoint, Expect::AnyNode, vec![seed.clone()], settings.clone(), env),
        });
        let pool = Pool::new(&endpoint, settings.clone(), env);
        Self { seeds: seeds.collect(), endpoint, pool, view: Mutex::default(), failed: Mutex::default() }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The cluster as last learnt.
    pub(crate) fn view(&self) -> Option<Arc<ClusterView>> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes a newly learnt cluster: connections to members that stay are kept.
    pub(crate) fn learn(&self, view: ClusterView) -> Arc<ClusterView> {
        let view = Arc::new(view);
        self.pool.retain(|name| view.members().values().any(|member| member.name == *name));
        for member in view.members().values() {
            self.pool.link(&member.name, std::slice::from_ref(&member.quic));
        }
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = Some(view.clone());
        view
    }

    /// Whom to ask for a key, best first: its owners in the order of the preference list, then the other members;
    /// within each, those that answer before those that do not.
    pub(crate) fn for_key(&self, namespace: &Namespace, key: &[u8]) -> Vec<Target> {
        let Some(view) = self.view() else { return self.seeds.clone() };
        let (_, partition) = view.place(namespace, key);
        let ring = view.policy(namespace).and_then(|policy| view.ring(policy.n));
        let owners = ring.map_or(&[][..], |ring| ring.preference_list(partition));
        let others = view.members().keys().filter(|node| !owners.contains(node));
        let targets = |nodes: &mut dyn Iterator<Item = &NodeId>| {
            let mut targets: Vec<Target> = nodes.filter_map(|node| self.node(&view.name_of(*node))).collect();
            self.best_first(&mut targets);
            targets
        };
        let mut order = targets(&mut owners.iter());
        order.extend(targets(&mut others.into_iter()));
        order
    }

    /// Whom to ask for what every node can answer: members when they are known, then seeds.
    pub(crate) fn any(&self) -> Vec<Target> {
        let view = self.view();
        let members = view.iter().flat_map(|view| view.members().values());
        let mut targets: Vec<Target> = members.filter_map(|member| self.node(&member.name)).collect();
        self.best_first(&mut targets);
        targets.extend(self.seeds.iter().cloned());
        targets
    }

    /// Prefers others to this node for a while.
    pub(crate) fn shun(&self, label: &str) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.retain(|_, at| at.elapsed() < SHUN);
        failed.insert(label.to_owned(), Instant::now());
    }

    /// Brings those that are down, or failed of late, to the end.
    fn best_first(&self, targets: &mut [Target]) {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let failed_of_late = |target: &Target| failed.get(&target.label).is_some_and(|at| at.elapsed() < SHUN);
        targets.sort_by_key(|target| (target.is_down(), failed_of_late(target)));
    }

    /// The node of this name.
    pub(crate) fn node(&self, name: &NodeName) -> Option<Target> {
        self.pool.get(name).map(|link| Target { label: name.to_string(), link })
    }
}

impl Target {
    fn is_down(&self) -> bool {
        matches!(self.link.state(), LinkState::Down { .. })
    }
}
