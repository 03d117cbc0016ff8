//! Nodes whose storage is full, or whose Redis dies, while a client is busy: the node stays a member and serves reads, the
//! client notices nothing, and all is well again by itself.

use std::fs::File;
use std::io::ErrorKind;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use dynamomini::client::Client;
use dynamomini::client::GetOptions;
use dynamomini::client::PutOptions;
use dynamomini::types::Consistency;
use dynamomini::wire::gossip::MemberState;
use tokio::time::sleep;

use crate::admin;
use crate::membership::held;
use crate::processes::Cluster;
use crate::processes::eventually;
use crate::processes::has_redis;
use crate::restart::say;
use crate::steady::Report;
use crate::steady::Steady;
use crate::steady::run;

/// The node whose storage fails, by number from 0, and its name.
const SICK: usize = 1;
const SICK_NAME: &str = "n2";
const LOAD: Steady = Steady { requests: 1_500, per_second: 150, keys: 200 };

/// No error, no wrong answer.
fn check(report: &Report) {
    assert_eq!(report.latencies.len(), LOAD.requests);
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    assert!(report.wrong.is_empty(), "{:?}", report.wrong);
    eprintln!("p99 {:?}, longest {:?}, due at {:?}", report.per_mille(990), report.longest.0, report.longest.1);
}

/// Whether all ways of asking say that the storage of the sick node is like this.
async fn shown(cluster: &Cluster, client: &Client, grade: &str, ready: bool) -> bool {
    let member = held(client, SICK_NAME).await;
    let told = member.is_some_and(|member| member.storage == grade && member.state == MemberState::Alive);
    let status = client.status(&cluster.name(SICK)).await;
    let said = status.is_ok_and(|status| status.health.starts_with(grade));
    let (code, text) = admin::get(cluster.text(SICK, "admin"), "/health/ready").await;
    told && said && (code == 200) == ready && (ready || text.contains("storage takes no writes"))
}

/// The sick node takes no writes, and goes on with everything else.
async fn is_read_only(cluster: &Cluster, watcher: &Client) {
    eventually("all know that it takes no writes", async || shown(cluster, watcher, "read-only", false).await).await;
    let through = cluster.pinned(SICK).await;
    let own = GetOptions { r: Some(Consistency::Count(1)), ..GetOptions::default() };
    let found = through.get_with("before", own).await.unwrap();
    assert_eq!(found.single().unwrap(), "value", "it reads no more");
    // Through it, too: it passes writes on to the others.
    through.put("through", "value", PutOptions::default()).await.unwrap();
    through.close().await;
    let kept = async || hints(cluster, watcher).await > 0;
    eventually("others keep for it what it misses", kept).await;
}

/// Hints that the well nodes keep.
async fn hints(cluster: &Cluster, client: &Client) -> u64 {
    let mut hints = 0;
    for node in (0..cluster.size()).filter(|node| *node != SICK) {
        // A busy machine may be late; it is asked again.
        hints += client.status(&cluster.name(node)).await.map_or(0, |status| status.hints);
    }
    hints
}

/// It is well by itself, and has all that it missed.
async fn is_well_again(cluster: &Cluster, watcher: &Client) {
    eventually("all know that it is well", async || shown(cluster, watcher, "ok", true).await).await;
    let client = cluster.pinned(SICK).await;
    let one = GetOptions { r: Some(Consistency::Count(1)), ..GetOptions::default() };
    for key in ["before", "through"] {
        // Asked for one replica, an owner answers from its own storage.
        let has = async || client.get_with(key, one.clone()).await.is_ok_and(|found| found.exists());
        eventually("it has what it missed", has).await;
    }
    eventually("no hint is left", async || {
        let mut all = true;
        for node in 0..cluster.size() {
            all &= watcher.status(&cluster.name(node)).await.is_ok_and(|status| status.hints == 0);
        }
        all
    })
    .await;
    client.close().await;
}

