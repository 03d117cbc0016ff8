//! What goes into the state machine and what comes out of it.

use core::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::swim::record::Record;
use crate::types::NodeId;

/// Something that happened outside.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// A datagram came, unsealed.
    Datagram {
        /// Where from.
        from: SocketAddr,
        /// What it holds.
        bytes: &'a [u8],
    },
    /// The network says that nothing listens at this gossip address (ICMP port unreachable).
    Unreachable {
        /// The address a datagram was sent to.
        address: SocketAddr,
    },
    /// The outcome of an [`Effect::StreamPing`].
    StreamPong {
        /// Its token.
        token: u32,
        /// The answer; `None` when there was none in time.
        reply: Option<&'a [u8]>,
    },
    /// The outcome of an [`Effect::Sync`].
    SyncReply {
        /// The member that was asked.
        peer: NodeId,
        /// The answer; `None` when there was none in time.
        reply: Option<&'a [u8]>,
    },
    /// The addresses of seeds, as they resolve now: replaces those given before.
    Seeds(&'a [SocketAddr]),
    /// Time passed: the deadline is reached.
    Timer,
}

/// Something the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Seal and send a datagram.
    Send {
        /// Where to.
        to: SocketAddr,
        /// What.
        bytes: Vec<u8>,
    },
    /// Find out from the network whether anybody listens at the member's gossip address, and hand in
    /// [`Input::Unreachable`] if it says that nobody does. An ordinary datagram to a closed port tells its sender
    /// nothing, since the socket for all members is connected to none.
    Knock {
        /// The member.
        peer: NodeId,
    },
    /// Carry these bytes to the member over QUIC, have its [`crate::swim::Swim::answer_ping`] answer, and hand the
    /// answer in as [`Input::StreamPong`]. Give up after about two seconds, at latest after five.
    StreamPing {
        /// The member.
        peer: NodeId,
        /// Names this ping in its outcome.
        token: u32,
        /// What to carry.
        bytes: Vec<u8>,
    },
    /// Carry these bytes to the member over QUIC, have its [`crate::swim::Swim::answer_sync`] answer, and hand the
    /// answer in as [`Input::SyncReply`]. Give up after about five seconds.
    Sync {
        /// The member.
        peer: NodeId,
        /// What to carry.
        bytes: Vec<u8>,
    },
}

/// Something about a member that others want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A member that was not known is up.
    Joined(Arc<Record>),
    /// A member that was held failed or had left is up again, restarted perhaps.
    Alive(Arc<Record>),
    /// A member does not answer some; it may yet refute.
    Suspect(NodeId),
    /// A suspected member has proved that it is there.
    Refuted(NodeId),
    /// A member is held dead.
    Failed(NodeId),
    /// A member left by itself.
    Left(NodeId),
    /// A member that was gone for long is not known any more: others needed its place.
    Forgotten(NodeId),
    /// A member's record changed otherwise.
    Updated(Arc<Record>),
    /// Two live processes use one name.
    Conflict {
        /// The name's identifier.
        node: NodeId,
        /// Where the two are reached.
        addresses: [SocketAddr; 2],
        /// Whether this very process is the one of the two that yields: it should end, with an error.
        yields: bool,
    },
}

/// How a member is, as this one sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It answers.
    Alive,
    /// It did not answer some, and has time to refute.
    Suspect,
    /// It is held dead; it is tried again for ever.
    Failed,
    /// It left by itself.
    Left,
}

/// A member as this one sees it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its identifier.
    pub node: NodeId,
    /// What it says about itself.
    pub record: Arc<Record>,
    /// How it is.
    pub standing: Standing,
    /// Since when, on the driver's clock.
    pub since: Duration,
    /// Smoothed round-trip time of direct pings. `None` before the first answer.
    pub rtt: Option<Duration>,
}
