//! Keys and certificates on disk: written whole or not at all, keys readable by their owner alone from the start.

use std::fs;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use crate::certs::CertsError;
use crate::certs::files;

const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// Reads a certificate file.
///
/// # Errors
/// When it is missing, unreadable or too large.
pub fn read(path: &Path) -> Result<String, CertsError> {
    files::readable(path).map_err(|unusable| CertsError::refused(unusable.what, unusable.fix))
}

/// Reads a key file.
///
/// # Errors
/// Also when others than its owner may read it.
pub fn read_private(path: &Path) -> Result<String, CertsError> {
    files::private(path).map_err(|unusable| CertsError::refused(unusable.what, unusable.fix))
}

/// Writes a certificate (or request) and its key. Neither is written if one of them exists, unless `force` is given.
///
/// # Errors
/// [`CertsError::Exists`], or [`CertsError::File`] when the folder cannot be written.
pub fn write_pair(cert: (&Path, &str), key: (&Path, &str), force: bool) -> Result<(), CertsError> {
    if !force && let Some(taken) = [key.0, cert.0].into_iter().find(|path| path.symlink_metadata().is_ok()) {
        return Err(CertsError::Exists(taken.to_owned()));
    }
    // The key comes first: a certificate without its key is of no use, and would have to be issued again.
    write(key.0, key.1, PRIVATE, force)?;
    write(cert.0, cert.1, PUBLIC, force)
}

/// Writes a certificate.
///
/// # Errors
/// [`CertsError::Exists`] unless `force` is given, or [`CertsError::File`] when the folder cannot be written.
pub fn write_public(path: &Path, text: &str, force: bool) -> Result<(), CertsError> {
    write(path, text, PUBLIC, force)
}

/// Writes a key that only its owner can read.
///
/// # Errors
/// [`CertsError::Exists`] unless `force` is given, or [`CertsError::File`] when the folder cannot be written.
pub fn write_private(path: &Path, text: &str, force: bool) -> Result<(), CertsError> {
    write(path, text, PRIVATE, force)
}

fn write(path: &Path, text: &str, mode: u32, force: bool) -> Result<(), CertsError> {
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::AlreadyExists => CertsError::Exists(path.to_owned()),
        _ => CertsError::file(path, format!("cannot be written: {error}"), "make the folder writable, or name another"),
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed)?;
    let draft = Draft::write(path, text, mode).map_err(failed)?;
    if force {
        fs::rename(&draft.0, path).map_err(failed)?;
    } else {
        // A hard link fails if the name is taken, so that nothing is overwritten even if it appeared just now.
        fs::hard_link(&draft.0, path).map_err(failed)?;
    }
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

/// A file under a temporary name, removed when it is not needed any more.
struct Draft(PathBuf);

impl Draft {
    fn write(path: &Path, text: &str, mode: u32) -> std::io::Result<Self> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".draft-{}", std::process::id()));
        let draft = path.with_file_name(name);
        // What a killed process of the same number left behind is nobody's.
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
        let draft = Self(draft);
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        Ok(draft)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        match fs::remove_file(&self.0) {
            // After a rename there is nothing left to remove.
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(file = %self.0.display(), %error, "a temporary file could not be removed");
            }
            _ => {}
        }
    }
}
