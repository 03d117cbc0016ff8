//! What is fetched need not be on disk before it is done, and what is acknowledged must be.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::env::Env;
use crate::node::meters::Meters;
use crate::node::past::Past;
use crate::node::replica::Replica;
use crate::node::trees::Trees;
use crate::store::{Disk, Durability, Engine, Simulated, StoreIdentity};
use crate::types::{Namespace, NamespacePolicy, Partitions};
use crate::view::ClusterView;
use crate::wire::rpc::{ClusterInfo, MemberInfo};

/// The loops of a replica on this disk.
fn replica(disk: &Disk, env: &Env) -> Replica {
    let (cluster, name) = (ClusterName::new("demo").unwrap(), "n1".parse().unwrap());
    let buckets = Partitions::new(16).unwrap();
    let identity = StoreIdentity { cluster: cluster.clone(), node: "n1".parse().unwrap(), buckets };
    let engine = Simulated::open(disk, Durability::EveryBatch, &identity, env).unwrap().0;
    let member = MemberInfo { name, quic: "n1:1".to_owned(), zone: "z".parse().unwrap(), weight: 100 };
    let info = ClusterInfo {
        cluster: cluster.clone(),
        partitions: buckets,
        members: vec![member],
        namespaces: vec![(Namespace::default(), NamespacePolicy::default())],
        node: "n1".parse().unwrap(),
        layout: crate::layout::Layout::default(),
    };
    let engine = Engine::Simulated(engine);
    let epoch = engine.epoch();
    let trees = Trees::new(&ClusterView::new(info.founding()).unwrap(), epoch);
    let known = (Arc::new(trees), Arc::new(Past::new(epoch)));
    let identity = (ClusterHash::new(&cluster), NodeId(1));
    Replica::start(engine, identity, Duration::from_secs(1), Arc::new(Meters::default()), known, env)
}

#[tokio::test(start_paused = true)]
async fn what_came_unsynced_is_on_disk_once_somebody_else_is_told_that_it_is_here() {
    let (disk, env) = (Disk::new([1; 32]), Env::real().child());
    let (replica, slot) = (replica(&disk, &env), key("a"));
    let record = Bench::new(2).mint(&slot, &[]).record;
    let apply = async |unsynced: bool| {
        let apply = Apply { slot: slot.clone(), record: record.clone(), hints: Vec::new(), unsynced };
        replica.apply(apply).await.unwrap();
        disk.unsynced()
    };
    assert!(apply(true).await > 0, "a batch that nobody waits for was synced by itself");
    assert!(apply(true).await > 0, "whoever fetches it again does not wait for the disk either");
    assert_eq!(apply(false).await, 0, "a power cut would take what was acknowledged");
    assert_eq!(apply(false).await, 0);
    env.stop();
}
