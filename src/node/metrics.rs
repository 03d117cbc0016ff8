//! Everything a node counts and times, as plain values with names and meanings. How they are shown is not known here.
//!
//! Labels take few values: kinds, outcomes and stages are fixed, and peers are members of the cluster, with all clients as one. No key, client or
//! namespace is a label.

use crate::limits;
use crate::meter::{Counter, Family, Value};
use crate::net::NetCounters;
use crate::net::counters::HandshakeFailure;
use crate::node::admission::Shed;
use crate::node::core::Core;
use crate::node::meters::{Call, Kind, Outcome, Stage};
use crate::node::readiness;
use crate::node::status;
use crate::swim::StorageHealth;
use crate::wire::gossip::MemberState;
use crate::wire::status::ProcessUsage;

/// Reads all of them.
pub(crate) async fn read(core: &Core) -> Vec<Family> {
    let mut families = about(core);
    families.extend(requests(core));
    families.extend(
        core.meters
            .counters()
            .map(|(name, help, count)| Family::counter(format!("dynamomini_{name}_total"), help, count.get())),
    );
    families.extend(storage(core).await);
    families.extend(queues(core));
    families.extend(layout(core));
    families.extend(peers(core));
    families.extend(gossip(core).await);
    families.extend(network(core));
    families.extend(core.oversight.host.usage().iter().flat_map(process));
    families
}

/// What it is, and whether it is ready.
fn about(core: &Core) -> Vec<Family> {
    let build = Family::new("dynamomini_build_info", "The program's version and the kind of storage; the value is 1.");
    let labels = [("version", env!("CARGO_PKG_VERSION")), ("engine", core.engine.name())];
    let ready = u64::from(readiness::obstacles(core).is_empty());
    let mut families = vec![
        build.with(labels, Value::Gauge(1.0)),
        Family::gauge("dynamomini_ready", "1 when the node can do its part, as /health/ready says.", ready),
        Family::gauge(
            "dynamomini_uptime_seconds",
            "Time since the node began to serve.",
            core.started.elapsed().as_secs(),
        ),
        Family::gauge(
            "dynamomini_members",
            "Members of the cluster, this node among them.",
            total(core.view().members().len()),
        ),
    ];
    let help = "When this node's certificate expires, in seconds since the Unix epoch.";
    let second = u64::try_from(core.peers.endpoint().certificate().not_after_ms / 1_000).unwrap_or(0);
    families.push(Family::gauge("dynamomini_certificate_expiry_timestamp_seconds", help, second));
    families
}

/// Requests by kind and outcome, and how long they and their stages took. What never happened is left out, except that
/// every kind has its successes.
fn requests(core: &Core) -> Vec<Family> {
    let meters = &core.meters;
    let help = "Requests answered, by kind and by what became of them: of one with several keys, the first failure.";
    let mut answered = Family::new("dynamomini_requests_total", help);
    let help = "Time from a request's arrival to its answer.";
    let mut took = Family::new("dynamomini_request_duration_seconds", help);
    let help = "Time that stages of requests took: at the coordinator, and in the queues of the replica.";
    let mut stages = Family::new("dynamomini_stage_duration_seconds", help);
    for kind in Kind::ALL {
        for outcome in Outcome::ALL {
            let count = meters.outcomes(kind, outcome);
            if count > 0 || outcome == Outcome::Ok {
                let labels = [("kind", kind.label()), ("outcome", outcome.label())];
                answered = answered.with(labels, Value::Counter(count as f64));
            }
        }
        took = took.with([("kind", kind.label())], Value::Durations(meters.requests(kind).read()));
    }
    for stage in Stage::ALL {
        stages = stages.with([("stage", stage.label())], Value::Durations(meters.stages(stage).read()));
    }
    vec![answered, took, stages]
}

