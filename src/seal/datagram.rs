//! Sealing and opening.
//!
//! A datagram is a header, the sealed bytes, and a tag of 16 bytes. The header is version (1 byte), a mark of the cluster
//! (2), the key's identifier (4), the sender (8), its boot (8) and a counter (6); it is authenticated together with the
//! cluster's whole identifier. Each sender has a key of its own for each boot, derived from the cluster's by HKDF, and the
//! counter is the nonce.

use std::collections::BTreeMap;
use std::time::Duration;

use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::{digest, hkdf};

use crate::limits;
use crate::seal::keyring::{Key, KeyId, Keyring};
use crate::seal::window::Window;
use crate::types::{ClusterName, NodeId};

const VERSION: u8 = 1;
const HEADER: usize = 1 + 2 + 4 + 8 + 8 + 6;
const TAG: usize = 16;
/// Bytes a sealed datagram is longer than what it holds.
pub const OVERHEAD: usize = HEADER + TAG;
/// Counters beyond this do not fit the header.
const COUNTER_MAX: u64 = (1 << 48) - 1;
static ALGORITHM: &aead::Algorithm = &aead::CHACHA20_POLY1305;

/// One life of a process. A later one has a higher number, so that datagrams of an earlier one can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Boot(pub u64);

impl Boot {
    /// The boot that begins at this wall time, after `last`; the random bits keep two apart that cannot know of each
    /// other, since the disk was lost and the clock went back.
    pub fn after(last: Option<Self>, wall_ms: u64, random: u16) -> Self {
        let now = (wall_ms << 16) | u64::from(random);
        Self(last.map_or(now, |last| now.max(last.0.saturating_add(1))))
    }
}

/// What of a cluster every datagram is bound to.
#[derive(Debug, Clone)]
struct Binding {
    id: [u8; 32],
}

impl Binding {
    fn new(cluster: &ClusterName) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(b"dynamomini gossip cluster 1");
        hash.update(cluster.as_str().as_bytes());
        let mut id = [0; 32];
        id.copy_from_slice(hash.finish().as_ref());
        Self { id }
    }

    fn mark(&self) -> [u8; 2] {
        [self.id[0], self.id[1]]
    }

    /// The key of one sender in one boot.
    fn derive(&self, key: &Key, sender: NodeId, boot: Boot) -> LessSafeKey {
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, &self.id).extract(&key.0);
        let (sender, boot) = (sender.0.to_be_bytes(), boot.0.to_be_bytes());
        let info = [b"dynamomini gossip seal 1".as_slice(), &sender, &boot];
        let okm = secret.expand(&info, ALGORITHM).expect("the length is the algorithm's own");
        LessSafeKey::new(UnboundKey::from(okm))
    }

    fn associated(&self, header: &[u8]) -> Aad<Vec<u8>> {
        Aad::from([self.id.as_slice(), header].concat())
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; aead::NONCE_LEN];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Seals what this process sends. There must be one for each boot.
#[derive(Debug)]
pub struct Sealer {
    binding: Binding,
    sender: NodeId,
    boot: Boot,
    counter: u64,
    using: Option<(KeyId, LessSafeKey)>,
    /// The keys of the ring, and since when they were here.
    known: BTreeMap<KeyId, Duration>,
}

impl Sealer {
    /// A sealer for one boot of one node.
    pub fn new(cluster: &ClusterName, sender: NodeId, boot: Boot) -> Self {
        Self { binding: Binding::new(cluster), sender, boot, counter: 0, using: None, known: BTreeMap::new() }
    }

    /// Chooses the key to seal with: the preferred one, but while another works not before it has been here for
    /// [`limits::KEY_SETTLE`], so that the others have it too. To be called when the keyring changes and now and then;
    /// `now` is time since any fixed moment.
    pub fn follow(&mut self, keyring: &Keyring, now: Duration) {
        self.known.retain(|id, _| keyring.key(*id).is_some());
        for (id, _) in keyring.entries().filter(|(_, entry)| entry.key.is_some()) {
            self.known.entry(id).or_insert(now);
        }
        let preferred = keyring.preferred();
        let using = self.using.as_ref().map(|(id, _)| *id);
        if preferred == using {
            return;
        }
        let settled = |id: KeyId| self.known.get(&id).is_some_and(|since| now >= *since + limits::KEY_SETTLE);
        let lost = using.is_none_or(|id| keyring.key(id).is_none());
        self.using = match preferred {
            Some(id) if lost || settled(id) => keyring.key(id).map(|key| {
                let derived = self.binding.derive(key, self.sender, self.boot);
                (id, derived)
            }),
            Some(_) => return,
            None => None,
        };
    }

