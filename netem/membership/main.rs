//! Membership of real processes on bad networks: each member in a network namespace of its own, all on one bridge.
//!
//! Without arguments, as a test: six nodes, one killed and restarted, one fallen silent, everybody losing 30 %. With `run`, the
//! scenarios that are named, with figures; the folder's README shows how. It measures membership alone: no data is written.
//!
//! Everything happens inside namespaces (network, processes, mounts) that end with this process, however it ends, and
//! take all that was made in them along: nothing is left to clean up.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr, missing_docs)]

mod agent;
mod lab;
mod log;
mod meter;
mod net;
mod options;
mod outcome;
mod scenario;
mod trouble;
mod wait;

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::process::ExitCode;
use std::process::Stdio;

use self::lab::Lab;
use self::net::Net;
use self::options::Options;
use self::outcome::Outcome;

/// What a filter of `cargo test` is compared with.
const NAME: &str = "membership_of_processes_in_namespaces";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("inside") => inside(&arguments[1..]),
        Some("run") => enter(&arguments[1..], true),
        _ if is_wanted(&arguments) => enter(&["--brief".to_owned()], false),
        _ => ExitCode::SUCCESS,
    }
}

/// Whether `cargo test` means this test: its arguments go to every test program.
fn is_wanted(arguments: &[String]) -> bool {
    let listing = arguments.iter().any(|argument| argument == "--list" || argument == "--ignored");
    let mut filters = arguments.iter().filter(|argument| !argument.starts_with('-')).peekable();
    !listing && (filters.peek().is_none() || filters.any(|filter| NAME.contains(filter.as_str())))
}

/// Becomes a process in namespaces of its own, which goes on in `inside`.
fn enter(arguments: &[String], asked_for: bool) -> ExitCode {
    if let Err(why) = Options::parse(arguments) {
        eprintln!("{why}");
        return ExitCode::from(2);
    }
    let trial = "ip link add t0 type veth peer name t1 && mount -t tmpfs none /run && nft list ruleset";
    let able = namespaces().args(["sh", "-c", trial]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !able.is_ok_and(|status| status.success()) {
        eprintln!(
            "########## SKIPPED: this takes root, and unshare, ip and nft (util-linux, iproute2, nftables) ##########"
        );
        return if asked_for { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let Ok(own) = std::env::current_exe() else { return ExitCode::FAILURE };
    // The shell is the first process of its namespace, which is deaf to an interrupt; its child is not.
    let error = namespaces().args(["sh", "-c", "\"$@\"; exit $?", "sh"]).arg(own).arg("inside").args(arguments).exec();
    eprintln!("unshare: {error}");
    ExitCode::FAILURE
}

fn namespaces() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    command
}

fn inside(arguments: &[String]) -> ExitCode {
    let outcome = Options::parse(arguments).and_then(|options| run(&options));
    match outcome {
        Ok(outcome) if outcome.missed().is_empty() => ExitCode::SUCCESS,
        Ok(outcome) => {
            println!("\nnot as it should be: {}", outcome.missed().join("; "));
            ExitCode::FAILURE
        }
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Runs all scenarios, each on a cluster of its own.
fn run(options: &Options) -> Result<Outcome, String> {
    net::prepare()?;
    let net = Net::new(options.members)?;
    let mut outcome = Outcome::new(options);
    for (at, name) in options.scenarios.iter().enumerate() {
        let mut lab = Lab::new(options, &net, at)?;
        let done = scenario::run(name, &mut lab, &mut outcome);
        lab.keep_logs(name);
        outcome.machine(name);
        if let Err(why) = done {
            return Err(format!("{name}: {why}\n{}", lab.ends_of_logs()));
        }
    }
    Ok(outcome)
}
