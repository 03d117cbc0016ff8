//! Files and directories of a node: replaced as a whole, and for the node's own user only, since what is in them is
//! somebody's data. What they hold is not known here.

use std::fs;
use std::fs::DirBuilder;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;

/// Held while a file is replaced: two tasks, or an engine that was dropped and the next, may be at the same one.
static REPLACING: Mutex<()> = Mutex::new(());

/// Replaces a file as a whole, readable by this user only; it is on disk when this returns, and a crash before that leaves
/// the one before.
///
/// # Errors
/// When the file or its directory cannot be written.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let _replacing = REPLACING.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = directory_of(path);
    create_directory(directory)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = directory.join(name);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    // The rename itself is durable only with its directory.
    File::open(directory)?.sync_all()
}

/// Removes a file for good, also after a power cut. One that is not there is removed already.
///
/// # Errors
/// When it cannot be removed, or not surely.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Err(_) => Ok(()),
        Ok(()) => File::open(directory_of(path))?.sync_all(),
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a directory, and those above it, for this user only. One that exists stays as it is.
///
/// # Errors
/// When it cannot be made.
pub fn create_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_made_is_for_this_user_only_and_what_exists_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (deep, file) = (dir.path().join("a/b"), dir.path().join("a/b/file"));
        replace_file(&file, b"one").unwrap();
        assert_eq!((mode(&deep), mode(&file)), (0o700, 0o600));
        fs::set_permissions(&deep, fs::Permissions::from_mode(0o755)).unwrap();
        create_directory(&deep).unwrap();
        assert_eq!(mode(&deep), 0o755);
        replace_file(&file, b"two").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        remove_file(&file).unwrap();
        remove_file(&file).unwrap();
        assert!(!file.exists());
    }
}
