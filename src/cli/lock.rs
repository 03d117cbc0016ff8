//! A file whose lock says that a process uses what lies beside it. The system takes the lock away when the process ends,
//! however it does; the file stays and means nothing by itself.

use std::fs::File;
use std::fs::OpenOptions;
use std::fs::TryLockError;
use std::io;
use std::io::Write;
use std::path::Path;

/// A lock that is held as long as this lives.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "it is held, not read")] File);

/// Why a lock was not had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Locked {
    /// Another process holds it.
    #[error("another process uses it (pid {0})")]
    By(String),
    /// The file cannot be used.
    #[error("its lock cannot be taken: {0}")]
    Unusable(#[from] io::Error),
}

impl Lock {
    /// Takes the lock, making the file if it is not there.
    ///
    /// # Errors
    /// [`Locked`]; nothing is waited for.
    pub(crate) fn take(path: &Path) -> Result<Self, Locked> {
        let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = std::fs::read_to_string(path).unwrap_or_default();
                return Err(Locked::By(holder.trim().to_owned()));
            }
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_at_a_time_and_the_other_is_told_who() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = Lock::take(&path).unwrap();
        let error = Lock::take(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        drop(first);
        Lock::take(&path).unwrap();
        assert!(matches!(Lock::take(&dir.path().join("none/lock")), Err(Locked::Unusable(_))));
    }
}
