//! Where a node's own Redis is and how to talk to it: its URL taken apart, its credentials and certificates.
//!
//! Nothing here connects.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::certs::files;
use crate::config::settle::Settled;
use crate::config::value::HostPort;
use crate::types::Invalid;

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text from being shown.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How a node talks to its Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisConfig {
    /// Where it is.
    pub endpoint: RedisEndpoint,
    /// The user; `None` means Redis's default user.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// The database number.
    pub database: u32,
    /// The authority that signs Redis's certificate; `None` means the public ones.
    pub ca: Option<PathBuf>,
    /// The certificate and key shown to Redis.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest wait for an answer.
    pub response_timeout: Duration,
    /// What all keys begin with.
    pub prefix: String,
}

/// Where a Redis is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisEndpoint {
    /// Plain TCP.
    Tcp(HostPort),
    /// TCP with TLS.
    Tls(HostPort),
    /// A Unix socket.
    Unix(PathBuf),
}

/// A URL taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisUrl {
    /// Where it is.
    pub endpoint: RedisEndpoint,
    /// The user, if it names one.
    pub username: Option<String>,
    /// The password, if it has one.
    pub password: Option<Secret>,
    /// The database, if it names one.
    pub database: Option<u32>,
}

impl std::str::FromStr for RedisUrl {
    type Err = Invalid;

    fn from_str(url: &str) -> Result<Self, Invalid> {
        // The message must not repeat a password.
        let refused = || {
            let allowed = "redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE], the same with rediss://, or unix:///PATH";
            Invalid::new("Redis address", mask_url(url), allowed)
        };
        if let Some(path) = url.strip_prefix("unix://") {
            let (path, query) = path.split_once('?').unwrap_or((path, ""));
            if !path.starts_with('/') || !query.is_empty() {
                return Err(refused());
            }
            let endpoint = RedisEndpoint::Unix(PathBuf::from(path));
            return Ok(Self { endpoint, username: None, password: None, database: None });
        }
        let (scheme, rest) = url.split_once("://").ok_or_else(refused)?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let database = match path {
            "" => None,
            number => Some(number.parse().map_err(|_| refused())?),
        };
        let has_port = host.rsplit_once(':').is_some_and(|(before, _)| !before.contains(':') || before.ends_with(']'));
        let with_port = if has_port { host.to_owned() } else { format!("{host}:6379") };
        let host: HostPort = with_port.parse().map_err(|_| refused())?;
        let endpoint = match scheme {
            "redis" => RedisEndpoint::Tcp(host),
            "rediss" => RedisEndpoint::Tls(host),
            _ => return Err(refused()),
        };
        let (username, password) = user.map_or((None, None), |user| match user.split_once(':') {
            Some((name, password)) => (Some(name), Some(password)),
            None => (Some(user), None),
        });
        let decoded = |text: Option<&str>| {
            let text = text.filter(|text| !text.is_empty());
            text.map(|text| percent_decode(text).ok_or_else(refused)).transpose()
        };
        Ok(Self { endpoint, username: decoded(username)?, password: decoded(password)?.map(Secret::new), database })
    }
}

/// The URL without what lies between `//` and `@`, save the user's name.
pub fn mask_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "***".to_owned() };
    match rest.rsplit_once('@') {
        Some((user, host)) => {
            let name = user.split_once(':').map_or(user, |(name, _)| name);
            format!("{scheme}://{name}:***@{host}")
        }
        None => url.to_owned(),
    }
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let (high, low) = (rest.next()?, rest.next()?);
                u8::from_str_radix(std::str::from_utf8(&[high, low]).ok()?, 16).ok()?
            }
            plain => plain,
        });
    }
    String::from_utf8(bytes).ok()
}

const KEY: &str = "storage.redis.";

