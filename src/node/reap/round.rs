//! One round: the same dead records, asked about at every member, and dropped at their owners.
//!
//! This is the proof itself, and knows the members only as [`Members`]: those of the cluster are in [`super::cluster`], those
//! of a model, in which everything happens in any order, in the tests.

use std::collections::BTreeMap;

use futures_util::future::join_all;

use crate::limits;
use crate::types::NodeId;
use crate::wire::past::Landmark;
use crate::wire::reap::{DeadRecord, Life, ReapAnswer};

/// The members of a cluster, each of which has a say. An error says why there is no answer, which ends the round.
pub(crate) trait Members {
    /// All of them.
    fn all(&self) -> Vec<NodeId>;

    /// Who owns a record.
    fn owners(&self, key: &DeadRecord) -> Vec<NodeId>;

    /// Whether what was agreed on since the beginning still counts.
    fn counts(&self) -> Result<(), String>;

    /// Asks a member whether it has just these records, or nothing where it owns none; in a life that is given, has it drop
    /// them. One answer for each record.
    async fn order(
        &self,
        member: NodeId,
        life: Option<Life>,
        keys: &[DeadRecord],
        landmarks: &[(NodeId, Landmark)],
    ) -> Result<ReapAnswer, String>;

    /// Waits until a member has ended what it had begun.
    async fn settle(&self, member: NodeId) -> Result<(), String>;
}

/// The lives in which all members agreed, and how far their storages had come.
type Lives = BTreeMap<NodeId, (Life, Landmark)>;

/// Tries to drop these records. Returns on how many of them all agreed, and how many copies were dropped.
pub(crate) async fn propose(members: &impl Members, keys: Vec<DeadRecord>) -> Result<(usize, usize), String> {
    let mut lives = Lives::new();
    let keys = agreed(members, keys, &mut lives).await?;
    if keys.is_empty() {
        return Ok((0, 0));
    }
    let settled = join_all(members.all().into_iter().map(|member| members.settle(member))).await;
    settled.into_iter().collect::<Result<Vec<()>, String>>()?;
    let keys = agreed(members, keys, &mut lives).await?;
    members.counts()?;
    Ok((keys.len(), drop_all(members, &keys, &lives).await))
}

/// The records on which every member agrees, each in the life in which it did before.
async fn agreed(members: &impl Members, keys: Vec<DeadRecord>, lives: &mut Lives) -> Result<Vec<DeadRecord>, String> {
    let (everybody, mut left) = (members.all(), Vec::new());
    for keys in keys.chunks(limits::REAP_MESSAGE_KEYS_MAX) {
        let answers = join_all(everybody.iter().map(|member| members.order(*member, None, keys, &[]))).await;
        let mut all = vec![true; keys.len()];
        for (member, answer) in everybody.iter().zip(answers) {
            let answer = answer?;
            if lives.insert(*member, (answer.life, answer.landmark)).is_some_and(|(life, _)| life != answer.life) {
                return Err(format!("{member} has begun another life"));
            }
            all.iter_mut().zip(answer.agreed).for_each(|(all, agreed)| *all &= agreed);
        }
        left.extend(keys.iter().zip(all).filter(|(_, agreed)| *agreed).map(|(key, _)| key.clone()));
    }
    Ok(left)
}

/// Has the owners drop them. Where one does not, it still has the record, and the others get it back.
async fn drop_all(members: &impl Members, keys: &[DeadRecord], lives: &Lives) -> usize {
    let landmarks: &Vec<(NodeId, Landmark)> = &lives.iter().map(|(node, (_, landmark))| (*node, *landmark)).collect();
    let at_member = |member: NodeId, life: Life| async move {
        let owned: Vec<DeadRecord> = keys.iter().filter(|key| members.owners(key).contains(&member)).cloned().collect();
        let mut dropped = 0;
        for keys in owned.chunks(limits::REAP_MESSAGE_KEYS_MAX) {
            match members.order(member, Some(life), keys, landmarks).await {
                Ok(answer) => dropped += answer.agreed.iter().filter(|dropped| **dropped).count(),
                Err(why) => tracing::debug!(%member, why, "an owner did not drop dead records; they come back from it"),
            }
        }
        dropped
    };
    join_all(lives.iter().map(|(member, (life, _))| at_member(*member, *life))).await.into_iter().sum()
}
