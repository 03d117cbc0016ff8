//! Signatures of the simulation: a keyed hash, as long as the real ones.

use std::hash::Hasher;

use dynamomini::swim::Notary;
use dynamomini::swim::Record;
use dynamomini::types::NodeName;

/// Signs for one name, and knows how everybody signs.
pub(crate) struct SimNotary(pub(crate) NodeName);

fn sign(name: &NodeName, bytes: &[u8]) -> Vec<u8> {
    let mut hasher = siphasher::sip::SipHasher13::new_with_keys(7, 9);
    hasher.write(name.as_str().as_bytes());
    hasher.write(bytes);
    hasher.finish().to_le_bytes().repeat(8)
}

impl Notary for SimNotary {
    fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        sign(&self.0, bytes)
    }

    fn verify(&self, record: &Record, bytes: &[u8], signature: &[u8]) -> bool {
        sign(&record.name, bytes) == signature
    }
}
