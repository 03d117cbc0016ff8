//! Showing a configuration: every effective value and its source, and the tables of keys for documentation.

use std::fmt::Write;

use serde_json::json;

use crate::config::redis::mask_url;
use crate::config::settings::Catalogue;
use crate::config::settings::Fallback;
use crate::config::settings::Kind;
use crate::config::settings::Setting;
use crate::config::settle::Settled;
use crate::config::settle::Sourced;

/// The value as it may be shown: secrets are masked.
fn shown(settled: &Settled, key: &str, sourced: &Sourced) -> String {
    match settled.catalogue.find(key) {
        Some(Setting { kind: Kind::Secret, key, .. }) if key.ends_with(".url") => mask_url(&sourced.value.to_string()),
        Some(Setting { kind: Kind::Secret, .. }) => "***".to_owned(),
        _ => sourced.value.to_string(),
    }
}

/// Keys in the order of documentation, then other namespaces, then members.
fn ordered(settled: &Settled) -> Vec<(String, Option<&Sourced>)> {
    let own = settled.catalogue.settings.iter().map(|setting| setting.key.to_owned());
    let mut keys: Vec<String> = own.collect();
    for key in settled.values.keys().filter(|key| !settled.catalogue.settings.iter().any(|own| own.key == *key)) {
        keys.push(key.clone());
    }
    keys.into_iter().map(|key| (key.clone(), settled.get(&key))).collect()
}

/// Every effective value with its source, one a line.
pub fn text(settled: &Settled) -> String {
    let rows: Vec<[String; 3]> = ordered(settled)
        .into_iter()
        .map(|(key, sourced)| match sourced {
            Some(sourced) => {
                let value = shown(settled, &key, sourced);
                [key, if value.is_empty() { "\"\"".to_owned() } else { value }, sourced.source.to_string()]
            }
            None => [key, "-".to_owned(), "not set".to_owned()],
        })
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count().min(48)).max().unwrap_or(0);
    let (keys, values) = (width(0), width(1));
    rows.iter().fold(String::new(), |mut text, [key, value, source]| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{key:keys$}  {value:values$}  {source}");
        text
    })
}

/// The same as JSON: `{"settings": [{"key", "value", "source"}], "problems": [...]}`.
pub fn json(settled: &Settled) -> serde_json::Value {
    let settings = ordered(settled).into_iter().map(|(key, sourced)| match sourced {
        Some(sourced) => {
            let secret = matches!(settled.catalogue.find(&key), Some(Setting { kind: Kind::Secret, .. }));
            let value = if secret { shown(settled, &key, sourced).into() } else { sourced.value.to_json() };
            json!({"key": key, "value": value, "source": sourced.source.to_string()})
        }
        None => json!({"key": key, "value": null, "source": "not set"}),
    });
    let problems: Vec<String> = settled.problems.iter().map(ToString::to_string).collect();
    json!({"settings": settings.collect::<Vec<_>>(), "problems": problems})
}

/// One row of documentation.
struct Row {
    key: String,
    default: String,
    shape: String,
    env: String,
    flag: String,
    help: &'static str,
}

fn rows(catalogue: &Catalogue) -> Vec<Row> {
    let default = |fallback| match fallback {
        Fallback::Value(text) => text.to_owned(),
        Fallback::Absent => "-".to_owned(),
        Fallback::Required => "required".to_owned(),
    };
    let own = catalogue.settings.iter().map(|setting| Row {
        key: setting.key.to_owned(),
        default: default(setting.fallback),
        shape: setting.kind.shape(),
        env: catalogue.env_name(setting.key),
        flag: if setting.flag().len() == 1 { format!("-{}", setting.flag()) } else { format!("--{}", setting.flag()) },
        help: setting.help,
    });
    let members = catalogue.members.iter().map(|setting| Row {
        key: format!("members[].{}", setting.key),
        default: default(setting.fallback),
        shape: setting.kind.shape(),
        env: "DYNAMOMINI_MEMBERS".to_owned(),
        flag: "--member".to_owned(),
        help: setting.help,
    });
    own.chain(members).collect()
}

/// The table of keys for people.
pub fn keys_text(catalogue: &Catalogue) -> String {
    let mut text = String::new();
    for row in rows(catalogue) {
        let shape = row.shape.replace("\\|", "|");
        // Writing to a String cannot fail.
        let _ =
            writeln!(text, "{} = {}  ({shape})\n    {}\n    {}  {}", row.key, row.default, row.help, row.flag, row.env);
    }
    text
}

/// The table of keys for the README.
pub fn keys_markdown(catalogue: &Catalogue) -> String {
    let mut text = "| key | default | value | meaning |\n|---|---|---|---|\n".to_owned();
    for row in rows(catalogue) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| `{}` | `{}` | {} | {} |", row.key, row.default, row.shape, row.help);
    }
    text
}

/// The table of keys as JSON.
pub fn keys_json(catalogue: &Catalogue) -> serde_json::Value {
    let rows = rows(catalogue).into_iter().map(|row| {
        json!({"key": row.key, "default": row.default, "value": row.shape.replace("\\|", "|"),
               "env": row.env, "flag": row.flag, "help": row.help})
    });
    rows.collect()
}
