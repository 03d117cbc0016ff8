//! Everything that one node counts and times, in one place: whoever meets something adds to it here, and
//! `metrics` and `status` read it.

use std::time::Duration;

use crate::meter::Counter;
use crate::meter::Gauge;
use crate::meter::Histogram;
use crate::types::TraceId;
use crate::wire::rpc::Reply;
use crate::wire::rpc::Request;
use crate::wire::rpc::ServeError;
use crate::wire::rpc::Traced;

/// Defines an enum of labels: its variants, all of them in order, and the name of each in metrics.
macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($variant:ident => $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $name {
            $($variant,)*
        }

        impl $name {
            /// All there are, in the order of their numbers.
            pub(crate) const ALL: [Self; [$($label),*].len()] = [$(Self::$variant),*];

            /// Its name in metrics.
            pub(crate) fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)*
                }
            }
        }
    };
}

labels! {
    /// What was asked.
    Kind {
        Put => "put",
        Get => "get",
        Scan => "scan",
        View => "view",
        Watch => "watch",
        Status => "status",
        Apply => "apply",
        Fetch => "fetch",
        Upkeep => "upkeep",
        FetchPage => "fetch_page",
        Reserve => "reserve",
        Release => "release",
        Log => "log",
        Gossip => "gossip",
        Members => "members",
        Keys => "keys",
        SyncRoots => "sync_roots",
        SyncSums => "sync_sums",
        SyncRecords => "sync_records",
        Repair => "repair",
        Reap => "reap",
        Settle => "settle",
        Layout => "layout",
        Landmark => "landmark",
        Dropped => "dropped",
        Tasks => "tasks",
        Unreadable => "unreadable",
    }
}

labels! {
    /// What became of a request: of one with several keys, the first failure.
    Outcome {
        Ok => "ok",
        QuorumNotMet => "quorum_not_met",
        Deadline => "deadline",
        Unavailable => "unavailable",
        Uncertain => "uncertain",
        ConditionNotMet => "condition_not_met",
        Refused => "refused",
        Invalid => "invalid",
        Limit => "limit",
        Overloaded => "overloaded",
        Error => "error",
    }
}

labels! {
    /// A part of a request's way.
    Stage {
        PutLearn => "put_learn",
        PutReserve => "put_reserve",
        PutLocal => "put_local",
        PutQuorum => "put_quorum",
        PutForward => "put_forward",
        PutRest => "put_rest",
        GetQuorum => "get_quorum",
        GetMerge => "get_merge",
        WriteQueue => "replica_write_queue",
        ReadQueue => "replica_read_queue",
    }
}

labels! {
    /// A call of the storage.
    Call {
        Read => "read",
        Write => "write",
        Scan => "scan",
    }
}

impl Kind {
    /// The kind of a request. What nodes bring each other, or ask for, without a request of a client's is upkeep: nobody waits
    /// for it.
    pub(crate) fn of(Traced { request, trace, .. }: &Traced) -> Self {
        match request {
            Request::Apply(_) | Request::Fetch { .. } if *trace == TraceId::NONE => Self::Upkeep,
            Request::Put(_) => Self::Put,
            Request::Get(_) => Self::Get,
            Request::Scan(_) => Self::Scan,
            Request::View => Self::View,
            Request::Watch { .. } => Self::Watch,
            Request::Status => Self::Status,
            Request::Apply(_) => Self::Apply,
            Request::Fetch { .. } => Self::Fetch,
            Request::FetchPage(_) => Self::FetchPage,
            Request::Reserve(_) => Self::Reserve,
            Request::Release { .. } => Self::Release,
            Request::Log(_) => Self::Log,
            Request::Gossip(_) => Self::Gossip,
            Request::Members => Self::Members,
            Request::Keys(_) => Self::Keys,
            Request::SyncRoots(_) => Self::SyncRoots,
            Request::SyncSums(_) => Self::SyncSums,
            Request::SyncRecords(_) => Self::SyncRecords,
            Request::Repair(_) => Self::Repair,
            Request::Reap(_) => Self::Reap,
            Request::Settle => Self::Settle,
            Request::Layout(_) => Self::Layout,
            Request::Landmark(_) => Self::Landmark,
            Request::Dropped(_) => Self::Dropped,
            Request::Tasks(_) => Self::Tasks,
        }
    }
}

