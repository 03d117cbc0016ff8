//! What it costs two owners to find the few records in which they differ and to make them equal again: by anti-entropy, and by
//! comparing everything.
//!
//! `cargo bench --bench compare -- [RECORDS] [DIFFERENT]` fills two embedded storages with the same records, but for some
//! that one of them lacks or has in an older form. Then it has (1) all records of both read and checked and their digests
//! compared, as owners without hash trees would; (2) two nodes read their storages once to make their trees; (3) both
//! nodes started again, with the trees that they kept, which compare and mend, their start not counted; (4) the same once more, with nothing to mend. Told are
//! the processor time of this process, and bytes: of (1) those of the message with the digests of one side.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used, missing_docs)]

mod nodes;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use dynamomini::env::Env;
use dynamomini::hash::ClusterHash;
use dynamomini::merkle::Held;
use dynamomini::node::Node;
use dynamomini::record;
use dynamomini::store::Durability;
use dynamomini::store::Engine;
use dynamomini::store::Mutation;
use dynamomini::store::Slot;
use dynamomini::store::StoreConfig;
use dynamomini::types::Bucket;
use dynamomini::types::Copies;
use dynamomini::types::Epoch;
use dynamomini::types::Namespace;
use dynamomini::types::NamespacePolicy;
use dynamomini::types::NodeId;
use dynamomini::types::Partitions;
use dynamomini::version::Actor;
use dynamomini::version::Context;
use dynamomini::version::NewVersion;
use dynamomini::version::RequestId;
use dynamomini::version::Siblings;
use dynamomini::version::Stamp;
use dynamomini::wire::rpc::Request;
use dynamomini::wire::sync::RecordsRequest;
use dynamomini::wire::sync::SyncStatus;
use dynamomini::wire::sync::TreeId;
use tokio::time::sleep;
use tokio::time::timeout;

use crate::nodes::Founded;
use crate::nodes::PATIENCE;

const PARTITIONS: u32 = 1024;
const VALUE: usize = 100;
/// Records in one batch of a storage, and in one page of it.
const BATCH: usize = 256;
/// How long after their start nodes have not begun to compare.
const STARTED: Duration = Duration::from_millis(1_500);
/// How often the nodes are looked at, which costs them little.
const LOOK: Duration = Duration::from_millis(100);

/// Processor time of this process until now, in hundredths of a second: its own and the system's.
fn spent() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // What is before the last parenthesis is the program's name, which may hold anything.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn say(what: &str, since: u64, bytes: u64) {
    let spent = spent() - since;
    println!("{what}: {}.{:02} s of processor time, {bytes} bytes", spent / 100, spent % 100);
}

/// Two owners of the same records, but for some.
struct Pair {
    cluster: Founded,
    hash: ClusterHash,
    stores: [StoreConfig; 2],
    records: usize,
    different: usize,
}

impl Pair {
    fn new(folder: &Path, records: usize, different: usize) -> Self {
        let cluster = Founded::new(2, PARTITIONS, NamespacePolicy::default().with_copies(2));
        let store = |at: usize| StoreConfig::Embedded {
            path: folder.join(at.to_string()),
            durability: Durability::EveryBatch,
            cache_bytes: 64 << 20,
        };
        let hash = ClusterHash::new(&cluster.info.cluster);
        Self { cluster, hash, stores: [store(0), store(1)], records, different }
    }

    fn buckets(&self) -> Partitions {
        self.cluster.info.partitions
    }

    async fn open(&self, at: usize) -> Engine {
        Engine::open(&self.stores[at], &self.cluster.identity(at), &Env::real()).await.unwrap().0
    }

    /// A record, and where it is.
    fn record(&self, number: usize, versions: usize) -> Mutation {
        let key = record::storage_key(&Namespace::default(), format!("user/{number:09}").as_bytes());
        let actor = Actor { node: NodeId(1), epoch: Epoch(1) };
        let mut state = Siblings::new();
        for version in 0..versions as u64 {
            let new = NewVersion {
                request: RequestId { client: version, sequence: number as u64 },
                after: Vec::new(),
                stamp: Stamp(1),
                expires_at: None,
                value: Some(Bytes::from(vec![b'x'; VALUE])),
            };
            let seen: Context = state.context().clone();
            state.put(&seen, new, actor, 0);
        }
        let value = record::encode(&self.hash, &key, &state);
        let bucket = self.buckets().bucket_of(record::position(&self.hash, &key).unwrap());
        Mutation::Put { slot: Slot { bucket, key }, value }
    }

    /// Which version a storage has of a record; none if zero.
    fn versions(&self, at: usize, number: usize) -> usize {
        let each = self.records / self.different.max(1);
        if !number.is_multiple_of(each) || number / each >= self.different {
            return 1;
        }
        match (number / each) % 3 {
            0 => at,
            1 => 1 - at,
            _ => 1 + at,
        }
    }

