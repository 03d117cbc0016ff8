//! One request on its way: a node is asked, another beside it when it is slow, others in its place when it fails, until one
//! answers or the deadline passes.
//!
//! What is sent, and when an answer suffices, is the [`Errand`]'s to say. Nothing here knows a ring: the nodes come in order.
//! Everything under way is dropped with the future, and its replies are then discarded.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::Instrument;

use crate::client::error::{ClientError, Unreachable};
use crate::client::hedge::{Patience, Size};
use crate::client::metrics::Kind;
use crate::client::order::Order;
use crate::client::race::{Attempt, Lost, Race, Reason};
use crate::client::route::Routes;
use crate::client::target::Target;
use crate::env::Env;
use crate::limits;
use crate::net::NetError;
use crate::net::link::LinkState;
use crate::types::{Namespace, TraceId};
use crate::wire::rpc::{Reply, Request, ServeError, Traced};

/// Least patience with a node that is not connected yet. A dead node must not hold up a client that has just begun.
const CONNECT_PATIENCE: Duration = Duration::from_millis(100);
/// Most patience with one, however long its answer may take.
const CONNECT_PATIENCE_MAX: Duration = Duration::from_millis(300);
/// What a node that turns a request away counts as having taken for it, in microseconds.
const OVERLOAD_US: u64 = 200_000;
/// First pause after all nodes were tried in vain; doubled each round, with full jitter.
const PAUSE: Duration = Duration::from_millis(20);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The items of a batch that a request asks for, by place; all when absent.
pub(crate) type Sent = Option<Vec<usize>>;

/// What is to be asked until it is answered.
pub(crate) trait Errand {
    /// How much it is.
    fn size(&self) -> Size;
    /// What it is and where its keys live, for traces.
    fn about(&self) -> (&'static str, Option<&Namespace>);
    /// What to send now: what is not settled yet.
    fn request(&self) -> (Request, Sent);
    /// Takes a reply. `None` when everything is settled, otherwise the reason to ask again.
    ///
    /// # Errors
    /// When asking again is of no use.
    fn take(&mut self, sent: &Sent, reply: Reply) -> Result<Option<ServeError>, ClientError>;
    /// Learns that it is asked for again while an earlier request is on its way.
    fn repeated(&mut self) {}
    /// Learns that the request may have been executed though no reply came. False when that changes nothing.
    fn unanswered(&mut self) -> bool {
        false
    }
}

/// What all operations of one client share.
#[derive(Debug)]
pub(crate) struct Calls {
    pub(crate) routes: Arc<Routes>,
    pub(crate) patience: Patience,
    /// Room for operations under way: see [`limits::CLIENT_OPERATIONS_MAX`].
    pub(crate) room: Semaphore,
    pub(crate) scope: Env,
}

impl Calls {
    pub(crate) fn new(routes: Arc<Routes>, patience: Patience, scope: Env) -> Self {
        Self { routes, patience, room: Semaphore::new(limits::CLIENT_OPERATIONS_MAX), scope }
    }

    /// Operations under way, large ones counted as several.
    pub(crate) fn under_way(&self) -> usize {
        limits::CLIENT_OPERATIONS_MAX.saturating_sub(self.room.available_permits())
    }

    /// Waits for room.
    async fn enter(&self, bytes: usize, deadline: Instant) -> Result<SemaphorePermit<'_>, ClientError> {
        let units = 1 + (bytes / limits::CLIENT_OPERATION_BYTES).min(limits::CLIENT_OPERATIONS_MAX - 1);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        if let Ok(permit) = self.room.try_acquire_many(units) {
            return Ok(permit);
        }
        self.routes.meter.waits.one();
        let waited = timeout_at(deadline, self.room.acquire_many(units)).await;
        let why = "as many operations as it may have were under way until the deadline";
        let tried = || vec![("this client".to_owned(), why.to_owned())];
        let late =
            |_| ClientError::Unreachable(Unreachable { timed_out: true, maybe: false, tried: tried(), trace: None });
        waited.map_err(late)?.map_err(|_| ClientError::Closed)
    }
}

/// A way to ask: until when, and how often.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) calls: &'a Calls,
    pub(crate) deadline: Instant,
    /// The number under which all nodes log it.
    pub(crate) trace: TraceId,
    /// Whether each node is tried once only.
    pub(crate) once: bool,
}

impl<'a> Call<'a> {
    /// Sends a request that is answered as a whole.
    pub(crate) async fn send(&self, order: Order<'a>, request: Request) -> Result<Reply, ClientError> {
        let mut whole = Whole { request, reply: None };
        self.run(order, &mut whole).await.map_err(|error| error.of(self.trace))?;
        whole.reply.ok_or_else(unexpected)
    }

