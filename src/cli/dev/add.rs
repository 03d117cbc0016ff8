//! `dynamomini dev add`: asks the running `dev` for one more node, and waits until it has its share of the data.

use std::fs;
use std::io::IsTerminal;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::anyhow;
use anyhow::bail;
use serde_json::json;
use tokio::time::Instant;
use tokio::time::sleep;

use crate::cli::Context;
use crate::cli::cluster;
use crate::cli::dev::adopt;
use crate::cli::dev::adopt::Answer;
use crate::cli::dev::files;
use crate::cli::dev::files::ClusterFile;
use crate::cli::dev::files::NodeEntry;
use crate::cli::dev::folder;
use crate::cli::dev::folder::Added;
use crate::cli::dev::layout::Layout;
use crate::cli::dev::ready;
use crate::cli::lock::Lock;
use crate::cli::lock::Locked;
use crate::cli::output;
use crate::client::Client;
use crate::config::client::DEV_CLIENT_FILE;
use crate::layout::Change;
use crate::layout::Role;
use crate::limits;
use crate::types::Zone;
use crate::wire::gossip::MemberState;
use crate::wire::gossip::MemberStatus;

/// How long the running `dev` may take to answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);
/// How long the new node may take to be heard of.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait for one node's answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Arguments of `dev add`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The node is a process of the running `dev`, which ends it with the others; started again, `dev` starts it, too. It \
asks for its share of the data by itself, and this waits until it has it; with --approve it owns nothing until `dynamomini \
cluster join` or `replace`.

Examples:
  dynamomini dev add
  dynamomini dev add --zone z2 --weight 200
  dynamomini dev add --approve && dynamomini cluster replace n2 n4"
)]
pub(super) struct Args {
    /// The folder of the running cluster.
    #[arg(long, value_name = "FOLDER", default_value = ".dynamomini")]
    dir: PathBuf,
    /// Its failure zone; by default the next in turn.
    #[arg(long)]
    zone: Option<Zone>,
    /// Its share of the data against the others, 100 by default.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::WEIGHT_MAX)))]
    weight: Option<u32>,
    /// Let it own nothing until an administrator says so.
    #[arg(long)]
    approve: bool,
    /// Return once it runs, without waiting for its share.
    #[arg(long)]
    no_wait: bool,
}

impl Args {
    /// Asks, waits, prints.
    pub(super) fn run(self, context: &Context) -> anyhow::Result<()> {
        context.log_for_people()?;
        let shown = self.dir.display().to_string();
        let root = fs::canonicalize(&self.dir).with_context(|| format!("no cluster in {shown}"))?;
        let layout = Layout { root };
        context.block_on(Some(1), self.add(context, &layout))
    }

    async fn add(&self, context: &Context, layout: &Layout) -> anyhow::Result<()> {
        check_running(layout)?;
        let entry = self.ask(layout).await?;
        let text = fs::read_to_string(layout.cluster_json()).context("cluster.json")?;
        let file: ClusterFile = serde_json::from_str(&text).context("cluster.json")?;
        let identity = files::admin(layout);
        let client = ready::client(&identity, file.nodes.iter().map(|node| node.quic.as_str()), PATIENCE).await?;
        let owns = self.wait(&client, &entry).await;
        client.close().await;
        let owns = owns?;
        context.output.print(&json!({"node": entry, "owns": owns}), |_| self.text(&entry, layout, owns))
    }

    /// Has the running `dev` start it.
    async fn ask(&self, layout: &Layout) -> anyhow::Result<NodeEntry> {
        let _alone = Lock::take(&layout.add_lock()).map_err(|locked| match locked {
            Locked::By(pid) => anyhow!("another `dynamomini dev add` is under way (pid {pid}): wait for it"),
            Locked::Unusable(error) => anyhow!("the folder cannot be locked: {error}"),
        })?;
        folder::remove(&layout.add_answer())?;
        let zone = self.zone.as_ref().map(ToString::to_string);
        let wanted = Added { zone, weight: self.weight, approve: self.approve };
        folder::write_whole(&layout.add_request(), &serde_json::to_string(&wanted)?)?;
        let give_up = Instant::now() + ANSWER_PATIENCE;
        while Instant::now() < give_up {
            if let Ok(text) = fs::read_to_string(layout.add_answer()) {
                folder::remove(&layout.add_answer())?;
                return match serde_json::from_str(&text)? {
                    Answer::Started(entry) => Ok(entry),
                    Answer::Refused(why) => bail!("{why}"),
                };
            }
            check_running(layout)?;
            sleep(adopt::PAUSE).await;
        }
        bail!("the running `dynamomini dev` did not answer within {} s", ANSWER_PATIENCE.as_secs())
    }