    async fn fill(&self) {
        for at in 0..2 {
            let engine = self.open(at).await;
            let held: Vec<usize> = (0..self.records).filter(|number| self.versions(at, *number) > 0).collect();
            for numbers in held.chunks(BATCH) {
                let batch = numbers.iter().map(|number| self.record(*number, self.versions(at, *number))).collect();
                engine.write(engine.epoch(), batch).await.unwrap();
            }
            engine.close().await.unwrap();
        }
    }

    /// What a storage holds in a bucket: hash of the key and digest of each record, which was checked.
    async fn digests(&self, engine: &Engine, bucket: Bucket) -> Vec<(u64, u64)> {
        let (mut digests, mut after): (_, Option<Bytes>) = (Vec::new(), None);
        loop {
            let page = engine.scan(bucket, b"", after.as_deref(), BATCH, 1 << 20).await.unwrap();
            for (key, stored) in &page.items {
                record::check(&self.hash, key, stored).unwrap();
                digests.push((self.hash.tree_key(key), record::digest(stored).unwrap()));
            }
            after = page.items.last().map(|(key, _)| key.clone());
            if !page.more {
                return digests;
            }
        }
    }

    /// Compares everything that both hold, and finds so many records that differ.
    async fn compare_all(&self, different: usize) {
        let (one, two) = (self.open(0).await, self.open(1).await);
        let (since, mut bytes, mut found) = (spent(), 0, 0);
        for (bucket, partition) in self.buckets().buckets().zip(self.buckets().iter()) {
            let held = self.digests(&one, bucket).await;
            let mut theirs = Held::new(&held);
            let tree = TreeId { partition, copies: Copies::settled(2) };
            let message = RecordsRequest { tree, leaves: Vec::new(), after: None, until: None, held };
            bytes += postcard::to_stdvec(&Request::SyncRecords(message)).unwrap().len() as u64;
            let mut differing: BTreeSet<u64> = BTreeSet::new();
            for (key, digest) in self.digests(&two, bucket).await {
                if theirs.lacks(key, digest) {
                    differing.insert(key);
                }
            }
            differing.extend(theirs.wanted());
            found += differing.len();
        }
        assert_eq!(found, different, "records that differ");
        say(&format!("everything read and compared, {found} found"), since, bytes);
        one.close().await.unwrap();
        two.close().await.unwrap();
    }

    async fn start(&self, at: usize) -> Node {
        let StoreConfig::Embedded { path, .. } = &self.stores[at] else { unreachable!() };
        self.cluster.start(at, &self.stores[at], Some(path.join("trees"))).await
    }

    /// Has each node make its trees, alone.
    async fn build(&self) {
        let since = spent();
        for at in 0..2 {
            let node = self.start(at).await;
            until(std::slice::from_ref(&node), |sync| sync.known == sync.partitions && sync.partitions > 0).await;
            end([node]).await;
        }
        say("trees made of both storages", since, 0);
    }

    /// Starts all nodes, waits until they have found all equal, and ends them. Returns how many records were moved.
    async fn repair(&self, what: &str) -> u64 {
        let nodes = [self.start(0).await, self.start(1).await];
        // What a start takes is over by then, and comparing begins later.
        sleep(STARTED).await;
        let since = spent();
        let equal = |sync: &SyncStatus| sync.peers.iter().all(|peer| peer.verified == peer.trees);
        until(&nodes, |sync| !sync.peers.is_empty() && equal(sync)).await;
        let (bytes, records) = moved(&nodes).await;
        say(&format!("{what}, {records} records moved"), since, bytes);
        end(nodes).await;
        records
    }
}

/// Bytes of messages, and records, of all exchanges since the nodes' start.
async fn moved(nodes: &[Node]) -> (u64, u64) {
    let (mut bytes, mut records) = (0, 0);
    for node in nodes {
        for peer in node.observer().status().await.sync.peers {
            bytes += peer.bytes_in + peer.bytes_out;
            records += peer.records_in + peer.records_out;
        }
    }
    (bytes, records)
}

async fn end(nodes: impl IntoIterator<Item = Node>) {
    for node in nodes {
        node.shutdown().await.unwrap();
    }
}

async fn until(nodes: &[Node], holds: impl Fn(&SyncStatus) -> bool) {
    let all = async {
        for node in nodes {
            while !holds(&node.observer().status().await.sync) {
                sleep(LOOK).await;
            }
        }
    };
    timeout(PATIENCE, all).await.expect("the nodes do not get on");
}

#[tokio::main]
async fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let number = |at: usize, default: usize| numbers.get(at).copied().unwrap_or(default);
    let (records, different) = (number(0, 1_000_000), number(1, 100));
    let folder = tempfile::tempdir().unwrap();
    let pair = Pair::new(folder.path(), records, different);
    pair.fill().await;
    pair.compare_all(different).await;
    pair.build().await;
    assert!(pair.repair("compared by trees and mended").await >= different as u64, "too few records were moved");
    assert_eq!(pair.repair("compared by trees, all equal").await, 0);
    pair.compare_all(0).await;
}
