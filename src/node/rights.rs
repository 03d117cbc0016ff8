//! What a peer may ask, by its certificate. Who it is, the network has found out; what it asks for is not carried out here.

use crate::hash::ClusterHash;
use crate::net::{Identity, Verb};
use crate::node::core::Core;
use crate::types::{Namespace, NodeName};
use crate::wire::layout::LayoutRequest;
use crate::wire::rpc::{PutRequest, Request, ServeError};
use crate::wire::tasks::TaskOrder;

/// Refuses what the certificate does not allow.
pub(crate) fn check(core: &Core, from: &Identity, request: &Request) -> Result<(), ServeError> {
    if matches!(request, Request::Log(_)) && !matches!(from, Identity::Admin(_)) {
        let text =
            format!("the log is changed with an administrator's certificate, and {} is a {}", from.name(), from.role());
        return Err(ServeError::Forbidden(text));
    }
    let (name, grants) = match from {
        // Whoever gossips, or asks what the cluster is, need not be known as a member yet; its cluster is looked at there.
        Identity::Node(_) if matches!(request, Request::Gossip(_) | Request::View) => return Ok(()),
        Identity::Node(name) => return check_member(core, name),
        Identity::Admin(name) => (name, None),
        Identity::Client { name, grants } => (name, Some(grants)),
    };
    let allow = |verb: Verb, namespace: &Namespace, key: &[u8]| match grants {
        Some(grants) if !grants.allows(verb, namespace, key) => {
            Err(ServeError::Forbidden(grants.refusal(name, verb, namespace)))
        }
        _ => Ok(()),
    };
    match request {
        Request::Put(PutRequest { namespace, items, .. }) => items.iter().try_for_each(|item| {
            let verb = if item.value.is_some() { Verb::Put } else { Verb::Delete };
            allow(verb, namespace, &item.key)
        }),
        Request::Get(get) => get.keys.iter().try_for_each(|key| allow(Verb::Get, &get.namespace, key)),
        Request::Scan(scan) => match grants {
            Some(grants) if !grants.allows_scan(&scan.namespace, &scan.prefix) => {
                Err(ServeError::Forbidden(grants.refusal(name, Verb::Scan, &scan.namespace)))
            }
            _ => Ok(()),
        },
        Request::View | Request::Watch { .. } | Request::Status | Request::Log(_) | Request::Members => Ok(()),
        Request::Layout(LayoutRequest::Show) => Ok(()),
        Request::Tasks(request) if request.order == TaskOrder::List => Ok(()),
        Request::Keys(_) | Request::Layout(LayoutRequest::Change(_)) | Request::Tasks(_) | Request::Repair(_) => {
            match from {
                Identity::Admin(_) => Ok(()),
                _ => Err(ServeError::Forbidden(format!("{name} is not an administrator"))),
            }
        }
        Request::Apply(_)
        | Request::Fetch { .. }
        | Request::FetchPage(_)
        | Request::Reserve(_)
        | Request::Release { .. }
        | Request::Gossip(_)
        | Request::SyncRoots(_)
        | Request::SyncSums(_)
        | Request::SyncRecords(_)
        | Request::Reap(_)
        | Request::Layout(_)
        | Request::Landmark(_)
        | Request::Dropped(_)
        | Request::Settle => Err(ServeError::Forbidden(format!("{name} is not a node of the cluster"))),
    }
}

/// Refuses a node that is no member: it may ask for nothing that members ask each other for.
fn check_member(core: &Core, name: &NodeName) -> Result<(), ServeError> {
    let node = ClusterHash::node_id(name);
    if core.peers.knows(node) || core.view().members().contains_key(&node) {
        return Ok(());
    }
    let cluster = core.view().info().cluster.clone();
    Err(ServeError::Forbidden(format!("node {name} is not a member of cluster {cluster}")))
}
