//! How fast work in the background may go: fetching and dropping of partitions, anti-entropy, hints, reading for the trees.
//!
//! One share of the time for all of it, however many pieces are worked on at once; it works by resting after each piece, in
//! proportion to what that took. Its rules (Dynamo §6.5), applied every half second, or every few where requests are few:
//!
//! 1. While nobody asks for anything the share doubles, so that soon it is all of the time.
//! 2. When requests come, and where work begins beside them, the share is at its floor, at which everything still ends.
//! 3. While there is hardly any work, or no more than the floor, requests take what they take undisturbed: the 99th
//!    percentiles of each kind are kept, of the last five to ten seconds.
//! 4. While more than one in a hundred takes longer than that by a quarter, or longer than the configured target, the share
//!    is halved; one alone says nothing.
//! 5. Otherwise it grows by a quarter.
//!
//! A node that others fetch from, and one that fetches, each keep to their own share; so a change goes at the pace of the
//! slower.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::meter::Distribution;
use crate::node::meters::{Kind, Meters};

/// All of the time.
const FULL: u32 = 1_000;
/// The least share, in thousandths.
const FLOOR: u32 = 50;
/// The requests that are watched: those of clients, and what other nodes ask for theirs.
const WATCHED: [Kind; 4] = [Kind::Put, Kind::Get, Kind::Apply, Kind::Fetch];
/// How long requests are watched before the share is changed.
const WINDOW: Duration = Duration::from_millis(500);
/// For how long more requests are waited for where there are few.
const PATIENCE: Duration = Duration::from_secs(2);
/// Fewer requests have no percentile.
const ENOUGH: u64 = 100;
/// One in so many may take longer.
const LATE: u64 = 100;
/// One part in so many of the time is hardly any work.
const HARDLY: u32 = 100;
/// After so long what requests took undisturbed begins to be forgotten.
const MEMORY: Duration = Duration::from_secs(5);
/// How much slower than undisturbed requests may be.
const SLOWER: (u32, u32) = (5, 4);
/// Longest rest of one piece of work, for itself and for others before it.
const REST_MAX: Duration = Duration::from_secs(2);

/// What requests of each kind took.
type Requests = [Distribution; WATCHED.len()];

/// The pace of one node.
#[derive(Debug)]
pub(crate) struct Pace {
    target: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    share: u32,
    /// When the present window began, and the requests up to then.
    since: Instant,
    before: Requests,
    /// Work done in it.
    worked: Duration,
    /// Whether nobody asked for anything in the window before.
    alone: bool,
    calm: Calm,
    /// When the rests of all pieces up to now are over.
    rested: Option<Instant>,
}

/// Requests that were not disturbed.
#[derive(Debug)]
struct Calm {
    since: Instant,
    last: Requests,
    earlier: Requests,
}

