//! `dynamomini config`: check and show a configuration, and list the keys.

use clap::Subcommand;
use serde_json::json;

use crate::cli::Context;
use crate::config::ClientFlags;
use crate::config::ConfigError;
use crate::config::HostChecks;
use crate::config::NodeFlags;
use crate::config::judge_client;
use crate::config::judge_node;
use crate::config::settings::CLIENT;
use crate::config::settings::NODE;
use crate::config::settle::Settled;
use crate::config::show;

/// Arguments of `config`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Check a node's configuration as a whole, with its files, certificates and ports; nothing is started.
    #[command(after_help = "Example:\n  dynamomini config check --config node.toml")]
    Check {
        /// Leave out whether the ports are free: for a node that runs.
        #[arg(long)]
        skip_ports: bool,
        #[command(flatten)]
        flags: NodeFlags,
    },
    /// Check a client's configuration and certificate.
    #[command(after_help = "Example:\n  dynamomini config check-client --config client.toml")]
    CheckClient {
        #[command(flatten)]
        flags: ClientFlags,
    },
    /// Show every value of a node's configuration and where it came from; secrets are masked.
    #[command(after_help = "Example:\n  DYNAMOMINI_LOG_LEVEL=debug dynamomini config show --config node.toml")]
    Show {
        #[command(flatten)]
        flags: NodeFlags,
    },
    /// Show every value of a client's configuration and where it came from.
    #[command(after_help = "Example:\n  dynamomini config show-client")]
    ShowClient {
        #[command(flatten)]
        flags: ClientFlags,
    },
    /// List every key with its default, meaning, flag and environment variable.
    #[command(after_help = "Example:\n  dynamomini config keys --markdown")]
    Keys {
        /// As tables for the README.
        #[arg(long, conflicts_with = "json")]
        markdown: bool,
    },
}

impl Args {
    /// Does what was asked for.
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let now_ms = context.env.wall_ms();
        match self.what {
            What::Check { skip_ports, flags } => {
                let checks = if skip_ports { HostChecks::WithoutPorts } else { HostChecks::All };
                let judged = judge_node(&flags.inputs(), checks, now_ms);
                let warnings = warnings(&judged.settled);
                let config = judged.into_result()?;
                passed(context, &format!("node {} of cluster {}", config.name, config.cluster), &warnings)
            }
            What::CheckClient { flags } => {
                let judged = judge_client(&flags.inputs()?, HostChecks::All, now_ms);
                let warnings = warnings(&judged.settled);
                let config = judged.into_result()?;
                passed(context, &format!("client of cluster {}", config.cluster), &warnings)
            }
            What::Show { flags } => shown(context, judge_node(&flags.inputs(), HostChecks::None, now_ms).settled),
            What::ShowClient { flags } => {
                shown(context, judge_client(&flags.inputs()?, HostChecks::None, now_ms).settled)
            }
            What::Keys { markdown } => keys(context, markdown),
        }
    }
}

fn warnings(settled: &Settled) -> Vec<String> {
    settled.warnings.iter().map(ToString::to_string).collect()
}

fn passed(context: &Context, what: &str, warnings: &[String]) -> anyhow::Result<()> {
    context.output.print(&json!({"ok": true, "what": what, "warnings": warnings}), |_| {
        let mut text = warnings.iter().fold(String::new(), |text, warning| format!("{text}warning: {warning}\n"));
        text.push_str(&format!("ok: {what}\n"));
        text
    })
}

/// Shows what there is even if something is wrong with it, and then fails.
fn shown(context: &Context, settled: Settled) -> anyhow::Result<()> {
    context.output.print(&show::json(&settled), |_| show::text(&settled))?;
    if settled.problems.is_empty() {
        return Ok(());
    }
    Err(ConfigError::Invalid { title: settled.catalogue.title, problems: settled.problems }.into())
}

fn keys(context: &Context, markdown: bool) -> anyhow::Result<()> {
    if markdown {
        let (node, client) = (show::keys_markdown(&NODE), show::keys_markdown(&CLIENT));
        return context.output.line(&format!("### Node\n\n{node}\n### Client\n\n{client}"));
    }
    context.output.print(&json!({"node": show::keys_json(&NODE), "client": show::keys_json(&CLIENT)}), |_| {
        format!("# Node\n\n{}\n# Client\n\n{}", show::keys_text(&NODE), show::keys_text(&CLIENT))
    })
}
