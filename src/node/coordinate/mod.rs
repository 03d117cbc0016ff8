//! The coordinator of one request: drives the decisions of [`crate::quorum`] against replicas.

mod get;
mod put;
mod scan;

pub(crate) use get::{fetch, get};
pub(crate) use put::put;
pub(crate) use scan::{page, scan};

use std::sync::atomic::Ordering;

use crate::node::core::Core;
use crate::quorum::Miss;
use crate::ring::Ring;
use crate::types::{Namespace, NamespacePolicy, NodeId};
use crate::wire::rpc::{QuorumError, ServeError, Verb};

/// The policy of a namespace, or an error that names those there are.
fn policy<'a>(core: &'a Core, namespace: &Namespace) -> Result<&'a NamespacePolicy, ServeError> {
    core.view.policy(namespace).ok_or_else(|| {
        let known: Vec<String> = core.view.namespaces().map(|(name, _)| name.to_string()).collect();
        ServeError::Invalid(format!(
            "there is no namespace {namespace}: this cluster has {}; more are added in every node's configuration",
            known.join(", ")
        ))
    })
}

/// The ring that places the keys of a namespace.
fn ring<'a>(core: &'a Core, policy: &NamespacePolicy) -> Result<&'a Ring, ServeError> {
    core.view.ring(policy.n).ok_or_else(|| ServeError::Internal("a ring is missing".to_owned()))
}

/// A node that was asked and had not answered when the time was up.
fn silent(node: NodeId, maybe: bool) -> Miss {
    Miss { node, why: "did not answer before the deadline".to_owned(), maybe }
}

/// The error of a quorum that was not met.
fn quorum_error(
    core: &Core,
    verb: Verb,
    needed: u8,
    got: impl IntoIterator<Item = NodeId>,
    missed: &[Miss],
    may_appear: bool,
) -> ServeError {
    core.counters.quorum_failures.fetch_add(1, Ordering::Relaxed);
    let missing = missed.iter().map(|miss| (core.view.name_of(miss.node), miss.why.clone())).collect();
    let got = got.into_iter().map(|node| core.view.name_of(node)).collect();
    ServeError::Quorum(Box::new(QuorumError { verb, needed, got, missing, may_appear }))
}
