//! The storage of one node: bytes in, bytes out, in atomic batches.
//!
//! Three engines behind one closed enum, [`Engine`]: memory, an embedded database, and a Redis server of the node's
//! own. A fourth, in tests only (feature `simulation`), is a model of an engine whose disk fails from a seed. The room knows neither versions nor peers; it never expires or merges anything. What it does know about
//! time's arrow is the storage epoch: an engine renews it whenever it may have lost what it once held (see
//! [`epoch`](Engine::epoch)), and refuses batches that were decided under another.
//!
//! Calls are not cancel-safe: a dropped write may happen or not. Callers batch; one call is one transaction, one
//! pipeline, or one script.

mod config;
mod embedded;
mod epoch;
mod error;
mod files;
mod health;
mod memo;
mod memory;
mod records;
#[cfg(feature = "redis")]
mod redis;
#[cfg(any(test, feature = "simulation"))]
mod simulated;

#[cfg(test)]
pub(crate) mod contract;

use bytes::Bytes;

use crate::env::Env;
use crate::limits;
use crate::types::Bucket;
use crate::types::ClusterName;
use crate::types::Epoch;
use crate::types::NodeName;
use crate::types::Partitions;

pub use config::Durability;
pub use config::RedisConfig;
pub use config::RedisTls;
pub use config::RedisTlsIdentity;
pub use config::StoreConfig;
pub use embedded::Embedded;
pub use embedded::EmbeddedOptions;
pub use error::OpenError;
pub use error::StoreError;
pub use error::Warning;
pub use files::create_directory;
pub(crate) use files::remove_file;
pub(crate) use files::replace_file;
pub use health::Health;
pub use memory::Memory;
pub use memory::MemoryCopy;
#[cfg(feature = "redis")]
pub use redis::Redis;
#[cfg(any(test, feature = "simulation"))]
pub use simulated::Damage;
#[cfg(any(test, feature = "simulation"))]
pub use simulated::Disk;
#[cfg(any(test, feature = "simulation"))]
pub use simulated::DiskCopy;
#[cfg(any(test, feature = "simulation"))]
pub use simulated::DiskFaults;
#[cfg(any(test, feature = "simulation"))]
pub use simulated::Simulated;

/// Where a record lies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    /// Its bucket.
    pub bucket: Bucket,
    /// Its key within the bucket: 1 to [`limits::STORE_KEY_MAX`] bytes of any value.
    pub key: Bytes,
}

/// One change of a batch. When a batch names a slot twice, the later change holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mutation {
    /// Stores the value, in place of what was there.
    Put {
        /// Where.
        slot: Slot,
        /// What: up to [`limits::RECORD_MAX`] bytes.
        value: Bytes,
    },
    /// Removes what is there, if anything.
    Delete {
        /// Where.
        slot: Slot,
    },
}

impl Mutation {
    /// The slot that is changed.
    pub fn slot(&self) -> &Slot {
        match self {
            Self::Put { slot, .. } | Self::Delete { slot } => slot,
        }
    }
}

/// Part of a bucket's records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScanPage {
    /// Keys and values in ascending order of keys.
    pub items: Vec<(Bytes, Bytes)>,
    /// Whether there may be more after the last item.
    pub more: bool,
    /// Damaged places in the engine's files that were passed over: what only they knew of is missing.
    pub damaged: u64,
}

impl ScanPage {
    /// Whether something of the page cannot be read, or is missing because of damage.
    pub fn is_damaged(&self) -> bool {
        self.damaged > 0 || self.items.iter().any(|(_, value)| *value == UNREADABLE)
    }
}

/// What an engine gives for a record that lies in a damaged place of its files. No record is empty, so whoever checks it
/// finds it damaged, as one that was damaged on the way here; writing it anew is what repairs it.
pub const UNREADABLE: Bytes = Bytes::new();

