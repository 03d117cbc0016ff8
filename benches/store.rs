//! CPU and wall time per record of the storage engines: `cargo bench --bench store [-- CACHE_MIB]`.
//!
//! 16-byte keys, 1 KiB values, 64 partitions, batches of 32, 8 and 1, one caller at a time. CPU is that of this
//! process (user and system, all threads, until the embedded engine has come to rest after writes); for Redis the
//! server's own is reported apart. At the end, the space on disk and the time to open after a sudden end.

use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use dynamomini::env::Env;
use dynamomini::store::Durability;
use dynamomini::store::Engine;
use dynamomini::store::Mutation;
use dynamomini::store::RedisConfig;
use dynamomini::store::Slot;
use dynamomini::store::StoreConfig;
use dynamomini::store::StoreIdentity;
use dynamomini::types::Bucket;
use dynamomini::types::ClusterName;
use dynamomini::types::NodeName;
use dynamomini::types::Partitions;
use tokio::time::Instant;

const RECORDS: u64 = 100_000;
const PARTITIONS: u32 = 64;

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let cache_mib = std::env::args().filter_map(|arg| arg.parse::<usize>().ok()).next().unwrap_or(256);
    runtime.block_on(run(cache_mib));
}

async fn run(cache_mib: usize) {
    eprintln!("{:34} {:>9} {:>9} {:>9}", format!("cache {cache_mib} MiB"), "wall us", "CPU us", "server us");
    let sync = Duration::from_millis(200);
    let durabilities = [
        ("embedded interval", Durability::Interval(sync), RECORDS),
        ("embedded off", Durability::Off, RECORDS),
        ("embedded every batch", Durability::EveryBatch, RECORDS / 4),
    ];
    for (name, durability, records) in durabilities {
        let dir = tempfile::tempdir().expect("a directory");
        let config = StoreConfig::Embedded { path: dir.path().to_owned(), durability, cache_bytes: cache_mib << 20 };
        measure(name, &config, records, None).await;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let mut redis = Command::new("redis-server");
    redis.current_dir(dir.path()).args(["--port", "0", "--unixsocket", "socket", "--save", ""]);
    let Ok(mut server) = redis.stdout(Stdio::null()).spawn() else {
        eprintln!("redis-server is not installed: not measured");
        return;
    };
    while !dir.path().join("socket").exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let url = format!("unix://{}/socket", dir.path().display());
    let config = StoreConfig::Redis(RedisConfig::new(url, dir.path().join("memo")));
    measure("redis, unix socket, no AOF", &config, RECORDS, Some(&server)).await;
    server.kill().expect("the server was started");
    server.wait().expect("the server was started");
}

async fn measure(name: &str, config: &StoreConfig, records: u64, server: Option<&Child>) {
    let identity = StoreIdentity {
        cluster: ClusterName::new("bench").expect("a name"),
        node: NodeName::new("n1").expect("a name"),
        buckets: Partitions::new(PARTITIONS).expect("a count"),
    };
    let (engine, _) = Engine::open(config, &identity, &Env::real()).await.expect("the storage opens");
    let value = Bytes::from(vec![7; 1024]);
    for (what, batch) in
        [("insert", 32), ("overwrite", 32), ("overwrite", 8), ("overwrite", 1), ("get", 32), ("get", 8), ("get", 1)]
    {
        let count = if batch == 1 { records / 10 } else { records };
        let (wall, cpu) = (Instant::now(), cpu_us("self"));
        let server_cpu = server.map(|server| cpu_us(&server.id().to_string()));
        for first in (0..count).step_by(batch) {
            let slots = (first..first + batch as u64).map(slot);
            if what == "get" {
                let slots: Vec<_> = slots.collect();
                let values = engine.get_many(&slots).await.expect("reads");
                assert!(values.iter().all(|value| value.as_ref().is_some_and(|value| value.len() == 1024)));
            } else {
                let puts = slots.map(|slot| Mutation::Put { slot, value: value.clone() }).collect();
                engine.write(engine.epoch(), puts).await.expect("writes");
            }
        }
        let each = |us: f64| us / count as f64;
        let wall = wall.elapsed().as_secs_f64() * 1e6;
        if what != "get" {
            rest().await;
        }
        let server_cpu = server.zip(server_cpu).map(|(server, before)| cpu_us(&server.id().to_string()) - before);
        eprintln!(
            "{:34} {:9.2} {:9.2} {:>9}",
            format!("{name}: {what} x{batch}"),
            each(wall),
            each(cpu_us("self") - cpu),
            server_cpu.map_or("-".to_owned(), |us| format!("{:.2}", each(us)))
        );
    }
    if let StoreConfig::Embedded { path, durability, cache_bytes } = config {
        // The files as they are in the middle of work: what a sudden death of the process leaves.
        let copy = tempfile::tempdir().expect("a directory");
        let copied = Command::new("cp").args(["-a", "--sparse=always"]).arg(path).arg(copy.path()).status();
        assert!(copied.expect("cp is there").success());
        let path = copy.path().join(path.file_name().expect("a directory"));
        let bytes = space(&path);
        let config = StoreConfig::Embedded { path, durability: *durability, cache_bytes: *cache_bytes };
        let wall = Instant::now();
        let (copied, _) = Engine::open(&config, &identity, &Env::real()).await.expect("the copy opens");
        let took = wall.elapsed();
        eprintln!("{name}: {} MB opened after a crash in {took:?}", bytes / 1_000_000);
        copied.close().await.expect("the copy closes");
    }
    engine.close().await.expect("the storage closes");
}

/// Waits until nothing is done in the background.
async fn rest() {
    let mut before = cpu_us("self");
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = cpu_us("self");
        if now - before < 20_000.0 {
            return;
        }
        before = now;
    }
}

/// Bytes that a directory takes on disk.
fn space(path: &std::path::Path) -> u64 {
    let data = std::fs::metadata(path).expect("a file");
    if !data.is_dir() {
        return std::os::unix::fs::MetadataExt::blocks(&data) * 512;
    }
    std::fs::read_dir(path).expect("a directory").map(|entry| space(&entry.expect("an entry").path())).sum()
}

/// The slot of a record: keys are scattered, as hashes are.
fn slot(number: u64) -> Slot {
    let scattered = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let key = [scattered.to_be_bytes(), number.to_be_bytes()].concat();
    let partition = u32::try_from(scattered >> 58).expect("six bits");
    Slot { bucket: Bucket(partition), key: Bytes::from(key) }
}

/// CPU time of a process so far, user and system, in microseconds; clock ticks are 10 ms on Linux.
fn cpu_us(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("Linux");
    let after_name = stat.rsplit(')').next().expect("a name in parentheses");
    let fields: Vec<_> = after_name.split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) * 10_000.0
}
