//! Deaths that must be seen, and lives that must not be doubted: kills, silence, loss, pauses, cuts, forged refusals.

use std::time::Duration;

use dynamomini::swim::Event;
use dynamomini::swim::Input;
use dynamomini::swim::Standing;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::judge;
use super::net::Net;
use super::seeds;

const MINUTE: Duration = Duration::from_secs(60);

fn seen_failed_within(scenario: &str, seed: u64, members: usize, silent: bool, longest: Duration) {
    let mut net = Net::settled(seed, members);
    net.run_for(Duration::from_millis(1_500 + seed * 37 % 997));
    let _disk = if silent { net.switch_off(0) } else { net.kill(0) };
    let took = net.run_while(MINUTE, |net| net.all_see(0, Standing::Failed));
    judge::within(&net, scenario, "being seen failed by all", took, longest);
    judge::no_false_death(&net, scenario);
}

#[test]
fn a_killed_process_is_seen_by_all_within_3_s() {
    for seed in seeds(8) {
        for members in [3, 16, 64] {
            let longest = Duration::from_secs(3);
            seen_failed_within("faults::a_killed_process_is_seen_by_all_within_3_s", seed, members, false, longest);
        }
    }
}

/// A machine with too much to do runs each of its processes late, again and again, by more than a ping may take.
#[test]
fn a_killed_process_is_seen_where_all_members_run_late() {
    let scenario = "faults::a_killed_process_is_seen_where_all_members_run_late";
    for seed in seeds(6) {
        let mut net = Net::settled(seed, 16);
        let mut chance = StdRng::seed_from_u64(seed);
        let mut resumes = [net.now; 16];
        let killed_at = net.now + Duration::from_secs(20);
        let mut took = None;
        while took.is_none() && net.now < killed_at + MINUTE {
            for (at, resumes) in resumes.iter_mut().enumerate() {
                if net.now >= *resumes && net.hosts[at].swim.is_some() && chance.random_bool(0.1) {
                    *resumes = net.now + Duration::from_millis(chance.random_range(350..800));
                    net.pause(at, *resumes);
                }
            }
            net.run_for(Duration::from_millis(50));
            if net.now >= killed_at && net.hosts[0].swim.is_some() {
                net.kill(0);
            }
            let seen = net.hosts[0].swim.is_none() && net.all_see(0, Standing::Failed);
            took = seen.then(|| net.now - killed_at);
        }
        judge::within(&net, scenario, "being seen failed by all", took, Duration::from_secs(12));
        judge::no_false_death(&net, scenario);
    }
}

#[test]
fn a_silent_host_is_seen_by_all_within_5_s() {
    for seed in seeds(8) {
        for members in [3, 16, 64] {
            let longest = Duration::from_secs(5);
            seen_failed_within("faults::a_silent_host_is_seen_by_all_within_5_s", seed, members, true, longest);
        }
    }
}

#[test]
fn a_silent_pair_is_seen_within_12_s_though_one_of_the_two_watches_the_other() {
    let scenario = "faults::a_silent_pair_is_seen_within_12_s_though_one_of_the_two_watches_the_other";
    for seed in seeds(4) {
        let mut net = Net::settled(seed, 16);
        net.run_for(Duration::from_secs(2));
        let mut order: Vec<usize> = (0..16).collect();
        order.sort_by_key(|at| net.hosts[*at].id);
        let (first, second) = (order[3], order[4]);
        net.switch_off(first);
        net.switch_off(second);
        let both = |net: &Net| net.all_see(first, Standing::Failed) && net.all_see(second, Standing::Failed);
        let took = net.run_while(MINUTE, both);
        judge::within(&net, scenario, "being seen failed by all", took, Duration::from_secs(12));
        judge::no_false_death(&net, scenario);
    }
}

#[test]
fn nobody_in_health_is_held_dead_while_every_path_loses_40_percent() {
    let scenario = "faults::nobody_in_health_is_held_dead_while_every_path_loses_40_percent";
    for seed in seeds(1) {
        let mut net = Net::settled(seed, 16);
        net.conditions.loss = 0.4;
        net.run_for(5 * MINUTE);
        judge::no_false_death(&net, scenario);
        judge::datagrams_fit(&net, scenario);
    }
}

