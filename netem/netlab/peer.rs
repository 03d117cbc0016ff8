//! A load for Redis beside which this store is measured: SET, then WAIT for one replica, at fixed moments over TCP.
//!
//! An open loop as `dynamomini bench --rate`: a latency counts from the moment at which the write should have begun. WAIT holds its
//! connection up, so each write that is under way has a connection of its own.

use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::io::AsyncBufReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio::time::sleep_until;
use tokio::time::timeout_at;

/// What is to be asked.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Writes a second.
    #[arg(long)]
    rate: u32,
    #[arg(long)]
    seconds: u32,
    /// Bytes of a value.
    #[arg(long, default_value_t = 1_024)]
    size: usize,
    /// Connections, and so writes that may be under way.
    #[arg(long, default_value_t = 256)]
    connections: usize,
}

/// The longest time that is told apart, in microseconds: longer than any write may take.
const TOOK_MAX: u64 = 60_000_000;
/// The deadline of each write, as a client of this store has it.
const DEADLINE: Duration = Duration::from_secs(5);

impl Args {
    /// Puts the load on the Redis of this namespace, and prints what came of it.
    ///
    /// # Errors
    /// When it cannot be connected to.
    pub(crate) fn run(&self) -> Result<(), String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| error.to_string())?.block_on(self.load())
    }

    async fn load(&self) -> Result<(), String> {
        let (give, mut idle) = mpsc::unbounded_channel();
        for _ in 0..self.connections {
            let stream = TcpStream::connect("127.0.0.1:6379").await.map_err(|error| format!("redis: {error}"))?;
            stream.set_nodelay(true).map_err(|error| error.to_string())?;
            give.send(BufReader::new(stream)).map_err(|error| error.to_string())?;
        }
        let (tell, mut told) = mpsc::unbounded_channel();
        let value = "x".repeat(self.size);
        let (began, step) = (Instant::now(), Duration::from_secs(1) / self.rate.max(1));
        let total = self.rate.saturating_mul(self.seconds);
        let mut not_begun = 0_u64;
        for number in 0..total {
            let due = began + step * number;
            sleep_until(due).await;
            // A write that finds no connection in time was never begun.
            let Ok(Some(connection)) = timeout_at(due + DEADLINE, idle.recv()).await else {
                not_begun += 1;
                continue;
            };
            let line = format!("SET key:{} {value}\r\nWAIT 1 {}\r\n", number % 2_000, DEADLINE.as_millis());
            let (give, tell) = (give.clone(), tell.clone());
            tokio::spawn(async move {
                let mut connection = connection;
                let done = timeout_at(due + DEADLINE, write(&mut connection, &line)).await;
                let is_held = matches!(done, Ok(Ok(true)));
                // One whose answers are still to come is of no use any more.
                if matches!(done, Ok(Ok(_))) {
                    drop(give.send(connection));
                }
                tell.send((due.elapsed(), is_held)).unwrap_or_else(|_| eprintln!("a result was lost"));
            });
        }
        drop((tell, give));
        let mut took = Histogram::<u64>::new_with_bounds(1, TOOK_MAX, 3).map_err(|error| error.to_string())?;
        let mut errors = 0_u64;
        while let Some((span, is_held)) = told.recv().await {
            if is_held {
                took.saturating_record(u64::try_from(span.as_micros()).unwrap_or(u64::MAX));
            } else {
                errors += 1;
            }
        }
        let ms = |share: f64| Duration::from_micros(took.value_at_quantile(share)).as_secs_f64() * 1e3;
        let all = serde_json::json!({"per_second": f64::from(total) / f64::from(self.seconds.max(1)), "p50": ms(0.5),
            "p99": ms(0.99), "p99_9": ms(0.999)});
        println!("{}", serde_json::json!({"all": all, "errors": errors, "not_begun": not_begun}));
        Ok(())
    }
}

/// Writes, and waits until a replica has it: whether one said so in time.
async fn write(connection: &mut BufReader<TcpStream>, line: &str) -> std::io::Result<bool> {
    connection.get_mut().write_all(line.as_bytes()).await?;
    let (mut set, mut wait) = (String::new(), String::new());
    connection.read_line(&mut set).await?;
    connection.read_line(&mut wait).await?;
    let replicas = wait.trim().strip_prefix(':').and_then(|count| count.parse::<u32>().ok());
    Ok(set.trim() == "+OK" && replicas.is_some_and(|count| count >= 1))
}
