//! Starts, ends and rest: joining, kills, hosts that fall silent, restarts, an idle cluster.

use std::time::Duration;
use std::time::Instant;

use crate::agent::Finding;
use crate::lab::Lab;
use crate::log::State;
use crate::meter;
use crate::outcome::Outcome;
use crate::trouble;

/// All scenarios.
pub(crate) const NAMES: [&str; 9] = ["join", "kill", "silent", "restart", "loss", "sick", "halves", "oneway", "idle"];

const DETECTED: Duration = Duration::from_secs(3);
const TAIL: Duration = Duration::from_secs(5);
const ALL_AGAIN: Duration = Duration::from_secs(10);
/// Before an idle cluster is measured.
const SETTLE: Duration = Duration::from_secs(15);

/// Runs one scenario on a fresh network.
///
/// # Errors
/// When something did not come about at all, or the machine does not do what is asked of it.
pub(crate) fn run(name: &str, lab: &mut Lab<'_>, outcome: &mut Outcome) -> Result<(), String> {
    match name {
        "join" => join(lab, outcome),
        "kill" => kill(lab, outcome),
        "silent" => silent(lab, outcome),
        "restart" => restart(lab, outcome),
        "loss" => trouble::loss(lab, outcome),
        "sick" => trouble::sick(lab, outcome),
        "halves" => trouble::halves(lab, outcome),
        "oneway" => trouble::one_way(lab, outcome),
        "idle" => idle(lab, outcome),
        other => Err(format!("there is no scenario {other}")),
    }
}

/// All but the first start at once with nothing but its address.
fn join(lab: &mut Lab<'_>, outcome: &mut Outcome) -> Result<(), String> {
    let all = lab.all();
    let mut times = Vec::new();
    for _ in 0..outcome.options.rounds {
        lab.start(0, Finding::Listed)?;
        std::thread::sleep(Duration::from_secs(1));
        for member in lab.others(0) {
            lab.start(member, Finding::Seed)?;
        }
        times.push(lab.until("all have joined", || lab.is_whole(&all))?);
        lab.kill(&all)?;
        all.iter().try_for_each(|member| lab.wipe(*member))?;
        lab.log.forget();
    }
    outcome.times("join", "last started -> all views full", &times, Some(TAIL));
    Ok(())
}

/// One is killed; it comes back with its disk, or, every other time, without.
fn kill(lab: &mut Lab<'_>, outcome: &mut Outcome) -> Result<(), String> {
    lab.start_all()?;
    let (mut suspected, mut first, mut all) = (Vec::new(), Vec::new(), Vec::new());
    let (mut seen, mut sees, mut false_deaths) = (Vec::new(), Vec::new(), 0);
    for round in 0..outcome.options.rounds {
        let victim = (round * 5 + 1) % lab.members;
        let others = lab.others(victim);
        let began = Instant::now();
        lab.kill(&[victim])?;
        all.push(lab.until_said(&others, victim, State::Failed, began)?);
        let earliest =
            |state| lab.said(began, state, |event| event.about == victim).first().map(|event| event.at - began);
        suspected.extend(earliest(State::Suspect));
        first.extend(earliest(State::Failed));
        false_deaths += lab.said(began, State::Failed, |event| event.about != victim).len();
        if round % 2 == 1 {
            lab.wipe(victim)?;
        }
        let again = Instant::now();
        lab.start(victim, Finding::Listed)?;
        seen.push(lab.until_said(&others, victim, State::Alive, again)?);
        lab.until("it sees all", || lab.is_whole(&[victim]))?;
        sees.push(again.elapsed());
        false_deaths += lab.said(again, State::Failed, |_| true).len();
        lab.calm(again);
    }
    outcome.times("kill", "first suspects", &suspected, None);
    outcome.times("kill", "first says failed", &first, None);
    outcome.times("kill", "all say failed", &all, Some(DETECTED));
    outcome.times("kill", "restarted: all see it", &seen, Some(TAIL));
    outcome.times("kill", "restarted: it sees all", &sees, Some(TAIL));
    outcome.figures("kill", "false deaths", &[f64::from(u32::try_from(false_deaths).unwrap_or(u32::MAX))], Some(0.0));
    Ok(())
}

