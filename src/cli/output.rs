//! Results on standard output: text for people, or JSON for programs.

use std::io::ErrorKind;
use std::io::Write;

use serde::Serialize;

/// Where results go, and in which form.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
}

impl Output {
    /// JSON, or text.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether results go out as JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints a result: the value as one JSON document, or the text that `text` makes of it.
    ///
    /// # Errors
    /// When standard output cannot be written. A reader that has gone away is not an error.
    pub fn print<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
        if self.json { self.line(&serde_json::to_string(value)?) } else { self.line(&text(value)) }
    }

    /// Prints raw bytes as they are, such as the value of a key.
    ///
    /// # Errors
    /// When standard output cannot be written. A reader that has gone away is not an error.
    pub fn bytes(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            // As with `dynamomini scan | head`: the reader has what it wants.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            other => Ok(other?),
        }
    }

    /// Prints text as part of a stream of results. False when the reader has gone away, so that more is of no use.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn stream(&self, text: &str) -> anyhow::Result<bool> {
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
            other => Ok(other.map(|()| true)?),
        }
    }

    /// Prints text, and ends it with a line break if it has none.
    ///
    /// # Errors
    /// When standard output cannot be written. A reader that has gone away is not an error.
    pub fn line(&self, text: &str) -> anyhow::Result<()> {
        let end = if text.ends_with('\n') || text.is_empty() { "" } else { "\n" };
        self.bytes(format!("{text}{end}").as_bytes())
    }
}

/// Says something about one of several results on standard error, where nothing can be done if that is gone.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Replaces the line of progress on a terminal's standard error; an empty text takes it away.
pub(crate) fn progress(text: &str) {
    let _ = write!(std::io::stderr(), "\r\u{1b}[K{text}");
}
