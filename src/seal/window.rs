//! Which counters of one sender were seen: the latest, and a window behind it. What is older than the window counts as
//! seen.

use crate::limits;

const WORDS: usize = limits::REPLAY_WINDOW / 64;

/// The counters seen of one sender in one boot.
#[derive(Debug, Clone, Default)]
pub(crate) struct Window {
    /// One above the highest counter seen.
    next: u64,
    /// A bit for each counter modulo the window's length.
    seen: [u64; WORDS],
}

impl Window {
    /// Whether a counter was not seen yet and is recent enough to tell.
    pub(crate) fn is_fresh(&self, counter: u64) -> bool {
        if counter >= self.next {
            return true;
        }
        self.next - counter <= limits::REPLAY_WINDOW as u64 && !self.bit(counter)
    }

    /// Remembers a counter that was fresh.
    pub(crate) fn note(&mut self, counter: u64) {
        if counter >= self.next {
            let steps = (counter - self.next).min(limits::REPLAY_WINDOW as u64);
            // What the window moves over was seen a whole window ago.
            (counter - steps..counter).for_each(|skipped| self.set(skipped, false));
            self.next = counter + 1;
        }
        self.set(counter, true);
    }

    fn place(counter: u64) -> (usize, u64) {
        let at = usize::try_from(counter % limits::REPLAY_WINDOW as u64).expect("a window is short");
        (at / 64, 1 << (at % 64))
    }

    fn bit(&self, counter: u64) -> bool {
        let (word, bit) = Self::place(counter);
        self.seen[word] & bit != 0
    }

    fn set(&mut self, counter: u64, value: bool) {
        let (word, bit) = Self::place(counter);
        if value { self.seen[word] |= bit } else { self.seen[word] &= !bit }
    }
}
