//! The shopping cart of the Dynamo paper: carts are sets, two devices change one cart without knowing of each other, and the
//! reader gets the union. Nothing that was put into a cart is lost; what one device took out while the other wrote comes back.
//!
//! Needs the `client` feature only. With a cluster of `dynamomini dev` running:
//!
//! ```sh
//! cargo run --example cart -- 127.0.0.1:7600 CA.crt CLIENT.crt CLIENT.key
//! ```

use std::collections::BTreeSet;
use std::error::Error;
use std::io::{self, Write};

use bytes::Bytes;
use dynamomini::client::{Client, ClientError, PutOptions, Session, UnionOfSets};
use dynamomini::net::{TlsFiles, TlsMaterial};

/// The key of the cart.
const CART: &str = "example/cart";

/// A device of the customer: what it has seen of the cart is in its session.
struct Device {
    session: Session,
}

impl Device {
    fn new(client: &Client) -> Self {
        Self { session: client.with_resolver(UnionOfSets::default()).session() }
    }

    /// Reads the cart: one set, however many siblings there are.
    async fn look(&self) -> Result<BTreeSet<Bytes>, ClientError> {
        let found = self.session.get(CART).await?;
        Ok(found.single().map(|cart| UnionOfSets::default().members(cart)).unwrap_or_default())
    }

    /// Writes the cart; this replaces what this device has seen, and nothing else.
    async fn save(&self, cart: &BTreeSet<Bytes>) -> Result<(), ClientError> {
        self.session.put(CART, UnionOfSets::default().value(cart), PutOptions::default()).await.map(drop)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, ca, cert, key] = &args[..] else {
        return Err("usage: cart HOST:PORT CA CERT KEY".into());
    };
    let files = TlsFiles { ca: ca.into(), cert: cert.into(), key: key.into() };
    let client = Client::builder(TlsMaterial::load(&files)?).node(address).connect().await?;
    let (phone, laptop) = (Device::new(&client), Device::new(&client));

    phone.look().await?;
    phone.save(&BTreeSet::from([Bytes::from("milk"), Bytes::from("apples")])).await?;
    // Both look at the same cart, and change it without knowing of each other.
    let (mut on_phone, mut on_laptop) = (phone.look().await?, laptop.look().await?);
    on_phone.insert(Bytes::from("pears"));
    on_laptop.insert(Bytes::from("bread"));
    on_laptop.remove(&b"apples"[..]);
    phone.save(&on_phone).await?;
    laptop.save(&on_laptop).await?;

    let siblings = client.get(CART).await?.siblings.len();
    let cart = phone.look().await?;
    let things: Vec<_> = cart.iter().map(|thing| String::from_utf8_lossy(thing)).collect();
    say(&format!("{siblings} siblings, one cart: {}", things.join(", ")))?;
    // The next write has seen both, and settles it.
    phone.save(&cart).await?;
    say(&format!("settled: {} sibling", client.get(CART).await?.siblings.len()))?;
    client.close().await;
    Ok(())
}

fn say(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}
