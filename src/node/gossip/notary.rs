//! Who signed which record: this node's signer, and the credentials of the others.
//!
//! Certificates do not fit datagrams. They travel by connections, and a record whose certificate has not come yet is
//! refused for now and noted as lacking.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use rustls::crypto::CryptoProvider;

use crate::env::Env;
use crate::limits;
use crate::meter::Counter;
use crate::net::tls::TlsError;
use crate::net::{Credential, RecordSigner, TlsMaterial, Vouched};
use crate::swim;
use crate::types::ClusterName;
use crate::wire::blob::Blob;

type Fingerprint = [u8; 32];

/// Signs and checks records.
pub(crate) struct CertificateNotary {
    cluster: ClusterName,
    provider: Arc<CryptoProvider>,
    own: RwLock<Arc<Own>>,
    env: Env,
    state: Mutex<State>,
    /// Records whose signature is wrong.
    pub(crate) forged: Counter,
    /// Records whose certificate had not come yet.
    pub(crate) unknown: Counter,
    /// Credentials that were not believed.
    pub(crate) refused: Counter,
}

/// What this node proves itself with, and whom it trusts.
struct Own {
    material: TlsMaterial,
    signer: RecordSigner,
}

impl Own {
    fn new(material: &TlsMaterial, cluster: &ClusterName) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self { material: material.clone(), signer: RecordSigner::new(material, cluster)? }))
    }
}

#[derive(Default)]
struct State {
    vouched: BTreeMap<Fingerprint, (Vouched, Blob)>,
    /// Certificates that records named and that are not here.
    lacking: BTreeSet<Fingerprint>,
    /// Rises with each credential that comes.
    generation: u64,
}

impl CertificateNotary {
    pub(crate) fn new(
        cluster: &ClusterName,
        material: &TlsMaterial,
        provider: &Arc<CryptoProvider>,
        env: &Env,
    ) -> Result<Self, TlsError> {
        let notary = Self {
            cluster: cluster.clone(),
            provider: provider.clone(),
            own: RwLock::new(Own::new(material, cluster)?),
            env: env.clone(),
            state: Mutex::default(),
            forged: Counter::default(),
            unknown: Counter::default(),
            refused: Counter::default(),
        };
        notary.learn(&[notary.own()]);
        Ok(notary)
    }

    /// Proves this node with other material from now on, and trusts what that trusts. Credentials that were checked
    /// before stay.
    pub(crate) fn renew(&self, material: &TlsMaterial) -> Result<(), TlsError> {
        let own = Own::new(material, &self.cluster)?;
        *self.own.write().unwrap_or_else(PoisonError::into_inner) = own;
        self.learn(&[self.own()]);
        Ok(())
    }

