//! CPU and wall time per record of the storage engines: `cargo bench --bench store [-- CACHE_MIB]`.
//!
//! 16-byte keys, 1 KiB values, 64 partitions, batches of 32 and of 1, one caller at a time. CPU is that of this
//! process (user and system, all threads); for Redis the server's own is reported apart.

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
use dynamomini::types::ClusterName;
use dynamomini::types::NodeName;
use dynamomini::types::PartitionId;
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
        ("redb interval", Durability::Interval(sync), RECORDS),
        ("redb off", Durability::Off, RECORDS),
        ("redb every batch", Durability::EveryBatch, 3_200),
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
        partitions: Partitions::new(PARTITIONS).expect("a count"),
    };
    let (engine, _) = Engine::open(config, &identity, &Env::real()).await.expect("the storage opens");
    let value = Bytes::from(vec![7; 1024]);
    for (what, batch) in [("insert", 32), ("overwrite", 32), ("get", 32), ("overwrite", 1), ("get", 1)] {
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
        for file in ["store.redb", "store.memo"] {
            std::fs::copy(path.join(file), copy.path().join(file)).expect("a copy");
        }
        let bytes = std::fs::metadata(copy.path().join("store.redb")).expect("a file").len();
        let (durability, cache_bytes) = (*durability, *cache_bytes);
        let config = StoreConfig::Embedded { path: copy.path().to_owned(), durability, cache_bytes };
        let wall = Instant::now();
        let (copied, _) = Engine::open(&config, &identity, &Env::real()).await.expect("the copy opens");
        let took = wall.elapsed();
        eprintln!("{name}: {} MB opened after a crash in {took:?}", bytes / 1_000_000);
        copied.close().await.expect("the copy closes");
    }
    engine.close().await.expect("the storage closes");
}

/// The slot of a record: keys are scattered, as hashes are.
fn slot(number: u64) -> Slot {
    let scattered = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let key = [scattered.to_be_bytes(), number.to_be_bytes()].concat();
    let partition = u32::try_from(scattered >> 58).expect("six bits");
    Slot { partition: PartitionId(partition), key: Bytes::from(key) }
}

/// CPU time of a process so far, user and system, in microseconds; clock ticks are 10 ms on Linux.
fn cpu_us(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("Linux");
    let after_name = stat.rsplit(')').next().expect("a name in parentheses");
    let fields: Vec<_> = after_name.split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) * 10_000.0
}
