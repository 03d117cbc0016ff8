//! Certificates, keys and roots as given by the user, and who is trusted with them.
//!
//! Both sides of every connection present a certificate that chains to the cluster's roots. Names of hosts play no
//! part: what counts is the role and name in the certificate (see [`crate::net::identity`]). Session resumption and 0-RTT are
//! off, so that an expired or replaced certificate stops working with the next connection.

use std::fmt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::CertificateError;
use rustls::DigitallySignedStruct;
use rustls::OtherError;
use rustls::RootCertStore;
use rustls::SignatureScheme;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::danger::ServerCertVerified;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::UnixTime;
use rustls::pki_types::pem;
use rustls::pki_types::pem::PemObject;
use rustls::server::NoServerSessionStorage;
use rustls::server::ParsedCertificate;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::sign::SigningKey;
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::TimeProvider;

use crate::net::credential;
use crate::net::identity::Certificate;
use crate::net::identity::Identity;
use crate::net::identity::IdentityError;
use crate::types::NodeName;

/// The protocol versions this build speaks, newest first; both sides settle on the newest they share.
pub const ALPN: &[&[u8]] = &[b"dynamomini/1"];

/// Expected nodes are handed to TLS as `NAME.node`: a bare name of digits only would not pass for a host name.
const NODE_SUFFIX: &str = ".node";
/// The server name that stands for "whichever node answers".
const ANY_NODE: &str = "node";

/// A file of the user: where it came from, for error texts, and what is in it.
#[derive(Debug, Clone, Copy)]
pub struct PemFile<'a> {
    /// How to name it in an error, usually its path.
    pub name: &'a str,
    /// Its content.
    pub bytes: &'a [u8],
}

/// Why certificates, key or roots cannot be used. Each text names the file and what to do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TlsError {
    /// A file is not PEM, or not what it should be.
    #[error("{file}: {problem}")]
    File {
        /// Which file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The key is not the certificate's.
    #[error("the key in {key} does not belong to the certificate in {chain}: one of the two is of another issue")]
    KeyMismatch {
        /// The key's file.
        key: String,
        /// The certificate's file.
        chain: String,
    },
    /// The certificate names no usable role.
    #[error("{file}: {problem}")]
    Identity {
        /// Which file.
        file: String,
        /// What is wrong with it.
        problem: IdentityError,
    },
    /// The TLS library refused the whole.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// The PEM files of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The trusted authority.
    pub ca: PathBuf,
    /// The own certificate, with intermediate ones after it if there are any.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// What one process needs to prove who it is and to check others.
#[derive(Clone)]
pub struct TlsMaterial {
    key: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    certificate: Certificate,
    /// What the key that signs this node's records is made from.
    record_seed: [u8; 32],
}

impl fmt::Debug for TlsMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key must never reach a log.
        f.debug_struct("TlsMaterial").field("identity", &self.certificate.identity).finish_non_exhaustive()
    }
}

impl TlsMaterial {
    /// Reads the files of this process.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what is wrong with it.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let read = |path: &Path| {
            let file = path.display().to_string();
            match std::fs::read(path) {
                Ok(bytes) => Ok((file, bytes)),
                Err(error) => Err(TlsError::File { file, problem: error.to_string() }),
            }
        };
        let (chain, key, roots) = (read(&files.cert)?, read(&files.key)?, read(&files.ca)?);
        let [chain, key, roots] = [&chain, &key, &roots].map(|(name, bytes)| PemFile { name, bytes });
        Self::from_pem(chain, key, roots, &ring_provider())
    }

    /// Reads a certificate chain (own certificate first), its key, and the roots that peers must chain to.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what is wrong with it.
    pub fn from_pem(
        chain: PemFile<'_>,
        key: PemFile<'_>,
        roots: PemFile<'_>,
        provider: &CryptoProvider,
    ) -> Result<Self, TlsError> {
        let certificates = read_certificates(chain)?;
        let certificate = Certificate::parse(&certificates[0])
            .map_err(|problem| TlsError::Identity { file: chain.name.to_owned(), problem })?;
        let der = read_key(key)?;
        let record_seed = credential::record_seed(der.secret_der());
        let unusable = |error| file_error(key, format!("the key cannot be used: {error}"));
        let signer = provider.key_provider.load_private_key(der).map_err(unusable)?;
        let certified = CertifiedKey::new(certificates, signer);
        certified
            .keys_match()
            .map_err(|_| TlsError::KeyMismatch { key: key.name.to_owned(), chain: chain.name.to_owned() })?;
        let mut store = RootCertStore::empty();
        for root in read_certificates(roots)? {
            let unusable = |error| file_error(roots, format!("a root certificate cannot be used: {error}"));
            store.add(root).map_err(unusable)?;
        }
        Ok(Self { key: Arc::new(certified), roots: Arc::new(store), certificate, record_seed })
    }

    /// Who this process is.
    pub fn identity(&self) -> &Identity {
        &self.certificate.identity
    }

    /// The process's own certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The own certificate and those between it and the authority's.
    pub(crate) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }

    /// The certificate's private key.
    pub(crate) fn signing_key(&self) -> &dyn SigningKey {
        &*self.key.key
    }

    /// What the key that signs this node's records is made from.
    pub(crate) fn record_seed(&self) -> &[u8; 32] {
        &self.record_seed
    }

    /// Whether the first of these certificates chains to the roots at this time, for a server's use.
    pub(crate) fn trusts(
        &self,
        chain: &[CertificateDer<'_>],
        provider: &CryptoProvider,
        wall_ms: u64,
    ) -> Result<(), rustls::Error> {
        let (leaf, intermediates) = chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
        let leaf = ParsedCertificate::try_from(leaf)?;
        let now = UnixTime::since_unix_epoch(Duration::from_millis(wall_ms));
        let algorithms = provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, &self.roots, intermediates, now, algorithms)
    }

    /// The configuration for accepting connections: TLS 1.3, client certificates demanded, no resumption.
    pub(crate) fn server(
        &self,
        provider: &Arc<CryptoProvider>,
        time: Arc<dyn TimeProvider>,
        alpn: &[&[u8]],
    ) -> Result<rustls::ServerConfig, TlsError> {
        let setup = |error: &dyn fmt::Display| TlsError::Setup(error.to_string());
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider.clone())
            .build()
            .map_err(|error| setup(&error))?;
        let mut config = rustls::ServerConfig::builder_with_details(provider.clone(), time)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| setup(&error))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(self.key.clone())));
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// The configuration for connecting: TLS 1.3, the peer must be a node of this cluster, no resumption.
    pub(crate) fn client(
        &self,
        provider: &Arc<CryptoProvider>,
        time: Arc<dyn TimeProvider>,
        alpn: &[&[u8]],
    ) -> Result<rustls::ClientConfig, TlsError> {
        let verifier = NodeVerifier { roots: self.roots.clone(), provider: provider.clone() };
        let mut config = rustls::ClientConfig::builder_with_details(provider.clone(), time)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| TlsError::Setup(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(self.key.clone())));
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config.resumption = rustls::client::Resumption::disabled();
        // The name handed to TLS is the expected node's, not a host's: it is nobody else's business on the wire.
        config.enable_sni = false;
        Ok(config)
    }
}

