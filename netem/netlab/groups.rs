//! Who hears whom: sets of nodes, groups that may overlap, and the shapes that have names.
//!
//! Pure. Two nodes hear each other when a group has both; nodes that no group names form one together. netem/README.md
//! describes it, and netem/test/groups.tsv are its examples.

use std::collections::BTreeSet;

/// Nodes, counted from 0.
pub(crate) type Set = BTreeSet<usize>;

/// The name of a node: the first is `n1`.
pub(crate) fn name(node: usize) -> String {
    format!("n{}", node + 1)
}

/// The node of a name.
///
/// # Errors
/// When there is none.
pub(crate) fn node(text: &str, nodes: usize) -> Result<usize, String> {
    (0..nodes)
        .find(|node| name(*node) == text)
        .ok_or_else(|| format!("there is no node {text:?}: they are n1 to n{nodes}"))
}

/// The nodes of `n1,n2`, or `all`.
///
/// # Errors
/// When one is none.
pub(crate) fn set(text: &str, nodes: usize) -> Result<Set, String> {
    match text {
        "all" => Ok((0..nodes).collect()),
        names => names.split(',').map(|name| node(name, nodes)).collect(),
    }
}

/// What is cut so that `to` does not hear `from`: pairs of sender and receiver.
///
/// # Errors
/// When there are not two sets.
pub(crate) fn one_way(words: &[&str], nodes: usize) -> Result<BTreeSet<(usize, usize)>, String> {
    let [from, to] = words else {
        return Err("a one-way cut takes two sets: who is not heard, and by whom: n1 n2,n3".to_owned());
    };
    let (from, to) = (set(from, nodes)?, set(to, nodes)?);
    Ok(pairs(&from, &to).collect())
}

/// All pairs of different nodes of two sets.
pub(crate) fn pairs<'a>(from: &'a Set, to: &'a Set) -> impl Iterator<Item = (usize, usize)> + 'a {
    from.iter().flat_map(move |one| to.iter().map(move |other| (*one, *other))).filter(|(one, other)| one != other)
}

/// All that a partition cuts: pairs of sender and receiver.
///
/// # Errors
/// A sentence that names the word at fault.
pub(crate) fn partition(words: &[&str], nodes: usize) -> Result<BTreeSet<(usize, usize)>, String> {
    let groups = match words {
        ["one-way", sets @ ..] => return one_way(sets, nodes),
        [] => {
            return Err("partition takes groups (n1,n2 n3,n4,n5) or halves, isolate, bridge, ring, one-way".to_owned());
        }
        ["halves" | "isolate" | "bridge" | "ring", ..] => shape(words, nodes)?,
        groups => {
            let named = groups.iter().filter(|group| **group != "rest");
            let no_shape = |why| format!("{why}; shapes are halves, isolate, bridge, ring, one-way");
            named.map(|group| set(group, nodes)).collect::<Result<_, _>>().map_err(no_shape)?
        }
    };
    let all: Set = (0..nodes).collect();
    let rest = groups.iter().fold(all.clone(), |rest, group| &rest - group);
    let together = |(one, other): &(usize, usize)| {
        groups.iter().chain([&rest]).any(|group| group.contains(one) && group.contains(other))
    };
    Ok(pairs(&all, &all).filter(|pair| !together(pair)).collect())
}

/// The groups that a shape stands for.
fn shape(words: &[&str], nodes: usize) -> Result<Vec<Set>, String> {
    match words {
        ["halves"] => Ok(vec![(0..nodes.div_ceil(2)).collect(), (nodes.div_ceil(2)..nodes).collect()]),
        ["isolate", alone] => Ok(set(alone, nodes)?.into_iter().map(|one| Set::from([one])).collect()),
        ["bridge"] => Ok(bridge(nodes / 2, nodes)),
        ["bridge", middle] => Ok(bridge(node(middle, nodes)?, nodes)),
        ["ring"] => Ok((0..nodes).map(|one| Set::from([one, (one + 1) % nodes])).collect()),
        ["isolate", ..] => Err("isolate takes one set: isolate n1,n2".to_owned()),
        ["bridge", ..] => Err("bridge takes one node, or none: bridge n3".to_owned()),
        [shape, ..] => Err(format!("{shape} takes nothing more")),
        [] => Ok(Vec::new()),
    }
}

/// One node hears both halves of the others.
fn bridge(middle: usize, nodes: usize) -> Vec<Set> {
    let others: Vec<usize> = (0..nodes).filter(|other| *other != middle).collect();
    let (left, right) = others.split_at((nodes / 2).min(others.len()));
    [left, right].map(|side| side.iter().copied().chain([middle]).collect()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_vocabulary_cut_what_they_say() {
        let examples = include_str!("../test/groups.tsv").lines().filter(|line| !line.starts_with('#'));
        let mut count = 0;
        for line in examples {
            let [names, words, expected] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line:?}") };
            let words: Vec<&str> = words.split_whitespace().collect();
            match partition(&words, names.split_whitespace().count()) {
                Ok(cuts) => {
                    let cuts: Vec<String> =
                        cuts.iter().map(|(from, to)| format!("{}>{}", name(*from), name(*to))).collect();
                    assert_eq!(cuts.join(" "), expected, "{line}");
                }
                Err(why) => assert!(expected == "refused" && !why.is_empty(), "{line}: {why}"),
            }
            count += 1;
        }
        assert!(count > 20, "only {count} examples were read");
    }

    #[test]
    fn strangers_are_named() {
        assert!(set("n1,n6", 5).unwrap_err().contains("n1 to n5"));
        assert!(node("n0", 5).is_err() && node("n01", 5).is_err() && set("", 5).is_err());
    }
}
