//! Who owns data, and how many, changes while clients read and write, and things go wrong at each stage. Whatever happens: no read is older
//! than what was acknowledged before it began, nothing acknowledged is lost, every request succeeds after some tries, and in
//! the end all work by one layout, owners hold the same, and nobody else holds anything.

mod copies;
mod down;
mod history;
mod judge;
mod late;
mod minority;
mod rogue;
mod roles;
mod split;

use std::time::Duration;

use dynamomini::hash::ClusterHash;
use dynamomini::layout::{Change, Stage};
use dynamomini::store::{Engine, Mutation, Slot};
use dynamomini::types::{Bucket, Copies, Namespace, NodeName};
use dynamomini::view::ClusterView;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep, sleep_until};

use crate::cluster::{Cluster, Setup, address};
use crate::network::Conditions;
use crate::ownership::copies::{Beside, copies};
use crate::ownership::history::History;
use crate::ownership::judge::{converged, settled, settled_without};
use crate::replicas::records;
use crate::world::{Simulation, asked_for, rng, seeds, simulate};

/// Keys of the load.
const KEYS: usize = 48;
/// Time in which a stage must come about when nothing is in its way.
const PATIENCE: Duration = Duration::from_secs(60);

fn node(number: usize) -> NodeName {
    NodeName::new(format!("n{number}")).unwrap()
}

fn join(number: usize) -> Change {
    let zone = "default".parse().unwrap();
    Change::Join { name: node(number), quic: address(number).to_string(), zone, weight: 100 }
}

/// How the ownership changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Join,
    JoinTwo,
    Leave,
    /// Half of six leave at once: many partitions get owners of whom none was an owner before.
    LeaveThree,
    Replace,
    /// The default namespace gets another number of copies; another namespace stays as it is.
    Copies {
        from: u8,
        to: u8,
    },
    /// Partitions are cut in two.
    Split,
    SplitAndJoin,
    /// Both are asked for at once, at different nodes.
    SplitAndCopies {
        from: u8,
        to: u8,
    },
}

/// What goes wrong meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// A power cut at the node that carries the change, and so on.
    CrashLeader,
    CrashGaining,
    CrashOwner,
    /// An owner is cut off from all others.
    Isolate,
    /// The cluster falls into two halves.
    Halves,
    /// The same, and in each half another change is asked for.
    Disagree,
    /// The change is cancelled, and asked for again soon.
    Cancel,
    /// Another change is asked for at another node.
    Conflict,
    /// An owner crashes and loses its layout and its votes.
    LoseDirectory,
}

/// One course of events.
#[derive(Debug, Clone, Copy)]
struct Course {
    what: What,
    fault: Fault,
    at: Stage,
    /// How long after the stage began the fault comes, and how long it lasts.
    after: Duration,
    lasts: Duration,
    /// Whether others stand in for owners that do not answer.
    sloppy: bool,
}

impl Course {
    fn draw(rng: &mut StdRng) -> Self {
        let pick = |rng: &mut StdRng, count: usize| rng.random_range(0..count);
        let whats = [What::Join, What::JoinTwo, What::Leave, What::LeaveThree, What::Replace];
        let faults = [
            Fault::CrashLeader,
            Fault::CrashGaining,
            Fault::CrashOwner,
            Fault::Isolate,
            Fault::Halves,
            Fault::Disagree,
            Fault::Cancel,
            Fault::Conflict,
            Fault::LoseDirectory,
        ];
        let stages = [Stage::Spreading, Stage::Copying, Stage::Reading];
        Self {
            what: whats[pick(rng, whats.len())],
            fault: faults[pick(rng, faults.len())],
            at: stages[pick(rng, stages.len())],
            after: Duration::from_millis(rng.random_range(0..400)),
            lasts: Duration::from_millis(rng.random_range(200..20_000)),
            sloppy: rng.random_bool(0.25),
        }
    }

    /// A change of the number of copies.
    fn draw_copies(rng: &mut StdRng) -> Self {
        let from = rng.random_range(1..=5);
        let to = (from + rng.random_range(0..4)) % 5 + 1;
        Self { what: What::Copies { from, to }, ..Self::draw(rng) }
    }

    fn setup(&self) -> Setup {
        let copies = self.copies().map(|(from, _)| from);
        Setup { nodes: self.founders(), copies, ..keeping(self.sloppy) }
    }

    /// The copies of the default namespace before and after, where that is what changes.
    fn copies(&self) -> Option<(u8, u8)> {
        match self.what {
            What::Copies { from, to } | What::SplitAndCopies { from, to } => Some((from, to)),
            _ => None,
        }
    }

