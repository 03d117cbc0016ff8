//! Which requests are worked on now, which wait for their turn, and which are turned away at once, so that a node with more
//! to do than it can goes on doing what it can, instead of doing everything too late.
//!
//! What clients ask waits in line, and only as long as it can still be answered in time; what other nodes ask belongs to
//! requests that were let in somewhere already, and does not wait behind those of clients. Nothing here knows what a
//! request is: only how much work and how many bytes it is.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;
use tokio::time::timeout_at;

use crate::limits;
use crate::meter::Counter;
use crate::wire::rpc::ServeError;

/// How much a node takes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Keys worked on at the same time.
    pub work: usize,
    /// Keys that may wait for their turn.
    pub waiting: usize,
    /// Bytes of the requests that are worked on or wait.
    pub bytes: usize,
}

impl Bounds {
    /// What clients may have a node do.
    pub const CLIENTS: Self =
        Self { work: limits::CLIENT_WORK_MAX, waiting: limits::CLIENT_WORK_WAITING_MAX, bytes: limits::WORK_BYTES_MAX };
    /// What other nodes may. None of it waits.
    pub const NODES: Self = Self { work: limits::NODE_WORK_MAX, waiting: 0, bytes: limits::WORK_BYTES_MAX };
}

/// Why a request is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shed {
    /// As much waits as may.
    Full,
    /// As many bytes are held as may be.
    Bytes,
    /// Its turn would come too late.
    Late,
    /// Its turn did not come in time.
    Expired,
}

impl Shed {
    /// All there are.
    pub(crate) const ALL: [Self; 4] = [Self::Full, Self::Bytes, Self::Late, Self::Expired];

    /// Its name in metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Full => "queue_full",
            Self::Bytes => "bytes",
            Self::Late => "too_late",
            Self::Expired => "expired",
        }
    }
}

/// The door for one class of requests.
#[derive(Debug)]
pub(crate) struct Admission {
    bounds: Bounds,
    work: Semaphore,
    waiting: AtomicUsize,
    bytes: AtomicUsize,
    /// How long a unit of work takes of late, in microseconds, while all room for work is taken; 0 is not known.
    unit_us: AtomicU64,
    shed: [Counter; Shed::ALL.len()],
}

/// A request that is worked on, until dropped.
#[derive(Debug)]
pub(crate) struct Admitted<'a> {
    admission: &'a Admission,
    _permit: SemaphorePermit<'a>,
    _bytes: Held<'a>,
    began: Instant,
}

/// So much of a count, until dropped.
#[derive(Debug)]
struct Held<'a>(&'a AtomicUsize, usize);

impl<'a> Held<'a> {
    /// Takes this much, unless there would be more than `most`.
    fn below(count: &'a AtomicUsize, much: usize, most: usize) -> Option<Self> {
        let held = Self(count, much);
        // When this is over the bound, dropping `held` takes it back.
        (count.fetch_add(much, Ordering::Relaxed).saturating_add(much) <= most).then_some(held)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if self.admission.work.available_permits() == 0 {
            self.admission.took(self.began.elapsed());
        }
    }
}

