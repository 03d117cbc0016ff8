//! The figures: printed as they come, with what was aimed at.

use std::time::Duration;

use crate::meter;
use crate::meter::Lateness;
use crate::options::Options;

/// What was measured so far.
pub(crate) struct Outcome {
    pub(crate) options: Given,
    lateness: Lateness,
    missed: Vec<String>,
}

/// What scenarios need of the options.
pub(crate) struct Given {
    pub(crate) rounds: usize,
    pub(crate) span: Duration,
    pub(crate) loss: u32,
    brief: bool,
}

impl Outcome {
    pub(crate) fn new(options: &Options) -> Self {
        println!("# {}, {} members", options.kind.name(), options.members);
        println!("{:<10} {:<46} {:>24}   aim", "scenario", "what", "median [min-max]");
        let given = Given { rounds: options.rounds, span: options.span, loss: options.loss, brief: options.brief };
        Self { options: given, lateness: Lateness::watch(), missed: Vec::new() }
    }

    /// Times, in seconds, of which none should be above the aim.
    pub(crate) fn times(&mut self, scenario: &str, what: &str, times: &[Duration], aim: Option<Duration>) {
        let seconds: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
        line(scenario, what, &spread(&seconds, 2, " s"), aim.map(|aim| aim.as_secs_f64()));
        // A machine that runs all tests at once, in debug builds, gets ten times as long.
        let bound = aim.map(|aim| if self.options.brief { 10 * aim } else { aim });
        let worst = times.iter().max();
        if let (Some(bound), Some(worst)) = (bound, worst)
            && worst > &bound
        {
            self.missed.push(format!("{scenario}: {what}: {worst:.1?}"));
        }
    }

    /// Figures, of which none should be above the aim.
    pub(crate) fn figures(&mut self, scenario: &str, what: &str, figures: &[f64], aim: Option<f64>) {
        let digits = usize::from(figures.iter().any(|figure| figure.fract() != 0.0)) * 2;
        line(scenario, what, &spread(figures, digits, ""), aim);
        if aim.is_some_and(|aim| figures.iter().any(|figure| *figure > aim)) {
            self.missed.push(format!("{scenario}: {what}"));
        }
    }

    /// How busy the machine was during a scenario.
    pub(crate) fn machine(&self, scenario: &str) {
        let (load, late) = (meter::load(), self.lateness.worst_ms());
        println!("{scenario:<10} load {load}; of all sleeps of 10 ms one ended {late} ms late");
    }

    /// What was above its aim.
    pub(crate) fn missed(&self) -> &[String] {
        &self.missed
    }
}

fn line(scenario: &str, what: &str, figures: &str, aim: Option<f64>) {
    let aim = aim.map_or_else(|| "-".to_owned(), |aim| format!("<= {aim}"));
    println!("{scenario:<10} {what:<46} {figures:>24}   {aim}");
}

/// Median, least and most.
fn spread(figures: &[f64], digits: usize, unit: &str) -> String {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else { return "-".to_owned() };
    let median = sorted[sorted.len() / 2];
    if sorted.len() == 1 {
        return format!("{median:.digits$}{unit}");
    }
    format!("{median:.digits$} [{first:.digits$}-{last:.digits$}]{unit}")
}
