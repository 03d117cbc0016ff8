//! A cluster of node processes: `dynamomini dev` in a temporary folder, its nodes killed and started again by hand.
//!
//! Whatever becomes of a test, its processes end with it; a test that fails leaves its folder behind and shows the ends
//! of the logs.

use std::collections::BTreeMap;
use std::fs::File;
use std::fs::OpenOptions;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;

use dynamomini::client::Client;
use dynamomini::client::ClientBuilder;
use dynamomini::net::LinkSettings;
use dynamomini::net::TlsFiles;
use dynamomini::net::TlsMaterial;
use dynamomini::types::NodeName;
use dynamomini::wire::status::NodeStatus;
use rustix::process::Pid;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;
use tokio::time::sleep;
use tokio::time::timeout;

/// How long a condition is waited for before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between looks at a condition.
const PAUSE: Duration = Duration::from_millis(20);
/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_dynamomini");

/// Waits until something holds.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < give_up, "in {PATIENCE:?} it did not come about that {what}");
        sleep(PAUSE).await;
    }
}

/// Whether redis-server is there. If not, this says loudly that the test is skipped, or fails if that is forbidden.
pub(crate) fn has_redis() -> bool {
    const REQUIRE: &str = "DYNAMOMINI_REQUIRE_REDIS";
    let found = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !found {
        assert!(std::env::var(REQUIRE).as_deref() != Ok("1"), "redis-server is not installed, and {REQUIRE}=1");
        eprintln!("########## SKIPPED: redis-server is not installed ({REQUIRE}=1 makes this an error) ##########");
    }
    found
}

/// Sends a signal to a process that this test has started, directly or through `dev`.
pub(crate) fn send(pid: u32, signal: Signal) {
    rustix::process::kill_process(id(pid), signal).unwrap_or_else(|error| panic!("process {pid}: {error}"));
}

/// Whether a process is there.
pub(crate) fn is_there(pid: u32) -> bool {
    rustix::process::test_kill_process(id(pid)).is_ok()
}

