//! What a node reports: how it is, and who the members are as it sees them.

use crate::layout::Change;
use crate::meter::Distribution;
use crate::node::core::Core;
use crate::node::gossip;
use crate::node::meters::{Call, Kind};
use crate::node::ownership::tasks;
use crate::node::readiness;
use crate::node::sync;
use crate::store::{Health, StoreSize};
use crate::swim::StorageHealth;
use crate::view::ClusterView;
use crate::wire::gossip::MembersReport;
use crate::wire::rpc::ServeError;
use crate::wire::status::{ChangeStatus, LayoutStatus, NodeStatus};

/// How this node is, now.
pub(crate) async fn status(core: &Core) -> NodeStatus {
    let size = size(core).await.unwrap_or_default();
    let view = core.view();
    let (hints_for, hints_counted) = core.hints.report(core);
    NodeStatus {
        node: view.info().node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_s: core.started.elapsed().as_secs(),
        engine: core.engine.name().to_owned(),
        epoch: core.engine.epoch(),
        health: health(core),
        keys: size.keys,
        bytes: size.bytes,
        hints: core.hints.total(),
        peers: core.peers.status(&view),
        counters: core.meters.counters().map(|(name, _, count)| (name.to_owned(), count.get())).to_vec(),
        process: core.oversight.host.usage(),
        connections: u64::try_from(core.peers.endpoint().open_connections()).unwrap_or(u64::MAX),
        in_flight: core.meters.in_flight.get(),
        not_ready: readiness::obstacles(core),
        requests: used(Kind::ALL.map(|kind| (kind.label(), core.meters.requests(kind).read()))),
        gossip: match &core.gossip {
            Some(gossip) => gossip.summary().await,
            None => "off".to_owned(),
        },
        storage: used(Call::ALL.map(|call| (call.label(), core.meters.storage(call).read()))),
        sync: sync::status(core),
        hints_for,
        hints_counted,
        layout: layout(core),
    }
}

/// The members as this node sees them.
pub(crate) async fn members(core: &Core) -> Result<MembersReport, ServeError> {
    match &core.gossip {
        Some(gossip) => gossip.report(core).await,
        None => Ok(gossip::without_gossip(core)),
    }
}

/// Which layout this node works by, and what the change under way still asks of it.
pub(crate) fn layout(core: &Core) -> LayoutStatus {
    let view = core.view();
    let change = view.layout().next.as_ref().map(|next| ChangeStatus {
        since: next.since,
        stage: next.stage,
        what: view.layout().differences().iter().map(Change::describe).collect(),
        copies_left: tasks::copies_left(core),
    });
    LayoutStatus { version: view.version(), change, overruled: overruled(&view) }
}

/// What this node's configuration says of copies, and the layout says otherwise.
pub(crate) fn overruled(view: &ClusterView) -> Vec<String> {
    let tell = |(namespace, configured, n)| {
        format!(
            "the configuration says namespaces.{namespace}.n = {configured}; the cluster goes by {n}, so write that there"
        )
    };
    view.overruled().map(tell).collect()
}

/// Those that hold anything.
fn used<const N: usize>(distributions: [(&str, Distribution); N]) -> Vec<(String, Distribution)> {
    let used = distributions.into_iter().filter(|(_, held)| held.count() > 0);
    used.map(|(name, held)| (name.to_owned(), held)).collect()
}

/// How much the storage holds. `None` when it does not say in time.
pub(crate) async fn size(core: &Core) -> Option<StoreSize> {
    let engine = core.engine.clone();
    core.size.read(&core.rest, || async move { engine.size().await }).await
}

/// The grade of a storage's health, as it is spread and shown.
pub(crate) fn grade(health: &Health) -> StorageHealth {
    match health {
        Health::Ok => StorageHealth::Ok,
        Health::Slow { .. } => StorageHealth::Slow,
        Health::ReadOnly { .. } => StorageHealth::ReadOnly,
        Health::LosingData { .. } => StorageHealth::LosingData,
        Health::Down { .. } => StorageHealth::Down,
    }
}

fn health(core: &Core) -> String {
    let health = &core.engine.health();
    if let (StorageHealth::CatchingUp, Some(reason)) = (core.storage_grade(), core.past.catching_up()) {
        return format!("{}: {reason}", StorageHealth::CatchingUp.as_str());
    }
    let grade = grade(health).as_str();
    match health {
        Health::Ok => grade.to_owned(),
        Health::Slow { average } => format!("{grade}: {} ms a call", average.as_millis()),
        Health::ReadOnly { reason } | Health::LosingData { reason } | Health::Down { reason } => {
            format!("{grade}: {reason}")
        }
    }
}
