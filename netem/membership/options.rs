//! What is to be run.

use std::path::PathBuf;
use std::time::Duration;

use crate::agent::Kind;
use crate::scenario;

const USAGE: &str = "usage: run [SCENARIO...] [--members 16] [--rounds 5] [--seconds 60] [--loss 30] \
[--serf | --program PATH] [--logs FOLDER]";

/// What is to be run, and on what.
pub(crate) struct Options {
    pub(crate) scenarios: Vec<String>,
    pub(crate) kind: Kind,
    pub(crate) members: usize,
    /// How often what is short is done.
    pub(crate) rounds: usize,
    /// How long what takes its time goes on.
    pub(crate) span: Duration,
    /// Share of packets lost on each path, in per cent.
    pub(crate) loss: u32,
    /// Whether this is the test, whose bounds are wide enough for a busy machine and a debug build.
    pub(crate) brief: bool,
    /// Where the members' logs are copied to.
    pub(crate) logs: Option<PathBuf>,
}

impl Options {
    /// Reads the arguments after `run`.
    pub(crate) fn parse(arguments: &[String]) -> Result<Self, String> {
        let program = option_env!("CARGO_BIN_EXE_dynamomini").unwrap_or("dynamomini");
        let mut options = Self {
            scenarios: Vec::new(),
            kind: Kind::DynamoMini(PathBuf::from(program)),
            members: 16,
            rounds: 5,
            span: Duration::from_secs(60),
            loss: 30,
            brief: false,
            logs: None,
        };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} takes a value; {USAGE}"));
            match argument.as_str() {
                "--members" => options.members = number(value()?)?,
                "--rounds" => options.rounds = number(value()?)?,
                "--seconds" => options.span = Duration::from_secs(number(value()?)?),
                "--loss" => options.loss = number(value()?)?,
                "--serf" => options.kind = Kind::Serf,
                "--program" => options.kind = Kind::DynamoMini(PathBuf::from(value()?)),
                "--logs" => options.logs = Some(PathBuf::from(value()?)),
                "--brief" => {
                    options.brief = true;
                    (options.members, options.rounds, options.span) = (6, 1, Duration::from_secs(12));
                    options.scenarios = ["kill", "silent", "loss"].map(str::to_owned).to_vec();
                }
                name if scenario::NAMES.contains(&name) => options.scenarios.push(name.to_owned()),
                other => return Err(format!("{other} is unknown; {USAGE}\nscenarios: {}", scenario::NAMES.join(" "))),
            }
        }
        if options.scenarios.is_empty() {
            options.scenarios = scenario::NAMES.map(str::to_owned).to_vec();
        }
        if !(4..=64).contains(&options.members) || options.rounds == 0 || options.loss > 90 {
            return Err("4 to 64 members, at least one round, and at most 90 % of loss are possible".to_owned());
        }
        Ok(options)
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text} is no number that fits here; {USAGE}"))
}
