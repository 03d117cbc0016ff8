//! Asking whether to go on with what cannot be taken back, or has others work for it.

use std::io::IsTerminal;
use std::io::Write;

use anyhow::bail;

use crate::cli::Context;
use crate::cli::Usage;

/// Refuses an order that must be confirmed where nobody can be asked, before anything is done for it. `does` says what it does.
///
/// # Errors
/// [`Usage`] without `yes` where there is no terminal, or output is for programs.
pub(crate) fn check(context: &Context, yes: bool, does: &str) -> anyhow::Result<()> {
    let asks = std::io::stdin().is_terminal() && std::io::stderr().is_terminal() && !context.output.is_json();
    if yes || asks {
        return Ok(());
    }
    Err(Usage(format!("{does}, and nobody can be asked here whether to go on: give --yes")).into())
}

/// Asks, unless `yes` says it already.
///
/// # Errors
/// When the answer is no, or there is none.
pub(crate) fn ask(yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    let mut error = std::io::stderr();
    write!(error, "Go on? [y/N] ")?;
    error.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    bail!("nothing was changed");
}
