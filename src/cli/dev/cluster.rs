//! A dev cluster from its start to its end: what is started in which order, what is watched, what is ended when.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use anyhow::bail;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::signal::unix::Signal;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::time::Instant;
use tokio::time::interval;
use tokio::time::sleep;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::cli::Context;
use crate::cli::dev::Storage;
use crate::cli::dev::Wanted;
use crate::cli::dev::adopt;
use crate::cli::dev::adopt::Adopter;
use crate::cli::dev::event::Event;
use crate::cli::dev::event::Voice;
use crate::cli::dev::files;
use crate::cli::dev::files::ClusterFile;
use crate::cli::dev::files::NodeEntry;
use crate::cli::dev::folder;
use crate::cli::dev::folder::Added;
use crate::cli::dev::folder::Folder;
use crate::cli::dev::folder::Spec;
use crate::cli::dev::guard;
use crate::cli::dev::layout::Layout;
use crate::cli::dev::layout::node_name;
use crate::cli::dev::ports;
use crate::cli::dev::ports::Ports;
use crate::cli::dev::process;
use crate::cli::dev::process::Ended;
use crate::cli::dev::process::Kind;
use crate::cli::dev::process::Process;
use crate::cli::dev::process::Stop;
use crate::cli::dev::ready;
use crate::cli::dev::redis;
use crate::cli::dev::settings;
use crate::cli::lock::Lock;
use crate::cli::lock::Locked;
use crate::cli::node;
use crate::config::HostChecks;
use crate::config::client::DEV_CLIENT_FILE;
use crate::config::judge_node;
use crate::config::settle::Inputs;
use crate::types::NodeName;

/// How long the nodes of the start before, which may still be ending, are waited for.
const LEFT_PATIENCE: Duration = Duration::from_secs(12);
/// Pause between looks at them.
const LEFT_PAUSE: Duration = Duration::from_millis(100);
/// What a node gets beyond its own time for shutting down.
const NODE_GRACE: Duration = Duration::from_secs(5);
/// How often is said what is still waited for.
const PROGRESS: Duration = Duration::from_secs(2);

/// Makes the cluster or finds it, starts it, and runs it until a signal comes.
pub(super) async fn run(context: &Context, dir: PathBuf, wanted: Wanted) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let voice = Voice(context.output);
    let folder = Folder::open(&dir)?;
    let mut spec = folder.settle(&wanted)?;
    let program = if spec.storage == Storage::Redis { Some(redis::find().await?) } else { None };
    let layout = Layout { root: folder.root.clone() };
    tokio::select! {
        biased;
        _ = signals.next() => return Ok(()),
        ended = all_ended(&voice, &layout, &spec) => ended?,
    }
    let ports = take_ports(&spec, wanted.base_port)?;
    spec.base_port = ports.base;
    folder.remember(&spec)?;
    files::certificates(context, &layout, &spec)?;
    files::configurations(&layout, &spec, &ports)?;
    let patience = check(context, &layout, &spec)?;
    folder::remove(&layout.cluster_json())?;
    voice.say(&Event::Starting {
        nodes: spec.total(),
        storage: spec.storage.name(),
        zones: spec.zones,
        base_port: ports.base,
        dir: layout.root.clone(),
        again: folder.is_restart(),
    });
    adopt::clear(&layout)?;
    let mut cluster = Cluster::new(layout, voice, patience);
    let outcome = match cluster.start(&spec, &ports, program, &mut signals).await {
        Ok(Some(file)) => {
            let adopter = Adopter { context, folder: &folder, spec, ports };
            cluster.serve(file, &dir, &mut signals, adopter).await
        }
        Ok(None) => Ok("a signal came"),
        Err(error) => Err(error),
    };
    voice.say(&Event::Stopping { why: outcome.as_ref().map_or("the start failed", |why| why) });
    cluster.stop(&mut signals).await;
    folder::remove(&cluster.layout.cluster_json())?;
    voice.say(&Event::Done { dir: cluster.layout.root.clone() });
    outcome.map(drop)
}

