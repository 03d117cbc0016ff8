//! The encoding of gossip datagrams: a header about sender and receiver, then messages until the end.
//!
//! Decoding takes a datagram whole or not at all. It does not know who is a member.

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::swim::record::{Edition, Envelope};
use crate::types::NodeId;

/// The version of the encoding.
pub(super) const VERSION: u8 = 1;

/// An identifier in eight bytes, where a variable length would take ten.
mod id {
    use serde::{Deserializer, Serializer};

    use crate::types::NodeId;

    pub(super) fn serialize<S: Serializer>(id: &NodeId, to: S) -> Result<S::Ok, S::Error> {
        postcard::fixint::le::serialize(&id.0, to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<NodeId, D::Error> {
        postcard::fixint::le::deserialize(from).map(NodeId)
    }
}

/// What the sender holds about the receiver: whoever is wrongly held dead learns it from every datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Belief {
    /// Nothing.
    Unknown,
    /// A record of another instance, with this incarnation.
    Other(u64),
    /// It is up, with this incarnation.
    Up(u64),
    /// It is suspected in this incarnation.
    Suspect(u64),
    /// It is dead in this incarnation.
    Dead(u64),
    /// It has left.
    Left(u64),
}

/// What every datagram begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) version: u8,
    /// The lower half of the cluster's identifier.
    #[serde(with = "postcard::fixint::le")]
    pub(super) cluster: u32,
    #[serde(with = "id")]
    pub(super) from: NodeId,
    pub(super) edition: Edition,
    /// A digest of all members as the sender holds them: members that differ for long synchronise.
    #[serde(with = "postcard::fixint::le")]
    pub(super) view: u32,
    pub(super) you: Belief,
}

/// One who accuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Accuser {
    #[serde(with = "id")]
    pub(super) node: NodeId,
    /// Whether it saw a closed port, rather than silence.
    pub(super) refused: bool,
}

/// Who is accused of not answering, in which edition, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Accusation {
    #[serde(with = "id")]
    pub(super) node: NodeId,
    pub(super) edition: Edition,
    pub(super) accusers: Vec<Accuser>,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Part<'a> {
    /// Answer with an `Ack`, if this is you.
    Ping {
        seq: u32,
        #[serde(with = "id")]
        target: NodeId,
    },
    /// The answer.
    Ack { seq: u32 },
    /// Ping the target for me. `held` is the incarnation that the sender knows of it.
    Relay {
        seq: u32,
        #[serde(with = "id")]
        target: NodeId,
        held: u64,
    },
    /// I am here, but the target does not answer me, or refuses.
    Nack { seq: u32, refused: bool },
    /// Whoever hears this: who are you?
    Hello,
    /// A member's signed record.
    #[serde(borrow)]
    Record(Envelope<'a>),
    /// A member does not answer.
    Suspect(Accusation),
    /// A member is dead, for this many tenths of a second.
    Dead { accusation: Accusation, age: u32 },
    /// Send me this member's record.
    Want {
        #[serde(with = "id")]
        node: NodeId,
    },
}

/// A decoded datagram.
#[derive(Debug)]
pub(super) struct Datagram<'a> {
    pub(super) header: Header,
    pub(super) parts: Vec<Part<'a>>,
}

/// Decodes a datagram that is well-formed to its end. `None` for any other, and for other versions of the encoding.
pub(super) fn decode(bytes: &[u8]) -> Option<Datagram<'_>> {
    let (header, mut rest) = postcard::take_from_bytes::<Header>(bytes).ok()?;
    if header.version != VERSION {
        return None;
    }
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let (part, after) = postcard::take_from_bytes::<Part<'_>>(rest).ok()?;
        if parts.len() == limits::GOSSIP_PARTS_MAX || !part.is_within_limits() {
            return None;
        }
        parts.push(part);
        rest = after;
    }
    Some(Datagram { header, parts })
}

impl Part<'_> {
    fn is_within_limits(&self) -> bool {
        match self {
            Self::Suspect(accusation) | Self::Dead { accusation, .. } => {
                accusation.accusers.len() <= limits::ACCUSERS_MAX && !accusation.accusers.is_empty()
            }
            _ => true,
        }
    }
}

/// A datagram being filled up to its limit.
#[derive(Debug)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    parts: usize,
    max: usize,
}

impl Writer {
    /// Begins with the header.
    pub(super) fn new(header: &Header, max: usize) -> Self {
        let bytes = postcard::to_stdvec(header).expect("numbers always encode");
        Self { bytes, parts: 0, max }
    }

    /// Adds a message, if there is room for it.
    pub(super) fn push(&mut self, part: &Part<'_>) -> bool {
        let encoded = postcard::to_stdvec(part).expect("numbers and byte strings always encode");
        let fits = self.bytes.len() + encoded.len() <= self.max && self.parts < limits::GOSSIP_PARTS_MAX;
        if fits {
            self.bytes.extend_from_slice(&encoded);
            self.parts += 1;
        }
        fits
    }

    /// Bytes that are free.
    pub(super) fn room(&self) -> usize {
        self.max - self.bytes.len()
    }

    /// The datagram.
    pub(super) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// What one side of a synchronisation holds of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holding {
    #[serde(with = "id")]
    pub(super) node: NodeId,
    pub(super) edition: Edition,
    pub(super) dead: bool,
}

/// The request of a synchronisation: all that the asker holds, in short, and the records that it was asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SyncRequest<'a> {
    pub(super) version: u8,
    #[serde(with = "postcard::fixint::le")]
    pub(super) cluster: u64,
    #[serde(with = "id")]
    pub(super) from: NodeId,
    #[serde(borrow)]
    pub(super) records: Vec<Envelope<'a>>,
    pub(super) held: Vec<Holding>,
}

/// The answer: what the asker lacks, what it holds dead or alive otherwise, and what the answerer lacks.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SyncReply<'a> {
    pub(super) version: u8,
    #[serde(with = "postcard::fixint::le")]
    pub(super) cluster: u64,
    #[serde(with = "id")]
    pub(super) from: NodeId,
    #[serde(borrow)]
    pub(super) records: Vec<Envelope<'a>>,
    pub(super) dead: Vec<(Accusation, u32)>,
    pub(super) wanted: Vec<Holding>,
    /// Whether there are more records than fitted.
    pub(super) more: bool,
}
