//! The requests that the clients of a run sent beyond its operations, and why.

use serde::Serialize;

use crate::client::Client;

/// Requests sent to nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Attempts {
    /// All of them.
    pub(super) sent: u64,
    /// To a second node, since the first was slow.
    pub(super) hedges: u64,
    /// To another node, since the first had fallen silent.
    pub(super) failovers: u64,
    /// Again, because of what was answered.
    pub(super) retries: u64,
    /// That nodes with too much to do turned away.
    pub(super) turned_away: u64,
}

impl Attempts {
    /// What these clients have sent so far.
    pub(super) fn of(clients: &[Client]) -> Self {
        clients.iter().map(Client::metrics).fold(Self::default(), |sum, metrics| Self {
            sent: sum.sent + metrics.attempts,
            hedges: sum.hedges + metrics.hedges,
            failovers: sum.failovers + metrics.failovers,
            retries: sum.retries + metrics.retries,
            turned_away: sum.turned_away + metrics.overloads,
        })
    }

    /// What was sent since then.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            sent: self.sent - earlier.sent,
            hedges: self.hedges - earlier.hedges,
            failovers: self.failovers - earlier.failovers,
            retries: self.retries - earlier.retries,
            turned_away: self.turned_away - earlier.turned_away,
        }
    }

    /// A line for people, if there is anything to tell.
    pub(super) fn text(self) -> Option<String> {
        let told = [
            (self.hedges, "hedged since a node was slow"),
            (self.failovers, "sent elsewhere since one was silent"),
            (self.retries, "repeated"),
            (self.turned_away, "turned away by nodes with too much to do"),
        ];
        let told: Vec<String> =
            told.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        (!told.is_empty()).then(|| format!("of {} requests {}\n", self.sent, told.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_happened_is_told() {
        assert_eq!(Attempts { sent: 7, ..Attempts::default() }.text(), None);
        let some = Attempts { sent: 9, hedges: 2, retries: 1, ..Attempts::default() };
        assert_eq!(some.text().unwrap(), "of 9 requests 2 hedged since a node was slow, 1 repeated\n");
        assert_eq!(some.since(some), Attempts::default());
    }
}
