//! `dynamomini get`: reads keys.

use std::io::IsTerminal;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::bail;
use bytes::Bytes;
use serde_json::Value;
use serde_json::json;

use crate::cli::Context;
use crate::cli::Said;
use crate::cli::connect::Connect;
use crate::cli::connect::KeyForm;
use crate::cli::connect::escape;
use crate::cli::connect::to_base64;
use crate::client::Client;
use crate::client::ClientError;
use crate::client::Found;
use crate::client::GetOptions;
use crate::client::Sibling;

/// Characters of a value that are shown among siblings.
const PREVIEW: usize = 60;

/// Arguments of `get`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// The key. With several, each gives lines of its own.
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<String>,
    /// Write the value to this file instead of standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Choose one of several concurrent values, by its number in the list.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    sibling: Option<u32>,
    /// Have the replicas that are read from hold what is returned, before it is.
    #[arg(long)]
    strict: bool,
    /// Print only the context, to be carried into a put or delete.
    #[arg(long, conflicts_with_all = ["out", "sibling"])]
    context: bool,
    #[command(flatten)]
    form: KeyForm,
    #[command(flatten)]
    connect: Connect,
}

const HELP: &str = "One key: its value goes out byte for byte (a terminal gets a line end after it). A key that was \
written concurrently has several values, siblings: they are listed, with how to resolve them. A key that is not there: \
\"not found\", exit 1.
Several keys: a line KEY<TAB>VALUE for each value, with what is not printable escaped (\\t \\n \\\\ \\u{7f} \\xff); what \
was not found goes to standard error, and the exit status is 1.
With --json: one object per key and line, {\"key\", \"found\", \"context\", \"siblings\": [{\"value_base64\", \
\"expires_at\", \"dot\", \"hlc\"}]}, where expires_at is in milliseconds since 1970, or null.

Examples:
  dynamomini get cart:7
  dynamomini get photo:1 --out photo.jpg -r all
  dynamomini get a b c --json | jq -r 'select(.found) | .key'
  dynamomini put cart:7 '3 apples' --context \"$(dynamomini get cart:7 --context)\"";

impl Args {
    /// Reads and prints.
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let Self { keys, out, sibling, strict, context: only_context, form, connect } = self;
        if keys.len() > 1 && (out.is_some() || sibling.is_some() || only_context) {
            return Err(crate::cli::Usage("--out, --sibling and --context go with one key".to_owned()).into());
        }
        let bytes = keys.iter().map(|key| form.read(key)).collect::<Result<Vec<Bytes>, _>>()?;
        connect.run(context, async |client, config| {
            let options = GetOptions { r: config.r, strict, ..GetOptions::default() };
            match &keys[..] {
                [key] => {
                    let found = client.get_with(bytes[0].clone(), options).await?;
                    one(context, key, &found, &Choice { out, sibling, only_context })
                }
                _ => several(context, client, &keys, &bytes, options).await,
            }
        })
    }
}

/// What is wanted of a single key.
struct Choice {
    out: Option<PathBuf>,
    sibling: Option<u32>,
    only_context: bool,
}

fn one(context: &Context, key: &str, found: &Found, choice: &Choice) -> anyhow::Result<()> {
    let output = context.output;
    if output.is_json() {
        output.print(&object(key, found), |_| String::new())?;
    } else if choice.only_context {
        output.line(&found.context.to_string())?;
    }
    if !found.exists() {
        return if output.is_json() { Err(Said.into()) } else { Err(anyhow::anyhow!("not found")) };
    }
    let wanted = match (choice.sibling, &found.siblings[..]) {
        (Some(number), siblings) => {
            let place = usize::try_from(number - 1).unwrap_or(usize::MAX);
            let none = || format!("there is no sibling {number}: the key has {}", siblings.len());
            Some(siblings.get(place).with_context(none)?)
        }
        (None, [single]) => Some(single),
        (None, _) => None,
    };
    match (wanted, &choice.out) {
        (Some(sibling), Some(file)) => write(file, &sibling.value),
        (None, Some(_)) => bail!("the key has {} siblings: choose one with --sibling", found.siblings.len()),
        _ if output.is_json() || choice.only_context => Ok(()),
        (Some(sibling), None) => {
            output.bytes(&sibling.value)?;
            let ends = sibling.value.ends_with(b"\n");
            if std::io::stdout().is_terminal() && !ends { output.line("\n") } else { Ok(()) }
        }
        (None, None) => output.line(&listing(key, found)),
    }
}

