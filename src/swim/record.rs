//! What a member says about itself, and the signature under it.
//!
//! How signing works, and how a key is bound to a name, is the [`Notary`]'s business.

use core::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::hash::ClusterHash;
use crate::limits;
use crate::types::{NodeId, NodeName, Zone};

/// Where a member stands in the life of the cluster, which has nothing to do with whether it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClusterState {
    /// It does not own data yet.
    Joining,
    /// It owns its share.
    Active,
    /// It is giving up its share.
    Leaving,
    /// It owns nothing any more.
    Removed,
}

/// How a member's storage is, from real operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StorageHealth {
    /// It works.
    Ok,
    /// It works slowly.
    Slow,
    /// It takes no writes.
    ReadOnly,
    /// It may have lost acknowledged writes.
    LosingData,
    /// It does not answer.
    Down,
    /// It went back in time, takes writes, and answers no reads until it has caught up with the others.
    CatchingUp,
}

impl StorageHealth {
    /// All of them, in the order in which storages are preferred.
    pub const ALL: [Self; 6] = [Self::Ok, Self::Slow, Self::LosingData, Self::CatchingUp, Self::ReadOnly, Self::Down];

    /// The grade in a word, as in logs, output and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Slow => "slow",
            Self::ReadOnly => "read-only",
            Self::LosingData => "losing-data",
            Self::Down => "down",
            Self::CatchingUp => "catching-up",
        }
    }

    /// Its place in [`StorageHealth::ALL`].
    pub fn rank(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Slow => 1,
            Self::LosingData => 2,
            Self::CatchingUp => 3,
            Self::ReadOnly => 4,
            Self::Down => 5,
        }
    }

    /// The same for reads, to which it does not matter whether a storage takes writes.
    pub fn read_rank(self) -> u8 {
        if self == Self::ReadOnly { Self::Ok.rank() } else { self.rank() }
    }
}

/// A certificate, in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// SHA-256 of the certificate.
    pub fingerprint: [u8; 32],
    /// When it expires, in seconds since the Unix epoch.
    pub expires_s: u64,
}

/// What a member says about itself. Of two records under one name the one with the larger incarnation counts, then
/// the one with the larger instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The cluster ([`ClusterHash::cluster_id`]); records of others are refused.
    #[serde(with = "postcard::fixint::le")]
    pub cluster: u64,
    /// The member's name.
    pub name: NodeName,
    /// Drawn at each start of the process. With the time of the start in its high bits, the later of two live
    /// processes with one name yields.
    #[serde(with = "postcard::fixint::le")]
    pub instance: u64,
    /// Rises with each change of the record and each refutation.
    pub incarnation: u64,
    /// The instance under the same name over which this one had to raise its incarnation. Two instances that name
    /// each other are alive at the same time: a name conflict. The state machine fills it in.
    pub rival: Option<u64>,
    /// Whether it left for good, by itself. The state machine fills it in.
    pub left: bool,
    /// Where its gossip datagrams go.
    pub gossip: SocketAddr,
    /// Where its data plane is reached: host and port.
    pub quic: String,
    /// Where its admin listener is reached, if it has one: host and port.
    pub admin: Option<String>,
    /// Its failure zone.
    pub zone: Zone,
    /// Its share of the data against others.
    pub weight: u32,
    /// The program's version.
    pub software: String,
    /// The newest version of the protocol between nodes that it speaks.
    pub protocol: u16,
    /// Where it stands in the life of the cluster.
    pub state: ClusterState,
    /// How its storage is.
    pub storage: StorageHealth,
    /// How far its wall clock is ahead of the median of the others, in milliseconds. `None` when it does not know.
    pub clock_offset_ms: Option<i32>,
    /// The certificate it shows.
    pub certificate: Certificate,
    /// The public key under which the record is signed, in the notary's encoding. May be empty.
    pub key: Vec<u8>,
    /// A hash of the settings that should be equal everywhere.
    #[serde(with = "postcard::fixint::le")]
    pub config: u64,
}

impl Record {
    /// The member's identifier.
    pub fn node(&self) -> NodeId {
        ClusterHash::node_id(&self.name)
    }

    /// What tells this record from others of the same member; the larger counts.
    pub fn edition(&self) -> Edition {
        Edition { incarnation: self.incarnation, instance: self.instance }
    }

    /// Whether the two say the same about the member, incarnation apart.
    pub(super) fn same_content(&self, other: &Self) -> bool {
        let mut renamed = other.clone();
        (renamed.incarnation, renamed.rival) = (self.incarnation, self.rival);
        renamed == *self
    }

    fn is_within_limits(&self) -> bool {
        self.quic.len() <= limits::GOSSIP_ADDRESS_MAX
            && self.admin.as_ref().is_none_or(|admin| admin.len() <= limits::GOSSIP_ADDRESS_MAX)
            && self.software.len() <= limits::GOSSIP_SOFTWARE_MAX
            && self.key.len() <= limits::GOSSIP_KEY_MAX
            && self.weight <= limits::WEIGHT_MAX
            && self.incarnation <= limits::INCARNATION_MAX
            && self.gossip.port() != 0
    }
}

