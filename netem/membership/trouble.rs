//! Networks and members that work badly for a while: loss, members that hardly run, cuts.

use std::time::Duration;
use std::time::Instant;

use crate::lab::Lab;
use crate::log::Event;
use crate::log::State;
use crate::outcome::Outcome;
use crate::wait::within;

/// How long the sick are stopped, and run, by turns.
const STOPPED: Duration = Duration::from_secs(8);
const RUNNING: Duration = Duration::from_millis(50);
/// How soon everything must be well after the trouble.
const TAIL: Duration = Duration::from_secs(5);

pub(crate) fn count(events: &[Event]) -> f64 {
    f64::from(u32::try_from(events.len()).unwrap_or(u32::MAX))
}

/// Every path loses the same share of its packets, gossip and QUIC alike.
pub(crate) fn loss(lab: &mut Lab<'_>, outcome: &mut Outcome) -> Result<(), String> {
    lab.start_all()?;
    let percent = outcome.options.loss;
    let everybody = lab.all();
    let (mut deaths, mut suspicions, mut healed, mut rates) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..outcome.options.rounds {
        let (began, before) = (Instant::now(), lab.net.sent(0).0.bytes);
        lab.net.lose(percent)?;
        std::thread::sleep(outcome.options.span);
        if percent > 0 && lab.net.dropped() == 0 {
            return Err("the rules of loss have dropped nothing".to_owned());
        }
        let sent = u32::try_from(lab.net.sent(0).0.bytes - before).unwrap_or(u32::MAX);
        rates.push((f64::from(sent) / began.elapsed().as_secs_f64()).round());
        lab.net.lose(0)?;
        let again = Instant::now();
        deaths.push(count(&lab.said(began, State::Failed, |_| true)));
        suspicions.push(count(&lab.said(began, State::Suspect, |_| true)));
        lab.until("it is whole again", || lab.is_whole(&everybody))?;
        healed.push(again.elapsed());
        lab.calm(again);
    }
    let name = format!("loss {percent}%");
    outcome.figures(&name, "false deaths, all observers", &deaths, Some(0.0));
    outcome.figures(&name, "suspicions, all observers", &suspicions, None);
    outcome.figures(&name, "gossip sent by one, bytes a second (IP)", &rates, None);
    outcome.times(&name, "whole after it ended", &healed, Some(TAIL));
    Ok(())
}

/// A quarter of the members are stopped, and run for moments only.
pub(crate) fn sick(lab: &mut Lab<'_>, outcome: &mut Outcome) -> Result<(), String> {
    lab.start_all()?;
    let everybody = lab.all();
    let (sick, healthy): (Vec<usize>, Vec<usize>) = everybody.iter().partition(|member| *member % 4 == 1);
    let (mut of_healthy, mut at_healthy, mut of_sick, mut back) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut healed = Vec::new();
    for _ in 0..outcome.options.rounds {
        let began = Instant::now();
        while began.elapsed() < outcome.options.span {
            lab.signal(&sick, "STOP")?;
            std::thread::sleep(STOPPED);
            lab.signal(&sick, "CONT")?;
            std::thread::sleep(RUNNING);
        }
        let again = Instant::now();
        let about_healthy = lab.said(began, State::Failed, |event| healthy.contains(&event.about));
        let by_healthy: Vec<Event> =
            about_healthy.iter().copied().filter(|event| healthy.contains(&event.observer)).collect();
        of_healthy.push(count(&about_healthy));
        at_healthy.push(count(&by_healthy));
        of_sick.push(count(&lab.said(began, State::Failed, |event| sick.contains(&event.about))));
        back.push(count(&lab.said(began, State::Alive, |event| sick.contains(&event.about))));
        lab.until("it is whole again", || lab.is_whole(&everybody))?;
        healed.push(again.elapsed());
        lab.calm(again);
    }
    outcome.figures("sick", "deaths of healthy members, all observers", &of_healthy, Some(0.0));
    outcome.figures("sick", "deaths of healthy members, healthy observers", &at_healthy, Some(0.0));
    // In two minutes each observer may see each of them fail four times, as in the simulation.
    let pairs = f64::from(u32::try_from(sick.len() * (lab.members - 1)).unwrap_or(u32::MAX));
    outcome.figures("sick", "deaths of sick members, all observers", &of_sick, Some(4.0 * pairs));
    outcome.figures("sick", "sick members alive again, all observers", &back, None);
    outcome.times("sick", "whole after it ended", &healed, None);
    Ok(())
}

/// The cluster is cut in halves.
pub(crate) fn halves(lab: &mut Lab<'_>, outcome: &mut Outcome) -> Result<(), String> {
    lab.start_all()?;
    let everybody = lab.all();
    let (low, high) = everybody.split_at(lab.members / 2);
    let (mut seen, mut healed, mut own_side) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..outcome.options.rounds {
        let began = Instant::now();
        low.iter().try_for_each(|member| lab.net.cut(*member, high))?;
        high.iter().try_for_each(|member| lab.net.cut(*member, low))?;
        let across = |event: &Event| low.contains(&event.observer) != low.contains(&event.about);
        let all_said = || {
            let held = |one: &usize, other: &usize| lab.log.last(*one, *other, began) == Some(State::Failed);
            low.iter().all(|one| high.iter().all(|other| held(one, other) && held(other, one)))
        };
        within(outcome.options.span, all_said);
        if all_said() {
            let said = lab.said(began, State::Failed, across);
            seen.extend(said.last().map(|event| event.at - began));
        }
        std::thread::sleep(outcome.options.span.saturating_sub(began.elapsed()));
        own_side.push(count(&lab.said(began, State::Failed, |event| !across(event))));
        let again = Instant::now();
        lab.net.mend()?;
        lab.until("it is whole again", || lab.is_whole(&everybody))?;
        healed.push(again.elapsed());
        lab.calm(again);
    }
    outcome.times("halves", "both sides see the whole cut", &seen, None);
    outcome.times("halves", "joined: whole again", &healed, Some(TAIL));
    outcome.figures("halves", "false deaths on the own side", &own_side, Some(0.0));
    Ok(())
}

/// One member hears nothing of what one other sends.
pub(crate) fn one_way(lab: &mut Lab<'_>, outcome: &mut Outcome) -> Result<(), String> {
    lab.start_all()?;
    let (mut deaths, mut suspicions) = (Vec::new(), Vec::new());
    for round in 0..outcome.options.rounds {
        let (deaf, mute) = (round % lab.members, (round + 2) % lab.members);
        let began = Instant::now();
        lab.net.cut(deaf, &[mute])?;
        std::thread::sleep(outcome.options.span);
        lab.net.mend()?;
        deaths.push(count(&lab.said(began, State::Failed, |_| true)));
        suspicions.push(count(&lab.said(began, State::Suspect, |_| true)));
        lab.calm(Instant::now());
    }
    outcome.figures("oneway", "deaths, all observers", &deaths, Some(0.0));
    outcome.figures("oneway", "suspicions, all observers", &suspicions, None);
    Ok(())
}