    fn splits(&self) -> bool {
        matches!(self.what, What::Split | What::SplitAndJoin | What::SplitAndCopies { .. })
    }

    fn founders(&self) -> usize {
        match self.what {
            What::Leave => 4,
            What::SplitAndJoin | What::Copies { .. } | What::SplitAndCopies { .. } => 5,
            What::LeaveThree | What::Split => 6,
            What::Join | What::JoinTwo | What::Replace => 3,
        }
    }

    /// Who gets data that it did not have.
    fn gaining(&self) -> usize {
        if self.shrinks() { 1 } else { 4 }
    }

    fn shrinks(&self) -> bool {
        matches!(self.what, What::Leave | What::LeaveThree)
    }

    async fn begin(&self, cluster: &mut Cluster) {
        match self.what {
            What::Join => cluster.start_joining(4).await,
            What::JoinTwo => {
                cluster.start_joining(4).await;
                cluster.start_joining(5).await;
            }
            What::SplitAndJoin => {
                cluster.start_joining(6).await;
                self.again(cluster).await;
            }
            What::Replace => {
                cluster.crash(3);
                cluster.start_node(4).await;
                let quic = address(4).to_string();
                order(cluster, 1, Change::Replace { old: node(3), new: node(4), quic }).await;
            }
            _ => self.again(cluster).await,
        }
    }

    /// The change anew, as an operator asks for it after it was cancelled.
    async fn again(&self, cluster: &Cluster) {
        match self.what {
            What::Join => order(cluster, 1, join(4)).await,
            What::JoinTwo => {
                order(cluster, 1, join(5)).await;
                order(cluster, 2, join(4)).await;
            }
            What::Split => order(cluster, 2, split::split()).await,
            What::SplitAndJoin => {
                order(cluster, 1, join(6)).await;
                order(cluster, 2, split::split()).await;
            }
            What::Leave => order(cluster, 2, Change::Leave { name: node(4) }).await,
            What::Copies { to, .. } => order(cluster, 2, copies(to)).await,
            What::SplitAndCopies { to, .. } => {
                tokio::join!(order(cluster, 1, copies(to)), order(cluster, 2, split::split()));
            }
            What::LeaveThree => {
                for leaves in 4..=6 {
                    order(cluster, 1, Change::Leave { name: node(leaves) }).await;
                }
            }
            What::Replace => {
                let quic = address(4).to_string();
                order(cluster, 2, Change::Replace { old: node(3), new: node(4), quic }).await;
            }
        }
    }

    /// Members that run and own data before the change, without `n1`, at which orders are given.
    fn owner(&self, rng: &mut StdRng) -> usize {
        if self.what == What::Replace { 2 } else { rng.random_range(2..=3) }
    }

    /// Returns the weights that were agreed on meanwhile, which must be those in the end.
    async fn go_wrong(&self, cluster: &mut Cluster, rng: &mut StdRng) -> Vec<(usize, u32)> {
        let mut agreed = Vec::new();
        let victim = match self.fault {
            Fault::CrashLeader => leader(cluster),
            Fault::CrashGaining => self.gaining(),
            _ => self.owner(rng),
        };
        match self.fault {
            Fault::CrashLeader | Fault::CrashGaining | Fault::CrashOwner | Fault::LoseDirectory => {
                cluster.crash(victim);
                if self.fault == Fault::LoseDirectory {
                    cluster.lose_directory(victim);
                }
                sleep(self.lasts).await;
                cluster.restart_node(victim).await;
            }
            Fault::Isolate => {
                cluster.cut(victim, true);
                sleep(self.lasts).await;
                cluster.cut(victim, false);
            }
            Fault::Halves | Fault::Disagree => {
                cluster.part(&[1, 4, 6], &[2, 3, 5], true);
                let until = Instant::now() + self.lasts;
                if self.fault == Fault::Disagree {
                    let weight = |number: usize, weight| Change::Weight { name: node(number), weight };
                    let (one, two) = tokio::join!(cluster.order(1, weight(1, 70)), cluster.order(2, weight(2, 80)));
                    agreed.extend(one.is_ok().then_some((1, 70)));
                    agreed.extend(two.is_ok().then_some((2, 80)));
                }
                sleep_until(until).await;
                cluster.part(&[1, 4, 6], &[2, 3, 5], false);
            }
            Fault::Cancel => {
                // It may be too late for that.
                drop(cluster.order(victim, Change::Cancel).await);
                sleep(self.lasts / 8).await;
                self.again(cluster).await;
            }
            Fault::Conflict => order(cluster, victim, Change::Weight { name: node(1), weight: 60 }).await,
        }
        agreed
    }
}

