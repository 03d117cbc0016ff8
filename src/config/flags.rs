//! Flags for every setting, made from the tables, to be flattened into the arguments of a verb.

use std::path::PathBuf;

use clap::Arg;
use clap::ArgAction;
use clap::ArgMatches;
use clap::Args;
use clap::Command;
use clap::FromArgMatches;

use crate::config::settings::CLIENT;
use crate::config::settings::Catalogue;
use crate::config::settings::Fallback;
use crate::config::settings::NODE;
use crate::config::settings::Setting;

/// What the flags of a node's settings say.
#[derive(Debug, Clone, Default)]
pub struct NodeFlags {
    /// `--config FILE`.
    pub config: Option<PathBuf>,
    /// Settings given as flags: key and text.
    pub flags: Vec<(String, String)>,
    /// `--set KEY=VALUE`.
    pub sets: Vec<String>,
    /// `--member name=...,quic=...`.
    pub members: Vec<String>,
}

/// What the flags of a client's settings say.
#[derive(Debug, Clone, Default)]
pub struct ClientFlags {
    /// `--config FILE`.
    pub config: Option<PathBuf>,
    /// Settings given as flags: key and text.
    pub flags: Vec<(String, String)>,
}

fn setting_flags(catalogue: &'static Catalogue, mut command: Command) -> Command {
    for setting in catalogue.settings {
        command = command.arg(setting_flag(catalogue, setting));
    }
    command
}

fn setting_flag(catalogue: &Catalogue, setting: &'static Setting) -> Arg {
    let default = match setting.fallback {
        Fallback::Value(text) => format!(" [default: {text}]"),
        Fallback::Absent | Fallback::Required => String::new(),
    };
    let env = catalogue.env_name(setting.key);
    let arg = Arg::new(setting.key)
        .value_name(setting.kind.placeholder())
        .help(format!("{}{default} [env: {env}]", setting.help))
        .help_heading("Settings")
        .action(ArgAction::Set)
        .hide_short_help(catalogue.settings.len() > 20);
    let name = setting.flag();
    match name.chars().next() {
        Some(short) if name.len() == 1 => arg.short(short),
        _ => arg.long(name),
    }
}

fn given(catalogue: &'static Catalogue, matches: &ArgMatches) -> Vec<(String, String)> {
    let keys = catalogue.settings.iter().map(|setting| setting.key);
    keys.filter_map(|key| Some((key.to_owned(), matches.get_one::<String>(key)?.clone()))).collect()
}

fn config_flag(help: &'static str) -> Arg {
    Arg::new("config").long("config").value_name("FILE").value_parser(clap::value_parser!(PathBuf)).help(help)
}

fn texts(matches: &ArgMatches, id: &str) -> Vec<String> {
    matches.get_many::<String>(id).into_iter().flatten().cloned().collect()
}

impl Args for NodeFlags {
    fn augment_args(command: Command) -> Command {
        let command = command
            .arg(config_flag("The node's configuration; by default ./dynamomini.toml if it is there [env: DYNAMOMINI_CONFIG]"))
            .arg(
                Arg::new("set").long("set").value_name("KEY=VALUE").action(ArgAction::Append).help(
                    "Any setting by its key, such as namespaces.orders.w=3; --help lists a flag for each, too",
                ),
            )
            .arg(Arg::new("member").long("member").value_name("name=NAME,quic=HOST:PORT").action(ArgAction::Append).help(
                "A member of the cluster; repeat it for all: replaces [[members]] of the file [env: DYNAMOMINI_MEMBERS, ';' between members]",
            ));
        setting_flags(&NODE, command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for NodeFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self {
            config: matches.get_one("config").cloned(),
            flags: given(&NODE, matches),
            sets: texts(matches, "set"),
            members: texts(matches, "member"),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for ClientFlags {
    fn augment_args(command: Command) -> Command {
        let help = "The client's configuration; by default ./.dynamomini/client.toml, then the user's dynamomini/client.toml [env: DYNAMOMINI_CLIENT_CONFIG]";
        setting_flags(&CLIENT, command.arg(config_flag(help)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ClientFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self { config: matches.get_one("config").cloned(), flags: given(&CLIENT, matches) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
