//! What can be done to a lab, read from a line of a scenario or from the command line; profiles and regions.
//!
//! Pure: text in, a value out. Doing it is somebody else's. netem/README.md describes the words.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::groups;
use crate::groups::Set;
use crate::words::Impairment;

const PROFILES: &str = include_str!("../profiles.tsv");
const REGIONS: &str = include_str!("../regions.tsv");

/// One direction and what it is to be like; no words mean clean.
pub(crate) type Shaped = (usize, usize, String);

/// What is done to the nodes themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    Kill,
    Start,
    Freeze,
    Thaw,
    /// Gives them other addresses.
    Move,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Makes these directions so.
    Shape(Vec<Shaped>),
    /// Exactly these are cut.
    Partition(BTreeSet<(usize, usize)>),
    /// These are cut, too.
    Cut(BTreeSet<(usize, usize)>),
    /// Nothing is cut.
    Heal,
    /// Nothing is cut, and all links are clean.
    Clear,
    /// Says something.
    Note(String),
    /// Ends the scenario.
    End,
    /// Does this to these nodes.
    Do(Deed, Set),
}

/// What a scenario does at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// After its start.
    pub(crate) at: Duration,
    /// As the file has it.
    pub(crate) words: String,
    pub(crate) action: Action,
}

/// Reads a line such as `link n1 n3 profile 3g` for a lab of so many nodes; `home` is the region of each.
///
/// # Errors
/// A sentence that names the word at fault.
pub(crate) fn parse(line: &str, nodes: usize, home: &[String]) -> Result<Action, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (&action, rest) = words.split_first().ok_or("an action is missing")?;
    let alone = |action: Action| {
        if rest.is_empty() { Ok(action) } else { Err(format!("nothing may follow {:?}", words[0])) }
    };
    let deed = |deed: Deed| match rest {
        [set] => Ok(Action::Do(deed, groups::set(set, nodes)?)),
        _ => Err(format!("{action} takes one set of nodes, such as n1,n2")),
    };
    let all = || (0..nodes).collect::<Set>();
    match action {
        "apply" if rest == ["regions"] => Ok(Action::Shape(by_regions(nodes, home)?)),
        "apply" => Ok(Action::Shape(shaped(&all(), &all(), &spec(rest)?))),
        "link" => link(rest, nodes),
        "partition" => Ok(Action::Partition(groups::partition(rest, nodes)?)),
        "cut" => Ok(Action::Cut(groups::one_way(rest, nodes)?)),
        "heal" => alone(Action::Heal),
        "clear" => alone(Action::Clear),
        "end" => alone(Action::End),
        "note" => Ok(Action::Note(rest.join(" "))),
        "kill" => deed(Deed::Kill),
        "start" => deed(Deed::Start),
        "freeze" => deed(Deed::Freeze),
        "thaw" => deed(Deed::Thaw),
        "move" => deed(Deed::Move),
        other => Err(format!(
            "{other:?} is no action: apply, link, partition, cut, heal, clear, note, end, kill, start, freeze, thaw, move"
        )),
    }
}

fn link(words: &[&str], nodes: usize) -> Result<Action, String> {
    let [one, other, rest @ ..] = words else {
        return Err("link takes two sets and what the link is like: link n1 n3 profile 3g".to_owned());
    };
    let (one, other) = (groups::set(one, nodes)?, groups::set(other, nodes)?);
    let (is_one_way, rest) = match rest {
        ["one-way", rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let words = spec(rest)?;
    let mut ways = shaped(&one, &other, &words);
    if !is_one_way {
        ways.extend(shaped(&other, &one, &words));
    }
    Ok(Action::Shape(ways))
}

fn shaped(from: &Set, to: &Set, words: &str) -> Vec<Shaped> {
    groups::pairs(from, to).map(|(from, to)| (from, to, words.to_owned())).collect()
}

/// The words of `3g`, `profile 3g`, `none`, or of words; checked.
///
/// # Errors
/// A sentence that names the word at fault.
pub(crate) fn spec(words: &[&str]) -> Result<String, String> {
    let words = match words {
        ["none"] => return Ok(String::new()),
        ["profile", name] => profile(name)?,
        ["profile", ..] => return Err(format!("profile takes one name: {}", profiles().join(" "))),
        [name] if !name.is_empty() => profile(name)?,
        words => words.join(" "),
    };
    Impairment::parse(&words).map(|_| words)
}

/// Lines of a table without remarks, as fields.
fn rows(table: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    table
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .map(|line| line.split('\t').collect())
}

/// The names of all profiles.
pub(crate) fn profiles() -> Vec<&'static str> {
    rows(PROFILES).filter_map(|row| row.first().copied()).collect()
}

fn profile(name: &str) -> Result<String, String> {
    let found = rows(PROFILES).find(|row| row.first() == Some(&name)).and_then(|row| row.get(1).copied());
    found.map(str::to_owned).ok_or_else(|| format!("there is no profile {name:?}: {}", profiles().join(" ")))
}

/// The names of all regions.
pub(crate) fn regions() -> Vec<&'static str> {
    rows(REGIONS).next().unwrap_or_default().into_iter().skip(1).collect()
}

