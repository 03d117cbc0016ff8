//! Bringing one tree together with one peer, from the side that begins: sums, level by level, then the records.
//!
//! Records come in through the replica's one door and go out as any record for a replica does. Whatever breaks off
//! leaves less different than there was; nothing has to be remembered of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::Instant;

use crate::limits;
use crate::merkle::{Descent, Leaves, Step};
use crate::node::core::{Core, slot_ref};
use crate::node::ownership::tasks;
use crate::node::peers::{PeerError, unexpected};
use crate::node::replica::Apply;
use crate::node::sync::records::{Range, walk};
use crate::record;
use crate::store::{Slot, StoreError};
use crate::types::NodeId;
use crate::wire::blob::Blob;
use crate::wire::rpc::{ReplicaWrite, Reply, Request, ServeError};
use crate::wire::sync::{RecordsPage, RecordsRequest, RootVerdict, SumsRequest, TreeId, TreeRoot};

/// How long a peer may take for a page of records: it reads a part of its storage for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why two trees were not brought together this time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyncError {
    /// The peer cannot now; it may later.
    #[error("{0}")]
    Peer(String),
    /// What is here is not known, or cannot be read now.
    #[error("{0}")]
    Here(String),
    /// Some records could not be taken over on one of the sides.
    #[error("{0} records were not taken over: {1}")]
    Records(usize, String),
}

impl From<PeerError> for SyncError {
    fn from(error: PeerError) -> Self {
        Self::Peer(error.why)
    }
}

impl From<StoreError> for SyncError {
    fn from(error: StoreError) -> Self {
        Self::Here(error.to_string())
    }
}

/// Records that changed places.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Moved {
    /// From the peer to here.
    pub(crate) received: u64,
    /// From here to the peer.
    pub(crate) sent: u64,
}

/// One peer, asked by this node.
pub(crate) struct Exchange<'a> {
    pub(crate) core: &'a Arc<Core>,
    pub(crate) peer: NodeId,
    /// Whether what this node lacks is taken over.
    pub(crate) takes: bool,
    /// Whether this is part of fetching what the node is to own, which may be held between two pages.
    pub(crate) copies: bool,
}

/// A record of this node in a page: what it takes to send it.
struct Own {
    key: Bytes,
    tree_key: u64,
    digest: u64,
    /// Bytes of its key and of the record as it was found.
    size: usize,
}

