//! What a client may do: verbs on namespaces and key prefixes, as its certificate says.
//!
//! This says yes or no. It does not know how certificates are read, nor which request asks.

use std::fmt;
use std::str::FromStr;

use crate::limits;
use crate::types::Invalid;
use crate::types::Namespace;

/// How a grant begins in a certificate.
pub const GRANT_URI: &str = "dynamomini://grant/";

/// What a client asks to do with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// Read one key.
    Get,
    /// Write one key.
    Put,
    /// Delete one key.
    Delete,
    /// List keys by prefix.
    Scan,
}

impl Verb {
    /// All verbs, in the order in which they are written.
    pub const ALL: [Self; 4] = [Self::Get, Self::Put, Self::Delete, Self::Scan];

    fn bit(self) -> u8 {
        match self {
            Self::Get => 1,
            Self::Put => 2,
            Self::Delete => 4,
            Self::Scan => 8,
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Delete => "delete",
            Self::Scan => "scan",
        })
    }
}

impl FromStr for Verb {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL
            .into_iter()
            .find(|verb| verb.to_string() == text)
            .ok_or_else(|| Invalid::new("verb", text, "get, put, delete or scan"))
    }
}

/// A set of verbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verbs(u8);

impl Verbs {
    /// Every verb.
    pub const ALL: Self = Self(15);

    /// The given verbs.
    pub fn of(verbs: &[Verb]) -> Self {
        Self(verbs.iter().fold(0, |bits, verb| bits | verb.bit()))
    }

    /// Whether the verb is in the set.
    pub fn contains(self, verb: Verb) -> bool {
        self.0 & verb.bit() != 0
    }
}

impl fmt::Display for Verbs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALL {
            return f.write_str("*");
        }
        let names: Vec<_> = Verb::ALL.into_iter().filter(|verb| self.contains(*verb)).map(|v| v.to_string()).collect();
        f.write_str(&names.join("+"))
    }
}

impl FromStr for Verbs {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text == "*" {
            return Ok(Self::ALL);
        }
        let verbs = text.split('+').map(Verb::from_str).collect::<Result<Vec<_>, _>>()?;
        Ok(Self::of(&verbs))
    }
}

/// One permission: verbs, on one namespace or all, on the keys with a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The namespace; `None` means every one.
    pub namespace: Option<Namespace>,
    /// What may be done.
    pub verbs: Verbs,
    /// How the key must begin; empty means any key.
    pub prefix: Vec<u8>,
}

impl Grant {
    fn covers(&self, verb: Verb, namespace: &Namespace) -> bool {
        self.verbs.contains(verb) && self.namespace.as_ref().is_none_or(|granted| granted == namespace)
    }
}

/// The URI that carries the grant in a certificate: `dynamomini://grant/NAMESPACE/VERBS/PREFIX`.
impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let namespace = self.namespace.as_ref().map_or("*", Namespace::as_str);
        write!(f, "{GRANT_URI}{namespace}/{}/{}", self.verbs, percent_encode(&self.prefix))
    }
}

impl FromStr for Grant {
    type Err = Invalid;

    fn from_str(uri: &str) -> Result<Self, Invalid> {
        let form = || Invalid::new("grant", uri, format!("{GRANT_URI}NAMESPACE-or-*/VERBS-or-*/KEY-PREFIX"));
        let rest = uri.strip_prefix(GRANT_URI).ok_or_else(form)?;
        let mut parts = rest.split('/');
        let (Some(namespace), Some(verbs), Some(prefix), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(form());
        };
        let namespace = if namespace == "*" { None } else { Some(Namespace::new(namespace)?) };
        Ok(Self { namespace, verbs: verbs.parse()?, prefix: percent_decode(prefix)? })
    }
}

/// All that one client may do. Without any grant it may do nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants(Vec<Grant>);

impl Grants {
    /// Takes the grants of one certificate.
    ///
    /// # Errors
    /// When there are more than [`limits::GRANTS_MAX`].
    pub fn new(grants: Vec<Grant>) -> Result<Self, Invalid> {
        if grants.len() > limits::GRANTS_MAX {
            let allowed = format!("at most {} in one certificate", limits::GRANTS_MAX);
            return Err(Invalid::new("number of grants", grants.len().to_string(), allowed));
        }
        Ok(Self(grants))
    }

