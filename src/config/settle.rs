//! Layers: defaults, then the file, then the environment, then flags; each value remembers where it came from.
//!
//! The environment and the flags come in as arguments, so that nothing here depends on the process.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

use crate::config::document;
use crate::config::document::Document;
use crate::config::problem::Problem;
use crate::config::problem::Source;
use crate::config::settings::CLIENT;
use crate::config::settings::Catalogue;
use crate::config::settings::ENV_PREFIX;
use crate::config::settings::Fallback;
use crate::config::settings::Kind;
use crate::config::settings::NAMESPACE_DEFAULT;
use crate::config::settings::NODE;
use crate::config::settings::Setting;
use crate::config::settings::closest;
use crate::config::value::Refusal;
use crate::config::value::Value;
use crate::config::value::from_text;
use crate::types::Namespace;

/// Where settings are given.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// The environment: names that begin with `DYNAMOMINI_`.
    pub env: BTreeMap<String, String>,
    /// Flags of settings: key and text.
    pub flags: Vec<(String, String)>,
    /// `--set KEY=VALUE`.
    pub sets: Vec<String>,
    /// `--member name=...,quic=...`: replaces the members of the file.
    pub members: Vec<String>,
}

impl Inputs {
    /// What the environment of this process says, and nothing else.
    pub fn from_process() -> Self {
        let env = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok().filter(|name| name.starts_with(ENV_PREFIX))?;
            Some((name, value.to_string_lossy().into_owned()))
        });
        Self { env: env.collect(), ..Self::default() }
    }
}

/// A value and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sourced {
    /// The value.
    pub value: Value,
    /// Where it came from.
    pub source: Source,
}

/// All values of a configuration, each of an allowed type; whether they fit each other is not known yet.
#[derive(Debug)]
pub struct Settled {
    /// Whose settings these are.
    pub catalogue: &'static Catalogue,
    /// The file they came from.
    pub file: Option<PathBuf>,
    /// Values by full key.
    pub values: BTreeMap<String, Sourced>,
    /// The namespaces that have a table.
    pub namespaces: BTreeSet<String>,
    /// Where each member was named.
    pub members: Vec<Source>,
    /// What is wrong so far.
    pub problems: Vec<Problem>,
    /// What looks like a mistake but may be meant.
    pub warnings: Vec<Problem>,
    /// Keys that were given but refused, which therefore do not count as missing.
    pub refused: BTreeSet<String>,
    /// Whether the file could not be parsed, so that nothing can be said about what is missing.
    pub broken: bool,
}

impl Settled {
    /// Puts the layers on top of each other.
    pub fn new(catalogue: &'static Catalogue, inputs: &Inputs) -> Self {
        let read = inputs.file.as_deref().map(|path| document::read(catalogue, path));
        let mut settled = Self::from_document(catalogue, inputs.file.clone(), read.unwrap_or_default());
        settled.take_env(&inputs.env);
        for (key, text) in &inputs.flags {
            let flag = catalogue.find(key).map(flag_shown).unwrap_or_default();
            settled.take_text(key, text, Source::Flag(flag));
        }
        for set in &inputs.sets {
            settled.take_set(set);
        }
        if !inputs.members.is_empty() {
            settled.take_members(inputs.members.iter().map(String::as_str), &Source::Flag("--member".to_owned()));
        }
        settled.take_defaults();
        settled
    }

    fn from_document(catalogue: &'static Catalogue, file: Option<PathBuf>, read: Document) -> Self {
        let values = read.values.into_iter().map(|(key, value, source)| (key, Sourced { value, source })).collect();
        Self {
            catalogue,
            file,
            values,
            namespaces: read.namespaces.into_iter().chain([Namespace::DEFAULT.to_owned()]).collect(),
            members: read.members,
            problems: read.problems,
            warnings: Vec::new(),
            refused: read.refused.into_iter().collect(),
            broken: read.broken,
        }
    }

