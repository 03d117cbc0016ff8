//! `dynamomini repair`: compares replicas now, and shows how far that is.
//!
//! Nodes compare and repair by themselves all the time; this only puts it first, and can wait for it. What is compared
//! and how is the nodes' matter.

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::bail;
use futures_util::future::join_all;
use serde_json::Value;
use serde_json::json;
use tokio::time::Instant;
use tokio::time::sleep;

use crate::admin;
use crate::cli::Context;
use crate::cli::Said;
use crate::cli::connect::Connect;
use crate::cli::output;
use crate::cli::table::bytes;
use crate::cli::table::row;
use crate::cli::table::span;
use crate::cli::table::table;
use crate::cli::waiting::Waiting;
use crate::client::Client;
use crate::client::ClientError;
use crate::types::NodeName;
use crate::types::PartitionId;
use crate::wire::sync::PeerSync;
use crate::wire::sync::RepairProgress;
use crate::wire::sync::RepairRequest;
use crate::wire::sync::TreeAge;

/// How often progress is asked for.
const PAUSE: Duration = Duration::from_millis(500);

/// Arguments of `repair`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Nodes compare what they hold with each other all the time, least recently compared first, and repair what \
differs. This makes every comparison due at once; with --wait it ends when all have been made and nothing differs any \
more, or cannot be made equal because a node does not take over a record (its log says why). With --node, only that node's comparisons. VERIFIED counts comparisons of one partition with one other owner; \
OLDEST is the age of the least recent one. RECORDS and BYTES count exchanges that the node has begun since it started, in and \
out. Needs an administrator's certificate. Exit status 1 when a node does not answer, something cannot be made equal, or --within passes first.

Examples:
  dynamomini repair
  dynamomini repair --wait
  dynamomini repair --partition 17 --node n2 --wait --within 30s --json"
)]
pub(crate) struct Args {
    /// Only this partition (`dynamomini ring KEY` shows a key's).
    #[arg(long, value_name = "NUMBER")]
    partition: Option<u32>,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    connect: Connect,
}

/// A repair at one node.
struct Job {
    name: NodeName,
    last: Result<RepairProgress, ClientError>,
}

impl Job {
    /// Begins it.
    async fn begin(client: &Client, name: NodeName, partition: Option<PartitionId>) -> Self {
        let last = client.repair(&name, RepairRequest { partition, since_ms: None }).await;
        Self { name, last }
    }

    /// Asks how far it is; begins it where that has not succeeded yet.
    async fn look(&mut self, client: &Client, partition: Option<PartitionId>) {
        let since_ms = self.last.as_ref().ok().map(|progress| progress.since_ms);
        let next = client.repair(&self.name, RepairRequest { partition, since_ms }).await;
        // A node that does not answer for a moment has not forgotten when it began.
        if next.is_ok() || self.last.is_err() {
            self.last = next;
        }
    }

    /// Comparisons made, and those there are.
    fn counts(&self) -> (u64, u64) {
        let trees = self.last.iter().flat_map(|progress| &progress.trees);
        trees.fold((0, 0), |(done, all), tree| (done + u64::from(tree.done), all + u64::from(tree.peers)))
    }

    /// Comparisons of trees that cannot be made equal.
    fn refused(&self) -> u64 {
        self.last.iter().flat_map(|progress| &progress.trees).map(|tree| u64::from(tree.refused)).sum()
    }

    /// Whether there is nothing left to wait for.
    fn has_ended(&self) -> bool {
        let trees = self.last.iter().flat_map(|progress| &progress.trees);
        let left = trees.map(|tree| tree.peers.saturating_sub(tree.done).saturating_sub(tree.refused)).sum::<u32>();
        left == 0 && self.knows_all()
    }

    fn knows_all(&self) -> bool {
        self.last.as_ref().is_ok_and(|progress| progress.sync.known == progress.sync.partitions)
    }

    fn is_done(&self) -> bool {
        let (done, all) = self.counts();
        done == all && self.knows_all()
    }
}

