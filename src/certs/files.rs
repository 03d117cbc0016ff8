//! Small files that users name: read within a bound, private ones only if nobody else can read them.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::limits;

/// Why a file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {fix}")]
pub struct Unusable {
    /// What is wrong with it.
    pub what: String,
    /// What to do.
    pub fix: String,
}

/// Reads a text file.
///
/// # Errors
/// What is wrong with it and what to do.
pub fn readable(path: &Path) -> Result<String, Unusable> {
    read(path, false)
}

/// Reads a text file that must be a secret of its owner.
///
/// # Errors
/// Also when its group or others may read it.
pub fn private(path: &Path) -> Result<String, Unusable> {
    read(path, true)
}

fn read(path: &Path, private: bool) -> Result<String, Unusable> {
    let shown = path.display();
    let refuse = |what: String, fix: &str| Unusable { what, fix: fix.to_owned() };
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            refuse(format!("there is no file {shown}"), "correct the path, or make the file")
        }
        std::io::ErrorKind::InvalidData => {
            refuse(format!("{shown} is not text"), "name the right file, in PEM form if it is a key or certificate")
        }
        _ => refuse(format!("{shown} cannot be read: {error}"), "let the user that runs this read it"),
    };
    // Mode and content are taken from the one open file, so that they cannot be of different ones.
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(refuse(format!("{shown} is not a file"), "name a file"));
    }
    let mode = found.mode() & 0o777;
    if private && mode & 0o077 != 0 {
        let what = format!("{shown} can be read by others than its owner (mode {mode:04o})");
        return Err(refuse(what, &format!("run: chmod 600 {shown}")));
    }
    if found.len() > limits::PEM_FILE_MAX {
        return Err(refuse(format!("{shown} is larger than {} bytes", limits::PEM_FILE_MAX), "name the right file"));
    }
    let mut text = String::new();
    file.by_ref().take(limits::PEM_FILE_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}
