//! Reading what `/metrics` gives, as strictly as Prometheus does, and as `promtool check metrics` advises.

use std::collections::BTreeMap;

/// One kind of number.
#[derive(Debug, Default)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) help: String,
    /// Values by name and labels, as written.
    pub(crate) samples: BTreeMap<String, f64>,
}

/// All families by name. Panics at whatever Prometheus would refuse or its linter would remark upon.
pub(crate) fn parse(text: &str) -> BTreeMap<String, Family> {
    assert!(text.ends_with('\n'));
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(!families.contains_key(name), "{name} comes twice");
            assert!(!help.is_empty() && is_name(name), "{line}");
            current = name.to_owned();
            families.insert(current.clone(), Family { help: help.to_owned(), ..Family::default() });
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, current);
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            families.get_mut(name).unwrap().kind = kind.to_owned();
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
            let name = series.split('{').next().unwrap();
            let family = families.get_mut(&current).unwrap();
            let base = if family.kind == "histogram" {
                ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap()
            } else {
                name
            };
            assert_eq!(base, current, "{line}");
            assert!(family.samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
        }
    }
    families.iter().for_each(|(name, family)| lint(name, family));
    families
}

fn is_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn lint(name: &str, family: &Family) {
    assert!(!family.samples.is_empty(), "{name} has no value");
    assert_eq!(family.kind == "counter", name.ends_with("_total"), "{name} is a {}", family.kind);
    assert!(!name.ends_with("_ms") && !name.ends_with("_us") && !name.ends_with("_count"), "{name}");
    if family.kind == "histogram" {
        assert!(name.ends_with("_seconds"), "{name}");
        rising(name, family);
    }
    for (series, value) in &family.samples {
        assert!(family.kind == "gauge" || *value >= 0.0, "{series} {value}");
    }
}

/// The buckets of a histogram rise with their bounds, and the last holds all.
fn rising(name: &str, family: &Family) {
    let mut last: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for (series, value) in family.samples.iter().filter(|(series, _)| series.contains("_bucket{")) {
        let (labels, bound) = series.rsplit_once("le=\"").unwrap();
        let bound = bound.trim_end_matches("\"}");
        let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() };
        let labels = labels.split_once('{').unwrap().1.trim_end_matches(',').to_owned();
        last.entry(labels).or_default().push((bound, *value));
    }
    assert!(!last.is_empty(), "{name}");
    for (labels, mut buckets) in last {
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name} {labels}: {buckets:?}");
        let count = family.samples[&format!("{name}_count{{{labels}}}")];
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, count)), "{name} {labels}");
    }
}
