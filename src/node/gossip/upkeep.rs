//! What keeps this member's record true and its keys safe: storage health from real operations and from a check of its
//! own, the clock against the others', the first key of a cluster.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};

use crate::limits;
use crate::node::core::Core;
use crate::node::gossip::Gossip;
use crate::node::gossip::orders::Order;
use crate::node::replica::marker;
use crate::store::{Engine, Mutation, StoreError};
use crate::swim::{ClusterState, Record, StorageHealth};
use crate::types::Zone;
use crate::view::ClusterView;

/// Time between checks that write and read.
const CHECK: Duration = Duration::from_secs(10);
/// How long a storage must look better before it is said to be.
const CALM: Duration = Duration::from_secs(3);
/// Changes of the clock's offset that are worth telling.
const CLOCK_STEP_MS: i32 = 100;
/// How long the first of the founding members waits for a key of the others before it makes one.
const FIRST_KEY: Duration = Duration::from_millis(400);
/// How much longer each of the next waits.
const NEXT_KEY: Duration = Duration::from_millis(600);
/// How many of them wait for different times, and how long one waits that is no founding member.
const KEY_RANKS: usize = 30;

/// Makes a key if nobody else has one: the founding members in their order, so that usually only one does.
pub(crate) async fn make_first_key(core: Arc<Core>, gossip: Arc<Gossip>, no_seeds: bool) {
    loop {
        let view = core.view();
        let rank = view.info().members.iter().position(|member| member.name == gossip.name);
        let alone = no_seeds && view.members().keys().all(|node| *node == core.id);
        let rank = u32::try_from(rank.unwrap_or(KEY_RANKS).min(KEY_RANKS)).unwrap_or(u32::MAX);
        if !alone {
            sleep(FIRST_KEY + NEXT_KEY * rank).await;
        }
        if gossip.env.is_stopping() {
            return;
        }
        if gossip.keys.ring().is_empty() {
            match gossip.keys.make(&gossip.env) {
                Ok(key) => tracing::info!(%key, "no member has a key for gossip: one was made"),
                Err(error) => tracing::error!(%error, "no key for gossip can be made"),
            }
            gossip.keys.save(&gossip.env).await;
            gossip.greet.notify_one();
            gossip.order(Order::Learnt).await;
        }
        // Two operators may remove the last two keys at the same time.
        tokio::select! {
            biased;
            () = gossip.env.stopped() => return,
            () = sleep(CHECK) => {}
        }
    }
}

/// Looks after this member's record until the node ends.
pub(crate) async fn run(core: Arc<Core>, gossip: Arc<Gossip>) {
    let (mut checked, mut check_at) = (StorageHealth::Ok, Instant::now() + CHECK);
    let (mut told, mut better_since) = (StorageHealth::Ok, None);
    let mut clock: Option<i32> = None;
    let mut part = None;
    let mut followed: Option<(Arc<ClusterView>, u64)> = None;
    loop {
        tokio::select! {
            biased;
            () = gossip.env.stopped() => return,
            () = gossip.env.look(limits::LOOK_EVERY) => {}
        }
        gossip.keys.save(&gossip.env).await;
        let view = core.view();
        let config = match &followed {
            Some((known, config)) if Arc::ptr_eq(known, &view) => *config,
            _ => core.settings_hash(),
        };
        followed = Some((view.clone(), config));
        let owns = owns(&core, &view, config);
        if part.as_ref() != Some(&owns) {
            part = Some(owns.clone());
            gossip.order(Order::Change(Box::new(move |record| owns.tell(record)))).await;
        }
        if Instant::now() >= check_at {
            checked = check(&core).await;
            check_at = Instant::now() + CHECK;
        }
        let found = worse(core.storage_grade(), checked);
        if found.rank() >= told.rank() {
            better_since = None;
        }
        let calm = found.rank() > told.rank()
            || (found.rank() < told.rank() && *better_since.get_or_insert_with(Instant::now) + CALM <= Instant::now());
        if calm {
            (told, better_since) = (found, None);
            gossip.order(Order::Change(Box::new(move |record| record.storage = found))).await;
        }
        let offset = clock_offset(&gossip);
        let moved = match (clock, offset) {
            (Some(before), Some(now)) => before.abs_diff(now) >= CLOCK_STEP_MS.unsigned_abs(),
            (before, now) => before.is_some() != now.is_some(),
        };
        if moved {
            clock = offset;
            gossip.order(Order::Change(Box::new(move |record| record.clock_offset_ms = offset))).await;
        }
    }
}

/// What this member's record says of its part in owning data, and by which settings.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owns {
    state: ClusterState,
    /// Zone and weight of its role, if it has one.
    role: Option<(Zone, u32)>,
    /// Hash of the settings that must agree, which follows the copies of the layout.
    config: u64,
}

fn owns(core: &Core, view: &ClusterView, config: u64) -> Owns {
    let role = view.members().get(&core.id).map(|member| (member.zone.clone(), member.weight));
    Owns { state: core.ownership.part(core), role, config }
}

impl Owns {
    fn tell(self, record: &mut Record) {
        (record.state, record.config) = (self.state, self.config);
        if let Some((zone, weight)) = self.role {
            (record.zone, record.weight) = (zone, weight);
        }
    }
}

/// How far this node's clock is ahead of the median of the others'.
fn clock_offset(gossip: &Gossip) -> Option<i32> {
    let mut ahead: Vec<i64> =
        gossip.met.lock().unwrap_or_else(PoisonError::into_inner).values().map(|met| met.ahead_ms).collect();
    ahead.sort_unstable();
    let median = *ahead.get(ahead.len() / 2)?;
    let bound = i64::from(i32::MAX);
    i32::try_from((-median).clamp(-bound, bound)).ok()
}

fn worse(one: StorageHealth, other: StorageHealth) -> StorageHealth {
    if one.rank() >= other.rank() { one } else { other }
}

/// Writes a small record of the node's own and reads it back, which an idle node's other work would not.
async fn check(core: &Core) -> StorageHealth {
    match timeout(limits::STORE_STALLED, write_and_read(core)).await {
        Ok(Ok(())) => StorageHealth::Ok,
        Ok(Err(StoreError::EpochChanged)) => StorageHealth::Ok,
        Ok(Err(error @ (StoreError::Full(_) | StoreError::ReadOnly(_)))) => {
            tracing::warn!(%error, "the check of the storage could not write");
            StorageHealth::ReadOnly
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "the check of the storage failed");
            StorageHealth::Down
        }
        Err(_) => {
            tracing::warn!("the check of the storage did not end in time");
            StorageHealth::Down
        }
    }
}

async fn write_and_read(core: &Core) -> Result<(), StoreError> {
    let engine: &Engine = &core.engine;
    let slot = marker::check_slot(core.id);
    let value = Bytes::copy_from_slice(&core.started.elapsed().as_nanos().to_be_bytes());
    let epoch = engine.epoch();
    engine.write(epoch, vec![Mutation::Put { slot: slot.clone(), value: value.clone() }]).await?;
    let read = engine.get_many(&[slot]).await?;
    match read.as_slice() {
        [Some(found)] if *found == value => Ok(()),
        _ if engine.epoch() != epoch => Err(StoreError::EpochChanged),
        _ => Err(StoreError::Damaged("what the check wrote is not what it read".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worse_of_two_grades_is_told() {
        for (at, grade) in StorageHealth::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(grade.rank()), at);
            assert_eq!(
                (worse(grade, StorageHealth::Ok), worse(StorageHealth::Down, grade)),
                (grade, StorageHealth::Down)
            );
        }
    }
}
