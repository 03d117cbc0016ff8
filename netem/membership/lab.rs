//! One cluster of processes: started, stopped, killed, waited for.

use std::fs::File;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use crate::agent;
use crate::agent::Finding;
use crate::agent::Kind;
use crate::log::Event;
use crate::log::Log;
use crate::log::State;
use crate::net::Net;
use crate::options::Options;
use crate::wait::within;

/// Pause between looks at whether all is calm.
const CALM: Duration = Duration::from_millis(100);
/// How long anything is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A cluster.
pub(crate) struct Lab<'a> {
    pub(crate) net: &'a Net,
    pub(crate) log: Log,
    pub(crate) members: usize,
    kind: Kind,
    folder: PathBuf,
    logs: Option<PathBuf>,
    agents: Vec<Option<Child>>,
    /// When each member was started last.
    started: Vec<Instant>,
}

impl<'a> Lab<'a> {
    /// What the members need; none is started yet.
    pub(crate) fn new(options: &Options, net: &'a Net, number: usize) -> Result<Self, String> {
        let folder = PathBuf::from(format!("/run/lab{number}"));
        std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        net.repair()?;
        options.kind.prepare(&folder, options.members)?;
        Ok(Self {
            net,
            log: Log::default(),
            members: options.members,
            kind: options.kind.clone(),
            folder,
            logs: options.logs.clone(),
            agents: (0..options.members).map(|_| None).collect(),
            started: vec![Instant::now(); options.members],
        })
    }

