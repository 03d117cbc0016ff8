//! Greetings: over a mutually authenticated connection, members exchange the keyring and the certificates without which
//! they do not understand each other's datagrams, and tell where those go.
//!
//! Everybody connected is greeted once, again when the keyring changes or a certificate is lacking, and now and then.
//! Seeds are greeted wherever their names lead, for ever.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};

use crate::limits;
use crate::net::{Connection, Expect, Identity, link};
use crate::node::ask::By;
use crate::node::core::Core;
use crate::node::gossip::Gossip;
use crate::node::gossip::orders::Order;
use crate::node::peers::encode;
use crate::seal::{Boot, Keyring};
use crate::types::{NodeId, NodeName};
use crate::wire::blob::{self, Blob};
use crate::wire::gossip::{GossipReply, GossipRequest, Hello, SecretBlob};
use crate::wire::rpc::{Reply, Request, ServeError, Traced};

/// Pause between looks at who is to be greeted.
const TICK: Duration = Duration::from_millis(250);
/// Looks that found nobody, after which that is so: connections to new members take a moment.
const CALM: u32 = 40;
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time between greetings of members about whom nothing is known to have changed, one after another; and between those of a
/// seed.
const AGAIN: Duration = Duration::from_secs(30);
/// First and longest pause between attempts to reach a seed.
const SEED_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// Greetings in which all certificates are asked for; later only those that are lacking.
const ASK_ALL: u64 = 3;

/// What a greeting brought.
#[derive(Debug, Clone)]
pub(crate) struct Met {
    /// Where the member's datagrams go.
    pub(crate) gossip: std::net::SocketAddr,
    /// How far its clock was ahead of this node's, in milliseconds.
    pub(crate) ahead_ms: i64,
    /// Its keyring.
    pub(crate) digest: u64,
    /// This node's keyring at the time.
    pub(crate) told: u64,
    pub(crate) at: Instant,
    /// Whether it has certificates that this node lacks.
    pub(crate) lacking: bool,
}

impl Gossip {
    fn hello(&self, want_all: bool) -> Hello {
        let address = *self.address.lock().unwrap_or_else(PoisonError::into_inner);
        let keyring = postcard::to_stdvec(&*self.keys.ring()).expect("a keyring always encodes into memory");
        Hello {
            cluster: self.cluster.clone(),
            boot: self.boot.0,
            gossip: address.map(|address| address.to_string()).unwrap_or_default(),
            wall_ms: self.env.wall_ms(),
            keyring: SecretBlob(Blob(keyring.into())),
            credentials: vec![self.notary.own()],
            want: self.notary.lacking(),
            want_all,
        }
    }

    /// Takes in what a member said in a greeting, asked or unasked. Returns its keyring's digest.
    fn heed(&self, node: NodeId, name: &NodeName, hello: &Hello) -> Result<u64, ServeError> {
        if hello.cluster != self.cluster {
            let text = format!("this is cluster {}, not {}: correct cluster.seeds", self.cluster, hello.cluster);
            return Err(ServeError::Forbidden(text));
        }
        let unreadable = |_| ServeError::Invalid("the keyring cannot be read: is the other side newer?".to_owned());
        let ring: Keyring = postcard::from_bytes(&hello.keyring.0).map_err(unreadable)?;
        let (before, _) = self.notary.progress();
        let merged = self.keys.change(|own| own.merge(&ring));
        let changed = merged.map_err(|error| {
            tracing::warn!(peer = %name, %error, "the keyring of a member cannot be taken over");
            ServeError::Invalid(error.to_string())
        })?;
        self.notary.learn(&hello.credentials);
        if changed.1 {
            tracing::info!(from = %name, "the keyring of gossip changed");
            self.greet.notify_one();
        }
        self.tell(Order::Expect(node, Boot(hello.boot)));
        if changed.1 || self.notary.progress().0 != before || !hello.credentials.is_empty() {
            self.tell(Order::Learnt);
        }
        Ok(ring.digest())
    }

    /// Answers a greeting.
    pub(crate) fn welcome(&self, name: &NodeName, node: NodeId, hello: &Hello) -> Result<Hello, ServeError> {
        if *name == self.name {
            let text = format!("this is node {name}, too: two processes have one name and certificate");
            return Err(ServeError::Forbidden(text));
        }
        self.heed(node, name, hello)?;
        let mut reply = self.hello(false);
        reply.credentials = self.notary.credentials(&hello.want, hello.want_all);
        Ok(reply)
    }

