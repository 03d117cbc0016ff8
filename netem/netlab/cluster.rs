//! The processes of a lab: a node of DynamoMini in each namespace, with a Redis beside it if asked, and what they log.
//!
//! It knows nothing of links.

use std::fmt::Write as _;
use std::fs::File;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use crate::groups;
use crate::log::Log;
use crate::log::State;
use crate::net::inside;
use crate::shell;
use crate::wait::within;

/// How long anything is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// The name of the one client, who may do everything.
const ADMIN: &str = "admin";

/// Where nodes keep their records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Storage {
    Embedded,
    Redis,
    Memory,
}

impl Storage {
    /// As in `storage.engine`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Redis => "redis",
            Self::Memory => "memory",
        }
    }
}

/// What a cluster is to be like.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) nodes: usize,
    pub(crate) storage: Storage,
    pub(crate) program: PathBuf,
    /// `KEY=VALUE` of settings, for all nodes.
    pub(crate) settings: Vec<String>,
}

/// A cluster of processes.
pub(crate) struct Cluster {
    pub(crate) plan: Plan,
    pub(crate) log: Log,
    folder: PathBuf,
    agents: Vec<Option<Child>>,
    redises: Vec<Option<Child>>,
    /// When each node was started last.
    started: Vec<Instant>,
}

impl Cluster {
    /// Prepares files; nothing is started yet.
    ///
    /// # Errors
    /// What could not be made.
    pub(crate) fn new(plan: Plan, folder: &Path) -> Result<Self, String> {
        let nodes = plan.nodes;
        let (agents, redises) = ((0..nodes).map(|_| None).collect(), (0..nodes).map(|_| None).collect());
        let (log, folder, started) = (Log::default(), folder.to_owned(), vec![Instant::now(); nodes]);
        let cluster = Self { plan, log, folder, agents, redises, started };
        cluster.certify()?;
        for node in 0..nodes {
            let path = cluster.folder.join(groups::name(node));
            std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            cluster.write(&format!("{}.toml", groups::name(node)), &cluster.settings(node))?;
        }
        cluster.write("client.toml", &cluster.client())?;
        Ok(cluster)
    }

    fn certify(&self) -> Result<(), String> {
        let certs = |arguments: &[&str]| {
            let mut command = Command::new(&self.plan.program);
            command.args(["certs", "--dir"]).arg(self.folder.join("certs")).args(arguments);
            shell::feed(command, "").map(drop)
        };
        certs(&["init", "--name", "lab"])?;
        certs(&["admin", ADMIN])?;
        (0..self.plan.nodes).try_for_each(|node| certs(&["node", &groups::name(node)]))
    }

