//! Coordinating a scan: bucket after bucket, each read at R replicas of all its partitions, whose ordered pages are merged.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::future::try_join_all;
use futures_util::stream;
use tokio::time::Instant;

use crate::limits;
use crate::node::ask::Ask;
use crate::node::coordinate::{get, needed, policy, quorum_error, ring};
use crate::node::core::Core;
use crate::node::meters::Call;
use crate::node::past;
use crate::node::peers::PeerError;
use crate::quorum::Miss;
use crate::record::{self, RecordError};
use crate::ring::Ring;
use crate::types::{Bucket, Namespace, NamespacePolicy, NodeId, PartitionId};
use crate::version::Siblings;
use crate::wire::blob::Blob;
use crate::wire::rpc::{GetDone, PageRequest, ScanCursor, ScanDone, ScanRequest, ServeError, Verb};

/// Buckets that are read ahead of the one being returned: most hold little.
const AHEAD: usize = 16;

/// Reads one page.
pub(crate) async fn scan(core: &Arc<Core>, request: ScanRequest, by: Ask<'_>) -> Result<ScanDone, ServeError> {
    let view = core.view();
    let policy = policy(&view, &request.namespace)?;
    let ring = ring(&view, &request.namespace)?;
    let needed = needed(&view, policy, Verb::Read, request.r)?;
    core.meters.scans.one();
    let limit = usize::try_from(request.limit).unwrap_or(usize::MAX).clamp(1, limits::SCAN_PAGE_MAX);
    let ScanRequest { namespace, prefix, cursor, keys_only, .. } = request;
    let prefix = record::storage_key(&namespace, &prefix);
    let start = cursor.unwrap_or(ScanCursor { bucket: Bucket(0), after: None });
    let buckets = core.buckets.count();
    let scan = Scan { core, ring, policy, needed, namespace, prefix, limit, by, keys_only };

    let mut done = ScanDone { items: Vec::new(), next: None };
    let mut bytes = 0;
    let pages = stream::iter((start.bucket.0..buckets).map(Bucket)).map(|bucket| {
        let after = start.after.clone().filter(|_| bucket == start.bucket);
        scan.bucket(bucket, after)
    });
    let mut pages = std::pin::pin!(pages.buffered(AHEAD));
    let began = Instant::now();
    let enough = began + by.deadline.saturating_duration_since(began) / 2;
    while let Some(page) = pages.next().await {
        let page = page?;
        for (key, found) in page.items {
            bytes += key.len() + found.siblings.iter().map(|sibling| sibling.value.len()).sum::<usize>();
            done.items.push((Blob(key.clone()), found));
            if done.items.len() >= limit || bytes >= limits::SCAN_PAGE_BYTES {
                done.next = Some(ScanCursor { bucket: page.bucket, after: Some(Blob(key)) });
                return Ok(done);
            }
        }
        let next = page.bucket.0 + 1;
        if !page.unfinished && next < buckets && Instant::now() >= enough {
            // What there is by now, or just how far it came, is better than an answer that comes too late.
            done.next = Some(ScanCursor { bucket: Bucket(next), after: None });
            return Ok(done);
        }
        if page.unfinished {
            let after = page.after.map(Blob);
            done.next = Some(ScanCursor { bucket: page.bucket, after });
            return Ok(done);
        }
    }
    Ok(done)
}

struct Scan<'a> {
    core: &'a Arc<Core>,
    ring: &'a Ring,
    policy: &'a NamespacePolicy,
    needed: u8,
    namespace: Namespace,
    prefix: Bytes,
    limit: usize,
    by: Ask<'a>,
    keys_only: bool,
}

/// A replica's page: keys with what it holds of them, and whether there may be more.
type States = (Vec<(Bytes, Siblings)>, bool);

/// What a bucket gave.
struct Page {
    bucket: Bucket,
    items: Vec<(Bytes, GetDone)>,
    /// The last user key that was looked at, when there is more behind it.
    after: Option<Bytes>,
    unfinished: bool,
}

