//! TLS whose randomness comes from the seed, so that every encrypted byte is the same in every run.
//!
//! Key exchange is this module's own, because ring's draws its secrets from the system whatever it is told. Signatures
//! must be Ed25519, the only ones without randomness. Never for anything but simulation.

use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;

use rand::Rng;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rustls::Error;
use rustls::NamedGroup;
use rustls::PeerMisbehaved;
use rustls::crypto::ActiveKeyExchange;
use rustls::crypto::CryptoProvider;
use rustls::crypto::GetRandomFailed;
use rustls::crypto::SecureRandom;
use rustls::crypto::SharedSecret;
use rustls::crypto::SupportedKxGroup;
use x25519_dalek::X25519_BASEPOINT_BYTES;
use x25519_dalek::x25519;

/// A provider whose every random byte comes from the seed. Two small objects are leaked for each.
pub(crate) fn provider(seed: [u8; 32]) -> Arc<CryptoProvider> {
    let random: &'static Seeded = Box::leak(Box::new(Seeded(Mutex::new(StdRng::from_seed(seed)))));
    let exchange: &'static Exchange = Box::leak(Box::new(Exchange(random)));
    let mut provider = rustls::crypto::ring::default_provider();
    provider.secure_random = random;
    provider.kx_groups = vec![exchange];
    Arc::new(provider)
}

struct Seeded(Mutex<StdRng>);

impl fmt::Debug for Seeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seeded")
    }
}

impl SecureRandom for Seeded {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), GetRandomFailed> {
        self.0.lock().map_err(|_| GetRandomFailed)?.fill_bytes(buffer);
        Ok(())
    }
}

#[derive(Debug)]
struct Exchange(&'static Seeded);

impl SupportedKxGroup for Exchange {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let mut secret = [0; 32];
        self.0.fill(&mut secret)?;
        Ok(Box::new(Exchanging { secret, public: x25519(secret, X25519_BASEPOINT_BYTES) }))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

struct Exchanging {
    secret: [u8; 32],
    public: [u8; 32],
}

impl ActiveKeyExchange for Exchanging {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let peer = <[u8; 32]>::try_from(peer).map_err(|_| PeerMisbehaved::InvalidKeyShare)?;
        let shared = x25519(self.secret, peer);
        // RFC 8446 section 7.4.2: a share that forces the secret to zero must be refused.
        if shared == [0; 32] {
            return Err(PeerMisbehaved::InvalidKeyShare.into());
        }
        Ok(SharedSecret::from(&shared[..]))
    }

    fn pub_key(&self) -> &[u8] {
        &self.public
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}
