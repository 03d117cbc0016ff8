//! How a verb ends when it does not succeed: what is printed, and the exit status.

use std::fmt;
use std::process::ExitCode;

use serde_json::json;

use crate::certs::CertsError;
use crate::config::ConfigError;

/// A mistake in how the program was called, found after the arguments were parsed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// A failure that the result on standard output tells already, such as a key that was not found: nothing more is
/// printed, and the exit status is 1.
#[derive(Debug, thiserror::Error)]
#[error("the result says it")]
pub struct Said;

/// An error with its exit status.
pub struct Failure {
    error: anyhow::Error,
    json: bool,
}

impl Failure {
    /// Takes the error of a verb. Wrong usage and configuration have exit status 2, all else 1.
    pub fn new(error: anyhow::Error, json: bool) -> Self {
        Self { error, json }
    }

    /// Whether there is something to print.
    pub fn has_text(&self) -> bool {
        !self.error.is::<Said>()
    }

    /// The exit status.
    pub fn status(&self) -> u8 {
        let invalid = matches!(self.error.downcast_ref(), Some(CertsError::Invalid(_) | CertsError::NoGrant(_)));
        let usage = self.error.is::<Usage>() || self.error.is::<ConfigError>() || invalid;
        if usage { 2 } else { 1 }
    }

    /// The exit status for the system.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.status())
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

/// One line of JSON, or `error: ` and the text with its causes.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.json {
            return write!(f, "error: {:#}", self.error);
        }
        let problems = match self.error.downcast_ref::<ConfigError>() {
            Some(ConfigError::Invalid { problems, .. }) => problems.iter().map(ToString::to_string).collect(),
            _ => Vec::new(),
        };
        let message = format!("{:#}", self.error);
        write!(f, "{}", json!({"error": {"message": message, "problems": problems, "status": self.status()}}))
    }
}
