//! The nodes a client knows: the cluster as last learnt, a link to each member, and whom it doubts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use rand::{Rng, RngExt};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::client::ClientError;
use crate::client::metrics::Meter;
use crate::client::table::Table;
use crate::client::target::Target;
use crate::env::Env;
use crate::meter::micros;
use crate::net::link::{Link, LinkSettings};
use crate::net::pool::Pool;
use crate::net::{Endpoint, Expect};
use crate::types::{Namespace, NodeName, Zone};
use crate::view::ClusterView;
use crate::wire::rpc::{ClusterInfo, GetRequest, Request, Traced};

/// How long a doubted node has to answer a question.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

/// The nodes a client knows.
#[derive(Debug)]
pub(crate) struct Routes {
    endpoint: Endpoint,
    links: LinkSettings,
    pool: Pool,
    /// Of everything that runs for this client.
    scope: Env,
    addresses: Vec<String>,
    zone: Option<Zone>,
    seeds: Mutex<Vec<Arc<Target>>>,
    table: RwLock<Option<Arc<Table>>>,
    /// Another cluster, or a node that is doubted or trusted again.
    pub(crate) news: Notify,
    targets_made: AtomicU64,
    dice: AtomicU64,
    started: Instant,
    pub(crate) meter: Arc<Meter>,
}

impl Routes {
    pub(crate) fn new(
        endpoint: Endpoint,
        addresses: Vec<String>,
        zone: Option<Zone>,
        links: LinkSettings,
        scope: &Env,
    ) -> Self {
        let routes = Self {
            pool: Pool::new(&endpoint, links.clone(), scope),
            endpoint,
            links,
            scope: scope.clone(),
            addresses,
            zone,
            seeds: Mutex::default(),
            table: RwLock::default(),
            news: Notify::new(),
            targets_made: AtomicU64::new(0),
            dice: AtomicU64::new(scope.rng("client-dice").next_u64()),
            started: Instant::now(),
            meter: Arc::default(),
        };
        routes.renew_seeds();
        routes
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Microseconds of this client's clock.
    pub(crate) fn now_us(&self) -> u64 {
        micros(self.started.elapsed())
    }

    /// A random number, cheap and of no secret.
    pub(crate) fn roll(&self) -> u64 {
        // SplitMix64: a counter in steps of the golden ratio, mixed.
        let mut roll = self.dice.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        roll = (roll ^ (roll >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        roll = (roll ^ (roll >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        roll ^ (roll >> 31)
    }

    /// The routes as last learnt.
    pub(crate) fn table(&self) -> Option<Arc<Table>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The nodes to begin with.
    pub(crate) fn seeds(&self) -> Vec<Arc<Target>> {
        self.seeds.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn target(&self, label: String, link: Link) -> Arc<Target> {
        Arc::new(Target::new(self.targets_made.fetch_add(1, Ordering::Relaxed), label, link))
    }

    /// Forgets the connections to seeds: members have their own. They are connected to again when nobody else answers.
    fn renew_seeds(&self) {
        let seed = |address: &String| {
            let link =
                Link::new(&self.endpoint, Expect::AnyNode, vec![address.clone()], self.links.clone(), &self.scope);
            self.target(address.clone(), link)
        };
        let seeds = self.addresses.iter().map(seed).collect();
        *self.seeds.lock().unwrap_or_else(PoisonError::into_inner) = seeds;
    }

    /// Takes a newly learnt cluster: connections to members that stay are kept.
    pub(crate) async fn learn(&self, info: ClusterInfo) -> Result<Arc<ClusterView>, ClientError> {
        // Rings of large clusters take milliseconds.
        let known = self.table().map(|table| table.view.clone());
        let compute = move || match known {
            Some(known) => known.becoming(info),
            None => ClusterView::new(info),
        };
        let view = self.scope.blocking(compute).await.ok_or(ClientError::Closed)??;
        let before = self.table();
        if let Some(before) = &before
            && (before.view.digest() == view.digest() || before.view.version() > view.version())
        {
            return Ok(before.view.clone());
        }
        let view = Arc::new(view);
        let members: BTreeMap<&NodeName, &String> =
            view.members().values().map(|member| (&member.name, &member.quic)).collect();
        self.pool.retain(|name| members.contains_key(name));
        let table = Table::new(view.clone(), self.zone.as_ref(), |name| {
            let addresses: Vec<String> = members.get(name).map(|address| (*address).clone()).into_iter().collect();
            // Moves a link that exists.
            let link = self.pool.link(name, &addresses);
            let kept = before.as_ref().and_then(|before| before.named(name)).cloned();
            kept.unwrap_or_else(|| self.target(name.to_string(), link))
        });
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(table));
        self.renew_seeds();
        self.meter.views.one();
        self.news.notify_waiters();
        tracing::debug!(members = view.members().len(), "the client has learnt the cluster");
        Ok(view)
    }

    /// A node answered a request.
    pub(crate) fn heard(&self, target: &Target, now_us: u64) {
        if target.heard(now_us) {
            self.news.notify_waiters();
        }
    }

    /// Prefers others to a node that let a request down, until it answers.
    pub(crate) fn doubt(self: &Arc<Self>, target: &Arc<Target>) {
        let Some(pause) = target.doubt() else { return };
        self.meter.doubts.one();
        tracing::debug!(node = %target.label, "the client avoids a node that did not answer");
        self.news.notify_waiters();
        let (routes, target, scope) = (self.clone(), target.clone(), self.scope.clone());
        self.scope.spawn("client/probe", async move {
            tokio::select! {
                biased;
                () = scope.stopped() => {}
                () = routes.probe(&target, pause) => {}
            }
        });
    }

    /// Asks a doubted node for nothing, again and again, until it answers or somebody else got an answer of it.
    async fn probe(&self, target: &Arc<Target>, mut pause: Duration) {
        let mut rng = self.scope.rng("client-probe");
        for questions in 0_u32.. {
            tokio::time::sleep(pause.mul_f64(rng.random_range(0.5..1.0))).await;
            let member = self.table().is_some_and(|table| table.targets.iter().any(|known| Arc::ptr_eq(known, target)));
            if !target.is_doubted() || !member {
                return;
            }
            target.link.retry_now();
            let nothing =
                Request::Get(GetRequest { namespace: Namespace::default(), keys: Vec::new(), r: None, strict: false });
            let nothing = Traced::untraced(nothing);
            let answer = target.link.request(PROBE_PATIENCE, |frame| encode(&nothing, frame)).await;
            // Whatever it says, it speaks.
            if answer.is_ok() {
                if target.trust(self.now_us()) {
                    tracing::debug!(node = %target.label, "a node answers again");
                    self.news.notify_waiters();
                }
                return;
            }
            pause = pause.max(Target::pause(questions));
        }
    }
}

/// Appends a request to a frame.
pub(crate) fn encode(request: &Traced, frame: &mut BytesMut) {
    postcard::to_io(request, frame.writer()).expect("messages always encode into memory");
}
