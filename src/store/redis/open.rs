//! Opening the Redis engine: is the server fit, whose database is it, and may its epoch stay.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;

use rand::RngExt;
use redis::ErrorKind;
use redis::RedisError;

use crate::env::Env;
use crate::hash::ClusterHash;
use crate::limits;
use crate::store::OpenError;
use crate::store::RedisConfig;
use crate::store::StoreIdentity;
use crate::store::Warning;
use crate::store::epoch;
use crate::store::epoch::Mark;
use crate::store::health::Pulse;
use crate::store::memo::Found;
use crate::store::memo::MemoFile;
use crate::store::redis::failure::Failure;
use crate::store::redis::link;
use crate::store::redis::link::Address;
use crate::store::redis::link::Connector;
use crate::store::redis::link::Link;
use crate::store::redis::scripts::Meta;
use crate::store::redis::scripts::Scripts;
use crate::store::redis::sentinel::Sentinel;
use crate::store::redis::server::Facts;

/// Longest prefix of the node's keys.
const PREFIX_MAX: usize = 64;

/// Opens the database of this node. The first session begins with the first call.
pub(super) async fn open(
    config: &RedisConfig,
    identity: &StoreIdentity,
    env: &Env,
) -> Result<(Link, Vec<Warning>), OpenError> {
    if config.key_prefix.is_empty() || config.key_prefix.len() > PREFIX_MAX {
        return Err(OpenError::Config(format!("the key prefix for Redis must have 1 to {PREFIX_MAX} bytes")));
    }
    let address = Address::new(config)?;
    let scripts = Scripts::new(&config.key_prefix);
    let name = address.name.clone();
    let mut connection = address.connect().await.map_err(|error| unreachable(&name, &error))?;
    let facts = Facts::ask(&mut connection).await.map_err(|error| unreachable(&name, &error))?;
    facts.check(&name)?;
    let mut warnings = facts.warnings();

    let refused = |failure: Failure| OpenError::Unreachable {
        what: name.clone(),
        reason: failure.error.to_string(),
        remedy: "see that the server takes writes, and that the node's user may use @read, @write and @scripting \
                 commands on its keys"
            .to_owned(),
    };
    let meta = link::ask_meta(&mut connection, &scripts).await.map_err(refused)?;
    let found = owned(&meta, identity, &name)?;
    if found.is_none() && facts.database_keys > 0 {
        let finding = format!("{name} holds {} keys that are not this node's", facts.database_keys);
        warnings.push(Warning::new(finding, "give each node a database of its own, better a server of its own"));
    }

    let hash = ClusterHash::new(&identity.cluster);
    let memo = MemoFile::at(&config.state_file);
    let file = memo.clone();
    let remembered = env.blocking(move || file.load(&hash)).await.ok_or(OpenError::Stopping)?;
    let remembered = remembered.map_err(|error| OpenError::File { path: config.state_file.clone(), error })?;
    let (own, renewed) = succeed(found.as_ref(), &meta, &remembered, &facts, identity, env);
    warnings.extend(renewed);
    let commits =
        link::take(&mut connection, &scripts, &meta, &own, commits_known(&remembered)).await.map_err(refused)?;

    let (epoch, seen) = (AtomicU64::new(own.epoch.0), Arc::new(AtomicU64::new(commits)));
    let connector = Connector { own, seen, facts, delay: limits::REDIS_BACKOFF_MIN, not_before: None };
    let link = Link {
        address,
        scripts,
        pulse: Pulse::default(),
        memo,
        hash,
        env: env.clone(),
        epoch,
        closed: AtomicBool::new(false),
        session: Mutex::new(None),
        connector: tokio::sync::Mutex::new(connector),
    };
    let saved = link.save_memo(&*link.connector.lock().await, false).await;
    saved.map_err(|error| OpenError::File { path: config.state_file.clone(), error })?;
    Ok((link, warnings))
}

/// The sentinel found, if it is this node's own.
fn owned(meta: &Meta, identity: &StoreIdentity, name: &str) -> Result<Option<Sentinel>, OpenError> {
    let Some(text) = &meta.sentinel else { return Ok(None) };
    let found = Sentinel::parse(text);
    if let Some(found) = &found
        && found.identity == Sentinel::identity_of(identity)
    {
        return Ok(Some(found.clone()));
    }
    Err(OpenError::Foreign {
        what: name.to_owned(),
        found: found.map_or_else(|| "another version of DynamoMini".to_owned(), |found| found.describe()),
        expected: identity.to_string(),
    })
}

/// The sentinel for this session, and a warning if its epoch is new although there was one.
fn succeed(
    found: Option<&Sentinel>,
    meta: &Meta,
    remembered: &Found,
    facts: &Facts,
    identity: &StoreIdentity,
    env: &Env,
) -> (Sentinel, Option<Warning>) {
    let memo = if let Found::Memo(memo) = remembered { Some(memo) } else { None };
    let mark = found.map(|found| Mark { epoch: found.epoch, boot: found.boot, commits: meta.commits });
    // The same run of the server has lost nothing by itself; a later one has not if it syncs each write. After a
    // closing in order the memo has the exact number of writes, and comparing that is proof enough.
    let whole = memo.is_some_and(|memo| memo.clean || memo.run == facts.run() || (memo.synced && facts.synced()));
    let (next, verdict) = epoch::succeed(env, mark, memo, whole);
    let warning = verdict.warning().filter(|_| found.is_some() || *remembered != Found::Nothing);
    let own = Sentinel {
        identity: Sentinel::identity_of(identity),
        epoch: next.epoch,
        boot: next.boot,
        owner: env.rng("store.owner").random(),
        fence: 1,
    };
    (own, warning)
}

fn commits_known(remembered: &Found) -> u64 {
    if let Found::Memo(memo) = remembered { memo.mark.commits } else { 0 }
}

fn unreachable(name: &str, error: &RedisError) -> OpenError {
    let refused = error.kind() == ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"))
        // When the first command that is refused is the choice of the database, the code is lost.
        || ["Authentication required", "has no permissions"].iter().any(|text| error.to_string().contains(text));
    let remedy = if refused {
        "check the user name and password, and that the user may use INFO, and SELECT where a database is chosen"
    } else if error.code() == Some("LOADING") {
        "start the node when the server has loaded its data"
    } else {
        "check that the server runs and that the address is right"
    };
    OpenError::Unreachable { what: name.to_owned(), reason: error.to_string(), remedy: remedy.to_owned() }
}
