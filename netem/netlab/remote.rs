//! Questions and answers as Unix datagrams, of the lab to its emulator, and of verbs to the lab.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

/// The longest answer.
const ANSWER_MAX: usize = 1 << 20;

/// One end that asks.
pub(crate) struct Remote {
    socket: UnixDatagram,
    own: PathBuf,
}

impl Remote {
    /// Connects to whoever answers at `path`; answers come to a socket beside it.
    ///
    /// # Errors
    /// When nobody is there.
    pub(crate) fn connect(path: &Path, patience: Duration) -> Result<Self, String> {
        let own = path.with_extension(format!("{}", std::process::id()));
        let text = |error: std::io::Error| format!("{}: {error}", path.display());
        let socket = UnixDatagram::bind(&own).map_err(text)?;
        let remote = Self { socket, own };
        remote.socket.connect(path).map_err(text)?;
        remote.socket.set_read_timeout(Some(patience)).map_err(text)?;
        Ok(remote)
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// What the other end has against it, or that it does not answer.
    pub(crate) fn ask(&self, question: &str) -> Result<String, String> {
        self.socket.send(question.as_bytes()).map_err(|error| format!("asking: {error}"))?;
        let mut buffer = vec![0; ANSWER_MAX];
        let length = self.socket.recv(&mut buffer).map_err(|error| format!("no answer: {error}"))?;
        let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
        match answer.strip_prefix("error: ") {
            Some(why) => Err(why.to_owned()),
            None => Ok(answer),
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // The folder is removed at the end in any case.
        drop(std::fs::remove_file(&self.own));
    }
}
