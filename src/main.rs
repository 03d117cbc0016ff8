//! The `dynamomini` program: parse, run, exit status. Everything else is in the library.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use dynamomini::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if failure.has_text() {
                // If standard error is gone, the exit status still says it.
                let _ = writeln!(std::io::stderr(), "{failure}");
            }
            failure.exit_code()
        }
    }
}
