//! The keyring of this node: in memory, on disk, and what an operator may do with it.
//!
//! How keyrings merge, and which key seals, is `seal`'s; how they reach the others, `greet`'s.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::Rng;

use crate::env::Env;
use crate::node::kept::KeptFile;
use crate::seal::{Key, KeyId, Keyring, KeyringError};
use crate::wire::gossip::KeyStatus;

/// The keyring, and where it is kept.
#[derive(Debug)]
pub(crate) struct Keys {
    state: Mutex<State>,
    file: Option<KeptFile>,
    /// Held while the file is written, so that an older keyring never replaces a newer one.
    saving: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State {
    ring: Arc<Keyring>,
    digest: u64,
    saved: u64,
}

impl Keys {
    /// Reads the keyring of a data directory; without one it lives in memory only. A keyring that is whole but not
    /// understood is an error: to begin without it would forget which keys were removed.
    pub(crate) fn open(data_dir: Option<&Path>) -> io::Result<Self> {
        let file = data_dir.map(|dir| KeptFile::secret(dir, "gossip.keys", b"DMKEYS01"));
        let bytes = file.as_ref().map(KeptFile::load).transpose()?.flatten();
        let ring: Keyring = match bytes {
            Some(bytes) => postcard::from_bytes(&bytes).map_err(|error| {
                let text = format!("gossip.keys holds no keyring of this version ({error}); remove it to begin anew");
                io::Error::new(io::ErrorKind::InvalidData, text)
            })?,
            None => Keyring::default(),
        };
        let digest = ring.digest();
        Ok(Self {
            state: Mutex::new(State { ring: Arc::new(ring), digest, saved: digest }),
            file,
            saving: tokio::sync::Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keyring now.
    pub(crate) fn ring(&self) -> Arc<Keyring> {
        self.lock().ring.clone()
    }

    /// By what two nodes see whether they have the same keyring.
    pub(crate) fn digest(&self) -> u64 {
        self.lock().digest
    }

    /// Changes the keyring. Returns what the change says, and whether anything is new.
    pub(crate) fn change<T>(
        &self,
        change: impl FnOnce(&mut Keyring) -> Result<T, KeyringError>,
    ) -> Result<(T, bool), KeyringError> {
        let mut state = self.lock();
        let mut ring = Keyring::clone(&state.ring);
        let said = change(&mut ring)?;
        let is_new = ring != *state.ring;
        if is_new {
            state.digest = ring.digest();
            state.ring = Arc::new(ring);
        }
        Ok((said, is_new))
    }

    /// Makes a key that is not used yet.
    pub(crate) fn make(&self, env: &Env) -> Result<KeyId, KeyringError> {
        let mut bytes = [0; 32];
        env.rng("gossip/key").fill_bytes(&mut bytes);
        self.change(|ring| ring.add(Key::new(bytes), env.wall_ms())).map(|(id, _)| id)
    }

    /// Writes the keyring to the disk if it changed since.
    pub(crate) async fn save(self: &Arc<Self>, env: &Env) {
        let _alone = self.saving.lock().await;
        let (ring, digest) = {
            let state = self.lock();
            if state.saved == state.digest {
                return;
            }
            (state.ring.clone(), state.digest)
        };
        if let Some(file) = self.file.clone() {
            let body = postcard::to_stdvec(&*ring).expect("a keyring always encodes into memory");
            let outcome = env.blocking(move || file.save(&body).map_err(|error| (file, error))).await;
            match outcome {
                Some(Ok(())) => {}
                Some(Err((file, error))) => {
                    tracing::warn!(file = %file.path().display(), %error, "the keys of gossip cannot be kept");
                    return;
                }
                None => return,
            }
        }
        self.lock().saved = digest;
    }

    /// The keys for a report, in the order of their making.
    pub(crate) fn report(&self, seals: Option<KeyId>) -> Vec<KeyStatus> {
        let ring = self.ring();
        let preferred = ring.preferred();
        let mut keys: Vec<KeyStatus> = ring
            .entries()
            .map(|(id, entry)| KeyStatus {
                id: id.0,
                made_ms: entry.made_ms,
                preferred: preferred == Some(id),
                seals: seals == Some(id),
                removed: entry.key.is_none(),
            })
            .collect();
        keys.sort_by_key(|key| (key.made_ms, key.id));
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keys_survive_a_restart_and_removed_ones_stay_removed() {
        let (dir, env) = (tempfile::tempdir().unwrap(), Env::real());
        let keys = Arc::new(Keys::open(Some(dir.path())).unwrap());
        let (first, second) = (keys.make(&env).unwrap(), keys.make(&env).unwrap());
        keys.change(|ring| ring.use_key(second)).unwrap();
        keys.change(|ring| ring.remove(first)).unwrap();
        keys.save(&env).await;
        let again = Keys::open(Some(dir.path())).unwrap();
        assert_eq!((again.ring(), again.digest()), (keys.ring(), keys.digest()));
        assert_eq!(again.ring().preferred(), Some(second));
        assert!(again.ring().key(first).is_none());
        let report = again.report(Some(second));
        assert_eq!(report.iter().filter(|key| key.removed).count(), 1);
    }

    #[tokio::test]
    async fn the_last_of_many_changes_is_what_is_kept_and_nothing_else() {
        let (dir, env) = (tempfile::tempdir().unwrap(), Env::real());
        let keys = Arc::new(Keys::open(Some(dir.path())).unwrap());
        let saves = (0..20).map(|_| {
            keys.make(&env).unwrap();
            keys.save(&env)
        });
        futures_util::future::join_all(saves).await;
        assert_eq!(Keys::open(Some(dir.path())).unwrap().digest(), keys.digest());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "a copy lies beside the keys");
    }

    #[test]
    fn a_keyring_that_is_not_understood_is_no_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        KeptFile::secret(dir.path(), "gossip.keys", b"DMKEYS01").save(&[0xff; 40]).unwrap();
        assert!(Keys::open(Some(dir.path())).unwrap_err().to_string().contains("holds no keyring"));
    }
}
