//! Named checkers. Each fails with the seed and the command that runs it alone again.

use std::time::Duration;

use super::net::Net;

/// Fails in the name of a checker.
fn fail(net: &Net, scenario: &str, checker: &str, what: &str) -> ! {
    panic!(
        "seed {seed}: {checker}: {what}\nagain: SIM_SEED={seed} cargo test --release --test sim gossip::{scenario} -- \
         --exact --nocapture",
        seed = net.seed,
    )
}

/// What happened must have happened, within its time.
pub(crate) fn within(net: &Net, scenario: &str, what: &str, took: Option<Duration>, longest: Duration) -> Duration {
    match took {
        Some(took) if took <= longest => took,
        took => fail(net, scenario, "within", &format!("{what} took {took:?}, more than {longest:?}")),
    }
}

/// Nobody in health was held dead by somebody in health.
pub(crate) fn no_false_death(net: &Net, scenario: &str) {
    if !net.false_deaths.is_empty() {
        let first: Vec<_> = net.false_deaths.iter().take(5).collect();
        let what = format!("{} deaths of healthy members, first (when, by, of) {first:?}", net.false_deaths.len());
        fail(net, scenario, "no_false_death", &what);
    }
}

/// No datagram was above the limit.
pub(crate) fn datagrams_fit(net: &Net, scenario: &str) {
    let largest = net.hosts.iter().map(|host| host.largest).max().unwrap_or(0);
    if largest > net.config.datagram_max {
        fail(net, scenario, "datagrams_fit", &format!("a datagram had {largest} bytes"));
    }
}

/// A figure is at most this.
pub(crate) fn at_most(net: &Net, scenario: &str, what: &str, figure: f64, most: f64) {
    if figure > most {
        fail(net, scenario, "at_most", &format!("{what}: {figure}, more than {most}"));
    }
}
