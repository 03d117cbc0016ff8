//! A thousand members: rounds of a join, bytes of each, and the same bounds on detection as for few.

use std::time::Duration;

use dynamomini::swim::Standing;

use super::judge;
use super::net::Net;
use super::seeds;

/// Members. Unoptimised builds take a quarter, to stay within seconds.
const MEMBERS: usize = if cfg!(debug_assertions) { 250 } else { 1_000 };

fn bytes(net: &Net) -> u64 {
    net.hosts.iter().map(|host| host.bytes_out).sum()
}

#[test]
fn a_thousand_members_stay_within_their_bounds() {
    let scenario = "scale::a_thousand_members_stay_within_their_bounds";
    for seed in seeds(1) {
        let mut net = Net::settled(seed, MEMBERS);
        net.run_for(Duration::from_secs(8));
        let before = bytes(&net);
        net.run_for(Duration::from_secs(10));
        let idle = (bytes(&net) - before) as f64 / 10.0 / MEMBERS as f64;
        judge::at_most(&net, scenario, "bytes a second of an idle member", idle, 300.0);

        let joiner = net.add();
        let before = bytes(&net);
        net.start(joiner, 0, Vec::new(), &[MEMBERS / 2]);
        let took = net.run_while(Duration::from_secs(60), |net| net.all_see(joiner, Standing::Alive));
        // Five rounds of gossip to three members each reach a thousand; the tail takes as many again.
        let rounds = 2.0 * (MEMBERS as f64).log(4.0) + 1.0;
        let longest = net.config.gossip_interval.mul_f64(rounds);
        judge::within(&net, scenario, "a join", took, longest);
        net.run_for(Duration::from_secs(5));
        judge::at_most(
            &net,
            scenario,
            "kilobytes of a join, each",
            (bytes(&net) - before) as f64 / 1e3 / MEMBERS as f64,
            30.0,
        );
        let id = net.hosts[joiner].id;
        let known = net.hosts[joiner].swim.as_ref().map_or(0, |swim| swim.members().count());
        assert_eq!(known, MEMBERS, "seed {seed}: what the joiner {id} knows");

        net.switch_off(7);
        let took = net.run_while(Duration::from_secs(60), |net| net.all_see(7, Standing::Failed));
        judge::within(&net, scenario, "a silent host being seen failed", took, Duration::from_secs(5));
        judge::no_false_death(&net, scenario);
        judge::datagrams_fit(&net, scenario);
    }
}

#[test]
fn a_hundred_members_hold_nobody_dead_while_every_path_loses_40_percent() {
    let scenario = "scale::a_hundred_members_hold_nobody_dead_while_every_path_loses_40_percent";
    let time = Duration::from_secs(if cfg!(debug_assertions) { 20 } else { 300 });
    for seed in seeds(1) {
        let mut net = Net::settled(seed, 100);
        net.conditions.loss = 0.4;
        net.run_for(time);
        judge::no_false_death(&net, scenario);
        judge::datagrams_fit(&net, scenario);
    }
}

/// `cargo test --release --test sim gossip::scale -- --ignored --nocapture` runs it.
#[test]
#[ignore = "takes minutes"]
fn a_thousand_members_that_start_together_are_whole_within_10_s() {
    let scenario = "scale::a_thousand_members_that_start_together_are_whole_within_10_s";
    for seed in seeds(1) {
        let mut net = Net::new(seed);
        net.add_many(MEMBERS);
        (0..MEMBERS).for_each(|at| net.start(at, 0, Vec::new(), &[0, 1, 2]));
        let took = net.run_while(Duration::from_secs(120), Net::is_whole);
        let took = judge::within(&net, scenario, "being whole", took, Duration::from_secs(10));
        println!("whole after {took:?}, {} kB each", bytes(&net) / 1000 / MEMBERS as u64);
    }
}

#[test]
fn a_split_of_many_members_heals_within_10_s() {
    let scenario = "scale::a_split_of_many_members_heals_within_10_s";
    let members: usize = if cfg!(debug_assertions) { 48 } else { 128 };
    for seed in seeds(1) {
        let mut net = Net::settled(seed, members);
        let (one, other): (Vec<usize>, Vec<usize>) = (0..members).partition(|at| at % 2 == 0);
        (0..members).for_each(|at| net.hosts[at].excused = true);
        net.split(&one, &other);
        net.run_for(Duration::from_secs(60));
        assert_eq!(net.standing(0, 1), Some(Standing::Failed), "seed {seed}: the split was not noticed");
        net.cut.clear();
        (0..members).for_each(|at| net.hosts[at].excused = false);
        let took = net.run_while(Duration::from_secs(120), Net::is_whole);
        judge::within(&net, scenario, "being whole after the split", took, Duration::from_secs(10));
    }
}
