//! What the replicas of a simulated cluster hold, read from their storage: whether all owners hold the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use dynamomini::hash::ClusterHash;
use dynamomini::record;
use dynamomini::store::Engine;
use dynamomini::types::{Bucket, NodeId, NodeName};
use dynamomini::view::ClusterView;

use crate::cluster::Cluster;

/// How long a cluster may take to come together once all is healed. Comparisons that fail wait half a minute at most, and
/// a tree that was just compared is compared again within the interval and its spread.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) type Records = BTreeMap<(Bucket, Bytes), Bytes>;

/// All that a node stores in these buckets.
pub(crate) async fn records(engine: &Engine, buckets: impl Iterator<Item = Bucket>) -> Records {
    let mut records = Records::new();
    for bucket in buckets {
        let page = engine.scan(bucket, b"", None, 1_000, usize::MAX).await.unwrap();
        assert!(!page.more, "the page is not the whole bucket");
        records.extend(page.items.into_iter().map(|(key, record)| ((bucket, key), record)));
    }
    records
}

/// Whether each owner of each partition holds the same, nobody else holds anything, and no hint is left. Otherwise what is
/// wrong.
pub(crate) async fn difference(cluster: &Cluster) -> Option<String> {
    difference_by(cluster, &ClusterView::new(cluster.info.clone()).unwrap()).await
}

/// The same by a view of the cluster that need not be the one it was founded with.
pub(crate) async fn difference_by(cluster: &Cluster, view: &ClusterView) -> Option<String> {
    let mut held = BTreeMap::new();
    for (number, engine) in cluster.engines() {
        let id = ClusterHash::node_id(&NodeName::new(format!("n{number}")).unwrap());
        let all = view.info().partitions.buckets().chain([Bucket::HINTS]);
        let mut records = records(&engine, all).await;
        // What a node notes there of itself is no hint: its storage is tried so.
        // Those for nodes that are no members have nobody to go to.
        let target = |key: &Bytes| NodeId(u64::from_be_bytes(key[..8].try_into().unwrap()));
        let is_hint = |key: &Bytes| target(key) != id && view.members().contains_key(&target(key));
        records.retain(|(bucket, key), _| *bucket != Bucket::HINTS || is_hint(key));
        held.insert(id, (number, records));
    }
    let keys: BTreeSet<_> = held.values().flat_map(|(_, records)| records.keys().cloned()).collect();
    for key in keys {
        if key.0 == Bucket::HINTS {
            return Some(format!("a hint is left: {key:?}"));
        }
        let (namespace, _) = record::split_storage_key(&key.1).unwrap();
        let ring = view.ring(view.copies(&namespace).unwrap()).unwrap();
        let owners = ring.preference_list(ring.partitions().of(record::position(view.hash(), &key.1).unwrap()));
        let stranger = held.iter().find(|(id, (_, records))| !owners.contains(id) && records.contains_key(&key));
        if let Some((_, (number, _))) = stranger {
            return Some(format!("n{number} holds {key:?}, which is not its own"));
        }
        let copies: Vec<Option<&Bytes>> = owners.iter().map(|owner| held[owner].1.get(&key)).collect();
        if copies.iter().any(|copy| *copy != copies[0]) {
            let hash = ClusterHash::new(&cluster.info.cluster);
            let decoded = owners.iter().map(|owner| {
                let (number, records) = &held[owner];
                let state = records.get(&key).map(|record| record::decode(&hash, &key.1, record));
                format!("n{number}: {state:?}")
            });
            return Some(format!("the owners of {key:?} differ: {:#?}", decoded.collect::<Vec<_>>()));
        }
    }
    None
}

/// Waits until all owners are equal.
pub(crate) async fn converged(cluster: &Cluster) {
    let give_up = cluster.simulation.elapsed() + PATIENCE;
    while let Some(difference) = difference(cluster).await {
        assert!(cluster.simulation.elapsed() < give_up, "after {PATIENCE:?} still: {difference}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