    /// The key in use.
    pub fn key_id(&self) -> Option<KeyId> {
        self.using.as_ref().map(|(id, _)| *id)
    }

    /// This process's boot.
    pub fn boot(&self) -> Boot {
        self.boot
    }

    /// Seals a message. `None` while there is no key, or when a boot has used up its counters.
    pub fn seal(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        let (id, key) = self.using.as_ref()?;
        if self.counter > COUNTER_MAX {
            return None;
        }
        let counter = self.counter;
        self.counter += 1;
        let mut datagram = Vec::with_capacity(OVERHEAD + message.len());
        datagram.push(VERSION);
        datagram.extend_from_slice(&self.binding.mark());
        datagram.extend_from_slice(&id.short());
        datagram.extend_from_slice(&self.sender.0.to_be_bytes());
        datagram.extend_from_slice(&self.boot.0.to_be_bytes());
        datagram.extend_from_slice(&counter.to_be_bytes()[2..]);
        let associated = self.binding.associated(&datagram);
        datagram.extend_from_slice(message);
        let (_, body) = datagram.split_at_mut(HEADER);
        let tag = key.seal_in_place_separate_tag(nonce(counter), associated, body).ok()?;
        datagram.extend_from_slice(tag.as_ref());
        Some(datagram)
    }
}

/// Why a datagram was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refused {
    /// It is not of this protocol, or of a version that is not known.
    #[error("not a gossip datagram")]
    Junk,
    /// It ends too early.
    #[error("cut short")]
    Truncated,
    /// It is of another cluster.
    #[error("of another cluster")]
    WrongCluster,
    /// It is sealed with a key that is not in the keyring.
    #[error("sealed with a key that is not in the keyring")]
    UnknownKey,
    /// It was seen before, or is too old to tell.
    #[error("seen before")]
    Replayed,
    /// It comes from an earlier life of its sender.
    #[error("from an earlier life of its sender")]
    OldBoot,
    /// The seal is broken: forged, damaged or cut.
    #[error("the seal is broken")]
    Forged,
    /// It names this very node as its sender.
    #[error("names this node as its sender")]
    OwnName,
}

/// A datagram that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Who sent it.
    pub sender: NodeId,
    /// The sender's boot.
    pub boot: Boot,
    /// What it says.
    pub message: Vec<u8>,
}

/// Opens what others send, each datagram once.
#[derive(Debug)]
pub struct Opener {
    binding: Binding,
    own: NodeId,
    senders: BTreeMap<NodeId, Sender>,
}

#[derive(Debug)]
struct Sender {
    boot: Boot,
    window: Window,
    heard: Duration,
    key: Option<(KeyId, LessSafeKey)>,
}

impl Sender {
    fn new(boot: Boot, heard: Duration) -> Self {
        Self { boot, window: Window::default(), heard, key: None }
    }
}

struct Header {
    key: [u8; 4],
    sender: NodeId,
    boot: Boot,
    counter: u64,
}

