//! What a link does to packets, read from the words that tc-netem(8) takes.
//!
//! Pure: text in, a value or a sentence about the first fault out. It takes a part of tc's words, each with tc's meaning, and rejects
//! the others by name, so that the same line never means two things to the kernel and to the emulator.

use std::time::Duration;

/// Packets that a link holds unless `limit` says otherwise, as in the kernel.
const LIMIT: usize = 1_000;
/// Most packets that `limit` may allow: what the emulator is willing to keep for one link.
const LIMIT_MAX: usize = 1_000_000;
/// The longest delay and jitter.
const DELAY_MAX: Duration = Duration::from_secs(60);
/// The slowest and the fastest rate, in bits a second; the fastest is what the kernel's way of shaping passes.
const RATE_MIN: f64 = 1e3;
const RATE_MAX: f64 = 1e9;
/// The most packets between two reordered ones.
const GAP_MAX: u32 = 100_000;

/// Which packets are lost.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) enum Loss {
    /// None.
    #[default]
    None,
    /// Each with this probability, whatever became of the others.
    Random(f64),
    /// As two states say between which the link moves with each packet.
    Gemodel {
        /// From good to bad.
        worsens: f64,
        /// From bad to good.
        improves: f64,
        /// Lost in the bad state.
        bad: f64,
        /// Lost in the good state.
        good: f64,
    },
}

/// One direction of a link.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Impairment {
    pub(crate) delay: Duration,
    pub(crate) jitter: Duration,
    /// Of each delay with the one before, from 0 to 1.
    pub(crate) delay_correlation: f64,
    /// The table of the jitter; uniform without one.
    pub(crate) distribution: Option<String>,
    pub(crate) loss: Loss,
    /// Shares of packets, from 0 to 1.
    pub(crate) duplicate: f64,
    pub(crate) corrupt: f64,
    pub(crate) reorder: f64,
    pub(crate) reorder_correlation: f64,
    /// Every so many packets one may overtake the others; 0 when none ever does.
    pub(crate) gap: u32,
    /// Bits a second; `None` when there is no bound.
    pub(crate) rate: Option<f64>,
    /// Packets that are under way at most.
    pub(crate) limit: usize,
}

impl Default for Impairment {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            delay_correlation: 0.0,
            distribution: None,
            loss: Loss::None,
            duplicate: 0.0,
            corrupt: 0.0,
            reorder: 0.0,
            reorder_correlation: 0.0,
            gap: 0,
            rate: None,
            limit: LIMIT,
        }
    }
}

/// The words still to be read.
struct Words<'a> {
    all: Vec<&'a str>,
    at: usize,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let word = self.all.get(self.at).copied();
        self.at += 1;
        word
    }

    /// The value that a word must have.
    fn value<T>(&mut self, of: &str, read: impl Fn(&str) -> Option<T>, such_as: &str) -> Result<T, String> {
        let word = self.next().ok_or_else(|| format!("{of} takes a value, such as {such_as}"))?;
        read(word).ok_or_else(|| format!("{of} {word}: write it as {such_as}"))
    }

    /// The value that a word may have.
    fn maybe<T>(&mut self, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        let found = read(self.all.get(self.at)?)?;
        self.at += 1;
        Some(found)
    }
}