impl Scan<'_> {
    /// Reads a page of one bucket and keeps what a client sees. Partitions may be cut between two pages, buckets not.
    async fn bucket(&self, bucket: Bucket, after: Option<Blob>) -> Result<Page, ServeError> {
        let after = after.map(|key| record::storage_key(&self.namespace, &key));
        let partitions = self.ring.partitions().within(bucket, self.core.buckets);
        let replies = try_join_all(partitions.map(|partition| self.replies(partition, after.clone()).boxed())).await?;
        let replies: Vec<States> = replies.into_iter().flatten().collect();
        // Beyond the end of the shortest unfinished page some replica's keys are not known yet.
        let unfinished = replies.iter().filter(|(_, more)| *more);
        let horizon = unfinished.filter_map(|(items, _)| items.last().map(|(key, _)| key.clone())).min();
        let mut merged: BTreeMap<Bytes, Siblings> = BTreeMap::new();
        for (key, state) in replies.into_iter().flat_map(|(items, _)| items) {
            if horizon.as_ref().is_none_or(|horizon| key <= *horizon) {
                merged.entry(key).or_default().merge(&state);
            }
        }
        let wall_ms = self.core.rest.wall_ms();
        let items = merged.iter().filter_map(|(stored, state)| {
            let (_, key) = record::split_storage_key(stored)?;
            let mut found = get::found(self.policy, &self.core.place(&self.namespace, &key), state, wall_ms);
            if self.keys_only {
                found.siblings.iter_mut().for_each(|sibling| sibling.value = Blob::default());
            }
            (!found.siblings.is_empty()).then_some((key, found))
        });
        let items = items.collect();
        let after = horizon.as_ref().and_then(record::split_storage_key).map(|(_, key)| key);
        Ok(Page { bucket, items, unfinished: after.is_some(), after })
    }

    /// Pages from `needed` replicas. One that cannot read all of its page has not answered: what it leaves out must not pass
    /// for absent.
    async fn replies(&self, partition: PartitionId, after: Option<Bytes>) -> Result<Vec<States>, ServeError> {
        let core = self.core;
        let owners = self.ring.preference_list(partition);
        let (mut order, down): (Vec<NodeId>, Vec<NodeId>) =
            owners.iter().partition(|node| core.is_up(**node) && core.takes_reads(**node));
        order.sort_by_key(|node| (*node != core.id, core.peers.rtt(*node)));
        order.extend(down);
        let mut order = order.into_iter();
        let (mut replies, mut missed, mut got) = (Vec::new(), Vec::new(), Vec::new());
        let needed = usize::from(self.needed);
        while replies.len() < needed {
            let next: Vec<NodeId> = order.by_ref().take(needed - replies.len()).collect();
            if next.is_empty() {
                return Err(quorum_error(core, Verb::Read, self.needed, got, &missed, false));
            }
            let answers = join_all(next.iter().map(|node| self.ask(*node, partition, after.clone()))).await;
            for (node, answer) in next.into_iter().zip(answers) {
                match answer {
                    Ok(page) => {
                        got.push(node);
                        replies.push(page);
                    }
                    Err(error) => missed.push(Miss { node, why: error.why, maybe: false }),
                }
            }
        }
        Ok(replies)
    }

    async fn ask(&self, node: NodeId, partition: PartitionId, after: Option<Bytes>) -> Result<States, PeerError> {
        let limit = u32::try_from(self.limit).unwrap_or(u32::MAX);
        let prefix = Blob(self.prefix.clone());
        let request = PageRequest { partition, prefix, after: after.map(Blob), limit };
        let (records, more) = if node == self.core.id {
            page(self.core, &request, self.by.deadline).await.map_err(PeerError::from)?
        } else {
            let deadline = self.by.deadline.min(Instant::now() + self.core.timeouts.replica);
            self.core.peers.page(node, request, self.by.until(deadline)).await?
        };
        let states = records.into_iter().map(|(key, record)| {
            let state = record::decode(&self.core.hash, &key, &record);
            let broken =
                |error| PeerError { why: format!("holds a record that cannot be read: {error}"), maybe: false };
            Ok((key, state.map_err(broken)?))
        });
        Ok((states.collect::<Result<_, PeerError>>()?, more))
    }
}

/// A page of this node's own replica; an error when any of its records cannot be read.
pub(crate) async fn page(
    core: &Core,
    request: &PageRequest,
    deadline: Instant,
) -> Result<(Vec<(Bytes, Bytes)>, bool), ServeError> {
    let epoch = past::reads(core, deadline).await?;
    let limit = usize::try_from(request.limit).unwrap_or(usize::MAX).clamp(1, limits::SCAN_PAGE_MAX);
    let after = request.after.as_ref().map(|after| &after[..]);
    let began = Instant::now();
    let page = core.scan(request.partition, &request.prefix, after, (limit, limits::SCAN_PAGE_BYTES)).await;
    core.meters.stored(Call::Scan, began.elapsed(), &page);
    let page = page.map_err(|error| crate::node::replica::storage_error(&error))?;
    if page.damaged > 0 {
        core.replica.note_unreadable(request.partition, &RecordError::Damaged);
        return Err(ServeError::Unavailable("the storage's files have a damaged place there".to_owned()));
    }
    for (key, record) in &page.items {
        core.replica.verify(&core.hash, key, record)?;
    }
    past::still_reads(core, epoch)?;
    Ok((page.items, page.more))
}
