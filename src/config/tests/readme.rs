//! The README against what it speaks of: tables of settings, the example of a configuration, the client's snippet.

use crate::config::HostChecks;
use crate::config::judge_node;
use crate::config::settings::CLIENT;
use crate::config::settings::NODE;
use crate::config::settle::Inputs;
use crate::config::show::keys_markdown;

const README: &str = include_str!("../../../README.md");
/// Holds the snippet as a documentation test, which compiles it.
const CLIENT_DOCS: &str = include_str!("../../client/mod.rs");

/// The content of the code block in this language that holds these words.
fn block(language: &str, words: &str) -> &'static str {
    let blocks = README.split("\n```").filter_map(|part| part.strip_prefix(language)?.strip_prefix('\n'));
    blocks.into_iter().find(|block| block.contains(words)).expect("the README has such a block")
}

#[test]
fn the_readme_has_the_tables_that_config_keys_prints() {
    for (title, catalogue) in [("Node", &NODE), ("Client", &CLIENT)] {
        let section = format!("\n### {title}\n\n{}", keys_markdown(catalogue));
        let fix = "replace the tables by the output of: dynamomini config keys --markdown";
        assert!(README.contains(&section), "README.md differs in section {title}: {fix}");
    }
}

#[test]
fn the_configuration_in_the_readme_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("n1.toml");
    std::fs::write(&file, block("toml", "[[members]]")).unwrap();
    let judged = judge_node(&Inputs { file: Some(file), ..Inputs::default() }, HostChecks::None, 0);
    let config = judged.into_result().unwrap();
    assert_eq!((config.name.as_str(), config.members.len()), ("n1", 3));
}

#[test]
fn the_snippet_in_the_readme_is_the_one_that_is_compiled() {
    let docs: Vec<&str> = CLIENT_DOCS.lines().filter_map(|line| line.strip_prefix("//! ")).collect();
    let snippet = block("rust", "Client::builder");
    assert!(snippet.lines().count() > 5);
    for line in snippet.lines().filter(|line| !line.is_empty()) {
        assert!(docs.contains(&line), "this line is not in the docs of the client: {line}");
    }
}