/// Asks for a change until it has been agreed on, or is done already.
async fn order(cluster: &Cluster, at: usize, change: Change) {
    let began = Instant::now();
    while let Err(error) = cluster.order(at, change.clone()).await {
        if change.apply(&cluster.layout_of(at).layout).is_err() {
            let layout = cluster.layout_of(at).layout;
            let busy = layout.stage() == Some(Stage::Reading);
            if !busy {
                return;
            }
        }
        assert!(began.elapsed() < PATIENCE * 2, "{change:?} is not possible: {error}");
        sleep(Duration::from_millis(500)).await;
    }
}

/// Who carries a change, if all see the same.
fn leader(cluster: &Cluster) -> usize {
    let running = cluster.running();
    let layout = cluster.layout_of(running[0]).layout;
    let voters = running.into_iter().filter(|number| layout.current.has(&node(*number)));
    voters.min_by_key(|number| ClusterHash::node_id(&node(*number))).unwrap()
}

/// Waits until somebody works by this stage or a later one, or by a later layout than that.
async fn reached(cluster: &Cluster, at: Stage) {
    let began = Instant::now();
    loop {
        for number in cluster.running() {
            let layout = cluster.layout_of(number).layout;
            if layout.stage() >= Some(at) || layout.version > 0 && layout.stage().is_none() {
                return;
            }
        }
        assert!(began.elapsed() < PATIENCE, "{at:?} is not reached");
        sleep(Duration::from_millis(10)).await;
    }
}

fn conditions(rng: &mut StdRng) -> Conditions {
    Conditions {
        latency: Duration::from_micros(rng.random_range(200..4_000)),
        jitter: Duration::from_millis(1),
        loss: rng.random_range(0.0..0.02),
        ..Conditions::default()
    }
}

fn keeping(sloppy: bool) -> Setup {
    Setup { keeps: true, strict: !sloppy, ..Setup::default() }
}

async fn found(simulation: &Simulation, nodes: usize, sloppy: bool) -> Cluster {
    found_with(simulation, Setup { nodes, ..keeping(sloppy) }).await
}

async fn found_with(simulation: &Simulation, setup: Setup) -> Cluster {
    let conditions = conditions(&mut simulation.rng("conditions"));
    Cluster::start_with(simulation.clone(), conditions, setup).await
}

/// A course of events under load, then the judges. Returns the trace, and answers and refusals.
async fn run(simulation: Simulation, course: Course) -> (u64, (u64, u64)) {
    let mut cluster = found_with(&simulation, course.setup()).await;
    let (one, two, probe) = (cluster.client(1).await, cluster.client(2).await, cluster.pinned(3, 2).await);
    let history = History::sloppy(course.sloppy);
    history.fill(&one, 0..KEYS).await;
    let (half, pause) = (KEYS / 2, 20..250);
    let beside = Beside::start(&one, &course).await;
    let load = async {
        tokio::join!(
            beside.load(&simulation),
            history.writer(&one, simulation.rng("writer 1"), 0..half, pause.clone()),
            history.writer(&two, simulation.rng("writer 2"), half..KEYS, pause.clone()),
            history.reader(&two, simulation.rng("reader 1"), 0..KEYS, pause.clone()),
            history.reader(&one, simulation.rng("reader 2"), 0..KEYS, pause.clone()),
            history.probe(&probe, simulation.rng("probe"), 0..KEYS, KEYS, 20..200),
            history.count(&one, simulation.rng("counter 1"), KEYS + 1),
            history.count(&two, simulation.rng("counter 2"), KEYS + 1),
            history.count(&probe, simulation.rng("counter 3"), KEYS + 1),
        )
    };
    let events = async {
        let mut rng = simulation.rng("faults");
        sleep(Duration::from_secs(1)).await;
        course.begin(&mut cluster).await;
        reached(&cluster, course.at).await;
        sleep(course.after).await;
        let agreed = course.go_wrong(&mut cluster, &mut rng).await;
        settled(&cluster).await;
        sleep(Duration::from_secs(3)).await;
        history.end();
        beside.history.end();
        agreed
    };
    let (_, agreed) = tokio::join!(load, events);
    converged(&cluster).await;
    let layout = cluster.layout_of(1).layout;
    for (number, weight) in agreed {
        assert_eq!(layout.current.roles[&node(number)].weight, weight, "what was agreed on for n{number} was undone");
    }
    let has_joined = layout.current.has(&node(4));
    assert_eq!(has_joined, !course.shrinks(), "{:?} has not come about: {layout:?}", course.what);
    if course.splits() {
        assert!(split::split().apply(&layout).is_err(), "partitions were not cut: {layout:?}");
    }
    if let Some((_, to)) = course.copies() {
        assert_eq!(layout.current.copies[&Namespace::default()], to, "{:?} has not come about", course.what);
    }
    history.judge(&one).await;
    beside.judge().await;
    let (answers, refusals) = history.counts();
    assert!(answers > 200 && history.counts_up() > 5, "{answers} answers are no load");
    (cluster.network.trace(), (answers, refusals))
}