/// The name to hand to TLS for the peer that is expected.
pub(crate) fn server_name(expected: Option<&NodeName>) -> String {
    expected.map_or_else(|| ANY_NODE.to_owned(), |name| format!("{name}{NODE_SUFFIX}"))
}

/// Accepts a server that is a node of the cluster, and the expected one if one is named.
#[derive(Debug)]
struct NodeVerifier {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

/// Why a server with a certificate of the right authority is still not the right one.
#[derive(thiserror::Error)]
enum WrongServer {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the certificate is of {0}, but only a node may serve: check what runs at this address")]
    NotANode(Identity),
    #[error("the certificate is of node {found}, but node {expected} was expected here: check the address")]
    AnotherNode { found: NodeName, expected: String },
}

/// rustls prints foreign errors in their debug form, and this text is for users.
impl fmt::Debug for WrongServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl NodeVerifier {
    fn check_identity(der: &CertificateDer<'_>, expected: &ServerName<'_>) -> Result<(), WrongServer> {
        let expected = expected.to_str();
        match Certificate::parse(der)?.identity {
            Identity::Node(found) => match expected.strip_suffix(NODE_SUFFIX) {
                Some(name) if name != found.as_str() => {
                    Err(WrongServer::AnotherNode { found, expected: name.to_owned() })
                }
                _ => Ok(()),
            },
            other => Err(WrongServer::NotANode(other)),
        }
    }
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // The role comes first: a client's certificate often also lacks the usage "server", which would say less.
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let identity = Self::check_identity(end_entity, server_name);
        let algorithms = self.provider.signature_verification_algorithms.all;
        match verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms) {
            Err(rustls::Error::InvalidCertificate(CertificateError::InvalidPurposeContext { .. })) | Ok(()) => {}
            Err(error) => return Err(error),
        }
        identity.map_err(|why| CertificateError::Other(OtherError(Arc::new(why))))?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The wall clock of an [`crate::env::Env`], for certificate validity.
#[derive(Debug, Clone)]
pub(crate) struct WallClock(pub(crate) crate::env::Env);

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.wall_ms())))
    }
}

impl quinn::TimeSource for WallClock {
    fn now(&self) -> std::time::SystemTime {
        std::time::UNIX_EPOCH + Duration::from_millis(self.0.wall_ms())
    }
}

/// TLS by ring, for everything outside a simulation.
pub fn ring_provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn file_error(file: PemFile<'_>, problem: impl Into<String>) -> TlsError {
    TlsError::File { file: file.name.to_owned(), problem: problem.into() }
}

/// All certificates of a file; at least one.
fn read_certificates(file: PemFile<'_>) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(file.bytes).collect();
    let certificates = read.map_err(|error| file_error(file, format!("this is not valid PEM: {error}")))?;
    if certificates.is_empty() {
        return Err(file_error(file, "no certificate found: a PEM block BEGIN CERTIFICATE is expected"));
    }
    Ok(certificates)
}

fn read_key(file: PemFile<'_>) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(file.bytes).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            file_error(file, "no private key found: an unencrypted PEM block BEGIN PRIVATE KEY is expected")
        }
        error => file_error(file, format!("this is not valid PEM: {error}")),
    })
}