impl Impairment {
    /// Reads words such as `delay 50ms 5ms distribution normal loss 1%`.
    ///
    /// # Errors
    /// A sentence that names the word at fault.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut words = Words { all: text.split_whitespace().collect(), at: 0 };
        let mut link = Self::default();
        let mut seen: Vec<&str> = Vec::new();
        while let Some(word) = words.next() {
            if seen.contains(&word) {
                return Err(format!("{word} stands there twice"));
            }
            seen.push(word);
            link.take(word, &mut words)?;
        }
        link.check(&seen)?;
        Ok(link)
    }

    fn take(&mut self, word: &str, words: &mut Words<'_>) -> Result<(), String> {
        match word {
            "delay" => self.take_delay(words)?,
            "distribution" => {
                let name = words.value(word, distribution, "one of uniform, normal, pareto, paretonormal")?;
                // Uniform is what there is without a table.
                self.distribution = Some(name).filter(|name| name != "uniform");
            }
            "loss" => self.loss = loss(words)?,
            "duplicate" => self.duplicate = share(word, words)?,
            "corrupt" => self.corrupt = share(word, words)?,
            "reorder" => self.take_reorder(words)?,
            "rate" => self.rate = Some(words.value(word, rate, "10mbit, from 1kbit to 1gbit")?),
            "limit" => {
                let read = |text: &str| text.parse().ok().filter(|held| (1..=LIMIT_MAX).contains(held));
                self.limit = words.value(word, read, "1000 packets")?;
            }
            "ecn" | "slot" | "seed" | "trace" => {
                return Err(format!("{word} is a word of tc-netem's that is not done"));
            }
            other => return Err(format!("{other} is no word of a link, or not at its place")),
        }
        Ok(())
    }

    fn take_delay(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        self.delay = words.value("delay", span, "50ms, with a unit")?;
        let jitter = words.maybe(span);
        self.jitter = jitter.unwrap_or_default();
        match words.maybe(percent) {
            Some(correlation) if jitter.is_some() => self.delay_correlation = correlation,
            Some(_) => return Err("a correlation of delays takes a jitter: delay 50ms 5ms 25%".to_owned()),
            None => {}
        }
        Ok(())
    }

    fn take_reorder(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        self.reorder = words.value("reorder", percent, "25%, a percentage")?;
        self.reorder_correlation = words.maybe(percent).unwrap_or(0.0);
        self.gap = 1;
        if words.maybe(|word| (word == "gap").then_some(())).is_some() {
            let read = |text: &str| text.parse().ok().filter(|gap| (1..=GAP_MAX).contains(gap));
            self.gap = words.value("gap", read, "5 packets")?;
        }
        Ok(())
    }

    fn check(&self, seen: &[&str]) -> Result<(), String> {
        if seen.is_empty() {
            return Err("a link needs words, such as delay 50ms loss 1%".to_owned());
        }
        if seen.contains(&"distribution") && self.jitter.is_zero() {
            return Err("distribution takes a jitter: delay 50ms 5ms distribution normal".to_owned());
        }
        if self.reorder > 0.0 && self.delay.is_zero() {
            return Err("reorder takes a delay, which the reordered packets skip".to_owned());
        }
        Ok(())
    }
}

fn loss(words: &mut Words<'_>) -> Result<Loss, String> {
    const SUCH: &str = "1%, a percentage, or gemodel 1% 10% 70% 0.1%";
    let first = words.next().ok_or_else(|| format!("loss takes a value, such as {SUCH}"))?;
    let one = match first {
        "random" => words.value("loss random", percent, "1%, a percentage")?,
        "gemodel" => {
            let worsens = words.value("loss gemodel", percent, "1%")?;
            let improves = words.maybe(percent).unwrap_or(1.0 - worsens);
            let bad = words.maybe(percent).unwrap_or(1.0);
            let good = words.maybe(percent).unwrap_or(0.0);
            return Ok(Loss::Gemodel { worsens, improves, bad, good });
        }
        "state" => return Err("loss state is a word of tc-netem's that is not done; gemodel is".to_owned()),
        share => percent(share).ok_or_else(|| format!("loss {share}: write it as {SUCH}"))?,
    };
    if words.maybe(percent).is_some() {
        // Measured with the kernel's: `loss 20% 75%` loses 0.08 %.
        return Err("correlated loss loses next to nothing, in the kernel too: take gemodel for bursts".to_owned());
    }
    Ok(if one > 0.0 { Loss::Random(one) } else { Loss::None })
}

fn share(of: &str, words: &mut Words<'_>) -> Result<f64, String> {
    let share = words.value(of, percent, "1%, a percentage")?;
    match words.maybe(percent) {
        Some(_) => Err(format!("a correlation of {of} makes the share far smaller than it says: leave it out")),
        None => Ok(share),
    }
}

/// A number and what follows it.
fn number(text: &str) -> Option<(f64, &str)> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit))
}

/// `0.5%`.
fn percent(text: &str) -> Option<f64> {
    match number(text)? {
        (share, "%") if share <= 100.0 => Some(share / 100.0),
        _ => None,
    }
}