    /// Keeps what a member answered to this node's greeting.
    async fn took(&self, node: NodeId, name: &NodeName, hello: &Hello, told: u64, asked: (u64, Duration)) {
        let digest = match self.heed(node, name, hello) {
            Ok(digest) => digest,
            Err(error) => {
                tracing::warn!(peer = %name, %error, "a greeting was answered in a way that cannot be used");
                return;
            }
        };
        self.tally.greetings.one();
        let Ok(gossip) = hello.gossip.parse() else { return };
        let (sent_ms, rtt) = asked;
        let half = u64::try_from(rtt.as_millis() / 2).unwrap_or(0);
        let expected = i64::try_from(sent_ms.saturating_add(half)).unwrap_or(i64::MAX);
        let ahead_ms = i64::try_from(hello.wall_ms).unwrap_or(i64::MAX).saturating_sub(expected);
        let met = Met { gossip, ahead_ms, digest, told, at: Instant::now(), lacking: false };
        let seeds = {
            let mut all = self.met.lock().unwrap_or_else(PoisonError::into_inner);
            let moved = all.insert(node, met).is_none_or(|before| before.gossip != gossip);
            moved.then(|| all.values().map(|met| met.gossip).take(limits::SEEDS_MAX).collect())
        };
        if let Some(seeds) = seeds {
            self.order(Order::Seeds(seeds)).await;
        }
    }

    /// Notes that a member sent records whose certificates are not here: it has them.
    pub(crate) fn lacks_from(&self, node: NodeId) {
        if let Some(met) = self.met.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&node) {
            met.lacking = true;
        }
        self.greet.notify_one();
    }

    /// Has everybody greeted again, since what this node shows has changed.
    pub(crate) fn greet_anew(&self) {
        self.met.lock().unwrap_or_else(PoisonError::into_inner).values_mut().for_each(|met| met.lacking = true);
        self.greet.notify_one();
    }

    /// Those of the connected members with whom there is something to exchange; and the one whose turn it is otherwise.
    fn due(&self, connected: &[NodeId]) -> (Vec<NodeId>, Option<NodeId>) {
        let (own, now) = (self.keys.digest(), Instant::now());
        let mut all = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|node, _| connected.contains(node));
        let unknown = |node: &NodeId| all.get(node).is_none_or(|met| met.told != own || met.lacking);
        let strangers = connected.iter().copied().filter(unknown).collect();
        // Whatever the number of members, one of them at a time.
        let latest = all.values().map(|met| met.at).max();
        let longest = all.iter().min_by_key(|(_, met)| met.at).filter(|_| latest.is_none_or(|at| now > at + AGAIN));
        (strangers, longest.map(|(node, _)| *node))
    }

    /// Greets a member over its link. Returns whether it answered.
    pub(crate) async fn greet_peer(&self, core: &Core, node: NodeId) -> bool {
        let told = self.keys.digest();
        let hello = self.hello(self.tally.greetings.get() < ASK_ALL);
        let asked = (hello.wall_ms, Instant::now());
        let request = Request::Gossip(GossipRequest::Hello(Box::new(hello)));
        let answer = core.peers.request(node, request, By::itself(PATIENCE)).await;
        match answer {
            Ok(Reply::Gossip(GossipReply::Hello(hello))) => {
                let name = core.peers.name_of(node).unwrap_or_else(|| core.view().name_of(node));
                self.took(node, &name, &hello, told, (asked.0, asked.1.elapsed())).await;
                true
            }
            Ok(Reply::Error(error)) => {
                tracing::debug!(peer = %node, %error, "a greeting was refused");
                false
            }
            Ok(_) => false,
            Err(error) => {
                tracing::debug!(peer = %node, why = error.why, "a greeting was not answered");
                false
            }
        }
    }
}