    /// Starts a member.
    pub(crate) fn start(&mut self, member: usize, how: Finding) -> Result<(), String> {
        let mut command = self.kind.command(&self.folder, member, self.members, how)?;
        // Serf writes its log to standard output, DynamoMini to standard error.
        let (mut reader, writer) = std::io::pipe().map_err(|error| error.to_string())?;
        let copy = writer.try_clone().map_err(|error| error.to_string())?;
        self.started[member] = Instant::now();
        let child = command.stdout(copy).stderr(writer).spawn();
        drop(command);
        self.agents[member] = Some(child.map_err(|error| format!("member {}: {error}", member + 1))?);
        let path = self.log_file(member);
        let mut file = File::options().create(true).append(true).open(path).map_err(|error| error.to_string())?;
        let log = self.log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(&mut reader).lines().map_while(Result::ok) {
                log.take(member, &line);
                if writeln!(file, "{line}").is_err() {
                    eprintln!("a log cannot be written");
                }
            }
        });
        Ok(())
    }

    /// Starts a cluster and waits until it is whole and calm.
    pub(crate) fn start_all(&mut self) -> Result<(), String> {
        (0..self.members).try_for_each(|member| self.start(member, Finding::Listed))?;
        let began = Instant::now();
        let all = self.all();
        self.until("all are alive everywhere", || self.is_whole(&all))?;
        self.calm(began);
        Ok(())
    }

    /// Waits until nobody has said anything for three seconds, for what follows a start.
    pub(crate) fn calm(&self, since: Instant) {
        let give_up = Instant::now() + PATIENCE;
        while Instant::now() < give_up {
            let last = self.log.since(since).last().map_or(since, |event| event.at);
            if last.elapsed() > Duration::from_secs(3) {
                return;
            }
            std::thread::sleep(CALM);
        }
    }

    pub(crate) fn all(&self) -> Vec<usize> {
        (0..self.members).collect()
    }

    pub(crate) fn others(&self, member: usize) -> Vec<usize> {
        (0..self.members).filter(|other| *other != member).collect()
    }

    /// The process of a member.
    pub(crate) fn pid(&self, member: usize) -> Option<u32> {
        self.agents[member].as_ref().map(Child::id)
    }

    /// Sends a signal to members that run.
    pub(crate) fn signal(&self, members: &[usize], signal: &str) -> Result<(), String> {
        let pids = members.iter().filter_map(|member| self.pid(*member)).map(|pid| pid.to_string());
        let done = Command::new("kill").arg(format!("-{signal}")).args(pids).status();
        match done {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("kill -{signal}: {status}")),
            Err(error) => Err(format!("kill -{signal}: {error}")),
        }
    }

    /// Kills members without warning, and waits until their processes are gone.
    pub(crate) fn kill(&mut self, members: &[usize]) -> Result<(), String> {
        self.signal(members, "KILL")?;
        for member in members {
            if let Some(mut child) = self.agents[*member].take() {
                child.wait().map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    /// Takes a dead member's disk.
    pub(crate) fn wipe(&self, member: usize) -> Result<(), String> {
        let disk = self.folder.join(format!("n{}", member + 1));
        match std::fs::remove_dir_all(&disk) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {error}", disk.display())),
            _ => Ok(()),
        }
    }

    /// Waits until something holds, and says for how long.
    pub(crate) fn until(&self, what: &str, holds: impl FnMut() -> bool) -> Result<Duration, String> {
        within(PATIENCE, holds).ok_or_else(|| format!("in {PATIENCE:?} it did not come about that {what}"))
    }

    /// Waits until all these observers have said this of a member since a moment; the time at which the last did.
    pub(crate) fn until_said(
        &self,
        by: &[usize],
        about: usize,
        state: State,
        since: Instant,
    ) -> Result<Duration, String> {
        let said = |observer: &usize| self.log.last(*observer, about, since) == Some(state);
        self.until(&format!("all hold n{} {state:?}", about + 1), || by.iter().all(said))?;
        let last = self.log.since(since).into_iter().filter(|event| event.about == about && event.state == state);
        Ok(last.map(|event| event.at - since).max().unwrap_or_default())
    }

    /// Whether these members hold everybody alive now.
    pub(crate) fn is_whole(&self, members: &[usize]) -> bool {
        let asked = |member: &usize| {
            // A member that remembers the others from before its start does not say so.
            self.kind.can_be_asked() && agent::alive_at(*member) == Some(self.members)
        };
        members.iter().all(|member| self.says_whole(*member) || asked(member))
    }

    /// Whether a member has said since its start that everybody is alive.
    fn says_whole(&self, observer: usize) -> bool {
        let said = self.log.since(self.started[observer]);
        // Serf does not say when a suspicion was wrong.
        let passed_over = |state| !self.kind.can_be_asked() && state == State::Suspect;
        self.others(observer).into_iter().all(|about| {
            let mut last = said.iter().rev().filter(|event| (event.observer, event.about) == (observer, about));
            last.find(|event| !passed_over(event.state)).is_some_and(|event| event.state == State::Alive)
        })
    }

    /// What was said since a moment in a state, by whom and about whom it is asked for.
    pub(crate) fn said(&self, since: Instant, state: State, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
        self.log.since(since).into_iter().filter(|event| event.state == state && wanted(event)).collect()
    }

    fn log_file(&self, member: usize) -> PathBuf {
        self.folder.join(format!("n{}.log", member + 1))
    }

    /// The ends of the members' logs, for when something went wrong.
    pub(crate) fn ends_of_logs(&self) -> String {
        let mut text = String::new();
        for member in 0..self.members {
            let log = std::fs::read_to_string(self.log_file(member)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(8)..].join("\n");
            text += &format!("-- n{}\n{end}\n", member + 1);
        }
        text
    }

    /// Copies the logs to where they were asked for.
    pub(crate) fn keep_logs(&self, scenario: &str) {
        let Some(logs) = &self.logs else { return };
        if let Err(error) = std::fs::create_dir_all(logs) {
            eprintln!("{}: {error}", logs.display());
            return;
        }
        for member in 0..self.members {
            let to = logs.join(format!("{}-{scenario}-n{}.log", self.kind.name(), member + 1));
            if let Err(error) = std::fs::copy(self.log_file(member), &to) {
                eprintln!("{}: {error}", to.display());
            }
        }
    }
}

impl Drop for Lab<'_> {
    fn drop(&mut self) {
        for mut child in self.agents.iter_mut().filter_map(Option::take) {
            // It may have ended by itself; either way it is waited for.
            drop(child.kill());
            drop(child.wait());
        }
    }
}
