//! One value: read from a TOML document or from the text of a flag or environment variable, by what its setting allows.
//!
//! Where a value came from, and how it fits the others, is not known here.

use std::fmt;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use toml::de::DeValue;

use crate::config::settings::Kind;
use crate::config::settings::closest;
use crate::types::Consistency;
use crate::types::Invalid;

/// A value that its setting allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Text, also of paths, addresses and words.
    Text(String),
    /// A whole number.
    Integer(u64),
    /// Yes or no.
    Bool(bool),
    /// Several texts.
    List(Vec<String>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Bool(yes) => write!(f, "{yes}"),
            Self::List(texts) => f.write_str(&texts.join(", ")),
        }
    }
}

impl Value {
    /// The value as JSON.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Text(text) => text.as_str().into(),
            Self::Integer(number) => (*number).into(),
            Self::Bool(yes) => (*yes).into(),
            Self::List(texts) => texts.clone().into(),
        }
    }
}

/// Why a value was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong.
    pub what: String,
    /// What to do about it; empty where `what` says it already.
    pub fix: String,
}

impl Refusal {
    fn new(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), fix: fix.into() }
    }
}

/// Takes a value out of a TOML document.
///
/// # Errors
/// When it has another type, or is not allowed.
pub fn from_toml(kind: &Kind, value: &DeValue<'_>) -> Result<Value, Refusal> {
    match (kind, value) {
        (Kind::Integer(..) | Kind::Millis(..), DeValue::Integer(number)) => {
            match u64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => bounded(kind, number),
                Err(_) => Err(out_of_bounds(kind, &number.to_string())),
            }
        }
        (Kind::Consistency | Kind::Number(..), DeValue::Integer(number)) => from_text(kind, &number.to_string()),
        (Kind::Bool, DeValue::Boolean(yes)) => Ok(Value::Bool(*yes)),
        (Kind::Integer(..) | Kind::Number(..) | Kind::Bool | Kind::HostPorts, DeValue::String(_)) => {
            Err(wrong_type(kind, value))
        }
        (_, DeValue::String(text)) => from_text(kind, text),
        (Kind::HostPorts, DeValue::Array(items)) => {
            let texts: Option<Vec<&str>> = items.iter().map(|item| item.get_ref().as_str()).collect();
            let mixed = || Refusal::new("holds something that is not a string", "write it as [\"host:7400\"]");
            texts.map_or_else(|| Err(mixed()), |texts| host_ports(&texts))
        }
        _ => Err(wrong_type(kind, value)),
    }
}

