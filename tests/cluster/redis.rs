//! A redis-server of a test's own, which keeps nothing by itself, and whose database can be put back to an earlier dump.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The server. Dropped, it ends.
pub(crate) struct Server {
    child: Child,
    dir: PathBuf,
}

impl Server {
    /// A server that keeps its files in this folder.
    pub(crate) fn start(dir: PathBuf) -> Self {
        std::fs::create_dir_all(&dir).unwrap();
        Self { child: launch(&dir), dir }
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("socket")
    }

    /// All that it holds now.
    pub(crate) fn dump(&self) -> Vec<u8> {
        let said = say(&self.socket(), "SAVE").unwrap();
        assert!(said.starts_with("+OK"), "{said}");
        std::fs::read(self.dir.join("dump.rdb")).unwrap()
    }

    /// Ends it as a crash would, and starts it again with what it held at the time of a dump.
    pub(crate) fn put_back(&mut self, dump: &[u8]) {
        self.end();
        std::fs::write(self.dir.join("dump.rdb"), dump).unwrap();
        self.child = launch(&self.dir);
    }

    fn end(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn launch(dir: &Path) -> Child {
    let mut command = Command::new("redis-server");
    command.current_dir(dir).args(["--port", "0", "--unixsocket", "socket", "--save", "", "--appendonly", "no"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Sends a line to a redis-server and returns its answer.
pub(crate) fn say(socket: &Path, line: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(format!("{line}\r\nQUIT\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
