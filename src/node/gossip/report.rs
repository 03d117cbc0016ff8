//! The members as this node sees them, for whoever asks.

use std::time::Duration;

use crate::node::core::Core;
use crate::node::gossip::Gossip;
use crate::node::gossip::orders::Order;
use crate::node::ownership;
use crate::node::timeouts::millis;
use crate::swim::{ClusterState, Counters, Record, Seen, Standing, Swim};
use crate::wire::gossip::{MemberState, MemberStatus, MembersReport};
use crate::wire::rpc::ServeError;

/// The state machine's view at one moment.
pub(crate) struct Portrait {
    own: Record,
    members: Vec<Seen>,
    health_factor: u32,
    counters: Counters,
    now: Duration,
}

impl Portrait {
    pub(crate) fn of(swim: &Swim, now: Duration) -> Self {
        Self {
            own: swim.own().record().clone(),
            members: swim.members().collect(),
            health_factor: swim.health_factor(),
            counters: *swim.counters(),
            now,
        }
    }

    /// How many members are in each state, this one among the living.
    fn alive(&self) -> usize {
        1 + self.members.iter().filter(|seen| seen.standing == Standing::Alive).count()
    }
}

/// The word for a state.
pub(crate) fn state_of(standing: Standing) -> MemberState {
    match standing {
        Standing::Alive => MemberState::Alive,
        Standing::Suspect => MemberState::Suspect,
        Standing::Failed => MemberState::Failed,
        Standing::Left => MemberState::Left,
    }
}

fn part_word(state: ClusterState) -> &'static str {
    match state {
        ClusterState::Joining => "joining",
        ClusterState::Active => "active",
        ClusterState::Leaving => "leaving",
        ClusterState::Removed => "removed",
    }
}

fn status(record: &Record, state: MemberState, since: Duration, rtt: Option<Duration>) -> MemberStatus {
    MemberStatus {
        name: record.name.clone(),
        state,
        since_ms: millis(since),
        ownership: part_word(record.state).to_owned(),
        quic: record.quic.clone(),
        gossip: record.gossip.to_string(),
        zone: record.zone.to_string(),
        weight: record.weight,
        storage: record.storage.as_str().to_owned(),
        software: record.software.clone(),
        protocol: record.protocol,
        rtt_us: rtt.and_then(|rtt| u64::try_from(rtt.as_micros()).ok()),
        clock_offset_ms: record.clock_offset_ms,
        certificate_expires_s: record.certificate.expires_s,
        config: record.config,
        incarnation: record.incarnation,
        admin: record.admin.clone(),
    }
}

impl Gossip {
    async fn portrait(&self) -> Result<Portrait, ServeError> {
        let portrait = self.ask(Order::Portrait).await;
        portrait.ok_or_else(|| {
            let why = match self.begun.is_cancelled() {
                true => "gossip does not answer now",
                false => "gossip has not begun: does this node's advertised gossip address resolve?",
            };
            ServeError::Unavailable(why.to_owned())
        })
    }

    /// Everything about the members. Their part in owning data is what this node's layout says, whatever they have heard.
    pub(crate) async fn report(&self, core: &Core) -> Result<MembersReport, ServeError> {
        let portrait = self.portrait().await?;
        let view = core.view();
        let mut members: Vec<MemberStatus> = portrait
            .members
            .iter()
            .map(|seen| {
                let since = portrait.now.saturating_sub(seen.since);
                let part = ownership::part(view.layout(), &seen.record.name, seen.record.state);
                let record = Record { state: part, ..Record::clone(&seen.record) };
                status(&record, state_of(seen.standing), since, seen.rtt)
            })
            .collect();
        members.push(status(&portrait.own, MemberState::Alive, portrait.now, None));
        members.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(MembersReport {
            node: self.name.clone(),
            gossip: true,
            health_factor: portrait.health_factor,
            members,
            counters: self.counters(&portrait.counters),
        })
    }

    /// Alive and known members, for a line in the status.
    pub(crate) async fn summary(&self) -> String {
        match self.portrait().await {
            Ok(portrait) => format!("{}/{} alive", portrait.alive(), portrait.members.len() + 1),
            Err(error) => error.to_string(),
        }
    }

    fn counters(&self, swim: &Counters) -> Vec<(String, u64)> {
        let of_swim = [
            ("probes", swim.probes),
            ("probes_failed", swim.probes_failed),
            ("probes_relayed", swim.probes_relayed),
            ("probes_streamed", swim.probes_streamed),
            ("accusations", swim.accusations),
            ("refutations", swim.refutations),
            ("declared", swim.declared),
            ("syncs", swim.syncs),
            ("pauses", swim.pauses),
            ("damped", swim.damped),
            ("refused_malformed", swim.malformed + swim.oversized + swim.syncs_malformed + swim.records_malformed),
            ("refused_other_cluster", swim.other_cluster),
            ("refused_unknown", swim.unknown),
            ("refused_stale", swim.stale),
            ("refused_crowded", swim.crowded + swim.records_crowded),
        ];
        let of_notary = [
            ("records_forged", self.notary.forged.get()),
            ("records_without_certificate", self.notary.unknown.get()),
            ("credentials_refused", self.notary.refused.get()),
        ];
        let all = self.tally.list().into_iter().chain(of_swim).chain(of_notary);
        all.map(|(name, count)| (name.to_owned(), count)).collect()
    }
}

/// The members of a node that takes no part in gossip: those of its configuration, as its connections say.
pub(crate) fn without_gossip(core: &Core) -> MembersReport {
    let view = core.view();
    let member = |(id, member): (&crate::types::NodeId, &crate::wire::rpc::MemberInfo)| MemberStatus {
        name: member.name.clone(),
        state: if core.is_reachable(*id) { MemberState::Alive } else { MemberState::Failed },
        since_ms: 0,
        ownership: part_word(ownership::part(view.layout(), &member.name, ClusterState::Active)).to_owned(),
        quic: member.quic.clone(),
        gossip: String::new(),
        zone: member.zone.to_string(),
        weight: member.weight,
        storage: "unknown".to_owned(),
        software: String::new(),
        protocol: 0,
        rtt_us: core.peers.rtt(*id).and_then(|rtt| u64::try_from(rtt.as_micros()).ok()),
        clock_offset_ms: None,
        certificate_expires_s: 0,
        config: 0,
        incarnation: 0,
        admin: None,
    };
    let mut members: Vec<MemberStatus> = view.members().iter().map(member).collect();
    members.sort_by(|one, other| one.name.cmp(&other.name));
    MembersReport { node: view.info().node.clone(), gossip: false, health_factor: 1, members, counters: Vec::new() }
}
