//! Numbers with a name and a meaning, read at one moment, for whoever shows them.

use std::borrow::Cow;

use crate::meter::Distribution;

/// One number, or one distribution.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// It only grows, from the start of the process.
    Counter(f64),
    /// It goes up and down.
    Gauge(f64),
    /// How often something took how long, from the start of the process.
    Durations(Distribution),
}

/// One of the numbers of a family, with the labels that tell it from the others.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Names and values of its labels.
    pub labels: Vec<(&'static str, String)>,
    /// What was read.
    pub value: Value,
}

/// Numbers of one meaning, all of one kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// Its name in the conventions of Prometheus: with the unit, and `_total` at the end of a counter's.
    pub name: Cow<'static, str>,
    /// What it means, for people.
    pub help: &'static str,
    /// The numbers, at least one.
    pub samples: Vec<Sample>,
}

impl Family {
    /// A family without samples yet.
    pub fn new(name: impl Into<Cow<'static, str>>, help: &'static str) -> Self {
        Self { name: name.into(), help, samples: Vec::new() }
    }

    /// With one more number.
    #[must_use]
    pub fn with<const N: usize>(mut self, labels: [(&'static str, &str); N], value: Value) -> Self {
        let labels = labels.map(|(name, label)| (name, label.to_owned())).to_vec();
        self.samples.push(Sample { labels, value });
        self
    }

    /// A family of one number that only grows.
    pub fn counter(name: impl Into<Cow<'static, str>>, help: &'static str, count: u64) -> Self {
        Self::new(name, help).with([], Value::Counter(count as f64))
    }

    /// A family of one number that goes up and down.
    pub fn gauge(name: impl Into<Cow<'static, str>>, help: &'static str, number: u64) -> Self {
        Self::new(name, help).with([], Value::Gauge(number as f64))
    }
}
