//! What a client did, as numbers: counted where it happens, read as one snapshot.

use std::time::Duration;

use crate::client::ClientError;
use crate::meter::Counter;
use crate::meter::Distribution;
use crate::meter::Histogram;

/// What an operation is, as far as counting and waiting are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    /// A page of a scan, or a question about the cluster.
    Other,
}

/// Counts of one kind of operation. A batch counts once for each of its requests.
#[derive(Debug, Default)]
struct Operations {
    done: Counter,
    failed: Counter,
    latency: Histogram,
}

/// The counters of one client.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    kinds: [Operations; 3],
    pub(crate) attempts: Counter,
    pub(crate) hedges: Counter,
    pub(crate) hedges_won: Counter,
    pub(crate) hedges_denied: Counter,
    pub(crate) failovers: Counter,
    pub(crate) retries: Counter,
    pub(crate) retries_denied: Counter,
    pub(crate) overloads: Counter,
    pub(crate) doubts: Counter,
    pub(crate) views: Counter,
    pub(crate) waits: Counter,
}

impl Meter {
    pub(crate) fn ended<T>(&self, kind: Kind, latency: Duration, outcome: &Result<T, ClientError>) {
        let operations = &self.kinds[kind as usize];
        match outcome {
            Ok(_) => operations.done.one(),
            Err(_) => operations.failed.one(),
        }
        operations.latency.record(latency);
    }

    fn operations(&self, kind: Kind) -> OperationMetrics {
        let operations = &self.kinds[kind as usize];
        OperationMetrics {
            done: operations.done.get(),
            failed: operations.failed.get(),
            latency: operations.latency.read(),
        }
    }

    pub(crate) fn snapshot(&self) -> ClientMetrics {
        ClientMetrics {
            reads: self.operations(Kind::Read),
            writes: self.operations(Kind::Write),
            others: self.operations(Kind::Other),
            attempts: self.attempts.get(),
            hedges: self.hedges.get(),
            hedges_won: self.hedges_won.get(),
            hedges_denied: self.hedges_denied.get(),
            failovers: self.failovers.get(),
            retries: self.retries.get(),
            retries_denied: self.retries_denied.get(),
            overloads: self.overloads.get(),
            doubts: self.doubts.get(),
            views: self.views.get(),
            waits: self.waits.get(),
            ..ClientMetrics::default()
        }
    }
}

/// One kind of operation, counted since the client began. A batch counts once for each of its requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OperationMetrics {
    /// Requests that were answered; single keys in them may have failed.
    pub done: u64,
    /// Requests that were not.
    pub failed: u64,
    /// How long they took, retries included.
    pub latency: Distribution,
}

/// What a client did since it began, and how it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientMetrics {
    /// Gets.
    pub reads: OperationMetrics,
    /// Puts and deletes.
    pub writes: OperationMetrics,
    /// Pages of scans, and questions about the cluster.
    pub others: OperationMetrics,
    /// Requests sent to nodes: operations, and everything beyond.
    pub attempts: u64,
    /// Requests sent to a second node because the first was slow.
    pub hedges: u64,
    /// Operations that a second or third node answered first.
    pub hedges_won: u64,
    /// Hedges not sent, since the budget was spent.
    pub hedges_denied: u64,
    /// Requests sent to another node because the first had fallen silent.
    pub failovers: u64,
    /// Requests repeated because of what was answered.
    pub retries: u64,
    /// Times a repetition had to wait for the budget.
    pub retries_denied: u64,
    /// Requests that a node turned away because it had too much to do.
    pub overloads: u64,
    /// Times a node let a request down and was avoided from then on.
    pub doubts: u64,
    /// Descriptions of the cluster that were taken up.
    pub views: u64,
    /// Operations that waited because as many as allowed were under way.
    pub waits: u64,
    /// Operations under way now; one with a large request counts as several.
    pub under_way: usize,
    /// Connections that stand now.
    pub connections: usize,
    /// UDP packets sent on the connections that stand now.
    pub packets_sent: u64,
    /// UDP packets received on them.
    pub packets_received: u64,
    /// Bytes of frames sent.
    pub bytes_sent: u64,
    /// Bytes of frames received.
    pub bytes_received: u64,
}
