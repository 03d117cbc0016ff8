//! Showing the same again and again: redrawn in place on a terminal, one after another elsewhere, until ^C.

use std::io::IsTerminal;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::time::MissedTickBehavior;

use crate::cli::Context;
use crate::client::Client;
use crate::client::ClientError;
use crate::config::value::parse_span;
use crate::wire::rpc::MemberInfo;
use crate::wire::status::NodeStatus;

/// Shortest interval.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Shortest time that a node is given to answer, however short the interval.
const PATIENCE_MIN: Duration = Duration::from_secs(1);
/// What puts the cursor to the upper left and clears the screen from there.
const CLEAR: &str = "\u{1b}[H\u{1b}[J";

/// A member, and what it said of itself or why it did not.
pub(crate) type Report = (MemberInfo, Result<NodeStatus, String>);

/// What is shown at one moment.
pub(crate) struct Frame {
    /// For programs: one object on a line.
    pub(crate) object: Value,
    /// For people.
    pub(crate) text: String,
}

/// Reads an interval from the command line.
pub(crate) fn interval(text: &str) -> Result<Duration, String> {
    let span = parse_span(text).map_err(|error| error.to_string())?;
    if span < INTERVAL_MIN {
        return Err(format!("{text:?} is too short: give {} ms or more", INTERVAL_MIN.as_millis()));
    }
    Ok(span)
}

/// Asks all members at once how they are, each for as long as `patience` at most.
pub(crate) async fn ask_all(client: &Client, patience: Duration) -> Vec<Report> {
    // New members are learnt; while nobody answers, the old ones are shown.
    match tokio::time::timeout(patience, client.refresh()).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(%error, "the cluster cannot be learnt anew"),
        Err(_) => tracing::debug!("the cluster cannot be learnt anew in time"),
    }
    let view = client.view();
    let members = &view.info().members;
    let asked =
        members.iter().map(async |member| match tokio::time::timeout(patience, client.status(&member.name)).await {
            Ok(answer) => answer.map_err(|error: ClientError| error.to_string()),
            Err(_) => Err(format!("no answer within {} ms", patience.as_millis())),
        });
    let answers = join_all(asked).await;
    members.iter().cloned().zip(answers).collect()
}

/// How long a node may take to answer when it is asked every `interval`.
pub(crate) fn patience(interval: Duration) -> Duration {
    interval.max(PATIENCE_MIN)
}

/// Shows a frame every `interval` until ^C, until nobody reads on, or until there were `count`. A step that has nothing to
/// show yet returns `None`.
pub(crate) async fn run(
    context: &Context,
    interval: Duration,
    count: Option<u64>,
    mut step: impl AsyncFnMut() -> Option<Frame>,
) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let redraws = std::io::stdout().is_terminal() && !context.output.is_json();
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 {
        let next = async {
            ticks.tick().await;
            step().await
        };
        let frame = tokio::select! {
            biased;
            _ = interrupt.recv() => return Ok(()),
            frame = next => frame,
        };
        let Some(frame) = frame else { continue };
        left -= 1;
        let text = match (context.output.is_json(), redraws) {
            (true, _) => format!("{}\n", frame.object),
            (false, true) => format!("{CLEAR}{}", frame.text),
            (false, false) if left > 0 => format!("{}\n", frame.text),
            (false, false) => frame.text,
        };
        if !context.output.stream(&text)? {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_a_span_that_is_not_too_short() {
        assert_eq!(interval("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(interval("250ms"), Ok(Duration::from_millis(250)));
        assert!(interval("10ms").unwrap_err().contains("100 ms"));
        assert!(interval("soon").is_err());
    }
}