    fn take_text(&mut self, key: &str, text: &str, source: Source) {
        let Some(setting) = self.catalogue.find(key) else {
            let known = self.catalogue.settings.iter().map(|setting| setting.key);
            let fix = closest(key, known).map(|word| format!("did you mean {word}?"));
            let fix = fix.unwrap_or_else(|| "see `dynamomini config keys`".to_owned());
            self.problems.push(Problem::new(&source, key, "is not a setting", fix));
            return;
        };
        match from_text(&setting.kind, text) {
            Ok(value) => {
                self.refused.remove(key);
                self.values.insert(key.to_owned(), Sourced { value, source });
            }
            Err(refusal) => {
                self.problems.push(Problem::refused(&source, key, refusal));
                self.refused.insert(key.to_owned());
            }
        }
    }

    fn take_env(&mut self, env: &BTreeMap<String, String>) {
        let catalogue = self.catalogue;
        let mut keys: Vec<String> = catalogue.settings.iter().map(|setting| setting.key.to_owned()).collect();
        for name in self.namespaces.iter().filter(|name| *name != Namespace::DEFAULT) {
            let fields = catalogue.settings.iter().filter_map(|setting| setting.key.strip_prefix(NAMESPACE_DEFAULT));
            keys.extend(fields.map(|field| format!("namespaces.{name}.{field}")));
        }
        for key in &keys {
            let name = catalogue.env_name(key);
            if let Some(text) = env.get(&name) {
                self.take_text(key, text, Source::Env(name));
            }
        }
        if let Some(text) = env.get(ENV_MEMBERS).filter(|_| !catalogue.members.is_empty()) {
            let parts = text.split(';').map(str::trim).filter(|part| !part.is_empty());
            self.take_members(parts, &Source::Env(ENV_MEMBERS.to_owned()));
        }
        self.warn_of_typos(env, &keys);
    }

    /// An unknown variable is only a warning: schedulers such as Kubernetes add names of this form by themselves.
    fn warn_of_typos(&mut self, env: &BTreeMap<String, String>, keys: &[String]) {
        let mut known: BTreeSet<String> = [ENV_CONFIG, ENV_CLIENT_CONFIG, ENV_MEMBERS].map(str::to_owned).into();
        known.extend(keys.iter().map(|key| self.catalogue.env_name(key)));
        for other in [&NODE, &CLIENT] {
            known.extend(other.settings.iter().map(|setting| other.env_name(setting.key)));
        }
        for name in env.keys().filter(|name| !known.contains(*name)) {
            if let Some(word) = closest(name, known.iter().map(String::as_str)) {
                let source = Source::Env(name.clone());
                self.warnings.push(Problem::new(&source, "", "is not a setting", format!("did you mean {word}?")));
            }
        }
    }

    fn take_set(&mut self, set: &str) {
        let source = Source::Flag("--set".to_owned());
        let Some((key, text)) = set.split_once('=') else {
            let fix = "write --set KEY=VALUE, such as --set namespaces.orders.w=3";
            self.problems.push(Problem::new(&source, "", format!("{set:?} has no '='"), fix));
            return;
        };
        if let Some((name, _)) = key.strip_prefix("namespaces.").and_then(|rest| rest.rsplit_once('.')) {
            match Namespace::new(name) {
                Ok(_) => drop(self.namespaces.insert(name.to_owned())),
                Err(invalid) => return self.problems.push(Problem::new(&source, key, invalid.to_string(), "")),
            }
        }
        self.take_text(key, text, source);
    }

