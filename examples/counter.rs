//! A counter that several writers raise at once and that loses nothing: each writer counts for itself, in a line of its own,
//! and a resolver of this program's own joins what concurrent writers left.
//!
//! Needs the `client` feature only. With a cluster of `dynamomini dev` running:
//!
//! ```sh
//! cargo run --example counter -- 127.0.0.1:7600 CA.crt CLIENT.crt CLIENT.key
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, Write};

use bytes::Bytes;
use dynamomini::client::{Client, ClientError, PutOptions, Resolve, Session, Sibling};
use dynamomini::net::{TlsFiles, TlsMaterial};

/// The key of the counter.
const VISITS: &str = "example/visits";

/// What each writer has counted. A writer's own count only grows, so of two the greater is the later one.
#[derive(Debug, Default)]
struct Counts(BTreeMap<String, u64>);

impl Counts {
    fn read(value: &[u8]) -> Self {
        let text = String::from_utf8_lossy(value);
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        Self(lines.filter_map(|(writer, count)| Some((writer.to_owned(), count.parse().ok()?))).collect())
    }

    fn join(&mut self, other: Self) {
        for (writer, count) in other.0 {
            let held = self.0.entry(writer).or_default();
            *held = count.max(*held);
        }
    }

    fn value(&self) -> Bytes {
        let lines: Vec<String> = self.0.iter().map(|(writer, count)| format!("{writer} {count}")).collect();
        Bytes::from(lines.join("\n"))
    }
}

/// Joins the counts of siblings.
#[derive(Debug)]
struct JoinCounts;

impl Resolve for JoinCounts {
    fn resolve(&self, _key: &[u8], siblings: Vec<Sibling>) -> Vec<Sibling> {
        let mut all = Counts::default();
        siblings.iter().for_each(|sibling| all.join(Counts::read(&sibling.value)));
        let last = siblings.into_iter().max_by_key(|sibling| sibling.stamp);
        last.map(|last| Sibling { value: all.value(), ..last }).into_iter().collect()
    }
}

/// Adds one as this writer. Under a session no write of its own is missed, and concurrent ones are joined.
async fn add(session: &Session, writer: &str) -> Result<(), ClientError> {
    let found = session.get(VISITS).await?;
    let mut counts = found.single().map(|value| Counts::read(value)).unwrap_or_default();
    *counts.0.entry(writer.to_owned()).or_default() += 1;
    session.put(VISITS, counts.value(), PutOptions::default()).await.map(drop)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, ca, cert, key] = &args[..] else {
        return Err("usage: counter HOST:PORT CA CERT KEY".into());
    };
    let files = TlsFiles { ca: ca.into(), cert: cert.into(), key: key.into() };
    let client = Client::builder(TlsMaterial::load(&files)?).node(address).connect().await?;
    client.delete(VISITS, PutOptions::after(&client.get(VISITS).await?.context)).await?;

    let joined = client.with_resolver(JoinCounts);
    let writer = async |name: &str| -> Result<(), ClientError> {
        let session = joined.session();
        for _ in 0..20 {
            add(&session, name).await?;
        }
        Ok(())
    };
    tokio::try_join!(writer("north"), writer("south"), writer("west"))?;

    let found = joined.get(VISITS).await?;
    let counts = found.single().map(|value| Counts::read(value)).unwrap_or_default();
    let total: u64 = counts.0.values().sum();
    writeln!(io::stdout(), "{total} visits, counted by {} writers", counts.0.len())?;
    client.close().await;
    Ok(())
}
