//! Good configurations: layers, what becomes of them, and how they are shown.

use std::time::Duration;

use crate::config::ClientConfig;
use crate::config::HostChecks;
use crate::config::judge_client;
use crate::config::judge_node;
use crate::config::node::Durability;
use crate::config::node::EngineConfig;
use crate::config::node::Preset;
use crate::config::redis::RedisEndpoint;
use crate::config::redis::Secret;
use crate::config::show;
use crate::config::tests::NODE;
use crate::config::tests::NOW_MS;
use crate::config::tests::file;
use crate::config::tests::folder;
use crate::config::tests::without_folder;
use crate::types::ConflictPolicy;
use crate::types::Consistency;
use crate::types::Namespace;

const RICH: &str = r#"
[storage]
engine = "redis"
durability = "interval"
[storage.redis]
url = "redis://app:hunter2@10.0.0.9/2"
[namespaces.default]
r = 1
ttl = "7d"
[namespaces.orders]
n = 5
w = "all"
conflict = "last-write-wins"
[timeouts]
request_ms = "8s"
[[members]]
name = "n2"
quic = "10.0.0.2:7400"
[[members]]
name = "n1"
quic = "10.0.0.1:7400"
zone = "east"
weight = 250
"#;

#[test]
fn flags_go_over_environment_over_file_over_defaults() {
    let mut inputs = file("layers", &format!("{NODE}[net]\nlanes = 2\nmtu_max = 1300\n[gossip]\ninterval_ms = 700\n"));
    inputs.env.insert("DYNAMOMINI_NET_LANES".to_owned(), "3".to_owned());
    inputs.env.insert("DYNAMOMINI_NET_MTU_MAX".to_owned(), "1400".to_owned());
    inputs.flags.push(("net.lanes".to_owned(), "5".to_owned()));
    let config = judge_node(&inputs, HostChecks::All, NOW_MS).into_result().unwrap();
    assert_eq!((config.lanes, config.mtu_max), (5, 1400));
    assert_eq!(config.gossip.interval, Some(Duration::from_millis(700)));
    assert_eq!((config.gossip.preset, config.gossip.push_pull), (Preset::Lan, None), "the preset's");
    assert_eq!(config.data_dir, folder().join("data"), "a path is relative to the file");
}

#[test]
fn a_rich_configuration_becomes_plain_values() {
    let config = judge_node(&file("rich", &format!("{NODE}{RICH}")), HostChecks::All, NOW_MS).into_result().unwrap();
    let EngineConfig::Redis(redis) = &config.storage.engine else { panic!("not Redis") };
    assert_eq!(redis.endpoint, RedisEndpoint::Tcp("10.0.0.9:6379".parse().unwrap()));
    assert_eq!(redis.password.as_ref().map(Secret::expose), Some("hunter2"));
    assert_eq!(redis.database, 2);
    assert_eq!(config.storage.durability, Durability::Interval(Duration::from_millis(100)));
    let orders = &config.namespaces[&Namespace::new("orders").unwrap()];
    assert_eq!((orders.n, orders.r, orders.w), (5, Consistency::Count(1), Consistency::All));
    assert_eq!(orders.conflict, ConflictPolicy::LastWriteWins);
    assert_eq!(orders.ttl, Some(Duration::from_secs(7 * 86_400)));
    assert_eq!((config.zone.as_str(), config.weight), ("east", 250), "taken from [[members]]");
    assert_eq!(config.advertise.quic.map(|at| at.to_string()).as_deref(), Some("10.0.0.1:7400"));
    let names: Vec<&str> = config.members.iter().map(|member| member.name.as_str()).collect();
    assert_eq!(names, ["n1", "n2"], "ordered by name");
}

#[test]
fn a_node_without_members_is_alone() {
    let text = NODE.replacen("127.0.0.1:0", "127.0.0.1:7400", 1);
    let config = judge_node(&file("alone", &text), HostChecks::None, NOW_MS).into_result().unwrap();
    assert_eq!(config.members.len(), 1);
    assert_eq!(config.members[0].quic.to_string(), "127.0.0.1:7400");
}

#[test]
fn a_node_with_seeds_alone_learns_the_members_from_them() {
    let text = NODE.replacen("127.0.0.1:0", "127.0.0.1:7400", 1);
    let text = text.replacen("[cluster]\n", "[cluster]\nseeds = [\"10.0.0.1:7400\", \"db.example.org:7400\"]\n", 1);
    let config = judge_node(&file("seeds", &text), HostChecks::None, NOW_MS).into_result().unwrap();
    assert!(config.members.is_empty());
    assert_eq!(
        config.seeds.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.0.0.1:7400", "db.example.org:7400"]
    );
}

