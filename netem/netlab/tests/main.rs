//! The lab as its users run it: links are what their words say, cuts cut, a node moves under load, and nothing is left behind.
//!
//! Takes root, and skips itself loudly without. Bounds are those of counting; latencies have room for a busy machine.
#![allow(clippy::disallowed_methods, clippy::print_stderr, clippy::unwrap_used, missing_docs)]

use std::io::BufRead as _;
use std::io::BufReader;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

const PATIENCE: Duration = Duration::from_secs(60);

/// The lab's program, on the lab of a folder.
fn netlab(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netlab"));
    command.arg("--dir").arg(folder.join("lab")).args(arguments).current_dir(folder);
    command
}

fn done(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn said(folder: &Path, arguments: &[&str]) -> String {
    String::from_utf8(done(netlab(folder, arguments)).stdout).unwrap()
}

/// Whether labs can be made here.
fn able() -> bool {
    let folder = tempfile::tempdir().unwrap();
    let mut command =
        netlab(folder.path(), &["gauge", "none", "--packets", "1", "--rate", "100", "--links", "emulator"]);
    let output = command.output().unwrap();
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        eprintln!("########## SKIPPED: no lab can be made here: {} ##########", why.trim());
    }
    output.status.success()
}

/// A lab that is up until dropped.
struct Up {
    process: Child,
    folder: tempfile::TempDir,
}

impl Up {
    fn new(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let process = Self::start(folder.path(), arguments);
        Self { process, folder }
    }

    /// Starts a lab and waits until it says that it is ready.
    fn start(folder: &Path, arguments: &[&str]) -> Child {
        let mut command = netlab(folder, &[&["up"], arguments].concat());
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.starts_with("ready")), "{command:?} did not come up");
        process
    }

    fn say(&self, words: &str) -> String {
        said(self.folder.path(), &words.split(' ').collect::<Vec<_>>())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        drop(netlab(self.folder.path(), &["down"]).output());
        drop(self.process.wait());
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "it did not come about that {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn links_are_what_their_words_say() {
    if !able() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cases = ["delay 20ms", "loss 10%", "delay 5ms loss 30% duplicate 10%"];
    let asked =
        [&["gauge", "--json", "--packets", "1500", "--rate", "750", "--links", "emulator"], &cases[..]].concat();
    let answer = said(folder.path(), &asked);
    let lines = answer.lines().filter(|line| line.starts_with('{'));
    let found: Vec<serde_json::Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(found.len(), cases.len(), "{answer}");
    assert!(found.iter().all(|case| case["unmodelled"] == 0), "the machine is too busy for this to count: {answer}");
    let of = |case: usize, name: &str| found[case][name].as_f64().unwrap();
    assert!((20.0..26.0).contains(&of(0, "p50")) && of(0, "lost") == 0.0, "{answer}");
    // Five standard deviations of 1500 draws.
    assert!((of(1, "lost") - 0.1).abs() < 0.039, "{answer}");
    // Lost unless either of the two arrives, where there are two; none is doubled of which one is lost.
    assert!((of(2, "lost") - 0.3 * (1.0 - 0.1 * 0.7)).abs() < 0.06, "{answer}");
    assert!((5.0..9.0).contains(&of(2, "p50")) && of(2, "doubled") > 0.02, "{answer}");
    assert!(!folder.path().join("lab").exists(), "the folder is left behind");
}

#[test]
fn partitions_cut_whom_they_say_and_heal() {
    if !able() {
        return;
    }
    let lab = Up::new(&["5", "--bare", "--links", "emulator", "--apply", "delay 2ms"]);
    let all = "11111\n".repeat(5);
    assert_eq!(lab.say("matrix"), all);
    assert_eq!(lab.say("partition ring"), "ok\n");
    assert_eq!(lab.say("matrix"), "11001\n11100\n01110\n00111\n10011\n");
    assert_eq!(lab.say("partition n1,n2"), "ok\n");
    assert_eq!(lab.say("matrix"), "11000\n11000\n00111\n00111\n00111\n");
    lab.say("heal");
    lab.say("cut n2 n1");
    // A line for each that hears, a column for each that is heard.
    assert_eq!(lab.say("matrix"), "10111\n11111\n11111\n11111\n11111\n");
    assert!(lab.say("show").contains("n2 > n1: cut"));
    lab.say("heal");
    lab.say("move n3");
    assert_eq!(lab.say("matrix"), all);
    assert!(lab.say("report").ends_with("for: 0\n"), "{}", lab.say("report"));
    let refused = netlab(lab.folder.path(), &["link", "n1", "n2", "loss", "1%", "2%"]).output().unwrap();
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("correlated"));
}

#[test]
fn a_killed_lab_leaves_no_process_and_its_folder_is_taken_by_the_next() {
    if !able() {
        return;
    }
    let mut lab = Up::new(&["2", "--links", "emulator", "--storage", "memory"]);
    let folder = lab.folder.path().join("lab");
    let lock = std::fs::read_to_string(folder.join("lock")).unwrap();
    let inner = lock.split_whitespace().nth(1).unwrap().to_owned();
    // A second one may not take it.
    let second = netlab(lab.folder.path(), &["up", "2", "--bare"]).output().unwrap();
    assert!(String::from_utf8_lossy(&second.stderr).contains("a lab runs in"));
    lab.process.kill().unwrap();
    lab.process.wait().unwrap();
    until("the namespaces are gone", || !Path::new(&format!("/proc/{inner}")).exists());
    let owned = || {
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        lines.filter(|line| String::from_utf8_lossy(line).contains(&folder.display().to_string())).count()
    };
    until("no process is left", || owned() == 0);
    assert!(folder.exists());
    lab.process = Up::start(lab.folder.path(), &["2", "--bare", "--links", "emulator"]);
    assert_eq!(lab.say("matrix"), "11\n11\n");
    done(netlab(lab.folder.path(), &["down"]));
    assert!(!folder.exists());
}

#[test]
fn a_node_gets_another_address_under_load_and_no_request_fails() {
    if !able() {
        return;
    }
    let lab = Up::new(&["3", "--links", "emulator", "--storage", "memory", "--apply", "delay 5ms"]);
    lab.say("exec n1 dynamomini bench load --keys 500 --value-size 100");
    let asked = "exec n1 dynamomini bench --mix mixed --keys 500 --value-size 100 --rate 100/s --duration 10s --json";
    let mut command = netlab(lab.folder.path(), &asked.split(' ').collect::<Vec<_>>());
    let load = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // In the middle of the load, which says nothing that could be waited for.
    std::thread::sleep(Duration::from_secs(4));
    lab.say("move n2");
    let output = load.wait_with_output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["errors"], &report["not_begun"]), (&0.into(), &0.into()), "{report}");
    assert!(report["all"]["operations"].as_u64().unwrap() > 500, "{report}");
    until("all see all again", || {
        ["n1", "n2", "n3"].iter().all(|node| {
            let asked = format!("exec n1 dynamomini status --json --node {node}");
            let mut command = netlab(lab.folder.path(), &asked.split(' ').collect::<Vec<_>>());
            command.output().is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("3/3 alive"))
        })
    });
}
