//! How fast work in the background may go: fetching and dropping of partitions, anti-entropy, hints, reading for the trees.
//!
//! One share of the time for all of it, however many pieces are worked on at once, steered by how long puts and gets take here
//! (Dynamo §6.5): while their 99th percentile is above what it was before the work began, by a quarter, or above the
//! configured target, the share shrinks, to a floor at which everything still ends; below it, and while there are none, it grows.
//! It works by resting after each piece of work, in proportion to what that took. Nothing wakes up for it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::meter::Distribution;
use crate::node::meters::{Kind, Meters};

/// All of the time.
const FULL: u32 = 1_000;
/// The least share, in thousandths.
const FLOOR: u32 = 100;
/// What the share loses when requests are too slow: a third.
const SHRINK: (u32, u32) = (2, 3);
/// What it gains when they are not.
const GROWTH: u32 = 50;
/// The requests that are watched.
const PACED: [Kind; 2] = [Kind::Put, Kind::Get];
/// How long requests are watched before the share is changed.
const WINDOW: Duration = Duration::from_millis(500);
/// For how long more requests are waited for where there are few.
const PATIENCE: Duration = Duration::from_secs(2);
/// Nobody has worked for so long: what was watched meanwhile is how requests are without such work.
const CALM: Duration = Duration::from_secs(5);
/// Fewer requests have no percentile.
const ENOUGH: u64 = 50;
/// How much slower than without such work requests may be.
const SLOWER: (u32, u32) = (5, 4);
/// Longest rest of one piece of work, for itself and for others before it.
const REST_MAX: Duration = Duration::from_secs(2);

/// The pace of one node.
#[derive(Debug)]
pub(crate) struct Pace {
    target: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    share: u32,
    since: Option<Instant>,
    /// Puts and gets so far, at that time.
    before: [Distribution; 2],
    /// Their 99th percentiles when nobody worked in the background last.
    calm: [Option<Duration>; 2],
    /// When the rests of all pieces up to now are over.
    rested: Option<Instant>,
}

impl Pace {
    /// A pace that keeps the 99th percentile of puts and gets near what it is without work in the background, and below
    /// `target`, as far as it can.
    pub(crate) fn new(target: Duration) -> Self {
        let state = State { share: FULL, since: None, before: Default::default(), calm: [None; 2], rested: None };
        Self { target, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The share of the time that work in the background may take, in thousandths.
    pub(crate) fn share(&self) -> u32 {
        self.state().share
    }

    /// Rests after a piece of work, also for the pieces that others did meanwhile: one after the other.
    pub(crate) async fn rest(&self, meters: &Meters, worked: Duration) {
        let until = {
            let (mut state, now) = (self.state(), Instant::now());
            state.look(now, PACED.map(|kind| meters.requests(kind).read()), self.target);
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
    fn look(&mut self, now: Instant, requests: [Distribution; 2], target: Duration) {
        let passed = self.since.map(|since| now - since);
        let news = [0, 1].map(|kind| requests[kind].since(&self.before[kind]));
        match passed {
            Some(passed) if passed < WINDOW => return,
            // Too few say nothing, and none at all that nobody is disturbed.
            Some(passed) if passed < PATIENCE && news.iter().any(|news| (1..ENOUGH).contains(&news.count())) => return,
            Some(passed) if passed < CALM => {
                let slow = |kind: usize| percentile(&news[kind]).is_some_and(|p99| p99 > self.bearable(kind, target));
                self.share = adapt(self.share, slow(0) || slow(1));
            }
            Some(_) => {
                [0, 1].into_iter().for_each(|kind| self.calm[kind] = percentile(&news[kind]).or(self.calm[kind]))
            }
            None => {}
        }
        (self.since, self.before) = (Some(now), requests);
    }

    /// How long requests of a kind may take.
    fn bearable(&self, kind: usize, target: Duration) -> Duration {
        self.calm[kind].map_or(target, |calm| target.min(calm * SLOWER.0 / SLOWER.1))
    }
}

fn percentile(requests: &Distribution) -> Option<Duration> {
    requests.per_mille(990).filter(|_| requests.count() >= ENOUGH)
}

fn adapt(share: u32, is_slow: bool) -> u32 {
    if is_slow { (share * SHRINK.0 / SHRINK.1).max(FLOOR) } else { (share + GROWTH).min(FULL) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Duration = Duration::from_millis(50);

    /// What puts take in the time of a window, in which somebody works.
    async fn window(pace: &Pace, meters: &Meters, takes: Duration, puts: u64) {
        tokio::time::advance(WINDOW).await;
        (0..puts).for_each(|_| meters.requests(Kind::Put).record(takes));
        pace.rest(meters, Duration::ZERO).await;
    }

    async fn rest(pace: &Pace, meters: &Meters, worked: Duration) -> Duration {
        let began = Instant::now();
        pace.rest(meters, worked).await;
        began.elapsed()
    }

    #[test]
    fn slow_requests_shrink_the_share_to_its_floor_and_fast_ones_bring_it_back() {
        let many = |share: u32, is_slow: bool| (0..20).fold(share, |share, _| adapt(share, is_slow));
        assert_eq!((many(FULL, true), many(FLOOR, false)), (FLOOR, FULL));
    }

    #[tokio::test(start_paused = true)]
    async fn rests_are_in_proportion_to_the_work_and_follow_what_requests_take() {
        let (pace, meters) = (Pace::new(TARGET), Meters::default());
        let work = Duration::from_millis(10);
        assert_eq!(rest(&pace, &meters, work).await, Duration::ZERO);
        for _ in 0..20 {
            window(&pace, &meters, TARGET * 3, ENOUGH).await;
        }
        assert_eq!(pace.share(), FLOOR);
        assert_eq!(rest(&pace, &meters, work).await, work * 9);
        assert_eq!(rest(&pace, &meters, Duration::from_secs(1)).await, REST_MAX);
        window(&pace, &meters, TARGET, 0).await;
        assert!(pace.share() > FLOOR, "nobody is disturbed any more");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_worked_on_at_once_has_one_share_together() {
        let (pace, meters) = (Pace::new(TARGET), Meters::default());
        pace.state().share = FLOOR;
        let (work, began) = (Duration::from_millis(10), Instant::now());
        tokio::join!(rest(&pace, &meters, work), rest(&pace, &meters, work), rest(&pace, &meters, work));
        assert_eq!(began.elapsed(), work * 9 * 3);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_slow_by_what_they_were_before_the_work_began() {
        let (pace, meters) = (Pace::new(TARGET), Meters::default());
        window(&pace, &meters, TARGET, 0).await;
        tokio::time::advance(CALM).await;
        window(&pace, &meters, TARGET / 10, ENOUGH).await;
        assert_eq!(pace.share(), FULL);
        window(&pace, &meters, TARGET / 5, ENOUGH).await;
        let shrunk = pace.share();
        assert!(shrunk < FULL, "twice as slow as before, though below the target");
        window(&pace, &meters, TARGET / 5, ENOUGH / 2).await;
        assert_eq!(pace.share(), shrunk, "too few to say anything");
        window(&pace, &meters, TARGET / 5, ENOUGH / 2).await;
        assert!(pace.share() < shrunk, "until more have come");
    }
}
