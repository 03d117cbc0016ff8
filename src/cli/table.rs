//! Tables and quantities for people.

use std::time::Duration;

/// Columns as wide as their widest cell, two spaces apart; the first row is the head.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    rows.iter().fold(String::new(), |mut text, row| {
        let line = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
        text
    })
}

/// One row of a table.
pub(crate) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// A number of bytes in the unit that suits it.
pub(crate) fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = usize::try_from(count.max(1).ilog2() / 10).unwrap_or(0);
    match unit.checked_sub(1).and_then(|unit| Some((unit, units.get(unit)?))) {
        Some((place, name)) => {
            let tenths = (u128::from(count) * 10) >> (10 * (place + 1));
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        None => format!("{count} B"),
    }
}

/// A span of time in its two largest units.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let units = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let first = units.iter().position(|(_, size)| seconds >= *size).unwrap_or(units.len() - 1);
    let mut left = seconds;
    let parts = units[first..].iter().take(2).map(|(name, size)| {
        let count = left / size;
        left %= size;
        format!("{count}{name}")
    });
    parts.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_do_not_trail() {
        let rows = [row(["NODE", "STATE"]), row(["n1", "up"]), row(["größer", ""])];
        assert_eq!(table(&rows), "NODE    STATE\nn1      up\ngrößer\n");
    }

    #[test]
    fn quantities_are_short() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(8 << 20), "8.0 MiB");
        assert_eq!(bytes(u64::MAX), "15.9 EiB");
        assert_eq!(span(Duration::from_millis(10)), "0s");
        assert_eq!(span(Duration::from_secs(65)), "1m 5s");
        assert_eq!(span(Duration::from_secs(90_000)), "1d 1h");
    }
}
