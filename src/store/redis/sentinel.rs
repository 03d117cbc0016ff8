//! The sentinel: the text under which a node's Redis database stands, and what a changed one means.
//!
//! Every write and read is bound to the text that the engine last wrote. It names the owner and the epoch, so that a
//! flushed or replaced database is noticed; and a fence, raised with each connection, so that a write that was given
//! up and lingers in a socket cannot land after the ones that followed it. Pure: nothing here talks to a server.

use std::fmt;

use crate::store::StoreIdentity;
use crate::types::Epoch;

/// The text's first word: its version.
const VERSION: &str = "dm1";

/// Whose a database is, and in which state that node left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sentinel {
    /// Cluster, node and bucket count, in one text.
    pub(super) identity: String,
    pub(super) epoch: Epoch,
    /// How often the storage was opened.
    pub(super) boot: u64,
    /// Random name of the engine that opened it.
    pub(super) owner: u64,
    /// Raised by the engine whenever an earlier write of its own may still be under way.
    pub(super) fence: u64,
}

/// What the running engine makes of the sentinel it finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// Everything that was acknowledged or read is there.
    Whole,
    /// Something may be missing: the epoch must change.
    Lost(&'static str),
    /// The database is not this engine's any more.
    Foreign(String),
}

impl Sentinel {
    /// The identity as it appears in the text.
    pub(super) fn identity_of(identity: &StoreIdentity) -> String {
        format!("{} {} {}", identity.cluster, identity.node, identity.buckets.count())
    }

    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let words: Vec<&str> = text.split(' ').collect();
        let [VERSION, cluster, node, partitions, epoch, boot, owner, fence] = words[..] else { return None };
        let number = |word| u64::from_str_radix(word, 16).ok();
        Some(Self {
            identity: format!("{cluster} {node} {partitions}"),
            epoch: Epoch(number(epoch)?),
            boot: number(boot)?,
            owner: number(owner)?,
            fence: number(fence)?,
        })
    }

    /// Compares what was `found`, with the number of writes `commits` there, with this, the engine's own, after it
    /// has seen `seen` writes.
    pub(super) fn compare(&self, found: Option<&[u8]>, commits: u64, seen: u64) -> Finding {
        let Some(text) = found else {
            return Finding::Lost("the database was flushed, or its server restarted empty");
        };
        let Some(found) = Self::parse(text) else {
            return Finding::Foreign("its sentinel is not one of this version".to_owned());
        };
        if found.identity != self.identity {
            Finding::Foreign(format!("it is used by {}", found.describe()))
        } else if found.boot > self.boot || (found.boot == self.boot && found.owner != self.owner) {
            Finding::Foreign("another process opened it as the same node".to_owned())
        } else if (found.boot, found.epoch) != (self.boot, self.epoch) || commits < seen {
            Finding::Lost("the database was rolled back")
        } else {
            Finding::Whole
        }
    }

    /// The owner for messages, in the words of [`StoreIdentity`].
    pub(super) fn describe(&self) -> String {
        match self.identity.split(' ').collect::<Vec<_>>()[..] {
            [cluster, node, partitions] => format!("node {node} of cluster {cluster} with {partitions} partitions"),
            _ => self.identity.clone(),
        }
    }
}

impl fmt::Display for Sentinel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { identity, epoch, boot, owner, fence } = self;
        write!(f, "{VERSION} {identity} {:x} {boot:x} {owner:x} {fence:x}", epoch.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Sentinel {
        Sentinel { identity: "c n1 64".into(), epoch: Epoch(0xabc), boot: 3, owner: 77, fence: 5 }
    }

    fn compare(change: impl FnOnce(&mut Sentinel), commits: u64) -> Finding {
        let mut found = ours();
        change(&mut found);
        ours().compare(Some(found.to_string().as_bytes()), commits, 10)
    }

    #[test]
    fn the_text_is_read_as_it_was_written() {
        assert_eq!(ours().to_string(), "dm1 c n1 64 abc 3 4d 5");
        assert_eq!(Sentinel::parse(ours().to_string().as_bytes()), Some(ours()));
        for bad in
            ["", "dm2 c n1 64 abc 3 4d 5", "dm1 c n1 64 abc 3 4d", "dm1 c n1 64 abc 3 4d 5 6", "dm1 c n1 64 x 3 4d 5"]
        {
            assert_eq!(Sentinel::parse(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn only_what_surely_holds_everything_is_whole() {
        assert_eq!(compare(|_| {}, 10), Finding::Whole);
        assert_eq!(compare(|found| found.fence = 4, 11), Finding::Whole, "a fence that never arrived loses nothing");
        assert!(matches!(compare(|_| {}, 9), Finding::Lost(_)));
        assert!(matches!(compare(|found| found.epoch = Epoch(1), 11), Finding::Lost(_)));
        assert!(matches!(compare(|found| found.boot = 2, 11), Finding::Lost(_)));
        assert!(matches!(compare(|found| (found.boot, found.owner) = (2, 1), 11), Finding::Lost(_)));
        assert!(matches!(ours().compare(None, 0, 10), Finding::Lost(_)));
    }

    #[test]
    fn databases_of_others_are_never_taken() {
        assert!(matches!(compare(|found| found.identity = "c n2 64".into(), 11), Finding::Foreign(_)));
        assert!(matches!(compare(|found| found.boot = 4, 11), Finding::Foreign(_)));
        assert!(matches!(compare(|found| found.owner = 78, 11), Finding::Foreign(_)));
        assert!(matches!(ours().compare(Some(b"hello"), 11, 10), Finding::Foreign(_)));
    }
}