fn id(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

/// The program with these arguments, without settings from the environment of whoever runs the tests.
pub(crate) fn program(arguments: &[&str]) -> Command {
    command(PROGRAM, arguments)
}

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DYNAMOMINI_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs the program to its end, which must come in time.
pub(crate) async fn run(arguments: &[&str]) -> Output {
    output(program(arguments)).await
}

/// Runs a command to its end, which must come in time.
pub(crate) async fn output(command: Command) -> Output {
    let shown = format!("{command:?}");
    let mut command = tokio::process::Command::from(command);
    let done = timeout(PATIENCE, command.kill_on_drop(true).output()).await;
    done.unwrap_or_else(|_| panic!("{shown} did not end in {PATIENCE:?}")).unwrap()
}

/// Standard error of a run.
pub(crate) fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A cluster of processes.
pub(crate) struct Cluster {
    folder: Option<TempDir>,
    /// `dev`, while it runs.
    dev: Option<Child>,
    /// Nodes and redis-servers started by hand.
    by_hand: BTreeMap<String, Child>,
    /// `cluster.json`.
    pub(crate) nodes: Vec<Value>,
}

impl Cluster {
    /// Starts `dev` with these further arguments, and waits until it is ready.
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let mut cluster =
            Self { folder: Some(tempfile::tempdir().unwrap()), dev: None, by_hand: BTreeMap::new(), nodes: Vec::new() };
        cluster.start_again(arguments).await;
        cluster
    }

    /// Starts `dev` in the same folder.
    pub(crate) async fn start_again(&mut self, arguments: &[&str]) {
        assert!(self.dev.is_none(), "dev runs");
        let out = File::create(self.said_file()).unwrap();
        let mut command = program(&["dev", "--json", "--dir"]);
        command.arg(self.dir()).args(arguments).stdout(out.try_clone().unwrap()).stderr(out);
        self.dev = Some(command.spawn().unwrap());
        self.ready().await;
        let text = std::fs::read_to_string(self.dir().join("cluster.json")).unwrap();
        let file: Value = serde_json::from_str(&text).unwrap();
        self.nodes = file["nodes"].as_array().unwrap().clone();
        assert_eq!(Path::new(file["client_config"].as_str().unwrap()), self.dir().join("client.toml"));
    }

    async fn ready(&mut self) {
        let give_up = Instant::now() + PATIENCE;
        while !self.events().iter().any(|event| event["event"] == "ready") {
            let ended = self.dev.as_mut().unwrap().try_wait().unwrap();
            if ended.is_some() {
                // It was waited for: its process id may be somebody else's from now on.
                self.dev = None;
            }
            assert!(ended.is_none() && Instant::now() < give_up, "dev is not ready: {}", self.said());
            sleep(PAUSE).await;
        }
    }

    /// The folder of the cluster.
    pub(crate) fn dir(&self) -> PathBuf {
        let folder = self.folder.as_ref().unwrap().path().join("c");
        std::fs::create_dir_all(&folder).unwrap();
        folder.canonicalize().unwrap()
    }

    fn said_file(&self) -> PathBuf {
        self.folder.as_ref().unwrap().path().join("dev.out")
    }

    /// Everything that `dev` has said.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.said_file()).unwrap_or_default()
    }

    /// What `dev` has said, as events; the last line may be half written.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.said().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// How many nodes there are.
    pub(crate) fn size(&self) -> usize {
        self.nodes.len()
    }

    /// The name of a node, by number from 0.
    pub(crate) fn name(&self, node: usize) -> NodeName {
        self.text(node, "id").parse().unwrap()
    }

    /// The number of a node.
    pub(crate) fn number(&self, name: &NodeName) -> usize {
        (0..self.size()).find(|node| self.name(*node) == *name).unwrap()
    }

    /// What `cluster.json` says of a node.
    pub(crate) fn text(&self, node: usize, field: &str) -> &str {
        self.nodes[node][field].as_str().unwrap_or_else(|| panic!("no {field}: {}", self.nodes[node]))
    }

    /// The process of a node or of its redis-server, as `dev` started it.
    pub(crate) fn pid(&self, node: usize, field: &str) -> u32 {
        u32::try_from(self.nodes[node][field].as_u64().unwrap()).unwrap()
    }

    /// The process of `dev`.
    pub(crate) fn dev_pid(&self) -> u32 {
        self.dev.as_ref().unwrap().id()
    }

    /// The configuration of the client.
    pub(crate) fn client_config(&self) -> String {
        self.dir().join("client.toml").display().to_string()
    }

    /// The certificate that may do everything.
    pub(crate) fn admin(&self) -> TlsFiles {
        let file = |name: &str| self.dir().join("certs").join(name);
        TlsFiles { ca: file("ca.crt"), cert: file("admin.crt"), key: file("admin.key") }
    }

    /// A client of all nodes, not connected yet.
    pub(crate) fn builder(&self) -> ClientBuilder {
        // A node that comes back is to be found soon.
        let links = LinkSettings {
            connect_timeout: Duration::from_secs(1),
            backoff_max: Duration::from_millis(200),
            ..LinkSettings::default()
        };
        let builder = Client::builder(TlsMaterial::load(&self.admin()).unwrap()).links(links);
        (0..self.size()).fold(builder, |builder, node| builder.node(self.text(node, "quic"))).timeout(PATIENCE / 4)
    }

    /// A client of all nodes.
    pub(crate) async fn client(&self) -> Client {
        self.builder().connect().await.unwrap()
    }

    /// A client that goes through one node only.
    pub(crate) async fn pinned(&self, node: usize) -> Client {
        self.builder().pin(self.name(node)).connect().await.unwrap()
    }

    /// Ends a node as a crash would, and waits until it is gone.
    pub(crate) async fn kill(&mut self, node: usize) {
        self.kill_process(node, "pid").await;
    }

    /// Ends a node's redis-server as a crash would.
    pub(crate) async fn kill_redis(&mut self, node: usize) {
        self.kill_process(node, "redis_pid").await;
    }

    async fn kill_process(&mut self, node: usize, field: &str) {
        let key = format!("{field} {node}");
        match self.by_hand.remove(&key) {
            Some(mut child) => {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            None => {
                let pid = self.pid(node, field);
                send(pid, Signal::KILL);
                eventually("a killed process is gone", async || !is_there(pid)).await;
            }
        }
    }

    /// Starts a node by hand, as `dev` says it can be, without waiting for it.
    pub(crate) fn launch(&mut self, node: usize) {
        let command = program(&["node", "--config", self.text(node, "config")]);
        self.launch_as(node, command);
    }

    /// Starts a node by hand behind another program, which must become the node's process.
    pub(crate) fn launch_behind(&mut self, node: usize, wrapper: &[&str]) {
        let rest = [&wrapper[1..], &[PROGRAM, "node", "--config", self.text(node, "config")]].concat();
        let command = command(wrapper[0], &rest);
        self.launch_as(node, command);
    }

    /// The process of a node that was started by hand.
    pub(crate) fn launched(&self, node: usize) -> u32 {
        self.by_hand[&format!("pid {node}")].id()
    }

    fn launch_as(&mut self, node: usize, mut command: Command) {
        let log = PathBuf::from(self.text(node, "dir")).join("node.log");
        command.stderr(OpenOptions::new().append(true).open(log).unwrap());
        self.by_hand.insert(format!("pid {node}"), command.spawn().unwrap());
    }

    /// Starts a node's redis-server by hand.
    pub(crate) fn launch_redis(&mut self, node: usize) {
        let config = PathBuf::from(self.text(node, "dir")).join("redis/redis.conf");
        let mut command = Command::new("redis-server");
        command.arg(config).stdin(Stdio::null()).stdout(Stdio::null());
        self.by_hand.insert(format!("redis_pid {node}"), command.spawn().unwrap());
    }

    /// Waits until every node serves and sees every other one.
    pub(crate) async fn whole(&self) {
        let client = self.client().await;
        for node in 0..self.size() {
            let name = self.name(node);
            let joined = |status: &NodeStatus| status.peers.iter().all(|peer| peer.state == "up");
            let what = format!("{name} serves and sees all others");
            eventually(&what, async || client.status(&name).await.is_ok_and(|status| joined(&status))).await;
        }
        client.close().await;
    }

    /// Tells `dev` to end in order, and waits until it and all that it started are gone.
    pub(crate) async fn terminate(&mut self) -> ExitStatus {
        send(self.dev_pid(), Signal::TERM);
        let status = self.dev_ended().await;
        for node in 0..self.size() {
            for field in ["pid", "redis_pid"].into_iter().filter(|field| !self.nodes[node][*field].is_null()) {
                assert!(!is_there(self.pid(node, field)), "the {field} of {node} outlived dev: {}", self.said());
            }
        }
        status
    }

    /// Waits until `dev` has ended.
    pub(crate) async fn dev_ended(&mut self) -> ExitStatus {
        let mut status = None;
        let dev = self.dev.as_mut().unwrap();
        eventually("dev ends", async || {
            status = dev.try_wait().unwrap();
            status.is_some()
        })
        .await;
        self.dev = None;
        status.unwrap()
    }
}

