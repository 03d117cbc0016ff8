//! `dynamomini scan`: lists keys.

use serde_json::json;

use crate::cli::Context;
use crate::cli::connect::Connect;
use crate::cli::connect::KeyForm;
use crate::cli::connect::escape;
use crate::cli::connect::to_base64;
use crate::cli::get;
use crate::client::Found;
use crate::client::ScanOptions;

/// Text after which what was gathered goes out.
const FLUSH: usize = 64 * 1024;

/// Arguments of `scan`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Keys come in the order of partitions, the same in every scan, and sorted within each. Text: one key a \
line, with what is not printable escaped (\\t \\n \\\\ \\u{7f} \\xff); with --values KEY<TAB>VALUE, a line for each \
sibling. With --json one object a line: {\"key\"}, or {\"key_base64\"} where a key is not UTF-8; with --values as get \
--json prints it.

Examples:
  dynamomini scan
  dynamomini scan cart: --values --limit 10
  dynamomini scan --json user/ | jq -r .key"
)]
pub(crate) struct Args {
    /// Only keys that begin with this.
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    /// Keys alone, as is the default.
    #[arg(long, conflicts_with = "values")]
    keys_only: bool,
    /// Values as well.
    #[arg(long)]
    values: bool,
    /// Stop after so many keys.
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
    #[command(flatten)]
    form: KeyForm,
    #[command(flatten)]
    connect: Connect,
}

impl Args {
    /// Lists.
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let prefix = self.form.read(&self.prefix)?;
        let (values, limit) = (self.values, self.limit.unwrap_or(u64::MAX));
        self.connect.run(context, async |client, config| {
            let page = u32::try_from(limit).unwrap_or(0);
            let options = ScanOptions { r: config.r, keys_only: !values, page, timeout: None };
            let mut scan = client.scan(prefix, options);
            let (mut text, mut count) = (String::new(), 0);
            while count < limit
                && let Some((key, found)) = scan.next().await?
            {
                count += 1;
                text.push_str(&lines(context.output.is_json(), values, &key, &found));
                // What is there goes out before more is waited for.
                if text.len() >= FLUSH || scan.buffered() == 0 {
                    if !context.output.stream(&text)? {
                        return Ok(());
                    }
                    text.clear();
                }
            }
            context.output.stream(&text).map(drop)
        })
    }
}

fn lines(is_json: bool, values: bool, key: &[u8], found: &Found) -> String {
    if !is_json {
        let key = escape(key);
        return match values {
            true => found.siblings.iter().map(|one| format!("{key}\t{}\n", escape(&one.value))).collect(),
            false => format!("{key}\n"),
        };
    }
    let mut object = if values { get::object("", found) } else { json!({}) };
    match std::str::from_utf8(key) {
        Ok(key) => object["key"] = key.into(),
        Err(_) => {
            if let Some(fields) = object.as_object_mut() {
                fields.remove("key");
                fields.insert("key_base64".to_owned(), to_base64(key).into());
            }
        }
    }
    format!("{object}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_no_text_have_a_field_of_their_own() {
        let found = Found::default();
        assert_eq!(lines(true, false, b"a\"b", &found), "{\"key\":\"a\\\"b\"}\n");
        assert_eq!(lines(true, false, &[0, 255], &found), "{\"key_base64\":\"AP8=\"}\n");
        let full: serde_json::Value = serde_json::from_str(&lines(true, true, &[255], &found)).unwrap();
        assert_eq!((full.get("key"), &full["key_base64"]), (None, &json!("/w==")));
        assert_eq!(lines(false, false, b"a\nb", &found), "a\\nb\n");
    }
}
