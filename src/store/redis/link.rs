//! The connection to the server, and the session on it under which the engine's commands are valid.
//!
//! A session begins with a handshake: the server is asked who it is and what the database holds, the epoch is
//! decided, and the sentinel is rewritten with a higher fence. It ends with the first sign that any of this may not
//! hold any more; the next command begins another. Which commands are sent is not known here.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::AsyncConnectionConfig;
use redis::Client;
use redis::ClientTlsConfig;
use redis::IntoConnectionInfo;
use redis::TlsCertificates;
use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use crate::env::Env;
use crate::hash::ClusterHash;
use crate::limits;
use crate::store::OpenError;
use crate::store::RedisConfig;
use crate::store::StoreError;
use crate::store::epoch;
use crate::store::epoch::Mark;
use crate::store::epoch::Memo;
use crate::store::health::Pulse;
use crate::store::health::Trouble;
use crate::store::memo::MemoFile;
use crate::store::redis::failure::Failure;
use crate::store::redis::failure::is_no_script;
use crate::store::redis::scripts;
use crate::store::redis::scripts::Guard;
use crate::store::redis::scripts::Meta;
use crate::store::redis::scripts::Reply;
use crate::store::redis::scripts::Scripts;
use crate::store::redis::sentinel::Finding;
use crate::store::redis::sentinel::Sentinel;
use crate::store::redis::server::Facts;
use crate::types::Epoch;

/// How to reach the server.
#[derive(Debug)]
pub(super) struct Address {
    client: Client,
    settings: AsyncConnectionConfig,
    /// For messages; without credentials.
    pub(super) name: String,
}

impl Address {
    pub(super) fn new(config: &RedisConfig) -> Result<Self, OpenError> {
        let invalid = |error: redis::RedisError| OpenError::Config(format!("the address of Redis: {error}"));
        let info = config.url.as_str().into_connection_info().map_err(invalid)?;
        let mut login = info.redis_settings().clone().set_skip_set_lib_name();
        if let Some(username) = &config.username {
            login = login.set_username(username);
        }
        if let Some(password) = &config.password {
            login = login.set_password(password);
        }
        if let Some(database) = config.database {
            login = login.set_db(i64::from(database));
        }
        let name = format!("Redis at {}, database {}", info.addr(), login.db());
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let info = info.set_redis_settings(login).set_tcp_settings(tcp);
        let encrypted = matches!(info.addr(), redis::ConnectionAddr::TcpTls { .. });
        let certificates = TlsCertificates {
            root_cert: config.tls.ca.clone(),
            client_tls: config.tls.identity.as_ref().map(|identity| ClientTlsConfig {
                client_cert: identity.certificate.clone(),
                client_key: identity.key.clone(),
            }),
        };
        if !encrypted && (certificates.root_cert.is_some() || certificates.client_tls.is_some()) {
            let text = "certificates for Redis are given, but its URL does not begin with rediss://";
            return Err(OpenError::Config(text.to_owned()));
        }
        let client = if encrypted { Client::build_with_tls(info, certificates) } else { Client::open(info) };
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(config.connect_timeout))
            .set_response_timeout(Some(config.response_timeout));
        Ok(Self { client: client.map_err(invalid)?, settings, name })
    }

    pub(super) async fn connect(&self) -> Result<MultiplexedConnection, redis::RedisError> {
        self.client.get_multiplexed_async_connection_with_config(&self.settings).await
    }
}

/// A connection under a sentinel.
#[derive(Clone)]
pub(super) struct Session {
    pub(super) connection: MultiplexedConnection,
    pub(super) epoch: Epoch,
    /// Whether the sentinel could be rewritten; if not, only reads are safe.
    pub(super) writable: bool,
    text: Arc<str>,
    fence: u64,
    /// Highest number of writes that any answer came with.
    seen: Arc<AtomicU64>,
}

impl Session {
    pub(super) fn guard(&self) -> Guard<'_> {
        Guard { sentinel: &self.text, seen: self.seen() }
    }

    pub(super) fn seen(&self) -> u64 {
        self.seen.load(Ordering::Acquire)
    }

    pub(super) fn saw(&self, commits: u64) {
        self.seen.fetch_max(commits, Ordering::AcqRel);
    }

    /// Whether the meta hash is as this session knows it.
    pub(super) fn fits(&self, meta: &Meta, seen: u64) -> bool {
        meta.sentinel.as_deref() == Some(self.text.as_bytes()) && meta.commits >= seen
    }

    /// Sends a script's command, and the scripts first if the server does not know them.
    pub(super) async fn run(&mut self, scripts: &Scripts, cmd: &redis::Cmd) -> Result<redis::Value, Failure> {
        run(&mut self.connection, scripts, cmd).await
    }
}