fn write(file: &Path, value: &[u8]) -> anyhow::Result<()> {
    std::fs::write(file, value).with_context(|| format!("{} cannot be written", file.display()))
}

/// The siblings of a key and what to do about them.
fn listing(key: &str, found: &Found) -> String {
    let mut text = format!("{key} has {} siblings, written concurrently:\n", found.siblings.len());
    for (place, sibling) in found.siblings.iter().enumerate() {
        let Sibling { value, dot, stamp, .. } = sibling;
        let shown = escape(value);
        let cut: String = shown.chars().take(PREVIEW).collect();
        let more = if cut.len() < shown.len() { "…" } else { "" };
        text.push_str(&format!("  {}  {cut}{more}  ({} bytes, dot {dot}, hlc {stamp})\n", place + 1, value.len()));
    }
    text.push_str("Take one with --sibling NUMBER. To resolve, write what should remain with the context read here:\n");
    text.push_str(&format!("  dynamomini put KEY VALUE --context {}\n", found.context));
    text
}

/// A key and what was found under it, as JSON.
pub(crate) fn object(key: &str, found: &Found) -> Value {
    let siblings: Vec<Value> = found.siblings.iter().map(sibling_object).collect();
    json!({"key": key, "found": found.exists(), "context": found.context.to_string(), "siblings": siblings})
}

fn sibling_object(sibling: &Sibling) -> Value {
    json!({
        "value_base64": to_base64(&sibling.value),
        "expires_at": sibling.expires_at,
        "dot": sibling.dot.to_string(),
        "hlc": sibling.stamp.to_string(),
    })
}

async fn several(
    context: &Context,
    client: &Client,
    names: &[String],
    keys: &[Bytes],
    options: GetOptions,
) -> anyhow::Result<()> {
    let outcomes = client.multi_get(keys, options).await;
    let (mut missing, mut failed) = (0_usize, 0_usize);
    for (name, outcome) in names.iter().zip(outcomes) {
        match &outcome {
            Ok(found) => missing += usize::from(!found.exists()),
            Err(_) => failed += 1,
        }
        if !context.output.stream(&lines(context.output.is_json(), name, &outcome))? {
            return Ok(());
        }
        if !context.output.is_json() {
            tell(name, &outcome);
        }
    }
    match (missing, failed) {
        (0, 0) => Ok(()),
        _ if context.output.is_json() => Err(Said.into()),
        _ => bail!("{missing} of {} keys not found, {failed} failed", names.len()),
    }
}

/// What goes to standard output for one of several keys.
fn lines(is_json: bool, name: &str, outcome: &Result<Found, ClientError>) -> String {
    match outcome {
        Ok(found) if is_json => format!("{}\n", object(name, found)),
        Err(error) if is_json => format!("{}\n", json!({"key": name, "error": error.to_string()})),
        Ok(found) => {
            let line = |sibling: &Sibling| format!("{}\t{}\n", escape(name.as_bytes()), escape(&sibling.value));
            found.siblings.iter().map(line).collect()
        }
        Err(_) => String::new(),
    }
}

/// What goes to standard error for one of several keys.
fn tell(name: &str, outcome: &Result<Found, ClientError>) {
    match outcome {
        Ok(found) if found.exists() => {}
        Ok(_) => crate::cli::output::note(&format!("{}: not found", escape(name.as_bytes()))),
        Err(error) => crate::cli::output::note(&format!("{}: {error}", escape(name.as_bytes()))),
    }
}