impl Pace {
    /// A pace that keeps the 99th percentile of puts and gets near what it is without work in the background, and below
    /// `target`, as far as it can.
    pub(crate) fn new(target: Duration) -> Self {
        let now = Instant::now();
        let calm = Calm { since: now, last: Default::default(), earlier: Default::default() };
        let (before, worked) = (Default::default(), Duration::ZERO);
        Self {
            target,
            state: Mutex::new(State { share: FULL, since: now, before, worked, alone: true, calm, rested: None }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The share of the time that work in the background may take, in thousandths.
    pub(crate) fn share(&self) -> u32 {
        self.state().share
    }

    /// Looks at requests, also while there is no work: to be called now and then.
    pub(crate) fn look(&self, meters: &Meters) {
        self.state().look(Instant::now(), WATCHED.map(|kind| meters.requests(kind).read()), self.target);
    }

    /// Rests after a piece of work, also for the pieces that others did meanwhile: one after the other.
    pub(crate) async fn rest(&self, meters: &Meters, worked: Duration) {
        self.look(meters);
        let until = {
            let (mut state, now) = (self.state(), Instant::now());
            state.worked += worked;
            let rest = worked.saturating_mul(FULL - state.share) / state.share;
            let until = (state.rested.map_or(now, |rested| rested.max(now)) + rest).min(now + REST_MAX);
            state.rested = Some(until);
            until
        };
        if until > Instant::now() {
            sleep_until(until).await;
        }
    }
}

impl State {
    /// Adapts the share, when enough was watched since the last time.
    fn look(&mut self, now: Instant, requests: Requests, target: Duration) {
        let passed = now - self.since;
        if passed < WINDOW {
            return;
        }
        let news: Requests = std::array::from_fn(|kind| requests[kind].since(&self.before[kind]));
        let alone = news.iter().all(|news| news.count() == 0);
        let idle = self.worked * HARDLY < passed;
        let (known, late) = self.late(&news, target);
        if !alone && !self.alone && !idle && known < ENOUGH && passed < PATIENCE {
            return;
        }
        if idle || self.share == FLOOR {
            self.calm.add(&news, now);
        }
        self.share = match () {
            () if alone => (self.share * 2).min(FULL),
            () if self.alone || idle || known == 0 => FLOOR,
            () if late > (known / LATE).max(1) => (self.share / 2).max(FLOOR),
            () => (self.share + self.share / 4).min(FULL),
        };
        (self.since, self.before, self.worked, self.alone) = (now, requests, Duration::ZERO, alone);
    }

    /// How many requests there were of kinds of which it is known how long they take undisturbed, and how many of them took
    /// longer than they may.
    fn late(&self, news: &Requests, target: Duration) -> (u64, u64) {
        let bearable = |kind| self.calm.p99(kind).map(|calm| target.min(calm * SLOWER.0 / SLOWER.1));
        let known = news.iter().enumerate().filter_map(|(kind, news)| Some((news, bearable(kind)?)));
        known.fold((0, 0), |(all, late), (news, most)| (all + news.count(), late + news.longer_than(most)))
    }
}

impl Calm {
    fn add(&mut self, requests: &Requests, now: Instant) {
        if now - self.since >= MEMORY {
            (self.since, self.earlier) = (now, std::mem::take(&mut self.last));
        }
        self.last.iter_mut().zip(requests).for_each(|(last, more)| last.merge(more));
    }

    fn p99(&self, kind: usize) -> Option<Duration> {
        let mut all = self.earlier[kind].clone();
        all.merge(&self.last[kind]);
        all.per_mille(990).filter(|_| all.count() >= ENOUGH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Duration = Duration::from_millis(50);
    const WORK: Duration = Duration::from_millis(10);

    /// A window in which somebody works, and so many puts take so long.
    async fn window(pace: &Pace, meters: &Meters, takes: Duration, puts: u64) {
        tokio::time::advance(WINDOW).await;
        (0..puts).for_each(|_| meters.requests(Kind::Put).record(takes));
        pace.state().worked += WINDOW;
        pace.look(meters);
    }

    /// Time in which nobody works.
    async fn calm(pace: &Pace, meters: &Meters, takes: Duration) {
        tokio::time::advance(MEMORY).await;
        (0..ENOUGH).for_each(|_| meters.requests(Kind::Put).record(takes));
        pace.look(meters);
    }

    async fn rest(pace: &Pace, meters: &Meters, worked: Duration) -> Duration {
        let began = Instant::now();
        pace.rest(meters, worked).await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn beside_nobody_there_is_no_rest_and_beside_requests_work_begins_at_the_floor() {
        let (pace, meters) = (Pace::new(TARGET), Meters::default());
        assert_eq!(rest(&pace, &meters, WORK).await, Duration::ZERO);
        window(&pace, &meters, WORK, 1).await;
        assert_eq!(pace.share(), FLOOR, "the first request in the midst of work");
        assert_eq!(rest(&pace, &meters, WORK).await, WORK * (FULL / FLOOR - 1));
        assert_eq!(rest(&pace, &meters, Duration::from_secs(1)).await, REST_MAX);
        for _ in 0..10 {
            window(&pace, &meters, WORK, 0).await;
        }
        assert_eq!(pace.share(), FULL, "nobody is disturbed any more");
        calm(&pace, &meters, WORK).await;
        assert_eq!(pace.share(), FLOOR, "work that has not begun yet");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_served_for_another_node_is_somebody_too() {
        let (pace, meters) = (Pace::new(TARGET), Meters::default());
        meters.requests(Kind::Apply).record(WORK);
        window(&pace, &meters, WORK, 0).await;
        assert_eq!(pace.share(), FLOOR);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_worked_on_at_once_has_one_share_together() {
        let (pace, meters) = (Pace::new(TARGET), Meters::default());
        pace.state().share = FLOOR;
        let began = Instant::now();
        tokio::join!(rest(&pace, &meters, WORK), rest(&pace, &meters, WORK), rest(&pace, &meters, WORK));
        assert_eq!(began.elapsed(), WORK * (FULL / FLOOR - 1) * 3);
    }

    #[tokio::test(start_paused = true)]
    async fn the_share_grows_while_requests_take_what_they_take_undisturbed_and_shrinks_when_they_take_longer() {
        let (pace, meters) = (Pace::new(TARGET), Meters::default());
        calm(&pace, &meters, TARGET / 10).await;
        for _ in 0..30 {
            window(&pace, &meters, TARGET / 10, ENOUGH).await;
        }
        assert_eq!(pace.share(), FULL);
        window(&pace, &meters, TARGET / 5, ENOUGH).await;
        assert_eq!(pace.share(), FULL / 2, "twice as slow as before, though below the target");
        window(&pace, &meters, TARGET / 5, ENOUGH / 2).await;
        assert_eq!(pace.share(), FULL / 2, "too few to say anything");
        window(&pace, &meters, TARGET / 5, ENOUGH / 2).await;
        assert_eq!(pace.share(), FULL / 4, "until more have come");
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_longer_at_the_floor_too_is_not_the_work_s_doing() {
        let (pace, meters) = (Pace::new(TARGET), Meters::default());
        calm(&pace, &meters, TARGET / 10).await;
        for _ in 0..30 {
            window(&pace, &meters, TARGET / 3, ENOUGH).await;
        }
        assert!(pace.share() > FLOOR, "what is undisturbed was never learnt anew");
        for _ in 0..30 {
            window(&pace, &meters, TARGET * 2, ENOUGH).await;
        }
        assert_eq!(pace.share(), FLOOR, "beyond the target there is more than the floor");
    }
}