impl Exchange<'_> {
    /// Compares roots.
    pub(crate) async fn roots(&self, roots: Vec<TreeRoot>) -> Result<Vec<RootVerdict>, SyncError> {
        let asked = roots.len();
        match self.ask(Request::SyncRoots(roots), self.core.timeouts.replica).await? {
            Reply::SyncRoots(verdicts) if verdicts.len() == asked => Ok(verdicts),
            other => Err(unexpected(other).into()),
        }
    }

    /// Brings a tree together whose roots differ.
    pub(crate) async fn run(&self, tree: TreeId) -> Result<Moved, SyncError> {
        let mut began = Instant::now();
        let Some(leaves) = self.descend(tree).await? else { return Ok(Moved::default()) };
        let mut range = Range { tree, leaves, after: None, until: None };
        let mut moved = Moved::default();
        let mut failed = (0, String::new());
        loop {
            let (own, until) = self.own(&range).await?;
            range.until = until;
            let read = began.elapsed();
            let page = self.page(&range, &own).await?;
            // What the peer worked it rests for itself.
            let worked = Instant::now();
            let covered = page.covered.as_ref().map(|key| key.0.clone()).or_else(|| range.until.clone());
            if self.takes {
                let received = self.take(tree, &page, &mut failed).await;
                moved.received += received;
                self.note_copied(received, &page);
            }
            moved.sent += self.send(tree, &page, own, &covered, &mut failed).await?;
            self.core.pace.rest(&self.core.meters, read + worked.elapsed()).await;
            began = Instant::now();
            match covered {
                Some(covered) if range.after.as_ref().is_none_or(|after| covered > *after) => {
                    range.after = Some(covered)
                }
                Some(_) => return Err(SyncError::Peer("answers without getting on".to_owned())),
                None => break,
            }
            range.until = None;
            if self.copies && tasks::holds_copying(self.core) {
                return Err(SyncError::Here("fetching is held by an administrator".to_owned()));
            }
        }
        self.core.sync.count(self.peer, |traffic| {
            traffic.records_in += moved.received;
            traffic.records_out += moved.sent;
        });
        if failed.0 > 0 { Err(SyncError::Records(failed.0, failed.1)) } else { Ok(moved) }
    }

    /// Counts a page of what the node is to own.
    fn note_copied(&self, records: u64, page: &RecordsPage) {
        if self.copies {
            let bytes: usize = page.records.iter().map(|(key, record)| key.len() + record.len()).sum();
            self.core.ownership.copying.moved(records, bytes as u64);
            self.core.meters.copied.add(records);
            self.core.meters.copied_bytes.count(bytes);
        }
    }

    /// The leaves that differ; `None` when the trees are equal by now.
    pub(crate) async fn descend(&self, tree: TreeId) -> Result<Option<Leaves>, SyncError> {
        let mut descent = Descent::new(self.core.trees.shape());
        loop {
            let request = SumsRequest { tree, level: descent.level(), nodes: descent.nodes().to_vec() };
            let theirs = match self.ask(Request::SyncSums(request), self.core.timeouts.replica).await? {
                Reply::SyncSums(sums) => sums,
                other => return Err(unexpected(other).into()),
            };
            // Taken after theirs came, so that a write that was spread meanwhile is in both.
            self.core.follow_epoch();
            let own = self.core.trees.sums(tree, descent.level(), descent.nodes());
            let own = own.ok_or_else(|| SyncError::Here("the partition has to be read again first".to_owned()))?;
            match descent.take(&own, &theirs) {
                Some(Step::Deeper) => {}
                Some(Step::Equal) => return Ok(None),
                Some(Step::Differ(leaves)) => return Ok(Some(leaves)),
                None => return Err(SyncError::Peer("sent another number of sums than was asked for".to_owned())),
            }
        }
    }

    /// What this node holds of the range, as far as fits one message.
    async fn own(&self, range: &Range) -> Result<(Vec<Own>, Option<Bytes>), SyncError> {
        let mut own = Vec::new();
        let until = walk(self.core, range, |found| {
            let size = found.key.len() + found.record.len();
            own.push(Own { key: found.key, tree_key: found.tree_key, digest: found.digest, size });
            own.len() < limits::SYNC_HELD_MAX
        });
        let until = until.await?;
        Ok((own, until))
    }

    async fn page(&self, range: &Range, own: &[Own]) -> Result<RecordsPage, SyncError> {
        let request = RecordsRequest {
            tree: range.tree,
            leaves: range.leaves.to_list(),
            after: range.after.clone().map(Blob),
            until: range.until.clone().map(Blob),
            held: own.iter().map(|own| (own.tree_key, own.digest)).collect(),
        };
        match self.ask(Request::SyncRecords(request), PATIENCE).await? {
            Reply::SyncRecords(page) => Ok(page),
            other => Err(unexpected(other).into()),
        }
    }

    /// Merges what came into this replica.
    async fn take(&self, tree: TreeId, page: &RecordsPage, failed: &mut (usize, String)) -> u64 {
        let (core, unsynced) = (self.core, self.copies);
        let apply = async |(key, record): &(Blob, Blob)| {
            let slot = core.slot_in(tree.partition, key.0.clone());
            let slot = slot.ok_or_else(|| ServeError::Invalid("it does not belong to its partition".to_owned()))?;
            core.replica.apply(Apply { slot, record: record.0.clone(), hints: Vec::new(), unsynced }).await
        };
        let mut received = 0;
        // Requests get their turn between pieces.
        for piece in page.records.chunks(limits::PIECE_RECORDS) {
            received += note(join_all(piece.iter().map(apply)).await, failed);
        }
        received
    }

    /// Sends what the peer lacks, as it is now.
    async fn send(
        &self,
        tree: TreeId,
        page: &RecordsPage,
        own: Vec<Own>,
        covered: &Option<Bytes>,
        failed: &mut (usize, String),
    ) -> Result<u64, SyncError> {
        let wanted: std::collections::BTreeSet<u64> = page.wanted.iter().copied().collect();
        let theirs: BTreeMap<&[u8], Option<u64>> =
            page.records.iter().map(|(key, record)| (&*key.0, record::digest(record))).collect();
        let own = own.into_iter().filter(|own| wanted.contains(&own.tree_key));
        let own = own.filter(|own| covered.as_ref().is_none_or(|covered| own.key <= *covered));
        let mut sent = 0;
        let own = own.filter_map(|own| Some((self.core.slot_in(tree.partition, own.key)?, own.size)));
        for slots in messages(own) {
            let records = self.core.replica.fetch(slots.clone()).await;
            let records = records.map_err(|error| SyncError::Here(error.to_string()))?;
            let mut writes = Vec::new();
            let mut bytes = 0;
            for (slot, record) in slots.iter().zip(records) {
                let Some(record) = record else { continue };
                // What came from there and superseded all that was here need not go back.
                let known = theirs.get(&*slot.key).copied().flatten();
                let verify = || self.core.replica.verify(&self.core.hash, &slot.key, &record);
                if known == record::digest(&record) || verify().is_err() {
                    continue;
                }
                bytes += slot.key.len() + record.len();
                let (slot, record) = (slot_ref(slot), Blob(record));
                writes.push(ReplicaWrite { slot, record, hints: Vec::new(), reservation: None });
                if bytes >= limits::SYNC_BYTES {
                    sent += self.apply(std::mem::take(&mut writes), failed).await?;
                    bytes = 0;
                }
            }
            sent += self.apply(writes, failed).await?;
        }
        Ok(sent)
    }

    async fn apply(&self, writes: Vec<ReplicaWrite>, failed: &mut (usize, String)) -> Result<u64, SyncError> {
        if writes.is_empty() {
            return Ok(0);
        }
        match self.ask(Request::Apply(writes), PATIENCE).await? {
            Reply::Apply(outcomes) => Ok(note(outcomes, failed)),
            other => Err(unexpected(other).into()),
        }
    }

    async fn ask(&self, request: Request, patience: Duration) -> Result<Reply, SyncError> {
        let asked = self.core.peers.request_in_bulk(self.peer, request, Instant::now() + patience).await;
        let (reply, bytes) = asked?;
        self.core.sync.count(self.peer, |traffic| {
            traffic.bytes_in += bytes.received;
            traffic.bytes_out += bytes.sent;
        });
        Ok(reply)
    }
}

