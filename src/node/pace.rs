//! How fast work in the background may go: fetching and dropping of partitions, anti-entropy, hints, reading for the trees.
//!
//! One share for all of it, steered by how long puts and gets take here (Dynamo §6.5): while their 99th percentile is above
//! the target, the share shrinks, to a floor at which everything still ends; below it, and while there are none, it grows.
//! It works by resting after each piece of work, in proportion to what that took. Nothing wakes up for it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::meter::Distribution;
use crate::node::meters::{Kind, Meters};

/// All of the time.
const FULL: u32 = 1_000;
/// The least share, in thousandths.
const FLOOR: u32 = 50;
/// What the share loses when requests are too slow: a third.
const SHRINK: (u32, u32) = (2, 3);
/// What it gains when they are not.
const GROWTH: u32 = 50;
/// How long requests are watched before the share is changed.
const WINDOW: Duration = Duration::from_millis(500);
/// What was watched for longer is no news any more.
const STALE: Duration = Duration::from_secs(5);
/// Fewer requests in a window have no percentile.
const ENOUGH: u64 = 20;
/// Longest rest at a time.
const REST_MAX: Duration = Duration::from_secs(1);

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
}

impl Pace {
    /// A pace that keeps the 99th percentile of puts and gets below `target`, as far as it can.
    pub(crate) fn new(target: Duration) -> Self {
        Self { target, state: Mutex::new(State { share: FULL, since: None, before: Default::default() }) }
    }

    /// The share of the time that work in the background may take, in thousandths.
    pub(crate) fn share(&self) -> u32 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).share
    }

    /// Rests after a piece of work.
    pub(crate) async fn rest(&self, meters: &Meters, worked: Duration) {
        let share = self.look(meters);
        let rest = worked.saturating_mul(FULL - share) / share;
        if !rest.is_zero() {
            sleep(rest.min(REST_MAX)).await;
        }
    }

    fn look(&self, meters: &Meters) -> u32 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = state.since.map(|since| since.elapsed());
        if passed.is_some_and(|passed| passed < WINDOW) {
            return state.share;
        }
        let now = [Kind::Put, Kind::Get].map(|kind| meters.requests(kind).read());
        if passed.is_some_and(|passed| passed < STALE) {
            let slowest =
                now.iter().zip(&state.before).filter_map(|(now, before)| percentile(&now.since(before))).max();
            state.share = adapt(state.share, slowest, self.target);
        }
        (state.since, state.before) = (Some(Instant::now()), now);
        state.share
    }
}

fn percentile(requests: &Distribution) -> Option<Duration> {
    requests.per_mille(990).filter(|_| requests.count() >= ENOUGH)
}

fn adapt(share: u32, slowest: Option<Duration>, target: Duration) -> u32 {
    match slowest {
        Some(slowest) if slowest > target => (share * SHRINK.0 / SHRINK.1).max(FLOOR),
        _ => (share + GROWTH).min(FULL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Duration = Duration::from_millis(50);

    #[test]
    fn slow_requests_shrink_the_share_to_its_floor_and_fast_ones_bring_it_back() {
        let slow = Some(TARGET * 2);
        let mut share = FULL;
        for _ in 0..20 {
            share = adapt(share, slow, TARGET);
        }
        assert_eq!(share, FLOOR);
        let mut grown = share;
        for _ in 0..20 {
            grown = adapt(grown, Some(TARGET), TARGET);
        }
        assert_eq!((grown, adapt(share, None, TARGET)), (FULL, FLOOR + GROWTH));
    }

    #[tokio::test(start_paused = true)]
    async fn rests_are_in_proportion_to_the_work_and_follow_what_requests_take() {
        let (pace, meters) = (Pace::new(TARGET), Meters::default());
        let rest = async |worked| {
            let began = Instant::now();
            pace.rest(&meters, worked).await;
            began.elapsed()
        };
        let work = Duration::from_millis(10);
        assert_eq!(rest(work).await, Duration::ZERO);
        for _ in 0..20 {
            tokio::time::advance(WINDOW).await;
            for _ in 0..ENOUGH {
                meters.requests(Kind::Put).record(TARGET * 3);
            }
            pace.rest(&meters, Duration::ZERO).await;
        }
        assert_eq!(pace.share(), FLOOR);
        assert_eq!(rest(work).await, work * 19);
        assert_eq!(rest(Duration::from_secs(1)).await, REST_MAX);
        tokio::time::advance(WINDOW).await;
        pace.rest(&meters, Duration::ZERO).await;
        assert!(pace.share() > FLOOR, "nobody is disturbed any more");
    }
}
