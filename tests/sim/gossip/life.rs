//! Coming, going and coming back: joins, restarts, wiped disks, new addresses, splits, departures, twins.

use std::time::Duration;

use dynamomini::swim::Event;
use dynamomini::swim::Standing;
use dynamomini::swim::StorageHealth;

use super::judge;
use super::net::Net;
use super::seeds;

const MINUTE: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(5);

#[test]
fn members_that_start_together_at_one_seed_are_whole_within_5_s() {
    let scenario = "life::members_that_start_together_at_one_seed_are_whole_within_5_s";
    for seed in seeds(10) {
        for members in [2, 16, 32] {
            let mut net = Net::new(seed);
            net.add_many(members);
            // The seed itself may start last.
            (0..members).rev().for_each(|at| net.start(at, 0, Vec::new(), &[0]));
            let took = net.run_while(MINUTE, Net::is_whole);
            judge::within(&net, scenario, "being whole", took, SOON);
            judge::no_false_death(&net, scenario);
        }
    }
}

#[test]
fn members_join_while_paths_lose_20_percent() {
    let scenario = "life::members_join_while_paths_lose_20_percent";
    for seed in seeds(4) {
        let mut net = Net::new(seed);
        net.conditions.loss = 0.2;
        net.add_many(16);
        (0..16).for_each(|at| net.start(at, 0, Vec::new(), &[0, 1, 2]));
        let took = net.run_while(MINUTE, Net::is_whole);
        judge::within(&net, scenario, "being whole", took, Duration::from_secs(8));
    }
}

#[test]
fn a_member_is_back_at_once_after_a_restart_a_wipe_or_a_move() {
    let scenario = "life::a_member_is_back_at_once_after_a_restart_a_wipe_or_a_move";
    for seed in seeds(4) {
        for (wiped, moved, down) in [
            (false, false, 300),
            (false, false, 9_000),
            (true, false, 300),
            (true, false, 20_000),
            (true, true, 500),
            (false, true, 9_000),
        ] {
            let mut net = Net::settled(seed, 16);
            net.run_for(Duration::from_secs(2));
            // It refuted and changed often, so the others hold a high incarnation.
            for weight in 0..50 {
                net.touch(0, |swim, now| swim.update(now, |record| record.weight = weight).unwrap());
                net.run_for(Duration::from_millis(20));
            }
            let disk = net.kill(0);
            net.run_for(Duration::from_millis(down));
            if moved {
                net.move_to(0, 7999);
            }
            net.start(0, 0, if wiped { Vec::new() } else { disk }, &[3, 4]);
            let took = net.run_while(MINUTE, Net::is_whole);
            let what = format!("return (wiped {wiped}, moved {moved}, down {down} ms)");
            judge::within(&net, scenario, &what, took, SOON);
            judge::no_false_death(&net, scenario);
            let conflicts = net.hosts.iter().flat_map(|host| &host.events);
            let conflicts = conflicts.filter(|(_, event)| matches!(event, Event::Conflict { .. })).count();
            judge::at_most(&net, scenario, "conflicts seen in a restart", conflicts as f64, 0.0);
        }
    }
}

#[test]
fn a_member_that_its_operator_restarts_again_and_again_is_never_held_back() {
    let scenario = "life::a_member_that_its_operator_restarts_again_and_again_is_never_held_back";
    for seed in seeds(3) {
        let mut net = Net::settled(seed, 8);
        net.run_for(Duration::from_secs(2));
        for round in 0..6 {
            let restored = net.kill(3);
            let gone = net.run_while(MINUTE, |net| net.all_see(3, Standing::Failed));
            judge::within(&net, scenario, "being seen failed", gone, SOON);
            // With its disk, or without.
            net.start(3, 1, if round % 2 == 0 { restored } else { Vec::new() }, &[0]);
            let back = net.run_while(MINUTE, |net| net.all_see(3, Standing::Alive));
            judge::within(&net, scenario, &format!("being back from restart {round}"), back, SOON);
        }
    }
}

#[test]
fn all_restarted_at_once_are_alive_within_10_s_without_their_seeds() {
    let scenario = "life::all_restarted_at_once_are_alive_within_10_s_without_their_seeds";
    for seed in seeds(3) {
        for members in [3, 16, 48] {
            let mut net = Net::settled(seed, members);
            net.run_for(Duration::from_secs(2));
            let disks: Vec<_> = (0..members).map(|at| net.kill(at)).collect();
            net.run_for(Duration::from_secs(30));
            for (at, disk) in disks.into_iter().enumerate() {
                let old = disk.into_iter().map(|mut one| {
                    one.alive = false;
                    one
                });
                net.start(at, 0, old.collect(), &[]);
            }
            let took = net.run_while(MINUTE, Net::is_whole);
            judge::within(&net, scenario, "being whole", took, Duration::from_secs(10));
        }
    }
}

