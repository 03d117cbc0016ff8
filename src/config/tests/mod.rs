//! Bad configurations with the exact texts they get, and a whole one shown.

mod bad;

mod good;

mod readme;

use std::path::Path;
use std::sync::Arc;
use std::sync::OnceLock;

use crate::certs::Authority;
use crate::certs::Subject;
use crate::certs::store;
use crate::certs::subject::parse_grant;
use crate::config::settle::Inputs;
use crate::env::BoxTask;
use crate::env::Env;
use crate::env::RealWorld;
use crate::env::World;
use crate::types::ClusterName;

/// The time all tests here take for now: in 2026.
const NOW_MS: u64 = 1_790_000_000_000;
const DAY_MS: u64 = 86_400_000;

/// A world whose clock stands still.
struct At(u64);

impl World for At {
    fn spawn(&self, task: BoxTask) {
        RealWorld.spawn(task);
    }
    fn wall_ms(&self) -> u64 {
        self.0
    }
    fn seed(&self, label: &str) -> [u8; 32] {
        RealWorld.seed(label)
    }
    fn blocking(&self, job: Box<dyn FnOnce() + Send + 'static>) {
        RealWorld.blocking(job);
    }
}

fn at(ms: u64) -> Env {
    Env::new(Arc::new(At(ms)))
}

/// A folder with certificates of all sorts, made once: the tests only read it.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER.get_or_init(make_folder).path()
}

fn make_folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let now = at(NOW_MS);
    let cluster = ClusterName::new("shop").unwrap();
    let authority = Authority::create(&at(NOW_MS - 100 * DAY_MS), &cluster, 1000).unwrap();
    authority.save(dir.path(), false).unwrap();
    let hosts: [&str; 0] = [];
    let node = |name: &str| Subject::node(name.parse().unwrap(), &hosts).unwrap();
    let save = |authority: &Authority, env: &Env, subject: &Subject, name: &str, days: u32| {
        let issued = authority.issue(env, subject, days).unwrap();
        let (cert, key) = (dir.path().join(format!("{name}.crt")), dir.path().join(format!("{name}.key")));
        store::write_pair((&cert, &issued.cert_pem), (&key, &issued.key_pem), false).unwrap();
    };
    save(&authority, &now, &node("n1"), "n1", 30);
    save(&authority, &now, &node("n2"), "n2", 30);
    save(&authority, &at(NOW_MS - 90 * DAY_MS), &node("n1"), "old", 30);
    save(&authority, &at(NOW_MS + 90 * DAY_MS), &node("n1"), "early", 30);
    let web = Subject::client("web", vec![parse_grant("*:*").unwrap()]).unwrap();
    save(&authority, &now, &web, "web", 30);
    let stranger = Authority::create(&now, &cluster, 1000).unwrap();
    save(&stranger, &now, &node("n1"), "stranger", 30);
    store::write_public(&dir.path().join("open.key"), &read(dir.path(), "n1.key"), false).unwrap();
    store::write_public(&dir.path().join("junk.crt"), "hello", false).unwrap();
    store::write_private(&dir.path().join("junk.key"), "hello", false).unwrap();
    store::write_private(&dir.path().join("password"), "hunter2\n", false).unwrap();
    dir
}

fn read(dir: &Path, name: &str) -> String {
    std::fs::read_to_string(dir.join(name)).unwrap()
}

/// Inputs from the text of a file in the folder; `name` keeps tests from using each other's file.
fn file(name: &str, text: &str) -> Inputs {
    let path = folder().join(format!("{name}.toml"));
    std::fs::write(&path, text).unwrap();
    Inputs { file: Some(path), ..Inputs::default() }
}

/// A text with the folder's path replaced by `D`.
fn without_folder(text: &str) -> String {
    text.replace(&folder().display().to_string(), "D")
}

/// A node's configuration with nothing wrong, to be changed by tests.
const NODE: &str = r#"[cluster]
name = "shop"
[node]
name = "n1"
[listen]
quic = "127.0.0.1:0"
gossip = "127.0.0.1:0"
admin = "127.0.0.1:0"
[tls]
ca = "ca.crt"
cert = "n1.crt"
key = "n1.key"
"#;
