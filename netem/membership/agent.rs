//! The programs under test: how each is configured and started, and how it is asked what it holds.

use std::io::Read as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use crate::net::address;
use crate::net::inside;

/// Longest wait for an answer over HTTP.
const PATIENCE: Duration = Duration::from_millis(500);

/// Which program.
#[derive(Clone)]
pub(crate) enum Kind {
    /// This project's, at this path.
    DynamoMini(PathBuf),
    /// Debian's package `serf`, for comparison, with its profile for local networks and no encryption.
    Serf,
}

/// How a member finds the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finding {
    /// It is given the whole list.
    Listed,
    /// It is given the address of the first member.
    Seed,
}

impl Kind {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::DynamoMini(_) => "dynamomini",
            Self::Serf => "serf",
        }
    }

    /// Whether a restarted member can be asked what it holds; otherwise its log says all of it.
    pub(crate) fn can_be_asked(&self) -> bool {
        matches!(self, Self::DynamoMini(_))
    }

    /// Makes what all members need before the first start.
    pub(crate) fn prepare(&self, folder: &Path, members: usize) -> Result<(), String> {
        let Self::DynamoMini(program) = self else { return Ok(()) };
        let certs = |arguments: &[&str]| -> Result<(), String> {
            let mut command = Command::new(program);
            command.args(["certs", "--dir"]).arg(folder.join("certs")).args(arguments);
            let output = command.output().map_err(|error| format!("{}: {error}", program.display()))?;
            let said = String::from_utf8_lossy(&output.stderr);
            if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {said}")) }
        };
        certs(&["init", "--name", "lab"])?;
        (0..members).try_for_each(|member| certs(&["node", &format!("n{}", member + 1)]))
    }

    /// The command that is a member.
    pub(crate) fn command(
        &self,
        folder: &Path,
        member: usize,
        members: usize,
        how: Finding,
    ) -> Result<Command, String> {
        let name = format!("n{}", member + 1);
        let mut command;
        match self {
            Self::DynamoMini(program) => {
                let file = folder.join(format!("{name}.toml"));
                let text = settings(folder, member, members, how);
                std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
                command = inside(member, &program.to_string_lossy());
                command.args(["node", "--config"]).arg(file);
            }
            Self::Serf => {
                command = inside(member, "serf");
                command.args(["agent", "-profile=lan", "-log-level=info", "-retry-interval=1s"]);
                command.args([format!("-node={name}"), format!("-bind={}:7946", address(member))]);
                let others = (0..members).filter(|other| *other != member);
                command.args(others.take(2).map(|other| format!("-retry-join={}:7946", address(other))));
            }
        }
        command.stdin(Stdio::null());
        Ok(command)
    }
}

fn settings(folder: &Path, member: usize, members: usize, how: Finding) -> String {
    let (name, folder) = (format!("n{}", member + 1), folder.display());
    let at = address(member);
    let seeds = if how == Finding::Seed { format!("seeds = [\"{}:7400\"]\n", address(0)) } else { String::new() };
    let mut text = format!(
        "[cluster]\nname = \"lab\"\npartitions = 1024\n{seeds}[node]\nname = \"{name}\"\ndata_dir = \"{folder}/{name}\"\n\
         [listen]\nquic = \"{at}:7400\"\ngossip = \"{at}:7401\"\nadmin = \"{at}:7402\"\n[storage]\nengine = \"memory\"\n\
         [tls]\nca = \"{folder}/certs/ca.crt\"\ncert = \"{folder}/certs/{name}.crt\"\nkey = \"{folder}/certs/{name}.key\"\n"
    );
    for other in (0..members).filter(|_| how == Finding::Listed) {
        text += &format!("[[members]]\nname = \"n{}\"\nquic = \"{}:7400\"\n", other + 1, address(other));
        text += &format!("gossip = \"{}:7401\"\n", address(other));
    }
    text
}

/// How many members a node of DynamoMini holds alive, itself included. `None` when it does not answer.
pub(crate) fn alive_at(member: usize) -> Option<usize> {
    let to = format!("{}:7402", address(member)).parse().ok()?;
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(b"GET /status HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    // As in: "gossip":"15/16 alive".
    let (before, _) = answer.split_once(" alive\"")?;
    let (_, alive) = before.rsplit_once('"')?;
    alive.split_once('/')?.0.parse().ok()
}