/// The checker must find false deaths where there are some: with suspicions shorter than a refutation takes, there are.
#[test]
#[should_panic(expected = "no_false_death")]
fn a_hasty_configuration_is_found_out() {
    let mut net = Net::new(1);
    net.config.suspicion_min = Duration::from_millis(1);
    net.config.suspicion_max = Duration::from_millis(1);
    net.add_many(16);
    (0..16).for_each(|at| net.start(at, 1, Vec::new(), &[0, 1]));
    net.run_for(Duration::from_secs(5));
    net.conditions.loss = 0.5;
    net.run_for(5 * MINUTE);
    judge::no_false_death(&net, "faults::a_hasty_configuration_is_found_out");
}

#[test]
fn members_that_stop_again_and_again_neither_flap_nor_harm_others() {
    let scenario = "faults::members_that_stop_again_and_again_neither_flap_nor_harm_others";
    for seed in seeds(2) {
        let mut net = Net::settled(seed, 16);
        let sick = [1, 5, 9, 13];
        sick.iter().for_each(|at| net.hosts[*at].excused = true);
        net.run_for(Duration::from_secs(3));
        let end = net.now + 2 * MINUTE;
        while net.now < end {
            let stopped = net.now + Duration::from_secs(8);
            sick.iter().for_each(|at| net.pause(*at, stopped));
            net.run_until(stopped + Duration::from_millis(50));
        }
        judge::no_false_death(&net, scenario);
        let healthy: Vec<usize> = net.healthy().collect();
        for by in healthy {
            let failures = net.hosts[by].events.iter().filter(|(_, event)| matches!(event, Event::Failed(_))).count();
            judge::at_most(&net, scenario, "failures one member saw of four sick ones", failures as f64, 16.0);
        }
        let took = net.run_while(3 * MINUTE, |net| {
            (0..16).all(|by| (0..16).all(|of| by == of || net.standing(by, of) == Some(Standing::Alive)))
        });
        judge::within(&net, scenario, "being whole after the sick recovered", took, Duration::from_secs(25));
    }
}

#[test]
fn a_one_way_cut_between_two_declares_nobody_dead() {
    let scenario = "faults::a_one_way_cut_between_two_declares_nobody_dead";
    for seed in seeds(4) {
        for members in [3, 16] {
            let mut net = Net::settled(seed, members);
            net.cut.insert((0, 1));
            net.run_for(2 * MINUTE);
            judge::no_false_death(&net, scenario);
        }
    }
}

#[test]
fn a_member_that_hears_nobody_harms_nobody_else() {
    let scenario = "faults::a_member_that_hears_nobody_harms_nobody_else";
    for seed in seeds(3) {
        let mut net = Net::settled(seed, 16);
        net.hosts[3].excused = true;
        net.run_for(Duration::from_secs(2));
        net.deaf.insert(3, 1.0);
        let took = net.run_while(MINUTE, |net| net.all_see(3, Standing::Failed));
        judge::within(&net, scenario, "the deaf member being held failed", took, Duration::from_secs(5));
        net.run_for(MINUTE);
        judge::no_false_death(&net, scenario);
        net.deaf.clear();
        net.hosts[3].excused = false;
        let took = net.run_while(MINUTE, Net::is_whole);
        judge::within(&net, scenario, "being whole again", took, Duration::from_secs(15));
    }
}

#[test]
fn a_member_that_only_some_can_reach_harms_nobody_else() {
    let scenario = "faults::a_member_that_only_some_can_reach_harms_nobody_else";
    for seed in seeds(3) {
        let mut net = Net::settled(seed, 16);
        net.hosts[0].excused = true;
        net.split(&[0], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        net.run_for(2 * MINUTE);
        judge::no_false_death(&net, scenario);
    }
}

#[test]
fn forged_refusals_kill_nobody() {
    let scenario = "faults::forged_refusals_kill_nobody";
    for seed in seeds(4) {
        let mut net = Net::settled(seed, 16);
        net.run_for(Duration::from_secs(1));
        let address = net.hosts[0].address;
        for _ in 0..100 {
            for by in 1..16 {
                net.touch(by, |swim, now| swim.handle(now, Input::Unreachable { address }));
            }
            net.run_for(Duration::from_millis(50));
        }
        judge::no_false_death(&net, scenario);
        let suspected = net.hosts[1].events.iter().filter(|(_, event)| matches!(event, Event::Suspect(_))).count();
        judge::at_most(&net, scenario, "suspicions from forged refusals", suspected as f64, 0.0);
    }
}
