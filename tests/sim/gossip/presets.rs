//! The paces that the settings name, each in the surroundings it is for. `figures` prints what the documentation states.

use std::time::Duration;

use dynamomini::swim::Config;
use dynamomini::swim::Event;
use dynamomini::swim::Standing;

use super::judge;
use super::net::Net;
use super::seeds;

/// The round trip between continents, and what is lost on each way.
const FAR: Duration = Duration::from_millis(150);
const FAR_LOSS: f64 = 0.01;

fn near(config: Config) -> impl Fn(u64, usize) -> Net {
    move |seed, members| Net::settled_with(seed, members, |net| net.config = config.clone())
}

fn far(seed: u64, members: usize) -> Net {
    Net::settled_with(seed, members, |net| {
        net.config = Config::wan();
        (net.conditions.latency, net.conditions.jitter) = (FAR / 2, Duration::from_millis(10));
        net.conditions.loss = FAR_LOSS;
    })
}

/// How long until all see that one was killed, or fell silent.
fn until_failed(net: &mut Net, silent: bool) -> Option<Duration> {
    net.run_for(Duration::from_millis(4_000 + net.seed * 137 % 2_503));
    let _disk = if silent { net.switch_off(0) } else { net.kill(0) };
    net.run_while(Duration::from_secs(120), |net| net.all_see(0, Standing::Failed))
}

fn suspicions(net: &Net) -> usize {
    let events = net.hosts.iter().flat_map(|host| &host.events);
    events.filter(|(_, event)| matches!(event, Event::Suspect(_))).count()
}

#[test]
fn across_continents_nobody_is_suspected_for_a_lost_packet_or_a_long_way() {
    let scenario = "presets::across_continents_nobody_is_suspected_for_a_lost_packet_or_a_long_way";
    for seed in seeds(3) {
        let mut net = far(seed, 16);
        net.run_for(Duration::from_secs(600));
        judge::no_false_death(&net, scenario);
        judge::at_most(&net, scenario, "suspicions", suspicions(&net) as f64, 0.0);
    }
}

#[test]
fn across_continents_a_death_is_seen_within_20_s() {
    let scenario = "presets::across_continents_a_death_is_seen_within_20_s";
    for seed in seeds(4) {
        for (silent, longest) in [(false, 12), (true, 20)] {
            let mut net = far(seed, 16);
            let took = until_failed(&mut net, silent);
            judge::within(&net, scenario, "being seen failed by all", took, Duration::from_secs(longest));
        }
    }
}

#[test]
fn on_one_machine_deaths_are_seen_sooner_than_on_a_site() {
    let scenario = "presets::on_one_machine_deaths_are_seen_sooner_than_on_a_site";
    let (mut local, mut lan) = (Duration::ZERO, Duration::ZERO);
    for seed in seeds(6) {
        for (silent, longest) in [(false, 2_000), (true, 3_000)] {
            let mut net = near(Config::local())(seed, 5);
            let took = until_failed(&mut net, silent);
            local += judge::within(&net, scenario, "being seen failed by all", took, Duration::from_millis(longest));
            lan += until_failed(&mut near(Config::lan())(seed, 5), silent).unwrap();
        }
    }
    assert!(local * 10 < lan * 8, "local {local:?}, lan {lan:?} in sum");
}

#[test]
fn on_one_machine_nobody_in_health_is_held_dead_while_20_percent_are_lost() {
    let scenario = "presets::on_one_machine_nobody_in_health_is_held_dead_while_20_percent_are_lost";
    for seed in seeds(2) {
        let mut net = near(Config::local())(seed, 8);
        net.conditions.loss = 0.2;
        net.run_for(Duration::from_secs(120));
        judge::no_false_death(&net, scenario);
    }
}

#[test]
#[ignore = "prints figures"]
fn figures() {
    let spread = |mut times: Vec<Duration>| {
        times.sort_unstable();
        format!("median {:.2?}, worst {:.2?} of {}", times[times.len() / 2], times[times.len() - 1], times.len())
    };
    for silent in [false, true] {
        let what = if silent { "silent" } else { "killed" };
        let local = |seed| until_failed(&mut near(Config::local())(seed, 5), silent).unwrap();
        let wan = |seed| until_failed(&mut far(seed, 16), silent).unwrap();
        println!("local, 5 members, {what}: {}", spread((1..=200).map(local).collect()));
        println!("wan, 16 members, {what}: {}", spread((1..=200).map(wan).collect()));
    }
    for (name, mut net) in [("local", near(Config::local())(1, 5)), ("wan", far(1, 16))] {
        net.run_for(Duration::from_secs(20));
        let bytes = |net: &Net| net.hosts.iter().map(|host| host.bytes_out).sum::<u64>();
        let before = bytes(&net);
        net.run_for(Duration::from_secs(300));
        let members = u64::try_from(net.hosts.len()).unwrap();
        println!(
            "{name}: {} B/s a member, {} suspicions in 320 s",
            (bytes(&net) - before) / 300 / members,
            suspicions(&net)
        );
    }
}
