//! Files in the data directory that are replaced as a whole: checksummed, readable by the node's user only, and, unless
//! they hold secrets, with the one before kept beside them. What is in them is not known here.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ring::digest;

use crate::limits;
use crate::store;

const CHECKSUM: usize = 32;

/// One such file.
#[derive(Debug, Clone)]
pub(crate) struct KeptFile {
    path: PathBuf,
    /// What its content begins with; another version has another one.
    magic: &'static [u8; 8],
    /// Whether what was there before is kept beside it.
    keeps_before: bool,
}

impl KeptFile {
    /// The file of this name in a directory.
    pub(crate) fn new(directory: &Path, name: &str, magic: &'static [u8; 8]) -> Self {
        Self { path: directory.join(name), magic, keeps_before: true }
    }

    /// The same for secrets: what was there before is gone once it is replaced.
    pub(crate) fn secret(directory: &Path, name: &str, magic: &'static [u8; 8]) -> Self {
        Self { keeps_before: false, ..Self::new(directory, name, magic) }
    }

    /// Its path, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses a file that another version of the program wrote, where starting without its content would do harm.
    pub(crate) fn check_version(&self) -> io::Result<()> {
        let (name, version) = self.magic.split_at(self.magic.len() - 1);
        let bytes = read(&self.path)?.unwrap_or_default();
        match bytes.strip_prefix(name) {
            Some(rest) if !rest.starts_with(version) => {
                let text = format!("another version of the program wrote {}: run that version", self.path.display());
                Err(io::Error::new(io::ErrorKind::InvalidData, text))
            }
            _ => Ok(()),
        }
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(ending);
        self.path.with_file_name(name)
    }

    /// Replaces the content; it is on disk when this returns, and what was there before is kept beside it or gone.
    pub(crate) fn save(&self, body: &[u8]) -> io::Result<()> {
        let old = self.beside(".old");
        if self.keeps_before {
            match fs::rename(&self.path, &old) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        store::replace_file(&self.path, &[self.magic.as_slice(), &self.checksum(body), body].concat())?;
        if self.keeps_before { Ok(()) } else { store::remove_file(&old) }
    }

    /// The content, or that of the one before if the file is missing or damaged. `None` when there is neither.
    pub(crate) fn load(&self) -> io::Result<Option<Vec<u8>>> {
        self.load_as(|body| Some(body.to_vec()))
    }

    /// Like [`KeptFile::load`], decoded: what does not decode is damaged, too. What is damaged and no secret is set aside under
    /// another name, where nothing replaces it.
    pub(crate) fn load_as<T>(&self, decode: impl Fn(&[u8]) -> Option<T>) -> io::Result<Option<T>> {
        let mut damaged = false;
        let before = self.keeps_before.then(|| self.beside(".old"));
        for path in std::iter::once(self.path.clone()).chain(before) {
            let Some(bytes) = read(&path)? else { continue };
            match self.body(&bytes).and_then(&decode) {
                Some(content) => {
                    if damaged {
                        tracing::warn!(file = %self.path.display(), "damaged: the one before it is used");
                    }
                    return Ok(Some(content));
                }
                None => {
                    damaged = true;
                    self.set_aside(&path)?;
                }
            }
        }
        if damaged {
            tracing::error!(file = %self.path.display(), "damaged, and no undamaged one before it: begun anew");
        }
        Ok(None)
    }

    fn set_aside(&self, path: &Path) -> io::Result<()> {
        if !self.keeps_before {
            return Ok(());
        }
        let aside = self.beside(".damaged");
        fs::rename(path, &aside)?;
        tracing::error!(
            file = %path.display(), aside = %aside.display(), "cannot be read: damaged, or of another version; it is kept aside"
        );
        Ok(())
    }

    fn body<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let rest = bytes.strip_prefix(self.magic.as_slice())?;
        let (checksum, body) = rest.split_first_chunk::<CHECKSUM>()?;
        (*checksum == self.checksum(body)).then_some(body)
    }

    fn checksum(&self, body: &[u8]) -> [u8; CHECKSUM] {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(self.magic);
        hash.update(body);
        let mut checksum = [0; CHECKSUM];
        checksum.copy_from_slice(hash.finish().as_ref());
        checksum
    }
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(limits::MEMBERS_FILE_MAX).read_to_end(&mut bytes).map(|_| Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_damaged_file_gives_way_to_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let file = KeptFile::new(dir.path(), "members", b"DMTEST01");
        assert_eq!(file.load().unwrap(), None);
        file.save(b"one").unwrap();
        file.save(b"two").unwrap();
        assert_eq!(file.load().unwrap().as_deref(), Some(b"two".as_slice()));
        let mode = fs::metadata(file.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut bytes = fs::read(file.path()).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(file.path(), &bytes).unwrap();
        assert_eq!(file.load().unwrap().as_deref(), Some(b"one".as_slice()));
        assert_eq!(fs::read(file.beside(".damaged")).unwrap(), bytes, "it is kept for whoever wants to know");
        assert!(!file.path().exists());
        assert_eq!(file.load().unwrap().as_deref(), Some(b"one".as_slice()), "a crash between the renames");
        fs::write(file.beside(".old"), b"junk").unwrap();
        assert_eq!(file.load().unwrap(), None);
    }

    #[test]
    fn of_a_secret_nothing_older_is_kept_nor_believed() {
        let dir = tempfile::tempdir().unwrap();
        KeptFile::new(dir.path(), "keys", b"DMTEST01").save(b"zero").unwrap();
        KeptFile::new(dir.path(), "keys", b"DMTEST01").save(b"one").unwrap();
        let file = KeptFile::secret(dir.path(), "keys", b"DMTEST01");
        file.save(b"two").unwrap();
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["keys"]);
        fs::write(file.beside(".old"), fs::read(file.path()).unwrap()).unwrap();
        fs::write(file.path(), b"junk").unwrap();
        assert_eq!(file.load().unwrap(), None);
    }

    #[test]
    fn a_file_of_another_kind_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        KeptFile::new(dir.path(), "f", b"DMTEST01").save(b"one").unwrap();
        assert_eq!(KeptFile::new(dir.path(), "f", b"DMTEST02").load().unwrap(), None);
    }
}
