//! `dynamomini delete`: deletes a key.

use crate::cli::Context;
use crate::cli::connect::Connect;
use crate::cli::connect::KeyForm;
use crate::cli::put;
use crate::client::CausalContext;
use crate::client::PutOptions;
use crate::types::Condition;

/// Arguments of `delete`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A delete is a write: it does not read first, so it succeeds whether or not there was a value. Without \
--context it deletes all that the coordinator holds of the key; with --context only what was read, so that a value \
written since then remains.

Examples:
  dynamomini delete cart:7
  dynamomini delete cart:7 --context \"$(dynamomini get cart:7 --context)\" -w all"
)]
pub(crate) struct Args {
    /// The key.
    key: String,
    /// What was read: a context that get or put printed.
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    context: Option<CausalContext>,
    /// Delete only if nothing was written since --context was read.
    #[arg(long, requires = "context")]
    if_current: bool,
    #[command(flatten)]
    quorum: put::Quorum,
    #[command(flatten)]
    form: KeyForm,
    #[command(flatten)]
    connect: Connect,
}

impl Args {
    /// Deletes.
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let key = self.form.read(&self.key)?;
        let seen = self.context.unwrap_or_default();
        self.connect.run(context, async |client, config| {
            let condition = self.if_current.then_some(Condition::IfCurrent);
            let (w, sloppy) = (config.w, self.quorum.sloppy());
            let options = PutOptions { context: seen, condition, w, sloppy, ..PutOptions::default() };
            let written = client.delete(key, options).await?;
            put::print(context, "deleted", &self.key, &written)
        })
    }
}
