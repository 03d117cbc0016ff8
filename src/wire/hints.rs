//! What a node tells of the hints that it keeps for others. Hints themselves travel as records.

use serde::{Deserialize, Serialize};

use crate::types::NodeName;

/// The hints that a node keeps for another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HintsFor {
    /// Whom they are for.
    pub name: NodeName,
    /// How many there are.
    pub count: u64,
    /// Bytes of their markers; the records lie beside the node's own.
    pub bytes: u64,
    /// Age of the oldest, or of the oldest mark, in milliseconds.
    pub oldest_ms: u64,
    /// Partitions, as many as the founding had, that are marked: hints beyond the budget collapsed to "all that is kept of it".
    pub marked: u64,
}
