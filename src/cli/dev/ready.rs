//! Waiting until every node serves and sees every other one, by asking each as a client does.

use std::time::Duration;

use anyhow::Context as _;
use tokio::time::sleep;

use crate::client::Client;
use crate::net::TlsFiles;
use crate::net::TlsMaterial;
use crate::net::link::LinkSettings;
use crate::types::NodeName;
use crate::wire::status::NodeStatus;

/// How long the nodes may take; a large storage that has to be walked after a crash takes its time.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
/// Pause between questions.
const PAUSE: Duration = Duration::from_millis(30);

/// A client of these nodes.
///
/// # Errors
/// When its files cannot be used, or no node answers.
pub(super) async fn client<'a>(
    files: &TlsFiles,
    nodes: impl Iterator<Item = &'a str>,
    patience: Duration,
) -> anyhow::Result<Client> {
    // These nodes are near: another attempt soon is better than a patient one.
    let links = LinkSettings {
        connect_timeout: Duration::from_millis(500),
        backoff_min: Duration::from_millis(20),
        backoff_max: Duration::from_millis(100),
        ..LinkSettings::default()
    };
    let builder = Client::builder(TlsMaterial::load(files)?).links(links).timeout(patience);
    nodes.fold(builder, |builder, quic| builder.node(quic)).connect().await.context("no node of the cluster answers")
}

/// Waits until all nodes serve.
///
/// # Errors
/// When the client's own files cannot be used.
pub(super) async fn wait(files: &TlsFiles, nodes: &[(NodeName, String)]) -> anyhow::Result<()> {
    let client = client(files, nodes.iter().map(|(_, quic)| quic.as_str()), PATIENCE).await?;
    for (name, _) in nodes {
        while is_member(&client, name) && !client.status(name).await.is_ok_and(|status| is_joined(&status)) {
            sleep(PAUSE).await;
        }
    }
    client.close().await;
    Ok(())
}

/// Whether a node has a share of the data; one that left, or waits to be let in, is asked for nothing.
fn is_member(client: &Client, name: &NodeName) -> bool {
    client.view().info().members.iter().any(|member| member.name == *name)
}

fn is_joined(status: &NodeStatus) -> bool {
    status.peers.iter().all(|peer| peer.state == "up")
}