impl Outcome {
    /// The outcome of a reply.
    pub(crate) fn of(reply: &Reply) -> Self {
        let error = match reply {
            Reply::Error(error) => Some(error),
            Reply::Put(outcomes) => outcomes.iter().find_map(|outcome| outcome.as_ref().err()),
            Reply::Get(outcomes) => outcomes.iter().find_map(|outcome| outcome.as_ref().err()),
            Reply::Apply(outcomes) => outcomes.iter().find_map(|outcome| outcome.as_ref().err()),
            Reply::Fetch(outcomes) => outcomes.iter().find_map(|outcome| outcome.as_ref().err()),
            Reply::Scan(_)
            | Reply::View(_)
            | Reply::Unchanged
            | Reply::Status(_)
            | Reply::FetchPage { .. }
            | Reply::Reserved(_)
            | Reply::Done
            | Reply::Log(_)
            | Reply::Gossip(_)
            | Reply::Members(_)
            | Reply::Keys(_)
            | Reply::SyncRoots(_)
            | Reply::SyncSums(_)
            | Reply::SyncRecords(_)
            | Reply::Repair(_)
            | Reply::Reap(_)
            | Reply::Landmark(_)
            | Reply::Dropped(_)
            | Reply::Layout(_)
            | Reply::Tasks(_) => None,
        };
        match error {
            None => Self::Ok,
            Some(ServeError::Quorum(_)) => Self::QuorumNotMet,
            Some(ServeError::Deadline(_)) => Self::Deadline,
            Some(ServeError::Unavailable(_) | ServeError::OldLayout(_)) => Self::Unavailable,
            Some(ServeError::Uncertain(_)) => Self::Uncertain,
            Some(ServeError::Condition(_)) => Self::ConditionNotMet,
            Some(ServeError::Forbidden(_)) => Self::Refused,
            Some(ServeError::Invalid(_)) => Self::Invalid,
            Some(ServeError::Limit(_)) => Self::Limit,
            Some(ServeError::Overloaded(_)) => Self::Overloaded,
            Some(ServeError::Internal(_)) => Self::Error,
        }
    }
}

/// The meters of one node.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    /// Keys written by requests to this node, forwarded ones among them.
    pub(crate) puts: Counter,
    /// Keys read.
    pub(crate) gets: Counter,
    /// Pages scanned.
    pub(crate) scans: Counter,
    pub(crate) forwarded: Counter,
    pub(crate) quorum_failures: Counter,
    pub(crate) digest_mismatches: Counter,
    pub(crate) read_repairs: Counter,
    pub(crate) hedges: Counter,
    pub(crate) stand_ins: Counter,
    pub(crate) hints_kept: Counter,
    pub(crate) hints_delivered: Counter,
    pub(crate) hints_collapsed: Counter,
    pub(crate) hints_refused: Counter,
    /// Batches written to the storage.
    pub(crate) store_batches: Counter,
    /// Operations in them.
    pub(crate) store_operations: Counter,
    /// Records that failed their checksum.
    pub(crate) records_damaged: Counter,
    /// Records that one of two owners did not take over from the other.
    pub(crate) sync_refused: Counter,
    /// Batches tried anew because the storage's epoch had changed.
    pub(crate) epoch_retries: Counter,
    /// Partitions that were read for their trees because nothing was known of them.
    pub(crate) trees_built: Counter,
    /// Those that were read again, and whose trees were right.
    pub(crate) trees_checked: Counter,
    /// Those whose trees were wrong.
    pub(crate) trees_corrected: Counter,
    /// Dead records that this node has dropped.
    pub(crate) reaped: Counter,
    /// Dead records that this node proposed to drop, and some node could not agree.
    pub(crate) reap_disagreed: Counter,
    /// Rounds that broke off because a member was away, restarted, or busy for too long.
    pub(crate) reap_broken_off: Counter,
    /// Reads that nobody waited for any more when their turn came.
    pub(crate) reads_dropped: Counter,
    /// Records, or parts of them, that a storage which had gone back held and the other owners had dropped.
    pub(crate) went_back_dropped: Counter,
    /// Records that this node fetched since it is to own them.
    pub(crate) copied: Counter,
    /// Bytes of these.
    pub(crate) copied_bytes: Counter,
    /// Records that this node dropped since it owns them no more.
    pub(crate) shed: Counter,
    /// Slow requests, logged or not.
    pub(crate) slow_requests: Counter,
    /// Requests that are being worked on.
    pub(crate) in_flight: Gauge,
    outcomes: [[Counter; Outcome::ALL.len()]; Kind::ALL.len()],
    requests: [Histogram; Kind::ALL.len()],
    stages: [Histogram; Stage::ALL.len()],
    storage: [Histogram; Call::ALL.len()],
    storage_errors: [Counter; Call::ALL.len()],
}

