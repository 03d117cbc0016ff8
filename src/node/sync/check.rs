//! Reading the storage for the trees: at once what is not known, and over and over, slowly, what is, so that a tree or a
//! record that went wrong does not stay so.
//!
//! What a page means is decided in [`crate::merkle`]; this reads, paces, and says what was found.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::limits;
use crate::merkle::{Item, Page, Window};
use crate::node::core::Core;
use crate::store::StoreError;
use crate::types::PartitionId;

/// Pause when the storage cannot be read.
const REST: Duration = Duration::from_secs(2);
/// Further pause after a page of a partition that is only checked, in times of what the page took; one that is not known
/// yet is read as fast as work in the background may go.
const PAUSE_KNOWN: u32 = 19;

/// Reads until the scope of `core` is stopped.
pub(crate) async fn run(core: Arc<Core>) {
    tokio::select! {
        biased;
        () = core.rest.stopped() => {}
        () = read_on(&core) => {}
    }
}

async fn read_on(core: &Arc<Core>) {
    let mut next_check = Instant::now() + limits::TREE_CHECK_INTERVAL;
    let (mut place, mut tried) = (0, None);
    loop {
        core.follow_epoch();
        let kept = core.sync.known();
        // Where the trees are of other partitions by now, what is kept will follow soon.
        let unknown = core.trees.with(|forest| {
            let is_of_these = |partition| forest.partitions().place(partition).is_some();
            next_unknown(&kept, tried, |partition| forest.is_known(partition) || !is_of_these(partition))
        });
        tried = unknown.or(tried);
        let Ok(count) = u32::try_from(kept.len().max(1)) else { return };
        let (partition, pause) = match unknown {
            Some(partition) => (partition, 0),
            None if Instant::now() >= next_check && !kept.is_empty() => {
                next_check = Instant::now() + limits::TREE_CHECK_INTERVAL / count;
                place += 1;
                (kept[place % kept.len()], PAUSE_KNOWN)
            }
            None => {
                next_check = next_check.min(Instant::now() + limits::TREE_CHECK_INTERVAL / count);
                core.rest.look(limits::LOOK_EVERY).await;
                continue;
            }
        };
        if let Err(error) = read(core, partition, pause).await {
            tracing::debug!(%partition, %error, "a partition cannot be read for its trees now");
            sleep(REST).await;
        }
    }
}

/// The first partition behind the one tried last whose content is not known, in a circle: one that cannot be read must
/// not keep the others waiting.
fn next_unknown(
    owned: &[PartitionId],
    tried: Option<PartitionId>,
    is_known: impl Fn(PartitionId) -> bool,
) -> Option<PartitionId> {
    let is_behind = |partition: &PartitionId| tried.is_none_or(|tried| *partition > tried);
    let mut unknown = owned.iter().copied().filter(|partition| !is_known(*partition));
    // Mostly there are none.
    let first = unknown.next()?;
    Some(std::iter::once(first).chain(unknown).find(is_behind).unwrap_or(first))
}

/// Reads one partition to its end, or until what was read is of no use.
async fn read(core: &Arc<Core>, partition: PartitionId, pause: u32) -> Result<(), StoreError> {
    core.trees.with(|forest| forest.begin_check(partition));
    let mut unreadable = 0;
    loop {
        let began = Instant::now();
        let Some(window) = core.trees.with(crate::merkle::Forest::next_page) else { return Ok(()) };
        let (items, more, damaged) = page(core, &window).await?;
        unreadable += damaged;
        // A storage that was replaced while the page was read shows nothing of the one the trees speak of.
        if core.follow_epoch() {
            return Ok(());
        }
        let page = core.trees.with(|forest| forest.take_page(&window, items, more));
        let worked = began.elapsed();
        core.pace.rest(&core.meters, worked).await;
        sleep(worked * pause).await;
        match page {
            Page::More => {}
            Page::Stale => return Ok(()),
            page => {
                finish(core, partition, page, unreadable);
                return Ok(());
            }
        }
    }
}

async fn page(core: &Core, window: &Window) -> Result<(Vec<Item>, bool, u64), StoreError> {
    let (most, bytes) = (limits::TREE_PAGE_MAX, limits::TREE_PAGE_BYTES);
    let page = core.scan(window.partition, &[], window.after.as_deref(), (most, bytes)).await?;
    let copies = core.trees.copies();
    let mut items = Vec::with_capacity(page.items.len());
    let mut unreadable = page.damaged;
    if page.damaged > 0 {
        core.meters.records_damaged.one();
        tracing::warn!(
            partition = %window.partition,
            places = page.damaged,
            "the storage's files have damaged places; the other owners repair what is missing"
        );
    }
    for (key, record) in &page.items {
        let Some((item, error)) = core.trees.item(&copies, key, record) else { continue };
        if let Some(error) = error {
            unreadable += 1;
            core.meters.records_damaged.one();
            tracing::warn!(partition = %window.partition, %error, "a record cannot be read; the other owners repair it");
        }
        items.push(item);
    }
    Ok((items, page.more, unreadable))
}

fn finish(core: &Core, partition: PartitionId, page: Page, unreadable: u64) {
    let meters = &core.meters;
    match page {
        Page::Built => meters.trees_built.one(),
        Page::Right => meters.trees_checked.one(),
        _ => {
            meters.trees_corrected.one();
            tracing::warn!(%partition, unreadable, "a hash tree did not fit the storage and was replaced");
        }
    }
    if page != Page::Right || unreadable > 0 {
        core.sync.schedule().hurry(None, Some(partition), Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_that_cannot_be_read_does_not_keep_the_others_waiting() {
        let owned = [1, 4, 7].map(PartitionId);
        let next = |tried: Option<u32>, known: &[u32]| {
            let next = next_unknown(&owned, tried.map(PartitionId), |partition| known.contains(&partition.0));
            next.map(|partition| partition.0)
        };
        assert_eq!([next(None, &[]), next(Some(1), &[]), next(Some(7), &[])], [Some(1), Some(4), Some(1)]);
        assert_eq!([next(Some(1), &[4]), next(Some(1), &[4, 7]), next(Some(1), &[1, 4, 7])], [Some(7), Some(1), None]);
    }
}