/// The ports that were asked for, else those of the start before if they are free, else the first free ones.
fn take_ports(spec: &Spec, wanted: Option<u16>) -> anyhow::Result<Ports> {
    if let Some(base) = wanted {
        ports::check(base, spec.total())?;
        let fix = "stop what holds it, or leave --base-port out";
        return ports::claim(base, spec.total()).map_err(|taken| anyhow!("--base-port {base}: {taken}; {fix}"));
    }
    if spec.base_port > 0
        && let Ok(ports) = ports::claim(spec.base_port, spec.total())
    {
        return Ok(ports);
    }
    ports::find(spec.total())
}

/// Waits until no process of the start before uses its data any more: after a `dev` that was killed they take a moment.
async fn all_ended(voice: &Voice, layout: &Layout, spec: &Spec) -> anyhow::Result<()> {
    let give_up = Instant::now() + LEFT_PATIENCE;
    for name in (0..spec.total()).map(node_name) {
        let mut said = false;
        while let Some(user) = user_of(layout, &name).await {
            if Instant::now() >= give_up {
                bail!("{user} of this cluster runs already, perhaps started by hand: stop it first");
            }
            if !said {
                voice.say(&Event::Waiting { what: format!("{user} of the start before to end") });
                said = true;
            }
            sleep(LEFT_PAUSE).await;
        }
    }
    Ok(())
}

/// The process that uses a node's data now.
async fn user_of(layout: &Layout, name: &NodeName) -> Option<String> {
    if let Err(Locked::By(pid)) = Lock::take(&layout.node_data(name).join(node::LOCK)) {
        return Some(format!("node {name} (pid {pid})"));
    }
    let serves = redis::listens(&layout.redis_socket(name)).await;
    serves.then(|| format!("the redis-server of {name}"))
}

/// Judges the configuration of each node as the node will, and tells how long the nodes may take to end.
fn check(context: &Context, layout: &Layout, spec: &Spec) -> anyhow::Result<Duration> {
    let mut patience = Duration::ZERO;
    for index in 0..spec.total() {
        let file = Some(layout.node_config(&node_name(index)));
        let inputs = Inputs { file, ..Inputs::default() };
        let judged = judge_node(&inputs, HostChecks::WithoutPorts, context.env.wall_ms());
        patience = patience.max(judged.into_result()?.timeouts.shutdown);
    }
    Ok(patience + NODE_GRACE)
}

/// The signals that end `dev`.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => "told to terminate",
            _ = self.interrupt.recv() => "interrupted",
            _ = self.hangup.recv() => "the terminal is gone",
        }
    }
}

/// The processes that were started.
struct Cluster {
    layout: Layout,
    voice: Voice,
    running: FuturesUnordered<BoxFuture<'static, Ended>>,
    names: Vec<(Kind, NodeName)>,
    /// Nodes whose redis-server has lost its guard.
    unguarded: Vec<NodeName>,
    stop_nodes: Stop,
    stop_redis: Stop,
    program: &'static str,
}

impl Cluster {
    fn new(layout: Layout, voice: Voice, patience: Duration) -> Self {
        let stop = |patience| Stop { asked: CancellationToken::new(), hurry: CancellationToken::new(), patience };
        Self {
            layout,
            voice,
            running: FuturesUnordered::new(),
            names: Vec::new(),
            unguarded: Vec::new(),
            stop_nodes: stop(patience),
            // A guard ends its server by force in time; ending the guard by force would leave the server behind.
            stop_redis: stop(guard::PATIENCE + NODE_GRACE),
            program: "redis-server",
        }
    }