/// A host is cut off without anybody being told.
fn silent(lab: &mut Lab<'_>, outcome: &mut Outcome) -> Result<(), String> {
    lab.start_all()?;
    let (mut first, mut all, mut healed, mut false_deaths) = (Vec::new(), Vec::new(), Vec::new(), 0);
    let everybody = lab.all();
    for round in 0..outcome.options.rounds {
        let victim = (round * 5 + 2) % lab.members;
        let began = Instant::now();
        lab.net.plug(victim, false)?;
        all.push(lab.until_said(&lab.others(victim), victim, State::Failed, began)?);
        let said = lab.said(began, State::Failed, |event| event.about == victim);
        first.extend(said.first().map(|event| event.at - began));
        std::thread::sleep(Duration::from_secs(8));
        false_deaths += lab.said(began, State::Failed, |event| event.about != victim && event.observer != victim).len();
        let again = Instant::now();
        lab.net.plug(victim, true)?;
        lab.until("it is whole again", || lab.is_whole(&everybody))?;
        healed.push(again.elapsed());
        lab.calm(again);
    }
    outcome.times("silent", "first says failed", &first, None);
    outcome.times("silent", "all say failed", &all, Some(TAIL));
    outcome.times("silent", "back after 8 s and more: whole", &healed, Some(TAIL));
    outcome.figures("silent", "false deaths", &[f64::from(u32::try_from(false_deaths).unwrap_or(u32::MAX))], Some(0.0));
    Ok(())
}

/// Everything is killed and started again at once.
fn restart(lab: &mut Lab<'_>, outcome: &mut Outcome) -> Result<(), String> {
    lab.start_all()?;
    let all = lab.all();
    let mut times = Vec::new();
    for _ in 0..outcome.options.rounds {
        lab.kill(&all)?;
        lab.log.forget();
        let began = Instant::now();
        all.iter().try_for_each(|member| lab.start(*member, Finding::Listed))?;
        lab.until("all are alive again", || lab.is_whole(&all))?;
        times.push(began.elapsed());
        lab.calm(began);
    }
    outcome.times("restart", "everything at once: all alive everywhere", &times, Some(ALL_AGAIN));
    Ok(())
}

/// Nothing happens.
fn idle(lab: &mut Lab<'_>, outcome: &mut Outcome) -> Result<(), String> {
    lab.start_all()?;
    std::thread::sleep(SETTLE);
    let read = |lab: &Lab<'_>| -> Vec<[f64; 6]> {
        let of = |member| {
            let of_process = |read: fn(u32) -> f64| lab.pid(member).map_or(0.0, read);
            let (gossip, streams) = lab.net.sent(member);
            let [bytes, packets, stream_bytes, stream_packets] =
                [gossip.bytes, gossip.packets, streams.bytes, streams.packets]
                    .map(|number| f64::from(u32::try_from(number).unwrap_or(u32::MAX)));
            [of_process(meter::cpu_ms), of_process(meter::wakes), bytes, packets, stream_bytes, stream_packets]
        };
        lab.all().into_iter().map(of).collect()
    };
    let began = Instant::now();
    let before = read(lab);
    std::thread::sleep(outcome.options.span);
    let (after, seconds) = (read(lab), began.elapsed().as_secs_f64());
    let rate = |at: usize| -> Vec<f64> {
        before.iter().zip(&after).map(|(before, after)| (after[at] - before[at]) / seconds).collect()
    };
    outcome.figures("idle", "processor time, ms a second", &rate(0), Some(0.5));
    outcome.figures("idle", "wake-ups of threads a second", &rate(1), None);
    outcome.figures("idle", "gossip sent, bytes a second (IP)", &rate(2), Some(300.0));
    outcome.figures("idle", "gossip sent, packets a second", &rate(3), None);
    outcome.figures("idle", "QUIC or TCP sent, bytes a second (IP)", &rate(4), None);
    outcome.figures("idle", "QUIC or TCP sent, packets a second", &rate(5), None);
    let memory: Vec<f64> =
        lab.all().into_iter().filter_map(|member| lab.pid(member)).map(meter::resident_mib).collect();
    outcome.figures("idle", "resident memory, MiB", &memory, None);
    outcome.figures("idle", "suspicions", &[trouble::count(&lab.said(began, State::Suspect, |_| true))], Some(0.0));
    Ok(())
}
