//! A session: reads that never go back behind what it has read or written, and writes that replace exactly that, without the
//! application carrying contexts. It remembers what it has seen of each key, and asks more replicas when one is behind.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::client::{CausalContext, Client, ClientError, Found, GetOptions, PutOptions, Written};
use crate::limits;
use crate::types::Consistency;
use crate::version::{Causality, Context};

/// Reads and writes of one user or task, in the order it makes them. Made by [`Client::session`].
///
/// A read returns whatever this session has read or written of the key before, or something later, even at R=1: an answer
/// that is behind is asked for again, at a quorum, then at all replicas. A write replaces what the session has seen. Of at
/// most [`limits::SESSION_KEYS_MAX`] keys this is remembered.
#[derive(Debug)]
pub struct Session {
    client: Client,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    keys: BTreeMap<Bytes, Known>,
    /// Keys by when they were last used.
    uses: BTreeMap<u64, Bytes>,
    clock: u64,
}

/// What a session knows of one key.
#[derive(Debug, Default)]
struct Known {
    /// What each further read must have seen.
    floor: Context,
    /// What the next write carries.
    carry: CausalContext,
    used: u64,
}

impl Session {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, seen: Mutex::default() }
    }

    /// Reads a key as [`Client::get`], never behind what the session has seen.
    ///
    /// # Errors
    /// As [`Client::get`]; [`ClientError::Behind`] when no replica that answers has what the session has seen.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Found, ClientError> {
        self.get_with(key, GetOptions::default()).await
    }

    /// Reads a key as [`Client::get_with`], never behind what the session has seen.
    ///
    /// # Errors
    /// As [`Session::get`].
    pub async fn get_with(&self, key: impl Into<Bytes>, options: GetOptions) -> Result<Found, ClientError> {
        let key = key.into();
        let floor = self.lock().floor(&key);
        for r in [options.r, Some(Consistency::Quorum), Some(Consistency::All)] {
            let found = self.client.get_with(key.clone(), GetOptions { r, ..options.clone() }).await?;
            if covers(&found.context.0.context, &floor) {
                self.lock().read(&key, &found);
                return Ok(found);
            }
        }
        Err(ClientError::Behind)
    }

    /// Writes a key as [`Client::put`]; replaces what the session has seen, or what the options' context names if it names
    /// anything.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        options: PutOptions,
    ) -> Result<Written, ClientError> {
        let key = key.into();
        let options = self.under(&key, options);
        let written = self.client.put(key.clone(), value, options).await?;
        self.lock().wrote(&key, &written);
        Ok(written)
    }

    /// Deletes a key as [`Client::delete`], under what the session has seen of it.
    ///
    /// # Errors
    /// As [`Client::delete`].
    pub async fn delete(&self, key: impl Into<Bytes>, options: PutOptions) -> Result<Written, ClientError> {
        let key = key.into();
        let options = self.under(&key, options);
        let written = self.client.delete(key.clone(), options).await?;
        self.lock().wrote(&key, &written);
        Ok(written)
    }

    /// The context that the next write of a key carries.
    pub fn context(&self, key: &[u8]) -> CausalContext {
        self.lock().keys.get(key).map(|known| known.carry.clone()).unwrap_or_default()
    }

    fn under(&self, key: &[u8], options: PutOptions) -> PutOptions {
        let context = if options.context.is_empty() { self.context(key) } else { options.context };
        PutOptions { context, ..options }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        // Nothing in here can be left half done by a panic.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn covers(context: &Context, floor: &Context) -> bool {
    matches!(floor.compare(context), Causality::Before | Causality::Equal)
}

impl Seen {
    fn floor(&self, key: &[u8]) -> Context {
        self.keys.get(key).map(|known| known.floor.clone()).unwrap_or_default()
    }

    fn read(&mut self, key: &Bytes, found: &Found) {
        let known = self.known(key);
        // A read that began before a write of the same session ended must not make it forget that write.
        let newer = covers(&found.context.0.context, &known.floor);
        known.floor.merge(&found.context.0.context);
        if newer {
            known.carry = found.context.clone();
        }
    }

    fn wrote(&mut self, key: &Bytes, written: &Written) {
        let known = self.known(key);
        known.floor.merge(&written.context.0.context);
        known.floor.add(written.dot);
        known.carry = written.context.clone();
    }

    /// The entry of a key, used just now.
    fn known(&mut self, key: &Bytes) -> &mut Known {
        self.clock += 1;
        if let Some(known) = self.keys.get(key) {
            self.uses.remove(&known.used);
        } else if self.keys.len() >= limits::SESSION_KEYS_MAX
            && let Some((_, oldest)) = self.uses.pop_first()
        {
            self.keys.remove(&oldest);
        }
        self.uses.insert(self.clock, key.clone());
        let known = self.keys.entry(key.clone()).or_default();
        known.used = self.clock;
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Epoch, NodeId};
    use crate::version::{Actor, Dot};
    use crate::wire::rpc::KeyContext;

    fn dot(node: u64, counter: u64) -> Dot {
        Dot { actor: Actor { node: NodeId(node), epoch: Epoch(1) }, counter }
    }

    fn context(dots: &[Dot]) -> CausalContext {
        let mut context = Context::new();
        dots.iter().for_each(|dot| context.add(*dot));
        CausalContext(KeyContext { position: 0, context, wrote: Vec::new() })
    }

    #[test]
    fn the_floor_holds_all_that_was_read_and_written_and_what_is_behind_does_not_cover_it() {
        let mut seen = Seen::default();
        let key = Bytes::from_static(b"k");
        assert!(covers(&Context::new(), &seen.floor(&key)));
        seen.wrote(&key, &Written { context: context(&[dot(1, 1)]), dot: dot(2, 1), acks: 1 });
        assert!(!covers(&context(&[dot(1, 1)]).0.context, &seen.floor(&key)));
        assert!(covers(&context(&[dot(1, 1), dot(2, 3)]).0.context, &seen.floor(&key)));
        seen.read(&key, &Found { siblings: vec![], context: context(&[dot(1, 1), dot(2, 3)]) });
        assert!(!covers(&context(&[dot(1, 9), dot(2, 2)]).0.context, &seen.floor(&key)));
        // An old answer that comes late changes nothing.
        let carried = seen.keys[&key].carry.clone();
        seen.read(&key, &Found { siblings: vec![], context: context(&[dot(1, 1)]) });
        assert_eq!(seen.keys[&key].carry, carried);
    }

    #[test]
    fn the_keys_that_were_not_used_for_longest_are_forgotten() {
        let mut seen = Seen::default();
        let key = |number: usize| Bytes::from(number.to_string());
        for number in 0..limits::SESSION_KEYS_MAX {
            seen.known(&key(number));
        }
        seen.known(&key(0));
        seen.known(&key(limits::SESSION_KEYS_MAX));
        assert_eq!((seen.keys.len(), seen.uses.len()), (limits::SESSION_KEYS_MAX, limits::SESSION_KEYS_MAX));
        assert!(seen.keys.contains_key(&key(0)) && !seen.keys.contains_key(&key(1)));
    }
}
