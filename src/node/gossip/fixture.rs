//! What the tests of gossip begin with; nothing of it is in the program.

use crate::swim::{Certificate, ClusterState, Record, StorageHealth};

/// A member's record, unsigned.
pub(crate) fn record(name: &str) -> Record {
    Record {
        cluster: 1,
        name: name.parse().unwrap(),
        instance: 1,
        incarnation: 0,
        rival: None,
        left: false,
        gossip: "127.0.0.1:1".parse().unwrap(),
        quic: "127.0.0.1:2".to_owned(),
        admin: None,
        zone: "z".parse().unwrap(),
        weight: 100,
        software: "0.1.0".to_owned(),
        protocol: 1,
        state: ClusterState::Active,
        storage: StorageHealth::Ok,
        clock_offset_ms: None,
        certificate: Certificate { fingerprint: [0; 32], expires_s: 4_000_000_000 },
        key: Vec::new(),
        config: 7,
    }
}