/// Makes the Redis configuration if Redis is the engine, reporting what does not fit.
pub(crate) fn build(settled: &mut Settled) -> Option<RedisConfig> {
    if settled.text("storage.engine") != Some("redis") {
        return None;
    }
    let key = |field: &str| format!("{KEY}{field}");
    let url = match settled.text(&key("url"))?.parse::<RedisUrl>() {
        Ok(url) => url,
        Err(invalid) => {
            settled.report(&key("url"), invalid.to_string(), "");
            return None;
        }
    };
    let username = settled.text(&key("username")).map(str::to_owned);
    let database = settled.get(&key("database")).map(|_| settled.number(&key("database")));
    let database = database.and_then(|number| u32::try_from(number).ok());
    for (field, twice) in [
        ("username", username.is_some() && url.username.is_some()),
        ("database", database.is_some() && url.database.is_some()),
    ] {
        if twice {
            settled.report(&key(field), "is given here and in storage.redis.url", "give it in one place");
        }
    }
    tls_files(settled, &url);
    let identity = settled.path(&key("cert")).zip(settled.path(&key("key")));
    Some(RedisConfig {
        password: password(settled, url.password),
        endpoint: url.endpoint,
        username: username.or(url.username),
        database: database.or(url.database).unwrap_or(0),
        ca: settled.path(&key("ca")),
        identity,
        connect_timeout: Duration::from_millis(settled.number(&key("connect_timeout_ms"))),
        response_timeout: Duration::from_millis(settled.number(&key("response_timeout_ms"))),
        prefix: settled.text(&key("prefix")).unwrap_or_default().to_owned(),
    })
}

fn tls_files(settled: &mut Settled, url: &RedisUrl) {
    let is_tls = matches!(url.endpoint, RedisEndpoint::Tls(_));
    for field in ["ca", "cert", "key"] {
        let key = format!("{KEY}{field}");
        let Some(path) = settled.path(&key) else { continue };
        if !is_tls {
            let fix = "use a rediss:// url, or leave the key out";
            settled.report(&key, "is used with TLS only, and storage.redis.url is not rediss://", fix);
            continue;
        }
        let checked = if field == "key" { files::private(&path) } else { files::readable(&path) };
        if let Err(unusable) = checked {
            settled.report(&key, unusable.what, unusable.fix);
        }
    }
    for (one, other) in [("cert", "key"), ("key", "cert")] {
        let (one, other) = (format!("{KEY}{one}"), format!("{KEY}{other}"));
        if settled.get(&one).is_some() && settled.get(&other).is_none() {
            settled.report(&one, format!("is set without {other}"), "set both, or neither");
        }
    }
}

fn password(settled: &mut Settled, from_url: Option<Secret>) -> Option<Secret> {
    let given = settled.text("storage.redis.password").map(Secret::new);
    let file = settled.path("storage.redis.password_file");
    let ways = [given.is_some(), file.is_some(), from_url.is_some()].into_iter().filter(|way| *way).count();
    if ways > 1 {
        let key = if file.is_some() { "storage.redis.password_file" } else { "storage.redis.password" };
        let fix = "give the password in one place: password_file, password, or url";
        settled.report(key, "is not the only place that gives a Redis password", fix);
    }
    let Some(file) = file else { return given.or(from_url) };
    match files::private(&file) {
        Ok(text) => Some(Secret::new(text.trim_end_matches(['\r', '\n']))),
        Err(unusable) => {
            settled.report("storage.redis.password_file", unusable.what, unusable.fix);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let url: RedisUrl = "rediss://app:p%40ss@cache.example.org/3".parse().unwrap();
        assert_eq!(url.endpoint, RedisEndpoint::Tls("cache.example.org:6379".parse().unwrap()));
        assert_eq!(url.username.as_deref(), Some("app"));
        assert_eq!(url.password.as_ref().map(Secret::expose), Some("p@ss"));
        assert_eq!(url.database, Some(3));
        let unix: RedisUrl = "unix:///run/redis.sock".parse().unwrap();
        assert_eq!(unix.endpoint, RedisEndpoint::Unix("/run/redis.sock".into()));
        let v6: RedisUrl = "redis://[::1]".parse().unwrap();
        assert_eq!(v6.endpoint, RedisEndpoint::Tcp("[::1]:6379".parse().unwrap()));
    }

    #[test]
    fn a_malformed_url_is_refused_without_showing_its_password() {
        for bad in ["localhost:6379", "http://h", "redis://h:x", "redis://h/db", "unix://relative", "redis://"] {
            assert!(bad.parse::<RedisUrl>().is_err(), "{bad:?} was taken");
        }
        let message = "redis://u:hunter2@h:port".parse::<RedisUrl>().unwrap_err().to_string();
        assert!(!message.contains("hunter2"), "{message}");
        assert!(!format!("{:?}", Secret::new("hunter2")).contains("hunter2"));
    }
}
