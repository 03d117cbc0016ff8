//! The client library in one page: connect, write, read, and settle a conflict that two writers left.
//!
//! Needs the `client` feature only. With a cluster of `dynamomini dev` running:
//!
//! ```sh
//! cargo run --example quickstart -- 127.0.0.1:7600 CA.crt CLIENT.crt CLIENT.key
//! ```
//!
//! `client.toml`, which `dev` writes, names the addresses and the three files.

use std::error::Error;
use std::io::{self, Write};

use bytes::Bytes;
use dynamomini::client::{Client, Found, PutOptions};
use dynamomini::net::{TlsFiles, TlsMaterial};

/// The key that is written, under a prefix of its own.
const KEY: &str = "quickstart/cart";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, ca, cert, key] = &args[..] else {
        return Err("usage: quickstart HOST:PORT CA CERT KEY".into());
    };
    let files = TlsFiles { ca: ca.into(), cert: cert.into(), key: key.into() };
    // One node that answers is enough: it names the others, and each request then goes to an owner of its key.
    let client = Client::builder(TlsMaterial::load(&files)?).node(address).connect().await?;

    // A write that replaces whatever a read has just seen.
    let before = client.get(KEY).await?;
    client.put(KEY, "milk", PutOptions::after(&before.context)).await?;

    // Two writers who have read the same go on without knowing of each other. Neither write is lost.
    let seen = client.get(KEY).await?;
    client.put(KEY, "milk,apples", PutOptions::after(&seen.context)).await?;
    client.put(KEY, "milk,pears", PutOptions::after(&seen.context)).await?;

    // The next reader gets both, and settles it: the context of its read makes its write replace both.
    let found = client.get(KEY).await?;
    say(&format!("{} siblings", found.siblings.len()))?;
    client.put(KEY, union(&found), PutOptions::after(&found.context)).await?;

    let settled = client.get(KEY).await?;
    let value = settled.single().ok_or("somebody else writes to the same key")?;
    say(&format!("settled: {}", String::from_utf8_lossy(value)))?;
    client.close().await;
    Ok(())
}

/// What all siblings hold, each thing once.
fn union(found: &Found) -> Bytes {
    let texts: Vec<String> =
        found.siblings.iter().map(|sibling| String::from_utf8_lossy(&sibling.value).into_owned()).collect();
    let mut things: Vec<&str> = texts.iter().flat_map(|text| text.split(',')).collect();
    things.sort_unstable();
    things.dedup();
    Bytes::from(things.join(","))
}

fn say(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}
