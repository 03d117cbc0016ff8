//! `dynamomini put --batch`: writes what the lines of a file say, in chunks, with a result for each line.

use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::io::IsTerminal;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::bail;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use crate::cli::Context;
use crate::cli::connect::escape;
use crate::cli::connect::from_base64;
use crate::cli::output;
use crate::cli::put::ttl;
use crate::client::BatchPut;
use crate::client::CausalContext;
use crate::client::Client;
use crate::client::PutOptions;
use crate::client::Written;
use crate::limits;

/// One line.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: Option<String>,
    key_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
    ttl: Option<String>,
}

/// A line that was read: its number, the key as it is to be named, and the write, or why there is none.
struct Entry {
    number: u64,
    name: String,
    put: Result<BatchPut, String>,
}

/// The lines of a file, read as they are needed.
pub(crate) struct Lines {
    reader: Box<dyn BufRead>,
    name: String,
    ttl: Option<Duration>,
    number: u64,
}

impl Lines {
    /// Opens a file, or standard input for `-`. `ttl` holds for lines that name none.
    pub(crate) fn open(file: &Path, ttl: Option<Duration>) -> anyhow::Result<Self> {
        let (reader, name): (Box<dyn BufRead>, _) = if file == Path::new("-") {
            (Box::new(BufReader::new(std::io::stdin())), "standard input".to_owned())
        } else {
            let open = File::open(file).with_context(|| format!("{} cannot be read", file.display()))?;
            (Box::new(BufReader::new(open)), file.display().to_string())
        };
        Ok(Self { reader, name, ttl, number: 0 })
    }

    /// The next line that is not blank; `None` at the end.
    fn next(&mut self) -> anyhow::Result<Option<Entry>> {
        loop {
            let Some(line) = self.read_line()? else { return Ok(None) };
            self.number += 1;
            let number = self.number;
            let Some(line) = line else {
                let put = Err(format!("is longer than {} bytes", limits::BATCH_LINE_MAX));
                return Ok(Some(Entry { number, name: String::new(), put }));
            };
            if line.trim_ascii().is_empty() {
                continue;
            }
            let (name, put) = match serde_json::from_slice::<Line>(&line) {
                Ok(line) => (line.name(), line.put(self.ttl)),
                Err(error) => (String::new(), Err(format!("is not a write: {error}"))),
            };
            return Ok(Some(Entry { number, name, put }));
        }
    }

    /// One line; inside, `None` when it is too long, and then its rest is skipped.
    fn read_line(&mut self) -> anyhow::Result<Option<Option<Vec<u8>>>> {
        let (mut line, mut fits) = (Vec::new(), true);
        loop {
            let most = u64::try_from(limits::BATCH_LINE_MAX).unwrap_or(u64::MAX);
            let read = self.reader.by_ref().take(most).read_until(b'\n', &mut line);
            let read = read.with_context(|| format!("{} cannot be read", self.name))?;
            if read == 0 && line.is_empty() && fits {
                return Ok(None);
            }
            if read == 0 || line.ends_with(b"\n") {
                return Ok(Some(fits.then_some(line)));
            }
            if line.len() >= limits::BATCH_LINE_MAX {
                fits = false;
                line.clear();
            }
        }
    }
}

impl Line {
    fn name(&self) -> String {
        self.key.clone().or_else(|| self.key_base64.clone()).unwrap_or_default()
    }

    fn put(self, default: Option<Duration>) -> Result<BatchPut, String> {
        let ttl = self.ttl.as_deref().map(ttl).transpose().map_err(|invalid| invalid.to_string())?;
        Ok(BatchPut {
            key: bytes("key", self.key, self.key_base64)?,
            value: Some(bytes("value", self.value, self.value_base64)?),
            context: CausalContext::default(),
            ttl: ttl.or(default),
            condition: None,
        })
    }
}

/// Takes one of the two forms of a field.
fn bytes(field: &str, text: Option<String>, base64: Option<String>) -> Result<Bytes, String> {
    match (text, base64) {
        (Some(text), None) => Ok(text.into()),
        (None, Some(text)) => {
            from_base64(&text).map(Bytes::from).ok_or_else(|| format!("{field}_base64 is not base64"))
        }
        (None, None) => Err(format!("has no {field}: give {field} or {field}_base64")),
        (Some(_), Some(_)) => Err(format!("has both {field} and {field}_base64: give one")),
    }
}

