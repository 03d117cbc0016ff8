//! What members say to each other about membership over QUIC, and what is asked about it from outside.
//!
//! What the membership protocol itself says travels as bytes that only it understands. Positional like all messages.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::types::{ClusterName, NodeName};
use crate::wire::blob::Blob;

/// From member to member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum GossipRequest {
    /// A ping of the membership protocol, to be answered by it.
    Ping(Blob),
    /// A synchronisation of the membership protocol, to be answered by it.
    Sync(Blob),
    /// What must be known of each other before datagrams are understood.
    Hello(Box<Hello>),
}

/// The answers, in the same order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum GossipReply {
    /// To a ping.
    Pong(Blob),
    /// To a synchronisation.
    Sync(Blob),
    /// To a greeting.
    Hello(Box<Hello>),
}

/// Bytes that do not show in logs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretBlob(pub Blob);

impl fmt::Debug for SecretBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secret bytes", self.0.len())
    }
}

/// What a member tells another one it is connected to, and is told in return.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// The cluster; members of another are refused.
    pub cluster: ClusterName,
    /// This life of the sender's process.
    pub boot: u64,
    /// Where its gossip datagrams go: address and port.
    pub gossip: String,
    /// Its wall clock, in milliseconds since the Unix epoch.
    pub wall_ms: u64,
    /// The keyring it has, encoded. Keys travel only here, between nodes.
    pub keyring: SecretBlob,
    /// Credentials of members, encoded, its own first.
    pub credentials: Vec<Blob>,
    /// Fingerprints of certificates that it lacks.
    pub want: Vec<[u8; 32]>,
    /// Whether it wants all credentials there are.
    pub want_all: bool,
}

/// An order to the keyring; administrators only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyOrder {
    /// Tell the keys.
    List,
    /// Make a key and give it to all members, without using it.
    Add,
    /// Seal with this key from now on.
    Use {
        /// The key.
        id: [u8; 8],
        /// Also when members that are up could not be given it.
        force: bool,
    },
    /// Open nothing with this key any more.
    Remove {
        /// The key.
        id: [u8; 8],
    },
}

/// The keyring, without the keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysReport {
    /// The keys, in the order of their making.
    pub keys: Vec<KeyStatus>,
    /// The key that was made, used or removed.
    pub subject: Option<[u8; 8]>,
    /// Members that hold the same keyring.
    pub agree: Vec<NodeName>,
    /// Members that are up and could not be told.
    pub missed: Vec<NodeName>,
}

/// One key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyStatus {
    /// Its identifier.
    pub id: [u8; 8],
    /// When it was made, in milliseconds since the Unix epoch.
    pub made_ms: u64,
    /// Whether everybody should seal with it.
    pub preferred: bool,
    /// Whether the node that answers does.
    pub seals: bool,
    /// Whether it was removed.
    pub removed: bool,
}

/// How a member is, in the view of the one that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberState {
    /// It answers.
    Alive,
    /// It did not answer some.
    Suspect,
    /// It is held dead.
    Failed,
    /// It left.
    Left,
}

impl MemberState {
    /// The state in a word, as in logs and output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Failed => "failed",
            Self::Left => "left",
        }
    }
}

/// The members, as one of them sees them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MembersReport {
    /// Who answers.
    pub node: NodeName,
    /// Whether it takes part in gossip; without, members are those of the configuration, and their state what the
    /// connections say.
    pub gossip: bool,
    /// By how much it stretches its own time-outs because its probes go badly; 1 in health.
    pub health_factor: u32,
    /// All members, itself among them, by name.
    pub members: Vec<MemberStatus>,
    /// Counts of gossip since the start, by name.
    pub counters: Vec<(String, u64)>,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its name.
    pub name: NodeName,
    /// Whether it answers.
    pub state: MemberState,
    /// Since when, in milliseconds.
    pub since_ms: u64,
    /// `joining`, `active`, `leaving` or `removed`: its part in owning data.
    pub ownership: String,
    /// Where its data plane is.
    pub quic: String,
    /// Where its gossip goes.
    pub gossip: String,
    /// Its failure zone.
    pub zone: String,
    /// Its share of the data against others.
    pub weight: u32,
    /// Its storage's health in a word.
    pub storage: String,
    /// Its program's version.
    pub software: String,
    /// The newest protocol it speaks.
    pub protocol: u16,
    /// The round trip of gossip, in microseconds.
    pub rtt_us: Option<u64>,
    /// How far its clock is ahead of the others', in milliseconds.
    pub clock_offset_ms: Option<i32>,
    /// When its certificate expires, in seconds since the Unix epoch.
    pub certificate_expires_s: u64,
    /// A hash of the settings that must agree.
    pub config: u64,
    /// How often its record changed.
    pub incarnation: u64,
    /// Where its admin listener is, if others can reach it.
    pub admin: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_is_pinned_because_other_versions_read_it() {
        let hello = Hello {
            cluster: "c".parse().unwrap(),
            boot: 1,
            gossip: "g".to_owned(),
            wall_ms: 2,
            keyring: SecretBlob(Blob::copy(b"k")),
            credentials: vec![Blob::copy(b"x")],
            want: vec![[3; 32]],
            want_all: true,
        };
        assert!(format!("{hello:?}").contains("keyring: 1 secret bytes"));
        let bytes = postcard::to_stdvec(&GossipRequest::Hello(Box::new(hello))).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, format!("02016301016702016b01017801{}01", "03".repeat(32)));
    }
}