/// How much a storage holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreSize {
    /// Records. The embedded engine counts up to [`limits::STORE_COUNTED_MAX`]; of more it gives an estimate, in which
    /// a record counts again for each recent change that its files still hold.
    pub keys: u64,
    /// Bytes as the engine knows them: memory, keys and values; embedded, its tables with what was overwritten there,
    /// and what waits to be written to them; Redis, the memory of the whole server.
    pub bytes: u64,
}

/// Whose storage it is. A storage that belongs to somebody else is not opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreIdentity {
    /// The cluster.
    pub cluster: ClusterName,
    /// The node.
    pub node: NodeName,
    /// How many buckets there are: as many as partitions when the cluster was founded.
    pub buckets: Partitions,
}

impl std::fmt::Display for StoreIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cluster, node, buckets } = self;
        write!(f, "node {node} of cluster {cluster} with {} partitions", buckets.count())
    }
}

/// An open storage. Clones share it.
#[derive(Debug, Clone)]
pub enum Engine {
    /// Memory of this process.
    Memory(Memory),
    /// The embedded database.
    Embedded(Embedded),
    /// A Redis server.
    #[cfg(feature = "redis")]
    Redis(Redis),
    /// A model of an engine on a disk that fails as a test wants it to.
    #[cfg(any(test, feature = "simulation"))]
    Simulated(Simulated),
}

/// Calls the same method of whichever engine it is.
macro_rules! each {
    ($engine:expr, $inner:ident => $call:expr) => {
        match $engine {
            Engine::Memory($inner) => $call,
            Engine::Embedded($inner) => $call,
            #[cfg(feature = "redis")]
            Engine::Redis($inner) => $call,
            #[cfg(any(test, feature = "simulation"))]
            Engine::Simulated($inner) => $call,
        }
    };
}

impl Engine {
    /// Opens the storage, creating it when there is none, and decides whether its epoch may stay. The engine's own
    /// tasks run in a scope inside `env`.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong and what to do about it; the storage is as it was.
    pub async fn open(
        config: &StoreConfig,
        identity: &StoreIdentity,
        env: &Env,
    ) -> Result<(Self, Vec<Warning>), OpenError> {
        match config {
            StoreConfig::Memory => Ok((Self::Memory(Memory::new(identity, env)), Vec::new())),
            StoreConfig::Embedded { path, durability, cache_bytes } => {
                let options = EmbeddedOptions { durability: *durability, cache_bytes: *cache_bytes };
                let (engine, warnings) = Embedded::open(path, options, identity, env).await?;
                Ok((Self::Embedded(engine), warnings))
            }
            #[cfg(feature = "redis")]
            StoreConfig::Redis(config) => {
                let (engine, warnings) = Redis::open(config, identity, env).await?;
                Ok((Self::Redis(engine), warnings))
            }
            #[cfg(not(feature = "redis"))]
            StoreConfig::Redis(_) => {
                Err(OpenError::Config("this program was built without the `redis` feature".to_owned()))
            }
        }
    }

    /// The storage epoch now. It changes when the storage was wiped, rolled back, or may have lost writes that it
    /// acknowledged, so that no dot (node, epoch, counter) ever names two values.
    ///
    /// The change may come between any two calls: the engine looks after itself, too. So whoever reads in order to
    /// write takes the epoch before it reads; and whoever must not take a wiped storage for an empty one compares
    /// the epoch after a read with the one that it knows.
    pub fn epoch(&self) -> Epoch {
        each!(self, engine => engine.epoch())
    }

    /// Gives the storage a new epoch in place of this one because the node found it damaged; it is durable when this
    /// returns. What is stored stays. The reason is for the log.
    ///
    /// # Errors
    /// [`StoreError::EpochChanged`] when the storage was at another epoch already: nothing was done, so of several
    /// renewals of one epoch only the first is made. After others the old epoch may hold or not.
    pub async fn renew_epoch(&self, from: Epoch, reason: &str) -> Result<Epoch, StoreError> {
        let epoch = each!(self, engine => engine.renew_epoch(from, reason).await)?;
        tracing::warn!(%epoch, reason, "storage epoch renewed on request");
        Ok(epoch)
    }

