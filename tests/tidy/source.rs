//! A source file as the rules see it: its text, and its code with comments and the insides of literals blanked out.
//!
//! This knows just enough of the language to find words, braces and test modules. It does not expand macros.

use std::ops::Range;

/// One file.
pub(crate) struct Source {
    /// Its path from the root of the repository, with `/`.
    pub(crate) path: String,
    /// Everything in it.
    pub(crate) text: String,
    /// The same length, but comments and the insides of literals are spaces.
    pub(crate) code: String,
    /// Where `#[cfg(test)]` items lie.
    tests: Vec<Range<usize>>,
    /// Whether the whole file belongs to a test module.
    pub(crate) all_test: bool,
}

/// A rule that was broken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Where.
    pub(crate) path: String,
    /// The line, from 1.
    pub(crate) line: usize,
    /// What is wrong, and what to do.
    pub(crate) what: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

impl Source {
    /// Takes a file.
    pub(crate) fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        let (path, text) = (path.into(), text.into());
        let code = blank(&text);
        let tests = test_items(&code);
        let all_test = !path.starts_with("src/");
        Self { path, text, code, tests, all_test }
    }

    /// The room it belongs to; `None` outside `src` and for `lib.rs`.
    pub(crate) fn room(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        let name = inside.split('/').next()?;
        let name = name.strip_suffix(".rs").unwrap_or(name);
        (name != "lib").then_some(name)
    }

    /// How deep its module lies: 0 for the root of a crate, 1 for a room.
    pub(crate) fn depth(&self) -> usize {
        let inside = self.path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
        if matches!(inside, "lib" | "main") { 0 } else { inside.split('/').count() }
    }

    /// A fault at a place of this file.
    pub(crate) fn fault(&self, at: usize, what: impl Into<String>) -> Fault {
        Fault { path: self.path.clone(), line: self.line(at), what: what.into() }
    }

    /// The line of a place, from 1.
    pub(crate) fn line(&self, at: usize) -> usize {
        1 + self.text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count()
    }

    /// Whether a place belongs to tests.
    pub(crate) fn is_test(&self, at: usize) -> bool {
        self.all_test || self.tests.iter().any(|range| range.contains(&at))
    }

    /// Lines outside of test modules.
    pub(crate) fn own_lines(&self) -> usize {
        let mut at = 0;
        let mut lines = 0;
        for line in self.text.split_inclusive('\n') {
            lines += usize::from(self.all_test || !self.is_test(at));
            at += line.len();
        }
        lines
    }

    /// Where this appears in the code as words of their own: not inside a longer name or path.
    pub(crate) fn words<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        let code = self.code.as_bytes();
        self.code.match_indices(word).map(|(at, _)| at).filter(move |at| {
            let before = at.checked_sub(1).map(|before| code[before]);
            let after = code.get(at + word.len()).copied();
            let begins = !before.is_some_and(in_name) || !in_name(word.as_bytes()[0]);
            let ends = !after.is_some_and(in_name) || !word.ends_with(|last: char| in_name(last as u8));
            begins && ends
        })
    }

    /// The names of modules that are declared for tests only, as the paths where they may lie.
    pub(crate) fn test_modules(&self) -> Vec<String> {
        let folder = match self.path.rsplit_once('/') {
            Some((folder, "mod.rs" | "lib.rs" | "main.rs")) => folder.to_owned(),
            _ => self.path.trim_end_matches(".rs").to_owned(),
        };
        let declared = self.tests.iter().filter_map(|range| {
            let item = self.code[range.clone()].strip_suffix(';')?;
            let (_, name) = item.rsplit_once("mod ")?;
            Some(format!("{folder}/{}", name.trim()))
        });
        declared.collect()
    }

    /// The modules written in place that hold a position.
    pub(crate) fn modules_around(&self, at: usize) -> usize {
        let open = |start: usize| {
            let brace = start + self.code[start..].find(['{', ';'])?;
            (self.code.as_bytes()[brace] == b'{').then(|| brace..closing(&self.code, brace))
        };
        self.words("mod").filter_map(open).filter(|range| range.contains(&at)).count()
    }
}

/// Whether a byte can be part of a name.
pub(crate) fn in_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The place of the brace that closes the one at `open`; the end of the code if there is none.
pub(crate) fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return at;
                }
            }
            _ => {}
        }
    }
    code.len()
}

/// Where items lie that only tests compile.
fn test_items(code: &str) -> Vec<Range<usize>> {
    let marks = code.match_indices("#[cfg(test)]").map(|(at, mark)| (at, at + mark.len()));
    let item = |(start, from): (usize, usize)| {
        let end = from + code[from..].find(['{', ';']).unwrap_or(0);
        let end = if code.as_bytes()[end] == b'{' { closing(code, end) } else { end };
        start..end + 1
    };
    marks.map(item).collect()
}

/// Replaces comments and the insides of literals by spaces; lines stay where they are.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let (inside, next) = skipped(bytes, at);
        for byte in &mut code[inside] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = next;
    }
    String::from_utf8(code).expect("whole characters were replaced by spaces")
}

/// What to blank at this place, and where to go on.
fn skipped(bytes: &[u8], at: usize) -> (Range<usize>, usize) {
    let rest = &bytes[at..];
    let starts_name = at == 0 || !in_name(bytes[at - 1]);
    if rest.starts_with(b"//") {
        let end = at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        return (at..end, end);
    }
    if rest.starts_with(b"/*") {
        let end = at + comment(rest);
        return (at..end, end);
    }
    if let (true, Some((content, len))) = (starts_name, raw_string(rest)) {
        return (at + content.start..at + content.end, at + len);
    }
    if rest[0] == b'"' {
        let end = at + quoted(rest, b'"');
        return (at + 1..end - 1, end);
    }
    if rest[0] == b'\'' {
        let len = char_literal(rest);
        return if len == 0 { (at..at, at + 1) } else { (at + 1..at + len - 1, at + len) };
    }
    (at..at, at + 1)
}

/// The length of a block comment, which may hold others.
fn comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// Where the content of a raw string lies, and the length of the whole.
fn raw_string(rest: &[u8]) -> Option<(Range<usize>, usize)> {
    let prefix = [&b"br"[..], b"cr", b"r"].into_iter().find(|prefix| rest.starts_with(prefix))?.len();
    let hashes = rest[prefix..].iter().take_while(|byte| **byte == b'#').count();
    if rest.get(prefix + hashes) != Some(&b'"') {
        return None;
    }
    let start = prefix + hashes + 1;
    let end = [&b"\""[..], &vec![b'#'; hashes]].concat();
    let content = rest[start..].windows(end.len()).position(|window| window == end)?;
    Some((start..start + content, start + content + end.len()))
}

/// The length of a literal between such quotes.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// The length of a character literal; 0 for a lifetime.
fn char_literal(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        return quoted(rest, b'\'');
    }
    let first = rest.get(1).map_or(1, |first| match first {
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    });
    if rest.get(1 + first) == Some(&b'\'') { first + 2 } else { 0 }
}
