//! One process of a dev cluster, from its start to its end.
//!
//! Each has a process group of its own, so that ^C at a terminal reaches `dev` alone, which then ends all in order; and
//! each reads a pipe that `dev` holds, whose end tells it that `dev` is gone.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::anyhow;
use rustix::process::Pid;
use rustix::process::Signal;
use tokio::io::AsyncBufReadExt;
use tokio::io::BufReader;
use tokio::io::Lines;
use tokio::process::Child;
use tokio::process::ChildStdin;
use tokio::process::ChildStdout;
use tokio::process::Command;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::cli::dev::layout::Layout;
use crate::cli::dev::settings;
use crate::limits;
use crate::types::NodeName;

/// Lines of a log that are shown.
const TAIL_LINES: usize = 10;

/// What a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Node,
    Redis,
}

/// A process that was started.
pub(super) struct Process {
    pub(super) name: NodeName,
    pub(super) kind: Kind,
    /// The node's, or the redis-server's itself.
    pub(super) pid: u32,
    child: Child,
    /// What a guard says.
    said: Option<Lines<BufReader<ChildStdout>>>,
    log: PathBuf,
    /// Open as long as this process lives.
    _leash: ChildStdin,
}

/// How a process is told to end.
#[derive(Debug, Clone)]
pub(super) struct Stop {
    /// Set when it is to end.
    pub(super) asked: CancellationToken,
    /// Set when patience is over for all.
    pub(super) hurry: CancellationToken,
    /// How long it may take.
    pub(super) patience: Duration,
}

/// A process that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) name: NodeName,
    pub(super) kind: Kind,
    pub(super) pid: u32,
    /// Exit status or signal, for people.
    pub(super) how: String,
    pub(super) log: PathBuf,
    /// Whether this is a guard that has not seen its redis-server end, which therefore goes on.
    pub(super) left_behind: bool,
}

impl Process {
    /// Starts a node.
    pub(super) fn node(layout: &Layout, name: &NodeName) -> anyhow::Result<Self> {
        let log = layout.node_log(name);
        let mut command = own()?;
        command.arg("node").arg("--config").arg(layout.node_config(name)).arg("--stop-on-stdin-eof");
        for variable in settings::own_variables() {
            command.env_remove(variable);
        }
        let (out, err) = appending(&log)?;
        command.stdout(out).stderr(err);
        let (child, pid, leash) = spawn(command)?;
        Ok(Self { name: name.clone(), kind: Kind::Node, pid, child, said: None, log, _leash: leash })
    }

    /// Starts a redis-server, behind a guard.
    pub(super) async fn redis(layout: &Layout, name: &NodeName, program: &str) -> anyhow::Result<Self> {
        let log = layout.redis_log(name);
        let mut command = own()?;
        command.args(["dev", "guard-redis", "--program", program]);
        command.arg("--config").arg(layout.redis_config(name)).arg("--socket").arg(layout.redis_socket(name));
        command.stdout(Stdio::piped()).stderr(appending(&log)?.1);
        let (mut child, _, leash) = spawn(command)?;
        let out = child.stdout.take().context("the guard has no output")?;
        let mut said = BufReader::new(out).lines();
        let first = said.next_line().await?;
        let pid = first.as_deref().and_then(|line| line.strip_prefix("pid ")?.parse().ok());
        let pid = pid.ok_or_else(|| anyhow!("redis-server of {name} did not start\n{}", tail_text(&log)))?;
        Ok(Self { name: name.clone(), kind: Kind::Redis, pid, child, said: Some(said), log, _leash: leash })
    }

