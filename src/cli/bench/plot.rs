//! The line of time of a run as a picture: latencies on a logarithmic scale, operations a second below, failures in red.
//!
//! Plain SVG, made by hand: it needs no scripts and no fonts but the reader's own.

use crate::cli::bench::draw;
use crate::cli::bench::measure::Point;

const WIDTH: f64 = 960.0;
/// Left and right edge of the panels.
const LEFT: f64 = 80.0;
const RIGHT: f64 = WIDTH - 20.0;
/// Upper and lower edge of the latencies.
const LATENCY: (f64, f64) = (60.0, 360.0);
/// Upper and lower edge of the operations a second.
const RATE: (f64, f64) = (400.0, 520.0);
const HEIGHT: f64 = 560.0;

/// What is drawn of latencies: name, colour, and where it is in a point.
type Curve = (&'static str, &'static str, fn(&Point) -> Option<f64>);
const CURVES: [Curve; 3] = [
    ("max", "#b0b0b0", |point| point.max_ms),
    ("p99", "#d95f02", |point| point.p99_ms),
    ("p50", "#1b6ca8", |point| point.p50_ms),
];

/// Draws the points under a title.
pub(super) fn svg(title: &str, points: &[Point]) -> String {
    let mut parts = vec![
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">"
        ),
        format!("<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>"),
        text(LEFT, 24.0, "start", &format!("<tspan font-size=\"15\">{}</tspan>", escape(title))),
    ];
    let end_s = points.last().map_or(1.0, |last| last.at_s).max(1e-3);
    let x = |at_s: f64| LEFT + (RIGHT - LEFT) * at_s / end_s;
    parts.extend(time_axis(end_s, x));
    parts.extend(latencies(points, x));
    parts.extend(rates(points, x));
    parts.push("</svg>\n".to_owned());
    parts.join("\n")
}

fn time_axis(end_s: f64, x: impl Fn(f64) -> f64) -> Vec<String> {
    let step = round_up(end_s / 8.0);
    let ticks = (0..=draw::whole(end_s / step)).map(|tick| draw::float(tick) * step);
    let mut parts: Vec<String> = ticks
        .flat_map(|at_s| {
            let x = x(at_s);
            [line((x, LATENCY.0), (x, RATE.1), "#eeeeee"), text(x, RATE.1 + 16.0, "middle", &number(at_s))]
        })
        .collect();
    parts.push(text((LEFT + RIGHT) / 2.0, RATE.1 + 34.0, "middle", "seconds"));
    parts
}

fn latencies(points: &[Point], x: impl Fn(f64) -> f64) -> Vec<String> {
    let all: Vec<f64> = points.iter().flat_map(|point| CURVES.iter().filter_map(|(_, _, of)| of(point))).collect();
    let low = all.iter().copied().fold(f64::INFINITY, f64::min).clamp(1e-3, 1e9).log10().floor();
    let high = all.iter().copied().fold(0.0, f64::max).clamp(1e-2, 1e9).log10().ceil().max(low + 1.0);
    let y = |ms: f64| LATENCY.1 - (LATENCY.1 - LATENCY.0) * (ms.max(1e-3).log10() - low) / (high - low);
    let decades = (0..=draw::whole(high - low)).map(|decade| 10_f64.powf(low + draw::float(decade)));
    let mut parts: Vec<String> = decades
        .flat_map(|ms| {
            let y = y(ms);
            [line((LEFT, y), (RIGHT, y), "#dddddd"), text(LEFT - 8.0, y + 4.0, "end", &format!("{} ms", number(ms)))]
        })
        .collect();
    for (place, (name, colour, of)) in CURVES.iter().enumerate() {
        let at = RIGHT - 60.0 * draw::float(u64::try_from(place).unwrap_or(0)) - 20.0;
        parts.push(format!("<g fill=\"{colour}\">{}</g>", text(at, 44.0, "middle", name)));
        // An interval in which nothing succeeded is a gap.
        for run in points.split(|point| of(point).is_none()).filter(|run| !run.is_empty()) {
            let spots = run.iter().filter_map(|point| Some((x(point.at_s), y(of(point)?))));
            parts.push(curve(spots, colour));
        }
    }
    parts
}

