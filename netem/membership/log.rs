//! What members said about each other, stamped when it was read.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Instant;

/// What a member says of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Alive,
    Suspect,
    Failed,
    Left,
}

/// One line of a log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    pub(crate) at: Instant,
    pub(crate) observer: usize,
    pub(crate) about: usize,
    pub(crate) state: State,
}

/// All that was said, in order.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<Event>>>);

impl Log {
    /// Takes a line; what is no event is passed over.
    pub(crate) fn take(&self, observer: usize, line: &str) {
        if let Some((about, state)) = parse(line) {
            let event = Event { at: Instant::now(), observer, about, state };
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        }
    }

    /// What was said since a moment.
    pub(crate) fn since(&self, moment: Instant) -> Vec<Event> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = all.partition_point(|event| event.at < moment);
        all[first..].to_vec()
    }

    /// Begins anew.
    pub(crate) fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// What one member said last of another since a moment, suspicions aside.
    pub(crate) fn last(&self, observer: usize, about: usize, since: Instant) -> Option<State> {
        let said = self.since(since);
        let mut of_it = said.iter().rev().filter(|event| (event.observer, event.about) == (observer, about));
        of_it.find(|event| event.state != State::Suspect).map(|event| event.state)
    }
}

/// `member n2 failed`, or Serf's lines of the same meanings.
fn parse(line: &str) -> Option<(usize, State)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    if let [.., "member", name, state] = words.as_slice() {
        let state = match *state {
            "alive" => State::Alive,
            "suspect" => State::Suspect,
            "failed" => State::Failed,
            "left" => State::Left,
            _ => return None,
        };
        return Some((index(name)?, state));
    }
    let after = |mark: &str| {
        let at = words.iter().position(|word| *word == mark)?;
        index(words.get(at + 1)?)
    };
    after("EventMemberJoin:")
        .map(|about| (about, State::Alive))
        .or_else(|| Some((after("EventMemberFailed:")?, State::Failed)))
        .or_else(|| Some((after("EventMemberLeave:")?, State::Left)))
        .or_else(|| Some((after("Suspect")?, State::Suspect)))
}

fn index(name: &str) -> Option<usize> {
    name.strip_prefix('n')?.parse::<usize>().ok()?.checked_sub(1)
}