    fn mine(&self) -> Arc<Own> {
        self.own.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This node's credential, encoded.
    pub(crate) fn own(&self) -> Blob {
        encode(self.mine().signer.credential())
    }

    /// The key under which this node's records are signed.
    pub(crate) fn public_key(&self) -> Vec<u8> {
        self.mine().signer.public_key().to_vec()
    }

    /// This node's certificate, as its record names it.
    pub(crate) fn certificate(&self) -> swim::Certificate {
        let mine = self.mine();
        let certificate = mine.material.certificate();
        let expires_s = u64::try_from(certificate.not_after_ms / 1000).unwrap_or(0);
        swim::Certificate { fingerprint: certificate.fingerprint, expires_s }
    }

    /// Checks credentials and remembers those that hold.
    pub(crate) fn learn(&self, credentials: &[Blob]) {
        let mine = self.mine();
        for encoded in credentials.iter().take(limits::CREDENTIALS_MAX) {
            let Ok(credential) = postcard::from_bytes::<Credential>(encoded) else {
                self.refused.one();
                continue;
            };
            let known = credential.fingerprint().is_some_and(|print| self.lock().vouched.contains_key(&print));
            if known {
                continue;
            }
            match credential.check(&self.cluster, &mine.material, &self.provider, self.env.wall_ms()) {
                Ok(vouched) => self.keep(vouched, Blob::copy(encoded)),
                Err(error) => {
                    self.refused.one();
                    tracing::debug!(%error, "a member's credential is not believed");
                }
            }
        }
    }

    fn keep(&self, vouched: Vouched, encoded: Blob) {
        let print = vouched.certificate.fingerprint;
        let mut state = self.lock();
        if state.vouched.len() >= limits::CREDENTIALS_MAX {
            self.refused.one();
            return;
        }
        state.lacking.remove(&print);
        state.vouched.insert(print, (vouched, encoded));
        state.generation += 1;
    }

    /// Forgets the certificates that are none of these, when there are many.
    pub(crate) fn prune(&self, used: &BTreeSet<Fingerprint>) {
        let own = self.mine().material.certificate().fingerprint;
        let mut state = self.lock();
        if state.vouched.len() > limits::CREDENTIALS_MAX / 2 {
            state.vouched.retain(|print, _| *print == own || used.contains(print));
        }
    }

    /// Credentials by the fingerprints of their certificates, this node's own first; all of them on request.
    pub(crate) fn credentials(&self, wanted: &[Fingerprint], all: bool) -> Vec<Blob> {
        let mut found = vec![self.own()];
        let state = self.lock();
        if all {
            found.extend(state.vouched.values().map(|(_, encoded)| encoded.clone()));
        } else {
            let wanted = wanted.iter().take(limits::CREDENTIALS_WANTED_MAX);
            found.extend(wanted.filter_map(|print| state.vouched.get(print)).map(|(_, encoded)| encoded.clone()));
        }
        found
    }

    /// Certificates that are still lacking.
    pub(crate) fn lacking(&self) -> Vec<Fingerprint> {
        self.lock().lacking.iter().take(limits::CREDENTIALS_WANTED_MAX).copied().collect()
    }

    /// Records named more certificates that are not here than this, and credentials that came, since the start.
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.unknown.get(), self.lock().generation)
    }
}

fn encode(credential: &Credential) -> Blob {
    Blob(postcard::to_stdvec(credential).expect("a credential always encodes into memory").into())
}

