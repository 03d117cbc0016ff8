//! Waiting until every node serves and sees every other one, by asking each as a client does.

use std::time::Duration;

use anyhow::Context as _;
use tokio::time::sleep;

use crate::client::Client;
use crate::net::TlsFiles;
use crate::net::TlsMaterial;
use crate::net::link::LinkSettings;
use crate::types::NodeName;
use crate::wire::rpc::NodeStatus;

/// How long the nodes may take; a large storage that has to be walked after a crash takes its time.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
/// Pause between questions.
const PAUSE: Duration = Duration::from_millis(30);

/// Waits until all nodes serve.
///
/// # Errors
/// When the client's own files cannot be used.
pub(super) async fn wait(files: &TlsFiles, nodes: &[(NodeName, String)]) -> anyhow::Result<()> {
    // These nodes are near: another attempt soon is better than a patient one.
    let links = LinkSettings {
        connect_timeout: Duration::from_millis(500),
        backoff_min: Duration::from_millis(20),
        backoff_max: Duration::from_millis(100),
        ..LinkSettings::default()
    };
    let mut builder = Client::builder(TlsMaterial::load(files)?).links(links).timeout(PATIENCE);
    for (_, quic) in nodes {
        builder = builder.node(quic);
    }
    let client = builder.connect().await.context("no node of the new cluster answers")?;
    for (name, _) in nodes {
        while !client.status(name).await.is_ok_and(|status| is_joined(&status)) {
            sleep(PAUSE).await;
        }
    }
    client.close().await;
    Ok(())
}

fn is_joined(status: &NodeStatus) -> bool {
    status.peers.iter().all(|peer| peer.state == "up")
}
