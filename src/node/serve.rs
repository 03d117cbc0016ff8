//! The door for requests: decode, check who asks, dispatch, encode.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use tokio::time::Instant;
use tracing::Instrument;

use crate::hash::ClusterHash;
use crate::limits;
use crate::net::{Handler, Identity, Incoming, Peer};
use crate::node::ask::{Ask, Stages};
use crate::node::coordinate;
use crate::node::core::Core;
use crate::node::gossip::{self, Gossip};
use crate::node::meters::{Kind, Outcome};
use crate::node::ownership;
use crate::node::past;
use crate::node::peers::encode;
use crate::node::reap;
use crate::node::replica::Apply;
use crate::node::rights;
use crate::node::status;
use crate::node::sync;
use crate::node::tasks;
use crate::node::timeouts::millis;
use crate::node::watch;
use crate::node::works::Works;
use crate::types::TraceId;
use crate::wire::blob;
use crate::wire::rpc::{Fetched, ReplicaWrite, Reply, Request, ServeError, SlotRef, Traced};

/// Most time before the asker's deadline at which a coordinator stops waiting for replicas.
const ANSWER_MARGIN: Duration = Duration::from_millis(100);

/// Keys that a page of records counts as: reading neighbours is cheaper than reading each.
const PAGE_UNITS: usize = 32;

/// Serves every connection of a node.
#[derive(Clone)]
pub(crate) struct Serve(pub(crate) Arc<Core>);

impl Handler for Serve {
    async fn handle(&self, incoming: Incoming) -> Bytes {
        let core = &self.0;
        let stages = Stages::default();
        let decoded = blob::decode::<Traced>(&incoming.body);
        let (kind, trace) = match &decoded {
            Ok(traced) => (Kind::of(traced), traced.trace),
            Err(_) => (Kind::Unreadable, TraceId::NONE),
        };
        // To wait for news is no work.
        let _in_flight = (kind != Kind::Watch).then(|| core.meters.in_flight.hold());
        // What only waits counts nowhere: it holds no record, and one of the two waits for all work.
        let waits = matches!(kind, Kind::Watch | Kind::Settle | Kind::Layout | Kind::Tasks);
        let work = if waits { Works::default().begin() } else { core.works.begin() };
        let by_layout = matches!(kind, Kind::Put | Kind::Get | Kind::Scan | Kind::Apply | Kind::Upkeep | Kind::Reserve);
        let _by_layout = by_layout.then(|| core.by_layout.begin());
        let reply = match decoded {
            Ok(Traced { request, layout: theirs, .. }) => {
                // Read after the work has begun, so that whoever waits for work by an earlier layout waits for this.
                let layout = core.view().version();
                if theirs.is_some_and(|theirs| theirs > layout) {
                    core.ownership.news.notify_one();
                }
                let ask = Ask { trace, deadline: answer_by(&incoming), layout, stages: &stages, work: &work };
                let span = tracing::debug_span!(
                    "request", request = %trace, verb = request.verb(), namespace = request.namespace().map(display),
                    from = %incoming.peer.label()
                );
                match core.ownership.check(theirs) {
                    Ok(()) => self.admit(&incoming, request, ask).instrument(span).await.unwrap_or_else(Reply::Error),
                    Err(error) => Reply::Error(error),
                }
            }
            Err(error) => Reply::Error(ServeError::Invalid(format!(
                "the request cannot be read ({error}): is the other side newer?"
            ))),
        };
        let outcome = Outcome::of(&reply);
        let took = incoming.arrived.elapsed();
        core.meters.answered(kind, outcome, took);
        tracing::debug!(
            request = %trace, kind = kind.label(), from = %incoming.peer.label(), outcome = outcome.label(), ?took,
            "request answered"
        );
        if !waits && core.oversight.slow.is_some_and(|slow| took > slow) {
            self.note_slow(&Slow { kind, trace, outcome, took, from: incoming.peer.label(), stages: &stages });
        }
        let mut frame = BytesMut::with_capacity(room_for(&reply));
        encode(&reply, &mut frame);
        frame.freeze()
    }
}

/// A request that took too long.
struct Slow<'a> {
    kind: Kind,
    trace: TraceId,
    outcome: Outcome,
    took: Duration,
    from: &'a str,
    stages: &'a Stages,
}

impl Serve {
    /// Counts a slow request, and logs it unless there are too many.
    fn note_slow(&self, slow: &Slow<'_>) {
        let core = &self.0;
        core.meters.slow_requests.one();
        if let Some(left_out) = core.slow_log.admit() {
            let Slow { kind, trace, outcome, took, from, stages } = slow;
            let took_ms = millis(*took);
            tracing::warn!(
                request = %trace, kind = kind.label(), from, outcome = outcome.label(), took_ms, %stages, left_out,
                "slow request"
            );
        }
    }

