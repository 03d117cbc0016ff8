//! `dynamomini put`: writes one key, or many from a file.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::bail;
use bytes::Bytes;
use serde_json::json;

use crate::cli::Context;
use crate::cli::Usage;
use crate::cli::connect::Connect;
use crate::cli::connect::KeyForm;
use crate::cli::put_batch;
use crate::client::CausalContext;
use crate::client::PutOptions;
use crate::client::Written;
use crate::config::value::parse_span;
use crate::limits;
use crate::types::Condition;
use crate::types::Invalid;

/// Arguments of `put`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// The key.
    #[arg(required_unless_present = "batch")]
    key: Option<String>,
    /// The value; - reads it from standard input.
    #[arg(allow_negative_numbers = true)]
    value: Option<OsString>,
    /// Read the value from this file.
    #[arg(long, value_name = "FILE", conflicts_with = "value")]
    file: Option<PathBuf>,
    /// Write what the lines of this file say; - for standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["key", "value", "file", "context", "if_absent", "key_base64", "key_hex"])]
    batch: Option<PathBuf>,
    /// What was read: a context that get or put printed. The write replaces exactly that.
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    context: Option<CausalContext>,
    #[command(flatten)]
    only: Only,
    /// Life of the value from now on, such as 30s or 7d; by default the namespace's.
    #[arg(long, value_name = "SPAN", value_parser = ttl)]
    ttl: Option<Duration>,
    #[command(flatten)]
    quorum: Quorum,
    #[command(flatten)]
    form: KeyForm,
    #[command(flatten)]
    connect: Connect,
}

const HELP: &str = "Without --context a put replaces nothing: it stands beside what is there, as a sibling (in \
namespaces that keep the last write, it replaces all). Prints the write's name (dot), the replicas that had it when it \
was acknowledged, and the context that the next write of the key should carry. With --json: {\"key\", \"dot\", \
\"acks\", \"context\"}.
With --if-absent or --if-current the write is refused (exit status 1) when that does not hold. Of such \
writes at the same time at most one succeeds; they need a majority of the key's owners.
--batch reads one JSON object per line: {\"key\" or \"key_base64\", \"value\" or \"value_base64\", \"ttl\"?}. Each \
line stands and fails alone and gives a result of its own; the exit status is 1 if any failed.

Examples:
  dynamomini put cart:7 '2 apples'
  dynamomini put photo:1 --file photo.jpg -w all
  echo -n hello | dynamomini put greeting - --ttl 30s
  dynamomini put cart:7 '3 apples' --context \"$(dynamomini get cart:7 --context)\"
  dynamomini put lock:7 worker-3 --if-absent --ttl 1m
  dynamomini put --key-hex 00ff value
  echo '{\"key\":\"a\",\"value\":\"1\",\"ttl\":\"1h\"}' | dynamomini put --batch -";

/// What must hold for the write to happen.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Only {
    /// Write only if the key has no value.
    #[arg(long, conflicts_with_all = ["if_current", "context"])]
    if_absent: bool,
    /// Write only if nothing was written since --context was read.
    #[arg(long, requires = "context")]
    if_current: bool,
}

impl Only {
    /// The condition, if there is one.
    pub(crate) fn condition(self) -> Option<Condition> {
        match self {
            Self { if_absent: true, .. } => Some(Condition::IfAbsent),
            Self { if_current: true, .. } => Some(Condition::IfCurrent),
            Self { .. } => None,
        }
    }
}

/// Whether stand-ins may count.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Quorum {
    /// Only owners of the key count for W.
    #[arg(long, conflicts_with = "sloppy")]
    strict: bool,
    /// Stand-ins for owners that do not answer count for W, too.
    #[arg(long)]
    sloppy: bool,
}

impl Quorum {
    /// What was said; `None` when the namespace's rule holds.
    pub(crate) fn sloppy(self) -> Option<bool> {
        match self {
            Self { sloppy: true, .. } => Some(true),
            Self { strict: true, .. } => Some(false),
            Self { .. } => None,
        }
    }
}

