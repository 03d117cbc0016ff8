//! `dynamomini ring`: who owns a key, and how evenly keys are spread.

use std::collections::BTreeMap;

use anyhow::Context as _;
use futures_util::future::join_all;
use serde_json::Value;
use serde_json::json;

use crate::cli::Context;
use crate::cli::connect::Connect;
use crate::cli::connect::KeyForm;
use crate::cli::table::row;
use crate::cli::table::span;
use crate::cli::table::table;
use crate::client::Client;
use crate::layout::Stage;
use crate::ring::Balance;
use crate::ring::NodeLoad;
use crate::ring::Ring;
use crate::types::Namespace;
use crate::types::NamespacePolicy;
use crate::types::NodeId;
use crate::types::NodeName;
use crate::types::Zone;
use crate::view::ClusterView;

/// Arguments of `ring`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "With a key: its partition, its owners in the order of preference, and who stands in for those that do \
not answer; each is asked whether it is up. While owners change, writes also go to the next owners, or, once reads ask these, to \
the former ones. Without: what each node and zone owns against what it ought to, for each \
replica count in use.

Examples:
  dynamomini ring cart:7
  dynamomini ring --namespace orders cart:7 --json | jq -r '.owners[].id'
  dynamomini ring"
)]
pub(crate) struct Args {
    /// The key.
    key: Option<String>,
    #[command(flatten)]
    form: KeyForm,
    #[command(flatten)]
    connect: Connect,
}

impl Args {
    /// Works out and prints.
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let Some(name) = self.key else {
            return self.connect.run(context, async |client, _| {
                let view = client.view();
                context.output.print(&balance_object(&view), |_| balance_text(&view))
            });
        };
        let key = self.form.read(&name)?;
        self.connect.run(context, async |client, config| {
            let owners = Owners::find(client, &config.namespace, &key).await?;
            context.output.print(&owners.object(&name), |_| owners.text(&name))
        })
    }
}

/// Who is responsible for one key.
struct Owners {
    namespace: Namespace,
    policy: NamespacePolicy,
    position: u64,
    partition: u32,
    owners: Vec<Place>,
    /// While owners change: those that will be, or, once reads ask these, those that were.
    others: Vec<Place>,
    /// Whether reads ask the next owners already.
    reads_next: bool,
    stand_ins: Vec<Place>,
}

/// A node of a list.
struct Place {
    name: String,
    zone: String,
    quic: String,
    /// Whether it answered; otherwise why not.
    state: Result<(), String>,
}

impl Owners {
    async fn find(client: &Client, namespace: &Namespace, key: &[u8]) -> anyhow::Result<Self> {
        let view = client.view();
        let known = || {
            let names: Vec<String> = view.namespaces().map(|(name, _)| name.to_string()).collect();
            format!("there is no namespace {namespace}: this cluster has {}", names.join(", "))
        };
        let policy = view.policy(namespace).with_context(known)?.clone();
        let copies = view.copies(namespace).with_context(known)?;
        let ring = view.ring(copies).context("the cluster's view lacks a ring, please report")?;
        let (position, partition) = view.place(namespace, key);
        let owners = ring.preference_list(partition).to_vec();
        // As many as there are owners suffice even when all of them are down.
        let stand_ins = ring.stand_ins(partition).into_iter().take(owners.len()).collect();
        let others = view.other_owners(copies, partition).to_vec();
        let (owners, stand_ins) = (places(client, &view, owners).await, places(client, &view, stand_ins).await);
        let (others, reads_next) = (places(client, &view, others).await, view.layout().stage() == Some(Stage::Reading));
        Ok(Self {
            namespace: namespace.clone(),
            policy,
            position,
            partition: partition.number(),
            owners,
            others,
            reads_next,
            stand_ins,
        })
    }

