//! What the other tasks of a node have the task of gossip do.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::net::TlsMaterial;
use crate::net::tls::TlsError;
use crate::node::gossip::report::Portrait;
use crate::seal::{Boot, KeyId};
use crate::swim::Record;
use crate::types::NodeId;

/// One order.
pub(crate) enum Order {
    /// Answer a peer's ping over a connection.
    AnswerPing(Bytes, oneshot::Sender<Option<Vec<u8>>>),
    /// Answer a peer's synchronisation.
    AnswerSync(NodeId, Bytes, oneshot::Sender<Option<Vec<u8>>>),
    /// The outcome of a ping over a connection.
    Pong(u32, Option<Bytes>),
    /// The outcome of a synchronisation.
    Synced(NodeId, Option<Bytes>),
    /// Nobody listens at an address.
    Closed(SocketAddr),
    /// Addresses of members to begin with.
    Seeds(Vec<SocketAddr>),
    /// A connection showed which life of a node is the present one.
    Expect(NodeId, Boot),
    /// The keyring or the credentials changed.
    Learnt,
    /// Change this member's record.
    Change(Box<dyn FnOnce(&mut Record) + Send>),
    /// Prove this node with other certificates from now on.
    Renew(Box<TlsMaterial>, oneshot::Sender<Result<(), TlsError>>),
    /// Tell everything about the members.
    Portrait(oneshot::Sender<Portrait>),
    /// Tell which key seals.
    Seals(oneshot::Sender<Option<KeyId>>),
    /// Leave; says until when to go on, on the clock of the state machine.
    Leave(oneshot::Sender<Duration>),
}
