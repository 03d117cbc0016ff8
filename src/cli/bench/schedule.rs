//! When operations begin. Closed: as soon as there is room. Open: at moments fixed beforehand, whatever the target does,
//! and an operation that begins late counts from the moment at which it should have begun.
//!
//! Pure: what time it is, is an argument.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

/// Nanoseconds in a second.
const SECOND: u128 = 1_000_000_000;

/// When a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    /// After this time, warm-up not counted.
    Time(Duration),
    /// After so many operations, those of the warm-up not counted.
    Count(u64),
}

/// How a run goes, for all of its drivers together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// Most operations under way at once.
    pub(super) in_flight: usize,
    /// Operations a second; `None` for a closed loop.
    pub(super) rate: Option<u64>,
    /// Time at the beginning that is not measured.
    pub(super) warmup: Duration,
    /// When it ends.
    pub(super) length: Length,
    /// For how long after its end what should have begun before is still begun.
    pub(super) patience: Duration,
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Begin an operation, whose time counts from then.
    Begin { from: Instant, measured: bool },
    /// Nothing before then.
    Wait(Instant),
    /// Nothing more.
    Over,
}

/// The schedule of one of several drivers.
#[derive(Debug)]
pub(super) struct Schedule {
    plan: Plan,
    begin: Instant,
    /// The place in the row of all moments of an open loop: this driver has each `step`-th.
    place: u64,
    step: u64,
    /// Measured operations begun by all drivers of a closed loop.
    begun: Arc<AtomicU64>,
}

impl Schedule {
    /// The schedules of so many drivers of one run, which begins then.
    pub(super) fn all(plan: Plan, begin: Instant, drivers: u64) -> Vec<Self> {
        let begun = Arc::new(AtomicU64::new(0));
        (0..drivers).map(|place| Self { plan, begin, place, step: drivers, begun: begun.clone() }).collect()
    }

    /// The time between two moments of this driver; `None` for a closed loop.
    pub(super) fn period(&self) -> Option<Duration> {
        self.plan.rate.map(|rate| moment(self.step, rate))
    }

    /// The first moment of this driver.
    pub(super) fn first(&self) -> Instant {
        self.begin + self.plan.rate.map_or(Duration::ZERO, |rate| moment(self.place, rate))
    }

    /// What to do now, where there is room for one operation more.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        match self.plan.rate {
            None => self.closed(now),
            Some(rate) => self.open(rate, now),
        }
    }

    fn warm(&self) -> Instant {
        self.begin + self.plan.warmup
    }

    fn closed(&self, now: Instant) -> Next {
        let measured = now >= self.warm();
        let over = match self.plan.length {
            Length::Time(time) => now >= self.warm() + time,
            Length::Count(count) => measured && self.begun.fetch_add(1, Ordering::Relaxed) >= count,
        };
        if over { Next::Over } else { Next::Begin { from: now, measured } }
    }

    fn open(&mut self, rate: u64, now: Instant) -> Next {
        let from = self.begin + moment(self.place, rate);
        if self.place >= self.end(rate) || now > self.begin + moment(self.end(rate), rate) + self.plan.patience {
            return Next::Over;
        }
        if from > now {
            return Next::Wait(from);
        }
        self.place += self.step;
        Next::Begin { from, measured: from >= self.warm() }
    }

    /// The place of the first moment of an open loop that is no longer part of the run.
    fn end(&self, rate: u64) -> u64 {
        let until = |time: Duration| {
            let places = (time.as_nanos() * u128::from(rate)).div_ceil(SECOND);
            u64::try_from(places).unwrap_or(u64::MAX)
        };
        match self.plan.length {
            Length::Time(time) => until(self.plan.warmup + time),
            Length::Count(count) => until(self.plan.warmup).saturating_add(count),
        }
    }

    /// Operations of an open loop that should have begun by now and have not.
    pub(super) fn late(&self, now: Instant) -> u64 {
        let Some(rate) = self.plan.rate else { return 0 };
        let places = (now.saturating_duration_since(self.begin).as_nanos() * u128::from(rate)).div_ceil(SECOND);
        let due = u64::try_from(places).unwrap_or(u64::MAX).min(self.end(rate));
        due.saturating_sub(self.place).div_ceil(self.step)
    }
}

/// When the operation at this place of an open loop begins, after the loop's beginning.
fn moment(place: u64, rate: u64) -> Duration {
    let nanos = u128::from(place) * SECOND / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(rate: Option<u64>, length: Length) -> Plan {
        let warmup = Duration::from_secs(1);
        Plan { in_flight: 1, rate, warmup, length, patience: Duration::from_secs(2) }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_closed_loop_begins_at_once_and_ends_by_time_or_by_count() {
        let begin = Instant::now();
        let mut timed = Schedule::all(plan(None, Length::Time(ms(3_000))), begin, 1).remove(0);
        assert_eq!(timed.next(begin), Next::Begin { from: begin, measured: false });
        assert_eq!(timed.next(begin + ms(1_000)), Next::Begin { from: begin + ms(1_000), measured: true });
        assert_eq!(timed.next(begin + ms(4_000)), Next::Over);
        let mut counted = Schedule::all(plan(None, Length::Count(3)), begin, 2);
        let mut measured = 0;
        assert_eq!(counted[0].next(begin), Next::Begin { from: begin, measured: false });
        for place in [0, 1, 1, 0, 1] {
            measured += u32::from(counted[place].next(begin + ms(2_000)) != Next::Over);
        }
        assert_eq!((measured, counted[0].late(begin + ms(9_000))), (3, 0));
    }

    #[test]
    fn an_open_loop_keeps_its_moments_however_late_it_is_asked() {
        let begin = Instant::now();
        let mut drivers = Schedule::all(plan(Some(100), Length::Time(ms(1_000))), begin, 2);
        assert_eq!(drivers[0].next(begin), Next::Begin { from: begin, measured: false });
        assert_eq!(drivers[0].next(begin), Next::Wait(begin + ms(20)));
        assert_eq!(drivers[1].next(begin), Next::Wait(begin + ms(10)));
        // Asked again after a stall, each moment that has passed comes with its own time.
        let late = begin + ms(1_500);
        let froms: Vec<Instant> = std::iter::from_fn(|| match drivers[1].next(late) {
            Next::Begin { from, .. } => Some(from),
            _ => None,
        })
        .collect();
        assert_eq!(froms, (0..75).map(|at| begin + ms(10 + 20 * at)).collect::<Vec<_>>());
        assert_eq!(drivers[0].late(late), 74);
        // Two hundred moments in all; patience lasts until two seconds after the last.
        assert_eq!(drivers[0].next(begin + ms(3_990)), Next::Begin { from: begin + ms(20), measured: false });
        assert_eq!(drivers[0].next(begin + ms(4_001)), Next::Over);
        assert_eq!(drivers[0].late(begin + ms(4_001)), 98);
    }

    #[test]
    fn an_open_loop_can_end_by_count() {
        let begin = Instant::now();
        let mut drivers = Schedule::all(plan(Some(1_000), Length::Count(500)), begin, 3);
        let mut measured = 0;
        for driver in &mut drivers {
            while let Next::Begin { measured: counts, .. } = driver.next(begin + ms(1_600)) {
                measured += u32::from(counts);
            }
            assert_eq!(driver.late(begin + ms(9_000)), 0);
        }
        assert_eq!(measured, 500);
    }
}
