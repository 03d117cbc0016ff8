//! How much may be under way on a connection: Cubic, which is told of a loss only where the path shows signs of being full.
//!
//! A full path makes packets wait before it loses some. Radio links and long lines lose packets while nothing waits; Cubic would
//! answer each with less, and at 50 ms and 3 % be left with a handful of packets a round trip. Where losses become many, or a
//! whole period was lost, it is told in any case; else a far path keeps at least the window that a new connection has. It decides
//! nothing about what is sent again: that is QUIC's.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use quinn::congestion::Controller;
use quinn::congestion::ControllerFactory;
use quinn::congestion::ControllerMetrics;
use quinn::congestion::Cubic;
use quinn::congestion::CubicConfig;
use quinn_proto::RttEstimator;

use crate::limits;

/// A round trip longer than the shortest by this share of it, and by the slack, is one with a queue.
const QUEUE_SHARE: u32 = 4;
/// What processes and their schedulers add to a round trip without a queue.
const QUEUE_SLACK: Duration = Duration::from_millis(5);
/// The round trip from which on a path is far. On shorter ones Cubic is told of every loss: it has made up for it before anybody notices.
pub(crate) const FAR: Duration = Duration::from_millis(5);
/// The shortest round trip is that of so long at least, and of twice as long at most: paths change.
const PERIOD: Duration = Duration::from_secs(10);
/// How many bytes in a thousand may be lost without a sign of a queue.
const LOST_MAX: u64 = 100;
/// Bytes over which losses are counted: older ones count half.
const COUNTED: u64 = 256 * 1_024;

/// Makes the controllers of one endpoint.
#[derive(Debug, Clone)]
pub(crate) struct TolerantConfig(Arc<CubicConfig>);

impl Default for TolerantConfig {
    fn default() -> Self {
        let mut cubic = CubicConfig::default();
        cubic.initial_window(limits::INITIAL_WINDOW);
        Self(Arc::new(cubic))
    }
}

impl ControllerFactory for TolerantConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Tolerant { cubic: Cubic::new(self.0.clone(), now, current_mtu), signs: Signs::new(now) })
    }
}

/// What the path shows of itself.
#[derive(Debug, Clone)]
struct Signs {
    /// The shortest round trips of this period and of the one before.
    shortest: [Duration; 2],
    since: Instant,
    is_far: bool,
    /// Whether packets wait somewhere on the path, by the last acknowledgement.
    has_queue: bool,
    /// Whether nothing arrived in a whole period that is known to be lost.
    is_silent: bool,
    arrived: u64,
    lost: u64,
}

impl Signs {
    fn new(now: Instant) -> Self {
        Self {
            shortest: [Duration::MAX; 2],
            since: now,
            is_far: false,
            has_queue: false,
            is_silent: false,
            arrived: 0,
            lost: 0,
        }
    }

    /// An acknowledgement came, for so many bytes.
    fn arrived(&mut self, now: Instant, trip: Duration, bytes: u64) {
        if now.saturating_duration_since(self.since) > PERIOD {
            (self.shortest, self.since) = ([Duration::MAX, self.shortest[0]], now);
        }
        self.shortest[0] = self.shortest[0].min(trip);
        let shortest = self.shortest[0].min(self.shortest[1]);
        self.is_far = trip >= FAR;
        self.has_queue = trip > shortest + shortest / QUEUE_SHARE + QUEUE_SLACK;
        self.is_silent = false;
        self.count(bytes, 0);
    }

    fn count(&mut self, arrived: u64, lost: u64) {
        (self.arrived, self.lost) = (self.arrived + arrived, self.lost + lost);
        if self.arrived + self.lost > COUNTED {
            (self.arrived, self.lost) = (self.arrived / 2, self.lost / 2);
        }
    }

    /// Whether a loss on this path is no sign of a queue that is full.
    fn excuse(&self) -> bool {
        self.is_far && !self.has_queue && !self.loses_much()
    }

    fn loses_much(&self) -> bool {
        self.lost * 1_000 > (self.arrived + self.lost) * LOST_MAX
    }