    /// Whether there is none, so that every request will be refused.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The grants.
    pub fn iter(&self) -> impl Iterator<Item = &Grant> {
        self.0.iter()
    }

    /// Whether the verb is allowed on this key.
    pub fn allows(&self, verb: Verb, namespace: &Namespace, key: &[u8]) -> bool {
        self.0.iter().any(|grant| grant.covers(verb, namespace) && key.starts_with(&grant.prefix))
    }

    /// Whether all keys with this prefix may be listed.
    pub fn allows_scan(&self, namespace: &Namespace, prefix: &[u8]) -> bool {
        self.allows(Verb::Scan, namespace, prefix)
    }

    /// What to tell a client whose request was not allowed.
    pub fn refusal(&self, client: &str, verb: Verb, namespace: &Namespace) -> String {
        if self.is_empty() {
            return format!(
                "client {client} may do nothing: its certificate carries no {GRANT_URI}… name; issue one that does"
            );
        }
        let granted: Vec<_> = self.0.iter().map(Grant::to_string).collect();
        format!("client {client} may not {verb} this in namespace {namespace}: it has {}", granted.join(", "))
    }
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn percent_encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if is_unreserved(byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

fn percent_decode(text: &str) -> Result<Vec<u8>, Invalid> {
    let invalid = || {
        let allowed = format!("letters, digits and -._~, all else as %XX, at most {} bytes", limits::KEY_MAX);
        Invalid::new("key prefix", text, allowed)
    };
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let decoded = if byte == b'%' {
            let (high, low) = (rest.next().and_then(hex_digit), rest.next().and_then(hex_digit));
            high.zip(low).map(|(high, low)| high << 4 | low).ok_or_else(invalid)?
        } else if is_unreserved(byte) {
            byte
        } else {
            return Err(invalid());
        };
        bytes.push(decoded);
    }
    if bytes.len() > limits::KEY_MAX { Err(invalid()) } else { Ok(bytes) }
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn grants(uris: &[&str]) -> Grants {
        Grants::new(uris.iter().map(|uri| uri.parse().unwrap()).collect()).unwrap()
    }

    #[test]
    fn a_grant_covers_its_namespace_verbs_and_prefix_only() {
        let grants = grants(&["dynamomini://grant/app/get+scan/user%2F"]);
        let app = Namespace::new("app").unwrap();
        assert!(grants.allows(Verb::Get, &app, b"user/1"));
        assert!(!grants.allows(Verb::Put, &app, b"user/1"), "the verb was not granted");
        assert!(!grants.allows(Verb::Get, &app, b"users"), "the key lies outside the prefix");
        assert!(!grants.allows(Verb::Get, &Namespace::default(), b"user/1"), "the namespace was not granted");
        assert!(grants.allows_scan(&app, b"user/1"));
        assert!(!grants.allows_scan(&app, b"use"), "a shorter prefix would list keys that were not granted");
    }

    #[test]
    fn a_client_without_grants_may_do_nothing_and_is_told_so() {
        let grants = Grants::default();
        assert!(!grants.allows(Verb::Get, &Namespace::default(), b""));
        assert!(grants.refusal("app", Verb::Get, &Namespace::default()).contains("may do nothing"));
    }

    #[test]
    fn malformed_grants_are_refused() {
        for bad in [
            "dynamomini://grant/app",
            "dynamomini://grant/app/get",
            "dynamomini://grant/app/get/a/b",
            "dynamomini://grant/APP/get/",
            "dynamomini://grant/app//",
            "dynamomini://grant/app/fly/",
            "dynamomini://grant/app/get/%4",
            "dynamomini://grant/app/get/%zz",
            "dynamomini://grant/app/get/a b",
            "https://example.org/app/get/",
        ] {
            assert!(bad.parse::<Grant>().is_err(), "{bad:?} was taken");
        }
        let many = vec!["dynamomini://grant/*/*/".parse::<Grant>().unwrap(); limits::GRANTS_MAX + 1];
        assert!(Grants::new(many).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_grant_reads_back_as_it_was_written(bits in 1u8..16, prefix in prop::collection::vec(any::<u8>(), 0..40)) {
            let grant = Grant { namespace: None, verbs: Verbs(bits), prefix };
            prop_assert_eq!(grant.to_string().parse::<Grant>().unwrap(), grant);
        }
    }
}