    /// Answers a request once it has its turn.
    async fn admit(&self, incoming: &Incoming, request: Request, ask: Ask<'_>) -> Result<Reply, ServeError> {
        let core = &self.0;
        let door = match incoming.peer.identity() {
            Identity::Node(_) => &core.nodes,
            Identity::Client { .. } | Identity::Admin(_) => {
                if matches!(request, Request::Put(_) | Request::Get(_) | Request::Scan(_)) {
                    core.gate.pass().await;
                }
                &core.clients
            }
        };
        let _admitted = match units(&request) {
            0 => None,
            units => Some(door.enter(units, incoming.body.len(), ask.deadline).await?),
        };
        self.reply(&incoming.peer, request, ask).await
    }

    async fn reply(&self, peer: &Peer, request: Request, ask: Ask<'_>) -> Result<Reply, ServeError> {
        let (core, from) = (&self.0, peer.identity());
        rights::check(core, from, &request)?;
        match request {
            // Boxed, so that the many small requests of other coordinators need not have room for all their state.
            Request::Put(put) => {
                let span = tracing::debug_span!("coordinate_put", keys = put.items.len());
                Box::pin(coordinate::put(core, from, put, ask).instrument(span)).await.map(Reply::Put)
            }
            Request::Get(get) => {
                let span = tracing::debug_span!("coordinate_get", keys = get.keys.len());
                Box::pin(coordinate::get(core, get, ask).instrument(span)).await.map(Reply::Get)
            }
            Request::Scan(scan) => {
                let span = tracing::debug_span!("coordinate_scan", limit = scan.limit);
                Box::pin(coordinate::scan(core, scan, ask).instrument(span)).await.map(Reply::Scan)
            }
            Request::View => Ok(Reply::View(core.view().info().clone())),
            Request::Watch { known } => watch::watch(core, peer, known, ask.deadline).await,
            Request::Status => Ok(Reply::Status(Box::new(status::status(core).await))),
            Request::Apply(writes) => Ok(Reply::Apply(join_all(writes.into_iter().map(|w| self.apply(from, w))).await)),
            Request::Fetch { slots, digest_only } => {
                self.fetch(slots, digest_only, ask.deadline).await.map(Reply::Fetch)
            }
            Request::Reserve(wanted) => {
                past::reads(core, ask.deadline).await?;
                coordinate::grant(core, &wanted).await.map(Reply::Reserved)
            }
            Request::Release { slot, token } => {
                core.reservations.release(&core.slot_of(slot)?, token);
                Ok(Reply::Done)
            }
            Request::FetchPage(page) => {
                core.check_partition(page.partition)?;
                let (items, more) = coordinate::page(core, &page, ask.deadline).await?;
                let items = items.into_iter().map(|(key, record)| (key.into(), record.into())).collect();
                Ok(Reply::FetchPage { items, more })
            }
            Request::Gossip(request) => match from {
                Identity::Node(name) => gossip::serve(self.gossip()?, name, request).await.map(Reply::Gossip),
                other => Err(ServeError::Forbidden(format!("{other} is not a node"))),
            },
            Request::Members => status::members(core).await.map(|report| Reply::Members(Box::new(report))),
            Request::Keys(order) => gossip::serve_keys(core, self.gossip()?, order).await.map(Reply::Keys),
            Request::Log(filters) => self.log(from, filters.as_deref()).map(Reply::Log),
            Request::SyncRoots(roots) => sync::answer::roots(core, from, &roots).map(Reply::SyncRoots),
            Request::SyncSums(sums) => sync::answer::sums(core, from, &sums).map(Reply::SyncSums),
            Request::SyncRecords(records) => sync::answer::records(core, from, records).await.map(Reply::SyncRecords),
            Request::Reap(order) => reap::obey(core, order).await.map(Reply::Reap),
            Request::Settle => {
                core.works.settled().await;
                Ok(Reply::Done)
            }
            Request::Layout(request) => ownership::serve(core, request, ask.deadline).await.map(Reply::Layout),
            Request::Landmark(now) => past::answer(core, from, now).await.map(Reply::Landmark),
            Request::Dropped(dropped) => past::answer_dropped(core, dropped).await.map(Reply::Dropped),
            Request::Tasks(request) => {
                tasks::serve(core, request, ask.deadline).await.map(|report| Reply::Tasks(Box::new(report)))
            }
            Request::Repair(repair) => sync::repair(core, repair).map(|done| Reply::Repair(Box::new(done))),
        }
    }

