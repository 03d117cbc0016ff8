//! What must hold of a cluster, whatever happened to it, as named checks of a [`History`]. Each returns what is wrong.

use std::collections::{BTreeMap, BTreeSet};

use dynamomini::client::CausalContext;
use dynamomini::version::Dot;

use crate::history::{Final, History, Outcome};

/// A check of what clients did and what is there in the end.
type Check = fn(&History, &Final, u64) -> Vec<String>;

/// All checks, by name.
const CHECKS: [(&str, Check); 7] = [
    ("every acknowledged write is there", acknowledged_writes_are_there),
    ("nothing replaced or deleted returns", nothing_replaced_returns),
    ("nothing expired returns", nothing_expired_returns),
    ("nothing is there that was never written", nothing_is_invented),
    ("no refused write happened", no_refused_write_happened),
    ("contexts never go back for a client", contexts_never_go_back),
    ("a dot names one value", a_dot_names_one_value),
];

/// Everything that is wrong, with the names of the checks that found it. `wall_ms` is the time at the end.
pub(crate) fn judge(history: &History, found: &Final, wall_ms: u64) -> Vec<String> {
    let wrong = |(name, check): (&'static str, Check)| {
        check(history, found, wall_ms).into_iter().map(move |wrong| format!("{name}: {wrong}"))
    };
    CHECKS.into_iter().flat_map(wrong).collect()
}

fn is_there(found: &Final, key: &str, value: &str) -> bool {
    found.get(key).is_some_and(|values| values.iter().any(|(one, _)| one == value))
}

/// A value that was acknowledged is there unless a later write, acknowledged or not, may have seen it, or it was to expire.
fn acknowledged_writes_are_there(history: &History, found: &Final, _: u64) -> Vec<String> {
    let replaced: BTreeSet<&String> =
        history.writes.iter().flat_map(|write| write.seen.iter().chain(&write.wrote)).collect();
    let kept = history.writes.iter().filter(|write| write.outcome == Outcome::Acknowledged && !write.expires);
    let lost = kept.filter_map(|write| Some((&write.key, write.value.as_ref()?)));
    let lost = lost.filter(|(key, value)| !replaced.contains(value) && !is_there(found, key, value));
    lost.map(|(_, value)| format!("{value:?} was lost")).collect()
}

/// What an acknowledged put or delete had seen is gone for ever: in the end, and for that client from then on.
fn nothing_replaced_returns(history: &History, found: &Final, _: u64) -> Vec<String> {
    let acknowledged = history.writes.iter().filter(|write| write.outcome == Outcome::Acknowledged);
    let gone = acknowledged.flat_map(|write| write.seen.iter().map(move |value| (&write.key, value)));
    let late = gone.filter(|(key, value)| is_there(found, key, value)).map(|(_, value)| format!("{value:?} is back"));
    let shown = history.reads.iter().flat_map(|read| read.siblings.iter().map(move |(_, value)| (read, value)));
    let early = shown.filter(|(read, value)| read.gone.contains(*value));
    let early = early.map(|(read, value)| format!("client {} was shown {value:?} again", read.client));
    late.chain(early).collect()
}

fn nothing_expired_returns(_: &History, found: &Final, wall_ms: u64) -> Vec<String> {
    let values = found.values().flatten();
    let expired = values.filter(|(_, expires_at)| expires_at.is_some_and(|expires_at| expires_at <= wall_ms));
    expired.map(|(value, _)| format!("{value:?} had expired")).collect()
}

fn nothing_is_invented(history: &History, found: &Final, _: u64) -> Vec<String> {
    let written: BTreeSet<_> = history.writes.iter().map(|write| (&write.key, write.value.as_ref())).collect();
    let there = found.iter().flat_map(|(key, values)| values.iter().map(move |(value, _)| (key, value)));
    let shown = history.reads.iter().flat_map(|read| read.siblings.iter().map(move |(_, value)| (&read.key, value)));
    // A read may have shown what its writer has not been told of yet; in the end all of that is in the history.
    let invented = there.chain(shown).filter(|(key, value)| !written.contains(&(*key, Some(value))));
    invented.map(|(key, value)| format!("{key} has {value:?}")).collect()
}

fn no_refused_write_happened(history: &History, found: &Final, _: u64) -> Vec<String> {
    let refused = history.writes.iter().filter(|write| write.outcome == Outcome::Refused);
    let refused: Vec<_> = refused.filter_map(|write| Some((&write.key, write.value.as_ref()?))).collect();
    let seen: BTreeSet<&String> =
        history.reads.iter().flat_map(|read| read.siblings.iter()).map(|(_, one)| one).collect();
    let happened = refused.into_iter().filter(|(key, value)| seen.contains(value) || is_there(found, key, value));
    happened.map(|(_, value)| format!("{value:?}")).collect()
}