/// The storage: how long its calls took, how it is, and how much it holds, when it says so in time.
async fn storage(core: &Core) -> Vec<Family> {
    let help = "Time that calls of the storage took; one call serves many requests.";
    let mut took = Family::new("dynamomini_storage_duration_seconds", help);
    let mut errors = Family::new("dynamomini_storage_errors_total", "Calls of the storage that failed.");
    for call in Call::ALL {
        let labels = [("call", call.label())];
        took = took.with(labels, Value::Durations(core.meters.storage(call).read()));
        errors = errors.with(labels, Value::Counter(core.meters.storage_errors(call) as f64));
    }
    let grade = core.storage_grade();
    let help = "The storage's health: 1 for the state it is in, 0 for the others.";
    let health = StorageHealth::ALL.iter().fold(Family::new("dynamomini_storage_health", help), |family, state| {
        family.with([("state", state.as_str())], Value::Gauge(f64::from(u8::from(*state == grade))))
    });
    let help = "Times that the storage was written anew, without what could not be read of it: a damaged table could not be merged.";
    let rebuilds = Family::counter("dynamomini_storage_rebuilds_total", help, core.engine.rebuilds());
    let mut families = vec![took, errors, health, rebuilds];
    if let Some(size) = status::size(core).await {
        let help = "Records in the storage, tombstones and hints among them; of many, an estimate.";
        families.push(Family::gauge("dynamomini_storage_keys", help, size.keys));
        families.push(Family::gauge(
            "dynamomini_storage_bytes",
            "Bytes in the storage, as the engine counts them.",
            size.bytes,
        ));
    }
    families
}

/// Who owns data: the layout that this node works by, and what a change still asks of it.
fn layout(core: &Core) -> Vec<Family> {
    let told = status::layout(core);
    let now = told.change.as_ref().map_or("settled", |change| change.stage.as_str());
    let help = "The change of owners: 1 for the stage it is in, 0 for the others.";
    let stages = ["settled", "spreading", "copying", "reading"];
    let stages = stages.iter().fold(Family::new("dynamomini_layout_stage", help), |family, stage| {
        family.with([("stage", *stage)], Value::Gauge(f64::from(u8::from(*stage == now))))
    });
    let left = told.change.map_or(0, |change| change.copies_left);
    let help = "The share of the time that work in the background may take now: 1 is all of it.";
    let share = Family::new("dynamomini_background_share", help);
    let share = share.with([], Value::Gauge(f64::from(core.pace.share()) / 1000.0));
    vec![
        share,
        Family::gauge("dynamomini_layout_version", "The version of the layout that the node works by.", told.version),
        stages,
        Family::gauge(
            "dynamomini_copies_left",
            "Partitions that the node has still to fetch for a change of owners.",
            left,
        ),
    ]
}

/// What waits, and how much may.
fn queues(core: &Core) -> Vec<Family> {
    let (hints, _) = core.hints.report(core);
    let hint_bytes = hints.iter().map(|hints| hints.bytes).sum();
    let oldest = hints.iter().map(|hints| hints.oldest_ms).max().unwrap_or(0);
    let [writes, reads] = core.replica.waiting();
    let background = limits::BACKGROUND_MAX - core.background.available_permits().min(limits::BACKGROUND_MAX);
    let queues = [
        ("replica_writes", writes, limits::REPLICA_QUEUE_MAX),
        ("replica_reads", reads, limits::REPLICA_QUEUE_MAX),
        ("background", background, limits::BACKGROUND_MAX),
        ("client_work", core.clients.working(), core.clients.bounds().work),
        ("client_work_waiting", core.clients.waiting(), core.clients.bounds().waiting),
        ("node_work", core.nodes.working(), core.nodes.bounds().work),
    ];
    let mut length = Family::new("dynamomini_queue_length", "Work that waits or is under way, by queue.");
    let mut capacity = Family::new("dynamomini_queue_capacity", "Most work that a queue takes before callers wait.");
    for (queue, waiting, most) in queues {
        length = length.with([("queue", queue)], Value::Gauge(total(waiting) as f64));
        capacity = capacity.with([("queue", queue)], Value::Gauge(total(most) as f64));
    }
    let help = "Requests turned away because there was too much to do, by who asked and why. Nothing was done of them.";
    let mut shed = Family::new("dynamomini_requests_shed_total", help);
    let mut bytes =
        Family::new("dynamomini_request_bytes", "Bytes of the requests that are worked on or wait, by who asked.");
    for (from, admission) in [("clients", &core.clients), ("nodes", &core.nodes)] {
        bytes = bytes.with([("from", from)], Value::Gauge(total(admission.bytes()) as f64));
        for why in Shed::ALL {
            shed = shed.with([("from", from), ("reason", why.label())], Value::Counter(admission.shed(why) as f64));
        }
    }
    vec![
        length,
        capacity,
        shed,
        bytes,
        Family::gauge("dynamomini_requests_in_flight", "Requests being worked on.", core.meters.in_flight.get()),
        Family::gauge("dynamomini_hints", "Hints this node keeps for others.", core.hints.total()),
        Family::gauge(
            "dynamomini_hints_marked",
            "Partitions of which all that this node holds is to be delivered to a target, since its budget was spent.",
            core.hints.marked(),
        ),
        Family::gauge("dynamomini_hints_bytes", "Bytes of the markers of these hints.", hint_bytes),
        Family::new("dynamomini_hints_oldest_seconds", "Age of the oldest hint that this node keeps; 0 without any.")
            .with([], Value::Gauge(oldest as f64 / 1e3)),
    ]
}

