//! `dynamomini completions`: a script that teaches a shell the verbs and flags.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::cli::Context;

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  dynamomini completions bash > ~/.local/share/bash-completion/completions/dynamomini"
)]
pub(crate) struct Args {
    /// The shell.
    shell: Shell,
}

impl Args {
    /// Prints the script.
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "dynamomini", &mut script);
        context.output.bytes(&script)
    }
}