fn try_course(seed: u64, course: Course) {
    let began = Instant::now();
    let (_, (answers, refusals)) = simulate(seed, 0.0, move |simulation| run(simulation, course));
    println!("seed {seed}: {course:?}: {answers} answers, {refusals} refusals, {:?}", began.elapsed());
}

#[test]
fn a_cluster_grows_shrinks_and_serves_meanwhile() {
    simulate(1, 0.0, |simulation| async move {
        let mut cluster = found(&simulation, 3, false).await;
        let (one, two) = (cluster.client(1).await, cluster.client(2).await);
        let history = History::default();
        history.fill(&one, 0..KEYS).await;
        let load = history.load(&simulation, (&one, &two), 0..KEYS, 20..250);
        let events = async {
            // Two ask for their shares at once.
            cluster.start_joining(4).await;
            cluster.start_joining(5).await;
            let joined = |cluster: &Cluster| {
                let current = cluster.layout_of(1).layout.current;
                current.has(&node(4)) && current.has(&node(5))
            };
            let began = Instant::now();
            while !joined(&cluster) {
                assert!(began.elapsed() < PATIENCE, "nobody joined: {:?}", cluster.layout_of(1));
                sleep(Duration::from_millis(100)).await;
            }
            settled(&cluster).await;
            converged(&cluster).await;
            for (at, leaves) in [(1, 2), (3, 5)] {
                order(&cluster, at, Change::Leave { name: node(leaves) }).await;
                settled(&cluster).await;
                converged(&cluster).await;
            }
            history.end();
        };
        tokio::join!(load, events);
        converged(&cluster).await;
        let members: Vec<NodeName> = cluster.layout_of(1).layout.current.roles.into_keys().collect();
        assert_eq!(members, [node(1), node(3), node(4)]);
        history.judge(&one).await;
    });
}

/// A coordinator that is cut off while others carry through a change, and comes back with the layout from before: it must
/// neither read from those who own nothing any more, nor write to them.
async fn cut_off(simulation: Simulation, leaves_too: bool) {
    let mut cluster = found(&simulation, 6, false).await;
    let (one, probe) = (cluster.client(1).await, cluster.pinned(2, 4).await);
    let history = History::default();
    history.fill(&one, 0..KEYS).await;
    let probe = |number: usize| {
        let rng = simulation.rng(&format!("probe {number}"));
        history.probe(&probe, rng, 0..KEYS, KEYS + number, 5..20)
    };
    let load = async {
        tokio::join!(
            history.writer(&one, simulation.rng("writer"), 0..KEYS, 20..100),
            probe(1),
            probe(2),
            probe(3),
            probe(4),
        )
    };
    let events = async {
        cluster.cut(4, true);
        // Failure detection has to agree.
        sleep(Duration::from_secs(15)).await;
        if leaves_too {
            order(&cluster, 1, Change::Leave { name: node(4) }).await;
        } else {
            order(&cluster, 2, Change::Replace { old: node(4), new: node(7), quic: address(7).to_string() }).await;
            cluster.start_node(7).await;
        }
        for leaves in 5..=6 {
            order(&cluster, 1, Change::Leave { name: node(leaves) }).await;
        }
        settled_without(&cluster, &[4]).await;
        // Those who own nothing any more have dropped what they had.
        sleep(Duration::from_secs(30)).await;
        let stale = cluster.layout_of(4).layout;
        assert_eq!(stale.version, 0, "it was to be cut off from all news");
        cluster.cut(4, false);
        settled(&cluster).await;
        sleep(Duration::from_secs(3)).await;
        history.end();
    };
    tokio::join!(load, events);
    converged(&cluster).await;
    history.judge(&one).await;
}