/// The other members as this node reaches them.
fn peers(core: &Core) -> Vec<Family> {
    let view = core.view();
    let mut up = Family::new("dynamomini_peer_up", "1 when this node has a connection to the peer.");
    let mut rtt = Family::new("dynamomini_peer_rtt_seconds", "Round-trip time to a peer, while connected.");
    for peer in core.peers.status(&view) {
        let labels = [("peer", peer.name.as_str())];
        up = up.with(labels, Value::Gauge(f64::from(u8::from(peer.state == "up"))));
        if let Some(micros) = peer.rtt_us {
            rtt = rtt.with(labels, Value::Gauge(micros as f64 / 1e6));
        }
    }
    let help = "Requests to a peer that wait for their answer.";
    let mut pending = Family::new("dynamomini_peer_requests_pending", help);
    for (node, waiting) in core.peers.pending() {
        let name = core.peers.name_of(node).unwrap_or_else(|| view.name_of(node));
        pending = pending.with([("peer", name.as_str())], Value::Gauge(total(waiting) as f64));
    }
    [up, rtt, pending].into_iter().filter(|family| !family.samples.is_empty()).collect()
}

/// Membership as this node sees it. Nothing where it takes no part in gossip, or gossip does not answer.
async fn gossip(core: &Core) -> Vec<Family> {
    const SENT_BYTES: &str = "datagrams_sent_bytes";
    let Some(gossip) = &core.gossip else { return Vec::new() };
    let Ok(report) = gossip.report(core).await else { return Vec::new() };
    let states = [MemberState::Alive, MemberState::Suspect, MemberState::Failed, MemberState::Left];
    let members = Family::new("dynamomini_gossip_members", "Members by state, as this node sees them.");
    let members = states.into_iter().fold(members, |family, state| {
        let count = report.members.iter().filter(|member| member.state == state).count();
        family.with([("state", state.as_str())], Value::Gauge(total(count) as f64))
    });
    let help = "What gossip did and met, by kind; junk and forgeries that were dropped among it.";
    let events = report.counters.iter().filter(|(name, _)| name != SENT_BYTES);
    let events = events.fold(Family::new("dynamomini_gossip_events_total", help), |family, (name, count)| {
        family.with([("event", name.as_str())], Value::Counter(*count as f64))
    });
    let sent = report.counters.iter().find(|(name, _)| name == SENT_BYTES).map_or(0, |(_, count)| *count);
    let help = "How much slower this node probes than it would if it were well: 1 when it is.";
    vec![
        members,
        events,
        Family::counter("dynamomini_gossip_sent_bytes_total", "Bytes of datagrams of gossip sent.", sent),
        Family::gauge("dynamomini_gossip_health_factor", help, u64::from(report.health_factor)),
    ]
}

