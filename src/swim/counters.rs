//! What the state machine counted since it began, for metrics.

/// Counts since the start. Each kind of refused input has its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams taken.
    pub received: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Bytes of datagrams sent, before sealing.
    pub sent_bytes: u64,
    /// Probes begun.
    pub probes: u64,
    /// Probes that ended without any sign of life.
    pub probes_failed: u64,
    /// Probes answered only by way of a relay.
    pub probes_relayed: u64,
    /// Probes answered only by a stream.
    pub probes_streamed: u64,
    /// Suspicions raised by this member itself.
    pub accusations: u64,
    /// Times this member refuted being suspect or dead.
    pub refutations: u64,
    /// Members that this one declared dead.
    pub declared: u64,
    /// Synchronisations begun.
    pub syncs: u64,
    /// Times this process was found to have been stopped for a while.
    pub pauses: u64,
    /// Returns of members that were put off because they came and went too often.
    pub damped: u64,
    /// Refused: longer than a datagram may be.
    pub oversized: u64,
    /// Refused: not well-formed, or of another version.
    pub malformed: u64,
    /// Refused: of another cluster.
    pub other_cluster: u64,
    /// Refused: from this member's own name.
    pub own_name: u64,
    /// Refused: a ping for somebody else.
    pub misdirected: u64,
    /// Refused: accusations and requests from, or about, members that are not known.
    pub unknown: u64,
    /// Refused: accusations of an edition that is not the current one.
    pub stale: u64,
    /// Refused: answers to no question.
    pub unasked: u64,
    /// Refused: records that are malformed or above a limit.
    pub records_malformed: u64,
    /// Refused: records of another cluster.
    pub records_other_cluster: u64,
    /// Refused: records whose signature is not the member's.
    pub records_forged: u64,
    /// Refused: records for which there is no room.
    pub records_crowded: u64,
    /// Refused: relaying and probing beyond what is done at once.
    pub crowded: u64,
    /// Refused: malformed messages of a synchronisation.
    pub syncs_malformed: u64,
}