    /// Reads up to [`limits::STORE_CALL_MAX`] records, in the order asked for. One that lies in a damaged place of the
    /// engine's files is given as [`UNREADABLE`], and the others as they are.
    ///
    /// # Errors
    /// [`StoreError::EpochChanged`] when the storage turned out to be flushed or replaced; never "missing" then.
    pub async fn get_many(&self, slots: &[Slot]) -> Result<Vec<Option<Bytes>>, StoreError> {
        check_count(slots.len())?;
        each!(self, engine => {
            slots.iter().try_for_each(|slot| check_slot(slot, engine.buckets()))?;
            engine.get_many(slots).await
        })
    }

    /// Applies up to [`limits::STORE_CALL_MAX`] changes, all or none. They are as durable as the configuration says
    /// when this returns.
    ///
    /// # Errors
    /// [`StoreError::EpochChanged`] when the storage is not at `epoch`; then nothing was written. After
    /// [`StoreError::Unavailable`] and [`StoreError::Timeout`] the batch may have been applied; reads tell.
    pub async fn write(&self, epoch: Epoch, batch: Vec<Mutation>) -> Result<(), StoreError> {
        self.apply(epoch, batch, true).await
    }

    /// As [`Engine::write`], but the changes may wait until they are on disk for a later [`Engine::write`], or
    /// [`Engine::flush`]: when one of these has returned, they are.
    ///
    /// # Errors
    /// As [`Engine::write`].
    pub async fn write_unsynced(&self, epoch: Epoch, batch: Vec<Mutation>) -> Result<(), StoreError> {
        self.apply(epoch, batch, false).await
    }

    async fn apply(&self, epoch: Epoch, batch: Vec<Mutation>, synced: bool) -> Result<(), StoreError> {
        check_count(batch.len())?;
        each!(self, engine => batch.iter().try_for_each(|mutation| check_mutation(mutation, engine.buckets())))?;
        match self {
            // Memory has no disk, and Redis syncs by a schedule of its own.
            Self::Memory(engine) => engine.write(epoch, batch).await,
            Self::Embedded(engine) => engine.write(epoch, batch, synced).await,
            #[cfg(feature = "redis")]
            Self::Redis(engine) => engine.write(epoch, batch).await,
            #[cfg(any(test, feature = "simulation"))]
            Self::Simulated(engine) => engine.write(epoch, batch, synced).await,
        }
    }

    /// Reads a bucket's records whose keys begin with `prefix`, in order, from behind the key `after`. The page
    /// ends after `limit` records, or after the record with which keys and values fill `bytes`. Damaged places are passed
    /// over and told.
    ///
    /// # Errors
    /// As [`Engine::get_many`].
    pub async fn scan(
        &self,
        bucket: Bucket,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        bytes: usize,
    ) -> Result<ScanPage, StoreError> {
        let range = ScanRange::new(bucket, prefix, after, limit, bytes)?;
        each!(self, engine => {
            check_bucket(bucket, engine.buckets())?;
            engine.scan(range).await
        })
    }

    /// Deletes all records of a bucket and returns how many there were. Not atomic: after an error, or beside
    /// concurrent writes, some may be left.
    ///
    /// # Errors
    /// As [`Engine::get_many`].
    pub async fn delete_bucket(&self, bucket: Bucket) -> Result<u64, StoreError> {
        each!(self, engine => {
            check_bucket(bucket, engine.buckets())?;
            engine.delete_bucket(bucket).await
        })
    }

    /// Makes every acknowledged write durable, as far as it is in the engine's hands: Redis keeps its own schedule.
    ///
    /// # Errors
    /// [`StoreError`] when that cannot be said.
    pub async fn flush(&self) -> Result<(), StoreError> {
        each!(self, engine => engine.flush().await)
    }

    /// How much the storage holds.
    ///
    /// # Errors
    /// As [`Engine::get_many`].
    pub async fn size(&self) -> Result<StoreSize, StoreError> {
        each!(self, engine => engine.size().await)
    }

