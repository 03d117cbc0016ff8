//! The vote of one member on the next layout: single-decree Paxos (Lamport, "Paxos made simple", §2), once for each version.
//!
//! Who votes on version n+1 is said by version n, which all of them know ([`Layout::voters`]), so every vote has a fixed set
//! of voters. A vote must be on disk before it is told.

use serde::Deserialize;
use serde::Serialize;

use crate::layout::Layout;
use crate::types::NodeId;

/// Orders the attempts to decide one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ballot {
    /// Rises with each attempt.
    pub round: u64,
    /// Who attempts; no two use one ballot.
    pub node: NodeId,
}

/// Below all others.
impl Default for Ballot {
    fn default() -> Self {
        Self { round: 0, node: NodeId(0) }
    }
}

impl Ballot {
    /// The first ballot of this node above another.
    pub fn above(self, node: NodeId) -> Self {
        Self { round: self.round.saturating_add(1), node }
    }
}

/// What a voter promises.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// What it has accepted in an earlier ballot: whoever goes on must propose the one of the highest ballot.
    pub accepted: Option<(Ballot, Layout)>,
}

/// Why a voter does not go along.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// It has promised this ballot.
    Promised(Ballot),
    /// The version is decided; this is the latest layout it knows.
    Decided(Box<Layout>),
    /// It knows no layout later than this version, and must learn first what was decided meanwhile.
    Behind(u64),
}

/// What one member has promised and accepted, for the version after the layout it knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// The version that is voted on.
    version: u64,
    promised: Ballot,
    accepted: Option<(Ballot, Layout)>,
}

impl Vote {
    /// Begins the vote on this version, if it is later than what was voted on before.
    fn turn_to(&mut self, version: u64) {
        if version > self.version {
            *self = Self { version, ..Self::default() };
        }
    }

    fn check(&mut self, known: &Layout, version: u64) -> Result<(), Refusal> {
        if version <= known.version {
            return Err(Refusal::Decided(Box::new(known.clone())));
        }
        // After a loss of what was known, the vote may be on a later version than the layout says.
        if version > known.version + 1 || version < self.version {
            return Err(Refusal::Behind(known.version));
        }
        self.turn_to(version);
        Ok(())
    }

    /// Promises to accept nothing below this ballot.
    ///
    /// # Errors
    /// [`Refusal`] when it has promised otherwise, or the version is not the one to vote on.
    pub fn prepare(&mut self, known: &Layout, version: u64, ballot: Ballot) -> Result<Prepared, Refusal> {
        self.check(known, version)?;
        if ballot <= self.promised {
            return Err(Refusal::Promised(self.promised));
        }
        self.promised = ballot;
        Ok(Prepared { accepted: self.accepted.clone() })
    }

    /// Accepts a layout, which is decided when a majority has.
    ///
    /// # Errors
    /// As [`Vote::prepare`].
    pub fn accept(&mut self, known: &Layout, ballot: Ballot, layout: Layout) -> Result<(), Refusal> {
        self.check(known, layout.version)?;
        if ballot < self.promised {
            return Err(Refusal::Promised(self.promised));
        }
        self.promised = ballot;
        self.accepted = Some((ballot, layout));
        Ok(())
    }
}