    fn write(&self, name: &str, text: &str) -> Result<(), String> {
        let path = self.folder.join(name);
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Of the certificate of this name.
    fn identity(&self, name: &str) -> String {
        let folder = self.folder.join("certs");
        let folder = folder.display();
        format!("[tls]\nca = \"{folder}/ca.crt\"\ncert = \"{folder}/{name}.crt\"\nkey = \"{folder}/{name}.key\"\n")
    }

    fn settings(&self, node: usize) -> String {
        let (name, engine) = (groups::name(node), self.plan.storage.name());
        let folder = self.folder.join(&name);
        // On all addresses, so that a node that moves is reached where its name points.
        let mut text = format!(
            "[cluster]\nname = \"lab\"\n[node]\nname = \"{name}\"\ndata_dir = \"{}\"\n[listen]\nquic = \"[::]:7400\"\n\
             gossip = \"[::]:7401\"\n[storage]\nengine = \"{engine}\"\n[namespaces.default]\nn = {}\n{}",
            folder.display(),
            self.plan.nodes.min(3),
            self.identity(&name)
        );
        for other in (0..self.plan.nodes).map(groups::name) {
            // Writing to a String does not fail.
            let _ =
                write!(text, "[[members]]\nname = \"{other}\"\nquic = \"{other}:7400\"\ngossip = \"{other}:7401\"\n");
        }
        text
    }

    fn client(&self) -> String {
        let nodes: Vec<String> = (0..self.plan.nodes).map(|node| format!("\"{}:7400\"", groups::name(node))).collect();
        let nodes = nodes.join(", ");
        format!("nodes = [{nodes}]\n[cluster]\nname = \"lab\"\n{}", self.identity(ADMIN))
    }

    /// The client's configuration.
    pub(crate) fn client_file(&self) -> PathBuf {
        self.folder.join("client.toml")
    }

    /// Starts a node, and its Redis unless that runs.
    ///
    /// # Errors
    /// When a process could not be started.
    pub(crate) fn start(&mut self, node: usize) -> Result<(), String> {
        if self.agents[node].is_some() {
            return Err(format!("{} runs already", groups::name(node)));
        }
        if self.plan.storage == Storage::Redis && self.redises[node].is_none() {
            self.redises[node] = Some(self.start_redis(node)?);
        }
        let mut command = inside(node, &self.plan.program);
        command.args(["node", "--config"]).arg(self.folder.join(format!("{}.toml", groups::name(node))));
        command.args(self.plan.settings.iter().flat_map(|setting| ["--set", setting]));
        self.started[node] = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{command:?}: {error}"))?;
        let stderr = child.stderr.take();
        self.agents[node] = Some(child);
        let path = self.log_file(node);
        let file = File::options().create(true).append(true).open(&path);
        let mut file = file.map_err(|error| format!("{}: {error}", path.display()))?;
        let log = self.log.clone();
        std::thread::spawn(move || {
            for line in stderr.into_iter().flat_map(|stderr| BufReader::new(stderr).lines()).map_while(Result::ok) {
                log.take(node, &line);
                if writeln!(file, "{line}").is_err() {
                    eprintln!("a log cannot be written");
                }
            }
        });
        Ok(())
    }

    /// A Redis of the node's own, in its namespace, where nobody else has its port. It syncs as the node's acknowledgements need it.
    fn start_redis(&self, node: usize) -> Result<Child, String> {
        let folder = self.folder.join(groups::name(node)).join("redis");
        std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let child = redis(node, &folder, &["--appendonly", "yes", "--appendfsync", "always"])?;
        let asked = || {
            let mut command = inside(node, Path::new("redis-cli"));
            command.arg("ping");
            shell::feed(command, "").is_ok_and(|answer| answer.trim() == "PONG")
        };
        within(PATIENCE, asked)
            .map(|_| child)
            .ok_or_else(|| format!("the Redis of {} did not start", groups::name(node)))
    }

    /// Starts all nodes and waits until all see all.
    ///
    /// # Errors
    /// When that does not come about, at once where a node ends by itself, as after a wrong setting.
    pub(crate) fn start_all(&mut self) -> Result<Duration, String> {
        let began = Instant::now();
        (0..self.plan.nodes).try_for_each(|node| self.start(node))?;
        let mut ended = None;
        let settled = within(PATIENCE, || {
            ended = self.ended();
            ended.is_some() || self.is_whole()
        });
        match (ended, settled) {
            (Some(node), _) => Err(format!("{} ended by itself\n{}", groups::name(node), self.ends_of_logs())),
            (None, Some(_)) => Ok(began.elapsed()),
            (None, None) => Err(self.not_whole()),
        }
    }

    /// A node whose process has ended without being told to.
    fn ended(&mut self) -> Option<usize> {
        self.agents
            .iter_mut()
            .position(|agent| agent.as_mut().is_some_and(|agent| matches!(agent.try_wait(), Ok(Some(_)))))
    }

    fn not_whole(&self) -> String {
        format!("in {PATIENCE:?} not all came to see all\n{}", self.ends_of_logs())
    }

    /// Waits until all nodes hold all alive.
    ///
    /// # Errors
    /// When that does not come about.
    pub(crate) fn until_whole(&self) -> Result<Duration, String> {
        within(PATIENCE, || self.is_whole()).ok_or_else(|| self.not_whole())
    }

    /// Whether each node that runs has said last of each other that it is alive.
    pub(crate) fn is_whole(&self) -> bool {
        let nodes = self.plan.nodes;
        (0..nodes).all(|observer| {
            let said = self.log.since(self.started[observer]);
            let is_alive = |about: usize| {
                let of_it = said.iter().rev().find(|event| (event.observer, event.about) == (observer, about));
                of_it.is_some_and(|event| event.state == State::Alive)
            };
            (0..nodes).all(|about| about == observer || is_alive(about) || self.asked(observer))
        })
    }

    /// Whether a node says on being asked that all are alive: one that remembers the others from before does not log it.
    fn asked(&self, node: usize) -> bool {
        let mut command = inside(node, &self.plan.program);
        command.args(["status", "--json", "--config"]).arg(self.client_file());
        let wanted = format!("{0}/{0} alive", self.plan.nodes);
        command.args(["--node", &groups::name(node)]);
        shell::feed(command, "").is_ok_and(|answer| answer.contains(&wanted))
    }

    /// Kills a node without warning; its Redis goes on.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) fn kill(&mut self, node: usize) -> Result<(), String> {
        let mut child = self.agents[node].take().ok_or_else(|| format!("{} does not run", groups::name(node)))?;
        child.kill().and_then(|()| child.wait()).map(drop).map_err(|error| error.to_string())
    }

