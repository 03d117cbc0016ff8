//! Prints what the documentation states: `cargo test --release --test sim gossip::figures -- --ignored --nocapture`.

use std::time::Duration;

use dynamomini::swim::Standing;

use super::net::Net;

fn spread(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let of = |share: usize| times[(times.len() - 1) * share / 100];
    format!("median {:.2?}, 99 % {:.2?}, worst {:.2?} of {}", of(50), of(99), of(100), times.len())
}

fn until_failed(seed: u64, members: usize, silent: bool) -> Duration {
    let mut net = Net::settled(seed, members);
    net.run_for(Duration::from_millis(2_000 + seed % 997));
    if silent {
        net.switch_off(0)
    } else {
        net.kill(0)
    };
    let took = net.run_while(Duration::from_secs(60), |net| net.all_see(0, Standing::Failed));
    took.unwrap_or(Duration::from_secs(60))
}

#[test]
#[ignore = "prints figures"]
fn detection() {
    for (members, runs) in [(3, 300), (16, 300), (128, 100), (1000, 10)] {
        for silent in [false, true] {
            let times = (1..=runs).map(|seed| until_failed(seed, members, silent)).collect();
            println!("{members:5} members, {}: {}", if silent { "silent" } else { "killed" }, spread(times));
        }
    }
}

#[test]
#[ignore = "prints figures"]
fn loss() {
    for (members, runs) in [(16, 10), (32, 5), (128, 1)] {
        for loss in [0.1, 0.2, 0.3, 0.4] {
            let (mut deaths, mut bytes, mut accusations, mut factor, mut syncs, mut refuted) = (0, 0, 0, 0, 0, 0);
            for seed in 1..=runs {
                let mut net = Net::settled(seed, members);
                net.conditions.loss = loss;
                net.run_for(Duration::from_secs(300));
                deaths += net.false_deaths.len();
                for host in &net.hosts {
                    let swim = host.swim.as_ref().unwrap();
                    bytes += host.bytes_out;
                    accusations += swim.counters().accusations;
                    syncs += swim.counters().syncs;
                    refuted += swim.counters().refutations;
                    factor += u64::from(swim.health_factor());
                }
            }
            let all = u64::try_from(members).unwrap() * runs;
            println!(
                "{members:4} members, loss {loss}: {deaths} false deaths in {runs} runs of 300 s; {} B/s, {:.2} accusations/s, {:.2} refutations/s, {:.2} syncs/s a member, health factor {:.1}",
                bytes / all / 300,
                accusations as f64 / all as f64 / 300.0,
                refuted as f64 / all as f64 / 300.0,
                syncs as f64 / all as f64 / 300.0,
                factor as f64 / all as f64,
            );
        }
    }
}

#[test]
#[ignore = "prints figures"]
fn idle() {
    for members in [3, 16, 128, 1000] {
        let mut net = Net::settled(1, members);
        net.run_for(Duration::from_secs(20));
        let before: u64 = net.hosts.iter().map(|host| host.bytes_out).sum();
        net.run_for(Duration::from_secs(60));
        let after: u64 = net.hosts.iter().map(|host| host.bytes_out).sum();
        println!("{members} members: {} B/s a member", (after - before) / 60 / u64::try_from(members).unwrap());
    }
}