/// Shares out what is to be sent by the sizes it was found with, so that no more is read at once than goes into one message:
/// each ends with the record that fills it.
fn messages(records: impl Iterator<Item = (Slot, usize)>) -> Vec<Vec<Slot>> {
    let (mut messages, mut bytes) = (vec![Vec::new()], 0);
    for (slot, size) in records {
        let full = |message: &Vec<Slot>| message.len() >= limits::SYNC_RECORDS_MAX || bytes >= limits::SYNC_BYTES;
        if messages.last().is_some_and(full) {
            messages.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        if let Some(message) = messages.last_mut() {
            message.push(slot);
        }
    }
    messages.retain(|message| !message.is_empty());
    messages
}

/// Counts what was taken over, and keeps the first reason where it was not.
fn note(outcomes: Vec<Result<(), ServeError>>, failed: &mut (usize, String)) -> u64 {
    let mut done = 0;
    for outcome in outcomes {
        match outcome {
            Ok(()) => done += 1,
            Err(error) => {
                if failed.0 == 0 {
                    failed.1 = error.to_string();
                }
                failed.0 += 1;
            }
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::types::Bucket;

    #[test]
    fn no_more_is_read_at_once_than_goes_into_one_message() {
        let counts = |sizes: &[usize]| -> Vec<usize> {
            let slot = |at: usize| Slot { bucket: Bucket(1), key: at.to_string().into() };
            let records: Vec<(Slot, usize)> = sizes.iter().enumerate().map(|(at, size)| (slot(at), *size)).collect();
            let messages = messages(records.iter().cloned());
            assert!(messages.iter().flatten().eq(records.iter().map(|(slot, _)| slot)), "order or content is lost");
            messages.iter().map(Vec::len).collect()
        };
        assert_eq!(counts(&[]), [0; 0]);
        assert_eq!(counts(&[8 << 20; 3]), [1, 1, 1], "large records were read together");
        assert_eq!(counts(&[10, limits::SYNC_BYTES, 10, 10]), [2, 2]);
        assert_eq!(counts(&[1; limits::SYNC_RECORDS_MAX + 1]), [limits::SYNC_RECORDS_MAX, 1]);
    }
}