/// `SIM_SEEDS` sets how many.
#[test]
fn a_coordinator_that_was_cut_off_during_a_whole_change_is_refused() {
    // The first of them finds a node that refuses nobody for an old layout.
    for seed in seeds(801, 1) {
        simulate(seed, 0.0, move |simulation| cut_off(simulation, seed % 2 == 0));
    }
}

/// A node that has fetched all it is to own and loses it again is not read from before it has fetched it anew.
#[test]
fn a_storage_that_is_lost_after_copying_is_filled_again_before_it_is_read() {
    simulate(1, 0.0, |simulation| async move {
        let mut cluster = found(&simulation, 3, false).await;
        let client = cluster.client(1).await;
        History::default().fill(&client, 0..KEYS).await;
        cluster.start_joining(4).await;
        reached(&cluster, Stage::Copying).await;
        while cluster.layout_of(4).report.copied == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        let engines = cluster.engines();
        let Engine::Memory(memory) = &engines[&4] else { panic!("simulated nodes keep their records in memory") };
        memory.wipe();
        assert_eq!(cluster.layout_of(1).layout.stage(), Some(Stage::Copying));
        while cluster.layout_of(4).layout.stage() == Some(Stage::Copying) {
            sleep(Duration::from_millis(10)).await;
        }
        let view = ClusterView::new(cluster.info.by(cluster.layout_of(4).layout)).unwrap();
        let owned = view.ring(Copies::settled(3)).unwrap().owned(ClusterHash::node_id(&node(4)));
        let owned: Vec<Bucket> = owned.map(|partition| Bucket(partition.number())).collect();
        let held = records(&engines[&4], owned.iter().copied()).await;
        assert!(!held.is_empty());
        for number in 1..=3 {
            let theirs = records(&engines[&number], owned.iter().copied()).await;
            assert!(theirs.keys().all(|key| held.contains_key(key)), "n4 is read from and lacks what n{number} has");
        }
        settled(&cluster).await;
        converged(&cluster).await;
    });
}

/// Each key lies at two of three owners, as after writes that one of them missed, and no hint says so. Whoever is to own it
/// must get it, whichever owner lacks it.
async fn sparse(simulation: Simulation, to_one: bool) {
    let mut cluster = found(&simulation, 3, false).await;
    let client = cluster.client(1).await;
    let history = History::default();
    history.fill(&client, 0..4 * KEYS).await;
    // Until the last replica of each write has it.
    sleep(Duration::from_secs(2)).await;
    let engines = cluster.engines();
    if to_one {
        order(&cluster, 1, copies(1)).await;
    } else {
        cluster.start_joining(4).await;
        cluster.start_joining(5).await;
    }
    // Late enough that they are copied from before they compare their trees with each other.
    reached(&cluster, Stage::Spreading).await;
    for number in 1..=3 {
        cluster.crash(number);
    }
    for (number, engine) in engines {
        let all = records(&engine, cluster.info.partitions.buckets()).await;
        let missed = all
            .into_keys()
            .filter(|(_, key)| key.iter().map(|byte| usize::from(*byte)).sum::<usize>() % 3 + 1 == number);
        let delete = |(bucket, key)| Mutation::Delete { slot: Slot { bucket, key } };
        engine.write(engine.epoch(), missed.map(delete).collect()).await.unwrap();
    }
    for number in 1..=3 {
        cluster.restart_node(number).await;
    }
    reached(&cluster, Stage::Reading).await;
    let reading = async {
        sleep(Duration::from_secs(4)).await;
        history.end();
    };
    let reader = |label: &str| history.reader(&client, simulation.rng(label), 0..4 * KEYS, 5..15);
    tokio::join!(reading, reader("1"), reader("2"), reader("3"));
    settled(&cluster).await;
    converged(&cluster).await;
    history.judge(&client).await;
}

/// `SIM_SEEDS` sets how many.
#[test]
fn what_one_owner_missed_is_fetched_from_another() {
    for seed in seeds(700, 1) {
        simulate(seed, 0.0, |simulation| sparse(simulation, false));
    }
}

/// `SIM_SEEDS` sets how many.
#[test]
fn whatever_goes_wrong_while_owners_change_nothing_is_lost_or_stale() {
    for seed in seeds(900, 3) {
        try_course(seed, Course::draw(&mut rng(seed, "course")));
    }
}

/// `SIM_SEED=7 cargo test --test sim one_course_from_the_environment -- --nocapture` runs one seed of the test above.
#[test]
fn one_course_from_the_environment() {
    let seed = asked_for("SIM_SEED", 900);
    try_course(seed, Course::draw(&mut rng(seed, "course")));
}