    /// What kind of engine it is, for people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Memory(_) => "memory",
            Self::Embedded(_) => "embedded",
            #[cfg(feature = "redis")]
            Self::Redis(_) => "redis",
            #[cfg(any(test, feature = "simulation"))]
            Self::Simulated(_) => "simulated",
        }
    }

    /// Whether what it has flushed stays, as far as a disk keeps its word. Redis syncs by rules of its own, and may come
    /// back with what it had an hour ago.
    pub fn keeps_what_it_flushed(&self) -> bool {
        match self {
            Self::Memory(_) | Self::Embedded(_) => true,
            #[cfg(feature = "redis")]
            Self::Redis(_) => false,
            #[cfg(any(test, feature = "simulation"))]
            Self::Simulated(_) => true,
        }
    }

    /// How well the storage is, as last seen; cheap.
    pub fn health(&self) -> Health {
        each!(self, engine => engine.health())
    }

    /// How often, since it was opened, the storage was written anew from what could be read of it; cheap.
    pub fn rebuilds(&self) -> u64 {
        match self {
            Self::Embedded(embedded) => embedded.rebuilds(),
            _ => 0,
        }
    }

    /// Closes the storage for all clones and marks it as closed in order, so that the epoch may stay next time.
    ///
    /// # Errors
    /// [`StoreError`] when the mark could not be made: the next open will then renew the epoch.
    pub async fn close(self) -> Result<(), StoreError> {
        each!(self, engine => engine.close().await)
    }
}

/// What a scan asks for, checked.
#[derive(Debug, Clone)]
struct ScanRange {
    bucket: Bucket,
    prefix: Bytes,
    after: Option<Bytes>,
    limit: usize,
    bytes: usize,
}

impl ScanRange {
    fn new(
        bucket: Bucket,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        bytes: usize,
    ) -> Result<Self, StoreError> {
        if limit == 0 || limit > limits::SCAN_PAGE_MAX {
            return Err(StoreError::Misuse(format!("a page of {limit} records: 1 to {}", limits::SCAN_PAGE_MAX)));
        }
        if prefix.len().max(after.map_or(0, <[u8]>::len)) > limits::STORE_KEY_MAX {
            return Err(StoreError::Misuse("a prefix or cursor longer than any key".to_owned()));
        }
        // A cursor before the prefix begins nothing that the prefix does not.
        let after = after.filter(|after| *after >= prefix).map(Bytes::copy_from_slice);
        Ok(Self { bucket, prefix: Bytes::copy_from_slice(prefix), after, limit, bytes })
    }
}

fn check_count(count: usize) -> Result<(), StoreError> {
    if count <= limits::STORE_CALL_MAX {
        return Ok(());
    }
    Err(StoreError::Misuse(format!("{count} operations in one call: at most {}", limits::STORE_CALL_MAX)))
}

fn check_bucket(bucket: Bucket, buckets: Partitions) -> Result<(), StoreError> {
    if bucket.0 < buckets.count() || bucket == Bucket::HINTS {
        return Ok(());
    }
    Err(StoreError::Misuse(format!("bucket {bucket} of {}", buckets.count())))
}

fn check_slot(slot: &Slot, buckets: Partitions) -> Result<(), StoreError> {
    if slot.key.is_empty() || slot.key.len() > limits::STORE_KEY_MAX {
        return Err(StoreError::Misuse(format!("a key of {} bytes: 1 to {}", slot.key.len(), limits::STORE_KEY_MAX)));
    }
    check_bucket(slot.bucket, buckets)
}

fn check_mutation(mutation: &Mutation, buckets: Partitions) -> Result<(), StoreError> {
    if let Mutation::Put { value, .. } = mutation
        && value.len() > limits::RECORD_MAX
    {
        return Err(StoreError::Misuse(format!("a value of {} bytes: at most {}", value.len(), limits::RECORD_MAX)));
    }
    check_slot(mutation.slot(), buckets)
}

/// The smallest key above every key that begins with `prefix`; `None` when there is no such key.
fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_next_key_that_does_not_begin_with_it() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(prefix_end(b"\xff"), None);
        assert_eq!(prefix_end(b""), None);
    }
}
