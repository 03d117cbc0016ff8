//! Whether a storage that is opened may go on under its epoch.
//!
//! A dot (node, epoch, counter) must never name two values. The counters live in the stored records, so the epoch may
//! stay only when the storage surely holds everything that it ever acknowledged or showed. The evidence is a [`Mark`]
//! inside the storage, changed with every durable commit, and a [`Memo`] of it in a small file beside: an older copy
//! of either does not fit the other. In doubt the epoch is renewed; that costs one more actor in causal contexts.
//! Deciding is pure: reading and writing marks and memos is the engines' work.

use rand::RngExt;
use serde::Deserialize;
use serde::Serialize;

use crate::env::Env;
use crate::types::Epoch;

/// How far a storage has come, as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Its epoch.
    pub(crate) epoch: Epoch,
    /// How often it was opened.
    pub(crate) boot: u64,
    /// Commits; grows with each that the engine counts.
    pub(crate) commits: u64,
}

/// What the node remembers of its storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memo {
    /// The mark at some time; the commits are a lower bound.
    pub(crate) mark: Mark,
    /// Whether the storage was closed in order, right after the mark was taken.
    pub(crate) clean: bool,
    /// Whether each write was durable before it was acknowledged.
    pub(crate) synced: bool,
    /// The server's name for its own run; empty for an engine without a server.
    pub(crate) run: String,
}

/// What to do with the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Go on under it.
    Keep(Epoch),
    /// Make a new one, because of this.
    Renew(&'static str),
}

/// Weighs the evidence when a storage is opened. `whole` says that the storage surely lost nothing since the memo's
/// session began, as far as the engine can know without comparing mark and memo.
pub(crate) fn judge(mark: Option<&Mark>, memo: Option<&Memo>, whole: bool) -> Verdict {
    let Some(mark) = mark else {
        return Verdict::Renew("the storage is empty");
    };
    let Some(memo) = memo else {
        return Verdict::Renew("the node does not remember this storage");
    };
    if (mark.epoch, mark.boot) != (memo.mark.epoch, memo.mark.boot) {
        Verdict::Renew("the storage is not the copy that the node used last")
    } else if mark.commits < memo.mark.commits {
        Verdict::Renew("the storage was rolled back")
    } else if !whole {
        Verdict::Renew("the storage may have lost writes in a crash")
    } else {
        Verdict::Keep(mark.epoch)
    }
}

/// A new epoch: wall-clock milliseconds and 16 random bits, but above every one that is known.
pub(crate) fn fresh(env: &Env, known: &[Option<Epoch>]) -> Epoch {
    let random: u16 = env.rng("store.epoch").random();
    let by_clock = (env.wall_ms() << 16) | u64::from(random);
    let above = known.iter().flatten().map(|epoch| epoch.0.saturating_add(1)).max().unwrap_or(1);
    Epoch(by_clock.max(above))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: Mark = Mark { epoch: Epoch(7), boot: 3, commits: 10 };

    fn memo(change: impl FnOnce(&mut Memo)) -> Memo {
        let mut memo = Memo { mark: MARK, clean: false, synced: true, run: String::new() };
        change(&mut memo);
        memo
    }

    #[test]
    fn the_epoch_stays_only_when_everything_fits() {
        let fits = memo(|_| {});
        assert_eq!(judge(Some(&MARK), Some(&fits), true), Verdict::Keep(Epoch(7)));
        let earlier = memo(|memo| memo.mark.commits = 9);
        assert_eq!(judge(Some(&MARK), Some(&earlier), true), Verdict::Keep(Epoch(7)));
        let renewed = [
            judge(None, Some(&fits), true),
            judge(Some(&MARK), None, true),
            judge(Some(&MARK), Some(&memo(|memo| memo.mark.epoch = Epoch(6))), true),
            judge(Some(&MARK), Some(&memo(|memo| memo.mark.boot = 4)), true),
            judge(Some(&MARK), Some(&memo(|memo| memo.mark.commits = 11)), true),
            judge(Some(&MARK), Some(&fits), false),
        ];
        for (case, verdict) in renewed.into_iter().enumerate() {
            assert!(matches!(verdict, Verdict::Renew(_)), "case {case} kept the epoch");
        }
    }

    #[test]
    fn a_fresh_epoch_is_above_all_that_are_known_even_when_the_clock_went_back() {
        let ahead = Epoch(u64::MAX / 2);
        assert_eq!(fresh(&Env::real(), &[Some(ahead), None, Some(Epoch(1))]), Epoch(ahead.0 + 1));
        assert!(fresh(&Env::real(), &[]).0 >> 16 > 1_700_000_000_000);
    }
}
