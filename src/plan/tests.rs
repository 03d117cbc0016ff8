//! Plans of small clusters.

use super::*;
use crate::layout::Next;
use crate::layout::Stage;
use crate::types::NamespacePolicy;
use crate::types::Partitions;
use crate::wire::rpc::ClusterInfo;
use crate::wire::rpc::MemberInfo;

fn name(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

/// Nodes with their zones.
fn view(nodes: &[(&str, &str)]) -> ClusterView {
    let member = |(node, zone): &(&str, &str)| MemberInfo {
        name: name(node),
        quic: format!("{node}:7400"),
        zone: zone.parse().unwrap(),
        weight: 100,
    };
    let info = ClusterInfo {
        cluster: "test".parse().unwrap(),
        partitions: Partitions::new(64).unwrap(),
        members: nodes.iter().map(member).collect(),
        namespaces: vec![("default".parse().unwrap(), NamespacePolicy::default())],
        node: name(nodes[0].0),
        layout: Layout::default(),
    };
    ClusterView::new(info.founding()).unwrap()
}

fn facts(alive: &[&str]) -> Facts {
    let bytes = alive.iter().map(|node| (name(node), 64 << 20)).collect();
    Facts { alive: alive.iter().map(|node| name(node)).collect(), bytes, rate: 1 << 20 }
}

fn join(node: &str) -> Change {
    Change::Join { name: name(node), quic: format!("{node}:7400"), zone: "a".parse().unwrap(), weight: 100 }
}

const THREE: [(&str, &str); 3] = [("n1", "a"), ("n2", "a"), ("n3", "a")];

#[test]
fn a_join_moves_its_share_and_no_copy_is_ever_missing() {
    let plan = Plan::of(&view(&THREE), &join("n4"), &facts(&["n1", "n2", "n3", "n4"])).unwrap();
    assert!(plan.dangers.is_empty() && plan.notes.is_empty(), "{:?} {:?}", plan.dangers, plan.notes);
    assert_eq!((plan.rings[0].live_now, plan.rings[0].live_least), (3, (3, 3)));
    let new = plan.nodes.iter().find(|node| node.name == name("n4")).unwrap();
    assert_eq!((new.owned.0, new.owned.1, new.weight), (0, new.gains, (None, Some(100))));
    assert!((45..=51).contains(&new.gains), "a quarter of 192 copies: {}", new.gains);
    assert!(plan.copies >= plan.least_copies && plan.copies >= u64::from(new.gains));
    // Every node holds 64 MiB in 64 partitions, so a partition has a MiB, and a MiB takes a second. Files of the new node are
    // not counted: it owns nothing yet.
    assert_eq!(new.bytes, Some(u64::from(new.gains) << 20));
    assert_eq!(plan.takes, Some(Duration::from_secs(u64::from(new.gains))));
    assert_eq!(plan.zones, [ZonePlan { name: "a".parse().unwrap(), nodes: (3, 4), owned: (192, 192) }]);
}

#[test]
fn what_is_dangerous_is_named() {
    let danger = |nodes: &[(&str, &str)], alive: &[&str], change: &Change| {
        let plan = Plan::of(&view(nodes), change, &facts(alive)).unwrap();
        plan.dangers.join("\n")
    };
    let leave = |node: &str| Change::Leave { name: name(node) };
    let remove = |node: &str| Change::Remove { name: name(node) };
    let all = ["n1", "n2", "n3", "n4"];
    let four = [("n1", "a"), ("n2", "a"), ("n3", "b"), ("n4", "a")];
    assert!(danger(&THREE, &all, &leave("n3")).contains("there would be 2 nodes for 3 copies"));
    assert!(danger(&four, &all, &leave("n3")).contains("no node would be left in zone b"));
    assert_eq!(danger(&four, &all, &leave("n4")), "");
    assert!(danger(&four, &all, &remove("n4")).contains("n4 answers: `leave`"));
    assert!(danger(&four, &all[..3], &leave("n4")).contains("`remove` it"));
    assert_eq!(danger(&four, &all[..3], &remove("n4")), "");
    let one = Change::Weight { name: name("n3"), weight: 50 };
    assert!(danger(&four, &all[..2], &remove("n4")).contains("of some partition only"));
    assert!(danger(&four, &all[..2], &one).contains("2 of 4 members answer"));
    assert!(danger(&THREE, &all[..3], &join("n4")).contains("n4 does not answer: start it first"));
    let reading =
        |layout: Layout| Layout { next: layout.next.map(|next| Next { stage: Stage::Reading, ..next }), ..layout };
    let by = |layout: Layout| ClusterView::new(view(&THREE).info().by(layout)).unwrap();
    let nearly = by(reading(join("n4").apply(view(&THREE).layout()).unwrap()));
    let plan = Plan::of(&nearly, &remove("n3"), &facts(&["n1", "n2", "n4"])).unwrap();
    assert_eq!((plan.dangers.join(" "), plan.changes), (String::new(), vec![remove("n3")]), "by what is nearly done");
    assert!(matches!(Plan::of(&nearly, &Change::Cancel, &facts(&["n1"])), Err(PlanError::Change(ChangeError::Busy))));
    let replace = Change::Replace { old: name("n2"), new: name("n9"), quic: "n9:1".to_owned() };
    assert!(danger(&THREE, &["n1", "n2", "n3", "n9"], &replace).contains("n2 answers"));
    assert_eq!(danger(&THREE, &["n1", "n3", "n9"], &replace), "");
}

#[test]
fn a_replace_moves_one_node_s_share_and_nothing_else() {
    let replace = Change::Replace { old: name("n2"), new: name("n9"), quic: "n9:1".to_owned() };
    let plan = Plan::of(&view(&THREE), &replace, &facts(&["n1", "n3", "n9"])).unwrap();
    assert_eq!(plan.copies, 64);
    assert_eq!((plan.rings[0].live_now, plan.rings[0].live_least), (2, (2, 3)));
    assert!(plan.nodes.iter().all(|node| node.gains == 0 || node.name == name("n9")));
}

#[test]
fn a_plan_while_a_change_is_under_way_shows_both() {
    let first = join("n4").apply(view(&THREE).layout()).unwrap();
    let under_way = ClusterView::new(view(&THREE).info().by(first)).unwrap();
    let plan = Plan::of(&under_way, &join("n5"), &facts(&["n1", "n2", "n3", "n4", "n5"])).unwrap();
    assert_eq!(plan.changes.len(), 2);
    assert!(plan.notes.iter().any(|note| note.contains("joins it")), "{:?}", plan.notes);
    assert!(matches!(
        Plan::of(&under_way, &join("n4"), &facts(&["n1"])),
        Err(PlanError::Change(ChangeError::Member(_)))
    ));
}

#[test]
fn a_split_moves_part_of_the_data_once_and_is_counted_in_the_parts() {
    let nodes = [("n1", "a"), ("n2", "a"), ("n3", "a"), ("n4", "a"), ("n5", "a"), ("n6", "a")];
    let (view, facts) = (view(&nodes), facts(&nodes.map(|(name, _)| name)));
    let split = Change::Split { partitions: Partitions::new(128).unwrap() };
    let plan = Plan::of(&view, &split, &facts).unwrap();
    assert!(plan.dangers.is_empty() && plan.notes.len() == 1, "{:?} {:?}", plan.dangers, plan.notes);
    assert_eq!((&plan.changes, plan.rings[0].live_least), (&vec![split], (3, 3)));
    let owned: u32 = plan.nodes.iter().map(|node| node.owned.0).sum();
    assert_eq!(owned, 3 * 128, "what is owned now is counted in the parts, too");
    // Of the new half of all copies, one in two has another owner where three of six own each.
    assert!((64..=140).contains(&plan.copies), "{} copies", plan.copies);
    // Six nodes hold 64 MiB each in 384 copies of the parts: a MiB each.
    assert_eq!(plan.bytes, Some(plan.copies << 20));
}

#[test]
fn more_copies_are_made_where_they_lack_and_what_protects_less_is_named() {
    let copies = |n| Change::Copies { namespace: "default".parse().unwrap(), n };
    let six = [("n1", "a"), ("n2", "a"), ("n3", "b"), ("n4", "b"), ("n5", "c"), ("n6", "c")];
    let all = ["n1", "n2", "n3", "n4", "n5", "n6"];
    let of = |nodes: &[(&str, &str)], change: &Change| Plan::of(&view(nodes), change, &facts(&all)).unwrap();
    let five = of(&six, &copies(5));
    assert!(five.dangers.is_empty(), "{:?}", five.dangers);
    let ring = &five.rings[0];
    assert_eq!((ring.copies, ring.live_now, ring.live_least), (Copies { now: 3, next: 5 }, 3, (3, 5)));
    assert!(five.copies >= 2 * 64 && five.nodes.iter().all(|node| node.owned.1 > node.owned.0), "{five:?}");
    let danger = |nodes: &[(&str, &str)], n| of(nodes, &copies(n)).dangers.join("\n");
    assert!(danger(&six, 1).contains("would be on one node"));
    assert!(danger(&six, 2).contains("none may be down"));
    assert_eq!(danger(&six, 4), "");
    assert!(danger(&THREE, 5).contains("there would be 3 nodes for 5 copies"));
    let mut info = view(&six).info().clone();
    let one = crate::types::Consistency::Count(2);
    (info.namespaces[0].1.r, info.namespaces[0].1.w) = (one, one);
    let numbers = ClusterView::new(info).unwrap();
    let plan = |n| Plan::of(&numbers, &copies(n), &facts(&all));
    assert!(plan(5).unwrap().dangers.join("\n").contains("do not overlap"));
    assert!(matches!(plan(1), Err(PlanError::Change(ChangeError::Above { n: 1, .. }))));
}
