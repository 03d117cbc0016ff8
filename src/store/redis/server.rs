//! What a Redis server says of itself, and whether it can be trusted with data.
//!
//! Facts come from `INFO` and, where the server allows it, `CONFIG GET`. Judging them is pure.

use std::collections::BTreeMap;

use redis::RedisError;
use redis::aio::MultiplexedConnection;

use crate::store::OpenError;
use crate::store::Warning;

/// The facts that matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    info: BTreeMap<String, String>,
    /// `None` when the server does not let us ask.
    config: Option<BTreeMap<String, String>>,
    /// Keys in the database.
    pub(super) database_keys: u64,
}

impl Facts {
    /// Asks the server.
    pub(super) async fn ask(connection: &mut MultiplexedConnection) -> Result<Self, RedisError> {
        let info: String = redis::cmd("INFO").query_async(connection).await?;
        let mut facts = Self { info: parse_info(&info), ..Self::default() };
        facts.database_keys = redis::cmd("DBSIZE").query_async(connection).await?;
        let mut config = BTreeMap::new();
        // One by one: Redis 6 takes a single pattern.
        for name in ["maxmemory-policy", "appendonly", "appendfsync", "save"] {
            let answer: Result<Vec<String>, _> =
                redis::cmd("CONFIG").arg("GET").arg(name).query_async(connection).await;
            match answer {
                Ok(pair) => config.extend(pair.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()))),
                Err(error) if error.is_io_error() => return Err(error),
                Err(_) => return Ok(facts),
            }
        }
        facts.config = Some(config);
        Ok(facts)
    }

    /// The server's name for its own run: another after each restart.
    pub(super) fn run(&self) -> &str {
        self.info("run_id")
    }

    /// Whether each write is on disk before it is acknowledged.
    pub(super) fn synced(&self) -> bool {
        self.info("aof_enabled") == "1" && self.config("appendfsync") == Some("always")
    }

    /// Memory used by the server, in bytes.
    pub(super) fn used_memory(&self) -> u64 {
        self.info("used_memory").parse().unwrap_or(0)
    }

    /// Why the server may be losing data now, if so. `evicted` is the count of evictions when it was last asked.
    pub(super) fn losing_data(&self, evicted: u64) -> Option<String> {
        let policy = self.policy();
        if self.evicted() > evicted {
            Some(format!("Redis evicts records (maxmemory-policy {policy}): set it to noeviction"))
        } else if policy != "noeviction" && !policy.is_empty() {
            Some(format!("Redis would evict records (maxmemory-policy {policy}): set it to noeviction"))
        } else if self.info("aof_enabled") == "1" && self.info("aof_last_write_status") == "err" {
            Some("Redis cannot write its append-only file: look at its log and its disk".to_owned())
        } else {
            None
        }
    }

    /// Records that the server has evicted since its start.
    pub(super) fn evicted(&self) -> u64 {
        self.info("evicted_keys").parse().unwrap_or(0)
    }

    /// Refuses a server that would lose data or cannot work; `what` names it.
    pub(super) fn check(&self, what: &str) -> Result<(), OpenError> {
        let refuse = |reason: String, remedy: &str| {
            Err(OpenError::Unsuitable { what: what.to_owned(), reason, remedy: remedy.to_owned() })
        };
        let version = self.info("redis_version");
        if version.split('.').next().and_then(|major| major.parse::<u32>().ok()).is_none_or(|major| major < 6) {
            return refuse(format!("its version is {version:?}"), "use Redis 6.0 or later, or Valkey");
        }
        if self.info("role") != "master" {
            return refuse("it is a replica of another server".to_owned(), "give each node a server of its own");
        }
        if self.info("cluster_enabled") == "1" {
            let remedy = "set cluster-enabled to no: DynamoMini spreads the data itself";
            return refuse("it runs in cluster mode".to_owned(), remedy);
        }
        let policy = self.policy();
        if policy != "noeviction" {
            let remedy = "set maxmemory-policy to noeviction";
            return refuse(format!("it would evict records when memory is short (maxmemory-policy {policy})"), remedy);
        }
        Ok(())
    }

    /// What the operator should know of a server that is used.
    pub(super) fn warnings(&self) -> Vec<Warning> {
        let Some(config) = &self.config else {
            return vec![Warning::new(
                "Redis does not allow CONFIG GET, so it is not known what it loses in a crash; each restart of it \
                 counts as a loss",
                "allow the node's user `+config|get` (Redis 7) or `+config` (Redis 6)",
            )];
        };
        let aof = self.info("aof_enabled") == "1";
        let finding = match config.get("appendfsync").map(String::as_str) {
            Some("always") if aof => return Vec::new(),
            Some("everysec") if aof => "a crash of Redis's machine loses about the last second of acknowledged writes",
            _ if aof => "a crash of Redis's machine loses up to half a minute of acknowledged writes",
            _ if config.get("save").is_some_and(|save| !save.is_empty()) => {
                "a crash of Redis loses all acknowledged writes since its last snapshot"
            }
            _ => "persistence is off: when Redis stops, all its data is lost",
        };
        let remedy = "set `appendonly yes` and `appendfsync always` if acknowledged writes are to survive it";
        vec![Warning::new(finding, remedy)]
    }

    fn policy(&self) -> &str {
        self.config("maxmemory-policy").unwrap_or_else(|| self.info("maxmemory_policy"))
    }

    fn info(&self, name: &str) -> &str {
        self.info.get(name).map_or("", String::as_str)
    }

    fn config(&self, name: &str) -> Option<&str> {
        self.config.as_ref()?.get(name).map(String::as_str)
    }
}

