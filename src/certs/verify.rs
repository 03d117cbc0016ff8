//! Whether the certificate files of a configuration will do: all that is wrong, before anything is started.
//!
//! The rules are those of [`crate::net::tls`], which judges again at run time; here each gets a text of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::CertificateError;
use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::UnixTime;
use rustls::pki_types::pem::PemObject;
use rustls::server::ParsedCertificate;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;

use crate::certs::describe;
use crate::certs::files;
use crate::certs::files::Unusable;
use crate::net::TlsFiles;
use crate::net::identity::Certificate;
use crate::net::identity::Identity;
use crate::net::tls::PemFile;
use crate::net::tls::TlsMaterial;
use crate::types::NodeName;

/// Whose certificate is expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// This node's.
    Node(NodeName),
    /// Some node's.
    AnyNode,
    /// Any client's or administrator's.
    ClientOrAdmin,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The key of the file it is about: `tls.ca`, `tls.cert` or `tls.key`.
    pub key: &'static str,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub fix: String,
}

impl Fault {
    fn new(key: &'static str, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { key, what: what.into(), fix: fix.into() }
    }

    fn of(key: &'static str) -> impl Fn(Unusable) -> Self {
        move |unusable| Self::new(key, unusable.what, unusable.fix)
    }
}

/// Checks the three files against each other, against the expected identity and against the clock.
pub fn check(tls: &TlsFiles, expected: &Expected, now_ms: u64) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut keep = |result: Result<(), Fault>| {
        if let Err(fault) = result {
            faults.push(fault);
        }
    };
    let ca_text = files::readable(&tls.ca).map_err(Fault::of("tls.ca"));
    let cert_text = files::readable(&tls.cert).map_err(Fault::of("tls.cert"));
    let key_text = files::private(&tls.key).map_err(Fault::of("tls.key"));
    let roots = ca_text.clone().and_then(|text| roots(&tls.ca, &text, now_ms));
    let chain = cert_text.clone().and_then(|text| chain("tls.cert", &tls.cert, &text));
    let key = key_text.clone().and_then(|text| key(&tls.key, &text));
    if let Ok(chain) = &chain {
        keep(dates("tls.cert", &tls.cert, &chain[0], now_ms));
        keep(identity(&tls.cert, &chain[0], expected));
        if let Ok(key) = &key {
            keep(keys_match(tls, chain, key));
        }
        if let Ok(roots) = &roots {
            keep(signed(tls, chain, roots, expected));
        }
    }
    keep(roots.map(drop));
    keep(chain.map(drop));
    keep(key.map(drop));
    if let (true, Ok(ca), Ok(cert), Ok(key)) = (faults.is_empty(), ca_text, cert_text, key_text) {
        // What the program itself will do with the files has the last word.
        let name = |path: &Path| path.display().to_string();
        let loaded = TlsMaterial::from_pem(
            PemFile { name: &name(&tls.cert), bytes: cert.as_bytes() },
            PemFile { name: &name(&tls.key), bytes: key.as_bytes() },
            PemFile { name: &name(&tls.ca), bytes: ca.as_bytes() },
            &rustls::crypto::ring::default_provider(),
        );
        if let Err(error) = loaded {
            faults.push(Fault::new("tls.cert", error.to_string(), ""));
        }
    }
    // In the order in which they are configured.
    faults.sort_by_key(|fault| ["tls.ca", "tls.cert", "tls.key"].iter().position(|key| *key == fault.key));
    faults
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn chain(key: &'static str, path: &Path, text: &str) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let shown = path.display();
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(Fault::new(
            key,
            format!("{shown} holds no certificate"),
            "name a PEM file that begins with BEGIN CERTIFICATE",
        )),
        Err(error) => Err(Fault::new(key, format!("{shown} is not PEM: {error}"), "copy or issue it again")),
    }
}

fn key(path: &Path, text: &str) -> Result<PrivateKeyDer<'static>, Fault> {
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| {
        let what = format!("{} holds no private key ({error})", path.display());
        Fault::new("tls.key", what, "name the PEM file of the key that belongs to tls.cert")
    })
}

fn roots(path: &Path, text: &str, now_ms: u64) -> Result<RootCertStore, Fault> {
    let mut store = RootCertStore::empty();
    let found = chain("tls.ca", path, text)?;
    for root in &found {
        if !describe::is_authority(root) {
            let what = format!("{} is not an authority's certificate", path.display());
            return Err(Fault::new("tls.ca", what, "name the ca.crt of the authority that issued tls.cert"));
        }
        store.add(root.clone()).map_err(|error| {
            Fault::new("tls.ca", format!("{} cannot be used: {error}", path.display()), "copy or issue it again")
        })?;
    }
    // Several may be listed while one takes over from another; one that is valid is enough.
    let dated: Vec<Fault> = found.iter().filter_map(|root| dates("tls.ca", path, root, now_ms).err()).collect();
    match dated.into_iter().next() {
        Some(fault) if found.len() == 1 => Err(fault),
        _ => Ok(store),
    }
}

