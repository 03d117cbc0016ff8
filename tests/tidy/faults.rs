//! A planted fault for every rule, and code that looks like one but is none.

use crate::layers;
use crate::rules::{self, FILE_LINES_MAX, FUNCTION_LINES_MAX, Rule};
use crate::source::Source;

/// The lines at which a rule finds faults in this text.
fn lines(rule: Rule, path: &str, text: &str) -> Vec<usize> {
    rule(&Source::new(path, text)).iter().map(|fault| fault.line).collect()
}

#[test]
fn an_import_upwards_is_caught_wherever_it_stands() {
    let found = |text| lines(rules::imports, "src/ring/place.rs", text);
    assert_eq!(found("//! x\nuse crate::node::Node;\n"), [2]);
    assert_eq!(found("//! x\nfn f() {\n    crate::store::open();\n}\n"), [3]);
    assert_eq!(found("//! x\npub(super) fn f(at: &crate::net::Link) {}\n"), [2]);
    assert_eq!(found("//! x\nuse crate::hash::ClusterHash;\nuse crate::ring::score::Use;\n"), []);
    assert_eq!(found("//! See [`crate::node::Node`].\nconst X: &str = \"crate::node\";\n"), []);
}

#[test]
fn imports_that_hide_names_are_caught() {
    let found = |text| lines(rules::imports, "src/node/core.rs", text);
    assert_eq!(found("use crate::{limits, record};\n"), [1]);
    assert_eq!(found("use crate::*;\n"), [1]);
    assert_eq!(found("pub(crate) use crate::store::Slot;\n"), [1]);
    assert_eq!(found("pub(crate) use crate::node::op::Apply;\nuse crate::store::{Engine, Slot};\n"), []);
    let found = |text| lines(rules::escapes, "src/node/core.rs", text);
    assert_eq!(found("use crate as all;\n"), [1]);
    assert_eq!(found("use dynamomini::client::Client;\n"), [1]);
    assert_eq!(found("use super::super::store;\n"), [1]);
    assert_eq!(found("use super::hints;\n"), []);
}

#[test]
fn the_parent_of_a_room_is_not_reached_from_its_root() {
    let found = |path, text| lines(rules::escapes, path, text);
    assert_eq!(found("src/quorum/mod.rs", "use super::node;\n"), [1]);
    assert_eq!(found("src/view.rs", "use super::node;\n"), [1]);
    assert_eq!(found("src/view.rs", "mod tests {\n    use super::*;\n}\nuse super::node;\n"), [4]);
}

#[test]
fn the_program_names_the_command_line_only() {
    let found = |text| lines(rules::imports, "src/main.rs", text);
    assert_eq!(found("use dynamomini::cli::Cli;\nuse dynamomini::store::Engine;\n"), [2]);
}

#[test]
fn a_room_without_a_row_is_caught() {
    assert_eq!(lines(rules::imports, "src/helper/mod.rs", "//! x\n"), [1]);
    assert_eq!(lines(rules::imports, "src/lib.rs", "//! x\npub mod helper;\n"), []);
}

#[test]
fn a_pure_room_that_asks_the_world_is_caught() {
    let text = "//! tokio\nuse std::time::Instant;\nfn f() {\n    let now = Instant::now();\n    tokio::task::yield_now();\n}\n";
    let mut found = lines(rules::purity, "src/quorum/get.rs", text);
    found.sort_unstable();
    assert_eq!(found, [4, 5]);
    assert_eq!(lines(rules::purity, "src/net/lane.rs", text), []);
    let test = "#[cfg(test)]\nmod tests {\n    use std::fs;\n}\nconst REDIS_WAIT: u8 = 1;\n";
    assert_eq!(lines(rules::purity, "src/limits.rs", test), []);
    for word in layers::IMPURE {
        assert_eq!(lines(rules::purity, "src/limits.rs", &format!("const X: u8 = {word};")), [1], "{word}");
    }
}

#[test]
fn a_file_that_does_not_say_what_it_is_for_is_caught() {
    assert_eq!(lines(rules::opening, "src/view.rs", "use std::fmt;\n"), [1]);
    assert_eq!(lines(rules::opening, "src/view.rs", ""), [1]);
    assert_eq!(lines(rules::opening, "src/view.rs", "//! Views.\n"), []);
}