    async fn fetch(
        &self,
        slots: Vec<SlotRef>,
        digest_only: bool,
        until: Instant,
    ) -> Result<Vec<Result<Fetched, ServeError>>, ServeError> {
        let core = &self.0;
        if slots.len() > limits::BATCH_KEYS_MAX {
            return Err(ServeError::Limit("too many keys in one fetch".to_owned()));
        }
        let slots = slots.into_iter().map(|slot| core.slot_of(slot)).collect::<Result<Vec<_>, _>>()?;
        let epoch = past::reads(core, until).await?;
        let fetched = coordinate::fetch(core, slots, digest_only, until).await;
        past::still_reads(core, epoch).map(|()| fetched)
    }

    /// Sets the filters of the log, if they are given, and says which are in force.
    fn log(&self, from: &Identity, filters: Option<&str>) -> Result<String, ServeError> {
        let host = &self.0.oversight.host;
        if let Some(filters) = filters {
            if filters.len() > limits::LOG_FILTER_MAX {
                let text = format!("log filters of {} bytes, the limit is {}", filters.len(), limits::LOG_FILTER_MAX);
                return Err(ServeError::Limit(text));
            }
            host.set_log_filters(filters).map_err(ServeError::Invalid)?;
            tracing::warn!(filters, by = from.name(), "log filters changed");
        }
        host.log_filters().map_err(ServeError::Invalid)
    }

    fn gossip(&self) -> Result<&Gossip, ServeError> {
        let off = || ServeError::Invalid("this node takes no part in gossip".to_owned());
        self.0.gossip.as_deref().ok_or_else(off)
    }

    async fn apply(&self, from: &Identity, write: ReplicaWrite) -> Result<(), ServeError> {
        let core = &self.0;
        let slot = core.slot_of(write.slot)?;
        // Ends with the write.
        let _writing = write.reservation.map(|token| core.reservations.begin(slot.clone(), token)).transpose()?;
        let hints = core.hints.places(core, &slot, &write.hints);
        let apply = Apply { slot: slot.clone(), record: write.record.0, hints, unsynced: false };
        let outcome = core.replica.apply(apply).await;
        core.hints.stored(&write.hints);
        if let (Ok(()), true, Identity::Node(name)) = (&outcome, write.hints.is_empty(), from) {
            core.past.witness.wrote(ClusterHash::node_id(name), &slot);
        }
        outcome
    }
}

/// How much work a request is, in keys that are read or written; 0 for what is bounded elsewhere and must be answered by a
/// node with too much to do, too: what it is, how it is, who is there.
fn units(request: &Request) -> usize {
    match request {
        Request::Put(put) => put.items.len().max(1),
        Request::Get(get) => get.keys.len(),
        Request::Apply(writes) => writes.len().max(1),
        Request::Fetch { slots, .. } => slots.len().max(1),
        Request::Scan(_) | Request::FetchPage(_) | Request::SyncRecords(_) => PAGE_UNITS,
        Request::Reserve(_) => 1,
        Request::View
        | Request::Watch { .. }
        | Request::Status
        | Request::Release { .. }
        | Request::Log(_)
        | Request::Gossip(_)
        | Request::Members
        | Request::Keys(_)
        | Request::SyncRoots(_)
        | Request::SyncSums(_)
        | Request::Repair(_)
        | Request::Reap(_)
        | Request::Layout(_)
        | Request::Landmark(_)
        | Request::Dropped(_)
        | Request::Tasks(_)
        | Request::Settle => 0,
    }
}

/// Bytes that a reply takes, roughly: a frame that grows piece by piece is copied again and again.
fn room_for(reply: &Reply) -> usize {
    const HEAD: usize = 64;
    let values = match reply {
        Reply::Get(outcomes) => {
            let siblings = outcomes.iter().flatten().flat_map(|done| &done.siblings);
            siblings.map(|sibling| sibling.value.len() + HEAD).sum()
        }
        Reply::Fetch(outcomes) => {
            let size = |fetched: &Fetched| if let Fetched::Record(record) = fetched { record.len() } else { 0 };
            outcomes.iter().flatten().map(size).sum()
        }
        _ => 0,
    };
    HEAD + values
}

/// When to answer with whatever there is: an error that says who did not answer must arrive while it is waited for.
fn answer_by(incoming: &Incoming) -> Instant {
    let patience = incoming.deadline.saturating_duration_since(incoming.arrived);
    incoming.deadline - (patience / 10).min(ANSWER_MARGIN)
}
