//! Certificates that are replaced while nodes run: taken up on a signal, known to all, and no request fails.

use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use dynamomini::client::Client;
use dynamomini::client::PutOptions;
use dynamomini::net::TlsMaterial;
use rustix::process::Signal;

use crate::processes::Cluster;
use crate::processes::complaint;
use crate::processes::eventually;
use crate::processes::run;
use crate::processes::send;

fn log(cluster: &Cluster, node: usize) -> String {
    std::fs::read_to_string(PathBuf::from(cluster.text(node, "dir")).join("node.log")).unwrap()
}

fn file(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.dir().join("certs").join(name)
}

async fn renew(cert: &Path) {
    let output = run(&[
        "certs",
        "--dir",
        cert.parent().unwrap().to_str().unwrap(),
        "renew",
        cert.to_str().unwrap(),
        "--days",
        "30",
    ])
    .await;
    assert!(output.status.success(), "{}", complaint(&output));
}

/// When a member's certificate expires, as another node has heard.
async fn expiry(client: &Client, name: &str) -> Option<u64> {
    let report = client.members().await.ok()?;
    let member = report.members.into_iter().find(|member| member.name.as_str() == name)?;
    (member.certificate_expires_s > 0).then_some(member.certificate_expires_s)
}

async fn said(cluster: &Cluster, node: usize, what: &str, times: usize) {
    let what_for = format!("the log has {times} times: {what}");
    eventually(&what_for, async || log(cluster, node).matches(what).count() >= times).await;
}

/// Renews the second node's certificate, then puts in its place what cannot be used. Returns when the new one expires.
async fn replace(cluster: &Cluster) -> Option<u64> {
    let (pid, cert) = (cluster.pid(1, "pid"), file(cluster, "n2.crt"));
    let seen = cluster.pinned(0).await;
    eventually("all have met", async || expiry(&seen, "n2").await.is_some()).await;
    let before = expiry(&seen, "n2").await.unwrap();
    renew(&cert).await;
    send(pid, Signal::HUP);
    said(cluster, 1, "certificates taken up", 1).await;
    eventually("others know the new one", async || expiry(&seen, "n2").await.is_some_and(|now| now < before)).await;
    let renewed = expiry(&seen, "n2").await;

    // Of another node, and none at all: each is said once, and the new one stays.
    let good = std::fs::read(&cert).unwrap();
    let (key, other) =
        (file(cluster, "n2.key"), ["n3.crt", "n3.key"].map(|name| std::fs::read(file(cluster, name)).unwrap()));
    let own_key = std::fs::read(&key).unwrap();
    std::fs::write(&cert, &other[0]).unwrap();
    std::fs::write(&key, &other[1]).unwrap();
    send(pid, Signal::HUP);
    said(cluster, 1, "this is node n2", 1).await;
    std::fs::write(&key, &own_key).unwrap();
    std::fs::write(&cert, "no certificate").unwrap();
    send(pid, Signal::HUP);
    said(cluster, 1, "not taken up", 2).await;
    assert_eq!(expiry(&seen, "n2").await, renewed, "the one in use stays in use");
    std::fs::write(&cert, &good).unwrap();
    send(pid, Signal::HUP);
    said(cluster, 1, "certificates taken up", 2).await;
    renewed
}

#[tokio::test]
async fn certificates_are_renewed_while_the_cluster_runs_and_no_request_fails() {
    let mut cluster = Cluster::start(&["--nodes", "3", "--storage", "memory"]).await;
    cluster.whole().await;
    let client = cluster.client().await;
    let (done, client_files) = (AtomicBool::new(false), cluster.admin());
    let load = async {
        let mut puts = 0_u32;
        while !done.load(Ordering::Relaxed) {
            client.put(format!("k{}", puts % 100), "v", PutOptions::default()).await.unwrap();
            puts += 1;
            if puts == 20 {
                // A client outlives its certificate in the same way.
                renew(&client_files.cert).await;
                client.renew(&TlsMaterial::load(&client_files).unwrap()).unwrap();
            }
        }
        puts
    };
    let change = async {
        let renewed = replace(&cluster).await;
        done.store(true, Ordering::Relaxed);
        renewed
    };
    let (puts, renewed) = tokio::join!(load, change);
    assert!(puts > 20, "only {puts} puts were made meanwhile");
    // Somebody who starts now has nothing but new connections to it.
    cluster.kill(2).await;
    cluster.launch(2);
    cluster.whole().await;
    let fresh = cluster.pinned(2).await;
    eventually("the restarted node accepts it, too", async || expiry(&fresh, "n2").await == renewed).await;
}
