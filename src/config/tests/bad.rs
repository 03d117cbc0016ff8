//! Each bad configuration gets exactly one text, which says where, what and what to do.

use std::net::TcpListener;
use std::net::UdpSocket;

use crate::config::HostChecks;
use crate::config::judge_client;
use crate::config::judge_node;
use crate::config::settle::Inputs;
use crate::config::tests::NODE;
use crate::config::tests::NOW_MS;
use crate::config::tests::file;
use crate::config::tests::folder;
use crate::config::tests::without_folder;

fn problems(inputs: &Inputs, checks: HostChecks) -> Vec<String> {
    let judged = judge_node(inputs, checks, NOW_MS);
    judged.settled.problems.iter().map(|problem| without_folder(&problem.to_string())).collect()
}

/// Checks what is said of [`NODE`] with one text replaced by another.
fn check(name: &str, from: &str, to: &str, expected: &[&str]) {
    assert!(from.is_empty() || NODE.contains(from), "{from:?} is not in the configuration that is changed");
    let text = if from.is_empty() { format!("{NODE}{to}") } else { NODE.replacen(from, to, 1) };
    assert_eq!(problems(&file(name, &text), HostChecks::WithoutPorts), expected, "in\n{text}");
}

#[test]
fn the_unchanged_configuration_is_good() {
    assert_eq!(problems(&file("unchanged", NODE), HostChecks::All), [""; 0]);
}

#[test]
fn syntax_errors_name_line_and_column() {
    check(
        "syntax",
        "name = \"n1\"",
        "name = n1",
        &[
            "D/syntax.toml:4:8: is not valid TOML: invalid float, expected `nan`; correct the line; values that are text need quotes",
        ],
    );
    let missing = Inputs { file: Some(folder().join("none.toml")), ..Inputs::default() };
    assert_eq!(
        problems(&missing, HostChecks::All),
        ["D/none.toml: there is no such file; correct the path given by --config, or make the file"]
    );
}

#[test]
fn unknown_keys_get_a_suggestion() {
    let cases = [
        ("u1", "[storge]\nengine = \"redis\"\n", "D/u1.toml:13: storge: is not a setting; did you mean storage?"),
        ("u2", "[net]\nlane = 3\n", "D/u2.toml:14: net.lane: is not a setting; did you mean net.lanes?"),
        (
            "u3",
            "[namespaces.a]\nconflikt = 1\n",
            "D/u3.toml:14: namespaces.a.conflikt: is not a setting; did you mean namespaces.a.conflict?",
        ),
        ("u4", "[frob]\nx = 1\n", "D/u4.toml:13: frob: is not a setting; see `dynamomini config keys`"),
        (
            "u5",
            "[namespaces.\"A/B\"]\n",
            "D/u5.toml:13: namespaces.A/B: namespace \"A/B\" is not valid: 1 to 64 of a-z, 0-9, '-' and '_'; rename the table",
        ),
    ];
    for (name, added, expected) in cases {
        check(name, "", added, &[expected]);
    }
    check(
        "u6",
        "[cluster]\n",
        "quic = \"a:1\"\n[cluster]\n",
        &["D/u6.toml:1: quic: is not a setting; did you mean listen.quic?"],
    );
    check(
        "u7",
        "[cluster]\n",
        "storage = 3\n[cluster]\n",
        &["D/u7.toml:1: storage: is a table, not a value; it is integer; write [storage] with its keys below it"],
    );
}

