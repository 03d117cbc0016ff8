//! Sealed datagrams: what members of a cluster send each other by UDP, which nobody else can read, forge or repeat.
//!
//! A datagram names its sender, the sender's boot and a counter; key and nonce are made from these, so that no nonce is
//! ever used twice. The keys are in a [`Keyring`], a set that merges in any order. This neither sends anything nor draws
//! keys, asks no clock, and knows nothing of what the datagrams say. That a sender is who it says it is holds only among
//! those who have the key: records inside are signed apart.

mod datagram;
mod keyring;
mod window;

#[cfg(test)]
mod tests;

pub use datagram::Boot;
pub use datagram::OVERHEAD;
pub use datagram::Opened;
pub use datagram::Opener;
pub use datagram::Refused;
pub use datagram::Sealer;
pub use keyring::Key;
pub use keyring::KeyEntry;
pub use keyring::KeyId;
pub use keyring::Keyring;
pub use keyring::KeyringError;
