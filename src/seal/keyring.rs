//! The keys of a cluster as a replicated set: additions, uses and removals merge in any order to the same result.
//!
//! Which key is preferred for sealing is a function of the set alone. When a node may begin to follow it is the sealer's
//! matter.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use ring::digest;
use serde::{Deserialize, Serialize};

use crate::limits;
use crate::types::Invalid;

/// What a key's identifier is hashed with, so that it is no hash of the key that anything else might show.
const ID_LABEL: &[u8] = b"dynamomini gossip key id 1";

/// A secret of 32 random bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key(pub(crate) [u8; 32]);

impl Key {
    /// A key from 32 bytes, which must be random.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its identifier.
    pub fn id(&self) -> KeyId {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(ID_LABEL);
        hash.update(&self.0);
        let hash = hash.finish();
        let mut id = [0; 8];
        id.copy_from_slice(&hash.as_ref()[..8]);
        KeyId(id)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id())
    }
}

/// Names a key without telling it: written as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyId(pub [u8; 8]);

impl KeyId {
    /// The part that datagrams carry.
    pub(crate) fn short(self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.0;
        [a, b, c, d]
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for KeyId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = if digits { u64::from_str_radix(text, 16).ok() } else { None };
        let number = number.ok_or_else(|| Invalid::new("key id", text, "16 hexadecimal digits".to_owned()))?;
        Ok(Self(number.to_be_bytes()))
    }
}

/// What the set knows of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEntry {
    /// The key; nothing once it was removed.
    pub key: Option<Key>,
    /// When it was made, in milliseconds since the Unix epoch.
    pub made_ms: u64,
    /// Number of the latest order to use it; 0 when there was none. The highest of the set is in use.
    pub used: u64,
}

/// The keys of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyring(BTreeMap<KeyId, KeyEntry>);

/// Why a keyring was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// There is no such key.
    #[error("there is no key {0}: `dynamomini cluster keys list` shows those there are")]
    Unknown(KeyId),
    /// The key was removed; a removed key never comes back.
    #[error("key {0} was removed and cannot come back: add a new one")]
    Removed(KeyId),
    /// The key seals.
    #[error("key {0} is in use: use another one first, then remove this one")]
    InUse(KeyId),
    /// The set is full.
    #[error("the keyring holds {max} keys, removed ones among them, and takes no more", max = limits::KEYS_MAX)]
    Full,
    /// A key is under an identifier that is not its own.
    #[error("the keyring contradicts itself: key {0} is not the one it is named")]
    Misnamed(KeyId),
}

impl Keyring {
    /// Adds a key, without using it.
    ///
    /// # Errors
    /// When the set is full, or had the key and removed it.
    pub fn add(&mut self, key: Key, made_ms: u64) -> Result<KeyId, KeyringError> {
        let id = key.id();
        match self.0.get(&id) {
            Some(KeyEntry { key: None, .. }) => return Err(KeyringError::Removed(id)),
            Some(_) => return Ok(id),
            None if self.0.len() >= limits::KEYS_MAX => return Err(KeyringError::Full),
            None => {}
        }
        self.0.insert(id, KeyEntry { key: Some(key), made_ms, used: 0 });
        Ok(id)
    }

    /// Orders a key to be used for sealing.
    ///
    /// # Errors
    /// When there is no such key, or it was removed.
    pub fn use_key(&mut self, id: KeyId) -> Result<(), KeyringError> {
        let latest = self.0.values().map(|entry| entry.used).max().unwrap_or(0);
        let preferred = self.preferred();
        let entry = self.0.get_mut(&id).ok_or(KeyringError::Unknown(id))?;
        if entry.key.is_none() {
            return Err(KeyringError::Removed(id));
        }
        if preferred != Some(id) {
            entry.used = latest.saturating_add(1);
        }
        Ok(())
    }

    /// Removes a key for ever.
    ///
    /// # Errors
    /// When there is no such key, or it is in use.
    pub fn remove(&mut self, id: KeyId) -> Result<(), KeyringError> {
        if self.preferred() == Some(id) {
            return Err(KeyringError::InUse(id));
        }
        self.0.get_mut(&id).ok_or(KeyringError::Unknown(id))?.key = None;
        Ok(())
    }

    /// Takes in what another keyring knows. Returns whether anything was news.
    ///
    /// # Errors
    /// When the other one contradicts itself, or both together are too many; nothing has changed then.
    pub fn merge(&mut self, other: &Self) -> Result<bool, KeyringError> {
        if let Some((id, _)) = other.0.iter().find(|(id, entry)| entry.key.as_ref().is_some_and(|key| key.id() != **id))
        {
            return Err(KeyringError::Misnamed(*id));
        }
        let new = other.0.keys().filter(|id| !self.0.contains_key(id)).count();
        if self.0.len() + new > limits::KEYS_MAX {
            return Err(KeyringError::Full);
        }
        let before = self.clone();
        for (id, theirs) in &other.0 {
            let ours = self.0.entry(*id).or_insert_with(|| theirs.clone());
            ours.made_ms = ours.made_ms.min(theirs.made_ms);
            ours.used = ours.used.max(theirs.used);
            if theirs.key.is_none() {
                ours.key = None;
            }
        }
        Ok(*self != before)
    }

    /// The key that everybody should seal with: the one last ordered to be used; without any order the oldest, so that
    /// the key of a node which started alone gives way to that of the cluster it joins.
    pub fn preferred(&self) -> Option<KeyId> {
        let living = self.0.iter().filter(|(_, entry)| entry.key.is_some());
        living.max_by_key(|(id, entry)| (entry.used, Reverse(entry.made_ms), **id)).map(|(id, _)| *id)
    }

    /// The keys that open, and those that were removed.
    pub fn entries(&self) -> impl Iterator<Item = (KeyId, &KeyEntry)> {
        self.0.iter().map(|(id, entry)| (*id, entry))
    }

    /// A key that was not removed.
    pub fn key(&self, id: KeyId) -> Option<&Key> {
        self.0.get(&id)?.key.as_ref()
    }

    /// Whether there is no key that seals or opens.
    pub fn is_empty(&self) -> bool {
        self.0.values().all(|entry| entry.key.is_none())
    }

    /// A fingerprint of the set, by which two nodes see whether they have the same.
    pub fn digest(&self) -> u64 {
        let bytes = postcard::to_stdvec(self).expect("a keyring always encodes into memory");
        let hash = digest::digest(&digest::SHA256, &bytes);
        let mut first = [0; 8];
        first.copy_from_slice(&hash.as_ref()[..8]);
        u64::from_le_bytes(first)
    }
}
