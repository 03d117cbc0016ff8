//! Requests whose keys stand and fail alone: each is settled by itself, and only the others are asked for again.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::Instant;

use crate::client::call::{Errand, Sent, unexpected};
use crate::client::choose::Pick;
use crate::client::hedge::Size;
use crate::client::metrics::Kind;
use crate::client::{CausalContext, Client, ClientError, Found, GetOptions, PutOptions, Unreachable, Written, resolve};
use crate::limits;
use crate::types::{Condition, Consistency, Namespace};
use crate::wire::blob::Blob;
use crate::wire::rpc::{self, GetRequest, PutItem, PutRequest, Reply, Request, ServeError};

/// Requests of one batch that are under way at once.
const AT_ONCE: usize = 16;
/// What a key takes in a request beside its bytes, context not counted.
const ITEM_OVERHEAD: usize = 64;
/// By how much groups shrink whose values did not fit one reply.
const SHRINK: usize = 8;

/// One write of a batch.
#[derive(Debug, Clone)]
pub struct BatchPut {
    /// The key.
    pub key: Bytes,
    /// The value; `None` deletes.
    pub value: Option<Bytes>,
    /// What was read of this key before.
    pub context: CausalContext,
    /// Life of the value from now on.
    pub ttl: Option<Duration>,
    /// What must hold for it to be written.
    pub condition: Option<Condition>,
}

/// Something that is asked for of several keys at once.
pub(crate) trait Batch {
    /// What is asked of one key.
    type Item: Clone;
    /// What comes of one key.
    type Done: Clone;
    /// Whether executing it changes anything.
    const WRITES: bool;
    /// Where the keys live.
    fn namespace(&self) -> &Namespace;
    /// The request for these. `retry` when some may have been executed before.
    fn request(&self, items: Vec<Self::Item>, retry: bool) -> Request;
    /// Bytes of an item.
    fn bytes(item: &Self::Item) -> usize;
    /// Whether two requests with this item must not be under way at once.
    fn alone(_item: &Self::Item) -> bool {
        false
    }
    /// The outcomes in a reply. `None` when it is of another kind.
    fn outcomes(reply: Reply) -> Option<Vec<Result<Self::Done, ServeError>>>;
}

/// Writes.
pub(crate) struct Puts {
    pub(crate) namespace: Namespace,
    pub(crate) w: Option<Consistency>,
    pub(crate) sloppy: Option<bool>,
}

impl Batch for Puts {
    type Item = PutItem;
    type Done = Written;
    const WRITES: bool = true;

    fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    fn request(&self, items: Vec<PutItem>, retry: bool) -> Request {
        let Self { namespace, w, sloppy } = self;
        Request::Put(PutRequest { namespace: namespace.clone(), items, w: *w, sloppy: *sloppy, retry })
    }

    fn bytes(item: &PutItem) -> usize {
        item.key.len() + item.value.as_ref().map_or(0, |value| value.len())
    }

    /// Two attempts at a conditional write compete for the key, and the one that loses says that the condition does not hold.
    fn alone(item: &PutItem) -> bool {
        item.condition.is_some()
    }

    fn outcomes(reply: Reply) -> Option<Vec<Result<Written, ServeError>>> {
        let Reply::Put(outcomes) = reply else { return None };
        Some(outcomes.into_iter().map(|outcome| outcome.map(Written::from)).collect())
    }
}

/// Reads.
pub(crate) struct Gets {
    pub(crate) namespace: Namespace,
    pub(crate) r: Option<Consistency>,
    pub(crate) strict: bool,
}

impl Batch for Gets {
    type Item = Blob;
    type Done = Found;
    const WRITES: bool = false;

    fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    fn request(&self, keys: Vec<Blob>, _retry: bool) -> Request {
        Request::Get(GetRequest { namespace: self.namespace.clone(), keys, r: self.r, strict: self.strict })
    }

    fn bytes(key: &Blob) -> usize {
        key.len()
    }

    fn outcomes(reply: Reply) -> Option<Vec<Result<Found, ServeError>>> {
        let Reply::Get(outcomes) = reply else { return None };
        Some(outcomes.into_iter().map(|outcome| outcome.map(Found::from)).collect())
    }
}

/// A batch on its way.
pub(crate) struct Each<B: Batch> {
    batch: B,
    items: Vec<Item<B>>,
    retry: bool,
}

