//! Reading one partition again, page by page, to make its trees or to check them, while writes go on.
//!
//! Nothing is locked while a page is read, so it may show a record before or after a write that happens meanwhile. What
//! the forest was told of such writes decides for them, whatever the page shows; the rest of the page stands as read. So
//! each page is exact at the moment it is taken, and later writes to what it covers are applied to the new trees, too.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::limits;
use crate::merkle::forest::Change;
use crate::merkle::forest::Forest;
use crate::merkle::forest::Trees;
use crate::merkle::tree::Tree;
use crate::types::Copies;
use crate::types::PartitionId;

/// A record on a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its storage key.
    pub key: Bytes,
    /// The replica count of its namespace.
    pub copies: Copies,
    /// Its digest. `None` when it cannot be read: then it counts as missing, so that others are asked for it.
    pub digest: Option<u64>,
}

/// A page that is to be read now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The partition.
    pub partition: PartitionId,
    /// Behind which key the page begins.
    pub after: Option<Bytes>,
    serial: u64,
}

/// What a page came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// There are more.
    More,
    /// It was the last one, and the partition is known now.
    Built,
    /// It was the last one, and the trees were right.
    Right,
    /// It was the last one, and the trees were wrong; they have been replaced.
    Wrong,
    /// The page is of no use: the partition fell into doubt meanwhile, or too much of it changed.
    Stale,
}

/// The reading of one partition.
#[derive(Debug)]
pub(crate) struct Check {
    pub(super) partition: PartitionId,
    serial: u64,
    /// The last key that the new trees cover.
    covered: Option<Bytes>,
    trees: Trees,
    /// While a page is read: what is known of records behind `covered` from writes, by key.
    written: Option<BTreeMap<Bytes, (Copies, Option<u64>)>>,
}

impl Check {
    /// Takes note that a write is under way: until it has happened, the record is what it was.
    pub(super) fn announce(&mut self, change: &Change) {
        if self.is_ahead(change)
            && let Some(written) = &mut self.written
        {
            written.entry(change.key.clone()).or_insert((change.copies, change.old));
        }
    }

    /// Takes note that a write has happened. The new trees, if they cover the record.
    pub(super) fn stored(&mut self, change: &Change) -> Option<&mut Trees> {
        if self.is_ahead(change) {
            if let Some(written) = &mut self.written {
                written.insert(change.key.clone(), (change.copies, change.new));
            }
            return None;
        }
        self.partition.holds(change.position).then_some(&mut self.trees)
    }

    fn is_ahead(&self, change: &Change) -> bool {
        self.partition.holds(change.position) && self.covered.as_ref().is_none_or(|covered| change.key > *covered)
    }
}

impl Forest {
    /// The partition that is being read.
    pub fn checking(&self) -> Option<PartitionId> {
        self.check.as_ref().map(|check| check.partition)
    }

    /// Begins to read a partition, from its beginning; another one that was being read is given up.
    pub fn begin_check(&mut self, partition: PartitionId) {
        let trees = BTreeMap::new();
        self.check = Some(Check { partition, serial: 0, covered: None, trees, written: None });
    }

    /// The next page to read. Its content is handed to [`Forest::take_page`].
    pub fn next_page(&mut self) -> Option<Window> {
        self.serial += 1;
        let check = self.check.as_mut()?;
        check.serial = self.serial;
        check.written = Some(BTreeMap::new());
        for change in self.flights.values().flatten() {
            check.announce(change);
        }
        Some(Window { partition: check.partition, after: check.covered.clone(), serial: self.serial })
    }

    /// Takes a page that was read after [`Forest::next_page`] gave its window: `items` in order, and whether more follow.
    pub fn take_page(&mut self, window: &Window, items: Vec<Item>, more: bool) -> Page {
        let Some(mut check) = self.check.take_if(|check| check.serial == window.serial) else { return Page::Stale };
        let mut written = check.written.take().unwrap_or_default();
        let last = items.last().map(|item| item.key.clone());
        if written.len() > limits::TREE_WRITTEN_MAX || (more && last.is_none()) {
            return Page::Stale;
        }
        if let (Some(last), true) = (&last, more) {
            written.retain(|key, _| key <= last);
        }
        let unwritten = items.into_iter().filter(|item| !written.contains_key(&item.key));
        let read: Vec<(Bytes, Copies, Option<u64>)> =
            unwritten.map(|item| (item.key, item.copies, item.digest)).collect();
        let written = written.into_iter().map(|(key, (copies, digest))| (key, copies, digest));
        for (key, copies, digest) in read.into_iter().chain(written) {
            let Some(digest) = digest else { continue };
            let (tree_key, item) = self.item(&key, digest);
            check.trees.entry(copies).or_insert_with(|| Tree::new(self.shape)).add(tree_key, item);
        }
        if more {
            check.covered = last;
            self.check = Some(check);
            return Page::More;
        }
        self.finish(check)
    }

    fn finish(&mut self, check: Check) -> Page {
        let mut trees = check.trees;
        trees.retain(|_, tree| tree.root() != 0 || tree.records() != 0);
        let Some(live) = self.entry(check.partition) else { return Page::Stale };
        if let Some(live) = live {
            live.retain(|_, tree| tree.root() != 0 || tree.records() != 0);
        }
        let page = match live {
            None => Page::Built,
            Some(live) if *live == trees => Page::Right,
            Some(_) => Page::Wrong,
        };
        *live = Some(trees);
        page
    }
}
