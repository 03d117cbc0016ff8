//! What a node refuses to start with, and whom it refuses to serve: exit status and message.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use dynamomini::certs::Authority;
use dynamomini::certs::Subject;
use dynamomini::client::ClientError;
use dynamomini::env::BoxTask;
use dynamomini::env::Env;
use dynamomini::env::RealWorld;
use dynamomini::env::World;
use dynamomini::types::NodeName;

use crate::processes::Cluster;
use crate::processes::complaint;
use crate::processes::run;

const DAY_MS: u64 = 24 * 3600 * 1000;

/// The real world as it was some days ago.
struct Past(u64);

impl World for Past {
    fn spawn(&self, task: BoxTask) {
        RealWorld.spawn(task);
    }

    fn wall_ms(&self) -> u64 {
        RealWorld.wall_ms() - self.0 * DAY_MS
    }

    fn seed(&self, label: &str) -> [u8; 32] {
        RealWorld.seed(label)
    }

    fn blocking(&self, job: Box<dyn FnOnce() + Send + 'static>) {
        RealWorld.blocking(job);
    }
}

/// A folder with all that one node needs.
struct Home {
    dir: tempfile::TempDir,
    authority: Authority,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let past = Env::new(Arc::new(Past(100)));
        let authority = Authority::create(&past, &"shop".parse().unwrap(), 1000).unwrap();
        std::fs::write(dir.path().join("ca.crt"), authority.cert_pem()).unwrap();
        let home = Self { dir, authority };
        home.issue(&Env::real(), "n1", 30);
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn issue(&self, env: &Env, name: &str, days: u32) {
        let subject = Subject::node(NodeName::new(name).unwrap(), &["127.0.0.1"]).unwrap();
        let issued = self.authority.issue(env, &subject, days).unwrap();
        write_private(&self.path("n1.key"), &issued.key_pem);
        std::fs::write(self.path("n1.crt"), issued.cert_pem).unwrap();
    }

    /// Runs the node with this much more in its configuration, and returns what it complains of.
    async fn refusal(&self, status: i32, more: &str) -> String {
        let text = format!(
            "{more}\n[cluster]\nname = \"shop\"\n[node]\nname = \"n1\"\n[listen]\ngossip = \"127.0.0.1:0\"\n\
             admin = \"127.0.0.1:0\"\nquic = \"127.0.0.1:0\"\n[tls]\nca = \"ca.crt\"\ncert = \"n1.crt\"\nkey = \"n1.key\"\n"
        );
        self.refusal_of(status, &text).await
    }

    async fn refusal_of(&self, status: i32, text: &str) -> String {
        let config = self.path("node.toml");
        std::fs::write(&config, text).unwrap();
        let output = run(&["node", "--config", config.to_str().unwrap()]).await;
        assert_eq!(output.status.code(), Some(status), "{}", complaint(&output));
        assert!(output.stdout.is_empty());
        complaint(&output)
    }
}

fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[tokio::test]
async fn a_malformed_configuration_is_refused_with_its_line() {
    let home = Home::new();
    says(&home.refusal_of(2, "[cluster]\nname = shop\n").await, &["node.toml:2:", "error"]);
    says(&home.refusal(2, "[namespaces.default]\nn = 3\nw = 4\n").await, &["node.toml:3", "namespaces.default.w"]);
    says(&home.refusal(2, "[net]\nlane = 1\n").await, &["node.toml:2", "net.lane", "did you mean"]);
    let missing = run(&["node", "--config", home.path("none.toml").to_str().unwrap()]).await;
    assert_eq!(missing.status.code(), Some(2));
    says(&complaint(&missing), &["none.toml", "there is no such file"]);
}

#[tokio::test]
async fn a_certificate_that_does_not_fit_is_refused_with_its_file() {
    let home = Home::new();
    home.issue(&Env::new(Arc::new(Past(20))), "n1", 10);
    says(&home.refusal(2, "").await, &["n1.crt", "expired"]);
    home.issue(&Env::real(), "n2", 10);
    says(&home.refusal(2, "").await, &["n1.crt", "n2"]);
    home.issue(&Env::real(), "n1", 10);
    let other = Authority::create(&Env::real(), &"shop".parse().unwrap(), 10).unwrap();
    std::fs::write(home.path("ca.crt"), other.cert_pem()).unwrap();
    says(&home.refusal(2, "").await, &["n1.crt", "authority"]);
    std::fs::remove_file(home.path("n1.key")).unwrap();
    says(&home.refusal(2, "").await, &["n1.key", "there is no file"]);
}

#[tokio::test]
async fn a_port_in_use_and_the_data_of_another_node_are_refused() {
    let mut cluster = Cluster::start(&["--nodes", "2"]).await;
    let config = cluster.text(0, "config").to_owned();
    let output = run(&["node", "--config", &config]).await;
    assert_eq!(output.status.code(), Some(2), "{}", complaint(&output));
    says(&complaint(&output), &["listen.quic", cluster.text(0, "quic"), "is in use"]);

    // As another process on the same data, apart from the ports.
    let listen: Vec<String> =
        ["quic", "gossip", "admin"].iter().map(|port| format!("--listen-{port}=127.0.0.1:0")).collect();
    let listen: Vec<&str> = listen.iter().map(String::as_str).collect();
    let twin = run(&[&["node", "--config", &config][..], &listen].concat()).await;
    assert_eq!(twin.status.code(), Some(1), "{}", complaint(&twin));
    says(&complaint(&twin), &["n1/data"]);

    assert!(cluster.terminate().await.success());
    let data = format!("--node-data-dir={}/data", cluster.text(1, "dir"));
    let foreign = run(&["node", "--config", &config, &data]).await;
    assert_eq!(foreign.status.code(), Some(1), "{}", complaint(&foreign));
    says(&complaint(&foreign), &["n2/data", "n1", "n2"]);
}

#[tokio::test]
async fn clients_and_nodes_of_another_authority_are_refused_on_both_sides() {
    let cluster = Cluster::start(&["--nodes", "1", "--storage", "memory"]).await;
    let other = Cluster::start(&["--nodes", "1", "--storage", "memory"]).await;
    let stranger = other.builder().node(cluster.text(0, "quic"));
    // The stranger's own cluster comes first and would answer, so it is asked for the other one alone.
    stranger.connect().await.unwrap().close().await;
    let files = other.admin();
    let material = dynamomini::net::TlsMaterial::load(&files).unwrap();
    let error =
        dynamomini::client::Client::builder(material).node(cluster.text(0, "quic")).connect().await.unwrap_err();
    assert!(matches!(error, ClientError::Refused(_)), "{error:?}");
    says(&error.to_string(), &["authority"]);

    let text = std::fs::read_to_string(other.client_config()).unwrap();
    let mixed = text.replace(other.text(0, "quic"), cluster.text(0, "quic"));
    let config = other.dir().join("mixed.toml");
    std::fs::write(&config, mixed).unwrap();
    let output = run(&["get", "--config", config.to_str().unwrap(), "k"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", complaint(&output));
    says(&complaint(&output), &["authority"]);
}