struct Item<B: Batch> {
    ask: B::Item,
    settled: Option<Result<B::Done, ClientError>>,
    /// What was said of it last, when that was no final answer.
    said: Option<ServeError>,
    /// Whether it may have been executed.
    maybe: bool,
}

impl<B: Batch> Each<B> {
    pub(crate) fn new(batch: B, items: impl IntoIterator<Item = B::Item>) -> Self {
        let item = |ask| Item { ask, settled: None, said: None, maybe: false };
        Self { batch, items: items.into_iter().map(item).collect(), retry: false }
    }

    /// One outcome for each item, in order; `error` for those that were never settled.
    pub(crate) fn finish(self, error: Result<(), ClientError>) -> Vec<Result<B::Done, ClientError>> {
        let error = error.err().unwrap_or_else(unexpected);
        let outcome = |item: Item<B>| item.settled.unwrap_or_else(|| Err(left(&error, item.said, item.maybe)));
        self.items.into_iter().map(outcome).collect()
    }

    fn pending(&mut self) -> impl Iterator<Item = &mut Item<B>> {
        self.items.iter_mut().filter(|item| item.settled.is_none())
    }
}

/// The error of an item that was not settled: what was said of it last, when trying on is what failed.
fn left(general: &ClientError, said: Option<ServeError>, maybe: bool) -> ClientError {
    match (said, general) {
        (Some(ServeError::Quorum(mut quorum)), general) if general.is_retryable() => {
            quorum.may_appear |= maybe;
            ClientError::Quorum(quorum)
        }
        (Some(said), ClientError::Rejected(error)) if !maybe && error.is_retryable() => ClientError::Rejected(said),
        (_, ClientError::Unreachable(unreachable)) => {
            ClientError::Unreachable(Unreachable { maybe, ..unreachable.clone() })
        }
        (_, general) => general.clone().after(maybe),
    }
}

impl<B: Batch> Errand for Each<B> {
    fn size(&self) -> Size {
        let kind = if B::WRITES { Kind::Write } else { Kind::Read };
        let bytes = self.items.iter().map(|item| B::bytes(&item.ask)).sum();
        Size { kind, items: self.items.len(), bytes, alone: self.items.iter().any(|item| B::alone(&item.ask)) }
    }

    fn about(&self) -> (&'static str, Option<&Namespace>) {
        (if B::WRITES { "put" } else { "get" }, Some(self.batch.namespace()))
    }

    fn request(&self) -> (Request, Sent) {
        let open = || self.items.iter().enumerate().filter(|(_, item)| item.settled.is_none());
        let asks: Vec<B::Item> = open().map(|(_, item)| item.ask.clone()).collect();
        let sent = (asks.len() < self.items.len()).then(|| open().map(|(at, _)| at).collect());
        (self.batch.request(asks, self.retry), sent)
    }

    fn take(&mut self, sent: &Sent, reply: Reply) -> Result<Option<ServeError>, ClientError> {
        let outcomes = match reply {
            Reply::Error(error) if error.is_retryable() => {
                let maybe = B::WRITES && ClientError::from(error.clone()).may_have_applied();
                self.retry |= maybe;
                for item in self.pending() {
                    item.maybe |= maybe;
                    item.said = Some(error.clone());
                }
                return Ok(Some(error));
            }
            Reply::Error(error) => return Err(error.into()),
            reply => B::outcomes(reply).ok_or_else(unexpected)?,
        };
        if outcomes.len() != sent.as_ref().map_or(self.items.len(), Vec::len) {
            return Err(unexpected());
        }
        let mut again = None;
        for (at, outcome) in outcomes.into_iter().enumerate() {
            let place = sent.as_ref().map_or(at, |sent| sent[at]);
            // Another attempt may have settled it meanwhile.
            let Some(item) = self.items.get_mut(place).filter(|item| item.settled.is_none()) else { continue };
            match outcome {
                Err(error) if error.is_retryable() => {
                    item.maybe |= B::WRITES && ClientError::from(error.clone()).may_have_applied();
                    self.retry |= item.maybe;
                    item.said = Some(error.clone());
                    again = Some(error);
                }
                outcome => item.settled = Some(outcome.map_err(|error| ClientError::from(error).after(item.maybe))),
            }
        }
        // What this attempt was not asked for, another one had settled when it was sent.
        Ok(again)
    }

    fn repeated(&mut self) {
        self.retry |= B::WRITES;
    }

    fn unanswered(&mut self) -> bool {
        self.retry |= B::WRITES;
        self.pending().for_each(|item| item.maybe |= B::WRITES);
        B::WRITES
    }
}

