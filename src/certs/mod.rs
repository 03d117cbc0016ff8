//! Certificates: a small authority of one's own, requests for an outside one, and a look at what a file holds.
//!
//! An identity is a role in a URI name (see [`crate::net::identity`]). Keys are Ed25519, private from the moment they
//! exist, and never overwritten unless that is asked for. This room issues and describes; who is let in at run time is
//! decided by [`crate::net::tls`]. There is no revocation list: certificates are short-lived, or the authority is changed.

pub mod authority;

pub mod subject;

pub mod files;

pub mod store;

pub mod describe;

pub mod verify;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use authority::Authority;
pub use authority::Issued;
pub use subject::Subject;

use crate::types::Invalid;

/// Why a certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// A file is in the way, and was left as it is.
    #[error("{} exists already and was left as it is; use another name or folder, or --force to replace it", .0.display())]
    Exists(PathBuf),
    /// A file cannot be used.
    #[error("{}: {what}; {fix}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What to do.
        fix: String,
    },
    /// What was asked for is not allowed.
    #[error("{what}; {fix}")]
    Refused {
        /// What is wrong.
        what: String,
        /// What to do.
        fix: String,
    },
    /// A client's certificate was asked for without any grant.
    #[error(
        "client {0} would be allowed nothing; add --grant NAMESPACE:VERBS[:PREFIX], such as --grant orders:get+put, or --all for everything"
    )]
    NoGrant(String),
    /// A name or number is not valid.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The certificate library failed for a reason that is not in the input.
    #[error("the certificate could not be made: {0}; this is a bug, please report it")]
    Generate(#[from] rcgen::Error),
}

impl CertsError {
    pub(crate) fn file(path: impl Into<PathBuf>, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::File { path: path.into(), what: what.into(), fix: fix.into() }
    }

    pub(crate) fn refused(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Refused { what: what.into(), fix: fix.into() }
    }
}