fn dates(key: &'static str, path: &Path, der: &CertificateDer<'_>, now_ms: u64) -> Result<(), Fault> {
    let shown = path.display();
    let Some(validity) = describe::validity(der) else {
        return Err(Fault::new(key, format!("{shown} cannot be read as a certificate"), "copy or issue it again"));
    };
    let now = i64::try_from(now_ms / 1000).unwrap_or(i64::MAX);
    if now > validity.not_after {
        let what = format!("{shown} expired on {}", describe::date(validity.not_after));
        return Err(Fault::new(key, what, format!("run: dynamomini certs renew {shown}")));
    }
    if now < validity.not_before {
        let what = format!("{shown} is not valid before {}", describe::date(validity.not_before));
        return Err(Fault::new(key, what, "check this host's clock, or issue it again"));
    }
    Ok(())
}

fn identity(path: &Path, der: &CertificateDer<'_>, expected: &Expected) -> Result<(), Fault> {
    let shown = path.display();
    let found = Certificate::parse(der).map_err(|error| Fault::new("tls.cert", format!("{shown}: {error}"), ""))?;
    match (expected, &found.identity) {
        (Expected::Node(name), Identity::Node(found)) if found == name => Ok(()),
        (Expected::AnyNode, Identity::Node(_)) => Ok(()),
        (Expected::AnyNode, other) => {
            let what = format!("{shown} is the certificate of {other}, not of a node");
            Err(Fault::new("tls.cert", what, "run: dynamomini certs node NAME"))
        }
        (Expected::Node(name), other) => {
            let what = format!("{shown} is the certificate of {other}, not of node {name}");
            Err(Fault::new("tls.cert", what, format!("run: dynamomini certs node {name}, or correct node.name")))
        }
        (Expected::ClientOrAdmin, Identity::Client { .. } | Identity::Admin(_)) => Ok(()),
        (Expected::ClientOrAdmin, other) => {
            let what = format!("{shown} is the certificate of {other}, not of a client");
            let fix = "run: dynamomini certs client NAME --grant NAMESPACE:VERBS, and use that one";
            Err(Fault::new("tls.cert", what, fix))
        }
    }
}

fn keys_match(tls: &TlsFiles, chain: &[CertificateDer<'static>], key: &PrivateKeyDer<'static>) -> Result<(), Fault> {
    let (cert, key_file) = (tls.cert.display(), tls.key.display());
    let loaded = provider().key_provider.load_private_key(key.clone_key());
    let signer = loaded.map_err(|error| {
        Fault::new("tls.key", format!("{key_file} cannot be used: {error}"), "use an Ed25519 or ECDSA key in PEM form")
    })?;
    CertifiedKey::new(chain.to_vec(), signer).keys_match().map_err(|_| {
        let what = format!("{key_file} does not belong to the certificate in {cert}");
        Fault::new("tls.key", what, "name the key that was made with this certificate, or issue both again")
    })
}

/// Checks signatures and usages at a time when the certificate is valid: its dates have a text of their own.
fn signed(
    tls: &TlsFiles,
    chain: &[CertificateDer<'static>],
    roots: &RootCertStore,
    expected: &Expected,
) -> Result<(), Fault> {
    let (end, rest) = (&chain[0], &chain[1..]);
    let Some(when) = time_within(end) else { return Ok(()) };
    let refused = |error: rustls::Error, usage: &str| match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            let what = format!("{} was not issued by the authority in {}", tls.cert.display(), tls.ca.display());
            Fault::new(
                "tls.cert",
                what,
                "use certificate and ca.crt of the same authority, and append intermediates to tls.cert",
            )
        }
        rustls::Error::InvalidCertificate(
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
        ) => {
            let what = format!("{} may not be used as a {usage}", tls.cert.display());
            let fix = format!("issue it with the extended key usage {usage}Auth");
            Fault::new("tls.cert", what, fix)
        }
        other => Fault::new("tls.cert", format!("{} is refused: {other}", tls.cert.display()), "issue it again"),
    };
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), provider()).build();
    let verifier =
        verifier.map_err(|error| Fault::new("tls.ca", format!("cannot be used: {error}"), "issue it again"))?;
    verifier.verify_client_cert(end, rest, when).map_err(|error| refused(error, "client"))?;
    if *expected != Expected::ClientOrAdmin {
        verify_server(end, rest, roots, when).map_err(|error| refused(error, "server"))?;
    }
    Ok(())
}

fn verify_server(
    end: &CertificateDer<'_>,
    rest: &[CertificateDer<'_>],
    roots: &RootCertStore,
    when: UnixTime,
) -> Result<(), rustls::Error> {
    let parsed = ParsedCertificate::try_from(end)?;
    let algorithms = provider().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, rest, when, algorithms)
}

fn time_within(der: &CertificateDer<'_>) -> Option<UnixTime> {
    let seconds = u64::try_from(describe::validity(der)?.not_after).ok()?;
    Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
}

/// Whether an authority has signed a certificate directly, whatever its usages and dates.
pub(crate) fn is_signed_by(der: &CertificateDer<'_>, root: &CertificateDer<'static>) -> bool {
    let mut roots = RootCertStore::empty();
    let (Ok(()), Some(when)) = (roots.add(root.clone()), time_within(der)) else { return false };
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    verifier.is_ok_and(|verifier| verifier.verify_client_cert(der, &[], when).is_ok())
}
