//! Where a lab lives: namespaces that end with its first process however that ends, and a folder that is removed with it.
//!
//! The outer process holds a lock in the folder and waits; all else happens in an inner one. Whatever ends the outer process ends the
//! inner one, and with it all processes, devices and namespaces. What a killed one leaves is the folder, which the next lab there,
//! or `down`, takes away.

use std::fs::File;
use std::io::ErrorKind;
use std::io::Read as _;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::ExitCode;
use std::process::Stdio;
use std::time::Duration;

use crate::shell;
use crate::wait::within;

/// How long a lab may take to end.
const PATIENCE: Duration = Duration::from_secs(20);
/// What takes a namespace and a device to find out whether a lab can be made.
const TRIAL: &str = "ip link add t0 type veth peer name t1 && mount -t tmpfs none /run";
/// Enters a node's namespace, in the folder one is in: that must be entered once more, since mounts are others there.
const ENTER: &str = r#"
cd "$1" && shift || exit
[ -e "/run/netns/$1" ] || { echo "error: there is no node '$1':" $(ls /run/netns) >&2; exit 1; }
exec ip netns exec "$@""#;

/// A folder that is a lab's own while its lock is held.
pub(crate) struct Place {
    folder: PathBuf,
    _lock: File,
}

fn lock_file(folder: &Path) -> PathBuf {
    folder.join("lock")
}

fn text(path: &Path) -> impl Fn(std::io::Error) -> String + '_ {
    move |error| format!("{}: {error}", path.display())
}

/// Takes the folder of a lab that is gone away. `false` when one runs there.
fn sweep(folder: &Path) -> Result<bool, String> {
    let lock = lock_file(folder);
    let file = match File::open(&lock) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(text(&lock)(error)),
    };
    if file.try_lock().is_err() {
        return Ok(false);
    }
    std::fs::remove_dir_all(folder).map_err(text(folder))?;
    Ok(true)
}

impl Place {
    /// Makes the folder.
    ///
    /// # Errors
    /// When a lab runs there, or the folder is somebody else's.
    pub(crate) fn take(folder: &Path) -> Result<Self, String> {
        if !sweep(folder)? {
            return Err(format!(
                "a lab runs in {}: end it with `netem/lab down`, or name another --dir",
                folder.display()
            ));
        }
        std::fs::create_dir_all(folder).map_err(text(folder))?;
        let mut entries = std::fs::read_dir(folder).map_err(text(folder))?;
        if entries.next().is_some() {
            return Err(format!("{} holds what no lab has put there: name another --dir", folder.display()));
        }
        let path = lock_file(folder);
        let lock = File::create(&path).map_err(text(&path))?;
        lock.try_lock().map_err(|error| format!("{}: {error}", path.display()))?;
        let folder = folder.canonicalize().map_err(text(folder))?;
        let place = Self { folder, _lock: lock };
        if place.folder.starts_with("/run") {
            return Err("inside a lab /run is another one: name a --dir elsewhere".to_owned());
        }
        Ok(place)
    }

    /// Where it is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            eprintln!("{} is left behind: {error}", self.folder.display());
        }
    }
}

/// Why no lab can be made here; `None` when one can.
pub(crate) fn obstacle() -> Option<String> {
    let mut trial = namespaces();
    trial.args(["sh", "-c", TRIAL]);
    shell::feed(trial, "").err().map(|why| {
        format!(
            "a lab takes root, and unshare, setpriv, nsenter, mount (util-linux) and ip, tc (iproute2): {}",
            why.trim()
        )
    })
}

/// A command in new namespaces, all of whose processes die with the one that started it.
fn namespaces() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"]);
    command.args(["--mount-proc", "--"]);
    command
}

/// Runs this program in new namespaces with these arguments, until it ends or somebody ends this one.
///
/// # Errors
/// When it could not be started.
pub(crate) fn enter(place: &Place, arguments: &[String]) -> Result<ExitCode, String> {
    if let Some(why) = obstacle() {
        return Err(why);
    }
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = namespaces();
    // The shell is the first process of its namespace, which is deaf to an interrupt; its child is not.
    command.args(["sh", "-c", "mount -t tmpfs none /run && \"$@\"; exit $?", "sh"]);
    command.arg(own).args(arguments);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(wait(place, command))
}

async fn wait(place: &Place, command: Command) -> Result<ExitCode, String> {
    use tokio::signal::unix::SignalKind;
    use tokio::signal::unix::signal;
    let say = |error: std::io::Error| error.to_string();
    let mut interrupt = signal(SignalKind::interrupt()).map_err(say)?;
    let mut end = signal(SignalKind::terminate()).map_err(say)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(say)?;
    // In a group of its own, so that ^C reaches this process alone, which then ends the other.
    let mut command = tokio::process::Command::from(command);
    let mut child = command.process_group(0).stdin(Stdio::null()).spawn().map_err(say)?;
    let pids = format!("{} {}\n", std::process::id(), child.id().unwrap_or(0));
    std::fs::write(lock_file(place.folder()), pids).map_err(say)?;
    tokio::select! {
        biased;
        status = child.wait() => {
            let code = status.map_err(say)?.code().and_then(|code| u8::try_from(code).ok());
            return Ok(ExitCode::from(code.unwrap_or(1)));
        }
        _ = interrupt.recv() => {}
        _ = end.recv() => {}
        _ = hangup.recv() => {}
    }
    child.kill().await.map_err(say)?;
    Ok(ExitCode::from(130))
}

/// The process ids of the outer process and of the one that holds the namespaces.
fn pids(folder: &Path) -> Result<(String, String), String> {
    let mut noted = String::new();
    let path = lock_file(folder);
    let nobody = |_| format!("no lab runs in {}", folder.display());
    File::open(&path).map_err(nobody)?.read_to_string(&mut noted).map_err(text(&path))?;
    let mut words = noted.split_whitespace().map(str::to_owned);
    words.next().zip(words.next()).ok_or_else(|| format!("the lab in {} is just starting", folder.display()))
}

/// Ends the lab of a folder, and takes away what a killed one has left.
///
/// # Errors
/// When it does not end.
pub(crate) fn down(folder: &Path) -> Result<(), String> {
    if sweep(folder)? {
        return Ok(());
    }
    let (outer, _) = pids(folder)?;
    shell::run("kill", &["-TERM", &outer])?;
    // The lock is the first to be removed; or the last, by this sweep, if the lab could not do it.
    within(PATIENCE, || matches!(sweep(folder), Ok(true)) && !folder.exists())
        .map(drop)
        .ok_or_else(|| format!("the lab in {} does not end: process {outer}", folder.display()))
}

/// A command that runs in the namespace of a node of the lab of a folder.
///
/// # Errors
/// When no lab runs there.
pub(crate) fn command(folder: &Path, node: &str, program: &[String]) -> Result<Command, String> {
    let (_, inner) = pids(folder)?;
    let here = std::env::current_dir().map_err(|error| error.to_string())?;
    let mut command = Command::new("nsenter");
    command.args(["--target", &inner, "--net", "--mount"]).arg(format!("--pid=/proc/{inner}/ns/pid_for_children"));
    command.args(["sh", "-c", ENTER, "sh"]).arg(here).arg(node);
    command.args(program);
    Ok(command)
}

/// Says something that a person may read while it runs on.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout();
    // Whoever reads no more need not be told.
    drop(writeln!(out, "{line}").and_then(|()| out.flush()));
}
