//! A lab that runs until it is ended, and does what other processes ask of it by datagrams.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::path::PathBuf;
use std::time::Instant;

use crate::actions;
use crate::actions::Step;
use crate::gauge;
use crate::groups;
use crate::lab;
use crate::lab::Lab;
use crate::lab::Wanted;
use crate::place::say;

/// The longest question.
const QUESTION_MAX: usize = 4_096;

/// Where the lab of a folder is asked.
pub(crate) fn control(folder: &Path) -> PathBuf {
    folder.join("control")
}

/// Makes a lab and serves it for ever, or until its scenario ends.
///
/// # Errors
/// What could not be made, or be done of the scenario.
pub(crate) fn run(
    wanted: &Wanted,
    folder: &Path,
    apply: &str,
    home: &[String],
    scenario: Option<&Path>,
) -> Result<(), String> {
    let nodes = wanted.plan.nodes;
    // Read before anything is made, so that a fault shows at once.
    let first = actions::parse(&format!("apply {apply}"), nodes, home)?;
    let steps = scenario.map(|path| {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        actions::scenario(&text, nodes, home).map_err(|why| format!("{}: {why}", path.display()))
    });
    let steps = steps.transpose()?;
    let mut lab = Lab::new(wanted, folder)?;
    lab.perform(&first)?;
    match steps {
        Some(steps) => play(&mut lab, &steps),
        None => serve(&mut lab, home),
    }
}

fn serve(lab: &mut Lab, home: &[String]) -> Result<(), String> {
    let path = control(lab.folder());
    let socket = UnixDatagram::bind(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let last = groups::name(lab.net.nodes() - 1);
    say(&format!(
        "ready: n1 to {last}. Elsewhere, for example: netem/lab exec n1 dynamomini status; netem/lab link n1 n2 delay 50ms loss 1%"
    ));
    let mut buffer = [0; QUESTION_MAX];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).map_err(|error| error.to_string())?;
        let question = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let answer = answer(lab, home, &question).unwrap_or_else(|why| format!("error: {why}"));
        if let Some(to) = from.as_pathname()
            && let Err(error) = socket.send_to(answer.as_bytes(), to)
        {
            say(&format!("no answer to {question}: {error}"));
        }
    }
}

fn answer(lab: &mut Lab, home: &[String], question: &str) -> Result<String, String> {
    match question.trim() {
        "show" => Ok(lab.net.show()),
        "report" => Ok(lab::told(&lab.net.account()?)),
        "report json" => serde_json::to_string(&lab.net.account()?).map_err(|error| error.to_string()),
        "matrix" => gauge::matrix(lab),
        "forget" => lab.net.forget().map(|()| "ok".to_owned()),
        line => {
            let action = actions::parse(line, lab.net.nodes(), home)?;
            lab.perform(&action).map(|()| "ok".to_owned())
        }
    }
}

/// Does what a scenario says at its times, and tells what was counted.
fn play(lab: &mut Lab, steps: &[Step]) -> Result<(), String> {
    let began = Instant::now();
    lab.net.forget()?;
    for step in steps {
        lab::pause(step.at.saturating_sub(began.elapsed()));
        say(&format!("t+{:.1}s {}", began.elapsed().as_secs_f64(), step.words));
        lab.perform(&step.action)?;
    }
    let account = lab.net.account()?;
    say(&lab::told(&account));
    if account.unmodelled == 0 {
        Ok(())
    } else {
        Err("this run does not count: packets were lost on no account".to_owned())
    }
}
