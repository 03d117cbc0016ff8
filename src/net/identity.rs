//! Who a peer is, as its certificate says: a node, a client with its grants, or an administrator.
//!
//! Roles are URI names (subject alternative names), which any certificate authority can issue; other names in the
//! certificate mean nothing here. This reads what a certificate says. Whether it may be believed is decided in `tls`.

use std::fmt;
use std::sync::Arc;

use ring::digest;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::prelude::X509Certificate;

use crate::limits;
use crate::net::grants::GRANT_URI;
use crate::net::grants::Grants;
use crate::types::Invalid;
use crate::types::NodeName;

const SCHEME: &str = "dynamomini://";
const NODE_URI: &str = "dynamomini://node/";
const CLIENT_URI: &str = "dynamomini://client/";
const ADMIN_URI: &str = "dynamomini://admin/";

/// Who a peer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// A node of the cluster.
    Node(NodeName),
    /// A user of the store, bound by grants.
    Client {
        /// Its name, for logs and error texts.
        name: Arc<str>,
        /// What it may do.
        grants: Grants,
    },
    /// An administrator, who may do everything.
    Admin(Arc<str>),
}

/// Why a certificate says nothing usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The bytes are not an X.509 certificate, or its names cannot be read.
    #[error("the certificate cannot be read ({0}): issue it anew")]
    Unreadable(String),
    /// No name of the certificate is a role.
    #[error(
        "the certificate names no role: issue one with a URI name {NODE_URI}NAME, {CLIENT_URI}NAME or {ADMIN_URI}NAME"
    )]
    NoRole,
    /// More than one role.
    #[error("the certificate names more than one role ({0} and {1}): issue one for each")]
    TwoRoles(String, String),
    /// A name of this project that this version does not know, so that it cannot know what it would ignore.
    #[error("the certificate carries {0:?}, which this version does not understand")]
    Unknown(String),
    /// Grants beside a role they do not bind.
    #[error("the certificate carries grants, but its role is not client: grants bind clients only")]
    GrantsWithoutClient,
    /// A name or grant is malformed.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

impl Identity {
    /// The role in one word: `node`, `client` or `admin`.
    pub fn role(&self) -> &'static str {
        match self {
            Self::Node(_) => "node",
            Self::Client { .. } => "client",
            Self::Admin(_) => "admin",
        }
    }

    /// The name without the role.
    pub fn name(&self) -> &str {
        match self {
            Self::Node(name) => name.as_str(),
            Self::Client { name, .. } | Self::Admin(name) => name,
        }
    }

    /// A client.
    ///
    /// # Errors
    /// When the name is not allowed.
    pub fn client(name: &str, grants: Grants) -> Result<Self, Invalid> {
        Ok(Self::Client { name: person("client name", name)?, grants })
    }

    /// An administrator.
    ///
    /// # Errors
    /// When the name is not allowed.
    pub fn admin(name: &str) -> Result<Self, Invalid> {
        Ok(Self::Admin(person("admin name", name)?))
    }

    /// The URI names a certificate of this identity must carry: the role first, then the grants.
    pub fn uris(&self) -> Vec<String> {
        let mut uris = vec![format!("{SCHEME}{}/{}", self.role(), self.name())];
        if let Self::Client { grants, .. } = self {
            uris.extend(grants.iter().map(ToString::to_string));
        }
        uris
    }

    /// Reads the identity out of a certificate's URI names; those of other schemes are skipped.
    ///
    /// # Errors
    /// [`IdentityError`] says what is missing or too much.
    pub fn from_uris<'a>(uris: impl IntoIterator<Item = &'a str>) -> Result<Self, IdentityError> {
        let mut role: Option<&str> = None;
        let mut grants = Vec::new();
        for uri in uris.into_iter().filter(|uri| uri.starts_with(SCHEME)) {
            if uri.starts_with(GRANT_URI) {
                grants.push(uri.parse()?);
            } else if let Some(first) = role.replace(uri) {
                return Err(IdentityError::TwoRoles(first.to_owned(), uri.to_owned()));
            }
        }
        let role = role.ok_or(IdentityError::NoRole)?;
        let grants = Grants::new(grants)?;
        if let Some(name) = role.strip_prefix(CLIENT_URI) {
            return Ok(Self::client(name, grants)?);
        }
        if !grants.is_empty() {
            return Err(IdentityError::GrantsWithoutClient);
        }
        if let Some(name) = role.strip_prefix(NODE_URI) {
            Ok(Self::Node(NodeName::new(name)?))
        } else if let Some(name) = role.strip_prefix(ADMIN_URI) {
            Ok(Self::admin(name)?)
        } else {
            Err(IdentityError::Unknown(role.to_owned()))
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role(), self.name())
    }
}

