//! A TOML document, flattened to dotted keys with their line numbers.
//!
//! Syntax, unknown keys and types are judged here; what the values mean together is not.

use std::path::Path;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::DeTable;
use toml::de::DeValue;

use crate::config::problem::Problem;
use crate::config::problem::Source;
use crate::config::settings::Catalogue;
use crate::config::settings::Kind;
use crate::config::settings::NAMESPACE_DEFAULT;
use crate::config::settings::closest;
use crate::config::value::Value;
use crate::config::value::from_toml;
use crate::limits;
use crate::types::Namespace;

/// What a file holds.
#[derive(Debug, Default)]
pub(crate) struct Document {
    /// Full keys with their values and places.
    pub(crate) values: Vec<(String, Value, Source)>,
    /// Keys that were there but refused.
    pub(crate) refused: Vec<String>,
    /// Namespaces that have a table, even an empty one.
    pub(crate) namespaces: Vec<String>,
    /// Where each `[[members]]` table begins.
    pub(crate) members: Vec<Source>,
    /// All that is wrong.
    pub(crate) problems: Vec<Problem>,
    /// Whether the text could not be read or parsed, so that keys are missing for that reason alone.
    pub(crate) broken: bool,
}

/// Reads and flattens a file.
pub(crate) fn read(catalogue: &'static Catalogue, path: &Path) -> Document {
    let broken = |problem| Document { problems: vec![problem], broken: true, ..Document::default() };
    match read_text(path) {
        Ok(text) => parse(catalogue, path, &text),
        Err(problem) => broken(problem),
    }
}

fn read_text(path: &Path) -> Result<String, Problem> {
    let place = path.display().to_string();
    let bytes = match std::fs::metadata(path) {
        Ok(found) if found.len() > limits::CONFIG_FILE_MAX => {
            let what = format!("is larger than {} bytes", limits::CONFIG_FILE_MAX);
            return Err(Problem::at(place, what, "name a configuration file"));
        }
        Ok(_) => std::fs::read(path),
        Err(error) => Err(error),
    };
    let bytes = bytes.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Problem::at(&place, "there is no such file", "correct the path given by --config, or make the file")
        }
        _ => Problem::at(&place, format!("cannot be read: {error}"), "correct the path or the file's permissions"),
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let what = format!("is not UTF-8 text (byte {})", error.utf8_error().valid_up_to());
        Problem::at(place, what, "save it as UTF-8")
    })
}

/// Flattens the text of a file.
pub(crate) fn parse(catalogue: &'static Catalogue, path: &Path, text: &str) -> Document {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut walk = Walk { catalogue, path: path.to_owned(), text, document: Document::default() };
    if errors.is_empty() {
        walk.table("", table.get_ref());
    }
    for error in &errors {
        let (line, column) = position(text, error.span().map_or(0, |span| span.start));
        let place = format!("{}:{line}:{column}", path.display());
        let what = format!("is not valid TOML: {}", error.message());
        walk.document.problems.push(Problem::at(place, what, "correct the line; values that are text need quotes"));
        walk.document.broken = true;
    }
    walk.document
}

/// Line and column, both from 1, of a byte of a text.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before.get(start..).unwrap_or("").chars().count() + 1)
}

struct Walk<'a> {
    catalogue: &'static Catalogue,
    path: PathBuf,
    text: &'a str,
    document: Document,
}