impl swim::Notary for CertificateNotary {
    fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.mine().signer.sign(bytes)
    }

    fn verify(&self, record: &swim::Record, bytes: &[u8], signature: &[u8]) -> bool {
        let print = record.certificate.fingerprint;
        let mut state = self.lock();
        let Some((vouched, _)) = state.vouched.get(&print) else {
            self.unknown.one();
            if state.lacking.len() >= limits::CREDENTIALS_WANTED_MAX {
                // What was invented never comes, and must not stand in the way of what will.
                state.lacking.clear();
            }
            state.lacking.insert(print);
            return false;
        };
        let good = vouched.node == record.name && vouched.key == *record.key && vouched.signed(bytes, signature);
        if !good {
            self.forged.one();
        }
        good
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::PemFile;
    use crate::net::tests::certs;
    use crate::net::tls::ring_provider;
    use crate::node::gossip::fixture;
    use crate::swim::{Record, RecordError, Signed};

    fn notary(name: &str) -> CertificateNotary {
        let authority = certs::Authority::new("notaries");
        let issued = authority.issue(&[&format!("dynamomini://node/{name}")]);
        let file = |bytes| PemFile { name: "memory", bytes };
        let (chain, key) = (file(issued.chain.as_bytes()), file(issued.key.as_bytes()));
        let material = TlsMaterial::from_pem(chain, key, file(authority.root.as_bytes()), &ring_provider()).unwrap();
        CertificateNotary::new(&"c".parse().unwrap(), &material, &ring_provider(), &Env::real()).unwrap()
    }

    fn record(notary: &CertificateNotary, name: &str) -> Record {
        let (certificate, key) = (notary.certificate(), notary.public_key());
        Record { certificate, key, ..fixture::record(name) }
    }

    #[test]
    fn a_record_is_believed_once_its_certificate_has_come() {
        let (one, two) = (notary("n1"), notary("n2"));
        let bytes = Signed::new(record(&one, "n1"), &one).unwrap().to_bytes();
        assert_eq!(Signed::from_bytes(&bytes, 1, &two), Err(RecordError::Forged));
        assert_eq!((two.progress().0, two.lacking().len()), (1, 1));
        two.learn(&one.credentials(&two.lacking(), false));
        assert!(two.lacking().is_empty());
        assert!(Signed::from_bytes(&bytes, 1, &two).is_ok());
        assert_eq!(two.forged.get(), 0);
    }

    #[test]
    fn a_node_cannot_speak_for_another_or_with_anothers_certificate() {
        let (one, two) = (notary("n1"), notary("n2"));
        two.learn(&[one.own()]);
        // Its own certificate and key, and another name.
        let named = Signed::new(record(&one, "n3"), &one).unwrap().to_bytes();
        // Another's certificate and name, and its own key.
        let mut borrowed = record(&two, "n2");
        borrowed.key = one.public_key();
        let borrowed = Signed::new(borrowed, &one).unwrap().to_bytes();
        let stolen = Signed::new(record(&two, "n2"), &one).unwrap().to_bytes();
        for forged in [named, borrowed, stolen] {
            assert_eq!(Signed::from_bytes(&forged, 1, &two), Err(RecordError::Forged));
        }
        assert_eq!(two.forged.get(), 3);
    }

    #[test]
    fn credentials_that_are_junk_are_counted_and_not_kept() {
        let notary = notary("n1");
        notary.learn(&[Blob::copy(b"junk"), Blob::copy(&[0; 200])]);
        assert_eq!(notary.refused.get(), 2);
        assert_eq!(notary.credentials(&[], true).len(), 2, "its own, twice");
    }

    #[test]
    fn a_renewed_certificate_takes_the_place_of_the_old_one_and_what_was_known_stays_known() {
        let authority = certs::Authority::new("notaries");
        let of = |name: &str| {
            let uri = format!("dynamomini://node/{name}");
            let issued = authority.issue_with(&[&uri], |params| params.serial_number = Some(7_u64.into()));
            let file = |bytes| PemFile { name: "memory", bytes };
            let (chain, key) = (file(issued.chain.as_bytes()), file(issued.key.as_bytes()));
            TlsMaterial::from_pem(chain, key, file(authority.root.as_bytes()), &ring_provider()).unwrap()
        };
        let (one, two) = (notary("n1"), notary("n2"));
        two.learn(&[one.own()]);
        let old = Signed::new(record(&one, "n1"), &one).unwrap().to_bytes();
        let before = one.certificate();
        one.renew(&of("n1")).unwrap();
        assert_ne!(one.certificate().fingerprint, before.fingerprint);
        let new = Signed::new(record(&one, "n1"), &one).unwrap().to_bytes();
        assert_eq!(Signed::from_bytes(&new, 1, &two), Err(RecordError::Forged), "its certificate has not come yet");
        two.learn(&[one.own()]);
        for bytes in [old, new] {
            assert!(Signed::from_bytes(&bytes, 1, &two).is_ok());
        }
    }

    #[test]
    fn fingerprints_that_were_invented_do_not_stand_in_the_way() {
        let (one, two) = (notary("n1"), notary("n2"));
        for number in 0..200_u8 {
            let mut invented = record(&one, "n1");
            invented.certificate.fingerprint = [number; 32];
            let bytes = Signed::new(invented, &one).unwrap().to_bytes();
            assert!(Signed::from_bytes(&bytes, 1, &two).is_err());
        }
        assert!(Signed::from_bytes(&Signed::new(record(&one, "n1"), &one).unwrap().to_bytes(), 1, &two).is_err());
        assert!(two.lacking().contains(&one.certificate().fingerprint));
    }
}
