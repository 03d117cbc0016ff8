//! Which storage a node uses, as plain values that somebody else has read from a file.
//!
//! Nothing here reads files or the environment, or checks that a server exists.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// When a write is safe from a crash of the machine or the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// At some time within [`crate::limits::STORE_UNSYNCED_MAX`], or at [`super::Engine::flush`] or close.
    Off,
    /// Within this time; a crash loses at most the writes since.
    Interval(Duration),
    /// Before the write is acknowledged.
    EveryBatch,
}

/// Which storage to open.
#[derive(Debug, Clone)]
pub enum StoreConfig {
    /// Memory of this process, gone when the engine is: for tests and trials.
    Memory,
    /// The embedded engine.
    Embedded {
        /// Directory that holds the store's files; created when missing.
        path: PathBuf,
        /// When writes are safe.
        durability: Durability,
        /// Memory for cached blocks, in bytes; see [`super::EmbeddedOptions`].
        cache_bytes: usize,
    },
    /// A Redis or Valkey server of this node's own.
    Redis(RedisConfig),
}

/// How to reach a Redis or Valkey server, version 6.0 or later.
#[derive(Clone)]
pub struct RedisConfig {
    /// `redis://[user:password@]host[:port][/db]`, `rediss://…` for TLS, or `unix:///path/to/socket?db=N`.
    pub url: String,
    /// User of the server's access control list, in place of the URL's.
    pub username: Option<String>,
    /// Password, in place of the URL's.
    pub password: Option<String>,
    /// Database number, in place of the URL's.
    pub database: Option<u32>,
    /// Certificates for a `rediss://` server.
    pub tls: RedisTls,
    /// Longest time to wait for a connection.
    pub connect_timeout: Duration,
    /// Longest time to wait for an answer.
    pub response_timeout: Duration,
    /// Beginning of every key that the node uses in the database.
    pub key_prefix: String,
    /// File in which the node remembers how far its storage had come, to notice a rollback; created when missing.
    pub state_file: PathBuf,
}

/// Certificates for TLS to Redis, in PEM.
#[derive(Clone, Default)]
pub struct RedisTls {
    /// Certificate authority of the server, in place of the system's.
    pub ca: Option<Vec<u8>>,
    /// This node's certificate and key, if the server asks for one.
    pub identity: Option<RedisTlsIdentity>,
}

/// A certificate with its key, in PEM.
#[derive(Clone)]
pub struct RedisTlsIdentity {
    /// The certificate chain.
    pub certificate: Vec<u8>,
    /// The private key.
    pub key: Vec<u8>,
}

impl RedisConfig {
    /// The server at this URL, with defaults for everything else.
    pub fn new(url: impl Into<String>, state_file: impl Into<PathBuf>) -> Self {
        Self {
            url: url.into(),
            username: None,
            password: None,
            database: None,
            tls: RedisTls::default(),
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(5),
            key_prefix: "dm:".to_owned(),
            state_file: state_file.into(),
        }
    }
}

// A URL may hold a password and the TLS identity holds a key: neither may reach a log by way of `{:?}`.
impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("username", &self.username)
            .field("database", &self.database)
            .field("tls", &self.tls)
            .field("key_prefix", &self.key_prefix)
            .field("state_file", &self.state_file)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RedisTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisTls").field("ca", &self.ca.is_some()).field("identity", &self.identity.is_some()).finish()
    }
}

impl fmt::Debug for RedisTlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisTlsIdentity").finish_non_exhaustive()
    }
}
