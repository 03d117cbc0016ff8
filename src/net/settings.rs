//! How connections behave, and the one function that builds all of quinn's and rustls's configuration.
//!
//! Everything random comes from one seed, so that a simulation can repeat a run byte for byte; in the real world the
//! seed is entropy. The two keys that outlive a restart are the caller's to keep.

use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use quinn::AckFrequencyConfig;
use quinn::ConnectionId;
use quinn::ConnectionIdGenerator;
use quinn::IdleTimeout;
use quinn::MtuDiscoveryConfig;
use quinn::TransportConfig;
use quinn::VarInt;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::crypto::rustls::QuicServerConfig;
use quinn_proto::InvalidCid;
use rand::Rng;
use rand::SeedableRng;
use rand::rngs::StdRng;
use ring::hkdf;
use ring::hmac;
use rustls::crypto::CryptoProvider;
use siphasher::sip::SipHasher13;

use crate::env::Env;
use crate::limits;
use crate::net::congestion::TolerantConfig;
use crate::net::tls::ALPN;
use crate::net::tls::TlsError;
use crate::net::tls::TlsMaterial;
use crate::net::tls::WallClock;

/// Settings of all connections of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportSettings {
    /// How often a sign of life is asked for while an answer is awaited. Connections on which nothing is awaited send one every
    /// [`limits::QUIET_KEEP_ALIVE`].
    pub keep_alive: Duration,
    /// Silence after which a connection on which an answer is awaited is lost; also how long a peer may leave replies
    /// unread. Others are lost after [`limits::QUIET_IDLE`].
    pub idle_timeout: Duration,
    /// The round trip assumed before the first is measured; three of them pass before a lost first packet is repeated.
    pub initial_rtt: Duration,
    /// Largest UDP payload that path MTU discovery tries, in bytes (1200 to 65 527). Large values save much CPU on
    /// loopback and on jumbo-frame networks, and cost 2 KiB of receive buffer for each byte.
    pub mtu_upper_bound: u16,
    /// Ask the peer to acknowledge only every so many packets; 0 leaves QUIC's every second one.
    pub ack_every: u32,
}

impl Default for TransportSettings {
    fn default() -> Self {
        Self {
            keep_alive: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(3),
            initial_rtt: Duration::from_millis(100),
            mtu_upper_bound: 1452,
            ack_every: 0,
        }
    }
}

/// Keys a node keeps on disk, so that after a restart its peers learn at once that their connections are gone.
#[derive(Clone)]
pub struct EndpointKeys {
    /// Signs stateless resets.
    pub reset: [u8; 64],
    /// Marks the connection ids this node issues.
    pub connection_id: [u8; 16],
}

impl fmt::Debug for EndpointKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EndpointKeys(..)")
    }
}

impl EndpointKeys {
    /// New keys, for a node's first start or for a client, which need not keep them.
    pub fn generate(env: &Env) -> Self {
        let mut rng = env.rng("net/endpoint-keys");
        let mut keys = Self { reset: [0; 64], connection_id: [0; 16] };
        rng.fill_bytes(&mut keys.reset);
        rng.fill_bytes(&mut keys.connection_id);
        keys
    }
}

/// Everything an endpoint is configured with.
#[derive(Clone)]
pub(crate) struct QuicConfig {
    pub(crate) endpoint: quinn::EndpointConfig,
    pub(crate) server: quinn::ServerConfig,
    pub(crate) client: quinn::ClientConfig,
}

/// What [`QuicConfig`] is built from.
pub(crate) struct QuicSource<'a> {
    pub(crate) material: &'a TlsMaterial,
    pub(crate) provider: &'a Arc<CryptoProvider>,
    pub(crate) keys: &'a EndpointKeys,
    pub(crate) settings: &'a TransportSettings,
    /// Protocol names, newest first. [`ALPN`] except in tests of negotiation.
    pub(crate) alpn: &'a [&'a [u8]],
    /// Wall clock and randomness.
    pub(crate) env: &'a Env,
}

impl<'a> QuicSource<'a> {
    /// The source with this build's protocol versions.
    pub(crate) fn new(
        material: &'a TlsMaterial,
        provider: &'a Arc<CryptoProvider>,
        keys: &'a EndpointKeys,
        settings: &'a TransportSettings,
        env: &'a Env,
    ) -> Self {
        Self { material, provider, keys, settings, alpn: ALPN, env }
    }

    /// The one place where quinn and rustls are configured.
    pub(crate) fn build(&self) -> Result<QuicConfig, TlsError> {
        let mut seeds = self.env.rng("net/quic");
        let clock = Arc::new(WallClock(self.env.clone()));
        let setup = |error: &dyn fmt::Display| TlsError::Setup(error.to_string());

        let tls = self.material.server(self.provider, clock.clone(), self.alpn)?;
        let crypto = QuicServerConfig::try_from(tls).map_err(|error| setup(&error))?;
        let mut token_key = [0; 64];
        seeds.fill_bytes(&mut token_key);
        let token_key = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&token_key);
        let mut server = quinn::ServerConfig::new(Arc::new(crypto), Arc::new(token_key));
        server.transport_config(Arc::new(self.transport(Side::Server)?));
        server.migration(true).max_incoming(limits::HANDSHAKES_MAX).time_source(clock.clone());

