//! Going through the records of some leaves of a tree, in the order of their keys, a bounded stretch at a time.
//!
//! A tree's leaves are not ranges of keys, so finding their records means reading the partition. Records that cannot be
//! read are passed over, as the tree does.

use bytes::Bytes;

use crate::limits;
use crate::merkle::Leaves;
use crate::node::core::Core;
use crate::store::StoreError;
use crate::wire::sync::TreeId;

/// Where to go.
#[derive(Debug, Clone)]
pub(crate) struct Range {
    /// The tree.
    pub(crate) tree: TreeId,
    /// Its leaves.
    pub(crate) leaves: Leaves,
    /// Keys after this one.
    pub(crate) after: Option<Bytes>,
    /// Keys up to this one, itself included.
    pub(crate) until: Option<Bytes>,
}

/// A record that was found.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// Its storage key.
    pub(crate) key: Bytes,
    /// The key's hash within the tree.
    pub(crate) tree_key: u64,
    /// Its digest.
    pub(crate) digest: u64,
    /// The record, checked.
    pub(crate) record: Bytes,
}

/// Walks a range and hands over each record that is found; `take` says whether to go on. Returns the last key that was
/// looked at when that is not the end of the range.
pub(crate) async fn walk(
    core: &Core,
    range: &Range,
    mut take: impl FnMut(Found) -> bool,
) -> Result<Option<Bytes>, StoreError> {
    let (shape, copies) = (core.trees.shape(), core.trees.copies());
    let (partition, mut after) = (range.tree.partition, range.after.clone());
    let mut scanned = 0;
    loop {
        // No more than goes into a message, where most of what is read goes into it.
        let (most, bytes) = (limits::SYNC_RECORDS_MAX, limits::SYNC_BYTES);
        let page = core.scan(partition, &[], after.as_deref(), (most, bytes)).await?;
        let last = page.items.last().map(|(key, _)| key.clone());
        scanned += page.items.len();
        for (key, record) in page.items {
            if range.until.as_ref().is_some_and(|until| key > *until) {
                return Ok(None);
            }
            let tree_key = core.hash.tree_key(&key);
            if !range.leaves.contains(shape.leaf(tree_key)) {
                continue;
            }
            let item = core.trees.item(&copies, &key, &record).filter(|(item, _)| item.copies == range.tree.copies);
            let Some(digest) = item.and_then(|(item, _)| item.digest) else { continue };
            if !take(Found { key: key.clone(), tree_key, digest, record }) {
                return Ok(Some(key));
            }
        }
        match last {
            Some(last) if page.more && scanned >= limits::SYNC_SCANNED_MAX => return Ok(Some(last)),
            Some(last) if page.more => after = Some(last),
            _ => return Ok(None),
        }
    }
}
