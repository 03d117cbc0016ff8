//! `dynamomini bench` itself: connects, measures, reports.

use std::io::IsTerminal;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use anyhow::bail;
use bytes::Bytes;
use futures_util::future::join_all;

use crate::cli::Context;
use crate::cli::Said;
use crate::cli::bench::attempts::Attempts;
use crate::cli::bench::cluster::ClusterTarget;
use crate::cli::bench::contexts::Contexts;
use crate::cli::bench::measure::News;
use crate::cli::bench::measure::Point;
use crate::cli::bench::measure::measure;
use crate::cli::bench::mix::Kind;
use crate::cli::bench::plot;
use crate::cli::bench::processes;
use crate::cli::bench::report::Asked;
use crate::cli::bench::report::Report;
use crate::cli::bench::report::Watched;
use crate::cli::bench::schedule::Plan;
use crate::cli::bench::tally::walk;
use crate::cli::bench::workload::Workload;
use crate::cli::connect::Access;
use crate::cli::connect::Connect;
use crate::cli::output;
use crate::client::Client;
use crate::client::ClientError;
use crate::client::Found;
use crate::client::GetOptions;
use crate::client::Hedging;
use crate::limits;
use crate::types::ConflictPolicy;

/// Batches of keys that are read at once before a run.
const READ_AT_ONCE: usize = 8;

/// What to run.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) workload: Workload,
    pub(super) plan: Plan,
    pub(super) clients: usize,
    /// Writes carry no contexts.
    pub(super) blind: bool,
    /// Clients ask a second node when one is slow.
    pub(super) hedging: bool,
    pub(super) plot: Option<PathBuf>,
}

/// Measures and reports.
pub(super) fn run(context: &Context, connect: Connect, mut job: Job) -> anyhow::Result<()> {
    let access = connect.prepare(context)?;
    job.plan.patience = access.config.timeout;
    let report = context.block_on(None, load(context, &access, &job))?;
    context.output.print(&report, Report::text)?;
    match report.shortfall() {
        (0, 0) => Ok(()),
        _ if context.output.is_json() => Err(Said.into()),
        (0, not_begun) => bail!("{not_begun} operations were not begun"),
        (errors, _) => bail!("{errors} operations failed"),
    }
}

async fn load(context: &Context, access: &Access, job: &Job) -> anyhow::Result<Report> {
    let clients = connect_all(access, job).await?;
    let contexts = keeps_siblings(access, &clients).then(Arc::<Contexts>::default).filter(|_| !job.blind);
    let target = |client: &Client| ClusterTarget {
        client: client.clone(),
        r: access.config.r,
        w: access.config.w,
        contexts: contexts.clone(),
    };
    if let (Some(contexts), Some(client)) = (&contexts, clients.first()) {
        learn(access, client, &job.workload, contexts).await;
    }
    let nodes = access.file.as_deref().map(processes::of_cluster).unwrap_or_default();
    let own = processes::own();
    let (mut watched, mut sent) = (Watched::default(), Attempts::default());
    let shows_progress = std::io::stderr().is_terminal();
    let tell = |news: News<'_>| match news {
        News::Measuring => (watched, sent) = (Watched::begin(&nodes, own.as_ref()), Attempts::of(&clients)),
        News::Point(point) if shows_progress => output::progress(&progress(point)),
        News::Point(_) => {}
    };
    let scope = context.env.child();
    let targets = clients.iter().map(target).collect();
    let measured = measure(&scope, targets, &job.workload, job.plan, true, interrupted(), tell).await;
    if shows_progress {
        output::progress("");
    }
    let measured = measured?;
    let refused = contexts.as_ref().map_or(0, |contexts| contexts.refused());
    let asked = asked(access, job, contexts.is_some());
    let title = format!("{}, {}, {} in flight", asked.mix, asked.distribution, asked.in_flight);
    let report = Report::new(asked, &measured, &watched, (refused, Attempts::of(&clients).since(sent)));
    join_all(clients.into_iter().map(Client::close)).await;
    if let Some(file) = &job.plot {
        let written = std::fs::write(file, plot::svg(&title, &measured.points));
        written.with_context(|| format!("{} cannot be written", file.display()))?;
    }
    Ok(report)
}

/// Reads the keys that will be written, so that the first write of each replaces what is there. A key that cannot be
/// read is left to the run.
async fn learn(access: &Access, client: &Client, workload: &Workload, contexts: &Contexts) {
    if !workload.mix.has(Kind::Put) {
        return;
    }
    let keys = workload.keys.min(u64::try_from(limits::BENCH_CONTEXTS_MAX).unwrap_or(u64::MAX));
    let read = async |range: Range<u64>| {
        let keys: Vec<Bytes> = range.clone().map(|number| workload.data.key(number)).collect();
        let options = GetOptions { r: access.config.r, ..GetOptions::default() };
        range.zip(client.multi_get(&keys, options).await).collect::<Vec<_>>()
    };
    let take = |batch: Vec<(u64, Result<Found, ClientError>)>| {
        for (number, found) in batch.into_iter().filter_map(|(number, found)| Some((number, found.ok()?))) {
            contexts.read(number, &found.context);
        }
    };
    walk(&workload.data, keys, READ_AT_ONCE, "read", read, take).await;
}

async fn connect_all(access: &Access, job: &Job) -> anyhow::Result<Vec<Client>> {
    let mut clients = Vec::with_capacity(job.clients);
    for _ in 0..job.clients {
        clients.push(access.connect_with(job.hedging.then(Hedging::default)).await?);
    }
    Ok(clients)
}

/// Whether the clients' namespace keeps concurrent writes, so that a write has to say what it replaces.
fn keeps_siblings(access: &Access, clients: &[Client]) -> bool {
    clients.first().is_some_and(|client| {
        let view = client.view();
        let mut policies = view.info().namespaces.iter();
        let own = policies.find(|(name, _)| *name == access.config.namespace);
        own.is_none_or(|(_, policy)| policy.conflict == ConflictPolicy::Siblings)
    })
}

fn asked(access: &Access, job: &Job, contexts: bool) -> Asked {
    let Workload { data, mix, popularity, keys, .. } = &job.workload;
    Asked {
        mix: mix.to_string(),
        distribution: popularity.to_string(),
        keys: *keys,
        key_size: data.key_sizes.to_string(),
        value_size: data.value_sizes.to_string(),
        clients: job.clients,
        in_flight: job.plan.in_flight,
        rate: job.plan.rate,
        seed: data.seed,
        namespace: access.config.namespace.to_string(),
        r: access.config.r.map(|r| r.to_string()),
        w: access.config.w.map(|w| w.to_string()),
        contexts,
        hedging: job.hedging,
    }
}

/// Completes at ^C.
pub(super) async fn interrupted() {
    if let Err(error) = tokio::signal::ctrl_c().await {
        tracing::warn!(%error, "^C will end this without a report");
        std::future::pending::<()>().await;
    }
}

fn progress(point: &Point) -> String {
    let Point { at_s, per_second, errors, p50_ms, p99_ms, max_ms } = point;
    let ms = |ms: &Option<f64>| ms.map_or("-".to_owned(), |ms| format!("{ms:.1}"));
    format!(
        "{at_s:6.1} s  {per_second:8.0}/s  p50 {} ms  p99 {} ms  max {} ms  {errors} errors",
        ms(p50_ms),
        ms(p99_ms),
        ms(max_ms)
    )
}