/// What is used of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Whose it is.
    pub identity: Identity,
    /// SHA-256 of the whole certificate, by which membership records pin it.
    pub fingerprint: [u8; 32],
    /// First second of its validity, in milliseconds since the Unix epoch.
    pub not_before_ms: i64,
    /// Last second of its validity, in milliseconds since the Unix epoch.
    pub not_after_ms: i64,
}

impl Certificate {
    /// Reads a certificate in DER form.
    ///
    /// # Errors
    /// [`IdentityError`] when it cannot be read or does not name exactly one role.
    pub fn parse(der: &[u8]) -> Result<Self, IdentityError> {
        let unreadable = |error: &dyn fmt::Display| IdentityError::Unreadable(error.to_string());
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|error| unreadable(&error))?;
        if !rest.is_empty() {
            return Err(unreadable(&"bytes follow it"));
        }
        let names = parsed.subject_alternative_name().map_err(|error| unreadable(&error))?;
        let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        let identity = Identity::from_uris(names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        }))?;
        let fingerprint = fingerprint(der);
        let validity = parsed.validity();
        Ok(Self {
            identity,
            fingerprint,
            not_before_ms: validity.not_before.timestamp().saturating_mul(1000),
            not_after_ms: validity.not_after.timestamp().saturating_mul(1000),
        })
    }
}

/// SHA-256 of a certificate.
pub(crate) fn fingerprint(der: &[u8]) -> [u8; 32] {
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest::digest(&digest::SHA256, der).as_ref());
    fingerprint
}

fn person(what: &'static str, name: &str) -> Result<Arc<str>, Invalid> {
    let fits = !name.is_empty() && name.len() <= limits::CLIENT_NAME_MAX;
    if fits && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'@')) {
        Ok(Arc::from(name))
    } else {
        let allowed = format!("1 to {} of a-z, A-Z, 0-9, '.', '-', '_' and '@'", limits::CLIENT_NAME_MAX);
        Err(Invalid::new(what, name, allowed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_reads_back_from_its_uris() {
        let grants = Grants::new(vec!["dynamomini://grant/*/get/a".parse().unwrap()]).unwrap();
        for identity in [
            Identity::Node(NodeName::new("n1").unwrap()),
            Identity::client("shop", grants).unwrap(),
            Identity::admin("ops@example.org").unwrap(),
        ] {
            let uris = identity.uris();
            assert_eq!(Identity::from_uris(uris.iter().map(String::as_str)).unwrap(), identity);
        }
    }

    #[test]
    fn exactly_one_role_is_accepted() {
        let read = |uris: &[&'static str]| Identity::from_uris(uris.iter().copied());
        assert_eq!(read(&["https://example.org/"]), Err(IdentityError::NoRole));
        assert_eq!(read(&["dynamomini://grant/*/*/"]), Err(IdentityError::NoRole));
        assert!(matches!(read(&["dynamomini://node/a", "dynamomini://admin/b"]), Err(IdentityError::TwoRoles(_, _))));
        assert!(matches!(read(&["dynamomini://king/a"]), Err(IdentityError::Unknown(_))));
        assert!(matches!(read(&["dynamomini://node/A.b"]), Err(IdentityError::Invalid(_))));
        assert_eq!(read(&["dynamomini://node/a", "dynamomini://grant/*/*/"]), Err(IdentityError::GrantsWithoutClient));
        assert!(read(&["https://example.org/", "dynamomini://node/a"]).is_ok());
    }

    #[test]
    fn too_many_grants_are_refused() {
        let uris = vec!["dynamomini://grant/*/*/"; limits::GRANTS_MAX + 1];
        let uris = uris.into_iter().chain(["dynamomini://client/a"]);
        assert!(matches!(Identity::from_uris(uris), Err(IdentityError::Invalid(_))));
    }

    #[test]
    fn damaged_certificates_are_refused() {
        assert!(matches!(Certificate::parse(b"garbage"), Err(IdentityError::Unreadable(_))));
    }
}
