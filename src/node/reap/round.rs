//! One round: the same dead records, asked about at every member, and dropped at their owners.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use crate::limits;
use crate::node::ask::By;
use crate::node::core::Core;
use crate::node::peers::{PeerError, unexpected};
use crate::node::reap::obey::obey;
use crate::node::reap::seek::owners;
use crate::store::Slot;
use crate::types::NodeId;
use crate::wire::past::Landmark;
use crate::wire::reap::{DeadRecord, Life, ReapAnswer, ReapOrder};
use crate::wire::rpc::{Reply, Request};

/// How long a member may take for one message of records.
const PATIENCE: Duration = Duration::from_secs(20);

/// The lives in which all members agreed, and how far their storages had come.
type Lives = BTreeMap<NodeId, (Life, Landmark)>;

/// Tries to drop these records.
pub(crate) async fn round(core: &Arc<Core>, keys: Vec<DeadRecord>) {
    let asked = keys.len();
    match try_round(core, keys).await {
        Ok((agreed, dropped)) => {
            core.meters.reap_disagreed.count(asked - agreed);
            tracing::debug!(asked, agreed, dropped, "dead records were proposed for dropping");
        }
        Err(why) => {
            core.meters.reap_broken_off.one();
            tracing::debug!(asked, why, "no dead records are dropped now");
        }
    }
}

/// Returns on how many records all agreed, and how many copies were dropped.
async fn try_round(core: &Arc<Core>, keys: Vec<DeadRecord>) -> Result<(usize, usize), String> {
    let (began, view) = (Instant::now(), core.view());
    if view.layout().next.is_some() {
        return Err("owners are changing".to_owned());
    }
    let members: Vec<NodeId> = view.members().keys().copied().collect();
    let mut lives = Lives::new();
    let keys = agreed(core, &members, keys, &mut lives).await?;
    if keys.is_empty() {
        return Ok((0, 0));
    }
    let settled = join_all(members.iter().map(|member| settle(core, *member))).await;
    settled.into_iter().collect::<Result<Vec<()>, String>>()?;
    let keys = agreed(core, &members, keys, &mut lives).await?;
    if began.elapsed() > limits::REAP_ROUND_MAX || core.view().digest() != view.digest() {
        return Err("it took too long, or the cluster has changed meanwhile".to_owned());
    }
    Ok((keys.len(), drop_all(core, &members, &keys, &lives).await))
}

/// The records on which every member agrees, each in the life in which it did before.
async fn agreed(
    core: &Arc<Core>,
    members: &[NodeId],
    keys: Vec<DeadRecord>,
    lives: &mut Lives,
) -> Result<Vec<DeadRecord>, String> {
    let mut left = Vec::new();
    for keys in keys.chunks(limits::REAP_MESSAGE_KEYS_MAX) {
        let answers =
            join_all(members.iter().map(|member| order(core, *member, None, keys.to_vec(), Vec::new()))).await;
        let mut all = vec![true; keys.len()];
        for (member, answer) in members.iter().zip(answers) {
            let answer = answer?;
            if lives.insert(*member, (answer.life, answer.landmark)).is_some_and(|(life, _)| life != answer.life) {
                return Err(format!("{} has begun another life", core.view().name_of(*member)));
            }
            all.iter_mut().zip(answer.agreed).for_each(|(all, agreed)| *all &= agreed);
        }
        left.extend(keys.iter().zip(all).filter(|(_, agreed)| *agreed).map(|(key, _)| key.clone()));
    }
    Ok(left)
}

/// Has the owners drop them. Where one does not, it still has the record, and the others get it back.
async fn drop_all(core: &Arc<Core>, members: &[NodeId], keys: &[DeadRecord], lives: &Lives) -> usize {
    let owned_by = |member: NodeId| {
        let owned = move |key: &&DeadRecord| {
            let slot = Slot { bucket: key.slot.bucket, key: key.slot.key.0.clone() };
            owners(core, &slot).is_some_and(|(owners, _)| owners.contains(&member))
        };
        keys.iter().filter(owned).cloned().collect::<Vec<DeadRecord>>()
    };
    let landmarks: &Vec<(NodeId, Landmark)> = &lives.iter().map(|(node, (_, landmark))| (*node, *landmark)).collect();
    let at_member = |member: NodeId| async move {
        let mut dropped = 0;
        for keys in owned_by(member).chunks(limits::REAP_MESSAGE_KEYS_MAX) {
            let life = lives.get(&member).map(|(life, _)| *life);
            match order(core, member, life, keys.to_vec(), landmarks.clone()).await {
                Ok(answer) => dropped += answer.agreed.iter().filter(|dropped| **dropped).count(),
                Err(why) => tracing::debug!(%member, why, "an owner did not drop dead records; they come back from it"),
            }
        }
        dropped
    };
    join_all(members.iter().map(|member| at_member(*member))).await.into_iter().sum()
}

async fn order(
    core: &Arc<Core>,
    member: NodeId,
    life: Option<Life>,
    keys: Vec<DeadRecord>,
    landmarks: Vec<(NodeId, Landmark)>,
) -> Result<ReapAnswer, String> {
    let asked = keys.len();
    let order = ReapOrder { view: core.view().digest(), life, keys, landmarks };
    let answer = if member == core.id {
        obey(core, order).await.map_err(PeerError::from)
    } else {
        match core.peers.request(member, Request::Reap(order), By::itself(PATIENCE)).await {
            Ok(Reply::Reap(answer)) => Ok(answer),
            Ok(other) => Err(unexpected(other)),
            Err(error) => Err(error),
        }
    };
    let answer = answer.map_err(|error| format!("{}: {}", core.view().name_of(member), error.why))?;
    if answer.agreed.len() == asked { Ok(answer) } else { Err("a member answered for other records".to_owned()) }
}

/// Waits until a member has ended what it had begun.
async fn settle(core: &Arc<Core>, member: NodeId) -> Result<(), String> {
    if member == core.id {
        let settled = timeout(limits::REAP_SETTLING_MAX, core.works.settled()).await;
        return settled.map_err(|_| "this node does not finish its work".to_owned());
    }
    let by = By::itself(limits::REAP_SETTLING_MAX);
    match core.peers.request(member, Request::Settle, by).await {
        Ok(Reply::Done) => Ok(()),
        Ok(other) => Err(unexpected(other).why),
        Err(error) => Err(format!("{}: {}", core.view().name_of(member), error.why)),
    }
}
