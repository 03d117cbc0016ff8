//! Tables of jitter: the very files that tc reads, so that both mean the same by `distribution normal`.
//!
//! Reading text is pure; finding the file is all there is of the world. It makes no table of its own: where tc's are not installed,
//! the words that name one are refused.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

/// What a table's numbers are multiples of.
const SCALE: f64 = 8192.0;
/// Where distributions of Linux keep tc's files; those with an architecture in their names are looked for.
const FOLDERS: &[&str] = &["/usr/lib/tc", "/usr/lib64/tc", "/lib/tc", "/usr/share/tc"];

/// Deviations from the mean, in standard deviations, in rising order.
pub(crate) type Table = Arc<[f64]>;

/// Reads a table as tc's files have it: whole numbers, eight thousand and some for one standard deviation; `#` begins a remark.
///
/// # Errors
/// When it is none.
pub(crate) fn parse(text: &str) -> Result<Table, String> {
    let mut table = Vec::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        for word in line.split_whitespace() {
            let number: i16 = word.parse().map_err(|_| format!("{word} does not belong into a table"))?;
            table.push(f64::from(number) / SCALE);
        }
    }
    if table.is_empty() { Err("the table is empty".to_owned()) } else { Ok(table.into()) }
}

/// Finds and reads tc's table of this name.
///
/// # Errors
/// When there is none.
pub(crate) fn load(name: &str) -> Result<Table, String> {
    let file = format!("{name}.dist");
    let own = std::env::var_os("TC_LIB_DIR").map(PathBuf::from);
    let by_architecture = fs::read_dir("/usr/lib").into_iter().flatten().filter_map(Result::ok);
    let folders = own.into_iter().chain(FOLDERS.iter().map(PathBuf::from));
    let mut folders = folders.chain(by_architecture.map(|entry| entry.path().join("tc")));
    let found = folders.find_map(|folder| fs::read_to_string(folder.join(&file)).ok());
    let text = found.ok_or_else(|| format!("distribution {name}: there is no {file} of tc's (install iproute2)"))?;
    parse(&text).map_err(|why| format!("{file}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_and_what_is_none_is_refused() {
        assert_eq!(*parse("# a remark\n -8192 0\n4096 8192\n").unwrap(), [-1.0, 0.0, 0.5, 1.0]);
        assert!(parse("# nothing\n").is_err());
        assert!(parse("1 x").unwrap_err().contains('x'));
    }

    #[test]
    fn a_table_that_nobody_has_is_named() {
        assert!(load("no-such-table").unwrap_err().contains("no-such-table.dist"));
    }
}