    fn take_members<'a>(&mut self, members: impl Iterator<Item = &'a str>, source: &Source) {
        self.values.retain(|key, _| !key.starts_with("members["));
        self.refused.retain(|key| !key.starts_with("members["));
        self.members.clear();
        for (index, text) in members.enumerate() {
            self.members.push(source.clone());
            for part in text.split(',') {
                match part.split_once('=') {
                    Some((field, value)) => {
                        self.take_text(&format!("members[{index}].{}", field.trim()), value.trim(), source.clone());
                    }
                    None => {
                        let fix = "write name=n1,quic=host:port and, if wanted, gossip=, zone=, weight=";
                        self.problems.push(Problem::new(source, "", format!("{part:?} has no '='"), fix));
                    }
                }
            }
        }
    }

    fn take_defaults(&mut self) {
        let catalogue = self.catalogue;
        for setting in catalogue.settings {
            self.take_default(setting, setting.key.to_owned());
        }
        for index in 0..self.members.len() {
            for setting in catalogue.members {
                self.take_default(setting, format!("members[{index}].{}", setting.key));
            }
        }
        for name in self.namespaces.clone().into_iter().filter(|name| name != Namespace::DEFAULT) {
            for setting in catalogue.settings {
                let Some(field) = setting.key.strip_prefix(NAMESPACE_DEFAULT) else { continue };
                let inherited = self.values.get(setting.key).map(|found| found.value.clone());
                let source = Source::Derived(setting.key.to_owned());
                if let Some(value) = inherited {
                    let key = format!("namespaces.{name}.{field}");
                    self.values.entry(key).or_insert(Sourced { value, source });
                }
            }
        }
    }

    fn take_default(&mut self, setting: &Setting, key: String) {
        if self.values.contains_key(&key) {
            return;
        }
        match setting.fallback {
            Fallback::Value(text) => match default_value(setting, text, self.file.as_deref()) {
                Ok(value) => drop(self.values.insert(key, Sourced { value, source: Source::Default })),
                // A test holds every default to be allowed; should one not be, it is reported like any other value.
                Err(refusal) => self.problems.push(Problem::refused(&Source::Default, &key, refusal)),
            },
            Fallback::Required if !self.broken && !self.refused.contains(&key) => {
                let (source, fix) = self.missing(setting, &key);
                self.problems.push(Problem::new(&source, &key, "is missing", fix));
            }
            Fallback::Required | Fallback::Absent => {}
        }
    }

    fn missing(&self, setting: &Setting, key: &str) -> (Source, String) {
        let index = key.strip_prefix("members[").and_then(|rest| rest.split_once(']')?.0.parse::<usize>().ok());
        if let Some(source) = index.and_then(|index| self.members.get(index)) {
            return (source.clone(), format!("give each member a {}", setting.key));
        }
        let (flag, env) = (flag_shown(setting), self.catalogue.env_name(key));
        let place = match &self.file {
            Some(file) => format!("set it in {}, by {flag}, or by {env}", file.display()),
            None => format!("set it in a file named by --config, by {flag}, or by {env}"),
        };
        (Source::Default, place)
    }

    /// The value of a key, if it has one.
    pub fn get(&self, key: &str) -> Option<&Sourced> {
        self.values.get(key)
    }

    /// Where a key was set.
    pub fn source(&self, key: &str) -> Source {
        self.values.get(key).map_or(Source::Default, |found| found.source.clone())
    }

    /// Reports a problem of a key, unless its own value was refused already.
    pub fn report(&mut self, key: &str, what: impl Into<String>, fix: impl Into<String>) {
        if !self.refused.contains(key) {
            let source = self.source(key);
            self.problems.push(Problem::new(&source, key, what, fix));
        }
    }

    /// The text of a key.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.values.get(key).map(|found| &found.value) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The text of a key, parsed once more into its type; `None` when it has none.
    pub fn parsed<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        self.text(key).and_then(|text| text.parse().ok())
    }

    /// The path of a key.
    pub fn path(&self, key: &str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    /// The number of a key; 0 when it has none.
    pub fn number(&self, key: &str) -> u64 {
        match self.values.get(key).map(|found| &found.value) {
            Some(Value::Integer(number)) => *number,
            _ => 0,
        }
    }
}

/// The environment variable that names a node's configuration file.
pub const ENV_CONFIG: &str = "DYNAMOMINI_CONFIG";
/// The environment variable that names a client's configuration file.
pub const ENV_CLIENT_CONFIG: &str = "DYNAMOMINI_CLIENT_CONFIG";
/// The environment variable that lists the members.
pub const ENV_MEMBERS: &str = "DYNAMOMINI_MEMBERS";

fn flag_shown(setting: &Setting) -> String {
    let name = setting.flag();
    if name.len() == 1 { format!("-{name}") } else { format!("--{name}") }
}

fn default_value(setting: &Setting, text: &str, file: Option<&Path>) -> Result<Value, Refusal> {
    match (&setting.kind, file) {
        (Kind::Path, Some(file)) => Ok(Value::Text(document::anchor(file, text))),
        (kind, _) => from_text(kind, text),
    }
}