    /// Asks until the errand is settled.
    ///
    /// # Errors
    /// Why what is not settled yet cannot be.
    pub(crate) async fn run(&self, order: Order<'a>, errand: &mut impl Errand) -> Result<(), ClientError> {
        let size = errand.size();
        let _room = self.calls.enter(size.bytes, self.deadline).await?;
        let began = Instant::now();
        self.calls.patience.began();
        let (verb, namespace) = errand.about();
        let span = tracing::debug_span!("operation", request = %self.trace, verb, namespace = namespace.map(display));
        let outcome = Drive::new(*self, order, size).run(errand).instrument(span).await;
        self.calls.routes.meter.ended(size.kind, began.elapsed(), &outcome);
        outcome
    }
}

/// Why the next attempt is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// Half of the patience with those that were asked is over; so much is left.
    Look(Duration),
    /// All of it is.
    Slow,
    /// The pause after a failure is over.
    Again,
}

/// One operation under way.
struct Drive<'a> {
    call: Call<'a>,
    order: Order<'a>,
    size: Size,
    race: Race,
    record: Record,
    /// When to do something though nothing was answered, and what.
    wake: Instant,
    due: Due,
    round: u32,
    /// Whether anything went out in this round.
    sent: bool,
    /// Attempts of this round that ended, and how many of them because one side refuses the other.
    ended: (u32, u32),
}

impl<'a> Drive<'a> {
    fn new(call: Call<'a>, order: Order<'a>, size: Size) -> Self {
        let (race, record) = (Race::default(), Record::default());
        let wake = call.deadline;
        Self { call, order, size, race, record, wake, due: Due::Slow, round: 1, sent: false, ended: (0, 0) }
    }

    async fn run(mut self, errand: &mut impl Errand) -> Result<(), ClientError> {
        self.ask(errand, Reason::First)?;
        let mut timer = std::pin::pin!(sleep_until(self.wake));
        loop {
            let ended = tokio::select! {
                biased;
                ended = self.race.next() => Some(ended),
                () = &mut timer => None,
            };
            match ended {
                Some((attempt, Ok(reply))) => {
                    if self.answered(errand, &attempt, reply)? {
                        return Ok(());
                    }
                }
                Some((attempt, Err(lost))) => self.lost(errand, &attempt, lost)?,
                None => self.wake(errand)?,
            }
            if timer.deadline() != self.wake {
                timer.as_mut().reset(self.wake);
            }
        }
    }

