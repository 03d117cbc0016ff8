//! `dynamomini cluster keys`: the keys that seal gossip datagrams.

use std::time::Duration;

use clap::Subcommand;
use serde_json::Value;
use serde_json::json;

use crate::cli::Context;
use crate::cli::connect::Connect;
use crate::cli::table::row;
use crate::cli::table::span;
use crate::cli::table::table;
use crate::seal::KeyId;
use crate::wire::gossip::KeyOrder;
use crate::wire::gossip::KeyStatus;
use crate::wire::gossip::KeysReport;

/// Arguments of `cluster keys`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Keys are made by the nodes and travel only between nodes, over their authenticated connections: \
nothing needs to be configured. To change the key, in this order:
  dynamomini cluster keys add            every member gets the new key, and opens with it
  dynamomini cluster keys use ID         every member seals with it (10 s after it got it at the earliest)
  dynamomini cluster keys list           wait until no member is missing and the new key seals
  dynamomini cluster keys remove OLD     nobody opens with the old one any more, for ever

`use` is refused while members that are up cannot be given the key, `remove` while the key is in use. A member that was \
away gets the keyring when it connects again. Orders need an administrator's certificate."
)]
pub(super) struct Keys {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// List the keys, and who has them.
    List {
        #[command(flatten)]
        connect: Connect,
    },
    /// Make a key and give it to all members, without using it yet.
    Add {
        #[command(flatten)]
        connect: Connect,
    },
    /// Seal with this key.
    Use {
        /// The key, as listed.
        id: KeyId,
        /// Also when members that are up could not be given it.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        connect: Connect,
    },
    /// Remove this key for ever.
    Remove {
        /// The key, as listed.
        id: KeyId,
        #[command(flatten)]
        connect: Connect,
    },
}

impl Keys {
    /// Orders and prints.
    pub(super) fn run(self, context: &Context) -> anyhow::Result<()> {
        let (connect, order, done) = match self.order {
            Order::List { connect } => (connect, KeyOrder::List, ""),
            Order::Add { connect } => (connect, KeyOrder::Add, "added"),
            Order::Use { id, force, connect } => {
                (connect, KeyOrder::Use { id: id.0, force }, "is to be used from now on")
            }
            Order::Remove { id, connect } => (connect, KeyOrder::Remove { id: id.0 }, "removed"),
        };
        connect.run(context, async |client, _| {
            let report = client.gossip_keys(order).await?;
            let now_ms = context.env.wall_ms();
            context.output.print(&object(&report), |_| text(&report, done, now_ms))
        })
    }
}

fn state(key: &KeyStatus) -> &'static str {
    match key {
        KeyStatus { removed: true, .. } => "removed",
        KeyStatus { seals: true, preferred: true, .. } => "in use",
        KeyStatus { seals: true, .. } => "still in use",
        KeyStatus { preferred: true, .. } => "soon in use",
        KeyStatus { .. } => "opens",
    }
}

fn text(report: &KeysReport, done: &str, now_ms: u64) -> String {
    let mut text = String::new();
    if let Some(subject) = report.subject {
        text.push_str(&format!("key {} {done}\n\n", KeyId(subject)));
    }
    let mut rows = vec![row(["KEY", "STATE", "AGE"])];
    for key in &report.keys {
        let age = span(Duration::from_millis(now_ms.saturating_sub(key.made_ms)));
        rows.push(row([&KeyId(key.id).to_string(), state(key), &age]));
    }
    text.push_str(&table(&rows));
    let names = |names: &[crate::types::NodeName]| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    text.push_str(&format!("\nheld by {}\n", names(&report.agree)));
    if !report.missed.is_empty() {
        text.push_str(&format!("not yet by {}\n", names(&report.missed)));
    }
    text
}

fn object(report: &KeysReport) -> Value {
    let keys: Vec<Value> = report
        .keys
        .iter()
        .map(|key| {
            json!({
                "id": KeyId(key.id).to_string(), "made_ms": key.made_ms, "preferred": key.preferred,
                "seals": key.seals, "removed": key.removed,
            })
        })
        .collect();
    let names = |names: &[crate::types::NodeName]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    json!({
        "keys": keys,
        "subject": report.subject.map(|id| KeyId(id).to_string()),
        "agree": names(&report.agree),
        "missed": names(&report.missed),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_says_what_it_is_good_for() {
        let key =
            |number, preferred, seals, removed| KeyStatus { id: [number; 8], made_ms: 0, preferred, seals, removed };
        let report = KeysReport {
            keys: vec![key(1, false, true, false), key(2, true, false, false), key(3, false, false, true)],
            subject: Some([2; 8]),
            agree: vec!["n1".parse().unwrap()],
            missed: vec!["n2".parse().unwrap()],
        };
        let text = text(&report, "is to be used from now on", 60_000);
        assert!(text.starts_with("key 0202020202020202 is to be used"), "{text}");
        assert!(text.contains("0101010101010101  still in use  1m 0s"), "{text}");
        assert!(text.contains("not yet by n2"), "{text}");
        assert_eq!(object(&report)["keys"][2]["removed"], true);
    }
}
