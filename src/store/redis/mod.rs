//! The Redis engine: a server of the node's own, version 6.0 or later, or Valkey.
//!
//! Each call is one pipeline or one script, bound to a sentinel in the database, so that a flushed, replaced or
//! rolled-back database is never taken for an empty one: the engine renews the epoch and the caller decides anew.
//! A write is as durable as the server's own configuration makes it. The connection's driver runs on tokio's
//! scheduler, outside the scope, and ends with the connection.

mod failure;
mod link;
mod open;
mod scripts;
mod sentinel;
mod server;

#[cfg(test)]
mod test_server;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::MissedTickBehavior;

use crate::env::Env;
use crate::env::StopOnDrop;
use crate::limits;
use crate::store::Health;
use crate::store::Mutation;
use crate::store::OpenError;
use crate::store::RedisConfig;
use crate::store::ScanPage;
use crate::store::ScanRange;
use crate::store::Slot;
use crate::store::StoreError;
use crate::store::StoreIdentity;
use crate::store::StoreSize;
use crate::store::Warning;
use crate::store::health::Trouble;
use crate::store::redis::failure::Failure;
use crate::store::redis::link::Link;
use crate::store::redis::link::Session;
use crate::store::redis::scripts::Reply;
use crate::store::redis::server::Facts;
use crate::types::Bucket;
use crate::types::Epoch;
use crate::types::Partitions;

/// How long closing waits for the keeper to finish what it is doing.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);
/// Sessions a call may go through: the one it finds, and one more when that turns out to be over.
const SESSIONS_PER_CALL: usize = 2;

/// An open Redis storage. Clones share it; when the last is dropped without [`super::Engine::close`], the node counts
/// as crashed.
#[derive(Clone)]
pub struct Redis {
    link: Arc<Link>,
    buckets: Partitions,
    /// Ends the keeper with the engine.
    scope: Arc<StopOnDrop>,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis")
            .field("server", &self.link.address.name)
            .field("epoch", &self.epoch())
            .finish_non_exhaustive()
    }
}

impl Redis {
    pub(super) async fn open(
        config: &RedisConfig,
        identity: &StoreIdentity,
        env: &Env,
    ) -> Result<(Self, Vec<Warning>), OpenError> {
        let scope = env.child();
        let (link, warnings) = open::open(config, identity, &scope).await?;
        let link = Arc::new(link);
        scope.spawn("store.keeper", keep(Arc::downgrade(&link), scope.clone()));
        Ok((Self { link, buckets: identity.buckets, scope: Arc::new(StopOnDrop(scope)) }, warnings))
    }

    pub(super) fn buckets(&self) -> Partitions {
        self.buckets
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.link.epoch()
    }

    pub(super) async fn renew_epoch(&self, from: Epoch, _reason: &str) -> Result<Epoch, StoreError> {
        self.link.renew(from).await
    }

    pub(super) async fn get_many(&self, slots: &[Slot]) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.link.get_many(slots).await
    }

    pub(super) async fn write(&self, epoch: Epoch, batch: Vec<Mutation>) -> Result<(), StoreError> {
        self.link.write(Some(epoch), &batch).await
    }

    pub(super) async fn scan(&self, range: ScanRange) -> Result<ScanPage, StoreError> {
        let command = |session: &Session| self.link.scripts.scan(session.guard(), &range);
        self.link.guarded(None, false, command, scripts::read_page).await
    }

    pub(super) async fn delete_bucket(&self, bucket: Bucket) -> Result<u64, StoreError> {
        let command = |session: &Session| self.link.scripts.drop_bucket(session.guard(), bucket);
        self.link.guarded(None, true, command, |parts| scripts::read_number(parts.first()?)).await
    }

    pub(super) async fn flush(&self) -> Result<(), StoreError> {
        // The server syncs on its own schedule; what can be said is whether it has everything.
        self.link.get_many(&[]).await.map(drop)
    }

    pub(super) async fn size(&self) -> Result<StoreSize, StoreError> {
        let session = self.link.session().await?;
        let mut connection = session.connection.clone();
        let meta = link::ask_meta(&mut connection, &self.link.scripts).await;
        let meta = meta.map_err(|failure| self.link.failed(&session, failure))?;
        let facts = Facts::ask(&mut connection).await;
        let facts = facts.map_err(|error| self.link.failed(&session, Failure::of(&error)))?;
        Ok(StoreSize { keys: meta.keys, bytes: facts.used_memory() })
    }

    pub(super) fn health(&self) -> Health {
        self.link.pulse.health()
    }

    pub(super) async fn close(self) -> Result<(), StoreError> {
        self.scope.0.shutdown(CLOSE_PATIENCE).await;
        // The last look: what is not there now is lost, and the memo must say how much there was.
        let checked = self.link.get_many(&[]).await;
        let connector = self.link.connector.lock().await;
        self.link.closed.store(true, Ordering::Release);
        *self.link.session.lock().unwrap_or_else(PoisonError::into_inner) = None;
        checked?;
        let saved = self.link.save_memo(&connector, true).await;
        saved.map_err(|error| StoreError::Unavailable(error.to_string()))
    }
}

