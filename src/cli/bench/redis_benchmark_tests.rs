//! The accounting beside another tool's: this one and `redis-benchmark` on a server whose delays are known.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncBufReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::BufReader;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::sleep;

use crate::cli::bench::measure::measure;
use crate::cli::bench::measure_tests::closed;
use crate::cli::bench::measure_tests::workload;
use crate::cli::bench::schedule::Length;
use crate::cli::bench::target::Answer;
use crate::cli::bench::target::Problem;
use crate::cli::bench::target::Target;
use crate::cli::bench::workload::Operation;
use crate::env::Env;

const REQUESTS: u64 = 500;
const CLIENTS: usize = 10;
/// Of ten requests, in turn, eight take 20 ms, one 60 ms, one 120 ms.
const PERCENTILES: [(f64, f64); 3] = [(0.5, 20.0), (0.85, 60.0), (0.95, 120.0)];

fn delay(number: u64) -> Duration {
    Duration::from_millis(match number % 10 {
        0..8 => 20,
        8 => 60,
        _ => 120,
    })
}

/// Reads one request of the Redis protocol; its first word, or nothing at the end.
async fn request(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
    let parts: usize = line.trim().strip_prefix('*')?.parse().ok()?;
    let mut words = Vec::new();
    for _ in 0..2 * parts {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        words.push(line);
    }
    Some(words.get(1)?.trim().to_ascii_uppercase())
}

/// Answers gets after the delay of their turn, and knows nothing else.
async fn serve(stream: TcpStream, turns: Arc<AtomicU64>) {
    let mut stream = BufReader::new(stream);
    while let Some(word) = request(&mut stream).await {
        let answer: &[u8] = if word == "GET" {
            sleep(delay(turns.fetch_add(1, Ordering::Relaxed))).await;
            b"$-1\r\n"
        } else {
            b"-ERR unknown\r\n"
        };
        if stream.get_mut().write_all(answer).await.is_err() {
            return;
        }
    }
}

async fn server(env: &Env) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, env) = (listener.local_addr().unwrap().port(), env.clone());
    let scope = env.clone();
    env.spawn("server", async move {
        let turns: Arc<AtomicU64> = Arc::default();
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            scope.spawn("connection", serve(stream, turns.clone()));
        }
    });
    port
}

/// Gets of that server, each on a connection that no other uses meanwhile.
struct Gets {
    port: u16,
    idle: Mutex<Vec<BufReader<TcpStream>>>,
}

impl Target for Gets {
    async fn perform(&self, _: Operation) -> Result<Answer, Problem> {
        let idle = self.idle.lock().unwrap().pop();
        let mut stream = match idle {
            Some(stream) => stream,
            None => BufReader::new(TcpStream::connect(("127.0.0.1", self.port)).await.unwrap()),
        };
        stream.get_mut().write_all(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_line(&mut answer).await.unwrap();
        assert_eq!(answer, "$-1\r\n");
        self.idle.lock().unwrap().push(stream);
        Ok(Answer::default())
    }
}

/// The cumulative distribution that `redis-benchmark` prints: share and milliseconds.
async fn redis_benchmark(port: u16) -> Option<Vec<(f64, f64)>> {
    let mut command = Command::new("redis-benchmark");
    command.args(["-p", &port.to_string(), "-t", "get", "--precision", "3"]);
    command.args(["-n", &REQUESTS.to_string(), "-c", &CLIENTS.to_string()]);
    let Ok(done) = command.stdin(Stdio::null()).output().await else {
        assert!(std::env::var_os("DYNAMOMINI_REQUIRE_REDIS").is_none(), "redis-benchmark is not installed");
        eprintln!("########## redis-benchmark is not installed: nothing was compared ##########");
        return None;
    };
    let text = String::from_utf8_lossy(&done.stdout).replace('\r', "\n");
    let line = |line: &str| {
        let (share, rest) = line.split_once("% <= ")?;
        let (ms, _) = rest.split_once(" milliseconds")?;
        Some((share.trim().parse::<f64>().ok()? / 100.0, ms.trim().parse::<f64>().ok()?))
    };
    let found: Vec<(f64, f64)> = text.lines().filter_map(line).collect();
    assert!(!found.is_empty(), "{text}");
    Some(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn percentiles_agree_with_those_of_redis_benchmark_on_a_server_whose_delays_are_known() {
    let env = Env::real();
    let Some(theirs) = redis_benchmark(server(&env).await).await else { return };
    let target = Gets { port: server(&env).await, idle: Mutex::default() };
    let plan = closed(CLIENTS, Length::Count(REQUESTS));
    let ours = measure(&env, vec![target], &workload(), plan, false, std::future::pending(), |_| {}).await.unwrap();
    env.stop();
    let ours = ours.total.all();
    assert_eq!(ours.count(), REQUESTS);
    for (share, known) in PERCENTILES {
        let ours = ours.quantile_ms(share).unwrap();
        let theirs = theirs.iter().filter(|(of, _)| *of >= share).map(|(_, ms)| *ms).fold(f64::INFINITY, f64::min);
        eprintln!("{share}: {ours:.1} ms, redis-benchmark {theirs:.1} ms, known {known} ms");
        // What a busy machine adds, it adds to both; less than the next step of the delays.
        for (who, ms) in [("this", ours), ("redis-benchmark", theirs)] {
            assert!((known..known * 1.5 + 15.0).contains(&(ms + 1.0)), "{share}: {who} says {ms}, not {known}");
        }
        assert!((ours - theirs).abs() <= known * 0.15 + 5.0, "{share}: {ours} here, {theirs} there");
    }
}
