//! Other programs: run, fed, asked. Everything that the lab wants of the kernel beyond devices goes through `ip` and `tc`.

use std::io::Write as _;
use std::process::Command;
use std::process::Stdio;

/// Runs a command to its end, with this as its input.
///
/// # Errors
/// What it said when it failed.
pub(crate) fn feed(mut command: Command, input: &str) -> Result<String, String> {
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|error| format!("{command:?}: {error}"))?;
    let written = child.stdin.take().map_or(Ok(()), |mut pipe| pipe.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if !output.status.success() || written.is_err() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?} failed: {said}\n{input}"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command without input.
///
/// # Errors
/// What it said when it failed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(arguments);
    feed(command, "")
}

/// Gives lines to `ip`, in the namespace of this name, or in the lab's own.
///
/// # Errors
/// What it said when it failed.
pub(crate) fn ip(namespace: Option<&str>, lines: &str) -> Result<(), String> {
    let mut command = Command::new("ip");
    if let Some(name) = namespace {
        command.args(["-n", name]);
    }
    command.args(["-batch", "-"]);
    feed(command, lines).map(drop)
}

/// Gives lines to `tc` in the lab's own namespace.
///
/// # Errors
/// What it said when it failed.
pub(crate) fn tc(lines: &str) -> Result<(), String> {
    let mut command = Command::new("tc");
    command.args(["-batch", "-"]);
    feed(command, lines).map(drop)
}
