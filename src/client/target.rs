//! One node as a client sees it: its link, what it costs, and whether it answers.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::client::choose::Standing;
use crate::client::load::Load;
use crate::net::link::{Link, LinkState};

/// Pause before the first question whether a doubted node answers again; doubled with each doubt in a row.
const PROBE_PAUSE: Duration = Duration::from_millis(50);
/// Longest such pause.
const PROBE_PAUSE_MAX: Duration = Duration::from_secs(2);
/// Time between looks at the round trip, in milliseconds: to ask the connection takes a lock.
const TRIP_LOOK_MS: u64 = 1_000;

/// A node to ask.
#[derive(Debug)]
pub(crate) struct Target {
    /// Tells targets apart.
    pub(crate) number: u64,
    /// Its name, or the address of a seed whose name is not known yet.
    pub(crate) label: String,
    pub(crate) link: Link,
    pub(crate) load: Load,
    /// The round trip in microseconds, and when it was looked at, in milliseconds of the client's clock.
    trip_us: AtomicU64,
    trip_looked_ms: AtomicU64,
    /// When it last answered anything, in microseconds of the client's clock.
    heard_us: AtomicU64,
    /// Whether it let a request down and has not answered since.
    doubted: AtomicBool,
    /// Doubts since a request was last answered in time.
    doubts: AtomicU32,
}

impl Target {
    pub(crate) fn new(number: u64, label: String, link: Link) -> Self {
        Self {
            number,
            label,
            link,
            load: Load::default(),
            trip_us: AtomicU64::new(0),
            trip_looked_ms: AtomicU64::new(0),
            heard_us: AtomicU64::new(0),
            doubted: AtomicBool::new(false),
            doubts: AtomicU32::new(0),
        }
    }

    pub(crate) fn standing(&self) -> Standing {
        match self.link.state() {
            LinkState::Down { .. } => Standing::Down,
            _ if self.is_doubted() => Standing::Doubted,
            LinkState::Up => Standing::Ready,
            LinkState::Idle | LinkState::Connecting => Standing::Connecting,
        }
    }

    /// The round trip to it in microseconds, as it was at most a second ago; 0 until it was connected to.
    pub(crate) fn trip_us(&self, now_ms: u64) -> u64 {
        let known = self.trip_us.load(Ordering::Relaxed);
        if known > 0 && now_ms.saturating_sub(self.trip_looked_ms.load(Ordering::Relaxed)) < TRIP_LOOK_MS {
            return known;
        }
        let Some(trip) = self.link.rtt() else { return known };
        let trip = u64::try_from(trip.as_micros()).unwrap_or(u64::MAX);
        self.trip_us.store(trip, Ordering::Relaxed);
        self.trip_looked_ms.store(now_ms, Ordering::Relaxed);
        trip
    }

    /// Whether it answered something at or after this time, by the client's clock.
    pub(crate) fn heard_since(&self, us: u64) -> bool {
        self.heard_us.load(Ordering::Relaxed) >= us
    }

    pub(crate) fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::Relaxed)
    }

    /// It answered. Whether that ends a doubt.
    pub(crate) fn heard(&self, now_us: u64) -> bool {
        self.heard_us.store(now_us, Ordering::Relaxed);
        // Loads cost less than stores, and this is on every request's way.
        if self.doubts.load(Ordering::Relaxed) > 0 {
            self.doubts.store(0, Ordering::Relaxed);
        }
        self.is_doubted() && self.doubted.swap(false, Ordering::Relaxed)
    }

    /// It answered a question of no consequence: it gets requests again, but the next doubt lasts longer.
    pub(crate) fn trust(&self, now_us: u64) -> bool {
        self.heard_us.store(now_us, Ordering::Relaxed);
        self.doubted.swap(false, Ordering::Relaxed)
    }

    /// It let a request down. The pause before it is to be asked whether it answers, unless that is under way.
    pub(crate) fn doubt(&self) -> Option<Duration> {
        if self.doubted.swap(true, Ordering::Relaxed) {
            return None;
        }
        let doubts = self.doubts.fetch_add(1, Ordering::Relaxed);
        Some(Self::pause(doubts))
    }

    /// The pause after so many vain questions.
    pub(crate) fn pause(questions: u32) -> Duration {
        PROBE_PAUSE.saturating_mul(1 << questions.min(16)).min(PROBE_PAUSE_MAX)
    }
}