    fn routes(&self) -> &'a Arc<Routes> {
        &self.call.calls.routes
    }

    /// Asks the next node; after the last, begins another round.
    fn ask(&mut self, errand: &mut impl Errand, reason: Reason) -> Result<(), ClientError> {
        let now = Instant::now();
        while let Some(target) = self.order.next() {
            if !self.race.has(&target) {
                if !self.race.is_empty() {
                    errand.repeated();
                }
                self.start(errand, target, reason, now);
                return Ok(());
            }
        }
        if self.race.is_empty() && self.ended.0 > 0 && self.ended.0 == self.ended.1 && !self.record.maybe {
            return Err(ClientError::Refused(std::mem::take(&mut self.record.tried)));
        }
        if self.call.once {
            self.wake = self.call.deadline;
            return if self.race.is_empty() { Err(self.give_up(false)) } else { Ok(()) };
        }
        self.pause(now);
        self.round += 1;
        self.ended = (0, 0);
        self.order.again();
        Ok(())
    }

    fn start(&mut self, errand: &impl Errand, target: Arc<Target>, reason: Reason, now: Instant) {
        let patience = self.call.calls.patience.with(self.size);
        let patience = patience.map(|patience| match target.link.state() {
            // Nothing can have come of it sooner.
            LinkState::Up => patience.max(target.link.rtt().unwrap_or_default() * 2),
            _ => patience.clamp(CONNECT_PATIENCE, CONNECT_PATIENCE_MAX),
        });
        let (request, sent) = errand.request();
        let left = self.call.deadline.saturating_duration_since(now);
        self.routes().meter.attempts.one();
        self.race.start(
            Attempt::new(target, reason, sent, self.routes().now_us()),
            left,
            Traced { trace: self.call.trace, layout: None, request },
        );
        let more = self.race.has_room() && !self.order.is_single();
        (self.wake, self.due) = match patience.filter(|_| more) {
            Some(patience) => ((now + patience / 2).min(self.call.deadline), Due::Look(patience / 2)),
            None => (self.call.deadline, Due::Slow),
        };
    }

    /// Waits a while before the next attempt, which is then due as a repetition.
    fn pause(&mut self, now: Instant) {
        let longest = PAUSE.saturating_mul(1 << self.round.min(10)).min(PAUSE_MAX);
        let pause = longest.mul_f64(self.call.calls.scope.rng("client-pause").random_range(0.0..1.0));
        (self.wake, self.due) = ((now + pause).min(self.call.deadline), Due::Again);
    }

    /// Takes a reply; true when everything is settled.
    fn answered(&mut self, errand: &mut impl Errand, attempt: &Attempt, reply: Reply) -> Result<bool, ClientError> {
        let now_us = self.routes().now_us();
        let took = now_us.saturating_sub(attempt.started_us);
        self.routes().heard(&attempt.target, now_us);
        attempt.target.load.took(took, now_us / 1_000);
        if !self.race.is_empty() {
            // Whatever is refused here may have been done there.
            self.record.maybe |= errand.unanswered();
        }
        let taken = errand.take(&attempt.sent, reply);
        if matches!(&taken, Ok(Some(ServeError::Overloaded(_)))) {
            // A refusal comes fast, and must not make the node look as if its answers did.
            attempt.target.load.took(OVERLOAD_US.max(took), now_us / 1_000);
            self.routes().meter.overloads.one();
        }
        match taken {
            Ok(None) => {
                self.call.calls.patience.answered(self.size, Duration::from_micros(took));
                match attempt.reason {
                    Reason::First => {}
                    Reason::Hedge => self.routes().meter.hedges_won.one(),
                    Reason::Failover | Reason::Retry => self.call.calls.patience.retry_helped(),
                }
                return Ok(true);
            }
            Ok(Some(error)) => self.record.answered(&attempt.target, error),
            Err(error) => return Err(error.after(self.record.maybe)),
        }
        self.sent = true;
        self.ended.0 += 1;
        if !self.race.is_empty() {
            return Ok(false);
        }
        if self.call.once || self.call.calls.patience.may_retry(now_us) {
            self.routes().meter.retries.one();
            self.ask(errand, Reason::Retry)?;
        } else {
            self.routes().meter.retries_denied.one();
            self.pause(Instant::now());
        }
        Ok(false)
    }

    /// An attempt brought no reply.
    fn lost(&mut self, errand: &mut impl Errand, attempt: &Attempt, lost: Lost) -> Result<(), ClientError> {
        let error = match lost {
            Lost::Never(error) => return Err(error.after(self.record.maybe)),
            Lost::Link(error) => error,
        };
        if Instant::now() < self.call.deadline {
            self.routes().doubt(&attempt.target);
        }
        self.ended.0 += 1;
        self.ended.1 += u32::from(matches!(error, NetError::Refused { .. }));
        if !error.surely_not_executed() {
            self.sent = true;
            self.record.maybe |= errand.unanswered();
            errand.repeated();
        }
        self.record.note(&attempt.target, reason(error));
        if Instant::now() >= self.call.deadline {
            return Err(self.give_up(true));
        }
        // The node does nothing for this request any more: asking another one is no extra load.
        if self.race.is_empty() { self.ask(errand, Reason::Retry) } else { Ok(()) }
    }

    /// The time has come to do something though nothing was answered.
    fn wake(&mut self, errand: &mut impl Errand) -> Result<(), ClientError> {
        let now = Instant::now();
        if now >= self.call.deadline {
            self.record.maybe |= !self.race.is_empty() && errand.unanswered();
            return Err(self.give_up(true));
        }
        let now_us = self.routes().now_us();
        if let Due::Look(left) = self.due {
            self.race.look(now_us);
            (self.wake, self.due) = ((now + left).min(self.call.deadline), Due::Slow);
            return Ok(());
        }
        let silent = self.race.is_silent();
        if self.due == Due::Slow && !silent && !self.is_slow(now, now_us) {
            return Ok(());
        }
        let (patience, meter) = (&self.call.calls.patience, &self.routes().meter);
        let (reason, allowed) = match self.due {
            Due::Again if !self.sent => (Reason::Retry, true),
            Due::Again => (Reason::Retry, patience.may_retry(now_us)),
            Due::Slow if silent => (Reason::Failover, patience.may_retry(now_us)),
            Due::Slow | Due::Look(_) => (Reason::Hedge, patience.may_hedge(self.size, now_us)),
        };
        match (reason, allowed) {
            (Reason::Failover, true) => meter.failovers.one(),
            (Reason::Hedge, true) => meter.hedges.one(),
            (Reason::Hedge, false) => meter.hedges_denied.one(),
            (_, true) => meter.retries.one(),
            (_, false) => meter.retries_denied.one(),
        }
        for attempt in self.race.attempts() {
            attempt.target.load.took(now_us.saturating_sub(attempt.started_us), now_us / 1_000);
            if reason == Reason::Failover {
                self.routes().doubt(&attempt.target);
            }
        }
        tracing::debug!(request = %self.call.trace, ?reason, allowed, round = self.round, "an operation needs another attempt");
        if !allowed && self.due == Due::Slow {
            // Twice as long each time: many who wait for the budget must not keep each other busy.
            let waited = Duration::from_micros(now_us.saturating_sub(self.race.latest_us()));
            self.wake = (now + waited.max(PAUSE)).min(self.call.deadline);
            self.race.look(now_us);
            return Ok(());
        }
        if !allowed {
            self.pause(now);
            return Ok(());
        }
        self.sent = false;
        self.ask(errand, reason)
    }

    /// Whether a node that is not silent has taken longer than answers take. If not, the next look is put off until it has.
    fn is_slow(&mut self, now: Instant, now_us: u64) -> bool {
        let waited = Duration::from_micros(now_us.saturating_sub(self.race.latest_us()));
        let left = match self.call.calls.patience.with_slow(self.size) {
            Some(slow) => slow.saturating_sub(waited),
            // Only silence counts; that is looked for again and again, at growing intervals.
            None => waited.max(PAUSE),
        };
        self.wake = (now + left).min(self.call.deadline);
        self.race.look(now_us);
        left.is_zero()
    }

    /// The error after all tries.
    fn give_up(&mut self, timed_out: bool) -> ClientError {
        for attempt in self.race.attempts() {
            self.record.note(&attempt.target, "did not answer before the deadline".to_owned());
        }
        std::mem::take(&mut self.record).give_up(timed_out)
    }
}