#[test]
fn wrong_types_and_values_say_what_is_allowed() {
    let cases = [
        ("t1", "[net]\nlanes = \"4\"\n", "D/t1.toml:14: net.lanes: must be an integer, not a string; write it as 0"),
        ("t2", "[net]\nlanes = 99\n", "D/t2.toml:14: net.lanes: 99 is not allowed; write a whole number from 0 to 16"),
        (
            "t3",
            "[timeouts]\nrequest_ms = -1\n",
            "D/t3.toml:14: timeouts.request_ms: -1 is not allowed; write milliseconds from 10 to 300000, or a span such as \"5s\"",
        ),
        (
            "t4",
            "[storage]\ndurability = \"intervall\"\n",
            "D/t4.toml:14: storage.durability: \"intervall\" is not allowed; use off, interval, every-batch; did you mean interval?",
        ),
        (
            "t5",
            "[namespaces.default]\nsloppy = \"yes\"\n",
            "D/t5.toml:14: namespaces.default.sloppy: must be a boolean, not a string; write it as true",
        ),
        (
            "t6",
            "[namespaces.default]\nttl = 30\n",
            "D/t6.toml:14: namespaces.default.ttl: must be a string, not an integer; write it as \"30s\"",
        ),
        (
            "t7",
            "[namespaces.default]\nttl = \"30\"\n",
            "D/t7.toml:14: namespaces.default.ttl: span of time \"30\" is not valid: a whole number and one of ms, s, m, h, d, w, such as 30s or 7d",
        ),
        (
            "t8",
            "[namespaces.default]\nttl = \"0s\"\n",
            "D/t8.toml:14: namespaces.default.ttl: 0 would expire every key at once; use \"never\", or a longer span",
        ),
        (
            "t9",
            "[log]\nlevel = \"loud\"\n",
            "D/t9.toml:14: log.level: log level \"loud\" is not valid: error, warn, info, debug, trace, or filters such as info,dynamomini::net=debug",
        ),
        (
            "t10",
            "[advertise]\nquic = \"host\"\n",
            "D/t10.toml:14: advertise.quic: address \"host\" is not valid: host:port, such as db1.example.org:7400 or [2001:db8::5]:7400",
        ),
    ];
    for (name, added, expected) in cases {
        check(name, "", added, &[expected]);
    }
}

#[test]
fn names_counts_and_addresses_say_what_is_allowed() {
    check(
        "t11",
        "\"n1\"",
        "\"N1\"",
        &[
            "D/t11.toml:4: node.name: node name \"N1\" is not valid: 1 to 63 of a-z, 0-9 and '-', not beginning or ending with '-'",
        ],
    );
    check(
        "t12",
        "name = \"shop\"",
        "name = \"shop\"\npartitions = 1000",
        &["D/t12.toml:3: cluster.partitions: partition count \"1000\" is not valid: a power of two from 16 to 65536"],
    );
    check(
        "t13",
        "\"127.0.0.1:0\"",
        "\"localhost:0\"",
        &[
            "D/t13.toml:6: listen.quic: \"localhost:0\" is not an address to listen on; write an IP address and a port, such as 0.0.0.0:7400, 10.0.0.5:7400 or [::]:7400",
        ],
    );
    check(
        "t14",
        "name = \"shop\"\n",
        "",
        &["cluster.name: is missing; set it in D/t14.toml, by --cluster-name, or by DYNAMOMINI_CLUSTER_NAME"],
    );
}