async fn run(
    connection: &mut MultiplexedConnection,
    scripts: &Scripts,
    cmd: &redis::Cmd,
) -> Result<redis::Value, Failure> {
    match cmd.query_async(connection).await {
        Err(error) if is_no_script(&error) => {
            let loaded: Result<(), _> = scripts.load().query_async(connection).await;
            loaded.map_err(|error| Failure::of(&error))?;
            cmd.query_async(connection).await.map_err(|error| Failure::of(&error))
        }
        answer => answer.map_err(|error| Failure::of(&error)),
    }
}

/// The engine's side of its sessions.
pub(super) struct Link {
    pub(super) address: Address,
    pub(super) scripts: Scripts,
    pub(super) pulse: Pulse,
    pub(super) memo: MemoFile,
    pub(super) hash: ClusterHash,
    pub(super) env: Env,
    pub(super) epoch: AtomicU64,
    pub(super) closed: AtomicBool,
    pub(super) session: Mutex<Option<Session>>,
    /// Held while connecting, so that one handshake serves all who wait.
    pub(super) connector: tokio::sync::Mutex<Connector>,
}

/// What outlives a session.
pub(super) struct Connector {
    /// The sentinel that was last written, or tried.
    pub(super) own: Sentinel,
    pub(super) seen: Arc<AtomicU64>,
    pub(super) facts: Facts,
    pub(super) delay: Duration,
    pub(super) not_before: Option<Instant>,
}

impl Link {
    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    /// The session, begun if there is none.
    pub(super) async fn session(&self) -> Result<Session, StoreError> {
        match self.current() {
            Some(session) => Ok(session),
            None => self.begin(None).await,
        }
    }

    /// Makes a new epoch in place of this one, and a session under it.
    pub(super) async fn renew(&self, from: Epoch) -> Result<Epoch, StoreError> {
        Ok(self.begin(Some(from)).await?.epoch)
    }