    /// Sends a node a signal, such as STOP.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) fn signal(&self, node: usize, signal: &str) -> Result<(), String> {
        let child = self.agents[node].as_ref().ok_or_else(|| format!("{} does not run", groups::name(node)))?;
        shell::run("kill", &[&format!("-{signal}"), &child.id().to_string()]).map(drop)
    }

    /// Waits until all others have said since a moment that a node has failed: when the first and when the last did.
    pub(crate) fn until_failed(&self, node: usize, since: Instant) -> Option<(Duration, Duration)> {
        let others: Vec<usize> = (0..self.plan.nodes).filter(|other| *other != node).collect();
        let said = || others.iter().all(|other| self.log.last(*other, node, since) == Some(State::Failed));
        within(PATIENCE, said)?;
        let events = self.log.since(since).into_iter();
        let times = events.filter(|event| event.about == node && event.state == State::Failed);
        let times: Vec<Duration> = times.map(|event| event.at - since).collect();
        times.iter().min().copied().zip(times.iter().max().copied())
    }

    /// How often a node was suspected, and how often held failed, since a moment.
    pub(crate) fn accusations(&self, since: Instant) -> (usize, usize) {
        let said = self.log.since(since);
        let count = |state| said.iter().filter(|event| event.state == state).count();
        (count(State::Suspect), count(State::Failed))
    }

    fn log_file(&self, node: usize) -> PathBuf {
        self.folder.join(format!("{}.log", groups::name(node)))
    }

    /// The ends of the nodes' logs, for when something went wrong.
    pub(crate) fn ends_of_logs(&self) -> String {
        let mut text = String::new();
        for node in 0..self.plan.nodes {
            let log = std::fs::read_to_string(self.log_file(node)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(8)..].join("\n");
            text += &format!("-- {}\n{end}\n", groups::name(node));
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let children = self.agents.iter_mut().chain(&mut self.redises);
        for mut child in children.filter_map(Option::take) {
            // It may have ended by itself; either way it is waited for.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Starts a redis-server in the namespace of a node.
///
/// # Errors
/// When it is not installed.
pub(crate) fn redis(node: usize, folder: &Path, more: &[&str]) -> Result<Child, String> {
    let mut command = inside(node, Path::new("redis-server"));
    command.args(["--port", "6379", "--protected-mode", "no", "--save", "", "--daemonize", "no", "--dir"]).arg(folder);
    command.args(["--logfile", "log"]).args(more);
    command
        .stdin(Stdio::null())
        .spawn()
        .map_err(|error| format!("redis-server: {error} (apt-get install redis-server)"))
}