    fn object(&self, key: &str) -> Value {
        let list = |places: &[Place]| places.iter().map(Place::object).collect::<Vec<_>>();
        json!({
            "key": key,
            "namespace": self.namespace.as_str(),
            "partition": self.partition,
            "position": format!("{:016x}", self.position),
            "n": self.policy.n,
            "r": self.policy.r.to_string(),
            "w": self.policy.w.to_string(),
            "owners": list(&self.owners),
            "next_owners": list(if self.reads_next { &[] } else { &self.others }),
            "former_owners": list(if self.reads_next { &self.others } else { &[] }),
            "stand_ins": list(&self.stand_ins),
        })
    }

    fn text(&self, key: &str) -> String {
        let NamespacePolicy { n, r, w, .. } = &self.policy;
        let mut rows = vec![row(["ROLE", "NODE", "ZONE", "ADDRESS", "STATE"])];
        rows.extend(self.owners.iter().enumerate().map(|(at, place)| place.row(&format!("owner {}", at + 1))));
        let other = if self.reads_next { "former owner" } else { "next owner" };
        rows.extend(self.others.iter().enumerate().map(|(at, place)| place.row(&format!("{other} {}", at + 1))));
        rows.extend(self.stand_ins.iter().enumerate().map(|(at, place)| place.row(&format!("stand-in {}", at + 1))));
        let down = self
            .owners
            .iter()
            .chain(&self.others)
            .chain(&self.stand_ins)
            .filter_map(|place| Some((place, place.state.as_ref().err()?)));
        let reasons = down.fold(String::new(), |text, (place, why)| format!("{text}{}: {why}\n", place.name));
        format!(
            "key {key} of namespace {}: partition {}, position {:016x}, N={n} R={r} W={w}\n\n{}{}{reasons}",
            self.namespace,
            self.partition,
            self.position,
            table(&rows),
            if reasons.is_empty() { "" } else { "\n" },
        )
    }
}

async fn places(client: &Client, view: &ClusterView, nodes: Vec<NodeId>) -> Vec<Place> {
    let members = nodes.iter().filter_map(|node| view.members().get(node));
    join_all(members.map(async |member| {
        let state = client.status(&member.name).await.map(drop).map_err(|error| error.to_string());
        Place { name: member.name.to_string(), zone: member.zone.to_string(), quic: member.quic.clone(), state }
    }))
    .await
}

impl Place {
    fn object(&self) -> Value {
        json!({
            "id": self.name, "zone": self.zone, "quic": self.quic, "up": self.state.is_ok(),
            "error": self.state.as_ref().err(),
        })
    }

    fn row(&self, role: &str) -> Vec<String> {
        row([role, &self.name, &self.zone, &self.quic, if self.state.is_ok() { "up" } else { "down" }])
    }
}

/// The members with what they hold, by name.
fn loads(view: &ClusterView, ring: &Ring, balance: &Balance) -> Vec<(NodeName, Zone, NodeLoad)> {
    let members = ring.members().iter().zip(&balance.nodes);
    let mut loads: Vec<_> =
        members.map(|(member, load)| (view.name_of(member.id), member.zone.clone(), load.clone())).collect();
    loads.sort_by(|a, b| a.0.cmp(&b.0));
    loads
}

/// The rings in use, by replica count.
fn rings(view: &ClusterView) -> Vec<&Ring> {
    view.rings().collect()
}

/// What a zone holds: partitions owned, first positions, ideal.
fn zones(loads: &[(NodeName, Zone, NodeLoad)]) -> BTreeMap<Zone, (u32, u32, f64)> {
    let mut zones = BTreeMap::new();
    for (_, zone, load) in loads {
        let sum: &mut (u32, u32, f64) = zones.entry(zone.clone()).or_default();
        *sum = (sum.0 + load.owned, sum.1 + load.first, sum.2 + load.ideal);
    }
    zones
}

fn ratio(owned: u32, ideal: f64) -> f64 {
    if ideal > 0.0 { f64::from(owned) / ideal } else { 1.0 }
}