impl Client {
    /// Reads several keys, with one request to each owner concerned; one outcome each, in order. More keys than one
    /// request may name, and values that do not fit one reply, are asked for in several.
    pub async fn multi_get(&self, keys: &[Bytes], options: GetOptions) -> Vec<Result<Found, ClientError>> {
        let deadline = self.deadline(options.timeout);
        let mut outcomes: BTreeMap<usize, Result<Found, ClientError>> = BTreeMap::new();
        let mut left: Vec<usize> = Vec::new();
        for (at, key) in keys.iter().enumerate() {
            match rpc::check_key(key) {
                Ok(()) => left.push(at),
                Err(error) => drop(outcomes.insert(at, Err(error.into()))),
            }
        }
        let mut most = limits::BATCH_KEYS_MAX;
        while !left.is_empty() {
            let groups = self.by_owner(left.drain(..).map(|at| (at, &keys[at], 0)), most);
            let asks = groups.into_iter().map(|group| async move {
                let gets = Gets { namespace: self.namespace.clone(), r: options.r, strict: options.strict };
                let each = Each::new(gets, group.iter().map(|at| Blob(keys[*at].clone())));
                let found = self.settle(each, &keys[group[0]], Pick::Same, deadline).await;
                (group, found)
            });
            let mut answers = stream::iter(asks).buffer_unordered(AT_ONCE);
            while let Some((group, found)) = answers.next().await {
                let several = group.len() > 1;
                for (at, outcome) in group.into_iter().zip(found) {
                    match outcome {
                        Err(ClientError::Rejected(ServeError::Limit(_))) if several => left.push(at),
                        outcome => {
                            let resolve = |found| resolve::apply(self.resolver.as_deref(), &keys[at], found);
                            outcomes.insert(at, outcome.map(resolve));
                        }
                    }
                }
            }
            most = (most / SHRINK).max(1);
        }
        outcomes.into_values().collect()
    }

    /// Writes several keys, in as few requests to the owners concerned as their limits allow; each stands and fails
    /// alone, one outcome each, in order. The options' context and ttl are not used: each item has its own.
    pub async fn multi_put(&self, puts: Vec<BatchPut>, options: PutOptions) -> Vec<Result<Written, ClientError>> {
        let deadline = self.deadline(options.timeout);
        let mut outcomes: BTreeMap<usize, Result<Written, ClientError>> = BTreeMap::new();
        let mut sendable = Vec::with_capacity(puts.len());
        for (at, put) in puts.iter().enumerate() {
            let value = put.value.as_ref().map_or(0, Bytes::len);
            match rpc::check_key(&put.key).and_then(|()| rpc::check_value(value)) {
                Ok(()) => sendable.push((at, &put.key, put.key.len() + value)),
                Err(error) => drop(outcomes.insert(at, Err(error.into()))),
            }
        }
        let (puts, options) = (&puts, &options);
        let groups = self.by_owner(sendable.into_iter(), limits::BATCH_KEYS_MAX);
        let asks = groups.into_iter().map(|group| async move {
            let batch = Puts { namespace: self.namespace.clone(), w: options.w, sloppy: options.sloppy };
            let each = Each::new(batch, group.iter().map(|at| self.item(puts[*at].clone())));
            let written = self.settle(each, &puts[group[0]].key, Pick::Same, deadline).await;
            group.into_iter().zip(written)
        });
        let mut answers = stream::iter(asks).buffer_unordered(AT_ONCE);
        while let Some(written) = answers.next().await {
            outcomes.extend(written);
        }
        outcomes.into_values().collect()
    }

    /// Sends a batch to whoever is best for `key`; one outcome each, in order.
    pub(crate) async fn settle<B: Batch>(
        &self,
        mut each: Each<B>,
        key: &[u8],
        pick: Pick,
        deadline: Instant,
    ) -> Vec<Result<B::Done, ClientError>> {
        let order = self.order(key, pick);
        let call = self.call(deadline);
        let result = call.run(order, &mut each).await;
        each.finish(result).into_iter().map(|outcome| outcome.map_err(|error| error.of(call.trace))).collect()
    }

