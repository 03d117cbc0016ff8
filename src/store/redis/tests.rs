//! The contract on a real server, and what servers do to those who rely on them: flushes, crashes, rollbacks, limits.

use std::time::Duration;

use crate::env::Env;
use crate::store::Engine;
use crate::store::Health;
use crate::store::OpenError;
use crate::store::RedisTlsIdentity;
use crate::store::StoreConfig;
use crate::store::StoreError;
use crate::store::contract;
use crate::store::contract::eventually;
use crate::store::contract::get;
use crate::store::contract::identity;
use crate::store::contract::put;
use crate::store::contract::slot;
use crate::store::redis::Redis;
use crate::store::redis::scripts::Reply;
use crate::store::redis::scripts::read_reply;
use crate::store::redis::test_server::TestServer;
use crate::store::redis::test_server::free_port;
use crate::store::redis::test_server::open;

const ALWAYS: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];
const EVERY_SECOND: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "everysec"];

fn inner(engine: &Engine) -> &Redis {
    match engine {
        Engine::Redis(redis) => redis,
        other => panic!("{other:?}"),
    }
}

async fn writes(engine: &Engine, key: &str) -> bool {
    engine.write(engine.epoch(), vec![put(1, key, "x")]).await.is_ok()
}

/// Whether all is well after what the keeper does each second.
async fn looks_well(engine: &Engine) -> bool {
    inner(engine).link.look().await;
    engine.health() == Health::Ok
}

#[tokio::test]
async fn redis_keeps_the_contract() {
    let Some(server) = TestServer::start(&[]).await else { return };
    contract::check_reopening(|| server.open()).await;
    contract::check(&server.open().await).await;
}

#[tokio::test]
async fn a_flush_between_read_and_write_lets_nothing_through() {
    let Some(server) = TestServer::start(&[]).await else { return };
    let engine = server.open().await;
    let epoch = engine.epoch();
    engine.write(epoch, vec![put(1, "a", "x")]).await.unwrap();
    assert!(get(&engine, 1, "a").await.is_some());
    server.say("FLUSHALL").await.unwrap();
    assert_eq!(engine.write(epoch, vec![put(1, "a", "y")]).await, Err(StoreError::EpochChanged));
    assert_ne!(engine.epoch(), epoch);
    assert_eq!(get(&engine, 1, "a").await, None);
    assert!(writes(&engine, "b").await);
}

#[tokio::test]
async fn a_flush_is_never_read_as_missing_and_is_noticed_without_traffic() {
    let Some(server) = TestServer::start(&[]).await else { return };
    let engine = server.open().await;
    engine.write(engine.epoch(), vec![put(1, "a", "x")]).await.unwrap();
    server.say("FLUSHALL").await.unwrap();
    assert_eq!(engine.get_many(&[slot(1, "a")]).await, Err(StoreError::EpochChanged));
    let epoch = engine.epoch();
    engine.write(epoch, vec![put(1, "a", "x")]).await.unwrap();
    server.say("FLUSHDB").await.unwrap();
    let page = engine.scan(crate::types::Bucket(1), b"", None, 10, 1000).await;
    assert_eq!(page, Err(StoreError::EpochChanged));
    let epoch = engine.epoch();
    server.say("DEL dm:meta").await.unwrap();
    eventually("the keeper notices", async || engine.epoch() != epoch).await;
}

#[tokio::test]
async fn an_empty_restart_renews_the_epoch_and_the_engine_reconnects() {
    let Some(mut server) = TestServer::start(&[]).await else { return };
    let engine = server.open().await;
    let epoch = engine.epoch();
    engine.write(epoch, vec![put(1, "a", "x")]).await.unwrap();
    server.kill();
    assert!(matches!(engine.write(epoch, vec![]).await, Err(StoreError::Unavailable(_) | StoreError::Timeout(_))));
    let fails = async || engine.get_many(&[]).await.is_err() && matches!(engine.health(), Health::Down { .. });
    eventually("the storage is down", fails).await;
    server.restart().await;
    let works = async || engine.get_many(&[]).await.is_ok() && engine.health() == Health::Ok;
    eventually("the storage is well", works).await;
    assert_ne!(engine.epoch(), epoch);
    assert_eq!(engine.write(epoch, vec![put(1, "b", "x")]).await, Err(StoreError::EpochChanged));
    assert_eq!(get(&engine, 1, "b").await, None);
    assert!(writes(&engine, "c").await);
}