/// The words of each direction between nodes at these places.
fn by_regions(nodes: usize, home: &[String]) -> Result<Vec<Shaped>, String> {
    let all: Set = (0..nodes).collect();
    let between = |(from, to): (usize, usize)| {
        let (one, other) = (&home[from % home.len()], &home[to % home.len()]);
        let column = regions().iter().position(|name| name == other);
        let row = rows(REGIONS).find(|row| row.first() == Some(&one.as_str()));
        let trip = row.zip(column).and_then(|(row, column)| row.get(column + 1)?.parse::<f64>().ok());
        let trip =
            trip.ok_or_else(|| format!("no round trip is known from {one} to {other}: {}", regions().join(" ")))?;
        Ok((from, to, format!("delay {}ms limit 20000", trip / 2.0)))
    };
    if home.is_empty() {
        return Err("the nodes have no regions".to_owned());
    }
    groups::pairs(&all, &all).map(between).collect()
}

/// Reads a scenario: its steps in order.
///
/// # Errors
/// The number of the line at fault, and why.
pub(crate) fn scenario(text: &str, nodes: usize, home: &[String]) -> Result<Vec<Step>, String> {
    let mut steps: Vec<Step> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let step = moment(line, nodes, home).map_err(|why| format!("line {}: {why}", number + 1))?;
        if steps.last().is_some_and(|last| step.at < last.at) {
            return Err(format!("line {}: this is before the line above it", number + 1));
        }
        let ends = step.action == Action::End;
        steps.push(step);
        if ends {
            break;
        }
    }
    if steps.is_empty() { Err("the scenario says nothing".to_owned()) } else { Ok(steps) }
}

fn moment(line: &str, nodes: usize, home: &[String]) -> Result<Step, String> {
    let (at, words) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let at = at.strip_prefix("t+").ok_or_else(|| format!("begin with a time such as t+10s, not {at}"))?;
    let at = span(at).ok_or_else(|| format!("{at} is no span such as 500ms, 10s, 1.5m, 1h"))?;
    Ok(Step { at, words: words.trim().to_owned(), action: parse(words, nodes, home)? })
}

/// `500ms`, `10s`, `1.5m`, `1h`.
pub(crate) fn span(text: &str) -> Option<Duration> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
    let (number, unit) = text.split_at(digits);
    let times = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * times).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Action, String> {
        parse(line, 3, &["ireland".to_owned(), "frankfurt".to_owned()])
    }

    #[test]
    fn links_are_shaped_both_ways_unless_one_is_asked_for() {
        let shape = |ways: &[(usize, usize)], words: &str| {
            Ok(Action::Shape(ways.iter().map(|(from, to)| (*from, *to, words.to_owned())).collect()))
        };
        assert_eq!(read("link n1 n3 delay 5ms"), shape(&[(0, 2), (2, 0)], "delay 5ms"));
        assert_eq!(read("link n1 n2,n3 one-way loss 1%"), shape(&[(0, 1), (0, 2)], "loss 1%"));
        assert_eq!(read("link n1 n2 none"), shape(&[(0, 1), (1, 0)], ""));
        assert_eq!(read("apply delay 1ms"), shape(&[(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)], "delay 1ms"));
    }

    #[test]
    fn every_profile_and_region_is_understood() {
        assert!(profiles().len() >= 12 && profiles().contains(&"wifi-bad"), "{:?}", profiles());
        for name in profiles() {
            assert_eq!(read(&format!("apply {name}")), read(&format!("apply profile {name}")));
            assert!(read(&format!("apply {name}")).is_ok(), "{name}");
        }
        let Ok(Action::Shape(ways)) = read("apply regions") else { panic!() };
        // The first and the third node are in one region, and the second is 20 ms away from both.
        assert_eq!(ways[0], (0, 1, "delay 10ms limit 20000".to_owned()));
        assert_eq!(ways[1], (0, 2, "delay 0.5ms limit 20000".to_owned()));
        assert!(
            by_regions(regions().len(), &regions().iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).is_ok()
        );
    }

    #[test]
    fn scenarios_are_steps_in_order() {
        let text =
            "# remark\nt+0s apply delay 1ms # all\n\nt+1.5s kill n1,n2\nt+10s heal\nt+1m note well done\nt+2m end\nx";
        let steps = scenario(text, 3, &[]).unwrap();
        assert_eq!(
            steps.iter().map(|step| step.at.as_millis()).collect::<Vec<_>>(),
            [0, 1_500, 10_000, 60_000, 120_000]
        );
        assert_eq!(steps[1].words, "kill n1,n2");
        assert_eq!(steps[1].action, Action::Do(Deed::Kill, Set::from([0, 1])));
        assert_eq!(steps[3].action, Action::Note("well done".to_owned()));
    }

    #[test]
    fn wrong_lines_are_named() {
        for (text, named) in [
            ("", "nothing"),
            ("t+1s heal\nt+0s heal", "line 2"),
            ("1s heal", "t+10s"),
            ("t+1 heal", "span"),
            ("t+1s", "action"),
            ("t+1s fix n1", "fix"),
            ("t+1s heal n1", "heal"),
            ("t+1s kill", "kill"),
            ("t+1s link n1 n2", "needs words"),
            ("t+1s link n1", "two sets"),
            ("t+1s apply warp", "no profile"),
            ("t+1s apply profile", "profile takes"),
            ("t+1s apply loss 1% 2%", "correlated"),
            ("t+1s cut n1 n9", "n9"),
        ] {
            let refused = scenario(text, 3, &[]).expect_err(text);
            assert!(refused.contains(named), "{text}: {refused}");
        }
    }
}