/// The endpoint and all connections on it.
fn network(core: &Core) -> Vec<Family> {
    let endpoint = core.peers.endpoint();
    let net = endpoint.counters();
    let help = "Handshakes that failed, by reason.";
    let failed = HandshakeFailure::ALL
        .iter()
        .fold(Family::new("dynamomini_net_handshakes_failed_total", help), |family, kind| {
            family.with([("reason", kind.label())], Value::Counter(net.handshakes_failed(*kind) as f64))
        });
    let mut families = vec![
        Family::gauge("dynamomini_connections", "Connections, of both directions.", total(endpoint.open_connections())),
        Family::gauge("dynamomini_connections_served", "Connections made by peers and clients.", net.served.get()),
        failed,
    ];
    families.extend(parties(net));
    let named = |(name, help, count): (&str, &'static str, &Counter)| {
        Family::counter(format!("dynamomini_net_{name}_total"), help, count.get())
    };
    families.extend(net_counters(net).map(named));
    families
}

/// Connections and lanes by peer and by who made them: `in` are those that are served. All clients are one peer.
fn parties(net: &NetCounters) -> impl Iterator<Item = Family> {
    let mut connections = Family::new("dynamomini_peer_connections", "Connections with a peer, by who made them.");
    let mut lanes = Family::new("dynamomini_lanes", "Lanes that are open with a peer, by who opened them.");
    let help = "Bytes that wait to be written to the lanes with a peer.";
    let mut queued = Family::new("dynamomini_lane_queue_bytes", help);
    for party in net.census.read() {
        let labels = [("direction", party.direction.label()), ("peer", party.peer.as_str())];
        connections = connections.with(labels, Value::Gauge(total(party.connections) as f64));
        lanes = lanes.with(labels, Value::Gauge(total(party.lanes) as f64));
        queued = queued.with(labels, Value::Gauge(total(party.queued_bytes) as f64));
    }
    [connections, lanes, queued].into_iter().filter(|family| !family.samples.is_empty())
}

fn net_counters(net: &NetCounters) -> [(&'static str, &'static str, &Counter); 15] {
    [
        ("handshakes_ok", "Handshakes that succeeded, of both directions.", &net.handshakes_ok),
        ("refusals_logged", "Refused peers that were logged.", &net.refusals_logged),
        ("connections_over_limit", "Connections turned away since there were too many.", &net.connections_over_limit),
        ("frames_sent", "Frames sent.", &net.frames_sent),
        ("frames_received", "Frames received.", &net.frames_received),
        ("sent_bytes", "Bytes of frames sent.", &net.bytes_sent),
        ("received_bytes", "Bytes of frames received.", &net.bytes_received),
        ("batches_sent", "Writes into which sent frames were gathered.", &net.batches_sent),
        ("lane_full_waits", "Times a sender waited because its lane was full.", &net.lane_full_waits),
        ("bulk_streams", "Streams for frames too large for a lane.", &net.bulk_streams),
        ("packing_saved_bytes", "Bytes not sent since what moves over far paths is packed.", &net.packing_saved),
        ("requests_expired", "Requests whose deadline had passed before they could start.", &net.requests_expired),
        ("replies_late", "Replies that came after their request was given up.", &net.replies_late),
        ("peers_disconnected", "Peers disconnected for what they did.", &net.peers_disconnected),
        ("reconnects", "Connections to peers made again after a loss.", &net.reconnects),
    ]
}

/// The process, by the names that all exporters use.
fn process(usage: &ProcessUsage) -> Vec<Family> {
    let cpu = Family::new("process_cpu_seconds_total", "User and system CPU time.");
    vec![
        cpu.with([], Value::Counter(usage.cpu.as_secs_f64())),
        Family::gauge("process_resident_memory_bytes", "Resident memory.", usage.resident),
        Family::gauge("process_virtual_memory_bytes", "Address space.", usage.virtual_bytes),
        Family::gauge("process_open_fds", "Open file descriptors.", usage.open_files),
        Family::gauge("process_max_fds", "Most file descriptors that may be open.", usage.open_files_max),
        Family::gauge("process_threads", "Threads of the process.", usage.threads),
        Family::gauge("process_start_time_seconds", "When the process started, since the Unix epoch.", usage.started_s),
    ]
}

fn total(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