    /// Waits for its end, which it brings about when `stop` says so.
    pub(super) async fn watch(mut self, stop: Stop) -> Ended {
        let mut waited = tokio::select! {
            biased;
            status = self.child.wait() => Some(status),
            () = stop.asked.cancelled() => None,
        };
        if waited.is_none() {
            if let Err(error) = terminate(&self.child) {
                tracing::warn!(name = %self.name, %error, "cannot be told to end");
            }
            waited = tokio::select! {
                biased;
                status = self.child.wait() => Some(status),
                () = stop.hurry.cancelled() => None,
                () = sleep(stop.patience) => None,
            };
        }
        let status = match waited {
            Some(status) => status,
            None => self.child.kill().await.and(self.child.wait().await),
        };
        let how = match status {
            Ok(status) => how(status),
            Err(error) => format!("unknown ({error})"),
        };
        let said = self.guard_said().await;
        let left_behind = self.kind == Kind::Redis && said.is_none();
        let how = match said {
            Some(said) => said,
            None if left_behind => format!("only its guard has: {how}; it goes on"),
            None => how,
        };
        Ended { name: self.name, kind: self.kind, pid: self.pid, how, log: self.log, left_behind }
    }

    async fn guard_said(&mut self) -> Option<String> {
        let line = self.said.as_mut()?.next_line().await.ok()??;
        Some(line.strip_prefix("ended ")?.to_owned())
    }
}

/// This program.
fn own() -> anyhow::Result<Command> {
    Ok(Command::new(std::env::current_exe().context("the path of this program")?))
}

fn spawn(mut command: Command) -> anyhow::Result<(Child, u32, ChildStdin)> {
    let mut child = command.stdin(Stdio::piped()).process_group(0).spawn().context("a process cannot be started")?;
    let pid = child.id().context("a process that was just started has an id")?;
    let leash = child.stdin.take().context("a process that was just started has a standard input")?;
    Ok((child, pid, leash))
}

/// A log to write to, once for output and once for errors.
fn appending(log: &Path) -> anyhow::Result<(Stdio, Stdio)> {
    let open = || OpenOptions::new().create(true).append(true).open(log).with_context(|| log.display().to_string());
    Ok((open()?.into(), open()?.into()))
}

/// Tells a child to end in order. One that has ended already, and was waited for, is left alone.
pub(super) fn terminate(child: &Child) -> io::Result<()> {
    let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    // As long as it was not waited for, its id is nobody else's.
    pid.map_or(Ok(()), |pid| rustix::process::kill_process(pid, Signal::TERM).map_err(io::Error::from))
}

/// Exit status or signal in words.
pub(super) fn how(status: ExitStatus) -> String {
    let name = |signal| match signal {
        1 => " (SIGHUP)",
        2 => " (SIGINT)",
        6 => " (SIGABRT)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        15 => " (SIGTERM)",
        _ => "",
    };
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}{}", name(signal)),
        (None, None) => "unknown".to_owned(),
    }
}

/// The last lines of a log.
pub(super) fn tail(log: &Path) -> Vec<String> {
    let read = || {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(limits::LOG_TAIL_MAX)))?;
        let mut bytes = Vec::new();
        file.take(limits::LOG_TAIL_MAX).read_to_end(&mut bytes)?;
        io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) => {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(TAIL_LINES)..].iter().map(|line| (*line).to_owned()).collect()
        }
        Err(error) => vec![format!("(cannot be read: {error})")],
    }
}

/// The last lines of a log with its name, for a message.
pub(super) fn tail_text(log: &Path) -> String {
    let lines = tail(log);
    let last = if lines.is_empty() { "    (empty)".to_owned() } else { format!("    {}", lines.join("\n    ")) };
    format!("  the last lines of {}:\n{last}", log.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_log_is_its_last_lines_however_long_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        std::fs::write(&log, "one\ntwo\n").unwrap();
        assert_eq!(tail(&log), ["one", "two"]);
        let text: String = (0..10_000).map(|line| format!("line {line}\n")).collect();
        std::fs::write(&log, text).unwrap();
        let last = tail(&log);
        assert_eq!((last.len(), last[0].as_str(), last[9].as_str()), (10, "line 9990", "line 9999"));
        assert!(tail(&dir.path().join("none"))[0].contains("cannot be read"));
    }

    #[test]
    fn an_end_is_told_by_its_status_or_signal() {
        assert_eq!(how(ExitStatus::from_raw(9)), "signal 9 (SIGKILL)");
        assert_eq!(how(ExitStatus::from_raw(2 << 8)), "exit status 2");
    }
}
