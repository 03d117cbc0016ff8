//! What is known of a running cluster before it is changed: who answers, what each holds, how fast it copied before.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;

use crate::cli::cluster::wish::Asked;
use crate::cli::watch;
use crate::client::Client;
use crate::layout::Change;
use crate::plan::Facts;
use crate::types::NodeName;
use crate::view::ClusterView;
use crate::wire::gossip::MemberState;
use crate::wire::gossip::MemberStatus;
use crate::wire::tasks::Task;
use crate::wire::tasks::TaskKind;
use crate::wire::tasks::TaskOrder;

/// Bytes a second that a node is taken to fetch where nothing was measured: nodes without optimisation, which shared two busy
/// cores, did 2 to 5 MiB of records of 1 KiB.
const RATE_ASSUMED: u64 = 4 << 20;
/// Bytes from which on a copying says how fast this cluster is.
const TELLING: u64 = 4 << 20;

/// A cluster as it is now.
pub(crate) struct Situation {
    /// Members and placement.
    pub(crate) view: Arc<ClusterView>,
    /// Who answers, and what nodes hold.
    pub(crate) facts: Facts,
    /// Whether the rate was measured in this cluster.
    pub(crate) measured: bool,
    members: Vec<MemberStatus>,
}

impl Situation {
    /// Asks all members, each for as long as `patience`.
    pub(crate) async fn find(client: &Client, patience: Duration) -> anyhow::Result<Self> {
        let reports = watch::ask_all(client, patience).await;
        let view = client.view();
        let members = client.members().await?.members;
        let mut facts = Facts::default();
        for (member, answer) in reports {
            if let Ok(status) = answer {
                facts.bytes.insert(member.name.clone(), status.bytes);
                facts.alive.insert(member.name);
            }
        }
        let strangers =
            members.iter().filter(|member| view.layout().members().keys().all(|name| **name != member.name));
        facts.alive.extend(strangers.filter(|one| one.state == MemberState::Alive).map(|one| one.name.clone()));
        let tasks = client.tasks(TaskOrder::List).await?.tasks;
        let measured = rate(&tasks);
        facts.rate = measured.unwrap_or(RATE_ASSUMED);
        Ok(Self { view, facts, measured: measured.is_some(), members })
    }

    /// The change that is asked for, with what a new node says of itself.
    pub(super) fn change(&self, asked: &Asked) -> anyhow::Result<Change> {
        Ok(match asked.clone() {
            Asked::Join(name, role) => {
                let member = self.member(&name)?;
                let zone = role.zone.map_or_else(|| member.zone.parse(), Ok)?;
                Change::Join { quic: member.quic.clone(), zone, weight: role.weight.unwrap_or(member.weight), name }
            }
            Asked::Replace(old, new) => Change::Replace { quic: self.member(&new)?.quic.clone(), old, new },
            Asked::Leave(name) => Change::Leave { name },
            Asked::Remove(name) => Change::Remove { name },
            Asked::Weight(name, weight) => Change::Weight { name, weight },
            Asked::Zone(name, zone) => Change::Zone { name, zone },
            Asked::Copies(namespace, n) => Change::Copies { namespace, n },
            Asked::Split => {
                let before = self.view.layout().last_placement().partitions;
                let cut = || anyhow!("{} partitions are as many as there can be", before.count());
                Change::Split { partitions: before.halved().ok_or_else(cut)? }
            }
            Asked::Cancel => Change::Cancel,
        })
    }

    fn member(&self, name: &NodeName) -> anyhow::Result<&MemberStatus> {
        self.members.iter().find(|member| member.name == *name).ok_or_else(|| {
            anyhow!("no member has heard of {name}: start it with cluster.seeds, and see `dynamomini members`")
        })
    }
}

/// What a node fetched a second when data last moved to it.
fn rate(tasks: &[Task]) -> Option<u64> {
    let copies = tasks.iter().filter(|task| task.kind == TaskKind::Copy && task.bytes >= TELLING && task.active_ms > 0);
    let last = copies.max_by_key(|task| task.began_ms)?;
    Some((u128::from(last.bytes) * 1000 / u128::from(last.active_ms)).try_into().unwrap_or(u64::MAX).max(1))
}