/// A time to live: a span that is not 0.
pub(crate) fn ttl(text: &str) -> Result<Duration, Invalid> {
    match parse_span(text)? {
        Duration::ZERO => Err(Invalid::new("time to live", text, "more than 0; leave it out for no expiry")),
        span => Ok(span),
    }
}

impl Args {
    /// Writes.
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let Self { key, value, file, batch, context: seen, only, ttl, quorum, form, connect } = self;
        if let Some(file) = batch {
            let lines = put_batch::Lines::open(&file, ttl)?;
            return connect.run(context, async |client, config| {
                let options = PutOptions { w: config.w, sloppy: quorum.sloppy(), ..PutOptions::default() };
                put_batch::run(context, client, lines, options).await
            });
        }
        let name = key.ok_or_else(|| Usage("name a key".to_owned()))?;
        let key = form.read(&name)?;
        let value = read_value(value, file)?;
        connect.run(context, async |client, config| {
            let (w, sloppy) = (config.w, quorum.sloppy());
            let options = PutOptions {
                context: seen.unwrap_or_default(),
                ttl,
                condition: only.condition(),
                w,
                sloppy,
                timeout: None,
            };
            let written = client.put(key, value, options).await?;
            print(context, "written", &name, &written)
        })
    }
}

/// Prints what became of a write.
pub(crate) fn print(context: &Context, verb: &str, key: &str, written: &Written) -> anyhow::Result<()> {
    let Written { context: token, dot, acks } = written;
    let value = json!({"key": key, "dot": dot.to_string(), "acks": acks, "context": token.to_string()});
    let replicas = if *acks == 1 { "replica" } else { "replicas" };
    context.output.print(&value, |_| format!("{verb} on {acks} {replicas}, dot {dot}\ncontext {token}\n"))
}

fn read_value(value: Option<OsString>, file: Option<PathBuf>) -> anyhow::Result<Bytes> {
    match (value, file) {
        (Some(dash), None) if dash == "-" => bounded(std::io::stdin().lock(), Path::new("standard input")),
        (Some(value), None) => Ok(value.into_vec().into()),
        (None, Some(dash)) if dash == Path::new("-") => bounded(std::io::stdin().lock(), Path::new("standard input")),
        (None, Some(file)) => {
            let open = File::open(&file).with_context(|| format!("{} cannot be read", file.display()))?;
            bounded(open, &file)
        }
        _ => Err(Usage("give a value, --file FILE, or - to read it from standard input".to_owned()).into()),
    }
}

/// Reads a value without taking in more than one may hold.
fn bounded(from: impl Read, name: &Path) -> anyhow::Result<Bytes> {
    let mut value = Vec::new();
    let most = u64::try_from(limits::VALUE_MAX).unwrap_or(u64::MAX);
    from.take(most + 1).read_to_end(&mut value).with_context(|| format!("{} cannot be read", name.display()))?;
    if value.len() > limits::VALUE_MAX {
        bail!(
            "{} holds more than {} bytes, the most that a value may have: split it",
            name.display(),
            limits::VALUE_MAX
        );
    }
    Ok(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_up_to_its_limit_and_no_further() {
        let name = Path::new("input");
        let longest = vec![7; limits::VALUE_MAX];
        assert_eq!(bounded(&longest[..], name).unwrap().len(), limits::VALUE_MAX);
        let error = bounded(std::io::repeat(7), name).unwrap_err().to_string();
        assert!(error.starts_with("input holds more than 8388608 bytes"), "{error}");
    }

    #[test]
    fn a_time_to_live_is_more_than_nothing() {
        assert_eq!(ttl("30s").unwrap(), Duration::from_secs(30));
        assert!(ttl("0s").is_err() && ttl("30").is_err());
    }
}
