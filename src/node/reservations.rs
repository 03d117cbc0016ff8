//! Who may write a key under a condition now: the promises this owner has given to coordinators of conditional puts.
//!
//! A coordinator reserves a key at a majority of its owners, each of which then checks the condition against its own
//! record, and writes there only while the reservation stands. Two writes that both succeed share an owner, where one
//! was checked and stored before the other was checked; so the later one was checked against the earlier. Reservations
//! are memory only: one that is lost with the process makes its write fail, never succeed twice. They hold up no write
//! that has no condition.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::limits;
use crate::store::Slot;
use crate::wire::rpc::ServeError;

/// The reservations that stand.
#[derive(Debug, Default)]
pub(crate) struct Reservations {
    table: Mutex<BTreeMap<Slot, Reservation>>,
}

#[derive(Debug)]
struct Reservation {
    token: u64,
    /// When it lapses, unless its write has begun.
    until: Instant,
    writing: bool,
}

impl Reservation {
    fn stands(&self) -> bool {
        self.writing || Instant::now() < self.until
    }
}

impl Reservations {
    fn table(&self) -> MutexGuard<'_, BTreeMap<Slot, Reservation>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves a key for whoever holds the token, for as long as a conditional write may take at most.
    ///
    /// False while another holds it.
    ///
    /// # Errors
    /// `Unavailable` when too many keys are reserved.
    pub(crate) fn reserve(&self, slot: &Slot, token: u64, lease: Duration) -> Result<bool, ServeError> {
        let mut table = self.table();
        if let Some(held) = table.get(slot)
            && held.stands()
            && held.token != token
        {
            return Ok(false);
        }
        if table.len() >= limits::RESERVATIONS_MAX {
            table.retain(|_, held| held.stands());
            if table.len() >= limits::RESERVATIONS_MAX {
                return Err(ServeError::Unavailable("too many conditional writes are under way here".to_owned()));
            }
        }
        let until = Instant::now() + lease.min(limits::RESERVATION_LEASE_MAX);
        table.insert(slot.clone(), Reservation { token, until, writing: false });
        Ok(true)
    }

    /// Begins the write of a reserved key: the reservation stands until the returned value is dropped, which ends it.
    ///
    /// # Errors
    /// `Unavailable` when it has lapsed: nothing must be written then.
    pub(crate) fn begin(&self, slot: Slot, token: u64) -> Result<Writing<'_>, ServeError> {
        let mut table = self.table();
        match table.get_mut(&slot) {
            Some(held) if held.token == token && held.stands() => {
                held.writing = true;
                Ok(Writing { reservations: self, slot, token })
            }
            _ => Err(ServeError::Unavailable("the reservation of the key has lapsed".to_owned())),
        }
    }

    /// Ends a reservation that is not needed any more.
    pub(crate) fn release(&self, slot: &Slot, token: u64) {
        let mut table = self.table();
        if table.get(slot).is_some_and(|held| held.token == token && !held.writing) {
            table.remove(slot);
        }
    }
}

/// A write under a reservation, which ends with it.
#[derive(Debug)]
pub(crate) struct Writing<'a> {
    reservations: &'a Reservations,
    slot: Slot,
    token: u64,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let mut table = self.reservations.table();
        if table.get(&self.slot).is_some_and(|held| held.token == self.token) {
            table.remove(&self.slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::types::Bucket;

    const LEASE: Duration = Duration::from_secs(1);

    fn slot(key: &'static str) -> Slot {
        Slot { bucket: Bucket(0), key: Bytes::from_static(key.as_bytes()) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_reserved_for_one_until_it_lapses_or_is_released() {
        let (table, key) = (Reservations::default(), slot("k"));
        let reserve = |key: &Slot, token| table.reserve(key, token, LEASE).unwrap();
        assert!(reserve(&key, 1) && reserve(&key, 1));
        assert!(!reserve(&key, 2));
        assert!(reserve(&slot("l"), 2));
        table.release(&key, 2);
        assert!(!reserve(&key, 2), "only its holder releases it");
        table.release(&key, 1);
        assert!(reserve(&key, 2));
        tokio::time::advance(LEASE).await;
        assert!(table.begin(key.clone(), 2).is_err(), "it has lapsed");
        assert!(reserve(&key, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_has_begun_keeps_its_reservation_and_ends_it() {
        let (table, key) = (Reservations::default(), slot("k"));
        assert!(table.reserve(&key, 1, LEASE).unwrap());
        let writing = table.begin(key.clone(), 1).unwrap();
        tokio::time::advance(LEASE * 2).await;
        table.release(&key, 1);
        assert!(!table.reserve(&key, 2, LEASE).unwrap(), "the write is not done");
        drop(writing);
        assert!(table.begin(key.clone(), 1).is_err(), "a reservation is for one write");
        assert!(table.reserve(&key, 2, LEASE).unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn lapsed_reservations_make_room() {
        let table = Reservations::default();
        for number in 0..limits::RESERVATIONS_MAX {
            let key = Bytes::from(number.to_string());
            assert!(table.reserve(&Slot { bucket: Bucket(0), key }, 1, LEASE).unwrap());
        }
        assert!(table.reserve(&slot("k"), 1, LEASE).is_err());
        tokio::time::advance(LEASE).await;
        assert!(table.reserve(&slot("k"), 1, LEASE).unwrap());
        assert_eq!(table.table().len(), 1);
    }
}