#[tokio::test]
async fn a_crash_that_lost_nothing_keeps_the_epoch() {
    for policy in [ALWAYS, EVERY_SECOND] {
        let Some(mut server) = TestServer::start(&policy).await else { return };
        let engine = server.open().await;
        let epoch = engine.epoch();
        engine.write(epoch, vec![put(1, "a", "x")]).await.unwrap();
        server.kill();
        server.restart().await;
        eventually("the engine reconnects", async || engine.get_many(&[]).await.is_ok()).await;
        assert!(get(&engine, 1, "a").await.is_some());
        assert_eq!(engine.epoch(), epoch, "{policy:?}");
        assert!(writes(&engine, "b").await);
    }
}

#[tokio::test]
async fn a_rollback_to_a_snapshot_renews_the_epoch() {
    let Some(mut server) = TestServer::start(&["--dbfilename", "dump.rdb"]).await else { return };
    let engine = server.open().await;
    let epoch = engine.epoch();
    engine.write(epoch, vec![put(1, "a", "old")]).await.unwrap();
    server.say("SAVE").await.unwrap();
    engine.write(epoch, vec![put(1, "a", "new")]).await.unwrap();
    server.kill();
    server.restart().await;
    let changes = async || engine.get_many(&[]).await.is_err() && engine.epoch() != epoch;
    eventually("the epoch changes", changes).await;
    assert_eq!(get(&engine, 1, "a").await.as_deref(), Some(&b"old"[..]), "this case rolled nothing back");
    assert_eq!(engine.write(epoch, vec![put(1, "b", "x")]).await, Err(StoreError::EpochChanged));
}

#[tokio::test]
async fn a_rollback_under_a_living_connection_is_noticed_by_reads_and_writes() {
    let Some(server) = TestServer::start(&[]).await else { return };
    let engine = server.open().await;
    for reads in [true, false] {
        let epoch = engine.epoch();
        for key in ["a", "b", "c"] {
            assert!(writes(&engine, key).await);
        }
        // The sentinel is the same; only the count of writes went back.
        server.say("HINCRBY dm:meta seq -1").await.unwrap();
        if reads {
            assert_eq!(engine.get_many(&[slot(1, "a")]).await, Err(StoreError::EpochChanged));
        } else {
            assert_eq!(engine.write(epoch, vec![put(1, "d", "x")]).await, Err(StoreError::EpochChanged));
            assert_eq!(get(&engine, 1, "d").await, None);
        }
        assert_ne!(engine.epoch(), epoch);
    }
}

#[tokio::test]
async fn what_was_only_read_counts_as_seen_when_it_is_rolled_back() {
    let Some(mut server) = TestServer::start(&["--dbfilename", "dump.rdb"]).await else { return };
    let engine = server.open().await;
    let epoch = engine.epoch();
    let link = &inner(&engine).link;
    let mut session = link.session().await.unwrap();
    server.say("SAVE").await.unwrap();
    // A write whose acknowledgement the engine never heard of, but whose result it showed to a reader.
    let cmd = link.scripts.write(session.guard(), &[put(1, "a", "x")]);
    session.run(&link.scripts, &cmd).await.ok().unwrap();
    assert!(get(&engine, 1, "a").await.is_some());
    server.kill();
    server.restart().await;
    eventually("the engine reconnects", async || engine.get_many(&[]).await.is_ok()).await;
    assert_ne!(engine.epoch(), epoch);
}

#[tokio::test]
async fn a_node_that_died_keeps_its_epoch_if_the_server_lost_nothing_meanwhile() {
    // Whether the server restarts too, how it syncs, whether the node closed in order, and whether the epoch stays.
    let cases: [(&[&str], bool, bool, bool); 5] = [
        (&[], false, false, true),
        (&ALWAYS, true, false, true),
        (&EVERY_SECOND, true, false, false),
        (&EVERY_SECOND, true, true, true),
        (&[], true, true, false),
    ];
    for (args, restarts, closes, stays) in cases {
        let Some(mut server) = TestServer::start(args).await else { return };
        let engine = server.open().await;
        let epoch = engine.epoch();
        assert!(writes(&engine, "a").await);
        if closes {
            engine.close().await.unwrap()
        } else {
            drop(engine)
        }
        if restarts {
            server.kill();
            server.restart().await;
        }
        let (engine, warnings) = open(&server.config()).await.unwrap();
        assert_eq!(engine.epoch() == epoch, stays, "{args:?} {restarts} {closes}");
        let renewed = warnings.iter().any(|warning| warning.finding.contains("epoch was renewed"));
        assert_ne!(renewed, stays, "{warnings:?}");
    }
}

#[tokio::test]
async fn a_node_that_forgot_its_storage_gets_a_new_epoch() {
    let Some(server) = TestServer::start(&ALWAYS).await else { return };
    let engine = server.open().await;
    let epoch = engine.epoch();
    engine.close().await.unwrap();
    std::fs::remove_file(server.config().state_file).unwrap();
    assert_ne!(server.open().await.epoch(), epoch);
}

