//! Hearing of changes: the cluster's description, pushed by one node at a time, and news of members for applications.
//!
//! What a member is said to be comes from nodes; whether it answers is this client's own experience.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::client::choose::{Pick, Standing};
use crate::client::order::{Order, Whom};
use crate::client::route::{Routes, encode};
use crate::client::target::Target;
use crate::env::Env;
use crate::limits;
use crate::types::{ClusterName, NodeName};
use crate::wire::blob;
use crate::wire::rpc::{MemberInfo, Reply, Request, Traced};

/// Pause before the first question, so that a client that lives briefly asks none, and after one that failed.
const PAUSE: Duration = Duration::from_millis(500);
/// Longest pause after questions that failed.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How much later than it was told to a node may answer.
const GRACE: Duration = Duration::from_secs(1);

/// Keeps the routes up to date until the scope is told to stop.
pub(crate) async fn follow(routes: Arc<Routes>, cluster: Option<ClusterName>, scope: Env) {
    tokio::select! {
        biased;
        () = scope.stopped() => {}
        () = follow_forever(&routes, cluster.as_ref(), &scope) => {}
    }
}

async fn follow_forever(routes: &Routes, cluster: Option<&ClusterName>, scope: &Env) {
    let mut rng = scope.rng("client-watch");
    let mut current: Option<Arc<Target>> = None;
    let mut pause = PAUSE;
    sleep(pause.mul_f64(rng.random_range(0.5..1.0))).await;
    loop {
        let node = current.take().filter(|target| target.standing() == Standing::Ready);
        let Some(node) = node.or_else(|| Order::new(routes, Whom::Anyone, Pick::Cheapest).next()) else { return };
        let asked = Instant::now();
        let news = tokio::select! {
            biased;
            news = ask(routes, cluster, &node) => news,
            () = doubted(routes, &node) => None,
        };
        // A node that says at once that nothing is new is shutting down, or has no room.
        if news.is_some_and(|changed| changed || asked.elapsed() > PAUSE) {
            (current, pause) = (Some(node), PAUSE);
        } else {
            sleep(pause.mul_f64(rng.random_range(0.0..1.0))).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// Asks a node for another cluster than the one that is known. Whether there was one; `None` when it did not answer.
async fn ask(routes: &Routes, cluster: Option<&ClusterName>, node: &Target) -> Option<bool> {
    let (known, version) = {
        let view = &routes.table()?.view;
        (view.digest(), view.version())
    };
    let patience = limits::WATCH_MAX + GRACE;
    let question = Traced::untraced(Request::Watch { known });
    let answer = node.link.request(patience, |frame| encode(&question, frame)).await.ok()?;
    let info = match blob::decode::<Reply>(&answer).ok()? {
        Reply::View(info) => info,
        Reply::Unchanged => return Some(false),
        _ => return None,
    };
    if cluster.is_some_and(|cluster| *cluster != info.cluster) {
        tracing::warn!(node = %node.label, cluster = %info.cluster, "a node is of another cluster; it is not believed");
        return None;
    }
    if info.layout.version < version {
        // What is known is later; asked again, that node would answer at once.
        return None;
    }
    match routes.learn(info).await {
        Ok(_) => Some(true),
        Err(error) => {
            tracing::warn!(node = %node.label, %error, "a node's description of the cluster was not taken up");
            None
        }
    }
}

async fn doubted(routes: &Routes, node: &Target) {
    loop {
        let mut news = std::pin::pin!(routes.news.notified());
        news.as_mut().enable();
        if node.is_doubted() {
            return;
        }
        news.await;
    }
}

/// What became of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberEvent {
    /// It is a member now.
    Joined(NodeName),
    /// It is no member any more.
    Left(NodeName),
    /// Its address, zone or weight is another.
    Changed(NodeName),
    /// It let a request of this client down; others are asked instead.
    Silent(NodeName),
    /// It answers this client again.
    Answers(NodeName),
}

/// News of the members, from [`Client::member_events`]. What changes twice between two calls may show once or not at all: it holds
/// the last state, never a queue that could grow.
#[derive(Debug)]
pub struct MemberEvents {
    client: Client,
    known: BTreeMap<NodeName, (MemberInfo, bool)>,
    ready: VecDeque<MemberEvent>,
}

impl MemberEvents {
    pub(crate) fn new(client: Client) -> Self {
        let known = now(&client);
        Self { client, known, ready: VecDeque::new() }
    }

    /// The next event since this was made; `None` once the client is closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<MemberEvent> {
        let routes = self.client.routes().clone();
        let scope = self.client.inner.scope.clone();
        loop {
            let mut news = std::pin::pin!(routes.news.notified());
            // From here on no change is missed.
            news.as_mut().enable();
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let now = now(&self.client);
            self.ready = difference(&self.known, &now);
            self.known = now;
            if self.ready.is_empty() {
                tokio::select! {
                    biased;
                    () = scope.stopped() => return None,
                    () = news => {}
                }
            }
        }
    }
}

/// The members, and which of them are doubted.
fn now(client: &Client) -> BTreeMap<NodeName, (MemberInfo, bool)> {
    let Some(table) = client.routes().table() else { return BTreeMap::new() };
    let doubted = |name| table.named(name).is_some_and(|target| target.is_doubted());
    let members = table.view.members().values();
    members.map(|member| (member.name.clone(), (member.clone(), doubted(&member.name)))).collect()
}

fn difference(
    before: &BTreeMap<NodeName, (MemberInfo, bool)>,
    after: &BTreeMap<NodeName, (MemberInfo, bool)>,
) -> VecDeque<MemberEvent> {
    let mut events = VecDeque::new();
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    events.extend(gone.cloned().map(MemberEvent::Left));
    for (name, (info, doubted)) in after {
        match before.get(name) {
            None => events.push_back(MemberEvent::Joined(name.clone())),
            Some((known, _)) if known != info => events.push_back(MemberEvent::Changed(name.clone())),
            Some(_) => {}
        }
        match (before.get(name).is_some_and(|(_, doubted)| *doubted), doubted) {
            (false, true) => events.push_back(MemberEvent::Silent(name.clone())),
            (true, false) => events.push_back(MemberEvent::Answers(name.clone())),
            _ => {}
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_between_two_states_is_told_once_for_each_member() {
        let name = |name: &str| NodeName::new(name).unwrap();
        let info = |node: &str, quic: &str| MemberInfo {
            name: name(node),
            quic: quic.to_owned(),
            zone: "z".parse().unwrap(),
            weight: 1,
        };
        let state = |members: &[(&str, &str, bool)]| -> BTreeMap<NodeName, (MemberInfo, bool)> {
            members.iter().map(|(node, quic, doubted)| (name(node), (info(node, quic), *doubted))).collect()
        };
        let before = state(&[("a", "1", false), ("b", "1", true), ("c", "1", false)]);
        let after = state(&[("b", "2", false), ("c", "1", true), ("d", "1", false)]);
        let events: Vec<MemberEvent> = difference(&before, &after).into();
        use MemberEvent::{Answers, Changed, Joined, Left, Silent};
        let told = [Left(name("a")), Changed(name("b")), Answers(name("b")), Silent(name("c")), Joined(name("d"))];
        assert_eq!(events, told);
        assert!(difference(&after, &after).is_empty());
    }
}
