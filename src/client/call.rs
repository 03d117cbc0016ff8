//! One request on its way: node after node until one answers or the deadline passes.
//!
//! What is repeated, and when an answer suffices, is the [`Errand`]'s to say. Nothing here knows a ring: the targets come
//! in order.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use rand::RngExt;
use tokio::time::{Instant, sleep_until};

use crate::client::error::{ClientError, Unreachable};
use crate::client::route::{Routes, Target};
use crate::env::Env;
use crate::net::NetError;
use crate::net::link::LinkState;
use crate::types::TraceId;
use crate::wire::blob;
use crate::wire::rpc::{Reply, Request, ServeError, Traced};

/// Share of the time left that one attempt may take while there are others to try.
const ATTEMPT_SHARE: u32 = 3;
/// How long a node that is not connected yet is waited for in the first round while there are others to try; doubled
/// each round. A dead node must not hold up a client that has just begun.
const CONNECT_PATIENCE: Duration = Duration::from_millis(250);
/// First pause after all nodes were tried in vain; doubled each round, with full jitter.
const PAUSE: Duration = Duration::from_millis(20);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What is to be asked until it is answered.
pub(crate) trait Errand {
    /// What to send now: what is not settled yet.
    fn request(&self) -> Request;
    /// Takes a reply. `None` when everything is settled, otherwise the reason to ask again.
    ///
    /// # Errors
    /// When asking again is of no use.
    fn take(&mut self, reply: Reply) -> Result<Option<ServeError>, ClientError>;
    /// Learns that the request may have been executed though no reply came. False when that changes nothing.
    fn unanswered(&mut self) -> bool {
        false
    }
}

/// A way to ask: whom, and for how long.
pub(crate) struct Call<'a> {
    pub(crate) routes: &'a Routes,
    pub(crate) env: &'a Env,
    pub(crate) deadline: Instant,
    /// The number under which all nodes log it.
    pub(crate) trace: TraceId,
    /// Whether each node is tried once only.
    pub(crate) once: bool,
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

impl Call<'_> {
    /// Sends a request that is answered as a whole.
    pub(crate) async fn send(&self, targets: &[Target], request: Request) -> Result<Reply, ClientError> {
        let mut whole = Whole { request, reply: None };
        self.run(targets, &mut whole).await.map_err(|error| error.of(self.trace))?;
        whole.reply.ok_or_else(unexpected)
    }

    /// Asks until the errand is settled.
    ///
    /// # Errors
    /// Why what is not settled yet cannot be.
    pub(crate) async fn run(&self, targets: &[Target], errand: &mut impl Errand) -> Result<(), ClientError> {
        let mut record = Record::default();
        let several = targets.len() > 1;
        for round in 1_u32.. {
            let mut refused = !targets.is_empty();
            for target in targets {
                let left = self.deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(record.give_up(true));
                }
                let share = match target.link.state() {
                    _ if !several => left,
                    LinkState::Up => left / ATTEMPT_SHARE,
                    _ => (left / ATTEMPT_SHARE).min(CONNECT_PATIENCE * (1 << round.min(10)) / 2),
                };
                match self.ask(target, share, errand.request()).await {
                    Ok(reply) => {
                        refused = false;
                        match errand.take(reply) {
                            Ok(None) => return Ok(()),
                            Ok(Some(error)) => record.answered(target, error),
                            Err(error) => return Err(error.after(record.maybe)),
                        }
                    }
                    Err(Lost::Never(error)) => return Err(error),
                    Err(Lost::Link(error)) => {
                        refused &= matches!(error, NetError::Refused { .. });
                        if !error.surely_not_executed() {
                            record.maybe |= errand.unanswered();
                        }
                        record.note(target, reason(error));
                    }
                }
            }
            if refused && !record.maybe {
                return Err(ClientError::Refused(record.tried));
            }
            if self.once || !self.pause(round).await {
                return Err(record.give_up(!self.once));
            }
        }
        Err(record.give_up(true))
    }

    /// Asks one node once.
    async fn ask(&self, target: &Target, patience: Duration, request: Request) -> Result<Reply, Lost> {
        let traced = Traced { trace: self.trace, request };
        let encode = |frame: &mut BytesMut| {
            postcard::to_io(&traced, frame.writer()).expect("messages always encode into memory");
        };
        match target.link.request(patience, encode).await {
            Ok(bytes) => blob::decode::<Reply>(&bytes).map_err(|error| {
                let text = format!("{} sent an unreadable reply ({error}): upgrade it or this client", target.label);
                Lost::Never(ClientError::Protocol(text))
            }),
            Err(error @ NetError::TooLarge { .. }) => Err(Lost::Never(ClientError::Config(error.to_string()))),
            Err(error) => {
                // Others are preferred for a while: a node that does not answer costs each request its share of time.
                self.routes.shun(&target.label);
                Err(Lost::Link(error))
            }
        }
    }

    /// Waits before the next round; false when the deadline comes first.
    async fn pause(&self, round: u32) -> bool {
        let longest = PAUSE.saturating_mul(1 << round.min(10)).min(PAUSE_MAX);
        let pause = longest.mul_f64(self.env.rng("client-pause").random_range(0.0..1.0));
        let until = Instant::now() + pause;
        sleep_until(until.min(self.deadline)).await;
        until < self.deadline
    }
}

/// Why an attempt brought no reply.
enum Lost {
    /// No attempt will.
    Never(ClientError),
    /// Another one may.
    Link(NetError),
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

    /// The error after all tries: a quorum that was not met says most, else who was tried and why that was in vain.
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
    fn request(&self) -> Request {
        self.request.clone()
    }

    fn take(&mut self, reply: Reply) -> Result<Option<ServeError>, ClientError> {
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
