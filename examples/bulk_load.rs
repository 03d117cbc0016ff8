//! Loads many keys fast and reads them back: batches go to the owners of their keys, several at a time, from one task; the
//! client waits by itself when too much is under way.
//!
//! Needs the `client` feature only. With a cluster of `dynamomini dev` running:
//!
//! ```sh
//! cargo run --release --example bulk_load -- 127.0.0.1:7600 CA.crt CLIENT.crt CLIENT.key 100000
//! ```

use std::error::Error;
use std::io::{self, Write};
use std::time::Duration;

use bytes::Bytes;
use dynamomini::client::{BatchPut, CausalContext, Client, ClientError, PutOptions, ScanOptions};
use dynamomini::net::{TlsFiles, TlsMaterial};
use futures_util::stream;
use futures_util::{StreamExt, TryStreamExt};
use tokio::time::Instant;

/// Keys of one call.
const BATCH: usize = 1_000;
/// Calls under way at once.
const AT_ONCE: usize = 4;

fn item(number: usize) -> BatchPut {
    BatchPut {
        key: Bytes::from(format!("example/bulk/{number}")),
        value: Some(Bytes::from(format!("value of {number}"))),
        context: CausalContext::default(),
        ttl: Some(Duration::from_secs(3600)),
        condition: None,
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, ca, cert, key, count] = &args[..] else {
        return Err("usage: bulk_load HOST:PORT CA CERT KEY KEYS".into());
    };
    let count: usize = count.parse()?;
    let files = TlsFiles { ca: ca.into(), cert: cert.into(), key: key.into() };
    let client = Client::builder(TlsMaterial::load(&files)?).node(address).connect().await?;

    let began = Instant::now();
    let (written, failed) = load(&client, count).await;
    writeln!(io::stdout(), "{written} written, {failed} of them failed, in {:?}", began.elapsed())?;
    let found = found(&client).await?;
    let reads = client.metrics().others.latency;
    writeln!(io::stdout(), "{found} found; half of the pages took up to {:?}", reads.per_mille(500))?;
    client.close().await;
    Ok(())
}

/// Writes all keys. How many that were, and how many of them failed: each stands alone, and can be written again.
async fn load(client: &Client, count: usize) -> (usize, usize) {
    let batches = (0..count).step_by(BATCH).map(|first| {
        let items = (first..count.min(first + BATCH)).map(item).collect();
        client.multi_put(items, PutOptions { timeout: Some(Duration::from_secs(30)), ..PutOptions::default() })
    });
    let mut batches = stream::iter(batches).buffer_unordered(AT_ONCE);
    let (mut written, mut failed) = (0, 0);
    while let Some(outcomes) = batches.next().await {
        failed += outcomes.iter().filter(|outcome| outcome.is_err()).count();
        written += outcomes.len();
    }
    (written, failed)
}

/// Counts the keys that are there.
async fn found(client: &Client) -> Result<usize, ClientError> {
    let scan = client.scan("example/bulk/", ScanOptions { keys_only: true, ..ScanOptions::default() });
    scan.into_stream().try_fold(0, async |found, _| Ok(found + 1)).await
}