    /// Starts the redis-servers, then the nodes, and waits until all serve. `None` when a signal came first.
    async fn start(
        &mut self,
        spec: &Spec,
        ports: &Ports,
        program: Option<&'static str>,
        signals: &mut Signals,
    ) -> anyhow::Result<Option<ClusterFile>> {
        let indices = 0..spec.total();
        let mut entries: Vec<NodeEntry> = indices.map(|index| NodeEntry::of(&self.layout, ports, index)).collect();
        if let Some(program) = program {
            self.program = program;
            for entry in &mut entries {
                self.start_redis(spec, entry).await?;
            }
            let sockets: Vec<PathBuf> = entries.iter().map(|entry| self.layout.redis_socket(&entry.id)).collect();
            let serving = async {
                join_all(sockets.iter().map(|socket| redis::serving(socket))).await;
                Ok(())
            };
            if self.until(signals, "a redis-server", serving).await?.is_none() {
                return Ok(None);
            }
        }
        for entry in &mut entries {
            let node = Process::node(&self.layout, &entry.id)?;
            entry.pid = self.add(node);
        }
        let identity = files::admin(&self.layout);
        let nodes: Vec<_> = entries.iter().map(|entry| (entry.id.clone(), entry.quic.clone())).collect();
        let serves = self.until(signals, "a node", ready::wait(&identity, &nodes)).await?;
        let file = ClusterFile { nodes: entries, client_config: self.layout.client_config() };
        Ok(serves.map(|()| file))
    }

    /// Starts the redis-server of a node.
    async fn start_redis(&mut self, spec: &Spec, entry: &mut NodeEntry) -> anyhow::Result<()> {
        let durability = settings::values(&spec.settings)?.get("storage.durability").map(ToString::to_string);
        redis::configure(&self.layout, &entry.id, durability.as_deref())?;
        let server = Process::redis(&self.layout, &entry.id, self.program).await?;
        entry.redis_pid = Some(self.add(server));
        Ok(())
    }

    /// Starts a node that was asked for while the cluster runs, and writes down that it is there.
    async fn admit(
        &mut self,
        file: &mut ClusterFile,
        adopter: &mut Adopter<'_>,
        wanted: Added,
    ) -> anyhow::Result<NodeEntry> {
        let mut entry = adopter.prepare(&self.layout, wanted)?;
        if adopter.spec.storage == Storage::Redis {
            self.start_redis(&adopter.spec, &mut entry).await?;
            let socket = self.layout.redis_socket(&entry.id);
            timeout(adopt::REDIS_PATIENCE, redis::serving(&socket))
                .await
                .map_err(|_| anyhow!("its redis-server does not serve"))?;
        }
        entry.pid = self.add(Process::node(&self.layout, &entry.id)?);
        file.nodes.push(entry.clone());
        file.write(&self.layout)?;
        files::client_configuration(&self.layout, &adopter.spec, &adopter.ports)?;
        self.voice.say(&Event::Added { node: entry.clone() });
        Ok(entry)
    }

    fn add(&mut self, process: Process) -> u32 {
        let pid = process.pid;
        self.names.push((process.kind, process.name.clone()));
        let stop = match process.kind {
            Kind::Node => self.stop_nodes.clone(),
            Kind::Redis => self.stop_redis.clone(),
        };
        self.running.push(Box::pin(process.watch(stop)));
        pid
    }