fn balance_object(view: &ClusterView) -> Value {
    let ring_object = |ring: &Ring| {
        let balance = ring.balance();
        let loads = loads(view, ring, &balance);
        let nodes = loads.iter().map(|(name, zone, load)| {
            json!({
                "id": name.as_str(), "zone": zone.as_str(), "weight": load.weight,
                "owned": load.owned, "first": load.first, "ideal": load.ideal, "ratio": load.ratio,
            })
        });
        let zones = zones(&loads).into_iter().map(|(zone, (owned, first, ideal))| {
            json!({
                "zone": zone.as_str(), "owned": owned, "first": first, "ideal": ideal, "ratio": ratio(owned, ideal),
            })
        });
        json!({
            "n": ring.replicas(),
            "max_over_mean": balance.max_over_mean,
            "first_max_over_mean": balance.first_max_over_mean,
            "nodes": nodes.collect::<Vec<_>>(),
            "zones": zones.collect::<Vec<_>>(),
        })
    };
    let namespaces = view.namespaces().map(|(name, policy)| {
        json!({
            "name": name.as_str(), "n": policy.n, "r": policy.r.to_string(), "w": policy.w.to_string(),
            "conflict": policy.conflict.to_string(), "sloppy": policy.sloppy,
            "ttl_s": policy.ttl.map(|ttl| ttl.as_secs()),
        })
    });
    json!({
        "cluster": view.info().cluster.as_str(),
        "partitions": view.partitions().count(),
        "namespaces": namespaces.collect::<Vec<_>>(),
        "rings": rings(view).into_iter().map(ring_object).collect::<Vec<_>>(),
    })
}

fn balance_text(view: &ClusterView) -> String {
    let mut rows = vec![row(["NAMESPACE", "N", "R", "W", "CONFLICT", "SLOPPY", "TTL"])];
    rows.extend(view.namespaces().map(|(name, policy)| {
        let NamespacePolicy { n, r, w, conflict, ttl, sloppy } = policy;
        let ttl = ttl.map_or_else(|| "never".to_owned(), span);
        let sloppy = if *sloppy { "yes" } else { "no" };
        row([name.as_str(), &n.to_string(), &r.to_string(), &w.to_string(), &conflict.to_string(), sloppy, &ttl])
    }));
    let (cluster, partitions) = (&view.info().cluster, view.partitions().count());
    let head =
        format!("cluster {cluster}: {} members, {partitions} partitions\n\n{}", view.members().len(), table(&rows));
    rings(view).into_iter().fold(head, |text, ring| format!("{text}\n{}", ring_text(view, ring)))
}

fn ring_text(view: &ClusterView, ring: &Ring) -> String {
    let balance = ring.balance();
    let mut rows = vec![row(["NODE", "ZONE", "WEIGHT", "OWNED", "FIRST", "IDEAL", "RATIO"])];
    let loads = loads(view, ring, &balance);
    rows.extend(loads.iter().map(|(name, zone, load)| {
        let numbers = [load.weight, load.owned, load.first].map(|number| number.to_string());
        let [weight, owned, first] = &numbers;
        let (ideal, ratio) = (format!("{:.1}", load.ideal), format!("{:.3}", load.ratio));
        row([name.as_str(), zone.as_str(), weight, owned, first, &ideal, &ratio])
    }));
    let zones = zones(&loads);
    if zones.len() > 1 {
        rows.extend(zones.into_iter().map(|(zone, (owned, first, ideal))| {
            let (owned_text, first) = (owned.to_string(), first.to_string());
            let (ideal_text, ratio) = (format!("{ideal:.1}"), format!("{:.3}", ratio(owned, ideal)));
            row(["all of zone", zone.as_str(), "", &owned_text, &first, &ideal_text, &ratio])
        }));
    }
    format!("{} replicas: max/mean {:.3}\n{}", ring.replicas(), balance.max_over_mean, table(&rows))
}