fn header(datagram: &[u8], binding: &Binding) -> Result<Header, Refused> {
    let mut rest = datagram;
    if datagram.first() != Some(&VERSION) {
        return Err(Refused::Junk);
    }
    if datagram.len() < OVERHEAD {
        return Err(Refused::Truncated);
    }
    rest = &rest[1..];
    if take::<2>(&mut rest)? != binding.mark() {
        return Err(Refused::WrongCluster);
    }
    let key = take::<4>(&mut rest)?;
    let sender = NodeId(u64::from_be_bytes(take(&mut rest)?));
    let boot = Boot(u64::from_be_bytes(take(&mut rest)?));
    let mut counter = [0; 8];
    counter[2..].copy_from_slice(&take::<6>(&mut rest)?);
    Ok(Header { key, sender, boot, counter: u64::from_be_bytes(counter) })
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Refused> {
    let (first, rest) = bytes.split_first_chunk::<N>().ok_or(Refused::Truncated)?;
    *bytes = rest;
    Ok(*first)
}

impl Opener {
    /// An opener of the node `own`.
    pub fn new(cluster: &ClusterName, own: NodeId) -> Self {
        Self { binding: Binding::new(cluster), own, senders: BTreeMap::new() }
    }

    /// Learns by a trusted way which boot of a node is the present one, also when its clock went back meanwhile.
    pub fn expect(&mut self, sender: NodeId, boot: Boot, now: Duration) {
        if sender != self.own && self.senders.get(&sender).is_none_or(|known| known.boot != boot) {
            self.room();
            self.senders.insert(sender, Sender::new(boot, now));
        }
    }

    /// Forgets the keys that were derived, after the keyring changed.
    pub fn keys_changed(&mut self, keyring: &Keyring) {
        for sender in self.senders.values_mut() {
            sender.key.take_if(|(id, _)| keyring.key(*id).is_none());
        }
    }

    /// Opens a datagram; `now` is time since any fixed moment.
    ///
    /// # Errors
    /// Why it is to be dropped. Nothing has changed then.
    pub fn open(&mut self, datagram: &[u8], keyring: &Keyring, now: Duration) -> Result<Opened, Refused> {
        let header = header(datagram, &self.binding)?;
        if header.sender == self.own {
            return Err(Refused::OwnName);
        }
        let known = self.senders.get(&header.sender);
        match known {
            Some(known) if known.boot == header.boot && !known.window.is_fresh(header.counter) => {
                return Err(Refused::Replayed);
            }
            // A boot that seems older is one after the clock went back only if the newer one is silent.
            Some(known) if header.boot < known.boot && now < known.heard + limits::BOOT_SILENCE => {
                return Err(Refused::OldBoot);
            }
            _ => {}
        }
        let cached = known.filter(|known| known.boot == header.boot).and_then(|known| known.key.as_ref());
        let cached = cached.filter(|(id, _)| id.short() == header.key && keyring.key(*id).is_some());
        let (message, derived) = match cached {
            Some((_, key)) => (self.unseal(datagram, &header, key)?, None),
            None => self.unseal_with_any(datagram, &header, keyring)?,
        };
        self.note(&header, derived, now);
        Ok(Opened { sender: header.sender, boot: header.boot, message })
    }

    fn unseal(&self, datagram: &[u8], header: &Header, key: &LessSafeKey) -> Result<Vec<u8>, Refused> {
        let (head, sealed) = datagram.split_at(HEADER);
        let mut message = sealed.to_vec();
        let associated = self.binding.associated(head);
        let opened = key.open_in_place(nonce(header.counter), associated, &mut message);
        let length = opened.map_err(|_| Refused::Forged)?.len();
        message.truncate(length);
        Ok(message)
    }

    /// Tries the keys with this short identifier: one, but for the rarest of chances.
    #[expect(clippy::type_complexity, reason = "a message, and the key it was opened with")]
    fn unseal_with_any(
        &self,
        datagram: &[u8],
        header: &Header,
        keyring: &Keyring,
    ) -> Result<(Vec<u8>, Option<(KeyId, LessSafeKey)>), Refused> {
        let mut refused = Refused::UnknownKey;
        for (id, entry) in keyring.entries().filter(|(id, _)| id.short() == header.key) {
            let Some(key) = &entry.key else { continue };
            let derived = self.binding.derive(key, header.sender, header.boot);
            match self.unseal(datagram, header, &derived) {
                Ok(message) => return Ok((message, Some((id, derived)))),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    fn note(&mut self, header: &Header, derived: Option<(KeyId, LessSafeKey)>, now: Duration) {
        if !self.senders.contains_key(&header.sender) {
            self.room();
        }
        let sender = self.senders.entry(header.sender).or_insert_with(|| Sender::new(header.boot, now));
        if sender.boot != header.boot {
            *sender = Sender::new(header.boot, now);
        }
        sender.heard = now;
        sender.window.note(header.counter);
        if derived.is_some() {
            sender.key = derived;
        }
    }

    /// Makes room for one sender more by forgetting the one that has been silent longest.
    fn room(&mut self) {
        if self.senders.len() >= limits::GOSSIP_SENDERS_MAX
            && let Some(silent) = self.senders.iter().min_by_key(|(_, sender)| sender.heard).map(|(id, _)| *id)
        {
            self.senders.remove(&silent);
        }
    }

    /// Senders that are remembered.
    pub fn senders(&self) -> usize {
        self.senders.len()
    }
}