/// How to run a program with a small file system of its own at a folder; `None`, loudly, where that is not allowed.
fn small_disk(folder: &Path) -> Option<Vec<String>> {
    let mount = "mount -t tmpfs -o size=160m,mode=700 none \"$0\" && exec \"$@\"";
    for flags in ["-m", "-rm"] {
        let wrapper = ["unshare", flags, "--propagation", "private", "sh", "-c", mount];
        let folder = folder.display().to_string();
        let wrapper: Vec<String> = wrapper.map(str::to_owned).into_iter().chain([folder]).collect();
        let tried = Command::new(&wrapper[0]).args(&wrapper[1..]).arg("true").output();
        if tried.is_ok_and(|tried| tried.status.success()) {
            return Some(wrapper);
        }
    }
    eprintln!(
        "########## SKIPPED: unshare with a tmpfs of its own is not allowed here: a full disk was not tried ##########"
    );
    None
}

/// Fills a file system to its last page.
fn fill(file: &Path) {
    let mut file = File::create(file).unwrap();
    for step in [1 << 20, 4096, 64, 1] {
        let block = vec![0x5a; step];
        loop {
            match file.write(&block) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_a_client_nothing_and_is_over_when_there_is_room() {
    let mut cluster = Cluster::start(&["--nodes", "3"]).await;
    let data = PathBuf::from(cluster.text(SICK, "dir")).join("data");
    let Some(wrapper) = small_disk(&data) else { return };
    cluster.kill(SICK).await;
    let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    cluster.launch_behind(SICK, &wrapper);
    cluster.whole().await;
    let (client, watcher) = (cluster.client().await, cluster.pinned(0).await);
    client.put("before", "value", PutOptions { w: Some(Consistency::All), ..PutOptions::default() }).await.unwrap();
    let inside = format!("/proc/{}/root{}", cluster.launched(SICK), data.join("filler").display());
    let faults = async {
        sleep(Duration::from_secs(1)).await;
        fill(Path::new(&inside));
        is_read_only(&cluster, &watcher).await;
        std::fs::remove_file(&inside).unwrap();
        is_well_again(&cluster, &watcher).await;
    };
    let (report, ()) = tokio::join!(run(&client, LOAD, "key"), faults);
    check(&report);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_without_memory_costs_a_client_nothing_and_is_over_when_there_is_room() {
    if !has_redis() {
        return;
    }
    let cluster = Cluster::start(&["--nodes", "3", "--storage", "redis"]).await;
    let (client, watcher) = (cluster.client().await, cluster.pinned(0).await);
    client.put("before", "value", PutOptions { w: Some(Consistency::All), ..PutOptions::default() }).await.unwrap();
    let limit =
        |most: &str| assert!(say(&cluster, SICK, &format!("CONFIG SET maxmemory {most}")).unwrap().starts_with("+OK"));
    let faults = async {
        sleep(Duration::from_secs(1)).await;
        limit("1mb");
        is_read_only(&cluster, &watcher).await;
        limit("0");
        is_well_again(&cluster, &watcher).await;
    };
    let (report, ()) = tokio::join!(run(&client, LOAD, "key"), faults);
    check(&report);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_killed_and_started_again_under_load_costs_a_client_nothing() {
    if !has_redis() {
        return;
    }
    let mut cluster = Cluster::start(&["--nodes", "3", "--storage", "redis"]).await;
    let (client, watcher) = (cluster.client().await, cluster.pinned(0).await);
    for key in ["before", "through"] {
        client.put(key, "value", PutOptions { w: Some(Consistency::All), ..PutOptions::default() }).await.unwrap();
    }
    let faults = async {
        for _ in 0..2 {
            sleep(Duration::from_secs(1)).await;
            cluster.kill_redis(SICK).await;
            eventually("all know that it is down", async || {
                held(&watcher, SICK_NAME).await.is_some_and(|member| member.storage == "down")
            })
            .await;
            assert_eq!(held(&watcher, SICK_NAME).await.unwrap().state, MemberState::Alive, "it is no member any more");
            cluster.launch_redis(SICK);
            is_well_again(&cluster, &watcher).await;
        }
    };
    let (report, ()) = tokio::join!(run(&client, LOAD, "key"), faults);
    check(&report);
}