impl Link {
    async fn get_many(&self, slots: &[Slot]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let _beat = self.pulse.begin();
        let before = self.epoch();
        for _ in 0..SESSIONS_PER_CALL {
            let mut session = self.session().await?;
            if session.epoch != before {
                return Err(StoreError::EpochChanged);
            }
            let seen = session.seen();
            let pipeline = self.scripts.get_many(slots);
            let answer: Result<Vec<redis::Value>, _> = pipeline.query_async(&mut session.connection).await;
            let mut values = answer.map_err(|error| self.failed(&session, Failure::of(&error)))?;
            let meta = values.pop().and_then(scripts::read_meta);
            let meta = meta.ok_or_else(|| self.failed(&session, Failure::nonsense()))?;
            if session.fits(&meta, seen) {
                session.saw(meta.commits);
                let values: Option<Vec<_>> = values.into_iter().map(scripts::read_bytes).collect();
                return values.ok_or_else(|| self.failed(&session, Failure::nonsense()));
            }
            self.end(&session);
        }
        Err(StoreError::Unavailable("the database keeps changing hands".to_owned()))
    }

    async fn write(&self, epoch: Option<Epoch>, batch: &[Mutation]) -> Result<(), StoreError> {
        let command = |session: &Session| self.scripts.write(session.guard(), batch);
        self.guarded(epoch, true, command, |_| Some(())).await
    }

    /// Runs a script that checks the sentinel; on a new session if the old one turns out to be over, which the script
    /// says before it does anything. Without an epoch given, any will do that holds from beginning to end.
    async fn guarded<T>(
        &self,
        epoch: Option<Epoch>,
        writes: bool,
        command: impl Fn(&Session) -> redis::Cmd,
        rest: impl Fn(Vec<redis::Value>) -> Option<T>,
    ) -> Result<T, StoreError> {
        let _beat = self.pulse.begin();
        let epoch = epoch.unwrap_or_else(|| self.epoch());
        for _ in 0..SESSIONS_PER_CALL {
            let mut session = self.session().await?;
            if session.epoch != epoch {
                return Err(StoreError::EpochChanged);
            }
            if writes && !session.writable {
                return Err(self.refusal());
            }
            let cmd = command(&session);
            let answer = session.run(&self.scripts, &cmd).await;
            let answer = answer.map_err(|failure| self.failed(&session, failure))?;
            match scripts::read_reply(answer, &rest) {
                Some(Reply::Done(commits, result)) => {
                    session.saw(commits);
                    return Ok(result);
                }
                Some(Reply::Stale) => self.end(&session),
                None => return Err(self.failed(&session, Failure::nonsense())),
            }
        }
        Err(StoreError::Unavailable("the database keeps changing hands".to_owned()))
    }

    fn refusal(&self) -> StoreError {
        match self.pulse.trouble() {
            Some(Trouble::Full(reason)) => StoreError::Full(reason),
            Some(Trouble::ReadOnly(reason)) => StoreError::ReadOnly(reason),
            other => StoreError::ReadOnly(format!("Redis refused writes when it was connected: {other:?}")),
        }
    }

    /// Sees that the database is there and is ours, and that it takes writes again if it did not.
    async fn look(&self) {
        let trouble = match self.get_many(&[]).await {
            Ok(_) => self.pulse.trouble(),
            // Reported where it was met; a changed epoch is a matter of the next call.
            Err(_) => return,
        };
        if !matches!(trouble, Some(Trouble::Full(_) | Trouble::ReadOnly(_) | Trouble::Down(_))) {
            return;
        }
        if let Ok(session) = self.session().await
            && !session.writable
        {
            // Only a new handshake can rewrite the sentinel.
            self.end(&session);
            return;
        }
        if self.write(None, &[]).await.is_ok() {
            self.pulse.report(None);
        }
    }

    /// Asks the server anew how it is set up, and writes down how far the storage has come.
    async fn survey(&self, evicted: &mut Option<u64>) {
        let Ok(mut session) = self.session().await else { return };
        let Ok(facts) = Facts::ask(&mut session.connection).await else { return };
        let losing = facts.losing_data(evicted.unwrap_or_else(|| facts.evicted()));
        *evicted = Some(facts.evicted());
        match (losing, self.pulse.trouble()) {
            (Some(reason), None | Some(Trouble::LosingData(_))) => self.pulse.report(Some(Trouble::LosingData(reason))),
            (None, Some(Trouble::LosingData(_))) => self.pulse.report(None),
            _ => {}
        }
        let mut connector = self.connector.lock().await;
        // The facts of another run of the server belong to another session.
        if facts.run() == connector.facts.run() {
            connector.facts = facts;
        }
        if let Err(error) = self.save_memo(&connector, false).await {
            tracing::warn!(%error, path = %self.memo.path().display(), "writing the storage's memo");
        }
    }
}

/// Looks after the storage until it is dropped or told to stop.
async fn keep(link: Weak<Link>, env: Env) {
    let timer = |period| {
        let mut timer = tokio::time::interval_at(env.next_beat(period), period);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        timer
    };
    let (mut upkeep, mut survey) = (timer(limits::STORE_UPKEEP), timer(limits::STORE_MEMO_INTERVAL));
    let mut evicted = None;
    loop {
        let surveys = tokio::select! {
            biased;
            () = env.stopped() => return,
            _ = survey.tick() => true,
            _ = upkeep.tick() => false,
        };
        let Some(link) = link.upgrade() else { return };
        if surveys {
            link.survey(&mut evicted).await;
        } else {
            link.look().await;
        }
    }
}
