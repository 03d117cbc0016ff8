//! The journal files under the database, walked before the database opens them.
//!
//! The database takes an unfinished batch at the end of its journal for what it is, but calls itself broken when a
//! power cut left holes in that batch; and it forgets without a word what lies behind a damaged place. So the newest
//! journal is cut here behind its last whole batch, and the caller is told when that lost more than one. It also
//! serves to take back a batch whose write failed half-way. Nothing here writes batches, or looks into records.
//!
//! The format is that of fjall's third version: a batch is a start mark with a count and a sequence number, that many
//! items, and an end mark with a checksum over the items; numbers are little-endian.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::BufReader;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::path::Path;
use std::path::PathBuf;

use xxhash_rust::xxh3::Xxh3;

use crate::store::embedded::database;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const MAGIC: &[u8; 4] = b"FJL\x03";
/// Between an item's mark and its key: type, compression, keyspace, and the lengths of key, value and stored value.
const ITEM_HEADER: usize = 1 + 1 + 8 + 2 + 4 + 4;
const ZEROS: [u8; 8 * 1024] = [0; 8 * 1024];
/// Longest seal.
const SEAL_MAX: usize = 64;

/// What lay behind the last whole batch of the newest journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// Nothing.
    Clean,
    /// What may be one batch that was being written.
    OneBatch,
    /// More than that: something that had been written whole is gone.
    Several,
}

/// Cuts the newest journal behind its last whole batch, or already behind the last one whose seal counts no further
/// than `keep`.
///
/// # Errors
/// [`ErrorKind::InvalidData`] when an older journal, which was complete once, is not whole.
pub(super) fn trim(directory: &Path, keep: Option<u64>) -> io::Result<Tail> {
    let journals = journals(directory)?;
    let Some((newest, older)) = journals.split_last() else {
        return Ok(Tail::Clean);
    };
    for path in older {
        if tail(path, walk(path, None)?)? != Tail::Clean {
            let reason = format!("{} has a damaged place", path.display());
            return Err(io::Error::new(ErrorKind::InvalidData, reason));
        }
    }
    let end = walk(newest, keep)?;
    let tail = tail(newest, end)?;
    if tail != Tail::Clean {
        let file = OpenOptions::new().write(true).open(newest)?;
        file.set_len(end)?;
        file.sync_all()?;
    }
    Ok(tail)
}

/// Number of journals. Those that nothing was ever written to may be removed first: a creation that did not get far
/// leaves one.
pub(super) fn count(directory: &Path, remove_unused: bool) -> io::Result<usize> {
    let mut count = 0;
    for path in journals(directory)? {
        if remove_unused && tail(&path, 0)? == Tail::Clean {
            fs::remove_file(path)?;
        } else {
            count += 1;
        }
    }
    Ok(count)
}

/// The journal files, oldest first.
pub(super) fn journals(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jnl") {
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Where the last whole batch ends.
pub(super) fn walk(path: &Path, keep: Option<u64>) -> io::Result<u64> {
    let file = File::open(path)?;
    let mut walker = Walker { left: file.metadata()?.len(), reader: BufReader::with_capacity(1 << 18, file), at: 0 };
    let mut end = 0;
    loop {
        match walker.batch() {
            Ok(Some(Some(commits))) if keep.is_some_and(|keep| commits > keep) => return Ok(end),
            Ok(Some(_)) => end = walker.at,
            Ok(None) => return Ok(end),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(end),
            Err(error) => return Err(error),
        }
    }
}

struct Walker {
    reader: BufReader<File>,
    at: u64,
    left: u64,
}

impl Walker {
    /// Reads one batch: the number in its seal, if it has one. `None` when here is no whole batch.
    fn batch(&mut self) -> io::Result<Option<Option<u64>>> {
        let [mark] = self.take()?;
        let (count, _) = (u32::from_le_bytes(self.take()?), self.take::<8>()?);
        if mark != START {
            return Ok(None);
        }
        let mut checksum = Xxh3::new();
        let mut commits = None;
        for _ in 0..count {
            let [mark] = self.take()?;
            checksum.update(&[mark]);
            match mark {
                ITEM => commits = self.item(&mut checksum)?.or(commits),
                CLEAR => checksum.update(&self.take::<8>()?),
                _ => return Ok(None),
            }
        }
        let ([mark], sum, magic) = (self.take()?, u64::from_le_bytes(self.take()?), self.take::<4>()?);
        let whole = mark == END && sum == checksum.digest() && magic == *MAGIC;
        Ok(whole.then_some(commits))
    }

    /// Reads an item behind its mark: the number in it, if it is a seal.
    fn item(&mut self, checksum: &mut Xxh3) -> io::Result<Option<u64>> {
        let header: [u8; ITEM_HEADER] = self.take()?;
        checksum.update(&header);
        let [.., k0, k1, _, _, _, _, v0, v1, v2, v3] = header;
        let key_length = usize::from(u16::from_le_bytes([k0, k1]));
        let value_length = u64::from(u32::from_le_bytes([v0, v1, v2, v3]));
        let mut key = vec![0; key_length];
        self.fill(&mut key)?;
        checksum.update(&key);
        let mut start = Vec::with_capacity(SEAL_MAX);
        let mut rest = value_length;
        let mut chunk = [0; 8 * 1024];
        while rest > 0 {
            let size = usize::try_from(rest).unwrap_or(usize::MAX).min(chunk.len());
            self.fill(&mut chunk[..size])?;
            checksum.update(&chunk[..size]);
            start.extend_from_slice(&chunk[..size.min(SEAL_MAX - start.len())]);
            rest -= size as u64;
        }
        Ok(database::seal_commits(&key, &start))
    }

    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        let size = bytes.len() as u64;
        self.left = self.left.checked_sub(size).ok_or(ErrorKind::UnexpectedEof)?;
        self.reader.read_exact(bytes)?;
        self.at += size;
        Ok(())
    }
}

/// What lies behind `end`; zeros are the room that the database keeps ready.
fn tail(path: &Path, end: u64) -> io::Result<Tail> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(end))?;
    let mut reader = BufReader::with_capacity(1 << 18, file);
    let (mut tail, mut ended) = (Tail::Clean, false);
    let mut last = [0; MAGIC.len()];
    let mut chunk = ZEROS;
    loop {
        let size = reader.read(&mut chunk)?;
        if size == 0 {
            return Ok(tail);
        }
        if chunk[..size] == ZEROS[..size] {
            last.fill(0);
            continue;
        }
        for byte in chunk[..size].iter().copied() {
            if byte != 0 {
                tail = if ended { Tail::Several } else { Tail::OneBatch };
            }
            last.rotate_left(1);
            last[MAGIC.len() - 1] = byte;
            ended |= last == *MAGIC;
        }
    }
}
