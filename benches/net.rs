//! Requests per second and CPU time per request of `net` on loopback, both ends in one process.
//!
//! `cargo bench --bench net [SECONDS]` prints a table. It measures the frames alone: the handler echoes.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used, missing_docs)]

#[path = "../tests/support/certs.rs"]
mod certs;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use bytes::BufMut;
use bytes::Bytes;
use dynamomini::env::Env;
use dynamomini::net::BindConfig;
use dynamomini::net::Connection;
use dynamomini::net::Endpoint;
use dynamomini::net::EndpointKeys;
use dynamomini::net::Expect;
use dynamomini::net::Handler;
use dynamomini::net::Incoming;
use dynamomini::net::PemFile;
use dynamomini::net::Socket;
use dynamomini::net::TlsMaterial;
use dynamomini::net::TransportSettings;
use dynamomini::net::tls::ring_provider;

#[derive(Clone)]
struct Echo;

impl Handler for Echo {
    async fn handle(&self, request: Incoming) -> Bytes {
        request.body
    }
}

/// Answers from another task, as a store does: every request waits once.
#[derive(Clone)]
struct Queued(tokio::sync::mpsc::Sender<(Bytes, tokio::sync::oneshot::Sender<Bytes>)>);

impl Queued {
    fn start() -> Self {
        let (sender, mut queue) = tokio::sync::mpsc::channel::<(Bytes, tokio::sync::oneshot::Sender<Bytes>)>(4096);
        tokio::spawn(async move {
            let mut batch = Vec::new();
            while queue.recv_many(&mut batch, 256).await > 0 {
                for (body, reply) in batch.drain(..) {
                    drop(reply.send(body));
                }
            }
        });
        Self(sender)
    }
}

impl Handler for Queued {
    async fn handle(&self, request: Incoming) -> Bytes {
        let (reply, answer) = tokio::sync::oneshot::channel();
        drop(self.0.send((request.body, reply)).await);
        answer.await.unwrap_or_default()
    }
}

fn endpoint(authority: &certs::Authority, uri: &str, settings: &TransportSettings) -> Endpoint {
    let issued = authority.issue(&[uri]);
    let provider = ring_provider();
    let file = |bytes| PemFile { name: "memory", bytes };
    let (chain, key) = (file(issued.chain.as_bytes()), file(issued.key.as_bytes()));
    let material = TlsMaterial::from_pem(chain, key, file(authority.root.as_bytes()), &provider).unwrap();
    let env = Env::real();
    let keys = EndpointKeys::generate(&env);
    let socket = Socket::Address("127.0.0.1:0".parse().unwrap());
    Endpoint::bind(BindConfig { socket, material, provider, keys, settings: settings.clone() }, &env).unwrap()
}

fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

async fn load(connection: &Connection, in_flight: usize, size: usize, length: Duration) -> (u64, Duration, Duration) {
    let done = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let body = vec![7; size];
    let workers: Vec<_> = (0..in_flight)
        .map(|_| {
            let (connection, done, stop, body) = (connection.clone(), done.clone(), stop.clone(), body.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let reply = connection.request(Duration::from_secs(5), |buffer| buffer.put_slice(&body)).await;
                    assert_eq!(reply.unwrap().len(), body.len());
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (before, cpu, start) = (done.load(Ordering::Relaxed), cpu_time(), Instant::now());
    tokio::time::sleep(length).await;
    let result = (done.load(Ordering::Relaxed) - before, cpu_time() - cpu, start.elapsed());
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
    result
}

async fn measure<H: Handler>(name: &str, handler: H, settings: TransportSettings, length: Duration) {
    let authority = certs::Authority::new("bench");
    let server = endpoint(&authority, "dynamomini://node/n1", &settings);
    server.serve(handler);
    let client = endpoint(&authority, "dynamomini://client/bench", &settings);
    let address = server.local_addr().unwrap();
    for (lanes, in_flight, size) in [(1, 1, 128), (1, 64, 128), (1, 64, 1024), (4, 64, 1024), (1, 1024, 128)] {
        let connection = client.connect(address, &Expect::AnyNode, lanes).await.unwrap();
        let sent = (client.counters().frames_sent.get(), client.counters().batches_sent.get());
        let (requests, cpu, wall) = load(&connection, in_flight, size, length).await;
        let sent = (client.counters().frames_sent.get() - sent.0, client.counters().batches_sent.get() - sent.1);
        let (requests, batch) = (requests as f64, sent.0 as f64 / sent.1 as f64);
        println!(
            "{name:28} lanes {lanes} in flight {in_flight:5} size {size:5}: {:8.0} requests/s {:6.2} us CPU each, batch {batch:.1}",
            requests / wall.as_secs_f64(),
            cpu.as_secs_f64() * 1e6 / requests,
        );
    }
    client.close(Duration::from_secs(1)).await;
    server.close(Duration::from_secs(1)).await;
}

fn main() {
    let seconds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(3);
    let length = Duration::from_secs(seconds);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        for mtu_upper_bound in [1452, 4096, 8952, 16_000, 65_000] {
            let settings = TransportSettings { mtu_upper_bound, ..TransportSettings::default() };
            measure(&format!("echo, MTU {mtu_upper_bound}"), Echo, settings.clone(), length).await;
            if mtu_upper_bound == 1452 || mtu_upper_bound == 16_000 {
                measure(&format!("queued, MTU {mtu_upper_bound}"), Queued::start(), settings, length).await;
            }
        }
        let acks = TransportSettings { mtu_upper_bound: 1452, ack_every: 20, ..TransportSettings::default() };
        measure("echo, MTU 1452, ack every 20", Echo, acks, length).await;
    });
}
