//! The coordinator of one request: drives the decisions of [`crate::quorum`] against replicas.

mod conditional;
mod get;
mod put;
mod scan;

pub(crate) use conditional::grant;
pub(crate) use get::{fetch, get};
pub(crate) use put::put;
pub(crate) use scan::{page, scan};

use crate::node::core::Core;
use crate::quorum::Miss;
use crate::ring::Ring;
use crate::types::{Consistency, Namespace, NamespacePolicy, NodeId};
use crate::view::ClusterView;
use crate::wire::rpc::{QuorumError, ServeError, Verb};

/// The policy of a namespace, or an error that names those there are.
fn policy<'a>(view: &'a ClusterView, namespace: &Namespace) -> Result<&'a NamespacePolicy, ServeError> {
    view.policy(namespace).ok_or_else(|| {
        let known: Vec<String> = view.namespaces().map(|(name, _)| name.to_string()).collect();
        ServeError::Invalid(format!(
            "there is no namespace {namespace}: this cluster has {}; more are added in every node's configuration",
            known.join(", ")
        ))
    })
}

/// The ring that places the keys of a namespace.
fn ring<'a>(view: &'a ClusterView, namespace: &Namespace) -> Result<&'a Ring, ServeError> {
    view.copies(namespace)
        .and_then(|copies| view.ring(copies))
        .ok_or_else(|| ServeError::Internal("a ring is missing".to_owned()))
}

/// How many replicas must answer. More than there are nodes can never be had: that is said before anything happens.
fn needed(
    view: &ClusterView,
    policy: &NamespacePolicy,
    verb: Verb,
    asked: Option<Consistency>,
) -> Result<u8, ServeError> {
    let (letter, standard) = match verb {
        Verb::Write => ("W", policy.w),
        Verb::Read => ("R", policy.r),
    };
    let needed = asked.unwrap_or(standard).needed(policy.n);
    let needed = needed.map_err(|error| ServeError::Invalid(format!("{letter}: {error}")))?;
    let members = view.members().len();
    if usize::from(needed) > members {
        let text = format!("{letter} asks for {needed} replicas, and the cluster has {members} nodes");
        return Err(ServeError::Invalid(text));
    }
    Ok(needed)
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
    core.meters.quorum_failures.one();
    let view = core.view();
    let missing = missed.iter().map(|miss| (view.name_of(miss.node), miss.why.clone())).collect();
    let got = got.into_iter().map(|node| view.name_of(node)).collect();
    ServeError::Quorum(Box::new(QuorumError { verb, needed, got, missing, may_appear, trace: None }))
}
