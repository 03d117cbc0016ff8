//! The house rules that no compiler keeps: which room may name which, what pure rooms are free of, and how long things
//! get. Reads the sources as text and needs nothing but the standard library.
//!
//! Each rule is tried on a planted fault first (`faults`), so that a rule that catches nothing is noticed.

mod faults;
mod layers;
mod rules;
mod source;

use std::fs;
use std::path::Path;

use crate::layers::ROOMS;
use crate::rules::{FOR_ALL, FOR_SRC, FUNCTION_LINES_MAX};
use crate::source::{Fault, Source};

/// Folders with Rust files beside `src`.
const BESIDE: &[&str] = &["tests", "benches", "examples"];
/// What is written for people, and run by them: free of folders of one machine, too.
const DOCUMENTS: &[&str] = &["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "certs", "netem", ".ci", "tests/run"];

/// The files of a folder, or the one file, whose names have this ending.
fn files(at: &str, ending: &str) -> Vec<Source> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(at);
    if path.is_file() {
        let text = fs::read_to_string(&path).expect("sources are text");
        return if at.ends_with(ending) { vec![Source::new(at, text)] } else { Vec::new() };
    }
    let Ok(entries) = fs::read_dir(&path) else { return Vec::new() };
    let names = entries.map(|entry| entry.expect("folders of the repository can be read").file_name());
    let mut names: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
    names.sort();
    names.iter().flat_map(|name| files(&format!("{at}/{name}"), ending)).collect()
}

/// The Rust files of `src`, those of test modules marked.
fn src() -> Vec<Source> {
    let mut sources = files("src", ".rs");
    assert!(sources.len() > 50, "only {} files were found under src", sources.len());
    let tests: Vec<String> = sources.iter().flat_map(Source::test_modules).collect();
    for source in &mut sources {
        let of =
            |test: &String| source.path.strip_prefix(test).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'));
        source.all_test = tests.iter().any(of);
    }
    sources
}

/// Fails with every fault there is.
fn assert_none(faults: impl IntoIterator<Item = Fault>) {
    let faults: Vec<String> = faults.into_iter().map(|fault| fault.to_string()).collect();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn src_keeps_the_rules() {
    let sources = src();
    assert_none(sources.iter().flat_map(|source| FOR_SRC.iter().chain(FOR_ALL).flat_map(|rule| rule(source))));
}

#[test]
fn tests_benches_and_examples_keep_the_rules() {
    let sources: Vec<Source> = BESIDE.iter().flat_map(|folder| files(folder, ".rs")).collect();
    assert_none(sources.iter().flat_map(|source| FOR_ALL.iter().flat_map(|rule| rule(source))));
}

#[test]
fn documents_name_no_folder_of_one_machine() {
    let sources: Vec<Source> = DOCUMENTS.iter().flat_map(|document| files(document, "")).collect();
    assert_none(sources.iter().flat_map(rules::absolute_paths));
}

#[test]
fn rooms_use_only_rooms_above_them_in_the_table() {
    for (at, room) in ROOMS.iter().enumerate() {
        for used in room.uses {
            let known = ROOMS[..at].iter().find(|other| other.name == *used);
            let known = known.unwrap_or_else(|| panic!("{} uses {used}, which does not stand above it", room.name));
            assert!(known.pure || !room.pure, "{} is pure and uses {used}, which is not", room.name);
        }
    }
}

#[test]
fn every_room_of_the_table_exists() {
    let sources = src();
    for room in ROOMS {
        let exists = sources.iter().any(|source| source.room() == Some(room.name));
        assert!(exists, "the table has a room {} that src does not have", room.name);
    }
}

#[test]
fn architecture_shows_the_table_of_rooms() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let shown = layers::table_in(&fs::read_to_string(path).expect("ARCHITECTURE.md is there"));
    assert_eq!(shown, layers::table(), "ARCHITECTURE.md and tests/tidy/layers.rs differ");
}

/// Prints the longest files and functions: `cargo test --test tidy longest -- --nocapture`.
#[test]
#[expect(clippy::print_stdout, reason = "the figures are what it is run for")]
fn the_longest_are_within_the_caps() {
    let sources = src();
    let mut lines: Vec<(usize, &str)> = sources.iter().map(|source| (source.own_lines(), &*source.path)).collect();
    lines.sort_unstable();
    let mut functions: Vec<(usize, String)> = Vec::new();
    for source in &sources {
        for (at, length) in rules::functions(source) {
            functions.push((length, format!("{}:{}", source.path, source.line(at))));
        }
    }
    functions.sort_unstable();
    lines.iter().rev().take(5).for_each(|(lines, path)| println!("{lines:4} lines  {path}"));
    functions.iter().rev().take(5).for_each(|(lines, at)| println!("{lines:4} lines  function at {at}"));
    let longest = functions.last().map_or(0, |(lines, _)| *lines);
    assert!((1..=FUNCTION_LINES_MAX).contains(&longest), "the longest function has {longest} lines");
}