#[test]
fn values_must_fit_each_other() {
    let cases = [
        (
            "f1",
            "[namespaces.default]\nn = 2\nw = 3\n",
            "D/f1.toml:15: namespaces.default.w: 3 is above N = 2 of this namespace; use 1 to 2, one, quorum or all, or raise n",
        ),
        (
            "f2",
            "[namespaces.orders]\nr = 4\n",
            "D/f2.toml:14: namespaces.orders.r: 4 is above N = 3 of this namespace; use 1 to 3, one, quorum or all, or raise n",
        ),
        (
            "f3",
            "[timeouts]\nreplica_ms = 6000\n",
            "D/f3.toml:14: timeouts.replica_ms: timeouts.replica_ms = 6000 is more than timeouts.request_ms = 5000; lower timeouts.replica_ms or raise timeouts.request_ms",
        ),
        (
            "f3a",
            "[storage]\nreap_after_ms = 599999\n",
            "D/f3a.toml:14: storage.reap_after_ms: storage.reap_after_ms = 599999 is less than 600000, by which every request has ended; write at least 600000, or 0 to keep what is deleted",
        ),
        (
            "f4",
            "[timeouts]\nidle_ms = 1500\n",
            "D/f4.toml:14: timeouts.idle_ms: timeouts.keepalive_ms = 1000 is more than half of timeouts.idle_ms = 1500; lower timeouts.keepalive_ms or raise timeouts.idle_ms",
        ),
        (
            "f5",
            "[[members]]\nname = \"n2\"\nquic = \"h:1\"\n",
            "D/f5.toml:4: node.name: n1 is not among the members (n2); add a [[members]] table for it, or correct the name",
        ),
        (
            "f6",
            "[[members]]\nname = \"n1\"\nquic = \"h:1\"\n[[members]]\nname = \"n1\"\nquic = \"h:2\"\n",
            "D/f6.toml:17: members[1].name: n1 is also the name of members[0]; give every member a name and an address of its own",
        ),
        (
            "f7",
            "[[members]]\nname = \"n1\"\nquic = \"h:1\"\n[[members]]\nname = \"n2\"\nquic = \"h:1\"\n",
            "D/f7.toml:18: members[1].quic: h:1 is also the quic of members[0]; give every member a name and an address of its own",
        ),
        ("f8", "[[members]]\nname = \"n1\"\n", "D/f8.toml:13: members[0].quic: is missing; give each member a quic"),
        (
            "f9",
            "[advertise]\nquic = \"a:1\"\n[[members]]\nname = \"n1\"\nquic = \"h:1\"\n",
            "D/f9.toml:14: advertise.quic: a:1 differs from h:1 in members[0].quic; make them equal on every node, or leave this key out",
        ),
    ];
    for (name, added, expected) in cases {
        check(name, "", added, &[expected]);
    }
    check(
        "f10",
        "quic = \"127.0.0.1:0\"\ngossip = \"127.0.0.1:0\"",
        "quic = \"127.0.0.1:61\"\ngossip = \"127.0.0.1:61\"",
        &[
            "D/f10.toml:7: listen.gossip: 127.0.0.1:61 is the UDP port of listen.quic, too; give gossip a port of its own",
        ],
    );
}

#[test]
fn an_address_that_nobody_can_reach_must_not_be_advertised() {
    let text = NODE.replacen("127.0.0.1:0", "0.0.0.0:7400", 1);
    let judged = judge_node(&file("unspecified", &text), HostChecks::None, NOW_MS);
    let problems: Vec<String> = judged.settled.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "advertise.quic: is missing, and listen.quic 0.0.0.0:7400 is not an address that others can reach; set it to the host and port that others use, or list this node in [[members]]",
        ]
    );
}

