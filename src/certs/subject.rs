//! Whom a certificate is for: an identity, and for nodes the host names and addresses that belong to it.

use std::net::IpAddr;

use rcgen::CertificateParams;
use rcgen::DistinguishedName;
use rcgen::DnType;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::IsCa;
use rcgen::KeyUsagePurpose;
use rcgen::SanType;
use rustls::pki_types::DnsName;

use crate::certs::CertsError;
use crate::limits;
use crate::net::grants::Grant;
use crate::net::grants::Grants;
use crate::net::identity::Identity;
use crate::types::Invalid;
use crate::types::Namespace;
use crate::types::NodeName;

/// Whom a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    identity: Identity,
    hosts: Vec<Host>,
}

/// A name or address of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Dns(String),
    Ip(IpAddr),
}

impl Host {
    fn parse(text: &str) -> Result<Self, Invalid> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        match DnsName::try_from(text) {
            Ok(_) => Ok(Self::Dns(text.to_ascii_lowercase())),
            Err(_) => Err(Invalid::new("host", text, "a DNS name or an IP address, without a port")),
        }
    }
}

impl Subject {
    /// A node; its own name is always among its host names.
    ///
    /// # Errors
    /// When a host is neither a DNS name nor an IP address, or there are too many.
    pub fn node<S: AsRef<str>>(name: NodeName, hosts: &[S]) -> Result<Self, CertsError> {
        if hosts.len() > limits::CERTIFICATE_HOSTS_MAX {
            let allowed = format!("at most {} in one certificate", limits::CERTIFICATE_HOSTS_MAX);
            return Err(Invalid::new("number of hosts", hosts.len().to_string(), allowed).into());
        }
        let mut all = vec![Host::Dns(name.as_str().to_owned())];
        for host in hosts {
            let host = Host::parse(host.as_ref())?;
            if !all.contains(&host) {
                all.push(host);
            }
        }
        Ok(Self { identity: Identity::Node(name), hosts: all })
    }

    /// A client with its grants.
    ///
    /// # Errors
    /// When the name is not allowed, or there is no grant, so that it could do nothing.
    pub fn client(name: &str, grants: Vec<Grant>) -> Result<Self, CertsError> {
        if grants.is_empty() {
            return Err(CertsError::NoGrant(name.to_owned()));
        }
        Ok(Self { identity: Identity::client(name, Grants::new(grants)?)?, hosts: Vec::new() })
    }

    /// An administrator.
    ///
    /// # Errors
    /// When the name is not allowed.
    pub fn admin(name: &str) -> Result<Self, CertsError> {
        Ok(Self { identity: Identity::admin(name)?, hosts: Vec::new() })
    }

    /// Takes the names out of an existing certificate or request.
    ///
    /// # Errors
    /// When they do not name exactly one role, or hold a kind of name that is not used here.
    pub(crate) fn from_sans(sans: &[SanType]) -> Result<Self, CertsError> {
        let mut uris: Vec<&str> = Vec::new();
        let mut hosts = Vec::new();
        for san in sans {
            match san {
                SanType::URI(uri) => uris.push(uri.as_str()),
                SanType::DnsName(name) => hosts.push(Host::parse(name.as_str())?),
                SanType::IpAddress(address) => hosts.push(Host::Ip(*address)),
                other => {
                    let what = format!("it holds a name of a kind that is not used here: {other:?}");
                    return Err(CertsError::refused(what, "leave it out; URI, DNS and IP names are used"));
                }
            }
        }
        let identity = Identity::from_uris(uris).map_err(|error| {
            CertsError::refused(
                error.to_string(),
                "see `dynamomini certs request --help` for the names that are needed",
            )
        })?;
        Ok(Self { identity, hosts })
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What the certificate or request says, save its dates and serial number.
    pub(crate) fn params(&self) -> Result<CertificateParams, CertsError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, self.identity.name());
        for host in &self.hosts {
            params.subject_alt_names.push(match host {
                Host::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
                Host::Ip(address) => SanType::IpAddress(*address),
            });
        }
        for uri in self.identity.uris() {
            params.subject_alt_names.push(SanType::URI(uri.as_str().try_into()?));
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match self.identity {
            // Nodes connect to each other, so each is both.
            Identity::Node(_) => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            Identity::Client { .. } | Identity::Admin(_) => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        Ok(params)
    }
}

/// Reads a grant as people write it: `NAMESPACE:VERBS[:PREFIX]`, with `*` for every namespace or verb and verbs joined
/// by `+`. The prefix is taken as it is, colons included.
///
/// # Errors
/// When it is not of that form.
pub fn parse_grant(text: &str) -> Result<Grant, Invalid> {
    let form = || Invalid::new("grant", text, "NAMESPACE:VERBS[:PREFIX], such as orders:get+put:user/ or *:get");
    let (namespace, rest) = text.split_once(':').ok_or_else(form)?;
    let (verbs, prefix) = rest.split_once(':').unwrap_or((rest, ""));
    if prefix.len() > limits::KEY_MAX {
        return Err(Invalid::new("key prefix", prefix, format!("at most {} bytes", limits::KEY_MAX)));
    }
    let namespace = if namespace == "*" { None } else { Some(Namespace::new(namespace)?) };
    Ok(Grant { namespace, verbs: verbs.parse()?, prefix: prefix.as_bytes().to_vec() })
}