/// Takes a value from the text of a flag, of an environment variable, or of a default.
///
/// # Errors
/// When it is not allowed.
pub fn from_text(kind: &Kind, text: &str) -> Result<Value, Refusal> {
    let value = Value::Text(text.to_owned());
    match kind {
        Kind::Text(check, _) | Kind::Number(check, _) => {
            check(text).map(|()| value).map_err(|what| Refusal::new(what, ""))
        }
        Kind::Choice(words) if words.contains(&text) => Ok(value),
        Kind::Choice(words) => Err(not_a_choice(text, words)),
        Kind::Integer(..) => match text.parse() {
            Ok(number) => bounded(kind, number),
            Err(_) => Err(out_of_bounds(kind, text)),
        },
        Kind::Millis(..) => match (text.parse(), parse_span(text)) {
            (Ok(number), _) => bounded(kind, number),
            (_, Ok(span)) => bounded(kind, u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
            _ => Err(out_of_bounds(kind, text)),
        },
        Kind::Bool => match text {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            _ => Err(not_a_choice(text, &["true", "false"])),
        },
        Kind::Span if text == "never" => Ok(value),
        Kind::Span => parse_span(text).map(|_| value).map_err(|invalid| Refusal::new(invalid.to_string(), "")),
        Kind::Path | Kind::Secret if text.is_empty() => {
            Err(Refusal::new("is empty", "give it a value, or leave the key out"))
        }
        Kind::Path | Kind::Secret => Ok(value),
        Kind::Consistency => {
            text.parse::<Consistency>().map(|_| value).map_err(|invalid| Refusal::new(invalid.to_string(), ""))
        }
        Kind::Listen => text.parse::<SocketAddr>().map(|_| value).map_err(|_| {
            let fix = "write an IP address and a port, such as 0.0.0.0:7400, 10.0.0.5:7400 or [::]:7400";
            Refusal::new(format!("{text:?} is not an address to listen on"), fix)
        }),
        Kind::HostPort => {
            text.parse::<HostPort>().map(|_| value).map_err(|invalid| Refusal::new(invalid.to_string(), ""))
        }
        Kind::HostPorts => {
            host_ports(&text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>())
        }
    }
}

fn host_ports(texts: &[&str]) -> Result<Value, Refusal> {
    if texts.is_empty() {
        return Err(Refusal::new("names no node", "list at least one host:port"));
    }
    for text in texts {
        text.parse::<HostPort>().map_err(|invalid| Refusal::new(invalid.to_string(), ""))?;
    }
    Ok(Value::List(texts.iter().map(|text| (*text).to_owned()).collect()))
}

fn bounded(kind: &Kind, number: u64) -> Result<Value, Refusal> {
    match kind {
        Kind::Integer(min, max) | Kind::Millis(min, max) if !(*min..=*max).contains(&number) => {
            Err(out_of_bounds(kind, &number.to_string()))
        }
        _ => Ok(Value::Integer(number)),
    }
}

fn out_of_bounds(kind: &Kind, given: &str) -> Refusal {
    let fix = match kind {
        Kind::Millis(min, max) => format!("write milliseconds from {min} to {max}, or a span such as \"5s\""),
        Kind::Integer(min, max) => format!("write a whole number from {min} to {max}"),
        _ => String::new(),
    };
    Refusal::new(format!("{given} is not allowed"), fix)
}

fn not_a_choice(given: &str, words: &[&str]) -> Refusal {
    let meant = closest(given, words.iter().copied()).map(|word| format!("; did you mean {word}?"));
    Refusal::new(format!("{given:?} is not allowed"), format!("use {}{}", words.join(", "), meant.unwrap_or_default()))
}

fn wrong_type(kind: &Kind, value: &DeValue<'_>) -> Refusal {
    let (expected, example) = match kind {
        Kind::Integer(min, _) => ("an integer", min.to_string()),
        Kind::Number(_, shape) => ("an integer", format!("a {shape}")),
        Kind::Millis(..) => ("an integer of milliseconds or a string", "500, or \"5s\"".to_owned()),
        Kind::Bool => ("a boolean", "true".to_owned()),
        Kind::HostPorts => ("an array of strings", "[\"host:7400\"]".to_owned()),
        Kind::Span => ("a string", "\"30s\"".to_owned()),
        Kind::Consistency => ("a string or an integer", "\"quorum\", or 2".to_owned()),
        Kind::Choice(words) => ("a string", format!("{:?}", words.first().unwrap_or(&""))),
        Kind::Listen => ("a string", "\"0.0.0.0:7400\"".to_owned()),
        Kind::HostPort => ("a string", "\"host:7400\"".to_owned()),
        Kind::Text(..) | Kind::Path | Kind::Secret => ("a string", "\"...\"".to_owned()),
    };
    let fix = format!("write it as {example}");
    Refusal::new(format!("must be {expected}, not {}", describe(value)), fix)
}

fn describe(value: &DeValue<'_>) -> String {
    let article = if value.type_str().starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {}", value.type_str())
}

/// Reads a span of time: a whole number with a unit of ms, s, m, h, d or w.
///
/// # Errors
/// When the unit is missing or unknown, or the number is not whole or too large.
pub fn parse_span(text: &str) -> Result<Duration, Invalid> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_ms: Option<u64> = match unit.trim() {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        "w" => Some(7 * 86_400_000),
        _ => None,
    };
    let span = unit_ms.and_then(|unit| number.parse::<u64>().ok()?.checked_mul(unit));
    span.map(Duration::from_millis).ok_or_else(|| {
        Invalid::new("span of time", text, "a whole number and one of ms, s, m, h, d, w, such as 30s or 7d")
    })
}

/// A host name or IP address, and a port other than 0: where somebody is reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    host: String,
    port: u16,
}

impl HostPort {
    /// The host: a name, or an address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same host at another port.
    pub fn with_port(&self, port: u16) -> Self {
        Self { host: self.host.clone(), port }
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

impl FromStr for HostPort {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refused = || Invalid::new("address", text, "host:port, such as db1.example.org:7400 or [2001:db8::5]:7400");
        let (host, port) = text.rsplit_once(':').ok_or_else(refused)?;
        let port = port.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(refused)?;
        if let Some(inner) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            let address: IpAddr = inner.parse().map_err(|_| refused())?;
            return Ok(Self { host: address.to_string(), port });
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let fits = !host.is_empty() && host.len() <= 253 && host.bytes().all(allowed) && !host.starts_with(['.', '-']);
        if fits { Ok(Self { host: host.to_owned(), port }) } else { Err(refused()) }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_need_a_unit() {
        assert_eq!(parse_span("30s").unwrap(), Duration::from_secs(30));
        assert_eq!(parse_span("2w").unwrap(), Duration::from_secs(14 * 86_400));
        for bad in ["30", "s", "", "1.5h", "-1s", "30 years", "99999999999999999w"] {
            assert!(parse_span(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn host_and_port_survive_a_round_trip() {
        for good in ["db1.example.org:7400", "10.0.0.1:1", "[2001:db8::5]:7400", "node_1:80"] {
            assert_eq!(good.parse::<HostPort>().unwrap().to_string(), good);
        }
        for bad in ["db1", "db1:", "db1:0", ":7400", "2001:db8::5:7400", "a b:1", "[x]:1", "db1:70000"] {
            assert!(bad.parse::<HostPort>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn milliseconds_are_taken_as_number_or_span() {
        let kind = Kind::Millis(10, 60_000);
        assert_eq!(from_text(&kind, "5s"), Ok(Value::Integer(5_000)));
        assert_eq!(from_text(&kind, "5"), Err(out_of_bounds(&kind, "5")));
        assert_eq!(from_text(&kind, "50"), Ok(Value::Integer(50)));
    }
}