fn parse_info(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.trim_end().split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(info: &str, config: &[(&str, &str)]) -> Facts {
        let sound = "redis_version:7.0.15\r\nrole:master\r\ncluster_enabled:0\r\nmaxmemory_policy:noeviction\r\n";
        let config = config.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Facts { info: parse_info(&format!("# Server\r\n{sound}{info}")), config: Some(config), database_keys: 0 }
    }

    #[test]
    fn unsuitable_servers_are_refused() {
        assert!(facts("", &[]).check("r").is_ok());
        for bad in ["redis_version:5.0.9", "role:slave", "cluster_enabled:1", "maxmemory_policy:allkeys-lru"] {
            assert!(facts(bad, &[]).check("r").is_err(), "{bad}");
        }
        assert!(facts("", &[("maxmemory-policy", "volatile-ttl")]).check("r").is_err());
    }

    #[test]
    fn warnings_say_what_a_crash_may_cost() {
        let aof = "aof_enabled:1";
        assert_eq!(facts(aof, &[("appendfsync", "always")]).warnings(), []);
        assert!(facts(aof, &[("appendfsync", "always")]).synced());
        assert!(!facts("aof_enabled:0", &[("appendfsync", "always")]).synced());
        let finding = |info, config: &[_]| facts(info, config).warnings()[0].finding.clone();
        assert!(finding(aof, &[("appendfsync", "everysec")]).contains("last second"));
        assert!(finding("", &[("save", "3600 1")]).contains("snapshot"));
        assert!(finding("", &[("save", "")]).contains("persistence is off"));
        assert!(Facts::default().warnings()[0].finding.contains("CONFIG GET"));
    }

    #[test]
    fn evictions_and_a_failing_append_only_file_count_as_losing_data() {
        assert_eq!(facts("evicted_keys:3", &[]).losing_data(3), None);
        assert!(facts("evicted_keys:4", &[]).losing_data(3).is_some());
        assert!(facts("", &[("maxmemory-policy", "allkeys-lru")]).losing_data(0).is_some());
        assert!(facts("aof_enabled:1\r\naof_last_write_status:err", &[]).losing_data(0).is_some());
    }
}