/// Each read of a client covers what it had read of the key before.
fn contexts_never_go_back(history: &History, _: &Final, _: u64) -> Vec<String> {
    let mut last: BTreeMap<(usize, &String), &CausalContext> = BTreeMap::new();
    let mut wrong = Vec::new();
    for read in &history.reads {
        if let Some(before) = last.insert((read.client, &read.key), &read.context)
            && !read.context.covers(before)
        {
            wrong.push(format!("client {} read {} at {before}, then at {}", read.client, read.key, read.context));
        }
    }
    wrong
}

fn a_dot_names_one_value(history: &History, _: &Final, _: u64) -> Vec<String> {
    let mut names: BTreeMap<(&String, Dot), &String> = BTreeMap::new();
    let mut wrong = Vec::new();
    for read in &history.reads {
        for (dot, value) in &read.siblings {
            let first = *names.entry((&read.key, *dot)).or_insert(value);
            if first != value {
                wrong.push(format!("{dot:?} of {} names {first:?} and {value:?}", read.key));
            }
        }
    }
    wrong
}

mod tests {
    use std::collections::BTreeSet;

    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use dynamomini::client::CausalContext;
    use dynamomini::types::{Epoch, NodeId};
    use dynamomini::version::{Actor, Context, Dot};
    use dynamomini::wire::rpc::KeyContext;

    use super::judge;
    use crate::history::{Final, History, Outcome, Read, Write};

    const NOW_MS: u64 = 1_000;

    fn dot(counter: u64) -> Dot {
        Dot { actor: Actor { node: NodeId(1), epoch: Epoch(1) }, counter }
    }

    /// What a read gives that has seen so many writes.
    fn context(count: u64) -> CausalContext {
        let context = Context::from_entries(vec![(dot(count).actor, count)]).unwrap();
        let bytes = postcard::to_stdvec(&KeyContext { position: 1, context, wrote: Vec::new() }).unwrap();
        URL_SAFE_NO_PAD.encode(bytes).parse().unwrap()
    }

    fn set(values: &[&str]) -> BTreeSet<String> {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    fn write(value: Option<&str>, seen: &[&str], outcome: Outcome) -> Write {
        let value = value.map(str::to_owned);
        Write { key: "k".to_owned(), value, expires: false, seen: set(seen), wrote: set(&[]), outcome }
    }

    fn read(count: u64, values: &[&str], gone: &[&str]) -> Read {
        let siblings = values.iter().map(|value| (dot(count), (*value).to_owned())).collect();
        Read { client: 1, key: "k".to_owned(), context: context(count), siblings, gone: set(gone) }
    }

    fn found(values: &[(&str, Option<u64>)]) -> Final {
        let values = values.iter().map(|(value, expiry)| ((*value).to_owned(), *expiry)).collect();
        Final::from([("k".to_owned(), values)])
    }

    /// "a" was replaced by "b", of which the client was told; whether "c" was written is not known, and "d" was refused.
    fn history() -> History {
        let writes = vec![
            write(Some("a"), &[], Outcome::Acknowledged),
            write(Some("b"), &["a"], Outcome::Acknowledged),
            write(Some("c"), &["a"], Outcome::Unknown),
            write(Some("d"), &["a"], Outcome::Refused),
        ];
        History { writes, reads: vec![read(1, &["a"], &[]), read(2, &["b"], &["a"])] }
    }

    fn finds(name: &str, history: &History, found: &Final) {
        let wrong = judge(history, found, NOW_MS);
        assert!(!wrong.is_empty() && wrong.iter().all(|wrong| wrong.starts_with(name)), "{name}: {wrong:?}");
    }

    #[test]
    fn what_may_be_is_found_right() {
        for values in [&[("b", None)][..], &[("b", None), ("c", None)], &[("b", None), ("c", Some(NOW_MS + 1))]] {
            assert_eq!(judge(&history(), &found(values), NOW_MS), Vec::<String>::new());
        }
        // One that was replaced by a write of which nobody knows what became of it may be there or not.
        let mut history = history();
        history.writes.push(write(None, &["b"], Outcome::Unknown));
        assert_eq!(judge(&history, &found(&[]), NOW_MS), Vec::<String>::new());
        assert_eq!(judge(&history, &found(&[("b", None)]), NOW_MS), Vec::<String>::new());
    }

    #[test]
    fn each_check_finds_what_it_is_for() {
        let right = found(&[("b", None)]);
        finds("every acknowledged write is there", &history(), &found(&[("c", None)]));
        finds("nothing replaced or deleted returns", &history(), &found(&[("a", None), ("b", None)]));
        finds("nothing expired returns", &history(), &found(&[("b", None), ("c", Some(NOW_MS))]));
        finds("nothing is there that was never written", &history(), &found(&[("b", None), ("e", None)]));
        finds("no refused write happened", &history(), &found(&[("b", None), ("d", None)]));
        let with = |read| {
            let mut history = history();
            history.reads.push(read);
            history
        };
        finds("nothing replaced or deleted returns", &with(read(3, &["a"], &["a"])), &right);
        finds("contexts never go back for a client", &with(read(1, &["a"], &[])), &right);
        finds("a dot names one value", &with(read(2, &["c"], &[])), &right);
    }
}
