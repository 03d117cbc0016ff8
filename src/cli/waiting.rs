//! The flags of verbs that can wait for what they look at or ask for. What is waited for is the verb's matter.

use std::time::Duration;

use crate::config::value::parse_span;
use crate::types::Invalid;

/// Whether to wait, and for how long.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Waiting {
    /// Wait until it is done, and show how it gets on.
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait at most, such as 30s or 5m; by default for as long as it takes.
    #[arg(long, value_name = "SPAN", value_parser = within, requires = "wait")]
    pub(crate) within: Option<Duration>,
}

/// How long to wait: a span that is not 0.
pub(crate) fn within(text: &str) -> Result<Duration, Invalid> {
    match parse_span(text)? {
        Duration::ZERO => {
            Err(Invalid::new("longest wait", text, "more than 0; leave it out to wait for as long as it takes"))
        }
        span => Ok(span),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_to_wait_is_refused_in_words_about_waiting() {
        assert_eq!(within("5m").unwrap(), Duration::from_secs(300));
        let error = within("0s").unwrap_err().to_string();
        assert!(error.contains("wait") && !error.contains("expiry"), "{error}");
    }
}