        let tls = self.material.client(self.provider, clock, self.alpn)?;
        let crypto = QuicClientConfig::try_from(tls).map_err(|error| setup(&error))?;
        let mut client = quinn::ClientConfig::new(Arc::new(crypto));
        client.transport_config(Arc::new(self.transport(Side::Client)?));
        client.initial_dst_cid_provider(initial_ids(seed(&mut seeds)));

        Ok(QuicConfig { endpoint: self.endpoint(&mut seeds)?, server, client })
    }

    fn endpoint(&self, seeds: &mut StdRng) -> Result<quinn::EndpointConfig, TlsError> {
        let reset = hmac::Key::new(hmac::HMAC_SHA256, &self.keys.reset);
        let mut endpoint = quinn::EndpointConfig::new(Arc::new(reset));
        endpoint.rng_seed(Some(seed(seeds)));
        let (key, ids) = (self.keys.connection_id, seed(seeds));
        endpoint.cid_generator(move || Box::new(MarkedIds { key, rng: StdRng::from_seed(ids) }));
        endpoint
            .max_udp_payload_size(self.settings.mtu_upper_bound.max(1472))
            .map_err(|error| TlsError::Setup(format!("mtu_upper_bound: {error}")))?;
        Ok(endpoint)
    }

    fn transport(&self, side: Side) -> Result<TransportConfig, TlsError> {
        let settings = self.settings;
        let idle = IdleTimeout::try_from(settings.idle_timeout.max(limits::QUIET_IDLE))
            .map_err(|error| TlsError::Setup(format!("idle_timeout: {error}")))?;
        let mut mtu = MtuDiscoveryConfig::default();
        mtu.upper_bound(settings.mtu_upper_bound);
        let mut transport = TransportConfig::default();
        transport
            .max_idle_timeout(Some(idle))
            .initial_rtt(settings.initial_rtt)
            .mtu_discovery_config(Some(mtu))
            .stream_receive_window(VarInt::from_u32(limits::STREAM_RECEIVE_WINDOW))
            .receive_window(VarInt::from_u32(limits::RECEIVE_WINDOW))
            .send_window(u64::try_from(limits::SEND_WINDOW).unwrap_or(u64::MAX))
            .congestion_controller_factory(Arc::new(TolerantConfig::default()))
            // They are signs of life, see `vigil`: nobody reads them, and older ones make room.
            .datagram_receive_buffer_size(Some(limits::SIGNS_OF_LIFE_BYTES));
        // The connecting side opens lanes and bulk requests; the serving side opens streams for large replies only.
        let (bidirectional, unidirectional) = match side {
            Side::Server => (limits::LANES_MAX + limits::BULK_STREAMS_MAX, 0),
            Side::Client => (0, limits::BULK_STREAMS_MAX),
        };
        transport.max_concurrent_bidi_streams(VarInt::from_u32(bidirectional));
        transport.max_concurrent_uni_streams(VarInt::from_u32(unidirectional));
        if settings.ack_every > 0 {
            let mut acks = AckFrequencyConfig::default();
            acks.ack_eliciting_threshold(VarInt::from_u32(settings.ack_every));
            transport.ack_frequency_config(Some(acks));
        }
        Ok(transport)
    }
}

#[derive(Clone, Copy)]
enum Side {
    Server,
    Client,
}

fn seed(seeds: &mut StdRng) -> [u8; 32] {
    let mut seed = [0; 32];
    seeds.fill_bytes(&mut seed);
    seed
}

/// Bytes of a connection id that are random; the rest marks it as this node's.
const ID_NONCE: usize = 6;
/// Bytes of a whole connection id.
const ID_LEN: usize = 10;

/// Connection ids that this node recognises as its own, also after a restart: stray packets to other ids cost nothing.
struct MarkedIds {
    key: [u8; 16],
    rng: StdRng,
}

impl MarkedIds {
    fn mark(&self, nonce: &[u8]) -> [u8; ID_LEN - ID_NONCE] {
        let mark = SipHasher13::new_with_key(&self.key).hash(nonce).to_le_bytes();
        [mark[0], mark[1], mark[2], mark[3]]
    }
}

impl ConnectionIdGenerator for MarkedIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; ID_LEN];
        self.rng.fill_bytes(&mut id[..ID_NONCE]);
        let mark = self.mark(&id[..ID_NONCE]);
        id[ID_NONCE..].copy_from_slice(&mark);
        ConnectionId::new(&id)
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        let (nonce, mark) = id.split_at(ID_NONCE.min(id.len()));
        if mark == self.mark(nonce) { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        ID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The ids a client proposes for its first packets: unpredictable, as RFC 9000 section 7.2 demands.
fn initial_ids(seed: [u8; 32]) -> Arc<dyn Fn() -> ConnectionId + Send + Sync> {
    let rng = Mutex::new(StdRng::from_seed(seed));
    Arc::new(move || {
        let mut id = [0; 16];
        rng.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(&mut id);
        ConnectionId::new(&id)
    })
}