#[test]
fn ports_in_use_are_found() {
    let (udp, tcp) = (UdpSocket::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let (udp, tcp) = (udp.local_addr().map(|at| (udp, at)).unwrap(), tcp.local_addr().map(|at| (tcp, at)).unwrap());
    let text = NODE.replacen("127.0.0.1:0", &udp.1.to_string(), 1);
    let text = text.replace("admin = \"127.0.0.1:0\"", &format!("admin = \"{}\"", tcp.1));
    let fix = "is in use; stop the program that holds it (a node that runs already?), or choose another port";
    assert_eq!(
        problems(&file("ports", &text), HostChecks::All),
        [
            format!("D/ports.toml:6: listen.quic: UDP port {} {fix}", udp.1),
            format!("D/ports.toml:8: listen.admin: TCP port {} {fix}", tcp.1),
        ]
    );
    let judged = judge_node(&file("ports", &text), HostChecks::WithoutPorts, NOW_MS);
    assert!(judged.into_result().is_ok(), "the ports were tried");
}

#[test]
fn certificates_are_judged_before_anything_starts() {
    let files = |ca: &str, cert: &str, key: &str| format!("ca = \"{ca}\"\ncert = \"{cert}\"\nkey = \"{key}\"\n");
    let cases = [
        (
            "c1",
            files("ca.crt", "n1.crt", "none.key"),
            "D/c1.toml:12: tls.key: there is no file D/none.key; correct the path, or make the file",
        ),
        (
            "c2",
            files("ca.crt", "n1.crt", "open.key"),
            "D/c2.toml:12: tls.key: D/open.key can be read by others than its owner (mode 0644); run: chmod 600 D/open.key",
        ),
        (
            "c3",
            files("ca.crt", "n1.crt", "n2.key"),
            "D/c3.toml:12: tls.key: D/n2.key does not belong to the certificate in D/n1.crt; name the key that was made with this certificate, or issue both again",
        ),
        (
            "c4",
            files("ca.crt", "old.crt", "old.key"),
            "D/c4.toml:11: tls.cert: D/old.crt expired on 2026-07-23 14:13:20 UTC; run: dynamomini certs renew D/old.crt",
        ),
        (
            "c5",
            files("ca.crt", "early.crt", "early.key"),
            "D/c5.toml:11: tls.cert: D/early.crt is not valid before 2026-12-20 13:13:20 UTC; check this host's clock, or issue it again",
        ),
        (
            "c6",
            files("ca.crt", "n2.crt", "n2.key"),
            "D/c6.toml:11: tls.cert: D/n2.crt is the certificate of node n2, not of node n1; run: dynamomini certs node n1, or correct node.name",
        ),
        (
            "c7",
            files("ca.crt", "stranger.crt", "stranger.key"),
            "D/c7.toml:11: tls.cert: D/stranger.crt was not issued by the authority in D/ca.crt; use certificate and ca.crt of the same authority, and append intermediates to tls.cert",
        ),
        (
            "c8",
            files("n2.crt", "n1.crt", "n1.key"),
            "D/c8.toml:10: tls.ca: D/n2.crt is not an authority's certificate; name the ca.crt of the authority that issued tls.cert",
        ),
        (
            "c9",
            files("ca.crt", "junk.crt", "n1.key"),
            "D/c9.toml:11: tls.cert: D/junk.crt holds no certificate; name a PEM file that begins with BEGIN CERTIFICATE",
        ),
        (
            "c10",
            files("ca.crt", "n1.crt", "junk.key"),
            "D/c10.toml:12: tls.key: D/junk.key holds no private key (no items found); name the PEM file of the key that belongs to tls.cert",
        ),
    ];
    for (name, to, expected) in &cases {
        check(name, "ca = \"ca.crt\"\ncert = \"n1.crt\"\nkey = \"n1.key\"\n", to, &[expected]);
    }
    let to = files("ca.crt", "web.crt", "web.key");
    check(
        "c11",
        "ca = \"ca.crt\"\ncert = \"n1.crt\"\nkey = \"n1.key\"\n",
        &to,
        &[
            "D/c11.toml:11: tls.cert: D/web.crt is the certificate of client web, not of node n1; run: dynamomini certs node n1, or correct node.name",
            "D/c11.toml:11: tls.cert: D/web.crt may not be used as a server; issue it with the extended key usage serverAuth",
        ],
    );
}

#[test]
fn a_data_folder_that_cannot_be_written_is_found() {
    check(
        "d1",
        "name = \"n1\"",
        "name = \"n1\"\ndata_dir = \"ca.crt\"",
        &[
            "D/d1.toml:5: node.data_dir: D/ca.crt cannot be written: D/ca.crt is not a folder; let the user that runs the node write there, or name another folder",
        ],
    );
}

#[test]
fn redis_settings_are_judged_when_redis_is_the_engine() {
    let cases = [
        (
            "r1",
            "url = \"redis://u:hunter2@h:port\"",
            "D/r1.toml:16: storage.redis.url: Redis address \"redis://u:***@h:port\" is not valid: redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE], the same with rediss://, or unix:///PATH",
        ),
        (
            "r2",
            "ca = \"ca.crt\"",
            "D/r2.toml:16: storage.redis.ca: is used with TLS only, and storage.redis.url is not rediss://; use a rediss:// url, or leave the key out",
        ),
        (
            "r3",
            "url = \"rediss://h\"\ncert = \"n1.crt\"",
            "D/r3.toml:17: storage.redis.cert: is set without storage.redis.key; set both, or neither",
        ),
        (
            "r4",
            "password = \"a\"\npassword_file = \"password\"",
            "D/r4.toml:17: storage.redis.password_file: is not the only place that gives a Redis password; give the password in one place: password_file, password, or url",
        ),
        (
            "r5",
            "password_file = \"open.key\"",
            "D/r5.toml:16: storage.redis.password_file: D/open.key can be read by others than its owner (mode 0644); run: chmod 600 D/open.key",
        ),
        (
            "r6",
            "url = \"redis://h/2\"\ndatabase = 3",
            "D/r6.toml:17: storage.redis.database: is given here and in storage.redis.url; give it in one place",
        ),
    ];
    for (name, added, expected) in cases {
        check(name, "", &format!("[storage]\nengine = \"redis\"\n[storage.redis]\n{added}\n"), &[expected]);
    }
}

#[test]
fn flags_and_environment_are_named_as_the_place() {
    let mut inputs = file("places", NODE);
    inputs.env.insert("DYNAMOMINI_NET_LANES".to_owned(), "17".to_owned());
    inputs.flags.push(("net.mtu_max".to_owned(), "12".to_owned()));
    inputs.sets.push("namespaces.orders.w=9".to_owned());
    inputs.sets.push("net.lane=9".to_owned());
    assert_eq!(
        problems(&inputs, HostChecks::All),
        [
            "environment DYNAMOMINI_NET_LANES: net.lanes: 17 is not allowed; write a whole number from 0 to 16",
            "flag --net-mtu-max: net.mtu_max: 12 is not allowed; write a whole number from 1200 to 65527",
            "flag --set: net.lane: is not a setting; did you mean net.lanes?",
            "flag --set: namespaces.orders.w: 9 is above N = 3 of this namespace; use 1 to 3, one, quorum or all, or raise n",
        ]
    );
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let text =
        NODE.replace("name = \"shop\"", "nam = \"shop\"").replace("n1.key", "open.key").replace("n1.crt", "old.crt");
    let judged = judge_node(&file("all", &text), HostChecks::All, NOW_MS);
    let error = without_folder(&judged.into_result().unwrap_err().to_string());
    assert_eq!(
        error,
        "the node configuration has 4 problems:\n  \
        D/all.toml:2: cluster.nam: is not a setting; did you mean cluster.name?\n  \
        cluster.name: is missing; set it in D/all.toml, by --cluster-name, or by DYNAMOMINI_CLUSTER_NAME\n  \
        D/all.toml:11: tls.cert: D/old.crt expired on 2026-07-23 14:13:20 UTC; run: dynamomini certs renew D/old.crt\n  \
        D/all.toml:12: tls.key: D/open.key can be read by others than its owner (mode 0644); run: chmod 600 D/open.key"
    );
}

#[test]
fn a_client_is_judged_too() {
    let text = "nodes = [\"n1\", 3]\n[cluster]\nname = \"shop\"\n[tls]\nca = \"ca.crt\"\ncert = \"web.crt\"\nkey = \"web.key\"\n";
    let judge = |name: &str, text: &str| {
        let judged = judge_client(&file(name, text), HostChecks::All, NOW_MS);
        let problems = judged.settled.problems.iter();
        problems.map(|problem| without_folder(&problem.to_string())).collect::<Vec<_>>()
    };
    assert_eq!(
        judge("k1", text),
        ["D/k1.toml:1: nodes: holds something that is not a string; write it as [\"host:7400\"]"]
    );
    assert_eq!(
        judge("k2", &text.replace("[\"n1\", 3]", "[\"n1:7400\"]").replace("web.", "n1.")),
        [
            "D/k2.toml:6: tls.cert: D/n1.crt is the certificate of node n1, not of a client; run: dynamomini certs client NAME --grant NAMESPACE:VERBS, and use that one",
        ]
    );
}