#[tokio::test]
async fn the_database_of_another_is_refused_and_databases_are_apart() {
    let Some(server) = TestServer::start(&[]).await else { return };
    let engine = server.open().await;
    assert!(writes(&engine, "a").await);
    let mut others = [identity("n2"), identity("n1"), identity("n1")];
    others[1].cluster = crate::types::ClusterName::new("other").unwrap();
    others[2].buckets = crate::types::Partitions::new(128).unwrap();
    for other in others {
        let error = Engine::open(&StoreConfig::Redis(server.config()), &other, &Env::real()).await.unwrap_err();
        assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
        assert!(error.to_string().contains("belongs to node n1 of cluster contract with 64 partitions"), "{error}");
    }
    let mut second = server.config();
    (second.database, second.state_file) = (Some(3), server.dir.path().join("second"));
    let (other, _) = Engine::open(&StoreConfig::Redis(second), &identity("n2"), &Env::real()).await.unwrap();
    assert_eq!(get(&other, 1, "a").await, None);
    assert!(writes(&other, "b").await && writes(&engine, "c").await);
    assert_eq!(get(&engine, 1, "b").await, None);
}

#[tokio::test]
async fn an_engine_whose_database_was_taken_over_stays_down() {
    let Some(server) = TestServer::start(&[]).await else { return };
    let first = server.open().await;
    assert!(writes(&first, "a").await);
    let second = server.open().await;
    for _ in 0..3 {
        let result = first.write(first.epoch(), vec![put(1, "b", "x")]).await;
        assert!(matches!(result, Err(StoreError::Unavailable(_))), "{result:?}");
    }
    assert!(matches!(first.health(), Health::Down { .. }));
    assert!(writes(&second, "c").await);
    assert_eq!(get(&second, 1, "b").await, None);
}