/// Writes all lines.
pub(crate) async fn run(
    context: &Context,
    client: &Client,
    mut lines: Lines,
    options: PutOptions,
) -> anyhow::Result<()> {
    let shows_progress = std::io::stderr().is_terminal() && !std::io::stdout().is_terminal();
    let (mut done, mut failed) = (0_u64, 0_u64);
    loop {
        let chunk = next_chunk(&mut lines)?;
        if chunk.is_empty() {
            break;
        }
        let puts = chunk.iter().filter_map(|entry| entry.put.as_ref().ok().cloned()).collect();
        let mut outcomes = client.multi_put(puts, options.clone()).await.into_iter();
        let mut text = String::new();
        for Entry { number, name, put } in chunk {
            let outcome = put.map_err(|why| format!("line {number} {why}"));
            let outcome = outcome.and_then(|_| match outcomes.next() {
                Some(outcome) => outcome.map_err(|error| error.to_string()),
                None => Err("the client gave no outcome, please report".to_owned()),
            });
            (done, failed) = if outcome.is_ok() { (done + 1, failed) } else { (done, failed + 1) };
            text.push_str(&result(context.output.is_json(), number, &name, &outcome));
        }
        // Whoever read the results may have gone; the writes were asked for all the same.
        context.output.stream(&text)?;
        if shows_progress {
            output::progress(&format!("{done} written, {failed} failed"));
        }
    }
    if shows_progress {
        output::progress("");
    }
    if failed > 0 {
        bail!("{failed} of {} lines failed", done + failed);
    }
    Ok(())
}

/// As many lines as one multi-put should take.
fn next_chunk(lines: &mut Lines) -> anyhow::Result<Vec<Entry>> {
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    while chunk.len() < limits::BATCH_KEYS_MAX && bytes < limits::BATCH_BYTES_MAX {
        let Some(entry) = lines.next()? else { break };
        if let Ok(put) = &entry.put {
            bytes += put.key.len() + put.value.as_ref().map_or(0, Bytes::len);
        }
        chunk.push(entry);
    }
    Ok(chunk)
}

fn result(is_json: bool, number: u64, name: &str, outcome: &Result<Written, String>) -> String {
    match outcome {
        Ok(Written { context, dot, acks }) if is_json => {
            let value = json!({"key": name, "dot": dot.to_string(), "acks": acks, "context": context.to_string()});
            format!("{value}\n")
        }
        Err(error) if is_json => format!("{}\n", json!({"key": name, "line": number, "error": error})),
        Ok(written) => format!("ok\t{}\t{}\n", escape(name.as_bytes()), written.dot),
        Err(error) => format!("failed\t{}\t{error}\n", escape(name.as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &'static str) -> Lines {
        Lines { reader: Box::new(text.as_bytes()), name: "test".into(), ttl: Some(Duration::from_secs(9)), number: 0 }
    }

    #[test]
    fn each_line_is_a_write_or_says_what_is_wrong_with_it() {
        let mut lines = lines(
            "{\"key\":\"a\",\"value\":\"1\"}\n\n{\"key_base64\":\"AP8\",\"value_base64\":\"AQ==\",\"ttl\":\"1h\"}\n\
             {\"key\":\"a\"}\n{\"key\":\"a\",\"value\":\"1\",\"valeu\":1}\nnonsense\n{\"key\":\"z\",\"value\":\"\"}",
        );
        let first = lines.next().unwrap().unwrap().put.unwrap();
        assert_eq!((&first.key[..], first.ttl), (&b"a"[..], Some(Duration::from_secs(9))));
        let second = lines.next().unwrap().unwrap();
        let put = second.put.unwrap();
        assert_eq!((second.number, &put.key[..], put.ttl), (3, &[0, 255][..], Some(Duration::from_secs(3600))));
        assert_eq!(put.value.unwrap(), vec![1]);
        let mut faults = (0..3).map(|_| lines.next().unwrap().unwrap().put.unwrap_err());
        assert_eq!(faults.next().unwrap(), "has no value: give value or value_base64");
        assert!(faults.next().unwrap().contains("unknown field `valeu`"));
        assert!(faults.next().unwrap().starts_with("is not a write"));
        let last = lines.next().unwrap().unwrap();
        assert_eq!((last.number, last.put.unwrap().value.unwrap().len()), (7, 0));
        assert!(lines.next().unwrap().is_none());
    }

    #[test]
    fn a_line_that_is_too_long_costs_itself_only() {
        let long = vec![b'x'; limits::BATCH_LINE_MAX + 10];
        let text = [&long[..], b"\n{\"key\":\"a\",\"value\":\"1\"}\n"].concat();
        let mut lines =
            Lines { reader: Box::new(std::io::Cursor::new(text)), name: "test".into(), ttl: None, number: 0 };
        assert!(lines.next().unwrap().unwrap().put.unwrap_err().starts_with("is longer than"));
        assert!(lines.next().unwrap().unwrap().put.is_ok());
        assert!(lines.next().unwrap().is_none());
    }
}
