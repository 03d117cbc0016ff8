//! Moves frames between processes over mutually authenticated QUIC, for nodes and clients alike.
//!
//! A request and its reply are opaque bytes: nothing here knows a command. An [`Endpoint`] is one UDP socket; it serves
//! a [`Handler`] and makes [`Connection`]s; a [`Link`] keeps one connection to one node and makes it again when it is
//! lost; a [`Pool`] holds the links of a process. Who a peer is comes from its certificate ([`Identity`]); what it may
//! do is for the handler to decide.

pub mod census;
pub mod counters;
pub mod credential;
pub mod datagram;
pub mod error;
pub mod grants;
pub mod identity;
pub mod peer;
pub mod settings;
pub mod tls;

mod bulk;
mod congestion;
mod frame;
mod lane;
mod pack;
mod pending;
mod vigil;

pub mod connection;
pub mod serve;

mod accept;
pub mod endpoint;
mod runtime;

mod backoff;
pub mod link;
pub mod pool;

pub use census::PartyCount;
pub use connection::Connection;
pub use counters::NetCounters;
pub use credential::Credential;
pub use credential::CredentialError;
pub use credential::RecordSigner;
pub use credential::Vouched;
pub use datagram::Datagrams;
pub use datagram::Udp;
pub use endpoint::BindConfig;
pub use endpoint::Endpoint;
pub use endpoint::Expect;
pub use endpoint::Socket;
pub use error::NetError;
pub use grants::Grants;
pub use grants::Verb;
pub use identity::Identity;
pub use link::Link;
pub use link::LinkSettings;
pub use link::LinkState;
pub use peer::{ConnectionNumber, Peer};
pub use pool::Pool;
pub use serve::Handler;
pub use serve::Incoming;
pub use settings::EndpointKeys;
pub use settings::TransportSettings;
pub use tls::PemFile;
pub use tls::TlsFiles;
pub use tls::TlsMaterial;

#[cfg(test)]
pub(crate) mod tests;
