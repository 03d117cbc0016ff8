//! Credentials: a node's certificate, and a signature of its key under a smaller key that signs what the node says.
//!
//! The certificate's own key may be of any kind that TLS takes, and its signatures too long for a datagram. So it signs
//! once, for an Ed25519 key which is derived from it and is thus the same for as long as the certificate's key is. Whoever
//! has seen the credential, and trusts the authority, can check what that key signs. What is signed is not known here.

use std::fmt;

use ring::hkdf;
use ring::signature::ED25519;
use ring::signature::Ed25519KeyPair;
use ring::signature::KeyPair;
use ring::signature::UnparsedPublicKey;
use rustls::SignatureScheme;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use serde::Deserialize;
use serde::Serialize;
use x509_parser::prelude::FromDer;
use x509_parser::prelude::X509Certificate;

use crate::net::identity::Certificate;
use crate::net::identity::Identity;
use crate::net::identity::IdentityError;
use crate::net::tls::TlsError;
use crate::net::tls::TlsMaterial;
use crate::types::ClusterName;
use crate::types::NodeName;

/// What the certificate's key signs begins with this, so that it can be taken for nothing else.
const LABEL: &[u8] = b"dynamomini record key 1\0";
/// Kinds of signatures that a certificate's key may make, best first.
const SCHEMES: &[SignatureScheme] = &[
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PSS_SHA256,
];
/// Certificates of one chain.
const CHAIN_MAX: usize = 8;

/// A node's claim to its name, as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// The node's certificate, and those between it and the authority's, in DER.
    chain: Vec<Vec<u8>>,
    /// The Ed25519 key that signs for the node.
    key: [u8; 32],
    /// How the certificate's key signed, by its number in TLS.
    scheme: u16,
    /// The signature of the certificate's key.
    proof: Vec<u8>,
}

/// A credential that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vouched {
    /// The node.
    pub node: NodeName,
    /// Its certificate.
    pub certificate: Certificate,
    /// The key that signs for it.
    pub key: [u8; 32],
}

/// Why a credential is not believed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CredentialError {
    /// The certificate cannot be read or names no role.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The certificate is not a node's.
    #[error("the certificate is of {0}, and only nodes speak for themselves")]
    NotANode(Identity),
    /// The certificate does not chain to the authority, or is not valid now.
    #[error("the certificate of node {0} is not to be trusted: {1}")]
    Untrusted(NodeName, String),
    /// The signature under the key is not the certificate's.
    #[error("the key of node {0} is not signed by its certificate")]
    Unproven(NodeName),
}

impl Credential {
    /// The fingerprint of its certificate; whether the rest is right is not said by that.
    pub fn fingerprint(&self) -> Option<[u8; 32]> {
        self.chain.first().map(|leaf| crate::net::identity::fingerprint(leaf))
    }

    /// Checks everything: the chain, its validity at `wall_ms`, the role, and the proof.
    ///
    /// # Errors
    /// [`CredentialError`] says why it is not believed.
    pub fn check(
        &self,
        cluster: &ClusterName,
        material: &TlsMaterial,
        provider: &CryptoProvider,
        wall_ms: u64,
    ) -> Result<Vouched, CredentialError> {
        let leaf = self.chain.first().map(Vec::as_slice).unwrap_or_default();
        let certificate = Certificate::parse(leaf)?;
        let Identity::Node(node) = certificate.identity.clone() else {
            return Err(CredentialError::NotANode(certificate.identity));
        };
        if self.chain.len() > CHAIN_MAX {
            return Err(CredentialError::Untrusted(node, format!("its chain has {} certificates", self.chain.len())));
        }
        let chain: Vec<CertificateDer<'_>> = self.chain.iter().map(|der| der.as_slice().into()).collect();
        let trusted = material.trusts(&chain, provider, wall_ms);
        trusted.map_err(|error| CredentialError::Untrusted(node.clone(), error.to_string()))?;
        let signed = signed(cluster, &certificate.fingerprint, &self.key);
        if !is_signed(leaf, SignatureScheme::from(self.scheme), &signed, &self.proof, provider) {
            return Err(CredentialError::Unproven(node));
        }
        Ok(Vouched { node, certificate, key: self.key })
    }
}

impl Vouched {
    /// Whether the node signed this.
    pub fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.key).verify(message, signature).is_ok()
    }
}

/// Signs for this node.
pub struct RecordSigner {
    key: Ed25519KeyPair,
    credential: Credential,
}

impl fmt::Debug for RecordSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordSigner").finish_non_exhaustive()
    }
}

impl RecordSigner {
    /// The signer of the node that this material is of.
    ///
    /// # Errors
    /// When the certificate's key can make no signature of a kind that is known here.
    pub fn new(material: &TlsMaterial, cluster: &ClusterName) -> Result<Self, TlsError> {
        let key = Ed25519KeyPair::from_seed_unchecked(material.record_seed());
        let key = key.map_err(|error| TlsError::Setup(format!("the key for records: {error}")))?;
        let mut public = [0; 32];
        public.copy_from_slice(key.public_key().as_ref());
        let signed = signed(cluster, &material.certificate().fingerprint, &public);
        let signer = material.signing_key().choose_scheme(SCHEMES);
        let signer = signer.ok_or_else(|| TlsError::Setup("the key makes no signature of a known kind".to_owned()))?;
        let proof = signer.sign(&signed).map_err(|error| TlsError::Setup(error.to_string()))?;
        let chain = material.chain().iter().map(|der| der.as_ref().to_vec()).collect();
        let credential = Credential { chain, key: public, scheme: signer.scheme().into(), proof };
        Ok(Self { key, credential })
    }

    /// Signs a message: 64 bytes.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.key.sign(message).as_ref().to_vec()
    }

    /// What others check the signatures with.
    pub fn credential(&self) -> &Credential {
        &self.credential
    }

    /// The key that signs.
    pub fn public_key(&self) -> [u8; 32] {
        self.credential.key
    }
}

/// Derives the seed of the key for records from the private key of the certificate.
pub(crate) fn record_seed(private_key: &[u8]) -> [u8; 32] {
    let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, LABEL).extract(private_key);
    let mut seed = [0; 32];
    let okm = secret.expand(&[b"ed25519 seed"], hkdf::HKDF_SHA256).expect("32 bytes are the hash's own length");
    okm.fill(&mut seed).expect("32 bytes were asked for");
    seed
}

/// What the certificate's key signs.
fn signed(cluster: &ClusterName, fingerprint: &[u8; 32], key: &[u8; 32]) -> Vec<u8> {
    // Name last: nothing before it varies in length.
    [LABEL, fingerprint, key, cluster.as_str().as_bytes()].concat()
}

fn is_signed(leaf: &[u8], scheme: SignatureScheme, message: &[u8], proof: &[u8], provider: &CryptoProvider) -> bool {
    if !SCHEMES.contains(&scheme) {
        return false;
    }
    let Ok((_, parsed)) = X509Certificate::from_der(leaf) else { return false };
    let key = &parsed.public_key().subject_public_key.data;
    let known = provider.signature_verification_algorithms.mapping.iter().find(|(one, _)| *one == scheme);
    let algorithms = known.map(|(_, algorithms)| *algorithms).unwrap_or_default();
    algorithms.iter().any(|algorithm| algorithm.verify_signature(key, message, proof).is_ok())
}