#[test]
fn a_gate_inside_a_room_is_caught() {
    let gate = "#[cfg(feature = \"redis\")]\nmod redis;\n";
    assert_eq!(lines(rules::gates, "src/node/mod.rs", gate), [1]);
    assert_eq!(lines(rules::gates, "src/store/mod.rs", gate), []);
    assert_eq!(lines(rules::gates, "src/store/mod.rs", "#[cfg(feature = \"cli\")]\n"), [1]);
    assert_eq!(lines(rules::gates, "src/lib.rs", gate), []);
}

#[test]
fn work_started_past_env_is_caught() {
    let text =
        "//! x\nfn f() {\n    tokio::spawn(g());\n    tokio::task::spawn_blocking(h);\n    env.spawn(\"x\", g());\n}\n";
    let mut found = lines(rules::spawns, "src/node/mod.rs", text);
    found.sort_unstable();
    assert_eq!(found, [3, 4]);
    assert_eq!(lines(rules::spawns, "src/env.rs", text), []);
}

#[test]
fn a_folder_of_one_machine_is_caught() {
    let found = |text: &str| lines(rules::absolute_paths, "README.md", &text.replace('%', "/"));
    assert_eq!(found("cd %root%x\n\nsee %work\n"), [3, 1]);
    assert_eq!(found("\"%tmp\"\n"), [1]);
    assert_eq!(found("https:%%example.org%work and ./%tmp and %workers and ~%home\n"), []);
}

#[test]
fn a_long_file_is_caught_and_its_tests_are_not_counted() {
    let long = "//! x\n".repeat(FILE_LINES_MAX + 1);
    assert_eq!(lines(rules::file_length, "src/view.rs", &long), [1]);
    let tests = format!("//! x\n#[cfg(test)]\nmod tests {{\n{}}}\n", "    // x\n".repeat(FILE_LINES_MAX));
    assert_eq!(lines(rules::file_length, "src/view.rs", &tests), []);
}

#[test]
fn a_long_function_is_caught() {
    let body = |lines: usize| format!("//! x\nfn f(x: [u8; 2]) -> u8 {{\n{}}}\n", "    g('{');\n".repeat(lines));
    assert_eq!(lines(rules::function_length, "src/view.rs", &body(FUNCTION_LINES_MAX - 1)), [2]);
    assert_eq!(lines(rules::function_length, "src/view.rs", &body(FUNCTION_LINES_MAX - 2)), []);
}

#[test]
fn unfinished_and_unbounded_work_is_caught() {
    let found = |text: &str| lines(rules::banned_words, "tests/x.rs", &text.replace('%', "!"));
    assert_eq!(found("fn f() {\n    todo%()\n}\n"), [2]);
    assert_eq!(found("unimplemented%()"), [1]);
    assert_eq!(found("let (a, b) = mpsc::unbounded_channel();"), [1]);
    assert_eq!(found("// todo%() would be caught\nlet x = \"unbounded_channel\";"), []);
    let mark = concat!("// TO", "DO later\n// FIX", "ME\n");
    assert_eq!(lines(rules::marks, "tests/x.rs", mark), [1, 2]);
}

#[test]
fn an_unbiased_select_is_caught() {
    let found = |text| lines(rules::biased, "src/net/link.rs", text);
    assert_eq!(found("tokio::select! {\n    a = b => {}\n}\n"), [1]);
    assert_eq!(found("tokio::select! {\n    // Why.\n    biased;\n    a = b => {}\n}\n"), []);
}

#[test]
fn a_table_that_differs_is_noticed() {
    let row = |[floor, room, uses, pure]: [String; 4]| format!("| {floor} | {room} | {uses} | {pure} | - |\n");
    let rows: String = layers::table().into_iter().map(row).collect();
    let markdown = format!("# A\n\n| floor | room | may use | pure | - |\n|---|---|---|---|---|\n{rows}\nMore.\n");
    assert_eq!(layers::table_in(&markdown), layers::table());
    assert_ne!(layers::table_in(&markdown.replace("| 5 |", "| 4 |")), layers::table());
    assert_ne!(layers::table_in("# A\n"), layers::table());
}

#[test]
fn literals_and_comments_are_not_code() {
    let text =
        "let a = \"x \\\" //\"; /* { /* } */ */ let b = r#\"\"{\"#; let c = '\"'; let d: &'static str; let e = '{';";
    let source = Source::new("src/x.rs", text);
    assert_eq!(source.code.len(), text.len());
    assert_eq!(source.code.matches('{').count(), 0, "{}", source.code);
    assert!(source.code.contains("let d: &'static str;"), "{}", source.code);
}