impl Args {
    /// Asks, waits if told to, and prints.
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let Self { partition, waiting: Waiting { wait, within }, connect } = self;
        let only = connect.node().cloned();
        let (jobs, took) = connect.run(context, async |client, _| {
            let began = Instant::now();
            let view = client.view();
            let count = view.partitions().count();
            if let Some(number) = partition.filter(|number| *number >= count) {
                bail!("there is no partition {number}: there are {count}, from 0");
            }
            let partition = partition.map(|number| view.partitions().nth(number));
            let names = view.info().members.iter().map(|member| member.name.clone());
            let names = names.filter(|name| only.as_ref().is_none_or(|only| only == name));
            let mut jobs = join_all(names.map(|name| Job::begin(client, name, partition))).await;
            if wait {
                wait_for(client, partition, &mut jobs, within.map(|within| began + within)).await;
            }
            Ok((jobs, began.elapsed()))
        })?;
        let done = jobs.iter().all(Job::is_done);
        let nodes: Vec<Value> = jobs.iter().map(object).collect();
        let value = json!({"done": done, "took_ms": u64::try_from(took.as_millis())?, "nodes": nodes});
        context.output.print(&value, |_| text(&jobs))?;
        let silent = jobs.iter().filter(|job| job.last.is_err()).count();
        match (silent, wait && !done) {
            (0, false) => Ok(()),
            _ if context.output.is_json() => Err(Said.into()),
            (0, true) if jobs.iter().all(Job::has_ended) => bail!(
                "{} comparisons cannot be made equal: one of the two nodes does not take over records of the other; \
                 their logs say which partitions, and why",
                jobs.iter().map(Job::refused).sum::<u64>()
            ),
            (0, true) => bail!("not all comparisons were made in time: a node may be down, or much has to be repaired"),
            _ => bail!("{silent} of {} nodes did not answer", jobs.len()),
        }
    }
}

async fn wait_for(client: &Client, partition: Option<PartitionId>, jobs: &mut [Job], until: Option<Instant>) {
    let shows = std::io::stderr().is_terminal();
    while !jobs.iter().all(Job::has_ended) && until.is_none_or(|until| Instant::now() < until) {
        sleep(PAUSE).await;
        join_all(jobs.iter_mut().filter(|job| !job.has_ended()).map(|job| job.look(client, partition))).await;
        if shows {
            let (done, all) = jobs.iter().map(Job::counts).fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
            output::progress(&format!("{done} of {all} comparisons made"));
        }
    }
    if shows {
        output::progress("");
    }
}

fn text(jobs: &[Job]) -> String {
    let mut rows = vec![row(["NODE", "PEER", "VERIFIED", "OLDEST", "RECORDS IN", "OUT", "BYTES IN", "OUT"])];
    let mut troubles = String::new();
    for job in jobs {
        let progress = match &job.last {
            Ok(progress) => progress,
            Err(error) => {
                troubles.push_str(&format!("{}: {error}\n", job.name));
                continue;
            }
        };
        rows.extend(progress.sync.peers.iter().map(|peer| line(&job.name, peer)));
        let (done, all) = job.counts();
        if job.refused() > 0 {
            let refused = job.refused();
            troubles.push_str(&format!("{}: {refused} comparisons cannot be made equal\n", job.name));
        }
        if done < all {
            troubles.push_str(&format!("{}: {done} of {all} comparisons made since it was asked\n", job.name));
        }
        let (known, all) = (progress.sync.known, progress.sync.partitions);
        if known < all {
            troubles.push_str(&format!("{}: has read {known} of its {all} partitions so far\n", job.name));
        }
    }
    let gap = if troubles.is_empty() { "" } else { "\n" };
    format!("{}{gap}{troubles}", table(&rows))
}

fn line(node: &NodeName, peer: &PeerSync) -> Vec<String> {
    row([
        node.as_str(),
        peer.name.as_str(),
        &format!("{}/{}", peer.verified, peer.trees),
        &peer.oldest_ms.map_or_else(|| "-".to_owned(), |age| span(Duration::from_millis(age))),
        &peer.records_in.to_string(),
        &peer.records_out.to_string(),
        &bytes(peer.bytes_in),
        &bytes(peer.bytes_out),
    ])
}

fn object(job: &Job) -> Value {
    match &job.last {
        Ok(progress) => json!({
            "id": job.name.as_str(),
            "done": job.is_done(),
            "sync": admin::sync(&progress.sync),
            "partitions": progress.trees.iter().map(tree).collect::<Vec<_>>(),
        }),
        Err(error) => json!({"id": job.name.as_str(), "done": false, "error": error.to_string()}),
    }
}

fn tree(age: &TreeAge) -> Value {
    json!({
        "partition": age.tree.partition.number(), "copies": age.tree.copies.next, "peers": age.peers, "done": age.done, "refused": age.refused,
        "age_ms": age.age_ms,
    })
}