#[test]
fn gossip_is_advertised_at_the_host_of_quic_when_it_listens_everywhere() {
    let text = NODE.replacen("127.0.0.1:0", "0.0.0.0:7400", 1).replacen("127.0.0.1:0", "0.0.0.0:7401", 1);
    let text = format!("{text}[advertise]\nquic = \"db1.example.org:9000\"\n");
    let config = judge_node(&file("everywhere", &text), HostChecks::None, NOW_MS).into_result().unwrap();
    assert_eq!(config.advertise.gossip.map(|at| at.to_string()).as_deref(), Some("db1.example.org:7401"));
}

#[test]
fn members_can_come_from_flags_and_environment() {
    let mut inputs = file("members", &format!("{NODE}{RICH}"));
    inputs.env.insert("DYNAMOMINI_MEMBERS".to_owned(), "name=n1,quic=a:1; name=n3,quic=b:2,zone=west".to_owned());
    let config = judge_node(&inputs, HostChecks::None, NOW_MS).into_result().unwrap();
    assert_eq!(config.members.iter().map(|member| member.zone.as_str()).collect::<Vec<_>>(), ["default", "west"]);
    inputs.members.push("name=n1,quic=c:3".to_owned());
    let config = judge_node(&inputs, HostChecks::None, NOW_MS).into_result().unwrap();
    assert_eq!(config.members[0].quic.to_string(), "c:3");
}

#[test]
fn a_mistyped_variable_is_warned_of_and_a_foreign_one_is_not() {
    let mut inputs = file("typo", NODE);
    inputs.env.insert("DYNAMOMINI_STORGE_ENGINE".to_owned(), "redis".to_owned());
    inputs.env.insert("DYNAMOMINI_SERVICE_HOST".to_owned(), "10.0.0.1".to_owned());
    let judged = judge_node(&inputs, HostChecks::None, NOW_MS);
    let warnings: Vec<String> = judged.settled.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        ["environment DYNAMOMINI_STORGE_ENGINE: is not a setting; did you mean DYNAMOMINI_STORAGE_ENGINE?",]
    );
}

#[test]
fn few_partitions_for_many_members_are_warned_of() {
    let members: String = (1..=60).map(|n| format!("[[members]]\nname = \"n{n}\"\nquic = \"h{n}:1\"\n")).collect();
    let judged = judge_node(&file("many", &format!("{NODE}{members}")), HostChecks::None, NOW_MS);
    let warnings: Vec<String> = judged.settled.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("1024 partitions suit up to 40 nodes") && warnings[0].contains("choose 2048"),
        "{warnings:?}"
    );
}

#[test]
fn show_says_every_value_and_its_source_and_masks_secrets() {
    let mut inputs = file("show", &format!("{NODE}{RICH}"));
    inputs.env.insert("DYNAMOMINI_LOG_LEVEL".to_owned(), "debug".to_owned());
    inputs.flags.push(("net.lanes".to_owned(), "5".to_owned()));
    inputs.sets.push("namespaces.orders.ttl=never".to_owned());
    let judged = judge_node(&inputs, HostChecks::None, NOW_MS);
    let lines: Vec<String> = show::text(&judged.settled)
        .lines()
        .map(|line| without_folder(line).split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(lines.join("\n"), include_str!("show.txt").trim_end());
    let json = show::json(&judged.settled).to_string();
    assert!(!json.contains("hunter2"), "a secret was shown: {json}");
}

#[test]
fn a_client_is_read_whole() {
    let text = "nodes = [\"n1:7400\", \"[::1]:7500\"]\nr = 2\ntimeout_ms = 700\n[cluster]\nname = \"shop\"\n[tls]\nca = \"ca.crt\"\ncert = \"web.crt\"\nkey = \"web.key\"\n";
    let mut inputs = file("client", text);
    inputs.flags.push(("w".to_owned(), "all".to_owned()));
    inputs.env.insert("DYNAMOMINI_CLIENT_NAMESPACE".to_owned(), "orders".to_owned());
    let config: ClientConfig = judge_client(&inputs, HostChecks::All, NOW_MS).into_result().unwrap();
    assert_eq!(config.nodes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["n1:7400", "[::1]:7500"]);
    assert_eq!((config.r, config.w), (Some(Consistency::Count(2)), Some(Consistency::All)));
    assert_eq!(config.timeout, Duration::from_millis(700));
    assert_eq!(config.namespace.as_str(), "orders");
}