    /// Groups keys (place in the list, key, bytes) by the node to ask, within the bounds of one request.
    fn by_owner<'a>(&self, keys: impl Iterator<Item = (usize, &'a Bytes, usize)>, most: usize) -> Vec<Vec<usize>> {
        let mut groups: BTreeMap<Option<u64>, Vec<(usize, Vec<usize>)>> = BTreeMap::new();
        for (at, key, bytes) in keys {
            let owner = self.order(key, Pick::Same).next().map(|target| target.number);
            let group = groups.entry(owner).or_default();
            let bytes = bytes + ITEM_OVERHEAD;
            match group.last_mut() {
                Some((total, last)) if last.len() < most && *total + bytes <= limits::BATCH_BYTES_MAX => {
                    *total += bytes;
                    last.push(at);
                }
                _ => group.push((bytes, vec![at])),
            }
        }
        groups.into_values().flatten().map(|(_, group)| group).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Epoch, NodeId};
    use crate::version::{Actor, Dot, RequestId};
    use crate::wire::rpc::{KeyContext, PutDone, QuorumError, Verb};

    fn puts(count: u64) -> Each<Puts> {
        let item = |sequence| PutItem {
            key: Blob::copy(&[0]),
            value: None,
            context: KeyContext::default(),
            request: RequestId { client: 1, sequence },
            ttl: None,
            condition: None,
        };
        Each::new(Puts { namespace: Namespace::default(), w: None, sloppy: None }, (1..=count).map(item))
    }

    fn done(counter: u64) -> Result<PutDone, ServeError> {
        let dot = Dot { actor: Actor { node: NodeId(1), epoch: Epoch(1) }, counter };
        Ok(PutDone { context: KeyContext::default(), dot, acks: 2 })
    }

    fn sent(each: &Each<Puts>) -> (Vec<u64>, bool) {
        let (Request::Put(put), _) = each.request() else { panic!("not a put") };
        (put.items.iter().map(|item| item.request.sequence).collect(), put.retry)
    }

    fn quorum(may_appear: bool) -> Result<PutDone, ServeError> {
        let error = QuorumError { verb: Verb::Write, needed: 2, got: vec![], missing: vec![], may_appear, trace: None };
        Err(ServeError::Quorum(Box::new(error)))
    }

    #[test]
    fn what_is_settled_is_not_sent_again_and_keeps_its_outcome() {
        let mut each = puts(3);
        let limit = ServeError::Limit("too much".into());
        let again = each.take(&None, Reply::Put(vec![done(1), quorum(false), Err(limit.clone())])).unwrap();
        assert!(matches!(again, Some(ServeError::Quorum(_))));
        assert_eq!(sent(&each), (vec![2], false));
        let general = Unreachable { timed_out: true, maybe: false, tried: Vec::new(), trace: None };
        let outcomes = each.finish(Err(ClientError::Unreachable(general)));
        assert_eq!(outcomes[0].as_ref().unwrap().dot.counter, 1);
        assert!(matches!(&outcomes[1], Err(ClientError::Quorum(error)) if !error.may_appear));
        assert!(matches!(&outcomes[2], Err(ClientError::Rejected(error)) if *error == limit));
    }

    #[test]
    fn what_may_have_been_executed_is_marked_as_a_retry_and_never_called_undone() {
        let mut each = puts(2);
        each.unanswered();
        assert_eq!(sent(&each), (vec![1, 2], true));
        let again = each.take(&None, Reply::Put(vec![done(1), Err(ServeError::Limit("full".into()))])).unwrap();
        assert_eq!(again, None);
        let outcomes = each.finish(Ok(()));
        assert!(outcomes[0].is_ok());
        let error = outcomes[1].as_ref().unwrap_err();
        assert!(error.may_have_applied(), "{error}");
        assert!(error.to_string().contains("full"), "{error}");
    }

    #[test]
    fn a_quorum_that_may_appear_is_remembered_through_later_failures() {
        let mut each = puts(1);
        each.take(&None, Reply::Put(vec![quorum(true)])).unwrap();
        assert_eq!(sent(&each), (vec![1], true));
        each.take(&None, Reply::Error(ServeError::Unavailable("stopping".into()))).unwrap();
        let general = Unreachable { timed_out: true, maybe: true, tried: Vec::new(), trace: None };
        let outcomes = each.finish(Err(ClientError::Unreachable(general)));
        assert!(matches!(&outcomes[0], Err(error) if error.may_have_applied()));
    }

    #[test]
    fn a_reply_with_too_few_outcomes_is_not_believed() {
        assert!(matches!(puts(2).take(&None, Reply::Put(vec![done(1)])), Err(ClientError::Protocol(_))));
        assert!(matches!(puts(1).take(&None, Reply::Get(vec![])), Err(ClientError::Protocol(_))));
    }
}
