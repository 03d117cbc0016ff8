//! The command line as a whole: every help text, and how failures end.

use clap::Command;
use clap::CommandFactory;
use clap::Parser;

use crate::certs::CertsError;
use crate::cli::Cli;
use crate::cli::Failure;
use crate::cli::Usage;
use crate::client::CausalContext;
use crate::config::ConfigError;
use crate::config::Problem;
use crate::wire::rpc::KeyContext;

#[test]
fn the_arguments_of_all_verbs_are_consistent() {
    Cli::command().debug_assert();
}

fn render(command: &mut Command, path: &str, texts: &mut Vec<(String, String)>) {
    let path = format!("{path} {}", command.get_name());
    texts.push((path.clone(), command.render_long_help().to_string()));
    for inner in command.get_subcommands_mut() {
        render(inner, &path, texts);
    }
}

#[test]
fn every_verb_has_a_help_text_that_says_what_it_does() {
    let mut texts = Vec::new();
    render(&mut Cli::command(), "", &mut texts);
    assert!(texts.len() > 10, "{}", texts.len());
    for (path, text) in texts {
        assert!(text.contains("Usage:") && !text.starts_with("Usage:"), "{path} says nothing of itself: {text}");
    }
}

#[test]
fn a_context_may_begin_with_a_dash() {
    // The first byte of a position like this is one whose text form begins so.
    let context = CausalContext(KeyContext { position: 248, ..KeyContext::default() }).to_string();
    assert!(context.starts_with('-'), "{context}");
    let parsed = Cli::try_parse_from(["dynamomini", "put", "k", "v", "--context", &context]);
    assert!(parsed.is_ok(), "{}", parsed.unwrap_err());
}

#[test]
fn settings_have_flags_and_global_flags_go_anywhere() {
    let good = [
        "dynamomini --json config show --node-name n1 --set net.lanes=3 --member name=n1,quic=h:1",
        "dynamomini config check-client --nodes a:1,b:2 --timeout 5s -r 2 -w quorum --json",
        "dynamomini certs client web --grant orders:get+put:user/ --dir x -v",
        "dynamomini certs node n1 --host a --host b --days 3",
        "dynamomini put k -5 -w all --strict --ttl 30s --node n1 --namespace orders --timeout 2s",
        "dynamomini put --batch - --ttl 1h --json",
        "dynamomini get a b -r one --key-hex",
        "dynamomini get a --context",
        "dynamomini scan --values --limit 10 user/",
        "dynamomini status --json",
        "dynamomini repair --partition 3 --node n1 --wait --within 5s --json",
        "dynamomini hints --wait --within 5s --json",
        "dynamomini cluster show --json",
        "dynamomini cluster plan join n4 --zone z --weight 50",
        "dynamomini cluster plan replace n2 n5 --node n1",
        "dynamomini cluster leave n2 --yes --wait --within 10m --force",
        "dynamomini cluster weight n2 0",
        "dynamomini cluster keys list",
        "dynamomini tasks list --json",
        "dynamomini tasks wait layout-7 --within 5s",
        "dynamomini dev add --dir d --zone z --weight 7 --approve",
        "dynamomini ring k --config c.toml",
        "dynamomini bench --mix ycsb-a --rate 5000/s --in-flight 9 --clients 2 -r one --node n1 --json",
        "dynamomini bench --mix get=95,put=5 --count 10 --warmup 0s --value-size zipf:24..2KiB --plot p.svg",
        "dynamomini bench load --keys 10 --seed 7 -w all",
        "dynamomini bench check --keys 10 --every-node --namespace orders",
    ];
    for line in good {
        let parsed = Cli::try_parse_from(line.split(' '));
        assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
    }
    for line in [
        "dynamomini put",
        "dynamomini put k v --batch f",
        "dynamomini put k v --strict --sloppy",
        "dynamomini put k v --ttl 0s",
        "dynamomini get",
        "dynamomini get k --sibling 0",
        "dynamomini get k --key-hex --key-base64",
        "dynamomini scan --keys-only --values",
        "dynamomini repair --within 5s",
        "dynamomini hints --within 5s",
        "dynamomini hints --wait --within 0s",
        "dynamomini certs client web --grant orders",
        "dynamomini certs node N1",
        "dynamomini bench --mix ycsb-z",
        "dynamomini bench --count 1 --duration 1s",
        "dynamomini bench --keys 0",
        "dynamomini bench check --every-node --node n1",
        "dynamomini bench --mix put load",
        "dynamomini cluster replace n2",
        "dynamomini cluster plan leave n2 --yes",
        "dynamomini cluster leave n2 --within 5s",
        "dynamomini cluster weight n2 5000",
        "dynamomini tasks pause",
        "dynamomini dev add --nodes 3",
        "dynamomini frob",
    ] {
        assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line} was taken");
    }
}

#[test]
fn wrong_usage_and_configuration_exit_with_2_and_all_else_with_1() {
    let problems = vec![Problem::at("f:1", "is wrong", "correct it")];
    let invalid = || ConfigError::Invalid { title: "node", problems: problems.clone() };
    assert_eq!(Failure::new(invalid().into(), false).status(), 2);
    assert_eq!(Failure::new(Usage("no".to_owned()).into(), false).status(), 2);
    assert_eq!(Failure::new(CertsError::NoGrant("web".to_owned()).into(), false).status(), 2);
    assert_eq!(Failure::new(CertsError::Exists("x".into()).into(), false).status(), 1);
    assert_eq!(Failure::new(anyhow::anyhow!("refused"), false).status(), 1);
    assert_eq!(
        Failure::new(invalid().into(), false).to_string(),
        "error: the node configuration has 1 problem:\n  f:1: is wrong; correct it"
    );
    let json: serde_json::Value = serde_json::from_str(&Failure::new(invalid().into(), true).to_string()).unwrap();
    assert_eq!(json["error"]["problems"][0], "f:1: is wrong; correct it");
    assert_eq!(json["error"]["status"], 2);
}
