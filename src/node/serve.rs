//! The door for requests: decode, check who asks, dispatch, encode.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use tokio::time::Instant;

use crate::hash::ClusterHash;
use crate::limits;
use crate::net::{Handler, Identity, Incoming, Verb};
use crate::node::coordinate;
use crate::node::core::Core;
use crate::node::gossip::{self, Gossip};
use crate::node::peers::encode;
use crate::node::replica::Apply;
use crate::node::status;
use crate::types::Namespace;
use crate::wire::blob;
use crate::wire::rpc::{PutRequest, ReplicaWrite, Reply, Request, ServeError};

/// Most time before the asker's deadline at which a coordinator stops waiting for replicas.
const ANSWER_MARGIN: Duration = Duration::from_millis(100);

/// Serves every connection of a node.
#[derive(Clone)]
pub(crate) struct Serve(pub(crate) Arc<Core>);

impl Handler for Serve {
    async fn handle(&self, incoming: Incoming) -> Bytes {
        let reply = match self.reply(incoming).await {
            Ok(reply) => reply,
            Err(error) => Reply::Error(error),
        };
        let mut frame = BytesMut::new();
        encode(&reply, &mut frame);
        frame.freeze()
    }
}

impl Serve {
    async fn reply(&self, incoming: Incoming) -> Result<Reply, ServeError> {
        let core = &self.0;
        let request: Request = blob::decode(&incoming.body).map_err(|error| {
            ServeError::Invalid(format!("the request cannot be read ({error}): is the other side newer?"))
        })?;
        let from = incoming.peer.identity();
        authorise(core, from, &request)?;
        let deadline = answer_by(incoming.deadline);
        match request {
            Request::Put(put) => coordinate::put(core, from, put, deadline).await.map(Reply::Put),
            Request::Get(get) => coordinate::get(core, get, deadline).await.map(Reply::Get),
            Request::Scan(scan) => coordinate::scan(core, scan, deadline).await.map(Reply::Scan),
            Request::View => Ok(Reply::View(core.view().info().clone())),
            Request::Status => Ok(Reply::Status(Box::new(status::status(core).await))),
            Request::Apply(writes) => Ok(Reply::Apply(join_all(writes.into_iter().map(|w| self.apply(w))).await)),
            Request::Fetch { slots, digest_only } => {
                if slots.len() > limits::BATCH_KEYS_MAX {
                    return Err(ServeError::Limit("too many keys in one fetch".to_owned()));
                }
                let slots = slots.into_iter().map(|slot| core.slot_of(slot)).collect::<Result<Vec<_>, _>>()?;
                Ok(Reply::Fetch(coordinate::fetch(core, slots, digest_only).await))
            }
            Request::Reserve(ask) => coordinate::grant(core, &ask).await.map(Reply::Reserved),
            Request::Release { slot, token } => {
                core.reservations.release(&core.slot_of(slot)?, token);
                Ok(Reply::Done)
            }
            Request::FetchPage(page) => {
                core.check_partition(page.partition)?;
                let (items, more) = coordinate::page(core, &page).await?;
                let items = items.into_iter().map(|(key, record)| (key.into(), record.into())).collect();
                Ok(Reply::FetchPage { items, more })
            }
            Request::Gossip(request) => match from {
                Identity::Node(name) => gossip::serve(self.gossip()?, name, request).await.map(Reply::Gossip),
                other => Err(ServeError::Forbidden(format!("{other} is not a node"))),
            },
            Request::Members => match &core.gossip {
                Some(gossip) => gossip.report().await.map(|report| Reply::Members(Box::new(report))),
                None => Ok(Reply::Members(Box::new(gossip::without_gossip(core)))),
            },
            Request::Keys(order) => gossip::serve_keys(core, self.gossip()?, order).await.map(Reply::Keys),
        }
    }

    fn gossip(&self) -> Result<&Gossip, ServeError> {
        let off = || ServeError::Invalid("this node takes no part in gossip".to_owned());
        self.0.gossip.as_deref().ok_or_else(off)
    }

    async fn apply(&self, write: ReplicaWrite) -> Result<(), ServeError> {
        let core = &self.0;
        let slot = core.slot_of(write.slot)?;
        if let Some(full) = write.hints.iter().find(|target| !core.hints.admit(**target)) {
            let text = format!("no room for another hint for {}", core.view().name_of(*full));
            return Err(ServeError::Unavailable(text));
        }
        // Ends with the write.
        let _writing = write.reservation.map(|token| core.reservations.begin(&slot, token)).transpose()?;
        let slot = slot.clone();
        core.replica.apply(Apply { slot, record: write.record.0, hints: write.hints }).await
    }
}

/// When to answer with whatever there is: an error that says who did not answer must arrive while it is waited for.
fn answer_by(deadline: Instant) -> Instant {
    let left = deadline.saturating_duration_since(Instant::now());
    deadline - (left / 10).min(ANSWER_MARGIN)
}

/// Refuses what the certificate does not allow.
fn authorise(core: &Core, from: &Identity, request: &Request) -> Result<(), ServeError> {
    let (name, grants) = match from {
        // Whoever gossips, or asks what the cluster is, need not be known as a member yet; its cluster is looked at there.
        Identity::Node(_) if matches!(request, Request::Gossip(_) | Request::View) => return Ok(()),
        Identity::Node(name) if core.peers.name_of(ClusterHash::node_id(name)).is_some() => return Ok(()),
        Identity::Node(name) if core.view().members().contains_key(&ClusterHash::node_id(name)) => return Ok(()),
        Identity::Node(name) => {
            return Err(ServeError::Forbidden(format!(
                "node {name} is not a member of cluster {}",
                core.view().info().cluster
            )));
        }
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
        Request::View | Request::Status | Request::Members => Ok(()),
        Request::Keys(_) if grants.is_none() => Ok(()),
        Request::Keys(_) => Err(ServeError::Forbidden(format!("{name} is not an administrator"))),
        Request::Apply(_)
        | Request::Fetch { .. }
        | Request::FetchPage(_)
        | Request::Reserve(_)
        | Request::Release { .. }
        | Request::Gossip(_) => Err(ServeError::Forbidden(format!("{name} is not a node of the cluster"))),
    }
}
