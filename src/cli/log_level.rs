//! `dynamomini log-level`: what running nodes log, and changing it without a restart.

use anyhow::bail;
use futures_util::future::join_all;
use serde_json::Value;
use serde_json::json;

use crate::cli::Context;
use crate::cli::Said;
use crate::cli::Usage;
use crate::cli::connect::Connect;
use crate::cli::table::row;
use crate::cli::table::table;
use crate::config::settings;

/// Arguments of `log-level`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without FILTERS it shows what is in force. All nodes are asked unless --node names one. It needs an \
administrator's certificate. What is set lasts until the node's process ends; log.level is what holds after that.

Examples:
  dynamomini log-level
  dynamomini log-level debug --node n1
  dynamomini log-level info,dynamomini::node=debug    # one line for each request, with its number
  dynamomini log-level info"
)]
pub(crate) struct Args {
    /// A level (error, warn, info, debug, trace), or filters such as info,dynamomini::net=debug.
    filters: Option<String>,
    #[command(flatten)]
    connect: Connect,
}

impl Args {
    /// Asks and prints.
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let Self { filters, connect } = self;
        if let Some(filters) = &filters {
            settings::log_level(filters).map_err(Usage)?;
        }
        let only = connect.node().cloned();
        let answers = connect.run(context, async |client, _| {
            let view = client.view();
            let members = view.info().members.iter().map(|member| member.name.clone());
            let names = members.filter(|name| only.as_ref().is_none_or(|only| only == name));
            Ok(join_all(names.map(async |name| (name.clone(), client.log_filters(&name, filters.clone()).await))).await)
        })?;
        let nodes: Vec<Value> = answers
            .iter()
            .map(|(name, answer)| match answer {
                Ok(filters) => json!({"id": name.as_str(), "filters": filters}),
                Err(error) => json!({"id": name.as_str(), "error": error.to_string()}),
            })
            .collect();
        context.output.print(&json!({"nodes": nodes}), |_| {
            let rows = answers.iter().map(|(name, answer)| match answer {
                Ok(filters) => row([name.as_str(), filters]),
                Err(error) => row([name.as_str(), &format!("error: {error}")]),
            });
            table(&std::iter::once(row(["NODE", "FILTERS"])).chain(rows).collect::<Vec<_>>())
        })?;
        match answers.iter().filter(|(_, answer)| answer.is_err()).count() {
            0 => Ok(()),
            _ if context.output.is_json() => Err(Said.into()),
            failed => bail!("{failed} of {} nodes did not do it", answers.len()),
        }
    }
}
