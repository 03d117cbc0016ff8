//! What load is put on: the seam between the measuring core and a cluster, so that the core can be tried on a target
//! whose delays are known.

use std::future::Future;

use crate::cli::bench::workload::Operation;

/// Something that carries out operations.
pub(super) trait Target: Send + Sync + 'static {
    /// Carries one out, to its end. It may be dropped on the way.
    fn perform(&self, operation: Operation) -> impl Future<Output = Result<Answer, Problem>> + Send;
}

/// What came of an operation that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Answer {
    /// A read found no value.
    pub(super) missing: bool,
    /// A read found several values, written concurrently.
    pub(super) siblings: bool,
    /// A write was preceded by a read, to replace what concurrent writes had left.
    pub(super) settled: bool,
}

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// In a word, to be counted by.
    pub(super) kind: &'static str,
    /// In full.
    pub(super) text: String,
}
