//! Membership on disk: the records of the others, the certificates that prove them, and this node's last life.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::env::Env;
use crate::hash::ClusterHash;
use crate::node::kept::KeptFile;
use crate::swim::{Notary, Restored, Signed};
use crate::wire::blob::Blob;

/// For how long after it was written a member that was alive then is held alive at first.
const FRESH_MS: u64 = 30_000;

/// What is kept.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// The last boot of this node.
    pub(crate) boot: Option<u64>,
    /// The incarnation of this node's record.
    pub(crate) incarnation: u64,
    /// When this was written, in milliseconds since the Unix epoch.
    pub(crate) saved_ms: u64,
    /// Signed records, and whether their members were alive.
    pub(crate) members: Vec<(Blob, bool)>,
    /// Credentials, encoded.
    pub(crate) credentials: Vec<Blob>,
}

impl Kept {
    /// The records that can still be believed.
    pub(crate) fn restore(&self, hash: &ClusterHash, notary: &dyn Notary, wall_ms: u64) -> Vec<Restored> {
        let fresh = wall_ms.saturating_sub(self.saved_ms) < FRESH_MS;
        let mut restored = Vec::new();
        for (bytes, alive) in &self.members {
            match Signed::from_bytes(bytes, hash.cluster_id(), notary) {
                Ok(signed) => restored.push(Restored { signed, alive: *alive && fresh }),
                Err(error) => tracing::debug!(%error, "a member's record on disk is not used"),
            }
        }
        restored
    }
}

/// The file.
#[derive(Debug, Clone)]
pub(crate) struct MembersFile(Option<KeptFile>);

impl MembersFile {
    /// Reads the file of a data directory, if one is used and there is something in it.
    pub(crate) fn open(data_dir: Option<&Path>) -> io::Result<(Self, Kept)> {
        let file = data_dir.map(|dir| KeptFile::new(dir, "members", b"DMMEMB01"));
        let decode = |body: &[u8]| postcard::from_bytes(body).ok();
        let kept = file.as_ref().map(|file| file.load_as(decode)).transpose()?.flatten();
        Ok((Self(file), kept.unwrap_or_default()))
    }

    /// Writes it anew, away from the threads that serve the network.
    pub(crate) async fn save(&self, kept: Kept, env: &Env) {
        let Some(file) = self.0.clone() else { return };
        let body = postcard::to_stdvec(&kept).expect("records always encode into memory");
        let outcome = env.blocking(move || file.save(&body).map_err(|error| (file, error))).await;
        if let Some(Err((file, error))) = outcome {
            tracing::warn!(file = %file.path().display(), %error, "membership cannot be kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_does_not_decode_is_kept_aside_and_the_one_before_it_used() {
        let (dir, env) = (tempfile::tempdir().unwrap(), Env::real());
        let (file, kept) = MembersFile::open(Some(dir.path())).unwrap();
        assert_eq!(kept, Kept::default());
        file.save(Kept { incarnation: 7, ..Kept::default() }, &env).await;
        // Whole by its checksum, and not what this version writes.
        let strange = KeptFile::new(dir.path(), "members", b"DMMEMB01");
        strange.save(&[0xff; 30]).unwrap();
        let (_, kept) = MembersFile::open(Some(dir.path())).unwrap();
        assert_eq!(kept.incarnation, 7);
        assert!(dir.path().join("members.damaged").exists());
        std::fs::write(dir.path().join("members.old"), b"junk").unwrap();
        let (_, kept) = MembersFile::open(Some(dir.path())).unwrap();
        assert_eq!(kept, Kept::default(), "the others tell what is lost");
    }
}