/// A counter of a node's status.
pub(crate) fn counter(status: &NodeStatus, name: &str) -> u64 {
    status.counters.iter().find(|(counter, _)| counter == name).unwrap_or_else(|| panic!("no counter {name}")).1
}

impl Cluster {
    /// Ends what a `dev` that was killed, or never became ready, has left behind, should it have left anything.
    fn end_strays(&self) {
        let Some(folder) = &self.folder else { return };
        let folder = folder.path().display().to_string();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            // Nobody else knows this folder, whose name is random.
            if command.contains(&folder) {
                let killed = rustix::process::kill_process(id(pid), Signal::KILL);
                eprintln!("##### process {pid} was left behind ({command}), now killed: {killed:?} #####");
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed && let Some(folder) = &mut self.folder {
            folder.disable_cleanup(true);
            let folder = folder.path();
            eprintln!("##### the cluster's folder is left at {} #####", folder.display());
            let dirs = std::fs::read_dir(folder.join("c")).into_iter().flatten().flatten().map(|entry| entry.path());
            let logs = dirs.flat_map(|dir| [dir.join("node.log"), dir.join("redis/redis.log")]);
            for log in [folder.join("dev.out")].into_iter().chain(logs) {
                if let Ok(text) = std::fs::read_to_string(&log) {
                    let lines: Vec<&str> = text.lines().collect();
                    eprintln!("##### {} #####\n{}", log.display(), lines[lines.len().saturating_sub(15)..].join("\n"));
                }
            }
        }
        for mut child in std::mem::take(&mut self.by_hand).into_values() {
            // It may have ended by itself.
            drop(child.kill());
            drop(child.wait());
        }
        if let Some(mut dev) = self.dev.take() {
            // It ends all that it started, by force if need be, before it ends.
            let told = rustix::process::kill_process(id(dev.id()), Signal::TERM);
            if told.is_err() || dev.wait().is_err() {
                eprintln!("##### dev could not be ended #####");
            }
        }
        self.end_strays();
    }
}
