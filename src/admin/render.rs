//! Metrics in the text format of Prometheus, version 0.0.4.

use prometheus::TextEncoder;
use prometheus::proto;

use crate::meter::Distribution;
use crate::meter::Family;
use crate::meter::Sample;
use crate::meter::Value;

/// The text of all families, in their order.
///
/// # Errors
/// When a family has no name or no number: a defect of whoever made it.
pub fn text(families: &[Family]) -> Result<String, prometheus::Error> {
    let families: Vec<proto::MetricFamily> = families.iter().map(family).collect();
    TextEncoder::new().encode_to_string(&families)
}

fn family(family: &Family) -> proto::MetricFamily {
    let mut written = proto::MetricFamily::default();
    written.set_name(family.name.clone().into_owned());
    written.set_help(family.help.to_owned());
    written.set_field_type(match family.samples.first().map(|sample| &sample.value) {
        Some(Value::Counter(_)) => proto::MetricType::COUNTER,
        Some(Value::Durations(_)) => proto::MetricType::HISTOGRAM,
        Some(Value::Gauge(_)) | None => proto::MetricType::GAUGE,
    });
    written.set_metric(family.samples.iter().map(metric).collect());
    written
}

fn metric(sample: &Sample) -> proto::Metric {
    let label = |(name, value): &(&'static str, String)| {
        let mut pair = proto::LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value(value.clone());
        pair
    };
    let mut metric = proto::Metric::from_label(sample.labels.iter().map(label).collect());
    match &sample.value {
        Value::Counter(value) => {
            let mut counter = proto::Counter::default();
            counter.set_value(*value);
            metric.set_counter(counter);
        }
        Value::Gauge(value) => {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(*value);
            metric.set_gauge(gauge);
        }
        Value::Durations(durations) => metric.set_histogram(histogram(durations)),
    }
    metric
}

fn histogram(durations: &Distribution) -> proto::Histogram {
    let bucket = |(bound, count): (std::time::Duration, u64)| {
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(bound.as_secs_f64());
        bucket.set_cumulative_count(count);
        bucket
    };
    let mut histogram = proto::Histogram::default();
    histogram.set_bucket(durations.cumulative().map(bucket).collect());
    histogram.set_sample_count(durations.count());
    histogram.set_sample_sum(durations.sum().as_secs_f64());
    histogram
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::meter::Histogram;

    #[test]
    fn each_kind_is_written_as_prometheus_reads_it() {
        let durations = Histogram::default();
        durations.record(Duration::from_micros(40));
        durations.record(Duration::from_secs(60));
        let took =
            Family::new("took_seconds", "Time.").with([("kind", "a\"b\\\n")], Value::Durations(durations.read()));
        let text =
            text(&[Family::counter("done_total", "Done\nso far.", 3), Family::gauge("now", "Now.", 7), took]).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..3], ["# HELP done_total Done\\nso far.", "# TYPE done_total counter", "done_total 3"]);
        assert_eq!(lines[3..6], ["# HELP now Now.", "# TYPE now gauge", "now 7"]);
        let label = r#"kind="a\"b\\\n""#;
        for line in [
            "# TYPE took_seconds histogram".to_owned(),
            format!("took_seconds_bucket{{{label},le=\"0.000032\"}} 0"),
            format!("took_seconds_bucket{{{label},le=\"0.000048\"}} 1"),
            format!("took_seconds_bucket{{{label},le=\"+Inf\"}} 2"),
            format!("took_seconds_sum{{{label}}} 60.00004"),
            format!("took_seconds_count{{{label}}} 2"),
        ] {
            assert!(lines.contains(&line.as_str()), "{line}: {text}");
        }
    }
}