/// Greets everybody that is connected, for as long as the node runs.
pub(crate) async fn greet_all(core: Arc<Core>, gossip: Arc<Gossip>) {
    let under_way: Arc<std::sync::Mutex<BTreeSet<NodeId>>> = Arc::default();
    let mut in_vain = 0;
    loop {
        let (strangers, again) = gossip.due(&core.peers.connected());
        // Until somebody was met, this node waits for its first keys.
        let quiet = strangers.is_empty() && gossip.tally.greetings.get() > 0;
        in_vain = if quiet { CALM.min(in_vain + 1) } else { 0 };
        for node in strangers.into_iter().chain(again) {
            let mut busy = under_way.lock().unwrap_or_else(PoisonError::into_inner);
            if busy.len() >= limits::GREETINGS_AT_ONCE || !busy.insert(node) {
                continue;
            }
            drop(busy);
            let (core, gossip, under_way) = (core.clone(), gossip.clone(), under_way.clone());
            gossip.env.clone().spawn("gossip/hello", async move {
                let answered = gossip.greet_peer(&core, node).await;
                under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
                // Those with whom nothing is new are no reason to look for more.
                if answered && again != Some(node) {
                    gossip.greet.notify_one();
                }
            });
        }
        let rest = async {
            if in_vain < CALM { gossip.env.beat(TICK).await } else { gossip.env.look(limits::LOOK_EVERY).await }
        };
        tokio::select! {
            biased;
            () = gossip.env.stopped() => return,
            () = rest => {}
            // News wait for a moment, so that a burst of them is one round.
            () = gossip.greet.notified() => {
                in_vain = 0;
                sleep(TICK / 10).await;
            }
        }
    }
}

/// Greets whoever is at a seed's addresses, for ever: first to find the cluster, later to find it again after a split.
pub(crate) async fn seek(core: Arc<Core>, gossip: Arc<Gossip>, seed: String) {
    let mut pause = SEED_PAUSE.0;
    let mut complained = false;
    loop {
        let reached = match link::resolve(&seed).await {
            Ok(addresses) => {
                let mut reached = false;
                for address in addresses.into_iter().take(limits::ADDRESSES_MAX) {
                    match timeout(PATIENCE * 2, greet_stranger(&core, &gossip, address)).await {
                        Ok(Ok(())) => reached = true,
                        Ok(Err(why)) => tracing::debug!(seed, %address, why, "a seed was not reached"),
                        Err(_) => tracing::debug!(seed, %address, "a seed did not answer in time"),
                    }
                }
                reached
            }
            Err(error) => {
                tracing::debug!(seed, %error, "a seed's name cannot be resolved");
                false
            }
        };
        if reached {
            (pause, complained) = (SEED_PAUSE.0, false);
        } else if !std::mem::replace(&mut complained, pause >= SEED_PAUSE.1) && pause >= SEED_PAUSE.1 {
            tracing::warn!(seed, "nobody of the cluster answers at this seed; it is tried for ever");
        }
        let wait = if reached { AGAIN } else { pause };
        tokio::select! {
            biased;
            () = gossip.env.stopped() => return,
            () = sleep(wait) => pause = (pause * 2).min(SEED_PAUSE.1),
        }
    }
}

async fn greet_stranger(core: &Core, gossip: &Gossip, address: std::net::SocketAddr) -> Result<(), String> {
    let connection = core.peers.endpoint().connect(address, &Expect::AnyNode, 1).await;
    let connection = connection.map_err(|error| error.to_string())?;
    let outcome = greet_over(&connection, gossip).await;
    connection.close();
    outcome
}

async fn greet_over(connection: &Connection, gossip: &Gossip) -> Result<(), String> {
    let Identity::Node(name) = connection.peer().identity().clone() else { return Err("it is no node".to_owned()) };
    if name == gossip.name {
        // One list of seeds serves all nodes, so it often names this one, too.
        return Ok(());
    }
    let told = gossip.keys.digest();
    let hello = gossip.hello(true);
    let asked = (hello.wall_ms, Instant::now());
    let request = Request::Gossip(GossipRequest::Hello(Box::new(hello)));
    let answer = connection.request(PATIENCE, |frame| encode(&Traced::untraced(request), frame)).await;
    let answer: Bytes = answer.map_err(|error| error.to_string())?;
    match blob::decode(&answer) {
        Ok(Reply::Gossip(GossipReply::Hello(hello))) => {
            let node = crate::hash::ClusterHash::node_id(&name);
            gossip.took(node, &name, &hello, told, (asked.0, asked.1.elapsed())).await;
            Ok(())
        }
        Ok(Reply::Error(error)) => {
            tracing::warn!(%error, "a seed refuses this node");
            Err(error.to_string())
        }
        Ok(_) => Err("it sent a reply of the wrong kind".to_owned()),
        Err(error) => Err(format!("it sent an unreadable reply: {error}")),
    }
}