impl Meters {
    /// Counts an answered request.
    pub(crate) fn answered(&self, kind: Kind, outcome: Outcome, took: Duration) {
        self.outcomes[kind as usize][outcome as usize].one();
        self.requests[kind as usize].record(took);
    }

    /// Counts a stage of a request.
    pub(crate) fn passed(&self, stage: Stage, took: Duration) {
        self.stages[stage as usize].record(took);
    }

    /// Counts a call of the storage.
    pub(crate) fn stored<T, E>(&self, call: Call, took: Duration, result: &Result<T, E>) {
        self.storage[call as usize].record(took);
        if result.is_err() {
            self.storage_errors[call as usize].one();
        }
    }

    /// Requests answered, by kind and outcome.
    pub(crate) fn outcomes(&self, kind: Kind, outcome: Outcome) -> u64 {
        self.outcomes[kind as usize][outcome as usize].get()
    }

    /// How long requests of a kind took.
    pub(crate) fn requests(&self, kind: Kind) -> &Histogram {
        &self.requests[kind as usize]
    }

    /// How long a stage took.
    pub(crate) fn stages(&self, stage: Stage) -> &Histogram {
        &self.stages[stage as usize]
    }

    /// How long calls of the storage took.
    pub(crate) fn storage(&self, call: Call) -> &Histogram {
        &self.storage[call as usize]
    }

    /// Calls of the storage that failed.
    pub(crate) fn storage_errors(&self, call: Call) -> u64 {
        self.storage_errors[call as usize].get()
    }

    /// The plain counters, each with the name it has in the status report and what it means.
    pub(crate) fn counters(&self) -> [(&'static str, &'static str, &Counter); 30] {
        [
            ("puts", "Keys written or deleted through this node as coordinator, or forwarded by it.", &self.puts),
            ("gets", "Keys read through this node as coordinator.", &self.gets),
            ("scans", "Pages scanned through this node as coordinator.", &self.scans),
            (
                "forwarded",
                "Writes handed to another owner, since this node is none or its storage takes no writes.",
                &self.forwarded,
            ),
            ("quorum_failures", "Reads and writes whose quorum was not met.", &self.quorum_failures),
            ("digest_mismatches", "Reads that met replicas in different states.", &self.digest_mismatches),
            ("read_repairs", "Replicas that reads brought up to date.", &self.read_repairs),
            ("hedges", "Reads sent to one replica more because another was slow.", &self.hedges),
            ("stand_ins", "Writes taken to a stand-in for an owner.", &self.stand_ins),
            ("hints_kept", "Hints this node made as a coordinator for what an owner missed.", &self.hints_kept),
            ("hints_delivered", "Hints that reached their owner.", &self.hints_delivered),
            (
                "hints_collapsed",
                "Hints beyond the budget of their target, for which its partition was marked instead.",
                &self.hints_collapsed,
            ),
            ("hints_refused", "Hints that could not be stored.", &self.hints_refused),
            ("store_batches", "Batches of writes given to the storage.", &self.store_batches),
            ("store_operations", "Writes in these batches.", &self.store_operations),
            ("records_damaged", "Records that failed their checksum.", &self.records_damaged),
            (
                "sync_refused",
                "Records that anti-entropy could not bring from one owner to another.",
                &self.sync_refused,
            ),
            ("epoch_retries", "Batches decided anew because the storage epoch had changed.", &self.epoch_retries),
            ("trees_built", "Partitions read for their hash trees, of which nothing was known.", &self.trees_built),
            ("trees_checked", "Partitions read again whose hash trees were right.", &self.trees_checked),
            ("trees_corrected", "Partitions read again whose hash trees were wrong.", &self.trees_corrected),
            ("reaped", "Deleted and expired records that this node dropped.", &self.reaped),
            (
                "reap_disagreed",
                "Records proposed for dropping that another node holds otherwise or has a hint for.",
                &self.reap_disagreed,
            ),
            (
                "reap_broken_off",
                "Rounds of dropping that ended because a member was away, restarted or too busy.",
                &self.reap_broken_off,
            ),
            (
                "reads_dropped",
                "Reads that nobody waited for any more when their turn came at the replica.",
                &self.reads_dropped,
            ),
            (
                "went_back_dropped",
                "Records of a storage that went back in time which the other owners had dropped, and which left it.",
                &self.went_back_dropped,
            ),
            ("copied", "Records that this node fetched since it is to own them.", &self.copied),
            ("copied_bytes", "Bytes of records that this node fetched since it is to own them.", &self.copied_bytes),
            ("shed", "Records that this node dropped since it owns them no more and the owners have them.", &self.shed),
            ("slow_requests", "Requests that took longer than log.slow_ms.", &self.slow_requests),
        ]
    }
}