    /// Ends this session, unless it was replaced already. Commands on their way fail by the next fence.
    pub(super) fn end(&self, session: &Session) {
        let mut current = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|current| current.fence == session.fence) {
            *current = None;
        }
    }

    /// Digests a failure: ends the session if it has to, reports to the health, and returns the caller's error.
    pub(super) fn failed(&self, session: &Session, failure: Failure) -> StoreError {
        if failure.disconnects {
            self.end(session);
        }
        if failure.trouble.is_some() {
            self.pulse.report(failure.trouble);
        }
        failure.error
    }

    /// Writes down how far the storage has come.
    pub(super) async fn save_memo(&self, connector: &Connector, clean: bool) -> std::io::Result<()> {
        let own = &connector.own;
        let mark = Mark { epoch: self.epoch(), boot: own.boot, commits: connector.seen.load(Ordering::Acquire) };
        let run = connector.facts.run().to_owned();
        let memo = Memo { mark, clean, synced: connector.facts.synced(), run };
        let (file, hash) = (self.memo.clone(), self.hash);
        let saved = self.env.blocking(move || file.save(&memo, &hash)).await;
        saved.unwrap_or_else(|| Err(std::io::Error::other("the process is stopping")))
    }

    fn current(&self) -> Option<Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn begin(&self, renew: Option<Epoch>) -> Result<Session, StoreError> {
        let mut connector = self.connector.lock().await;
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Unavailable("it was closed".to_owned()));
        }
        if renew.is_none() {
            if let Some(session) = self.current() {
                return Ok(session);
            }
            if connector.not_before.is_some_and(|at| Instant::now() < at) {
                return Err(StoreError::Unavailable("the connection to Redis is down".to_owned()));
            }
        }
        if renew.is_some_and(|from| connector.own.epoch != from) {
            return Err(StoreError::EpochChanged);
        }
        match self.handshake(&mut connector, renew.map(|_| "the node asked for it")).await {
            Ok((session, lost)) => {
                (connector.not_before, connector.delay) = (None, limits::REDIS_BACKOFF_MIN);
                if session.writable {
                    self.pulse.report(None);
                }
                *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session.clone());
                // Whoever renews must not take a database that was lost meanwhile for the one he knew.
                if lost && renew.is_some() { Err(StoreError::EpochChanged) } else { Ok(session) }
            }
            Err(failure) => {
                connector.not_before = Some(Instant::now() + connector.delay);
                connector.delay = (connector.delay * 2).min(limits::REDIS_BACKOFF_MAX);
                let down = Trouble::Down(failure.error.to_string());
                self.pulse.report(Some(failure.trouble.unwrap_or(down)));
                Err(failure.error)
            }
        }
    }

    /// A new session, and whether the database has lost something since the last.
    async fn handshake(
        &self,
        connector: &mut Connector,
        renew: Option<&'static str>,
    ) -> Result<(Session, bool), Failure> {
        let failure = |error: redis::RedisError| Failure::of(&error);
        let mut connection = self.address.connect().await.map_err(failure)?;
        let facts = Facts::ask(&mut connection).await.map_err(failure)?;
        let meta = ask_meta(&mut connection, &self.scripts).await?;
        let seen = connector.seen.load(Ordering::Acquire);
        let (lost, went_back) = match connector.own.compare(meta.sentinel.as_deref(), meta.commits, seen) {
            Finding::Whole => (renew, false),
            Finding::Lost(reason) => (Some(reason), true),
            Finding::Foreign(reason) => {
                let text = format!("{} is not this node's any more: {reason}", self.address.name);
                let (error, trouble) = (StoreError::Unavailable(text.clone()), Some(Trouble::Down(text)));
                return Err(Failure { error, trouble, disconnects: true });
            }
        };
        let mut new = connector.own.clone();
        new.fence += 1;
        if lost.is_some() {
            let found = meta.sentinel.as_deref().and_then(Sentinel::parse).map(|found| found.epoch);
            new.epoch = epoch::fresh(&self.env, &[Some(new.epoch), found]);
        }
        // Even if it fails it may arrive later, so its fence is used up.
        connector.own.fence = new.fence;
        let taken = take(&mut connection, &self.scripts, &meta, &new, seen).await;
        let (text, writable, commits) = match taken {
            Ok(commits) => (new.to_string(), true, commits),
            Err(failure) if lost.is_none() && refuses_writes(&failure) => {
                self.pulse.report(failure.trouble);
                let text = String::from_utf8_lossy(meta.sentinel.as_deref().unwrap_or_default()).into_owned();
                (text, false, meta.commits)
            }
            Err(failure) => return Err(failure),
        };
        if let Some(reason) = lost {
            connector.own.epoch = new.epoch;
            // Answers of the old session may still come in with higher numbers, which mean nothing in the new one.
            connector.seen = Arc::default();
            self.epoch.store(new.epoch.0, Ordering::Release);
            tracing::warn!(epoch = %new.epoch, reason, "storage epoch renewed");
        }
        connector.seen.fetch_max(commits, Ordering::AcqRel);
        connector.facts = facts;
        if let Err(error) = self.save_memo(connector, false).await {
            // The next open will find that memo and database do not fit, and renew the epoch: safe, if needless.
            tracing::warn!(%error, path = %self.memo.path().display(), "writing the storage's memo");
        }
        let (epoch, fence, seen) = (connector.own.epoch, connector.own.fence, connector.seen.clone());
        Ok((Session { connection, epoch, writable, text: text.into(), fence, seen }, went_back))
    }
}

/// Whether the server takes reads but no writes.
fn refuses_writes(failure: &Failure) -> bool {
    matches!(failure.trouble, Some(Trouble::Full(_) | Trouble::ReadOnly(_)))
}

/// Reads the meta hash.
pub(super) async fn ask_meta(connection: &mut MultiplexedConnection, scripts: &Scripts) -> Result<Meta, Failure> {
    let answer = scripts.meta().query_async(connection).await.map_err(|error| Failure::of(&error))?;
    scripts::read_meta(answer).ok_or_else(Failure::nonsense)
}

/// Puts the new sentinel in the place of the one found. Returns the number of writes then.
pub(super) async fn take(
    connection: &mut MultiplexedConnection,
    scripts: &Scripts,
    found: &Meta,
    new: &Sentinel,
    above: u64,
) -> Result<u64, Failure> {
    let cmd = scripts.take(found.sentinel.as_deref().unwrap_or_default(), &new.to_string(), above);
    let answer = run(connection, scripts, &cmd).await?;
    match scripts::read_reply(answer, |_| Some(())) {
        Some(Reply::Done(commits, ())) => Ok(commits),
        Some(Reply::Stale) => {
            let error = StoreError::Unavailable("the database changed while it was being opened".to_owned());
            Err(Failure { error, trouble: None, disconnects: true })
        }
        None => Err(Failure::nonsense()),
    }
}
