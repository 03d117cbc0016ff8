//! Layouts under changes, in their stages, and voted on in whatever order messages come.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::types::NodeId;
use crate::types::Partitions;

fn name(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn role(of: &str) -> Role {
    Role { quic: format!("{of}:7400"), zone: "z".parse().unwrap(), weight: 100, seat: name(of) }
}

fn roles(names: &[&str]) -> Roles {
    names.iter().map(|of| (name(of), role(of))).collect()
}

/// Placed among these members, with nothing said of copies.
fn placed(names: &[&str]) -> Placement {
    Placement { roles: roles(names), ..Placement::default() }
}

fn founded(names: &[&str]) -> Layout {
    Layout::founding(placed(names))
}

fn join(of: &str) -> Change {
    let Role { quic, zone, weight, .. } = role(of);
    Change::Join { name: name(of), quic, zone, weight }
}

/// Everybody is at this version, confirmed, with all copied.
fn all_at(layout: &Layout) -> Watch {
    let report = Report { adopted: layout.version, confirmed: layout.version, copied: layout.version };
    let reports = layout.members().into_keys().map(|name| (name.clone(), report)).collect();
    Watch { reports, ..Watch::default() }
}

fn step(layout: &Layout) -> Layout {
    match advance(layout, &all_at(layout), |_| false) {
        Progress::Advance(next) => *next,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_change_goes_through_its_stages_and_settles() {
    let first = join("d").apply(&founded(&["a", "b", "c"])).unwrap();
    assert_eq!((first.version, first.stage()), (1, Some(Stage::Spreading)));
    assert_eq!(first.read_placement(), &placed(&["a", "b", "c"]));
    assert_eq!(first.other_placement(), Some(&placed(&["a", "b", "c", "d"])));
    let copying = step(&first);
    assert_eq!(copying.stage(), Some(Stage::Copying));
    let reading = step(&copying);
    assert_eq!(reading.stage(), Some(Stage::Reading));
    assert_eq!(reading.read_placement(), &placed(&["a", "b", "c", "d"]));
    assert_eq!(reading.other_placement(), Some(&placed(&["a", "b", "c"])));
    assert_eq!(join("e").apply(&reading), Err(ChangeError::Busy));
    let settled = step(&reading);
    assert_eq!(settled, Layout { version: 4, current: placed(&["a", "b", "c", "d"]), next: None });
    assert_eq!(advance(&settled, &all_at(&settled), |_| false), Progress::Settled);
}

#[test]
fn a_change_in_the_middle_of_another_joins_it_and_begins_again() {
    let copying = step(&join("d").apply(&founded(&["a", "b", "c"])).unwrap());
    let both = join("e").apply(&copying).unwrap();
    assert_eq!((both.version, both.stage()), (3, Some(Stage::Spreading)));
    assert_eq!(both.other_placement(), Some(&placed(&["a", "b", "c", "d", "e"])));
    assert_eq!(both.current, placed(&["a", "b", "c"]));
    // One that takes it all back leaves nothing to do.
    let back = Change::Leave { name: name("d") }.apply(&join("d").apply(&founded(&["a"])).unwrap()).unwrap();
    assert_eq!((back.version, back.next), (2, None));
    assert_eq!(Change::Cancel.apply(&both).unwrap().next, None);
    assert!(Change::Cancel.apply(&founded(&["a"])).is_err());
}

#[test]
fn what_cannot_be_is_refused_with_a_reason() {
    let layout = founded(&["a", "b"]);
    let refused = |change: Change| change.apply(&layout).unwrap_err();
    assert_eq!(refused(join("a")), ChangeError::Member(name("a")));
    assert_eq!(refused(Change::Leave { name: name("x") }), ChangeError::NotAMember(name("x")));
    assert!(matches!(refused(Change::Weight { name: name("a"), weight: 100 }), ChangeError::Nothing(_)));
    assert!(matches!(refused(Change::Weight { name: name("a"), weight: 1_000_000 }), ChangeError::Limit(_)));
    let one = founded(&["a"]);
    assert_eq!(Change::Remove { name: name("a") }.apply(&one), Err(ChangeError::Last(name("a"))));
    assert_eq!(Change::Weight { name: name("a"), weight: 0 }.apply(&one), Err(ChangeError::Last(name("a"))));
}

#[test]
fn a_replacement_takes_the_seat_and_nothing_is_expected_of_the_old() {
    let quic = "d:1".to_owned();
    let replaced = Change::Replace { old: name("a"), new: name("d"), quic }.apply(&founded(&["a", "b", "c"])).unwrap();
    let next = replaced.next.as_ref().unwrap();
    assert_eq!(next.placement.roles[&name("d")].seat, name("a"));
    assert!(next.dead.contains(&name("a")));
    let mut watch = all_at(&replaced);
    watch.reports.remove(&name("a"));
    assert!(matches!(advance(&replaced, &watch, |_| false), Progress::Advance(_)));
    // The name of a seat that is taken cannot come back as a seat of its own.
    let settled = Layout { version: 4, current: next.placement.clone(), next: None };
    let refused = join("a").apply(&settled).unwrap_err().to_string();
    assert_eq!(refused, "d was put in the place of a and has it still: give the node another name");
}

#[test]
fn a_stage_ends_when_all_that_are_up_have_confirmed_and_those_that_are_down_are_no_quorum() {
    let layout = join("d").apply(&founded(&["a", "b", "c"])).unwrap();
    let mut watch = all_at(&layout);
    watch.reports.get_mut(&name("b")).unwrap().confirmed = 0;
    assert_eq!(advance(&layout, &watch, |_| false), Progress::Confirm(vec![name("b")]));
    watch.reports.get_mut(&name("b")).unwrap().adopted = 0;
    assert_eq!(advance(&layout, &watch, |_| false), Progress::Wait(vec![Obstacle::Behind(name("b"))]));
    watch.reports.remove(&name("b"));
    assert_eq!(advance(&layout, &watch, |_| false), Progress::Wait(vec![Obstacle::Behind(name("b"))]));
    watch.failed.push(name("b"));
    assert!(matches!(advance(&layout, &watch, |_| false), Progress::Advance(_)));
    assert_eq!(advance(&layout, &watch, |down| !down.is_empty()), Progress::Wait(vec![Obstacle::Down(name("b"))]));
}

#[test]
fn reads_move_only_when_every_next_owner_has_everything() {
    let copying = step(&join("d").apply(&founded(&["a", "b", "c"])).unwrap());
    let mut watch = all_at(&copying);
    watch.reports.get_mut(&name("d")).unwrap().copied = copying.version - 1;
    assert_eq!(advance(&copying, &watch, |_| false), Progress::Wait(vec![Obstacle::Copying(name("d"))]));
    watch.reports.remove(&name("d"));
    watch.failed.push(name("d"));
    watch.gaining.insert(name("d"));
    assert_eq!(advance(&copying, &watch, |_| false), Progress::Wait(vec![Obstacle::OwnerDown(name("d"))]));
    // One that is down and fetches nothing holds nobody up.
    let mut watch = all_at(&copying);
    watch.reports.remove(&name("c"));
    watch.failed.push(name("c"));
    assert_eq!(advance(&copying, &watch, |_| false), Progress::Advance(Box::new(step(&copying))));
}

#[test]
fn a_member_that_dies_on_its_way_out_or_while_reads_move_can_be_given_up() {
    let leaves = Change::Leave { name: name("c") }.apply(&founded(&["a", "b", "c"])).unwrap();
    let remove = |of: &str| Change::Remove { name: name(of) };
    let removed = remove("c").apply(&leaves).unwrap();
    assert_eq!((removed.stage(), removed.is_dead(&name("c"))), (Some(Stage::Spreading), true));
    assert_eq!(removed.differences(), [remove("c")]);
    assert!(matches!(remove("c").apply(&removed), Err(ChangeError::Nothing(_))), "it is already");
    let replaced = Change::Replace { old: name("c"), new: name("e"), quic: "e:1".to_owned() }.apply(&leaves).unwrap();
    assert_eq!(replaced.last_placement().roles[&name("e")].seat, name("c"));

    let copying = step(&join("d").apply(&founded(&["a", "b", "c"])).unwrap());
    assert!(remove("b").give_up(&copying).is_err(), "at this stage it can be removed");
    let reading = step(&copying);
    assert_eq!(remove("b").apply(&reading), Err(ChangeError::Busy));
    let given_up = remove("b").give_up(&reading).unwrap();
    assert_eq!((given_up.version, given_up.stage()), (reading.version + 1, Some(Stage::Reading)));
    assert_eq!(given_up.voters().collect::<Vec<_>>(), [&name("a"), &name("c")]);
    let mut watch = all_at(&given_up);
    watch.reports.remove(&name("b"));
    let Progress::Advance(settled) = advance(&given_up, &watch, |down| !down.is_empty()) else {
        panic!("it is waited for")
    };
    assert_eq!(Some(&*settled), given_up.completed().as_ref());
    assert!(remove("b").apply(&settled).unwrap().is_dead(&name("b")), "and then it can be removed");
}

#[test]
fn a_voter_that_is_behind_says_so_and_one_that_is_ahead_tells() {
    let (mut vote, known) = (Vote::default(), Layout { version: 3, ..founded(&["a"]) });
    let ballot = Ballot::default().above(NodeId(1));
    assert_eq!(vote.prepare(&known, 5, ballot), Err(Refusal::Behind(3)));
    assert_eq!(vote.prepare(&known, 3, ballot), Err(Refusal::Decided(Box::new(known.clone()))));
    assert_eq!(vote.prepare(&known, 4, ballot), Ok(Prepared { accepted: None }));
    assert_eq!(vote.prepare(&known, 4, ballot), Err(Refusal::Promised(ballot)));
    // What was known is lost, the vote is not.
    let lost = Layout { version: 2, ..known };
    assert_eq!(vote.prepare(&lost, 3, ballot.above(NodeId(1))), Err(Refusal::Behind(2)));
}

/// A proposer in the middle of its two rounds.
#[derive(Debug, Clone)]
struct Proposer {
    ballot: Ballot,
    wanted: Layout,
    promises: Vec<Option<(Ballot, Layout)>>,
    value: Option<Layout>,
    votes: BTreeSet<usize>,
}

proptest! {
    /// However messages of several proposers are lost and interleaved, one version has one layout.
    #[test]
    fn one_version_is_decided_once(moves in prop::collection::vec((0..3usize, 0..5usize, any::<bool>()), 1..120)) {
        const VOTERS: usize = 5;
        let known = founded(&["a", "b", "c", "d", "e"]);
        let mut votes = vec![Vote::default(); VOTERS];
        let mut decided: BTreeMap<String, Layout> = BTreeMap::new();
        let begin = |number: usize, above: Ballot| Proposer {
            ballot: above.above(NodeId(u64::try_from(number).unwrap())),
            wanted: join(&format!("n{number}")).apply(&known).unwrap(),
            promises: Vec::new(),
            value: None,
            votes: BTreeSet::new(),
        };
        let mut proposers: Vec<Proposer> = (0..3).map(|number| begin(number, Ballot::default())).collect();
        for (number, voter, give_up) in moves {
            let proposer = &mut proposers[number];
            let vote = &mut votes[voter];
            let refused = match &proposer.value {
                None => match vote.prepare(&known, 1, proposer.ballot) {
                    Ok(Prepared { accepted }) => { proposer.promises.push(accepted); None }
                    Err(refusal) => Some(refusal),
                },
                Some(value) => match vote.accept(&known, proposer.ballot, value.clone()) {
                    Ok(()) => { proposer.votes.insert(voter); None }
                    Err(refusal) => Some(refusal),
                },
            };
            if proposer.value.is_none() && proposer.promises.len() > VOTERS / 2 {
                let accepted = proposer.promises.iter().flatten().max_by_key(|(ballot, _)| *ballot);
                proposer.value = Some(accepted.map_or(proposer.wanted.clone(), |(_, layout)| layout.clone()));
            }
            if proposer.votes.len() > VOTERS / 2 {
                let value = proposer.value.clone().unwrap();
                decided.insert(format!("{value:?}"), value);
            }
            if let Some(Refusal::Promised(ballot)) = refused && give_up {
                *proposer = begin(number, ballot);
            }
        }
        prop_assert!(decided.len() <= 1, "two layouts were decided: {decided:?}");
    }
}

#[test]
fn partitions_are_cut_in_two_at_a_time_and_there_are_the_finer_ones_until_it_is_given_up() {
    let count = |count| Partitions::new(count).unwrap();
    let split = |partitions| Change::Split { partitions: count(partitions) };
    let before = founded(&["a", "b"]);
    assert_eq!(before.partitions(), count(1024));
    let cut = split(2048).apply(&before).unwrap();
    assert_eq!(
        (cut.stage(), cut.partitions(), cut.current.partitions),
        (Some(Stage::Spreading), count(2048), count(1024))
    );
    assert_eq!(cut.differences(), [split(2048)]);
    assert!(matches!(split(2048).apply(&cut), Err(ChangeError::Nothing(_))), "asked for twice, it is done once");
    assert!(matches!(split(512).apply(&before), Err(ChangeError::Nothing(_))), "there are more already");
    assert!(matches!(split(4096).apply(&before), Err(ChangeError::Limit(_))));
    let both = join("c").apply(&cut).unwrap();
    assert_eq!(both.differences(), [split(2048), join("c")]);
    assert_eq!(Change::Cancel.apply(&both).unwrap().partitions(), count(1024));
    let settled = step(&step(&step(&both)));
    assert_eq!((settled.stage(), settled.current.partitions), (None, count(2048)));
}

#[test]
fn what_a_change_does_is_told_by_the_roles_alone() {
    let layout = founded(&["a", "b", "c"]);
    let changes = [
        join("d"),
        Change::Replace { old: name("b"), new: name("e"), quic: "e:7400".to_owned() },
        Change::Weight { name: name("c"), weight: 7 },
        Change::Leave { name: name("a") },
    ];
    let mut all = layout;
    for change in &changes {
        all = change.apply(&all).unwrap();
        assert_eq!(all.next.as_ref().unwrap().since, 1, "all of them are one change");
    }
    let mut told = all.differences();
    let order = |change: &Change| format!("{change:?}");
    let mut asked = changes.to_vec();
    told.sort_by_key(order);
    asked.sort_by_key(order);
    assert_eq!(told, asked);
    let removed = Change::Remove { name: name("b") }.apply(&founded(&["a", "b"])).unwrap();
    assert_eq!(removed.differences(), [Change::Remove { name: name("b") }]);
    assert!(founded(&["a"]).differences().is_empty());
}

#[test]
fn the_number_of_copies_changes_in_the_same_stages_and_a_namespace_that_is_not_known_goes_by_its_configuration() {
    let (namespace, other) = (Namespace::default(), Namespace::new("other").unwrap());
    let mut founded = founded(&["a", "b", "c"]);
    founded.current.copies.insert(namespace.clone(), 2);
    let copies = |n| Change::Copies { namespace: namespace.clone(), n };
    let at = |layout: &Layout| layout.copies(&namespace, 9);
    assert_eq!(at(&founded), Copies::settled(2));
    assert_eq!(founded.copies(&other, 5), Copies::settled(5));
    let begun = copies(3).apply(&founded).unwrap();
    assert_eq!((at(&begun), begun.stage()), (Copies { now: 2, next: 3 }, Some(Stage::Spreading)));
    assert_eq!(begun.differences(), [copies(3)]);
    assert!(matches!(copies(3).apply(&begun), Err(ChangeError::Nothing(_))));
    assert_eq!(copies(2).apply(&begun).unwrap().next, None, "back to what it was");
    let both = join("d").apply(&begun).unwrap();
    assert_eq!(both.differences(), [join("d"), copies(3)]);
    assert_eq!(at(&Change::Cancel.apply(&both).unwrap()), Copies::settled(2));
    let settled = step(&step(&step(&both)));
    assert_eq!((at(&settled), settled.stage()), (Copies::settled(3), None));
    for impossible in [0, 17] {
        let refused = copies(impossible).apply(&founded).unwrap_err().to_string();
        assert!(refused.contains("choose 1 to 16"), "{refused}");
    }
}

#[test]
fn an_imposed_layout_is_later_than_all_that_others_agree_on_and_differs_from_theirs() {
    let founded = founded(&["a", "b", "c"]);
    let remove = Change::Remove { name: name("c") };
    let (one, other) = (NodeId(5), NodeId(6));
    let imposed = remove.apply(&founded).unwrap().imposed_by(one);
    assert_eq!((imposed.version, imposed.next.as_ref().unwrap().since), (1_005_000, 1_005_000));
    let elsewhere = remove.apply(&founded).unwrap().imposed_by(other);
    assert_eq!(elsewhere.version, 1_006_000);
    let again = Change::Remove { name: name("b") }.apply(&imposed).unwrap();
    assert_eq!(again.version, 1_005_001, "agreed on as ever");
    let again = again.imposed_by(one);
    assert_eq!((again.version, again.next.unwrap().since), (2_005_000, 1_005_000), "it joins the change before");
}