/// `50ms`; tc would take a bare number as microseconds, which few mean.
fn span(text: &str) -> Option<Duration> {
    let (number, unit) = number(text)?;
    let seconds = match unit {
        "s" => number,
        "ms" => number / 1e3,
        "us" => number / 1e6,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok().filter(|span| *span <= DELAY_MAX)
}

/// `10mbit`, in bits a second.
fn rate(text: &str) -> Option<f64> {
    let (number, unit) = number(text)?;
    let times = match unit {
        "bit" => 1.0,
        "kbit" => 1e3,
        "mbit" => 1e6,
        "gbit" => 1e9,
        _ => return None,
    };
    Some(number * times).filter(|rate| (RATE_MIN..=RATE_MAX).contains(rate))
}

fn distribution(text: &str) -> Option<String> {
    ["uniform", "normal", "pareto", "paretonormal"].contains(&text).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_with_the_meaning_that_tc_gives_it() {
        let link = Impairment::parse(
            "delay 50ms 5ms 25% distribution pareto loss 0.5% duplicate 1% corrupt 2% reorder 25% 50% gap 5 rate 10mbit \
             limit 200",
        );
        let expected = Impairment {
            delay: Duration::from_millis(50),
            jitter: Duration::from_millis(5),
            delay_correlation: 0.25,
            distribution: Some("pareto".into()),
            loss: Loss::Random(0.005),
            duplicate: 0.01,
            corrupt: 0.02,
            reorder: 0.25,
            reorder_correlation: 0.5,
            gap: 5,
            rate: Some(1e7),
            limit: 200,
        };
        assert_eq!(link, Ok(expected));
        assert_eq!(Impairment::parse("loss 0%"), Ok(Impairment::default()));
    }

    #[test]
    fn units_are_those_of_tc() {
        let rate_of = |text: &str| Impairment::parse(&format!("rate {text}")).unwrap().rate;
        assert_eq!((rate_of("1kbit"), rate_of("1.5mbit"), rate_of("1gbit")), (Some(1e3), Some(1.5e6), Some(1e9)));
        let delay_of = |text: &str| Impairment::parse(&format!("delay {text}")).unwrap().delay;
        assert_eq!(delay_of("1.5s"), Duration::from_millis(1_500));
        assert_eq!(delay_of("100us"), Duration::from_micros(100));
    }

    #[test]
    fn the_model_of_bursts_takes_one_to_four_shares() {
        let of = |text: &str| Impairment::parse(text).unwrap().loss;
        let model = |worsens, improves, bad, good| Loss::Gemodel { worsens, improves, bad, good };
        assert_eq!(of("loss gemodel 1%"), model(0.01, 0.99, 1.0, 0.0));
        assert_eq!(of("loss gemodel 1% 10%"), model(0.01, 0.1, 1.0, 0.0));
        assert_eq!(of("loss gemodel 1% 10% 70% 0.1%"), model(0.01, 0.1, 0.7, 0.001));
        assert_eq!(of("loss random 3%"), Loss::Random(0.03));
    }

    #[test]
    fn the_examples_of_the_vocabulary_are_read_as_they_say() {
        let examples = include_str!("../test/words.tsv").lines().filter(|line| !line.starts_with('#'));
        let mut count = 0;
        for line in examples {
            let [text, verdict, rest] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line:?}") };
            match (Impairment::parse(text), verdict) {
                // What tc gets means the same.
                (Ok(link), "ok") => assert_eq!(Impairment::parse(rest), Ok(link), "{text}"),
                (Err(why), "refused") => assert!(why.contains(rest), "{text}: {why} does not name {rest}"),
                (other, _) => panic!("{text} is {verdict}, and was {other:?}"),
            }
            count += 1;
        }
        assert!(count > 30, "only {count} examples were read");
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        for (text, named) in [
            ("rate 1mbit 20", "20"),
            ("delay 61s", "delay 61s"),
            ("delay 5ms 1ms distribution ../x", "distribution ../x"),
            ("reorder 25% gap 0 delay 5ms", "gap 0"),
            ("lag 5ms", "lag"),
        ] {
            let refused = Impairment::parse(text).expect_err(text);
            assert!(refused.contains(named), "{text}: {refused}");
        }
    }
}
