//! The decisions of one request: whom to ask, when the answer is certain, when it can no longer be had.
//!
//! Pure: given which nodes are thought to be up, and then each reply, these say what to do next. They know no network,
//! no clock and no record; `node::coordinate` drives them. (The split of deciding from driving follows Riak's
//! `riak_kv_put_core` and `riak_kv_get_core`.)

mod get;
mod put;

pub use get::{GetQuorum, GetStep, Role};
pub use put::{PutQuorum, PutStep, Send};

use crate::types::NodeId;

/// Why a node did not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Miss {
    /// The node.
    pub node: NodeId,
    /// The reason, for the error text.
    pub why: String,
    /// Whether a write may have reached it all the same.
    pub maybe: bool,
}