    /// Waits until the node is heard of, and has its share if it is to have one. Returns whether it has.
    async fn wait(&self, client: &Client, entry: &NodeEntry) -> anyhow::Result<bool> {
        if self.no_wait {
            return Ok(false);
        }
        let log = entry.dir.join("node.log");
        let give_up = Instant::now() + START_PATIENCE;
        let shows = std::io::stderr().is_terminal();
        loop {
            if Instant::now() >= give_up {
                bail!("{} was started and is not heard of: see {}", entry.id, log.display());
            }
            if shows {
                output::progress(&format!("waiting for {} to find the cluster", entry.id));
            }
            if self.approve {
                let report = client.members().await?;
                let is_new = |member: &MemberStatus| member.name == entry.id && member.state == MemberState::Alive;
                if report.members.iter().any(is_new) {
                    return Ok(false);
                }
            } else if let Some((change, version)) = self.joining(client, entry).await? {
                return cluster::wait(client, &change, version, None).await?.text().map(|_| true);
            }
            sleep(adopt::PAUSE).await;
        }
    }

    /// The change by which the node gets its share, once it has asked for it, and the version that it was found in.
    async fn joining(&self, client: &Client, entry: &NodeEntry) -> anyhow::Result<Option<(Change, u64)>> {
        let view = client.refresh().await?;
        let layout = view.layout();
        let role: Option<&Role> = layout.members().remove(&entry.id);
        let join = |role: &Role| Change::Join {
            name: entry.id.clone(),
            quic: role.quic.clone(),
            zone: role.zone.clone(),
            weight: role.weight,
        };
        Ok(role.map(|role| (join(role), layout.version)))
    }

    fn text(&self, entry: &NodeEntry, layout: &Layout, owns: bool) -> String {
        let NodeEntry { id, pid, quic, config, .. } = entry;
        let is_default = Some(self.dir.as_path()) == Path::new(DEV_CLIENT_FILE).parent();
        let client = if is_default { String::new() } else { format!(" --config {}", layout.client_config().display()) };
        let mut text = format!("added {id}: pid {pid}, {quic}, {}\n", config.display()).replace("\\\n", "\n");
        text.push_str(match (owns, self.approve) {
            (true, _) => "it has its share of the data\n\n",
            (false, true) => "it owns nothing yet\n\n",
            (false, false) => "it asks for its share of the data by itself\n\n",
        });
        if self.approve {
            text.push_str(&format!("  dynamomini cluster join {id}{client}           # give it its share\n"));
            text.push_str(&format!(
                "  dynamomini cluster replace OLD {id}{client}    # let it take the place of one that is gone\n"
            ));
        } else {
            text.push_str(&format!("  dynamomini ring{client}                # who owns how much now\n"));
            text.push_str(&format!("  dynamomini tasks list{client}          # what is still being done\n"));
            text.push_str(&format!("  dynamomini cluster leave {id}{client}  # let it hand its share over again\n"));
        }
        text
    }
}

/// Fails when no `dev` runs in the folder.
fn check_running(layout: &Layout) -> anyhow::Result<()> {
    if !layout.cluster_json().exists() {
        bail!("no cluster runs in {}: start it with `dynamomini dev`", layout.root.display());
    }
    match Lock::take(&layout.dev_lock()) {
        Err(Locked::By(_)) => Ok(()),
        Err(Locked::Unusable(error)) => bail!("{}: {error}", layout.dev_lock().display()),
        Ok(_) => bail!("`dynamomini dev` does not run in {}: start it there", layout.root.display()),
    }
}
