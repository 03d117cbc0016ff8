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
use crate::store::Warning;
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
    /// The name of the run that began with nothing in memory: of the server, or of the machine, empty if unknown.
    pub(crate) run: String,
}

/// What a storage says of itself, written anew with every batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seal {
    /// How far it has come.
    pub(crate) mark: Mark,
    /// Whether it was closed in order.
    pub(crate) clean: bool,
    /// Whether each write of the session was durable before it was acknowledged.
    pub(crate) synced: bool,
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

/// The mark of the session that begins, and why its epoch is new if it is. Arguments as for [`judge`].
pub(crate) fn succeed(env: &Env, mark: Option<Mark>, memo: Option<&Memo>, whole: bool) -> (Mark, Verdict) {
    let verdict = judge(mark.as_ref(), memo, whole);
    let known = [mark, memo.map(|memo| memo.mark)];
    let epoch = match verdict {
        Verdict::Keep(epoch) => epoch,
        Verdict::Renew(_) => fresh(env, &known.map(|mark| mark.map(|mark| mark.epoch))),
    };
    let above = |part: fn(Mark) -> u64| known.into_iter().flatten().map(part).max().unwrap_or(0) + 1;
    (Mark { epoch, boot: above(|mark| mark.boot), commits: above(|mark| mark.commits) }, verdict)
}

/// The same for a storage on a disk of this machine. `run` names the machine's run: a process that is killed loses
/// nothing that the system has, but of a machine that went down nobody knows whether its disk had written all that it
/// said it had. `intact` says that the files end where an interrupted batch would end them.
pub(crate) fn succeed_on_disk(
    env: &Env,
    seal: Option<Seal>,
    memo: Option<&Memo>,
    run: &str,
    intact: bool,
) -> (Mark, Verdict) {
    let same_run = memo.is_some_and(|memo| memo.run == run);
    let whole = intact && seal.is_some_and(|seal| seal.clean || (seal.synced && same_run));
    succeed(env, seal.map(|seal| seal.mark), memo, whole)
}

impl Verdict {
    /// What the operator is told of a storage that was used before.
    pub(crate) fn warning(self) -> Option<Warning> {
        let Self::Renew(reason) = self else { return None };
        let remedy = "nothing is to be done; what is missing comes back from the other replicas";
        Some(Warning::new(format!("the storage epoch was renewed: {reason}"), remedy))
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
    fn after_a_crash_of_the_machine_the_epoch_is_new_and_after_one_of_the_process_only_if_writes_were_not_synced() {
        let env = Env::real();
        let remembered = memo(|memo| memo.run = "first".to_owned());
        let epoch_of = |clean, synced, run: &str| {
            succeed_on_disk(&env, Some(Seal { mark: MARK, clean, synced }), Some(&remembered), run, true).0.epoch
        };
        assert_eq!(epoch_of(false, true, "first"), MARK.epoch, "the process was killed");
        assert_eq!(epoch_of(true, false, "second"), MARK.epoch, "it was closed in order before");
        assert_ne!(epoch_of(false, true, "second"), MARK.epoch, "a disk may say that it wrote what it did not");
        assert_ne!(epoch_of(false, false, "first"), MARK.epoch, "what was not synced may be gone");
    }

    #[test]
    fn a_fresh_epoch_is_above_all_that_are_known_even_when_the_clock_went_back() {
        let ahead = Epoch(u64::MAX / 2);
        assert_eq!(fresh(&Env::real(), &[Some(ahead), None, Some(Epoch(1))]), Epoch(ahead.0 + 1));
        assert!(fresh(&Env::real(), &[]).0 >> 16 > 1_700_000_000_000);
    }
}
