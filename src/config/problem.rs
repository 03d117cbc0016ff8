//! What is wrong with a configuration: all of it at once, each with where it was set and what to do.

use std::fmt;
use std::path::PathBuf;

use crate::config::value::Refusal;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A line of a file, counted from 1.
    File(PathBuf, usize),
    /// An environment variable.
    Env(String),
    /// A flag, with its dashes.
    Flag(String),
    /// Follows from another value, named here.
    Derived(String),
    /// Nobody set it.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Env(name) => write!(f, "environment {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Derived(from) => write!(f, "from {from}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it was set: `file:line`, `file:line:column`, an environment variable or a flag. Empty if nowhere.
    pub place: String,
    /// The key; empty if it is not about one.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it; empty where `what` says it already.
    pub fix: String,
}

impl Problem {
    /// A problem of a key.
    pub fn new(source: &Source, key: &str, what: impl Into<String>, fix: impl Into<String>) -> Self {
        let place = match source {
            Source::Default | Source::Derived(_) => String::new(),
            set => set.to_string(),
        };
        Self { place, key: key.to_owned(), what: what.into(), fix: fix.into() }
    }

    /// A problem of a place as a whole, such as a file.
    pub fn at(place: impl Into<String>, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { place: place.into(), key: String::new(), what: what.into(), fix: fix.into() }
    }

    pub(crate) fn refused(source: &Source, key: &str, refusal: Refusal) -> Self {
        Self::new(source, key, refusal.what, refusal.fix)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.place, &self.key].into_iter().filter(|part| !part.is_empty()) {
            write!(f, "{part}: ")?;
        }
        f.write_str(&self.what)?;
        if self.fix.is_empty() { Ok(()) } else { write!(f, "; {}", self.fix) }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is one, and it has to be corrected: nothing was started.
    #[error("{}", list(title, problems))]
    Invalid {
        /// What kind of configuration it is, such as `node`.
        title: &'static str,
        /// Everything that is wrong with it.
        problems: Vec<Problem>,
    },
    /// None was found where one is looked for.
    #[error(
        "no client configuration found: looked for {looked}; start a cluster with `dynamomini dev`, or name one with --config FILE or DYNAMOMINI_CLIENT_CONFIG"
    )]
    NotFound {
        /// The places that were looked at.
        looked: String,
    },
}

fn list(title: &str, problems: &[Problem]) -> String {
    let count = match problems.len() {
        1 => "1 problem".to_owned(),
        more => format!("{more} problems"),
    };
    let mut text = format!("the {title} configuration has {count}:");
    for problem in problems {
        text.push_str("\n  ");
        text.push_str(&problem.to_string());
    }
    text
}
