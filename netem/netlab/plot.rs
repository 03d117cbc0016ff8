//! The ladder as a picture: for each profile and cluster a bar from p50 to p99 on a logarithmic scale, and a mark at p99.9.
//!
//! Plain SVG, made by hand.

use crate::ladder::Row;

const WIDTH: f64 = 960.0;
/// Where bars begin and end.
const LEFT: f64 = 240.0;
const RIGHT: f64 = WIDTH - 130.0;
const TOP: f64 = 60.0;
/// Height of one bar with its gap.
const STEP: f64 = 18.0;
/// Decades of milliseconds: from a tenth to a hundred thousand.
const DECADES: (i32, i32) = (-1, 5);

fn x(ms: f64) -> f64 {
    let (low, high) = (f64::from(DECADES.0), f64::from(DECADES.1));
    let place = (ms.max(1e-3).log10().clamp(low, high) - low) / (high - low);
    LEFT + (RIGHT - LEFT) * place
}

/// Draws rows; those without latencies get their names alone.
pub(crate) fn ladder(rows: &[Row]) -> String {
    let height = TOP + STEP * f64::from(u32::try_from(rows.len()).unwrap_or(u32::MAX)) + 20.0;
    let mut parts = vec![
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"11\">"
        ),
        format!("<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>"),
        text(
            10.0,
            24.0,
            "start",
            "latency by profile: bar from p50 to p99, mark at p99.9; operations a second on the right",
        ),
    ];
    for decade in DECADES.0..=DECADES.1 {
        let (at, ms) = (x(10_f64.powi(decade)), 10_f64.powi(decade));
        parts.push(format!(
            "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"#dddddd\"/>",
            height - 20.0
        ));
        parts.push(text(at, TOP - 8.0, "middle", &format!("{ms} ms")));
    }
    let mut y = TOP + STEP / 2.0;
    for row in rows {
        parts.extend(bar(row, y));
        y += STEP;
    }
    parts.push("</svg>\n".to_owned());
    parts.join("\n")
}

fn bar(row: &Row, y: f64) -> Vec<String> {
    let field = |name: &str| row.get(name).map_or("-", String::as_str);
    let number = |name: &str| field(name).parse::<f64>().ok();
    let name = format!("{}, {} nodes, {}", field("profile"), field("nodes"), field("engine"));
    let mut parts = vec![text(LEFT - 8.0, y + 4.0, "end", &name)];
    let colour = if field("engine") == "redis" { "#d95f02" } else { "#1b6ca8" };
    if let (Some(p50), Some(p99)) = (number("p50_ms"), number("p99_ms")) {
        let (from, to) = (x(p50), x(p99));
        let width = (to - from).max(2.0);
        parts.push(format!(
            "<rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"10\" fill=\"{colour}\"/>",
            y - 5.0
        ));
    }
    if let Some(at) = number("p99_9_ms").map(x) {
        parts.push(format!(
            "<line x1=\"{at:.1}\" y1=\"{:.1}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"#444444\"/>",
            y - 6.0,
            y + 6.0
        ));
    }
    parts.push(text(RIGHT + 8.0, y + 4.0, "start", &format!("{}/s", field("per_second"))));
    parts
}

fn text(x: f64, y: f64, anchor: &str, words: &str) -> String {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_bars_and_those_without_latencies_names() {
        let row = |p50: &str| {
            let fields = [("profile", "a<b"), ("nodes", "3"), ("engine", "redis"), ("p50_ms", p50), ("p99_ms", "900")];
            fields.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect::<Row>()
        };
        let drawn = ladder(&[row("50"), row("-")]);
        assert_eq!(drawn.matches("height=\"10\"").count(), 1);
        assert_eq!(drawn.matches("a&lt;b, 3 nodes, redis").count(), 2);
        assert!(x(50.0) < x(900.0) && x(0.0) == LEFT && x(1e9) == RIGHT);
    }
}
