//! One direction of one link: when each packet arrives, if at all.
//!
//! Pure: the time of each packet and a seed in, fates out. It follows the kernel's netem step by step (duplicate, loss, corruption,
//! limit, reordering, delay, rate), and holds no packet: that is the fabric's work.

use std::time::Duration;

use rand::Rng as _;
use rand::RngExt as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::table::Table;
use crate::words::Impairment;
use crate::words::Loss;

/// The kernel counts the header of Ethernet against the rate; packets of TUN have none.
const HEADER: usize = 14;

/// What becomes of one copy of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is lost as the words have it.
    Lost,
    /// It found the link full.
    Full,
    /// It arrives.
    Arrives {
        /// When, on the clock of the packets' times.
        at: Duration,
        /// The bit that is flipped on the way, drawn from all numbers.
        flip: Option<u64>,
        /// It skipped the delay.
        overtakes: bool,
        /// It is the second of two.
        is_copy: bool,
    },
}

/// Numbers from 0 to 1, each of which takes over a part of the one before.
#[derive(Debug, Default)]
struct Draws {
    last: f64,
}

impl Draws {
    fn draw(&mut self, correlation: f64, rng: &mut StdRng) -> f64 {
        let fresh: f64 = rng.random();
        if correlation == 0.0 {
            return fresh;
        }
        self.last = fresh * (1.0 - correlation) + self.last * correlation;
        self.last
    }

    fn hits(&mut self, share: f64, correlation: f64, rng: &mut StdRng) -> bool {
        share > 0.0 && self.draw(correlation, rng) < share
    }
}

/// One direction of a link.
#[derive(Debug)]
pub(crate) struct Link {
    words: Impairment,
    table: Option<Table>,
    rng: StdRng,
    delays: Draws,
    reorders: Draws,
    /// Whether the model of bursts is in its bad state.
    is_bad: bool,
    /// Packets since the last one that overtook.
    since: u32,
    /// When the last of the packets under way arrives.
    last: Duration,
    under_way: usize,
}

impl Link {
    /// A link as the words have it. `table` is that of their distribution.
    pub(crate) fn new(words: Impairment, table: Option<Table>, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut draws = || Draws { last: rng.random() };
        let (delays, reorders) = (draws(), draws());
        let (is_bad, since, last, under_way) = (false, 0, Duration::ZERO, 0);
        Self { words, table, rng, delays, reorders, is_bad, since, last, under_way }
    }

    /// Other words; what is under way arrives as it would have.
    pub(crate) fn change(&mut self, words: Impairment, table: Option<Table>) {
        (self.words, self.table, self.is_bad, self.since) = (words, table, false, 0);
    }

    /// A packet that was said to arrive has arrived.
    pub(crate) fn arrived(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// The fates of a packet of so many bytes: one, or two of a duplicated one.
    pub(crate) fn offer(&mut self, now: Duration, length: usize) -> (Fate, Option<Fate>) {
        let doubled = self.hits(self.words.duplicate);
        let lost = self.loses();
        match (doubled, lost) {
            (false, true) => (Fate::Lost, None),
            (false, false) | (true, true) => (self.pass(now, length, false), None),
            (true, false) => {
                // The copy goes through the same link once more, and is not doubled again.
                let copy = if self.loses() { Fate::Lost } else { self.pass(now, length, true) };
                (self.pass(now, length, false), Some(copy))
            }
        }
    }

    fn hits(&mut self, share: f64) -> bool {
        share > 0.0 && self.rng.random::<f64>() < share
    }

    fn loses(&mut self) -> bool {
        match self.words.loss {
            Loss::None => false,
            Loss::Random(share) => self.hits(share),
            Loss::Gemodel { worsens, improves, bad, good } => {
                let (moves, loses) = if self.is_bad { (improves, bad) } else { (worsens, good) };
                self.is_bad ^= self.hits(moves);
                self.hits(loses)
            }
        }
    }

    fn pass(&mut self, now: Duration, length: usize, is_copy: bool) -> Fate {
        let flips = self.hits(self.words.corrupt);
        let flip = flips.then(|| self.rng.next_u64());
        if self.under_way >= self.words.limit {
            return Fate::Full;
        }
        self.under_way += 1;
        let overtakes = self.overtakes();
        let at = if overtakes { now } else { self.time(now, length) };
        Fate::Arrives { at, flip, overtakes, is_copy }
    }

    fn overtakes(&mut self) -> bool {
        let due = self.words.gap > 0 && self.since + 1 >= self.words.gap;
        let overtakes = due && self.reorders.hits(self.words.reorder, self.words.reorder_correlation, &mut self.rng);
        self.since = if overtakes { 0 } else { self.since.saturating_add(1) };
        overtakes
    }

    /// When a packet arrives that overtakes none.
    fn time(&mut self, now: Duration, length: usize) -> Duration {
        let mut from = now;
        let mut delay = self.delay();
        if let Some(rate) = self.words.rate {
            if self.under_way > 1 && self.last > now {
                // Behind the last one, with which it shares the delay: the link is a line, not a wait for each.
                delay = (delay - (self.last - now).as_secs_f64()).max(0.0);
                from = self.last;
            }
            let bytes = u32::try_from(length.saturating_add(HEADER)).unwrap_or(u32::MAX);
            delay += f64::from(bytes) * 8.0 / rate;
        }
        let at = from + Duration::try_from_secs_f64(delay.max(0.0)).unwrap_or_default();
        self.last = self.last.max(at);
        at
    }

    /// A delay in seconds, which jitter may make negative.
    fn delay(&mut self) -> f64 {
        let (mean, jitter) = (self.words.delay.as_secs_f64(), self.words.jitter.as_secs_f64());
        if jitter == 0.0 {
            return mean;
        }
        let drawn = self.delays.draw(self.words.delay_correlation, &mut self.rng);
        let deviation = match &self.table {
            Some(table) => table[place(drawn, table.len())],
            None => drawn * 2.0 - 1.0,
        };
        mean + jitter * deviation
    }
}

/// Where in so many places a number from 0 to 1 points.
fn place(drawn: f64, places: usize) -> usize {
    // By halves: no conversion between floating and whole numbers that could be off at the ends.
    let (mut low, mut high, mut drawn) = (0, places, drawn);
    while high - low > 1 {
        let middle = low.midpoint(high);
        let share = ratio(middle - low, high - low);
        if drawn < share {
            (high, drawn) = (middle, drawn / share);
        } else {
            (low, drawn) = (middle, (drawn - share) / (1.0 - share));
        }
    }
    low
}

fn ratio(part: usize, whole: usize) -> f64 {
    f64::from(u32::try_from(part).unwrap_or(u32::MAX)) / f64::from(u32::try_from(whole).unwrap_or(u32::MAX))
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
