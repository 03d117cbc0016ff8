//! Runs of `dynamomini bench` inside a lab, and what they say.

use std::process::Child;
use std::process::Stdio;

use serde_json::Value;

use crate::lab::Lab;

/// What one run measured; latencies in milliseconds, `None` when nothing succeeded.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Measured {
    pub(crate) per_second: f64,
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    pub(crate) p99_9: Option<f64>,
    pub(crate) errors: u64,
    pub(crate) not_begun: u64,
}

/// A run under way.
pub(crate) struct Run(Child);

/// Begins `dynamomini bench` with these arguments beside a node.
///
/// # Errors
/// When it cannot be started.
pub(crate) fn begin(lab: &Lab, beside: usize, arguments: &[&str]) -> Result<Run, String> {
    let mut command = lab.client(beside)?;
    command.arg("bench").args(arguments).arg("--json").stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(Run(command.spawn().map_err(|error| format!("{command:?}: {error}"))?))
}

impl Run {
    /// Waits for its end and reads what it measured. Operations that failed are part of that.
    ///
    /// # Errors
    /// When it measured nothing.
    pub(crate) fn end(self) -> Result<Measured, String> {
        let output = self.0.wait_with_output().map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout);
        let said: Value = serde_json::from_str(&text)
            .map_err(|error| format!("bench: {error}: {text}{}", String::from_utf8_lossy(&output.stderr)))?;
        read(&said).ok_or_else(|| format!("bench: {text}{}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// Reads what a run said.
pub(crate) fn read(said: &Value) -> Option<Measured> {
    let of = |name: &str| said["all"][name].as_f64();
    Some(Measured {
        per_second: of("per_second").unwrap_or(0.0),
        p50: of("p50"),
        p99: of("p99"),
        p99_9: of("p99_9"),
        errors: said["errors"].as_u64()?,
        not_begun: said["not_begun"].as_u64()?,
    })
}

/// Fills the keys that runs ask for.
///
/// # Errors
/// When that failed.
pub(crate) fn fill(lab: &Lab, keys: u64, value: &str) -> Result<(), String> {
    let mut command = lab.client(0)?;
    command.args(["bench", "load", "--keys", &keys.to_string(), "--value-size", value]);
    crate::shell::feed(command, "").map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read_with_and_without_successes() {
        let said = serde_json::json!({"all": {"per_second": 5.5, "p50": 1.0, "p99": 2.0, "p99_9": 3.0}, "errors": 4,
            "not_begun": 0});
        let measured = read(&said).unwrap();
        assert_eq!((measured.per_second, measured.p99_9, measured.errors), (5.5, Some(3.0), 4));
        let measured = read(&serde_json::json!({"all": null, "errors": 4, "not_begun": 7})).unwrap();
        assert_eq!((measured.per_second, measured.p50, measured.not_begun), (0.0, None, 7));
        assert!(read(&serde_json::json!({"error": "no cluster"})).is_none());
    }
}