fn rates(points: &[Point], x: impl Fn(f64) -> f64) -> Vec<String> {
    let most = round_up(points.iter().map(|point| point.per_second).fold(1.0, f64::max));
    let y = |per_second: f64| RATE.1 - (RATE.1 - RATE.0) * per_second / most;
    let mut parts: Vec<String> = [0.0, most / 2.0, most]
        .into_iter()
        .flat_map(|rate| {
            let y = y(rate);
            [line((LEFT, y), (RIGHT, y), "#dddddd"), text(LEFT - 8.0, y + 4.0, "end", &format!("{}/s", number(rate)))]
        })
        .collect();
    parts.push(curve(points.iter().map(|point| (x(point.at_s), y(point.per_second))), "#1b9e77"));
    for point in points.iter().filter(|point| point.errors > 0) {
        let (x, tip) = (x(point.at_s), format!("{} failed", point.errors));
        parts.push(format!(
            "<circle cx=\"{x:.1}\" cy=\"{}\" r=\"4\" fill=\"#d00000\"><title>{tip}</title></circle>",
            RATE.1
        ));
    }
    parts
}

fn curve(spots: impl Iterator<Item = (f64, f64)>, colour: &str) -> String {
    let spots: Vec<String> = spots.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    format!(
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" stroke-linecap=\"round\"/>",
        spots.join(" ")
    )
}

fn line((x1, y1): (f64, f64), (x2, y2): (f64, f64), colour: &str) -> String {
    format!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>")
}

fn text(x: f64, y: f64, anchor: &str, inner: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{inner}</text>")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The next number of one digit, or 2 or 5 of them, that is no smaller.
fn round_up(number: f64) -> f64 {
    let unit = 10_f64.powf(number.max(1e-9).log10().floor());
    let fits = [1.0, 2.0, 5.0].into_iter().map(|factor| factor * unit).find(|step| *step >= number);
    fits.unwrap_or(10.0 * unit)
}

/// Without digits that say nothing.
fn number(number: f64) -> String {
    if number >= 1_000.0 {
        return format!("{}", number.round());
    }
    let text = format!("{number:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(at_s: f64, p50_ms: Option<f64>, errors: u64) -> Point {
        let times = |factor: f64| p50_ms.map(|ms| ms * factor);
        Point { at_s, per_second: 900.0, errors, p50_ms, p99_ms: times(10.0), max_ms: times(100.0) }
    }

    #[test]
    fn gaps_and_failures_are_seen_and_everything_is_inside_the_picture() {
        let points = [
            point(1.0, Some(1.0), 0),
            point(2.0, Some(0.9), 0),
            point(3.0, None, 7),
            point(4.0, Some(2.0), 0),
            point(5.0, Some(2.0), 0),
        ];
        let svg = svg("put <&> get", &points);
        assert!(svg.contains("put &lt;&amp;&gt; get"));
        assert_eq!(svg.matches("<polyline").count(), 7, "three curves in two parts each, and the rate");
        assert!(svg.contains("<title>7 failed</title>"));
        assert_eq!(svg.matches("<g ").count(), svg.matches("</g>").count());
        let spots = svg.split("points=\"").skip(1).filter_map(|rest| rest.split('"').next());
        for spot in spots.flat_map(str::split_whitespace) {
            let (x, y) = spot.split_once(',').unwrap();
            let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
            assert!((LEFT..=RIGHT + 0.1).contains(&x) && (LATENCY.0..=RATE.1 + 0.1).contains(&y), "{spot}");
        }
    }

    #[test]
    fn nothing_measured_is_a_picture_all_the_same() {
        for points in [&[][..], &[point(1.0, None, 1)]] {
            let svg = svg("empty", points);
            assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn steps_are_round() {
        assert_eq!([0.3, 1.0, 1.1, 7.0, 120.0].map(round_up), [0.5, 1.0, 2.0, 10.0, 200.0]);
        assert_eq!([0.01, 1.0, 2.5, 20_000.4].map(number), ["0.01", "1", "2.5", "20000"]);
    }
}
