//! What a request is in a word, and where its keys live: for traces, which must not know messages.

use crate::types::Namespace;
use crate::wire::rpc::Request;

impl Request {
    /// What it is, for traces.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Put(_) => "put",
            Self::Get(_) => "get",
            Self::Scan(_) => "scan",
            Self::Apply(_) => "apply",
            Self::Fetch { .. } | Self::FetchPage(_) => "fetch",
            Self::Reserve(_) | Self::Release { .. } => "reserve",
            Self::SyncRoots(_) | Self::SyncSums(_) | Self::SyncRecords(_) | Self::Repair(_) => "sync",
            Self::Reap(_) | Self::Settle => "reap",
            Self::Landmark(_) | Self::Dropped(_) => "past",
            Self::Gossip(_) | Self::Members | Self::Keys(_) => "gossip",
            Self::Layout(_) | Self::Tasks(_) => "layout",
            Self::View | Self::Watch { .. } | Self::Status | Self::Log(_) => "ask",
        }
    }

    /// Where its keys live, if it says so.
    pub fn namespace(&self) -> Option<&Namespace> {
        match self {
            Self::Put(put) => Some(&put.namespace),
            Self::Get(get) => Some(&get.namespace),
            Self::Scan(scan) => Some(&scan.namespace),
            _ => None,
        }
    }
}
