//! What a PEM file holds, for people and programs: certificates, requests and keys, the latter without their secret.

use rcgen::KeyPair;
use rcgen::PublicKeyData;
use ring::digest;
use serde::Serialize;
use time::OffsetDateTime;
use time::macros::format_description;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::GeneralName;
use x509_parser::extensions::ParsedExtension;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use x509_parser::prelude::X509Certificate;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::net::identity::Identity;

/// One block of a PEM file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Described {
    /// A certificate.
    Certificate {
        /// Its names and role.
        #[serde(flatten)]
        names: Names,
        /// Whether it is an authority's.
        authority: bool,
        /// Whom it is for, as a distinguished name.
        subject: String,
        /// Who issued it, as a distinguished name.
        issuer: String,
        /// First day and second of validity, in UTC.
        not_before: String,
        /// Last day and second of validity, in UTC.
        not_after: String,
        /// Whole days from now to its end; negative when it has expired.
        days_left: i64,
        /// SHA-256 of the certificate.
        fingerprint: String,
        /// SHA-256 of its public key; equal to that of the key that belongs to it.
        public_key: String,
    },
    /// A request for a certificate.
    Request {
        /// Its names and role.
        #[serde(flatten)]
        names: Names,
        /// SHA-256 of its public key.
        public_key: String,
    },
    /// A private key.
    Key {
        /// Its algorithm, or form if that is not known.
        algorithm: String,
        /// SHA-256 of its public key; equal to that of the certificate that belongs to it.
        public_key: Option<String>,
    },
    /// Something else, or damaged.
    Unreadable {
        /// What is wrong.
        what: String,
    },
}

/// The names of a certificate or request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Names {
    /// `node`, `client` or `admin`.
    pub role: Option<String>,
    /// The name within the role.
    pub name: Option<String>,
    /// What a client may do, as URIs.
    pub grants: Vec<String>,
    /// DNS names and IP addresses.
    pub hosts: Vec<String>,
    /// Why it names no role that could be used.
    pub fault: Option<String>,
}

/// First and last second of validity, in seconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First second.
    pub not_before: i64,
    /// Last second.
    pub not_after: i64,
}

/// When a certificate is valid; `None` when it cannot be read.
pub fn validity(der: &[u8]) -> Option<Validity> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    let dates = parsed.validity();
    Some(Validity { not_before: dates.not_before.timestamp(), not_after: dates.not_after.timestamp() })
}

/// Whether a certificate is an authority's.
pub fn is_authority(der: &[u8]) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, parsed)| parsed.is_ca())
}

/// A date for people, in UTC.
pub fn date(seconds: i64) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    let moment = OffsetDateTime::from_unix_timestamp(seconds).ok();
    moment.and_then(|moment| moment.format(format).ok()).unwrap_or_else(|| format!("second {seconds}"))
}

/// Describes every block of a PEM text. An empty list means that there is none.
pub fn describe(pem: &str, now_ms: u64) -> Vec<Described> {
    let mut all = Vec::new();
    for block in Pem::iter_from_buffer(pem.as_bytes()) {
        all.push(match block {
            Ok(block) => describe_block(&block.label, &block.contents, now_ms),
            Err(error) => Described::Unreadable { what: format!("damaged PEM: {error}") },
        });
    }
    all
}

fn describe_block(label: &str, der: &[u8], now_ms: u64) -> Described {
    let damaged = |error: &dyn std::fmt::Display| Described::Unreadable { what: format!("damaged {label}: {error}") };
    match label {
        "CERTIFICATE" => match X509Certificate::from_der(der) {
            Ok((_, parsed)) => certificate(&parsed, der, now_ms),
            Err(error) => damaged(&error),
        },
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => match X509CertificationRequest::from_der(der) {
            Ok((_, parsed)) => request(&parsed),
            Err(error) => damaged(&error),
        },
        "PRIVATE KEY" => match KeyPair::try_from(der) {
            Ok(pair) => {
                let spki = pair.subject_public_key_info();
                Described::Key { algorithm: algorithm(&spki), public_key: Some(fingerprint(&spki)) }
            }
            Err(error) => damaged(&error),
        },
        form if form.ends_with("PRIVATE KEY") => Described::Key { algorithm: form.to_owned(), public_key: None },
        other => Described::Unreadable { what: format!("a block of {other}, which is not used here") },
    }
}

fn certificate(parsed: &X509Certificate<'_>, der: &[u8], now_ms: u64) -> Described {
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let mut names = read_names(names);
    if parsed.is_ca() {
        names.fault = None;
    }
    let dates = parsed.validity();
    let now = i64::try_from(now_ms / 1000).unwrap_or(i64::MAX);
    Described::Certificate {
        names,
        authority: parsed.is_ca(),
        subject: parsed.subject().to_string(),
        issuer: parsed.issuer().to_string(),
        not_before: date(dates.not_before.timestamp()),
        not_after: date(dates.not_after.timestamp()),
        days_left: dates.not_after.timestamp().saturating_sub(now).div_euclid(86_400),
        fingerprint: fingerprint(der),
        public_key: fingerprint(parsed.public_key().raw),
    }
}

fn request(parsed: &X509CertificationRequest<'_>) -> Described {
    let extensions = parsed.requested_extensions().into_iter().flatten();
    let names = extensions.filter_map(|extension| match extension {
        ParsedExtension::SubjectAlternativeName(names) => Some(read_names(&names.general_names)),
        _ => None,
    });
    Described::Request {
        names: names.last().unwrap_or_else(|| read_names(&[])),
        public_key: fingerprint(parsed.certification_request_info.subject_pki.raw),
    }
}

fn read_names(names: &[GeneralName<'_>]) -> Names {
    let mut read = Names::default();
    let mut uris = Vec::new();
    for name in names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::DNSName(name) => read.hosts.push((*name).to_owned()),
            GeneralName::IPAddress(octets) => read.hosts.push(address(octets)),
            other => read.hosts.push(format!("{other:?}")),
        }
    }
    match Identity::from_uris(uris) {
        Ok(identity) => {
            read.role = Some(identity.role().to_owned());
            read.name = Some(identity.name().to_owned());
            read.grants = identity.uris().into_iter().skip(1).collect();
        }
        Err(error) => read.fault = Some(error.to_string()),
    }
    read
}

fn address(octets: &[u8]) -> String {
    let v4 = <[u8; 4]>::try_from(octets).map(std::net::IpAddr::from);
    let address = v4.or_else(|_| <[u8; 16]>::try_from(octets).map(std::net::IpAddr::from));
    address.map_or_else(|_| "malformed address".to_owned(), |address| address.to_string())
}

fn algorithm(spki: &[u8]) -> String {
    let oid = SubjectPublicKeyInfo::from_der(spki).map(|(_, parsed)| parsed.algorithm.algorithm.to_id_string());
    match oid.as_deref() {
        Ok("1.3.101.112") => "Ed25519".to_owned(),
        Ok("1.2.840.10045.2.1") => "ECDSA".to_owned(),
        Ok("1.2.840.113549.1.1.1") => "RSA".to_owned(),
        Ok(other) => other.to_owned(),
        Err(_) => "unknown".to_owned(),
    }
}

fn fingerprint(bytes: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, bytes);
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
