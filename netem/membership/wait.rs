//! Waiting for a condition, by looking again and again. The lab of bad networks uses this file, too.

use std::time::Duration;
use std::time::Instant;

/// Pause between looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Waits until something holds, at most so long; for how long it took.
pub(crate) fn within(patience: Duration, mut holds: impl FnMut() -> bool) -> Option<Duration> {
    let began = Instant::now();
    while began.elapsed() < patience {
        if holds() {
            return Some(began.elapsed());
        }
        std::thread::sleep(PAUSE);
    }
    None
}
