//! The rules, each a function from a file to its faults. All are textual: they see words, not meanings.

use crate::layers::{self, IMPURE};
use crate::source::{Fault, Source, closing, in_name};

/// Most lines of a file, test modules apart.
pub(crate) const FILE_LINES_MAX: usize = 600;
/// Most lines of a function, from its name to its closing brace.
pub(crate) const FUNCTION_LINES_MAX: usize = 70;

/// The one file that starts tasks and blocking work.
const SPAWNS: &str = "src/env.rs";
/// Where the engine variant for Redis may be left out; everything else is left out by the room, in `lib.rs`.
const GATED: &[&str] = &["src/store/mod.rs", "src/node/status.rs"];

/// A rule.
pub(crate) type Rule = fn(&Source) -> Vec<Fault>;

/// The rules for `src`.
pub(crate) const FOR_SRC: &[Rule] = &[imports, escapes, purity, opening, gates, spawns, absolute_paths];
/// The rules for every Rust file.
pub(crate) const FOR_ALL: &[Rule] = &[file_length, function_length, banned_words, marks, biased];

/// A room names only the rooms that its row allows, one path for each `use`, and passes on none of another room.
pub(crate) fn imports(source: &Source) -> Vec<Fault> {
    let Some(own) = source.room() else { return Vec::new() };
    let Some(room) = layers::room(own) else {
        return vec![source.fault(0, format!("room {own} is not in the table: add it to tests/tidy/layers.rs"))];
    };
    let prefix = if own == "main" { "dynamomini::" } else { "crate::" };
    let mut faults = Vec::new();
    for at in source.words(prefix) {
        let named = name_at(&source.code, at + prefix.len());
        if named.is_empty() {
            faults.push(
                source.fault(at, format!("`{prefix}{{` or `{prefix}*` hides names of rooms: one `use` for each")),
            );
        } else if named != own && !room.uses.contains(&named) {
            faults.push(source.fault(at, format!("room {own} may not name room {named}")));
        } else if named != own && passes_on(&source.code[..at]) {
            faults.push(source.fault(at, format!("room {own} passes on what is of room {named}: name it there")));
        }
    }
    faults
}

/// Paths that reach other rooms without naming the crate.
pub(crate) fn escapes(source: &Source) -> Vec<Fault> {
    let mut faults = Vec::new();
    for at in source.words("super::super") {
        faults.push(source.fault(at, "`super::super` reaches too far: begin with `crate::`"));
    }
    for at in source.words("super::") {
        if source.depth() + source.modules_around(at) < 2 {
            faults.push(source.fault(at, "`super::` leaves the room here: begin with `crate::`"));
        }
    }
    for at in source.words("use crate") {
        if !source.code[at..].starts_with("use crate::") {
            faults.push(source.fault(at, "another name for the crate hides names of rooms"));
        }
    }
    if source.room() != Some("main") {
        for at in source.words("dynamomini::") {
            faults.push(source.fault(at, "the crate's own name hides names of rooms: begin with `crate::`"));
        }
    }
    faults
}

/// A pure room names nothing that lets the world in.
pub(crate) fn purity(source: &Source) -> Vec<Fault> {
    let pure = source.room().and_then(layers::room).is_some_and(|room| room.pure);
    let mut faults = Vec::new();
    for word in IMPURE.iter().filter(|_| pure) {
        for at in source.words(word).filter(|at| !source.is_test(*at)) {
            faults.push(source.fault(at, format!("a pure room may not name {word}: take a value as an argument")));
        }
    }
    faults
}

/// Every file says what it is for.
pub(crate) fn opening(source: &Source) -> Vec<Fault> {
    let opens = source.text.starts_with("//! ");
    if opens { Vec::new() } else { vec![source.fault(0, "begin with `//!`: what it is for, and what it does not do")] }
}

/// Features leave out whole rooms, in `lib.rs`.
pub(crate) fn gates(source: &Source) -> Vec<Fault> {
    // The name of the feature is inside a literal, so the text is what is searched.
    let mut faults = Vec::new();
    for (at, _) in source.text.match_indices("feature = ").filter(|(at, _)| !in_comment(source, *at)) {
        let engine = GATED.contains(&source.path.as_str()) && source.text[at..].starts_with("feature = \"redis\"");
        // What simulations add is beside the engines, and nothing that is shipped turns it on.
        let simulated = source.path == "src/store/mod.rs" && source.text[at..].starts_with("feature = \"simulation\"");
        if source.path != "src/lib.rs" && !engine && !simulated {
            faults.push(source.fault(at, "features leave out whole rooms: put the gate on a `mod` line of lib.rs"));
        }
    }
    faults
}