    /// What may be under way at least.
    fn floor(&self) -> u64 {
        if self.is_far && !self.is_silent && !self.loses_much() { limits::INITIAL_WINDOW } else { 0 }
    }
}

/// The controller of one path.
#[derive(Debug, Clone)]
struct Tolerant {
    cubic: Cubic,
    signs: Signs,
}

impl Controller for Tolerant {
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.signs.arrived(now, rtt.get(), bytes);
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent: bool, lost_bytes: u64) {
        self.signs.count(0, lost_bytes);
        self.signs.is_silent |= is_persistent;
        // An event without lost bytes is a router's own word that its queue grows.
        if is_persistent || lost_bytes == 0 || !self.signs.excuse() {
            self.cubic.on_congestion_event(now, sent, is_persistent, lost_bytes);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.cubic.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.cubic.window().max(self.signs.floor())
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.cubic.metrics();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const PACKET: u64 = 1_200;

    /// A path over which packets have come for a while, one a millisecond.
    fn path(trip: Duration) -> (Tolerant, Instant) {
        let mut now = tokio::time::Instant::now().into_std();
        let cubic = Cubic::new(TolerantConfig::default().0, now, 1_200);
        let mut path = Tolerant { cubic, signs: Signs::new(now) };
        for _ in 0..1_000 {
            now += MS;
            path.signs.arrived(now, trip, PACKET);
        }
        (path, now)
    }

    /// The window after a loss.
    fn after_loss(path: &mut Tolerant, now: Instant) -> u64 {
        path.on_congestion_event(now, now, false, PACKET);
        path.window()
    }

    #[test]
    fn a_loss_on_a_far_path_without_a_queue_takes_nothing_from_the_window() {
        let (mut far, now) = path(50 * MS);
        assert_eq!(after_loss(&mut far, now), limits::INITIAL_WINDOW);
        assert_eq!(far.cubic.window(), limits::INITIAL_WINDOW, "Cubic was told");
        let (mut near, now) = path(MS);
        assert!(after_loss(&mut near, now) < limits::INITIAL_WINDOW);
    }

    #[test]
    fn cubic_is_told_where_there_is_a_queue_and_a_far_path_keeps_the_first_window() {
        let (mut full, now) = path(50 * MS);
        full.signs.arrived(now, 80 * MS, PACKET);
        assert_eq!(after_loss(&mut full, now), limits::INITIAL_WINDOW);
        assert!(full.cubic.window() < limits::INITIAL_WINDOW, "Cubic was not told");
        full.signs.arrived(now, 60 * MS, PACKET);
        assert!(full.signs.excuse(), "the queue is gone");
    }

    #[test]
    fn many_losses_a_lost_period_and_the_word_of_a_router_are_always_told() {
        let (mut lossy, now) = path(50 * MS);
        let lost = (1..200).find(|_| after_loss(&mut lossy, now) < limits::INITIAL_WINDOW);
        assert!(lost.is_some_and(|lost| lost > 5), "a tenth of 100 to 200 packets: {lost:?}");
        let (mut silent, now) = path(50 * MS);
        silent.on_congestion_event(now, now, true, PACKET);
        assert_eq!(silent.window(), 2 * PACKET);
        silent.signs.arrived(now, 50 * MS, PACKET);
        assert_eq!(silent.window(), limits::INITIAL_WINDOW);
        let (mut marked, now) = path(50 * MS);
        marked.on_congestion_event(now, now, false, 0);
        assert!(marked.cubic.window() < limits::INITIAL_WINDOW);
    }

    #[test]
    fn a_path_that_became_longer_keeps_its_window_and_is_known_as_such_after_two_periods() {
        let (mut moved, now) = path(MS);
        moved.signs.arrived(now, 50 * MS, PACKET);
        assert!(moved.signs.has_queue, "for all that is known");
        assert_eq!(after_loss(&mut moved, now), limits::INITIAL_WINDOW);
        moved.signs.arrived(now + PERIOD + MS, 50 * MS, PACKET);
        moved.signs.arrived(now + 2 * PERIOD + 2 * MS, 50 * MS, PACKET);
        assert!(!moved.signs.has_queue);
    }
}
