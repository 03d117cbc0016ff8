//! The door for what is asked of gossip over connections.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;

use crate::hash::ClusterHash;
use crate::limits;
use crate::node::core::Core;
use crate::node::gossip::Gossip;
use crate::node::gossip::orders::Order;
use crate::seal::{KeyId, KeyringError};
use crate::types::{NodeId, NodeName};
use crate::wire::blob::Blob;
use crate::wire::gossip::{GossipReply, GossipRequest, KeyOrder, KeysReport};
use crate::wire::rpc::ServeError;

/// How long all members together get to take over a keyring.
const SPREAD: Duration = Duration::from_secs(3);

/// Answers another node.
pub(crate) async fn serve(gossip: &Gossip, from: &NodeName, request: GossipRequest) -> Result<GossipReply, ServeError> {
    let node = ClusterHash::node_id(from);
    let ending = || ServeError::Unavailable("gossip does not answer now".to_owned());
    match request {
        GossipRequest::Ping(bytes) => {
            let answer = gossip.ask(|reply| Order::AnswerPing(bytes.0, reply)).await.flatten();
            Ok(GossipReply::Pong(Blob(answer.ok_or_else(ending)?.into())))
        }
        GossipRequest::Sync(bytes) => {
            let answer = gossip.ask(|reply| Order::AnswerSync(node, bytes.0, reply)).await.flatten();
            Ok(GossipReply::Sync(Blob(answer.ok_or_else(ending)?.into())))
        }
        GossipRequest::Hello(hello) => {
            gossip.welcome(from, node, &hello).map(|hello| GossipReply::Hello(Box::new(hello)))
        }
    }
}

/// Carries out an administrator's order to the keyring.
pub(crate) async fn keys(core: &Arc<Core>, gossip: &Gossip, order: KeyOrder) -> Result<KeysReport, ServeError> {
    let refused = |error: KeyringError| ServeError::Invalid(error.to_string());
    let subject = match order {
        KeyOrder::List => None,
        KeyOrder::Add => Some(gossip.keys.make(&gossip.env).map_err(refused)?),
        KeyOrder::Use { id, force } => {
            let id = KeyId(id);
            if gossip.keys.ring().key(id).is_none() {
                // Says why: never heard of, or removed.
                gossip.keys.change(|ring| ring.use_key(id)).map_err(refused)?;
            }
            let (_, missed) = spread(core, gossip).await;
            if !missed.is_empty() && !force {
                return Err(ServeError::Invalid(not_everywhere(&missed)));
            }
            gossip.keys.change(|ring| ring.use_key(id)).map_err(refused)?;
            Some(id)
        }
        KeyOrder::Remove { id } => {
            let id = KeyId(id);
            gossip.keys.change(|ring| ring.remove(id)).map_err(refused)?;
            Some(id)
        }
    };
    gossip.keys.save(&gossip.env).await;
    gossip.tell(Order::Learnt);
    let (agree, missed) = spread(core, gossip).await;
    let seals = gossip.ask(Order::Seals).await.flatten();
    Ok(KeysReport { keys: gossip.keys.report(seals), subject: subject.map(|id| id.0), agree, missed })
}

fn not_everywhere(missed: &[NodeName]) -> String {
    let names: Vec<&str> = missed.iter().map(NodeName::as_str).collect();
    format!(
        "members that are up could not be given the key: {}. They would not understand the others; try again when they \
         are reachable, or use --force",
        names.join(", ")
    )
}

/// Gives the keyring to all members that are up. Returns who has it, and who does not.
async fn spread(core: &Arc<Core>, gossip: &Gossip) -> (Vec<NodeName>, Vec<NodeName>) {
    let up: Vec<NodeId> = core.peers.in_contact();
    let digest = gossip.keys.digest();
    let greetings = up.into_iter().map(|node| async move {
        let greeted = gossip.greet_peer(core, node);
        let answered = tokio::time::timeout(SPREAD, greeted).await.is_ok_and(|answered| answered);
        let met = gossip.met.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let agrees = answered && met.get(&node).is_some_and(|met| met.told == digest && met.digest == digest);
        drop(met);
        (core.peers.name_of(node).unwrap_or_else(|| core.view().name_of(node)), agrees)
    });
    let outcomes: Vec<(NodeName, bool)> = stream::iter(greetings).buffered(limits::GREETINGS_AT_ONCE).collect().await;
    let (mut agree, missed): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(|(_, agrees)| *agrees);
    agree.push((gossip.name.clone(), true));
    let names = |list: Vec<(NodeName, bool)>| {
        let mut names: Vec<NodeName> = list.into_iter().map(|(name, _)| name).collect();
        names.sort();
        names
    };
    (names(agree), names(missed))
}
