//! `dynamomini bench check`: reads a data set, and checks every byte.

use std::ops::Range;

use anyhow::bail;
use bytes::Bytes;
use serde::Serialize;

use crate::cli::Context;
use crate::cli::Said;
use crate::cli::bench::args::DataArgs;
use crate::cli::bench::data::DataSet;
use crate::cli::bench::data::Fault;
use crate::cli::bench::tally::Failures;
use crate::cli::bench::tally::walk;
use crate::cli::connect::Access;
use crate::cli::connect::Connect;
use crate::cli::connect::escape;
use crate::client::Client;
use crate::client::ClientError;
use crate::client::Found;
use crate::client::GetOptions;
use crate::types::NodeName;

/// Arguments of `bench check`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A key is right when it has one value, which bench wrote under it with this seed and these sizes, by \
load or in a run. Otherwise it is missing, wrong (damaged, of another key, or of another data set), has siblings, or could \
not be read. With --every-node all keys are read through each node in turn. With --json: {\"keys\", \"passes\": [{\"node\", \
\"right\", \"missing\", \"wrong\", \"siblings\", \"unread\", \"error_kinds\": {KIND: {\"count\", \"example\"}}, \"example\"}], \
\"interrupted\"}, where node is null for whichever node the client asks. The exit status is 1 unless all keys are right.

Example:
  dynamomini bench check --keys 1000000 --value-size uniform:100..2000 --seed 7 --every-node -r one"
)]
pub(crate) struct Args {
    #[command(flatten)]
    data: DataArgs,
    /// Read through each node in turn.
    #[arg(long, conflicts_with = "node")]
    every_node: bool,
    /// Batches of keys under way at once.
    #[arg(long, value_name = "NUMBER", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    in_flight: u16,
    #[command(flatten)]
    connect: Connect,
}

/// What was found, through one node or through whichever the client asks.
#[derive(Debug, Default, Serialize)]
struct Pass {
    node: Option<NodeName>,
    right: u64,
    missing: u64,
    wrong: u64,
    siblings: u64,
    unread: u64,
    error_kinds: Failures,
    /// The first key that is not right, and why.
    example: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    keys: u64,
    passes: Vec<Pass>,
    interrupted: bool,
}

impl Args {
    /// Reads, checks and reports.
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let data = self.data.data()?;
        let Self { data: DataArgs { keys, .. }, every_node, in_flight, connect } = self;
        let mut access = connect.prepare(context)?;
        let report = context.block_on(None, async {
            let mut report = Report { keys, passes: Vec::new(), interrupted: false };
            for node in nodes(&access, every_node).await? {
                access.node = node;
                let (pass, whole) = check(&access, &data, keys, usize::from(in_flight)).await?;
                report.passes.push(pass);
                if !whole {
                    report.interrupted = true;
                    break;
                }
            }
            Ok(report)
        })?;
        context.output.print(&report, Report::text)?;
        if report.passes.iter().all(|pass| pass.right == keys) {
            return Ok(());
        }
        if context.output.is_json() { Err(Said.into()) } else { bail!("the data set is not what it should be") }
    }
}

/// Through whom to read, one pass for each.
async fn nodes(access: &Access, every_node: bool) -> anyhow::Result<Vec<Option<NodeName>>> {
    if !every_node {
        return Ok(vec![access.node.clone()]);
    }
    let client = access.connect().await?;
    let nodes = client.view().info().members.iter().map(|member| Some(member.name.clone())).collect();
    client.close().await;
    Ok(nodes)
}

/// One pass, and whether it went to its end.
async fn check(access: &Access, data: &DataSet, keys: u64, at_once: usize) -> anyhow::Result<(Pass, bool)> {
    let client = access.connect().await?;
    let options = GetOptions { r: access.config.r, ..GetOptions::default() };
    let mut pass = Pass { node: access.node.clone(), ..Pass::default() };
    let work = |range| read(&client, data, options.clone(), range);
    let take = |batch: Vec<(u64, Result<Found, ClientError>)>| {
        batch.into_iter().for_each(|(number, found)| pass.judge(data, number, found));
    };
    let whole = walk(data, keys, at_once, "checked", work, take).await;
    client.close().await;
    Ok((pass, whole))
}