/// Tasks and blocking work are started in one place.
pub(crate) fn spawns(source: &Source) -> Vec<Fault> {
    let mut faults = Vec::new();
    for word in ["tokio::spawn(", "task::spawn(", "spawn_blocking(", "block_in_place(", "thread::spawn("] {
        let places = source.words(word).filter(|at| source.path != SPAWNS && !source.is_test(*at));
        faults.extend(places.map(|at| source.fault(at, "only src/env.rs starts work: use `Env`")));
    }
    faults
}

/// Nothing depends on one machine's folders.
pub(crate) fn absolute_paths(source: &Source) -> Vec<Fault> {
    let mut faults = Vec::new();
    // Split, so that this very file stays free of them.
    for folder in ["wo\0rk", "ro\0ot", "t\0mp", "ho\0me"].map(|name| format!("/{}", name.replace('\0', ""))) {
        for (at, _) in source.text.match_indices(&folder) {
            let before = at.checked_sub(1).map(|before| source.text.as_bytes()[before]);
            let after = source.text.as_bytes().get(at + folder.len()).copied();
            let inside = before.is_some_and(|byte| in_name(byte) || b".-}~/*".contains(&byte));
            if !inside && !after.is_some_and(in_name) {
                faults.push(source.fault(at, format!("{folder} is a folder of one machine: take the path as a value")));
            }
        }
    }
    faults
}

/// No file beyond the cap.
pub(crate) fn file_length(source: &Source) -> Vec<Fault> {
    let lines = source.own_lines();
    let what = format!("{lines} lines, the most is {FILE_LINES_MAX}: split it by noun");
    if lines > FILE_LINES_MAX { vec![source.fault(0, what)] } else { Vec::new() }
}

/// No function beyond the cap.
pub(crate) fn function_length(source: &Source) -> Vec<Fault> {
    let long = functions(source).into_iter().filter(|(_, lines)| *lines > FUNCTION_LINES_MAX);
    let fault = |(at, lines): (usize, usize)| {
        let name = name_at(&source.code, at + "fn ".len());
        source.fault(at, format!("function {name} has {lines} lines, the most is {FUNCTION_LINES_MAX}: split it"))
    };
    long.map(fault).collect()
}

/// Where functions with bodies begin, and their lengths in lines.
pub(crate) fn functions(source: &Source) -> Vec<(usize, usize)> {
    let length = |at: usize| {
        let open = at + end_of_signature(&source.code[at..])?;
        let body = source.code.as_bytes()[open] == b'{';
        body.then(|| (at, source.line(closing(&source.code, open).min(source.code.len() - 1)) + 1 - source.line(at)))
    };
    source.words("fn ").filter_map(length).collect()
}

/// Where a function's body begins, or the semicolon that stands for it.
fn end_of_signature(code: &str) -> Option<usize> {
    let mut depth = 0_i32;
    code.bytes().position(|byte| {
        depth += i32::from(b"([".contains(&byte)) - i32::from(b")]".contains(&byte));
        depth == 0 && b"{;".contains(&byte)
    })
}

/// Words that must not be in the code.
pub(crate) fn banned_words(source: &Source) -> Vec<Fault> {
    let banned = [
        ("unbounded_channel", "every queue has a bound"),
        ("todo!", "nothing unfinished is merged"),
        ("unimplemented!", "nothing unfinished is merged"),
    ];
    let mut faults = Vec::new();
    for (word, why) in banned {
        faults.extend(source.words(word).map(|at| source.fault(at, format!("{word}: {why}"))));
    }
    faults
}

/// Marks of unfinished work, in comments too.
pub(crate) fn marks(source: &Source) -> Vec<Fault> {
    let mut faults = Vec::new();
    for mark in [concat!("TO", "DO"), concat!("FIX", "ME")] {
        let places = source.text.match_indices(mark);
        faults.extend(places.map(|(at, _)| source.fault(at, format!("{mark}: do it, or open an issue"))));
    }
    faults
}

/// A random choice between branches would make a simulation run differently from its seed.
pub(crate) fn biased(source: &Source) -> Vec<Fault> {
    let unbiased = source.words("select!").filter(|at| {
        let inside = source.code[at + "select!".len()..].trim_start().strip_prefix('{').map(str::trim_start);
        !inside.is_some_and(|inside| inside.starts_with("biased;"))
    });
    unbiased.map(|at| source.fault(at, "begin with `biased;`, cancellation first")).collect()
}

/// The name that begins here; empty when none does.
fn name_at(code: &str, at: usize) -> &str {
    let rest = &code[at..];
    &rest[..rest.bytes().position(|byte| !in_name(byte)).unwrap_or(rest.len())]
}

/// Whether a path that begins after `before` is made visible to others.
fn passes_on(before: &str) -> bool {
    let statement = before.rsplit([';', '{', '}']).next().unwrap_or_default().trim();
    statement.starts_with("pub") && statement.ends_with("use")
}

/// Whether a place of the text is in a comment.
fn in_comment(source: &Source, at: usize) -> bool {
    source.text.as_bytes()[at] != source.code.as_bytes()[at]
}