/// What became of the attempts so far.
#[derive(Default)]
struct Record {
    /// Whether some attempt may have been executed without our knowing.
    maybe: bool,
    /// Nodes with the last reason of each.
    tried: Vec<(String, String)>,
    /// What a node said last.
    said: Option<ServeError>,
}

impl Record {
    fn note(&mut self, target: &Target, why: String) {
        self.tried.retain(|(node, _)| *node != target.label);
        self.tried.push((target.label.clone(), why));
    }

    fn answered(&mut self, target: &Target, error: ServeError) {
        self.maybe |= ClientError::from(error.clone()).may_have_applied();
        self.note(target, error.to_string());
        self.said = Some(error);
    }

    /// A quorum that was not met says most, else who was tried and why that was in vain.
    fn give_up(self, timed_out: bool) -> ClientError {
        match self.said {
            Some(ServeError::Quorum(mut error)) => {
                error.may_appear |= self.maybe;
                ClientError::Quorum(error)
            }
            Some(error) if !self.maybe && self.tried.len() == 1 => ClientError::Rejected(error),
            _ => {
                let Self { maybe, tried, .. } = self;
                ClientError::Unreachable(Unreachable { timed_out, maybe, tried, trace: None })
            }
        }
    }
}

/// The reason alone: whom it is about is said beside it.
fn reason(error: NetError) -> String {
    match error {
        NetError::NotSent { reason, .. } | NetError::Refused { reason, .. } | NetError::Unanswered { reason, .. } => {
            reason.to_string()
        }
        other => other.to_string(),
    }
}

/// A request that is answered as a whole, and changes nothing.
struct Whole {
    request: Request,
    reply: Option<Reply>,
}

impl Errand for Whole {
    fn size(&self) -> Size {
        Size { kind: Kind::Other, items: 1, bytes: 0, alone: false }
    }

    fn about(&self) -> (&'static str, Option<&Namespace>) {
        (self.request.verb(), self.request.namespace())
    }

    fn request(&self) -> (Request, Sent) {
        (self.request.clone(), None)
    }

    fn take(&mut self, _sent: &Sent, reply: Reply) -> Result<Option<ServeError>, ClientError> {
        match reply {
            Reply::Error(error) if error.is_retryable() => Ok(Some(error)),
            Reply::Error(error) => Err(error.into()),
            reply => {
                self.reply = Some(reply);
                Ok(None)
            }
        }
    }
}

/// The error of a reply that does not fit its request.
pub(crate) fn unexpected() -> ClientError {
    ClientError::Protocol("a node sent a reply of the wrong kind: upgrade it or this client".to_owned())
}