async fn read(
    client: &Client,
    data: &DataSet,
    options: GetOptions,
    range: Range<u64>,
) -> Vec<(u64, Result<Found, ClientError>)> {
    let keys: Vec<Bytes> = range.clone().map(|number| data.key(number)).collect();
    range.zip(client.multi_get(&keys, options).await).collect()
}

impl Pass {
    fn judge(&mut self, data: &DataSet, number: u64, found: Result<Found, ClientError>) {
        let fault = match found {
            Err(error) => {
                let text = format!("cannot be read: {error}");
                self.error_kinds.add(error);
                self.unread += 1;
                text
            }
            Ok(found) => {
                let values = found.siblings.iter().map(|sibling| &sibling.value[..]);
                let faults = values.filter_map(|value| data.judge(number, value).err()).next();
                match (faults, found.siblings.len()) {
                    (Some(fault), _) => {
                        self.wrong += 1;
                        name(fault).to_owned()
                    }
                    (None, 0) => {
                        self.missing += 1;
                        "is missing".to_owned()
                    }
                    (None, 1) => {
                        self.right += 1;
                        return;
                    }
                    (None, siblings) => {
                        self.siblings += 1;
                        format!("has {siblings} siblings")
                    }
                }
            }
        };
        self.example.get_or_insert_with(|| format!("{} {fault}", escape(&data.key(number))));
    }
}

fn name(fault: Fault) -> &'static str {
    match fault {
        Fault::Damaged => "has a value that is damaged, or not of bench",
        Fault::OtherKey => "has the value of another key",
        Fault::OtherSet => "has a value of another data set: of another seed, or of other sizes",
    }
}

impl Report {
    fn text(&self) -> String {
        let mut text = String::new();
        for pass in &self.passes {
            let Pass { node, right, missing, wrong, siblings, unread, error_kinds, example } = pass;
            let through = node.as_ref().map_or("any node".to_owned(), ToString::to_string);
            text.push_str(&format!(
                "through {through}: {right} of {} keys right, {missing} missing, {wrong} wrong, {siblings} with siblings, \
                 {unread} not read\n",
                self.keys
            ));
            if let Some(example) = example {
                text.push_str(&format!("  such as {example}\n"));
            }
            text.push_str(&error_kinds.text());
        }
        if self.interrupted {
            text.push_str("ended early: not all keys were read\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::sizes::Sizes;
    use crate::client::Sibling;
    use crate::types::Epoch;
    use crate::types::NodeId;
    use crate::version::Actor;
    use crate::version::Dot;
    use crate::version::Stamp;

    fn found(values: &[Bytes]) -> Result<Found, ClientError> {
        let actor = Actor { node: NodeId(1), epoch: Epoch(1) };
        let sibling = |value: &Bytes| Sibling {
            value: value.clone(),
            expires_at: None,
            dot: Dot { actor, counter: 1 },
            stamp: Stamp::default(),
        };
        Ok(Found { siblings: values.iter().map(sibling).collect(), ..Found::default() })
    }

    #[test]
    fn each_key_counts_once_by_the_worst_that_is_wrong_with_it() {
        let data = DataSet::new(1, Sizes::Fixed(16), Sizes::Fixed(64)).unwrap();
        let mut pass = Pass::default();
        pass.judge(&data, 5, found(&[data.value(5, 0)]));
        pass.judge(&data, 5, found(&[data.value(5, 77)]));
        pass.judge(&data, 6, found(&[]));
        pass.judge(&data, 7, found(&[data.value(7, 1), data.value(7, 2)]));
        pass.judge(&data, 8, found(&[data.value(8, 1), data.value(9, 2)]));
        pass.judge(&data, 9, Err(ClientError::Protocol("broken".to_owned())));
        let Pass { right, missing, wrong, siblings, unread, example, .. } = pass;
        assert_eq!((right, missing, wrong, siblings, unread), (2, 1, 1, 1, 1));
        assert_eq!(example.as_deref(), Some("key:000000000006 is missing"));
    }
}