/// Which record of a member is meant. Ordered by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Edition {
    /// The incarnation.
    pub incarnation: u64,
    /// The instance.
    #[serde(with = "postcard::fixint::le")]
    pub instance: u64,
}

/// Signs this member's records and checks those of others.
pub trait Notary: Send + Sync {
    /// The signature under this member's encoded record, at most [`limits::GOSSIP_SIGNATURE_MAX`] bytes.
    fn sign(&self, bytes: &[u8]) -> Vec<u8>;
    /// Whether `signature` under `bytes`, which decode to `record`, was made by the member that the record names.
    /// Called only for records that are news.
    fn verify(&self, record: &Record, bytes: &[u8], signature: &[u8]) -> bool;
}

/// Why a record was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It does not decode to a record, or not exactly.
    #[error("the bytes are no member's record")]
    Malformed,
    /// A field, or the whole, is larger than the limits allow.
    #[error("a field of the record, or the whole of it, is above its limit: shorten addresses and names")]
    TooLarge,
    /// It is of another cluster.
    #[error("the record is of another cluster")]
    OtherCluster,
    /// The signature is not the member's.
    #[error("the record is not signed by the member that it names")]
    Forged,
}

/// A record, its encoding, and the signature under that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    record: Arc<Record>,
    bytes: Arc<[u8]>,
    signature: Arc<[u8]>,
}

/// A signed record as it travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Envelope<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) signature: &'a [u8],
}

impl Envelope<'_> {
    /// The record, checked against the limits and the cluster. The signature is not checked.
    pub(super) fn open(&self, cluster: u64) -> Result<Record, RecordError> {
        if self.bytes.len() + self.signature.len() > limits::GOSSIP_RECORD_MAX
            || self.signature.len() > limits::GOSSIP_SIGNATURE_MAX
        {
            return Err(RecordError::TooLarge);
        }
        let (record, rest) = postcard::take_from_bytes::<Record>(self.bytes).map_err(|_| RecordError::Malformed)?;
        if !rest.is_empty() {
            return Err(RecordError::Malformed);
        }
        if !record.is_within_limits() {
            return Err(RecordError::TooLarge);
        }
        if record.cluster != cluster {
            return Err(RecordError::OtherCluster);
        }
        Ok(record)
    }

    /// Takes an opened record together with its bytes, if the notary finds the signature good.
    pub(super) fn take(&self, record: Record, notary: &dyn Notary) -> Result<Signed, RecordError> {
        if !notary.verify(&record, self.bytes, self.signature) {
            return Err(RecordError::Forged);
        }
        Ok(Signed { record: Arc::new(record), bytes: self.bytes.into(), signature: self.signature.into() })
    }
}

impl Signed {
    /// Signs a record.
    ///
    /// # Errors
    /// [`RecordError::TooLarge`] when it is above a limit.
    pub fn new(record: Record, notary: &dyn Notary) -> Result<Self, RecordError> {
        if !record.is_within_limits() {
            return Err(RecordError::TooLarge);
        }
        let bytes = postcard::to_stdvec(&record).map_err(|_| RecordError::TooLarge)?;
        let signature = notary.sign(&bytes);
        if signature.len() > limits::GOSSIP_SIGNATURE_MAX || bytes.len() + signature.len() > limits::GOSSIP_RECORD_MAX {
            return Err(RecordError::TooLarge);
        }
        Ok(Self { record: Arc::new(record), bytes: bytes.into(), signature: signature.into() })
    }

    /// Reads what [`Signed::to_bytes`] gave, from a disk perhaps, and checks all of it.
    ///
    /// # Errors
    /// [`RecordError`] says what is wrong.
    pub fn from_bytes(bytes: &[u8], cluster: u64, notary: &dyn Notary) -> Result<Self, RecordError> {
        let (envelope, rest) = postcard::take_from_bytes::<Envelope<'_>>(bytes).map_err(|_| RecordError::Malformed)?;
        if !rest.is_empty() {
            return Err(RecordError::Malformed);
        }
        let record = envelope.open(cluster)?;
        envelope.take(record, notary)
    }

    /// The record with its signature, for a disk.
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(&self.envelope()).expect("two byte strings always encode")
    }

    /// The record.
    pub fn record(&self) -> &Record {
        &self.record
    }

    pub(super) fn shared(&self) -> &Arc<Record> {
        &self.record
    }

    pub(super) fn envelope(&self) -> Envelope<'_> {
        Envelope { bytes: &self.bytes, signature: &self.signature }
    }

    /// Bytes it takes in a message, at most.
    pub(super) fn size(&self) -> usize {
        self.bytes.len() + self.signature.len() + 5
    }
}
