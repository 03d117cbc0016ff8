//! One request on its way: node after node until one answers or the deadline passes.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use rand::RngExt;
use tokio::time::{Instant, sleep_until};

use crate::client::error::{ClientError, Unreachable};
use crate::client::route::Target;
use crate::env::Env;
use crate::net::NetError;
use crate::wire::blob;
use crate::wire::rpc::{Reply, Request, ServeError};

/// Share of the time left that one attempt may take while there are others to try.
const ATTEMPT_SHARE: u32 = 3;
/// First pause after all nodes were tried in vain; doubled each round, with full jitter.
const PAUSE: Duration = Duration::from_millis(20);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);

pub(crate) struct Call<'a> {
    targets: Vec<Target>,
    deadline: Instant,
    env: &'a Env,
    rounds: u32,
    maybe: bool,
    tried: Vec<(String, String)>,
}

/// What an attempt came to.
enum Attempt {
    Done(Reply),
    /// Another attempt may succeed.
    Again(ClientError),
}

impl<'a> Call<'a> {
    pub(crate) fn new(targets: Vec<Target>, deadline: Instant, env: &'a Env) -> Self {
        Self { targets, deadline, env, rounds: u32::MAX, maybe: false, tried: Vec::new() }
    }

    /// Tries each node once only.
    #[must_use]
    pub(crate) fn once(mut self) -> Self {
        self.rounds = 1;
        self
    }

    pub(crate) async fn send(mut self, mut request: Request) -> Result<Reply, ClientError> {
        let mut round = 0;
        let mut last = None;
        loop {
            for at in 0..self.targets.len() {
                if Instant::now() >= self.deadline {
                    return Err(self.give_up(last, true));
                }
                match self.attempt(at, &request).await? {
                    Attempt::Done(reply) => return Ok(reply),
                    Attempt::Again(error) => {
                        self.maybe |= error.may_have_applied();
                        last = Some(error);
                    }
                }
                if let Request::Put(put) = &mut request {
                    put.retry |= self.maybe;
                }
            }
            round += 1;
            if round >= self.rounds || !self.pause(round).await {
                return Err(self.give_up(last, round < self.rounds));
            }
        }
    }

    /// Asks one node. An error is final.
    async fn attempt(&mut self, at: usize, request: &Request) -> Result<Attempt, ClientError> {
        let target = self.targets[at].clone();
        let now = Instant::now();
        let left = self.deadline - now;
        let share = if self.targets.len() > 1 { left / ATTEMPT_SHARE } else { left };
        let answer = target
            .link
            .request(share, |frame: &mut BytesMut| {
                postcard::to_io(request, frame.writer()).expect("messages always encode into memory");
            })
            .await;
        let reply = match answer {
            Ok(bytes) => blob::decode::<Reply>(&bytes).map_err(|error| {
                ClientError::Protocol(format!("{} sent an unreadable reply: {error}", target.label))
            })?,
            Err(error @ NetError::TooLarge { .. }) => return Err(ClientError::Config(error.to_string())),
            Err(error) => return Ok(Attempt::Again(self.note(target.label, &error))),
        };
        match retryable(&reply) {
            Some(error) => {
                self.tried.retain(|(node, _)| *node != target.label);
                self.tried.push((target.label, error.to_string()));
                Ok(Attempt::Again(error.clone().into()))
            }
            None => match reply {
                Reply::Error(error) => Err(error.into()),
                reply => Ok(Attempt::Done(reply)),
            },
        }
    }

    fn note(&mut self, label: String, error: &NetError) -> ClientError {
        let maybe = !error.surely_not_executed();
        self.tried.retain(|(node, _)| *node != label);
        self.tried.push((label, error.to_string()));
        ClientError::Unreachable(Unreachable { timed_out: false, maybe, tried: self.tried.clone() })
    }

    /// Waits before the next round; false when the deadline comes first.
    async fn pause(&self, round: u32) -> bool {
        let longest = PAUSE.saturating_mul(1 << round.min(10)).min(PAUSE_MAX);
        let pause = longest.mul_f64(self.env.rng("client-pause").random_range(0.0..1.0));
        let until = Instant::now() + pause;
        sleep_until(until.min(self.deadline)).await;
        until < self.deadline
    }

    /// The error after all tries: what the last node said, if it said something, else who could not be reached.
    fn give_up(&self, last: Option<ClientError>, timed_out: bool) -> ClientError {
        match last {
            Some(ClientError::Quorum(mut error)) => {
                error.may_appear |= self.maybe;
                ClientError::Quorum(error)
            }
            Some(error @ ClientError::Rejected(_)) if !self.maybe => error,
            _ => ClientError::Unreachable(Unreachable { timed_out, maybe: self.maybe, tried: self.tried.clone() }),
        }
    }
}

/// The error in a reply that another attempt may avoid. In a batch, one such error makes the whole be tried again:
/// what was applied is recognised.
fn retryable(reply: &Reply) -> Option<&ServeError> {
    let error = match reply {
        Reply::Error(error) => Some(error),
        Reply::Put(outcomes) => outcomes.iter().find_map(|outcome| outcome.as_ref().err().filter(|e| e.is_retryable())),
        Reply::Get(outcomes) => outcomes.iter().find_map(|outcome| outcome.as_ref().err().filter(|e| e.is_retryable())),
        _ => None,
    };
    error.filter(|error| error.is_retryable())
}

/// The error of a reply that does not fit its request.
pub(crate) fn unexpected() -> ClientError {
    ClientError::Protocol("a node sent a reply of the wrong kind: upgrade it or this client".to_owned())
}
