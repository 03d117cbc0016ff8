//! The redis-servers of a dev cluster: finding the program, telling it what to do, asking it plain questions.
//!
//! They listen on Unix sockets in the cluster's folder, so that no port is taken and nobody else reaches them.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::anyhow;
use anyhow::bail;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::time::sleep;
use tokio::time::timeout;

use crate::cli::dev::folder;
use crate::cli::dev::layout::Layout;
use crate::limits;
use crate::types::NodeName;

/// The programs that will do, best first.
const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];
/// The longest path that the address of a Unix socket holds.
const SOCKET_PATH_MAX: usize = 100;
/// How long one question may take.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
/// Pause between questions.
const PAUSE: Duration = Duration::from_millis(20);

/// The program to run.
///
/// # Errors
/// When none is installed, with how to install it.
pub(super) async fn find() -> anyhow::Result<&'static str> {
    for program in PROGRAMS {
        let asked = Command::new(program).arg("--version").stdin(Stdio::null()).output().await;
        if asked.is_ok_and(|output| output.status.success()) {
            return Ok(program);
        }
    }
    Err(anyhow!(
        "redis-server is not installed: run `apt install redis-server` (Debian, Ubuntu), `dnf install valkey` (Fedora) \
         or `brew install redis` (macOS), or use --storage embedded, which needs nothing"
    ))
}

/// Writes what the server of a node is told; `durability` as in `storage.durability`.
///
/// # Errors
/// When the folder's path is too long for a socket.
pub(super) fn configure(layout: &Layout, name: &NodeName, durability: Option<&str>) -> anyhow::Result<()> {
    let (dir, socket) = (layout.redis(name), layout.redis_socket(name));
    let length = OsStr::as_bytes(socket.as_os_str()).len();
    if length > SOCKET_PATH_MAX {
        let shown = socket.display();
        bail!("{shown}: {length} bytes are too long for a Unix socket's path: name a shorter folder with --dir");
    }
    std::fs::create_dir_all(&dir)?;
    // Its append-only file is written before each reply in either case, so that a killed server loses nothing.
    let sync = if matches!(durability, None | Some("every-batch")) { "always" } else { "everysec" };
    let text = format!(
        "# Written by `dynamomini dev` at each start.\nport 0\nunixsocket {socket}\nunixsocketperm 700\ndir {dir}\n\
         logfile {log}\nappendonly yes\nappendfsync {sync}\nsave \"\"\nmaxmemory-policy noeviction\ndaemonize no\n",
        socket = quoted(&socket),
        dir = quoted(&dir),
        log = quoted(&layout.redis_log(name)),
    );
    folder::write_whole(&layout.redis_config(name), &text)
}

fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Whether a server is there: a second one on the same files would ruin them.
pub(super) async fn listens(socket: &Path) -> bool {
    UnixStream::connect(socket).await.is_ok()
}

/// Waits until the server serves, which it does only once it has loaded its data.
pub(super) async fn serving(socket: &Path) {
    while !ask(socket, "PING").await.is_ok_and(|answer| answer.starts_with("+PONG")) {
        sleep(PAUSE).await;
    }
}

/// Waits until nobody but the one who asks is connected, or the server is gone.
pub(super) async fn idle(socket: &Path) {
    while let Ok(answer) = ask(socket, "INFO clients").await {
        let clients =
            answer.lines().find_map(|line| line.strip_prefix("connected_clients:")?.trim().parse::<u64>().ok());
        if clients.is_none_or(|clients| clients <= 1) {
            return;
        }
        sleep(PAUSE).await;
    }
}

/// Ends a server that has lost its guard, and waits until it is gone. By its socket, not by its process id, which might
/// have become somebody else's.
pub(super) async fn shut_down(socket: &Path) {
    while listens(socket).await {
        // It answers by ending.
        drop(ask(socket, "SHUTDOWN").await);
        sleep(PAUSE).await;
    }
}

/// Sends a line and reads the answer.
async fn ask(socket: &Path, line: &str) -> io::Result<String> {
    let asked = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(format!("{line}\r\nQUIT\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.take(limits::DEV_REDIS_ANSWER_MAX).read_to_string(&mut answer).await?;
        Ok(answer)
    };
    timeout(ANSWER_PATIENCE, asked).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