impl Admission {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            work: Semaphore::new(bounds.work),
            waiting: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            unit_us: AtomicU64::new(0),
            shed: Default::default(),
        }
    }

    /// Waits for a request's turn: `units` of work, `bytes` in memory.
    ///
    /// # Errors
    /// [`ServeError::Overloaded`] when there is no room, or its turn will not or did not come before the deadline. Nothing
    /// was done then.
    pub(crate) async fn enter(
        &self,
        units: usize,
        bytes: usize,
        deadline: Instant,
    ) -> Result<Admitted<'_>, ServeError> {
        let held = Held::below(&self.bytes, bytes, self.bounds.bytes).ok_or_else(|| self.turn_away(Shed::Bytes))?;
        let units = units.clamp(1, self.bounds.work);
        let permits = u32::try_from(units).unwrap_or(u32::MAX);
        if let Ok(permit) = self.work.try_acquire_many(permits) {
            return Ok(self.admitted(permit, held));
        }
        let _waiting = Held::below(&self.waiting, units, self.bounds.waiting.max(units * self.may_wait()))
            .ok_or_else(|| self.turn_away(Shed::Full))?;
        if Instant::now() + self.expected_wait() > deadline {
            return Err(self.turn_away(Shed::Late));
        }
        match timeout_at(deadline, self.work.acquire_many(permits)).await {
            // Fails only when the semaphore is closed, which nobody does.
            Ok(permit) => Ok(self.admitted(permit.map_err(|_| self.turn_away(Shed::Full))?, held)),
            Err(_) => Err(self.turn_away(Shed::Expired)),
        }
    }

    /// 1 where anything may wait: then the largest request may, too, when nothing else does.
    fn may_wait(&self) -> usize {
        usize::from(self.bounds.waiting > 0)
    }

    fn admitted<'a>(&'a self, permit: SemaphorePermit<'a>, held: Held<'a>) -> Admitted<'a> {
        Admitted { admission: self, _permit: permit, _bytes: held, began: Instant::now() }
    }

    /// How long whoever comes last now waits until it is done, by what work takes of late.
    fn expected_wait(&self) -> Duration {
        let (waiting, work) = (self.waiting.load(Ordering::Relaxed) as u64, self.bounds.work.max(1) as u64);
        let unit = self.unit_us.load(Ordering::Relaxed);
        Duration::from_micros(unit.saturating_mul(waiting) / work + unit)
    }

    /// Takes in how long a request was worked on. Concurrent ones may overwrite each other; either is as good.
    fn took(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let known = self.unit_us.load(Ordering::Relaxed);
        let next = if known == 0 { took } else { (known.saturating_mul(15).saturating_add(took)) / 16 };
        self.unit_us.store(next, Ordering::Relaxed);
    }

    fn turn_away(&self, why: Shed) -> ServeError {
        self.shed[why as usize].one();
        let waiting = self.waiting.load(Ordering::Relaxed);
        ServeError::Overloaded(match why {
            Shed::Full => format!("this node has {waiting} requests waiting, as many as it takes"),
            Shed::Bytes => "this node holds as many bytes of requests as it takes".to_owned(),
            Shed::Late => format!("this node has {waiting} requests waiting: the answer would come too late"),
            Shed::Expired => "this node had too much to do to begin before the deadline".to_owned(),
        })
    }

    /// Work under way.
    pub(crate) fn working(&self) -> usize {
        self.bounds.work.saturating_sub(self.work.available_permits())
    }

    /// Work that waits.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Bytes of both.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How much there may be of all that.
    pub(crate) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Requests turned away for this reason.
    pub(crate) fn shed(&self, why: Shed) -> u64 {
        self.shed[why as usize].get()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::future::join_all;
    use tokio::time::sleep;

    use super::*;

    const SMALL: Bounds = Bounds { work: 10, waiting: 100, bytes: 1_000 };

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(1)
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_gets_its_turn_and_what_finds_no_room_is_told_at_once() {
        let admission = Admission::new(Bounds { waiting: 1, ..SMALL });
        let all = admission.enter(10, 0, soon()).await.unwrap();
        let (second, third) = (admission.enter(1, 0, soon()), admission.enter(1, 0, soon()));
        let mut second = std::pin::pin!(second);
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        assert!(matches!(third.await, Err(ServeError::Overloaded(_))));
        assert_eq!((admission.working(), admission.waiting(), admission.shed(Shed::Full)), (10, 1, 1));
        drop(all);
        drop(second.await.unwrap());
        assert_eq!((admission.working(), admission.waiting()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_larger_than_the_queue_waits_when_nothing_else_does() {
        let admission = Admission::new(Bounds { waiting: 1, ..SMALL });
        let one = admission.enter(1, 0, soon()).await.unwrap();
        let mut large = std::pin::pin!(admission.enter(1_000, 0, soon()));
        assert!(futures_util::poll!(large.as_mut()).is_pending());
        drop(one);
        assert_eq!(large.await.map(|_| ()), Ok(()));
        let none = Admission::new(Bounds { waiting: 0, ..SMALL });
        let _one = none.enter(1, 0, soon()).await.unwrap();
        assert!(none.enter(1_000, 0, soon()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_are_bounded_and_given_back() {
        let admission = Admission::new(SMALL);
        let held = admission.enter(1, 600, soon()).await.unwrap();
        assert!(admission.enter(1, 600, soon()).await.is_err());
        assert_eq!((admission.bytes(), admission.shed(Shed::Bytes)), (600, 1));
        drop(held);
        assert!(admission.enter(1, 600, soon()).await.is_ok());
        assert_eq!(admission.bytes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waited_until_its_deadline_is_not_worked_on() {
        let admission = Admission::new(SMALL);
        let _all = admission.enter(10, 0, soon()).await.unwrap();
        let began = Instant::now();
        assert!(matches!(admission.enter(1, 0, soon()).await, Err(ServeError::Overloaded(_))));
        assert_eq!((began.elapsed(), admission.shed(Shed::Expired)), (Duration::from_secs(1), 1));
        assert_eq!(admission.waiting(), 0);
    }

    /// Three times as many requests as can be worked on (10 at a time, 20 ms each), each with 100 ms until its deadline.
    #[tokio::test(start_paused = true)]
    async fn under_three_times_the_load_it_can_bear_it_does_all_it_can_and_nothing_in_vain() {
        const WORK: Duration = Duration::from_millis(20);
        let admission = Arc::new(Admission::new(SMALL));
        let request = |number: u32| {
            let admission = admission.clone();
            async move {
                sleep(Duration::from_micros(667) * number).await;
                let deadline = Instant::now() + Duration::from_millis(100);
                let Ok(_admitted) = admission.enter(1, 1, deadline).await else { return (false, false) };
                sleep(WORK).await;
                (true, Instant::now() <= deadline)
            }
        };
        let outcomes = join_all((0..6_000).map(request)).await;
        let (done, good) = (outcomes.iter().filter(|o| o.0).count(), outcomes.iter().filter(|o| o.1).count());
        // 6000 requests come in 4 s, in which 2000 can be done.
        assert!(good >= 1_900, "{good} in time of {done} done");
        assert!(done - good <= 40, "{} were done in vain", done - good);
        assert!(admission.shed(Shed::Late) > 3_000, "{}", admission.shed(Shed::Late));
    }
}
