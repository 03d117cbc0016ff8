//! What the processes of a cluster on this machine use: processor time and memory, by what the kernel says of them.
//!
//! Their ids come from the `cluster.json` that `dev` keeps beside the client's configuration. Without it nothing is known
//! and nothing is shown: the nodes may be anywhere.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::cli::bench::draw;

/// The file that `dev` keeps, while its cluster runs.
const CLUSTER_FILE: &str = "cluster.json";
/// What the programs in it are called. Ids are used again: one that names another program is none of the cluster's.
const PROGRAMS: [&str; 2] = ["dynamomini", "redis-server"];

#[derive(Debug, Deserialize)]
struct ClusterFile {
    nodes: Vec<NodeEntry>,
}

#[derive(Debug, Deserialize)]
struct NodeEntry {
    id: String,
    pid: u32,
    redis_pid: Option<u32>,
}

/// A process of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    /// The node's name.
    pub(super) node: String,
    /// What program it is.
    pub(super) program: String,
    /// The kernel's number for it.
    pub(super) pid: u32,
    /// Told by the kernel in ticks since its own start: ids come again, with another time.
    started: u64,
}

/// What a process has used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Usage {
    /// Seconds of processor time since its start, in its own code and in the kernel's.
    pub(super) cpu_s: f64,
    /// Memory it holds now, in bytes.
    pub(super) rss: u64,
}

/// The processes of the cluster that this client configuration belongs to, as far as they run here.
pub(super) fn of_cluster(client_config: &Path) -> Vec<Process> {
    let file = client_config.with_file_name(CLUSTER_FILE);
    let Ok(text) = fs::read(&file) else { return Vec::new() };
    let cluster = match serde_json::from_slice::<ClusterFile>(&text) {
        Ok(cluster) => cluster,
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "not a dev cluster's file: no processes are watched");
            return Vec::new();
        }
    };
    let pids = |node: NodeEntry| {
        let process = |pid: u32| find(&node.id, pid);
        [Some(node.pid), node.redis_pid].into_iter().flatten().filter_map(process).collect::<Vec<_>>()
    };
    cluster.nodes.into_iter().flat_map(pids).collect()
}

fn find(node: &str, pid: u32) -> Option<Process> {
    let Stat { program, started, .. } = stat(pid)?;
    let known = PROGRAMS.contains(&program.as_str());
    known.then(|| Process { node: node.to_owned(), program, pid, started })
}

/// This process.
pub(super) fn own() -> Option<Process> {
    let pid = std::process::id();
    let Stat { program, started, .. } = stat(pid)?;
    Some(Process { node: String::new(), program, pid, started })
}

impl Process {
    /// What it has used until now; `None` when it is gone.
    pub(super) fn usage(&self) -> Option<Usage> {
        let Stat { started, ticks, .. } = stat(self.pid)?;
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let cpu_s = draw::float(ticks) / draw::float(rustix::param::clock_ticks_per_second());
        (started == self.started).then(|| Usage { cpu_s, rss: rss(&status) })
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    program: String,
    /// Processor time, in ticks of the clock.
    ticks: u64,
    started: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    read_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Reads proc(5)'s line of a process. Its name stands in parentheses and may itself hold any character.
fn read_stat(line: &str) -> Option<Stat> {
    let (head, rest) = line.rsplit_once(") ")?;
    let (_, program) = head.split_once(" (")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Counted from the state, which proc(5) calls the third field: utime is the 14th, stime the 15th, starttime the 22nd.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat { program: program.to_owned(), ticks: number(14)? + number(15)?, started: number(22)? })
}

/// Resident memory in bytes, from the lines of a process's status; 0 where the kernel tells none.
fn rss(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_read_whatever_the_program_is_called() {
        let line = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 150 25 7 8 20 0 9 0 777 1000 200 18446744073709551615";
        let stat = Stat { program: "a) b (c".to_owned(), ticks: 175, started: 777 };
        assert_eq!(read_stat(line), Some(stat));
        assert_eq!(read_stat("42 (a) S 1"), None);
        assert_eq!(rss("Name:\ta\nVmRSS:\t    2048 kB\nThreads: 1\n"), 2 << 20);
    }

    #[test]
    fn this_process_uses_something_and_one_that_is_gone_nothing() {
        let own = own().unwrap();
        let before = own.usage().unwrap();
        assert!(before.rss > 1 << 20, "{before:?}");
        let mut sum = 0_u64;
        while own.usage().unwrap().cpu_s < before.cpu_s + 0.02 {
            sum = (0..1_000_000).fold(sum, |sum, number| sum.wrapping_mul(31) ^ number);
        }
        std::hint::black_box(sum);
        assert_eq!(Process { started: 1, ..own }.usage(), None, "another process with this id was taken for it");
    }

    #[test]
    fn only_processes_of_the_cluster_are_watched() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("client.toml");
        assert_eq!(of_cluster(&config), []);
        let pid = std::process::id();
        fs::write(folder.path().join(CLUSTER_FILE), format!("{{\"nodes\":[{{\"id\":\"n1\",\"pid\":{pid}}}]}}"))
            .unwrap();
        assert_eq!(of_cluster(&config), [], "a test was taken for a node");
        fs::write(folder.path().join(CLUSTER_FILE), "nonsense").unwrap();
        assert_eq!(of_cluster(&config), []);
    }
}
