//! Which node to ask: the owners of the key first, those that answer before those that do not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::net::{Endpoint, Expect, Link, LinkState};
use crate::types::{Namespace, NodeName};
use crate::view::ClusterView;

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
    lanes: usize,
    seeds: Vec<Target>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    view: Option<Arc<ClusterView>>,
    links: BTreeMap<NodeName, (String, Link)>,
}

impl Routes {
    pub(crate) fn new(endpoint: Endpoint, seeds: &[String], lanes: usize) -> Self {
        let seeds = seeds.iter().map(|seed| Target {
            label: seed.clone(),
            link: Link::new(&endpoint, seed.clone(), Expect::AnyNode, lanes),
        });
        Self { seeds: seeds.collect(), endpoint, lanes, known: Mutex::default() }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The cluster as last learnt.
    pub(crate) fn view(&self) -> Option<Arc<ClusterView>> {
        self.lock().view.clone()
    }

    /// Takes a newly learnt cluster: connections to members that stay are kept.
    pub(crate) fn learn(&self, view: ClusterView) -> Arc<ClusterView> {
        let view = Arc::new(view);
        let mut known = self.lock();
        let mut links = BTreeMap::new();
        for member in view.members().values() {
            let kept = known.links.remove(&member.name).filter(|(address, _)| *address == member.quic);
            let link = kept.map_or_else(
                || Link::new(&self.endpoint, member.quic.clone(), Expect::Node(member.name.clone()), self.lanes),
                |(_, link)| link,
            );
            links.insert(member.name.clone(), (member.quic.clone(), link));
        }
        known.links = links;
        known.view = Some(view.clone());
        view
    }

    /// Whom to ask for a key, best first: its owners in the order of the preference list, then the other members;
    /// within each, those that are connected or untried before those that failed of late.
    pub(crate) fn for_key(&self, namespace: &Namespace, key: &[u8]) -> Vec<Target> {
        let known = self.lock();
        let Some(view) = &known.view else { return self.seeds.clone() };
        let (_, partition) = view.place(namespace, key);
        let ring = view.policy(namespace).and_then(|policy| view.ring(policy.n));
        let owners = ring.map_or(&[][..], |ring| ring.preference_list(partition));
        let mut names: Vec<NodeName> = owners.iter().map(|owner| view.name_of(*owner)).collect();
        let count = names.len();
        let others: Vec<NodeName> = known.links.keys().filter(|name| !names.contains(name)).cloned().collect();
        names.extend(others);
        let mut targets: Vec<(bool, Target)> = Vec::with_capacity(names.len());
        for (place, name) in names.into_iter().enumerate() {
            if let Some((_, link)) = known.links.get(&name) {
                let down = matches!(link.state(), LinkState::Down { .. });
                targets.push((down, Target { label: name.to_string(), link: link.clone() }));
            }
            if place + 1 == count {
                targets.sort_by_key(|(down, _)| *down);
            }
        }
        targets.into_iter().map(|(_, target)| target).collect()
    }

    /// Whom to ask for what every node can answer: members when they are known, else seeds.
    pub(crate) fn any(&self) -> Vec<Target> {
        let known = self.lock();
        let members = known.links.iter().map(|(name, (_, link))| Target { label: name.to_string(), link: link.clone() });
        let mut targets: Vec<Target> = members.collect();
        targets.sort_by_key(|target| matches!(target.link.state(), LinkState::Down { .. }));
        targets.extend(self.seeds.iter().cloned());
        targets
    }

    /// The node of this name.
    pub(crate) fn node(&self, name: &NodeName) -> Option<Target> {
        let known = self.lock();
        known.links.get(name).map(|(_, link)| Target { label: name.to_string(), link: link.clone() })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