impl Walk<'_> {
    fn source(&self, byte: usize) -> Source {
        Source::File(self.path.clone(), position(self.text, byte).0)
    }

    fn table(&mut self, prefix: &str, table: &DeTable<'_>) {
        // In the order of the text, so that problems are read from top to bottom.
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in entries {
            let key =
                if prefix.is_empty() { name.get_ref().to_string() } else { format!("{prefix}.{}", name.get_ref()) };
            let source = self.source(name.span().start);
            self.entry(key, value, source);
        }
    }

    fn entry(&mut self, key: String, value: &Spanned<DeValue<'_>>, source: Source) {
        match value.get_ref() {
            DeValue::Table(inner) if self.catalogue.find(&key).is_none() && self.is_table(&key) => {
                if let Some(name) = key.strip_prefix("namespaces.") {
                    self.namespace(name, &source, inner, &key);
                } else {
                    self.table(&key, inner);
                }
            }
            DeValue::Array(items) if key == "members" && !self.catalogue.members.is_empty() => {
                for (index, item) in items.iter().enumerate() {
                    let place = self.source(item.span().start);
                    self.member(index, item.get_ref(), place);
                }
            }
            found => match self.catalogue.find(&key) {
                Some(setting) => match from_toml(&setting.kind, found) {
                    Ok(value) => {
                        let value = self.anchored(&setting.kind, value);
                        self.document.values.push((key, value, source));
                    }
                    Err(refusal) => {
                        self.document.problems.push(Problem::refused(&source, &key, refusal));
                        self.document.refused.push(key);
                    }
                },
                None => self.unknown(&key, found, &source),
            },
        }
    }

    fn namespace(&mut self, name: &str, source: &Source, table: &DeTable<'_>, key: &str) {
        match Namespace::new(name) {
            Ok(_) => {
                self.document.namespaces.push(name.to_owned());
                self.table(key, table);
            }
            Err(invalid) => {
                self.document.problems.push(Problem::new(source, key, invalid.to_string(), "rename the table"));
            }
        }
    }

    fn member(&mut self, index: usize, item: &DeValue<'_>, source: Source) {
        if let DeValue::Table(inner) = item {
            self.table(&format!("members[{index}]"), inner);
        } else {
            let fix = "write [[members]] tables with name and quic";
            self.document.problems.push(Problem::new(&source, "members", "holds something that is not a table", fix));
        }
        self.document.members.push(source);
    }

    /// Paths in a file are relative to the file, so that a folder can be moved as a whole.
    fn anchored(&self, kind: &Kind, value: Value) -> Value {
        match (kind, value) {
            (Kind::Path, Value::Text(path)) => Value::Text(anchor(&self.path, &path)),
            (_, other) => other,
        }
    }

    fn is_table(&self, key: &str) -> bool {
        let prefix = format!("{key}.");
        let names_namespace = key.strip_prefix("namespaces.").is_some_and(|name| !name.contains('.'));
        let has_namespaces = self.catalogue.find(&format!("{NAMESPACE_DEFAULT}n")).is_some();
        (names_namespace && has_namespaces)
            || self.catalogue.settings.iter().any(|setting| setting.key.starts_with(&prefix))
    }

    fn unknown(&mut self, key: &str, found: &DeValue<'_>, source: &Source) {
        let (what, fix) = if self.is_table(key) {
            let fix = format!("write [{key}] with its keys below it");
            (format!("is a table, not a value; it is {}", found.type_str()), fix)
        } else {
            ("is not a setting".to_owned(), self.suggestion(key, matches!(found, DeValue::Table(_))))
        };
        self.document.problems.push(Problem::new(source, key, what, fix));
    }

    fn suggestion(&self, key: &str, is_table: bool) -> String {
        let list = "see `dynamomini config keys`";
        let known: Vec<String> = if is_table {
            self.tables()
        } else if let Some((table, _)) = key.split_once("].") {
            self.catalogue.members.iter().map(|setting| format!("{table}].{}", setting.key)).collect()
        } else if let Some((name, _)) = key.strip_prefix("namespaces.").and_then(|rest| rest.rsplit_once('.')) {
            let fields =
                self.catalogue.settings.iter().filter_map(|setting| setting.key.strip_prefix(NAMESPACE_DEFAULT));
            fields.map(|field| format!("namespaces.{name}.{field}")).collect()
        } else {
            self.catalogue.settings.iter().map(|setting| setting.key.to_owned()).collect()
        };
        let last = |key: &str| key.rsplit('.').next().map(str::to_owned);
        let near = closest(key, known.iter().map(String::as_str))
            .or_else(|| known.iter().map(String::as_str).find(|word| last(word) == last(key)));
        near.map_or_else(|| list.to_owned(), |word| format!("did you mean {word}?"))
    }

    fn tables(&self) -> Vec<String> {
        let mut tables: Vec<String> = Vec::new();
        for setting in self.catalogue.settings {
            for (at, _) in setting.key.match_indices('.') {
                tables.push(setting.key.get(..at).unwrap_or_default().to_owned());
            }
        }
        if !self.catalogue.members.is_empty() {
            tables.push("members".to_owned());
        }
        tables.dedup();
        tables
    }
}

/// A path relative to the folder of a file.
pub(crate) fn anchor(file: &Path, path: &str) -> String {
    let folder = file.parent().unwrap_or_else(|| Path::new(""));
    folder.join(path).to_string_lossy().into_owned()
}
