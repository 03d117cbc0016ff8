//! The small file beside a storage in which the node remembers how far that storage had come.
//!
//! It is replaced as a whole, so a crash leaves the old or the new one. It decides nothing: see [`super::epoch`].

use std::fs::File;
use std::io;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;

use crate::hash::ClusterHash;
use crate::limits;
use crate::store::epoch::Memo;
use crate::store::files::replace_file;

/// Where a memo is kept: a file, which need not exist.
#[derive(Debug, Clone)]
pub(crate) struct MemoFile(PathBuf);

/// What was found where a memo should be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Memo(Memo),
    Nothing,
    /// Something that is not a memo of this cluster.
    Damaged,
}

impl MemoFile {
    /// The memo at this path.
    pub(crate) fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The file's path, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Reads the memo.
    pub(crate) fn load(&self, hash: &ClusterHash) -> io::Result<Found> {
        let mut text = Vec::new();
        match File::open(&self.0) {
            Ok(file) => file.take(limits::STORE_MEMO_MAX).read_to_end(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        if text.is_empty() {
            return Ok(Found::Nothing);
        }
        Ok(decode(&text, hash).map_or(Found::Damaged, Found::Memo))
    }

    /// Replaces the memo; it is on disk when this returns.
    pub(crate) fn save(&self, memo: &Memo, hash: &ClusterHash) -> io::Result<()> {
        replace_file(&self.0, &encode(memo, hash)?)
    }
}

const MAGIC: &[u8; 8] = b"DMMEMO01";
const DOMAIN: &[u8] = b"store memo";

fn encode(memo: &Memo, hash: &ClusterHash) -> io::Result<Vec<u8>> {
    let body = postcard::to_stdvec(memo).map_err(io::Error::other)?;
    let checksum = hash.checksum(DOMAIN, &body).to_be_bytes();
    Ok([MAGIC.as_slice(), &checksum, &body].concat())
}

fn decode(text: &[u8], hash: &ClusterHash) -> Option<Memo> {
    let rest = text.strip_prefix(MAGIC)?;
    let (checksum, body) = rest.split_first_chunk::<8>()?;
    if hash.checksum(DOMAIN, body) != u64::from_be_bytes(*checksum) {
        return None;
    }
    postcard::from_bytes(body).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::store::epoch::Mark;
    use crate::types::ClusterName;
    use crate::types::Epoch;

    fn hash(name: &str) -> ClusterHash {
        ClusterHash::new(&ClusterName::new(name).unwrap())
    }

    fn memo() -> Memo {
        let mark = Mark { epoch: Epoch(9), boot: 2, commits: 1 << 40 };
        Memo { mark, clean: true, synced: false, run: "abc".into() }
    }

    #[test]
    fn a_memo_is_found_again_and_a_damaged_one_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let file = MemoFile::at(dir.path().join("deep/memo"));
        assert_eq!(file.load(&hash("a")).unwrap(), Found::Nothing);
        file.save(&memo(), &hash("a")).unwrap();
        file.save(&memo(), &hash("a")).unwrap();
        assert_eq!(file.load(&hash("a")).unwrap(), Found::Memo(memo()));
        assert_eq!(file.load(&hash("b")).unwrap(), Found::Damaged, "another cluster's memo was believed");

        let whole = fs::read(file.path()).unwrap();
        for at in 0..whole.len() {
            let mut bent = whole.clone();
            bent[at] ^= 1;
            fs::write(file.path(), &bent).unwrap();
            assert_eq!(file.load(&hash("a")).unwrap(), Found::Damaged, "byte {at}");
            fs::write(file.path(), &whole[..at]).unwrap();
            assert_ne!(file.load(&hash("a")).unwrap(), Found::Memo(memo()), "cut at {at}");
        }
    }
}