#[tokio::test]
async fn a_write_that_was_given_up_cannot_land_after_its_successors() {
    let Some(server) = TestServer::start(&[]).await else { return };
    let engine = server.open().await;
    let link = &inner(&engine).link;
    let mut old = link.session().await.unwrap();
    let late = link.scripts.write(old.guard(), &[put(1, "a", "late")]);
    link.end(&old);
    engine.write(engine.epoch(), vec![put(1, "a", "newer")]).await.unwrap();
    let answer = old.run(&link.scripts, &late).await.ok().unwrap();
    assert_eq!(read_reply(answer, |_| Some(())), Some(Reply::Stale));
    assert_eq!(get(&engine, 1, "a").await.as_deref(), Some(&b"newer"[..]));
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_loaded_again() {
    let Some(server) = TestServer::start(&[]).await else { return };
    let engine = server.open().await;
    assert!(writes(&engine, "a").await);
    server.say("SCRIPT FLUSH").await.unwrap();
    assert!(writes(&engine, "b").await);
    assert!(get(&engine, 1, "b").await.is_some());
}

#[tokio::test]
async fn a_full_server_reads_on_and_takes_writes_when_it_has_room() {
    let Some(server) = TestServer::start(&[]).await else { return };
    let engine = server.open().await;
    let epoch = engine.epoch();
    assert!(writes(&engine, "a").await);
    server.say("CONFIG SET maxmemory 1").await.unwrap();
    for reconnects in [false, true] {
        if reconnects {
            // A session that begins on a full server can only read.
            server.say("CLIENT KILL TYPE normal").await.ok();
            eventually("reads work", async || engine.get_many(&[slot(1, "a")]).await.is_ok()).await;
        }
        let result = engine.write(epoch, vec![put(1, "b", "x"), put(2, "b", "x")]).await;
        assert!(matches!(result, Err(StoreError::Full(_))), "{result:?}");
        assert!(get(&engine, 1, "a").await.is_some());
        assert!(matches!(engine.health(), Health::ReadOnly { .. }), "{:?}", engine.health());
    }
    server.say("CONFIG SET maxmemory 0").await.unwrap();
    eventually("the storage is well", async || looks_well(&engine).await).await;
    assert_eq!(engine.get_many(&[slot(1, "b"), slot(2, "b")]).await.unwrap(), vec![None, None]);
    assert!(writes(&engine, "b").await);
    assert_eq!(engine.epoch(), epoch);
}

#[tokio::test]
async fn a_server_that_became_a_replica_is_read_only() {
    let Some(server) = TestServer::start(&[]).await else { return };
    let engine = server.open().await;
    assert!(writes(&engine, "a").await);
    server.say(&format!("REPLICAOF 127.0.0.1 {}", free_port())).await.unwrap();
    let result = engine.write(engine.epoch(), vec![put(1, "b", "x")]).await;
    assert!(matches!(result, Err(StoreError::ReadOnly(_))), "{result:?}");
    assert!(get(&engine, 1, "a").await.is_some());
    let error = open(&server.config()).await.unwrap_err();
    assert!(matches!(error, OpenError::Unsuitable { .. }), "{error}");
    server.say("REPLICAOF NO ONE").await.unwrap();
    eventually("the storage is well", async || looks_well(&engine).await).await;
    assert!(writes(&engine, "b").await);
}

#[tokio::test]
async fn servers_that_evict_are_refused_and_noticed() {
    let Some(server) = TestServer::start(&["--maxmemory-policy", "allkeys-lru"]).await else { return };
    let error = open(&server.config()).await.unwrap_err();
    assert!(matches!(error, OpenError::Unsuitable { .. }), "{error}");
    assert!(error.to_string().contains("set maxmemory-policy to noeviction"), "{error}");
    server.say("CONFIG SET maxmemory-policy noeviction").await.unwrap();
    let engine = server.open().await;
    server.say("CONFIG SET maxmemory-policy volatile-lru").await.unwrap();
    inner(&engine).link.survey(&mut None).await;
    assert!(matches!(engine.health(), Health::LosingData { .. }), "{:?}", engine.health());
    server.say("CONFIG SET maxmemory-policy noeviction").await.unwrap();
    inner(&engine).link.survey(&mut None).await;
    assert_eq!(engine.health(), Health::Ok);
}

#[tokio::test]
async fn users_with_few_rights_suffice_and_wrong_passwords_get_a_remedy() {
    let port = free_port().to_string();
    let user = "--user node on >secret ~dm:* +@read +@write +@scripting +@connection +select +info +dbsize";
    // Before version 7, SELECT is not among the commands of @connection.
    let no_select = "--user poor on >secret ~dm:* +@all -select";
    let args = ["--port", &port, "--requirepass", "root"].into_iter();
    let args: Vec<_> = args.chain(user.split(' ')).chain(no_select.split(' ')).collect();
    let Some(server) = TestServer::start(&args).await else { return };
    let mut config = server.config();
    config.url = format!("redis://127.0.0.1:{port}/2");
    let error = open(&config).await.unwrap_err();
    assert!(error.to_string().contains("check the user name and password"), "{error}");
    (config.username, config.password) = (Some("node".into()), Some("wrong".into()));
    let error = open(&config).await.unwrap_err();
    assert!(error.to_string().contains("check the user name and password"), "{error}");
    assert!(!format!("{config:?}").contains("wrong"), "the password is shown");
    config.password = Some("secret".into());
    config.username = Some("poor".into());
    let error = open(&config).await.unwrap_err();
    assert!(error.to_string().contains("may use INFO, and SELECT"), "{error}");
    config.username = Some("node".into());
    let (engine, warnings) = open(&config).await.unwrap();
    assert!(warnings[0].to_string().contains("CONFIG GET"), "{warnings:?}");
    contract::check(&engine).await;
    config.url = format!("redis://node:secret@127.0.0.1:{port}/2");
    (config.username, config.password) = (None, None);
    drop(engine);
    assert!(writes(&open(&config).await.unwrap().0, "a").await);
    config.url = format!("redis://127.0.0.1:{}", free_port());
    config.connect_timeout = Duration::from_millis(500);
    let error = open(&config).await.unwrap_err();
    assert!(error.to_string().contains("check that the server runs"), "{error}");
}

#[tokio::test]
async fn a_server_behind_mutual_tls_is_reached() {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    // By default authority and server would have one name, and count as one certificate that signed itself.
    params.distinguished_name.push(rcgen::DnType::CommonName, "authority");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_pem = params.self_signed(&ca_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(params, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap().pem();
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str, text: &str| {
        let path = files.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (ca, cert, secret) = (path("ca", &ca_pem), path("cert", &certificate), path("key", &key.serialize_pem()));
    let port = free_port().to_string();
    let tls = ["--port", "0", "--tls-port", &port, "--tls-cert-file", &cert, "--tls-key-file", &secret];
    let Some(server) = TestServer::start(&[&tls[..], &["--tls-ca-cert-file", &ca]].concat()).await else { return };

    let mut config = server.config();
    config.url = format!("rediss://localhost:{port}");
    config.tls.ca = Some(ca_pem.into_bytes());
    assert!(open(&config).await.is_err(), "the server let in a client without a certificate");
    config.tls.identity = Some(RedisTlsIdentity { certificate: certificate.into(), key: key.serialize_pem().into() });
    assert!(writes(&open(&config).await.unwrap().0, "a").await);
    config.url = server.config().url;
    assert!(matches!(open(&config).await, Err(OpenError::Config(_))), "certificates without TLS were ignored");
}
