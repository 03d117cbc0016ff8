//! Changes of owners: planned, shown, confirmed, ordered, waited for.

use std::time::Duration;

use anyhow::anyhow;
use serde_json::json;

use crate::cli::Context;
use crate::cli::Said;
use crate::cli::cluster::facts::Situation;
use crate::cli::cluster::text;
use crate::cli::cluster::wait;
use crate::cli::cluster::wait::Waited;
use crate::cli::cluster::wish::Asked;
use crate::cli::cluster::wish::Doing;
use crate::cli::cluster::wish::Looking;
use crate::cli::cluster::wish::Order;
use crate::cli::cluster::wish::Wish;
use crate::cli::confirm;
use crate::cli::waiting::Waiting;
use crate::client::Client;
use crate::client::ClientError;
use crate::layout::Change;
use crate::layout::Layout;
use crate::plan::Plan;
use crate::wire::layout::Despite;

/// Nodes that are asked for a change, one after the other.
const TRIES: u32 = 3;
/// How long one node may take to say how it is.
const LOOK: Duration = Duration::from_secs(5);
/// How long the nodes may take to agree on a change: the one before it may have to be completed first.
const AGREEMENT: Duration = Duration::from_secs(15);

/// Shows what a change would do.
pub(super) fn plan(context: &Context, wish: Wish<Looking>) -> anyhow::Result<()> {
    let (asked, Looking { connect }) = wish.split();
    connect.run(context, async |client, config| {
        let (situation, _, plan) = work_out(client, config.timeout, &asked).await?;
        context.output.print(&text::object(&plan, &situation), |_| text::text(&plan, &situation))?;
        refuse(&plan, context)
    })
}

/// Carries one out.
pub(super) fn run(context: &Context, wish: Wish<Doing>) -> anyhow::Result<()> {
    let (asked, Doing { order, connect }) = wish.split();
    confirm::check(context, order.yes, "this changes who owns data (`dynamomini cluster plan` shows how)")?;
    let mut access = connect.prepare(context)?;
    access.config.timeout = access.config.timeout.max(AGREEMENT);
    context.block_on(None, async {
        let client = access.connect().await?;
        let done = carry_out(context, &client, &asked, &order).await;
        client.close().await;
        done
    })
}

async fn carry_out(context: &Context, client: &Client, asked: &Asked, order: &Order) -> anyhow::Result<()> {
    let (situation, change, plan) = work_out(client, LOOK, asked).await?;
    let json = context.output.is_json();
    if !json {
        context.output.line(&text::text(&plan, &situation))?;
    }
    if order.despite() == Despite::Nothing && !plan.dangers.is_empty() {
        if json {
            let object = json!({"plan": text::object(&plan, &situation), "refused": plan.dangers});
            context.output.print(&object, |_| String::new())?;
        }
        return refuse(&plan, context);
    }
    confirm::ask(order.yes)?;
    let layout = agreed(client, &change, order.despite()).await?;
    let id = layout.next.as_ref().map(|next| format!("layout-{}", next.since));
    if !json {
        let text = match &id {
            Some(id) => format!("begun as task {id}: `dynamomini tasks show {id}` tells how it gets on"),
            None => "the change is given up: owners stay who they are".to_owned(),
        };
        context.output.line(&text)?;
    }
    let waited = match order.waiting {
        Waiting { wait: true, within } => Some(wait::wait(client, &change, layout.version, within).await?),
        Waiting { wait: false, .. } => None,
    };
    let object = json!({
        "plan": text::object(&plan, &situation),
        "task": id,
        "version": layout.version,
        "waited": waited.as_ref().map(Waited::object),
    });
    match waited {
        None if !json => Ok(()),
        Some(waited) if !json => waited.text().and_then(|text| context.output.line(&text)),
        waited => {
            context.output.print(&object, |_| String::new())?;
            if waited.is_none_or(|waited| waited.is_done()) { Ok(()) } else { Err(Said.into()) }
        }
    }
}

/// Has the change agreed on. A node that was lost before it answered may have had it done, so that is looked at before another
/// one is asked.
async fn agreed(client: &Client, change: &Change, despite: Despite) -> anyhow::Result<Layout> {
    let mut tries = TRIES;
    loop {
        tries -= 1;
        match client.change_layout(change.clone(), despite).await {
            Err(error @ ClientError::Unreachable(_)) if tries > 0 => {
                tracing::info!(%error, "asking another node");
                let view = client.refresh().await?;
                if wait::holds(change, view.layout()) {
                    return Ok(view.layout().clone());
                }
            }
            outcome => return Ok(outcome?),
        }
    }
}

async fn work_out(client: &Client, patience: Duration, asked: &Asked) -> anyhow::Result<(Situation, Change, Plan)> {
    let situation = Situation::find(client, patience).await?;
    let change = situation.change(asked)?;
    let plan = Plan::of(&situation.view, &change, &situation.facts)?;
    Ok((situation, change, plan))
}

/// Fails when the plan is not safe.
fn refuse(plan: &Plan, context: &Context) -> anyhow::Result<()> {
    match plan.dangers.as_slice() {
        [] => Ok(()),
        _ if context.output.is_json() => Err(Said.into()),
        dangers => Err(anyhow!("refused, since it is not safe: {}; --force does it all the same", dangers.join("; "))),
    }
}
