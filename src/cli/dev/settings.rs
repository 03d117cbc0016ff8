//! Settings of the nodes that are not `dev`'s own: taken as `node` takes them, and kept as `KEY=VALUE`.

use std::collections::BTreeMap;

use clap::Args as _;
use clap::Command;
use clap::FromArgMatches;

use crate::cli::Usage;
use crate::config::ConfigError;
use crate::config::NodeFlags;
use crate::config::Problem;
use crate::config::problem::Source;
use crate::config::settings::NODE;
use crate::config::settle::ENV_MEMBERS;
use crate::config::settle::Inputs;
use crate::config::settle::Settled;
use crate::config::value::Value;

/// Beginnings of the keys that `dev` sets itself, differently for each node.
const OWN: [&str; 7] =
    ["cluster.name", "node.", "listen.", "advertise.", "tls.", "storage.engine", "storage.redis.url"];

/// Reads what was given after `--`.
///
/// # Errors
/// When it is not what `node` takes, or sets what `dev` sets itself.
pub(super) fn parse(words: &[String]) -> anyhow::Result<Vec<String>> {
    let command = NodeFlags::augment_args(Command::new("dynamomini dev --").no_binary_name(true));
    let matches = command.try_get_matches_from(words).map_err(|error| Usage(error.to_string()))?;
    let flags = NodeFlags::from_arg_matches(&matches).map_err(|error| Usage(error.to_string()))?;
    if flags.config.is_some() || !flags.members.is_empty() {
        return Err(Usage("after -- go settings of all nodes; --config and --member are dev's own".to_owned()).into());
    }
    let pairs = flags.flags.into_iter().map(|(key, value)| format!("{key}={value}"));
    let settings: Vec<String> = pairs.chain(flags.sets).collect();
    values(&settings)?;
    Ok(settings)
}

/// The values of settings, by key.
///
/// # Errors
/// When one is not allowed, or is `dev`'s own.
pub(super) fn values(settings: &[String]) -> anyhow::Result<BTreeMap<String, Value>> {
    let own = settings.iter().filter(|setting| OWN.iter().any(|own| setting.starts_with(own)));
    if let Some(own) = own.into_iter().next() {
        return Err(Usage(format!("{own}: dev sets this itself for each node; leave it out")).into());
    }
    let inputs = Inputs { sets: settings.to_vec(), ..Inputs::default() };
    let settled = Settled::new(&NODE, &inputs);
    // What is missing here is what `dev` sets.
    let problems: Vec<Problem> = settled.problems.into_iter().filter(|problem| !problem.place.is_empty()).collect();
    if !problems.is_empty() {
        return Err(ConfigError::Invalid { title: NODE.title, problems }.into());
    }
    let given = settled.values.into_iter().filter(|(_, sourced)| matches!(sourced.source, Source::Flag(_)));
    Ok(given.map(|(key, sourced)| (key, sourced.value)).collect())
}

/// The variables of the environment that would go over what `dev` sets itself.
pub(super) fn own_variables() -> impl Iterator<Item = String> {
    let own = NODE.settings.iter().filter(|setting| OWN.iter().any(|own| setting.key.starts_with(own)));
    own.map(|setting| NODE.env_name(setting.key)).chain([ENV_MEMBERS.to_owned()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn settings_are_taken_as_node_takes_them() {
        let settings = parse(&words("--net-lanes 2 --set namespaces.orders.w=3 --log-level debug")).unwrap();
        let values = values(&settings).unwrap();
        assert_eq!(values["net.lanes"], Value::Integer(2));
        assert_eq!(values["namespaces.orders.w"].to_string(), "3");
        assert_eq!(values["log.level"].to_string(), "debug");
        assert_eq!(values.len(), 3);
    }

    #[test]
    fn what_is_wrong_or_not_for_the_user_is_refused() {
        for (given, says) in [
            ("--net-lanes many", "net.lanes"),
            ("--set net.lane=2", "did you mean net.lanes?"),
            ("--set node.name=x", "dev sets this itself"),
            ("--storage-engine redis", "dev sets this itself"),
            ("--member name=a,quic=b:1", "dev's own"),
            ("--frob", "--frob"),
        ] {
            let error = format!("{:#}", parse(&words(given)).unwrap_err());
            assert!(error.contains(says), "{given}: {error}");
        }
    }
}