#[test]
fn a_split_of_10_minutes_heals_by_itself() {
    let scenario = "life::a_split_of_10_minutes_heals_by_itself";
    for seed in seeds(2) {
        let mut net = Net::settled(seed, 16);
        net.run_for(Duration::from_secs(2));
        let (one, other): (Vec<usize>, Vec<usize>) = ((0..8).collect(), (8..16).collect());
        (0..16).for_each(|at| net.hosts[at].excused = true);
        net.split(&one, &other);
        net.run_for(10 * MINUTE);
        assert_eq!(net.standing(0, 8), Some(Standing::Failed), "seed {seed}: the split was not noticed");
        assert_eq!(net.standing(0, 1), Some(Standing::Alive), "seed {seed}: a half is not whole");
        net.cut.clear();
        (0..16).for_each(|at| net.hosts[at].excused = false);
        let took = net.run_while(5 * MINUTE, Net::is_whole);
        judge::within(&net, scenario, "being whole again", took, SOON);
    }
}

#[test]
fn a_member_that_was_stopped_is_told_and_back_at_once() {
    let scenario = "life::a_member_that_was_stopped_is_told_and_back_at_once";
    for seed in seeds(4) {
        let mut net = Net::settled(seed, 16);
        net.run_for(Duration::from_secs(2));
        let until = net.now + Duration::from_secs(10);
        net.pause(0, until);
        net.run_until(until - Duration::from_millis(1));
        assert!(net.all_see(0, Standing::Failed), "seed {seed}: the pause was not noticed");
        net.run_until(until);
        let took = net.run_while(MINUTE, Net::is_whole);
        judge::within(&net, scenario, "its return", took, SOON);
        judge::no_false_death(&net, scenario);
    }
}

#[test]
fn a_departure_is_no_failure_and_the_name_may_return() {
    let scenario = "life::a_departure_is_no_failure_and_the_name_may_return";
    for seed in seeds(4) {
        let mut net = Net::settled(seed, 16);
        net.run_for(Duration::from_secs(2));
        let end = net.touch(0, |swim, now| swim.leave(now)).unwrap();
        let took = net.run_while(MINUTE, |net| (1..16).all(|by| net.standing(by, 0) == Some(Standing::Left)));
        judge::within(&net, scenario, "the departure", took, Duration::from_secs(2));
        net.run_until(end);
        net.kill(0);
        net.run_for(Duration::from_secs(10));
        for by in 1..16 {
            let failed = net.hosts[by].events.iter().any(|(_, event)| matches!(event, Event::Failed(_)));
            assert!(!failed, "seed {seed}: a departure was taken for a failure");
        }
        net.start(0, 0, Vec::new(), &[1]);
        let took = net.run_while(MINUTE, Net::is_whole);
        judge::within(&net, scenario, "the return", took, SOON);
    }
}

#[test]
fn two_processes_with_one_name_are_found_out_and_the_later_one_yields() {
    for seed in seeds(4) {
        let mut net = Net::settled(seed, 8);
        net.run_for(Duration::from_secs(2));
        let twin = net.add();
        net.hosts[twin].excused = true;
        net.rename(twin, 0);
        net.hosts[twin].life = 5;
        net.start(twin, 0, Vec::new(), &[1, 2]);
        net.run_for(Duration::from_secs(10));
        let yields = |at: usize| {
            let events = net.hosts[at].events.iter();
            events.filter_map(|(_, event)| match event {
                Event::Conflict { yields, .. } => Some(*yields),
                _ => None,
            })
        };
        assert_eq!(yields(twin).collect::<Vec<_>>(), [true], "seed {seed}: the twin");
        assert!(yields(0).all(|yields| !yields), "seed {seed}: the first process yielded");
        let told = (1..8).filter(|at| yields(*at).next().is_some()).count() + yields(0).count();
        assert!(told > 0, "seed {seed}: nobody else noticed");
        assert!((1..8).all(|by| net.standing(by, 0) == Some(Standing::Alive)), "seed {seed}: the first was lost");
    }
}

#[test]
fn storage_health_is_known_to_all_within_1_s() {
    let scenario = "life::storage_health_is_known_to_all_within_1_s";
    for seed in seeds(4) {
        let mut net = Net::settled(seed, 64);
        net.run_for(Duration::from_secs(2));
        net.touch(0, |swim, now| swim.update(now, |record| record.storage = StorageHealth::ReadOnly).unwrap());
        let id = net.hosts[0].id;
        let known = |net: &Net| {
            (1..64).all(|by| {
                let seen = net.hosts[by].swim.as_ref().and_then(|swim| swim.member(id));
                seen.is_some_and(|seen| seen.record.storage == StorageHealth::ReadOnly)
            })
        };
        let took = net.run_while(MINUTE, known);
        judge::within(&net, scenario, "the spread", took, Duration::from_secs(1));
    }
}