    /// Does something that needs all processes. `None` when a signal came first.
    async fn until<T>(
        &mut self,
        signals: &mut Signals,
        whom: &str,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<Option<T>> {
        tokio::select! {
            biased;
            _ = signals.next() => Ok(None),
            Some(ended) = self.running.next() => {
                self.forget(&ended);
                let (name, how, tail) = (&ended.name, &ended.how, process::tail_text(&ended.log));
                Err(anyhow!("the {} of {name} ended before the cluster was ready: {how}\n{tail}", word(ended.kind)))
            }
            done = timeout(ready::PATIENCE, work) => match done {
                Ok(done) => done.map(Some),
                Err(_) => {
                    let logs: Vec<String> = self.names.iter().map(|(kind, name)| process::tail_text(&self.log(*kind, name))).collect();
                    let patience = ready::PATIENCE.as_secs();
                    Err(anyhow!("{whom} did not serve within {patience} s\n{}", logs.join("\n")))
                }
            },
        }
    }

    fn log(&self, kind: Kind, name: &NodeName) -> PathBuf {
        match kind {
            Kind::Node => self.layout.node_log(name),
            Kind::Redis => self.layout.redis_log(name),
        }
    }

    /// Tells that all serve, and goes on until a signal comes, which it names.
    async fn serve(
        &mut self,
        mut file: ClusterFile,
        dir: &Path,
        signals: &mut Signals,
        mut adopter: Adopter<'_>,
    ) -> anyhow::Result<&'static str> {
        file.write(&self.layout)?;
        let default_dir = Some(dir) == Path::new(DEV_CLIENT_FILE).parent();
        let ClusterFile { nodes, client_config } = file.clone();
        self.voice.say(&Event::Ready { nodes, client_config, dir: dir.to_owned(), default_dir });
        let mut looks = interval(adopt::PAUSE);
        loop {
            tokio::select! {
                biased;
                why = signals.next() => return Ok(why),
                Some(ended) = self.running.next() => self.report(ended),
                _ = looks.tick() => if let Some(wanted) = adopt::requested(&self.layout) {
                    let outcome = self.admit(&mut file, &mut adopter, wanted).await;
                    adopt::answer(&self.layout, outcome);
                },
            }
        }
    }

    fn report(&mut self, ended: Ended) {
        self.forget(&ended);
        let restart = match ended.kind {
            Kind::Node => format!("dynamomini node --config {}", self.layout.node_config(&ended.name).display()),
            Kind::Redis => format!("{} {}", self.program, self.layout.redis_config(&ended.name).display()),
        };
        let Ended { name, kind, pid, how, log, .. } = ended;
        let log_tail = process::tail(&log);
        self.voice.say(&Event::Ended { id: name, process: word(kind), pid, how, restart, log, log_tail });
    }

    fn forget(&mut self, ended: &Ended) {
        if ended.left_behind {
            self.unguarded.push(ended.name.clone());
        }
        self.names.retain(|(kind, name)| (*kind, name) != (ended.kind, &ended.name));
    }

    /// Ends the nodes, then the redis-servers they used.
    async fn stop(&mut self, signals: &mut Signals) {
        self.stop_nodes.asked.cancel();
        self.drain(Kind::Node, signals).await;
        self.stop_redis.asked.cancel();
        self.drain(Kind::Redis, signals).await;
        for name in &self.unguarded {
            if timeout(guard::PATIENCE, redis::shut_down(&self.layout.redis_socket(name))).await.is_err() {
                tracing::warn!(%name, "the redis-server has lost its guard and does not end");
            }
        }
    }

    async fn drain(&mut self, kind: Kind, signals: &mut Signals) {
        let mut progress = interval(PROGRESS);
        progress.reset();
        while self.names.iter().any(|(running, _)| *running == kind) {
            tokio::select! {
                biased;
                Some(ended) = self.running.next() => {
                    self.forget(&ended);
                    let Ended { name, kind, how, .. } = ended;
                    self.voice.say(&Event::Stopped { id: name, process: word(kind), how });
                }
                // A guard is never ended by force: its server would be left behind.
                _ = signals.next() => if kind == Kind::Node { self.stop_nodes.hurry.cancel() },
                _ = progress.tick() => {
                    let left: Vec<&str> = self.names.iter().filter(|(left, _)| *left == kind).map(|(_, name)| name.as_str()).collect();
                    self.voice.say(&Event::Waiting { what: format!("the {} of {}", word(kind), left.join(", ")) });
                }
            }
        }
    }
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Node => "node",
        Kind::Redis => "redis-server",
    }
}
