//! A UDP network in memory: latency, loss, duplication, reordering and cuts for each ordered pair of hosts, all from
//! the seed, and a running hash over everything that happens on it.
//!
//! A packet always costs the same number of random draws, so that changing one link's loss does not change the fate of
//! the packets of another. Packets of a pair keep their order unless one is chosen to be late.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::fmt;
use std::hash::Hasher;
use std::io;
use std::io::IoSliceMut;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;

use dynamomini::net::Datagrams;
use futures_util::future::BoxFuture;
use quinn::AsyncUdpSocket;
use quinn::UdpPoller;
use quinn::udp::RecvMeta;
use quinn::udp::Transmit;
use rand::RngExt;
use rand::rngs::StdRng;
use siphasher::sip::SipHasher13;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::world::Simulation;

/// Packets a socket holds unread; more are lost, as in a kernel.
const INBOX_MAX: usize = 4096;
/// Largest UDP payload that passes, as on Ethernet.
const PAYLOAD_MAX: usize = 1472;

/// How one direction between two hosts behaves.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Conditions {
    /// Least time a packet takes.
    pub(crate) latency: Duration,
    /// Most that is added to it.
    pub(crate) jitter: Duration,
    /// Probability that a packet is lost.
    pub(crate) loss: f64,
    /// Probability that it arrives twice.
    pub(crate) duplication: f64,
    /// Probability that later packets may overtake it.
    pub(crate) reordering: f64,
    /// Nothing passes.
    pub(crate) blocked: bool,
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(1),
            jitter: Duration::ZERO,
            loss: 0.0,
            duplication: 0.0,
            reordering: 0.0,
            blocked: false,
        }
    }
}

/// The network of one simulation. Clones share it.
#[derive(Clone)]
pub(crate) struct Network(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    sent: Notify,
    simulation: Simulation,
}

struct State {
    rng: StdRng,
    default: Conditions,
    links: BTreeMap<(IpAddr, IpAddr), Conditions>,
    /// When the last packet of a pair that keeps its order arrives.
    order: BTreeMap<(IpAddr, IpAddr), Instant>,
    under_way: BTreeMap<(Instant, u64), Packet>,
    sequence: u64,
    inboxes: BTreeMap<SocketAddr, Inbox>,
    trace: SipHasher13,
    log: Option<Vec<String>>,
}

#[derive(Default)]
struct Inbox {
    packets: VecDeque<Packet>,
    waker: Option<Waker>,
}

#[derive(Debug, Clone)]
struct Packet {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

impl Network {
    /// A network whose every pair behaves like this until told otherwise.
    #[expect(clippy::disallowed_methods, reason = "the network outlives every node's world")]
    pub(crate) fn new(simulation: &Simulation, default: Conditions) -> Self {
        let state = State {
            rng: simulation.rng("network"),
            default,
            links: BTreeMap::new(),
            order: BTreeMap::new(),
            under_way: BTreeMap::new(),
            sequence: 0,
            inboxes: BTreeMap::new(),
            trace: SipHasher13::new(),
            log: None,
        };
        let inner = Inner { state: Mutex::new(state), sent: Notify::new(), simulation: simulation.clone() };
        let network = Self(Arc::new(inner));
        tokio::spawn(network.clone().carry());
        network
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A socket at this address.
    pub(crate) fn socket(&self, address: SocketAddr) -> Arc<SimSocket> {
        let before = self.lock().inboxes.insert(address, Inbox::default());
        assert!(before.is_none(), "{address} is in use");
        Arc::new(SimSocket { network: self.clone(), address })
    }

    /// Frees the address at once: nothing is sent from there any more, and packets to it are lost.
    pub(crate) fn close(&self, address: SocketAddr) {
        let inbox = self.lock().inboxes.remove(&address);
        drop(inbox);
        self.event(&format!("close {address}"));
    }

    /// Changes how packets from one host to another fare.
    pub(crate) fn set(&self, from: IpAddr, to: IpAddr, change: impl FnOnce(&mut Conditions)) {
        let mut state = self.lock();
        let default = state.default.clone();
        change(state.links.entry((from, to)).or_insert(default));
    }

    /// Changes how packets fare between two hosts, both ways.
    pub(crate) fn set_both(&self, one: IpAddr, other: IpAddr, change: impl Fn(&mut Conditions)) {
        self.set(one, other, &change);
        self.set(other, one, &change);
    }

    /// Puts something that happened in the application into the trace.
    pub(crate) fn event(&self, what: &str) {
        self.lock().record(&self.0.simulation, what, None);
    }

    /// Keeps the trace as text from now on, to find where two runs part.
    pub(crate) fn keep_log(&self) {
        self.lock().log.get_or_insert_default();
    }

    /// The text kept so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.lock().log.clone().unwrap_or_default()
    }

    /// The hash over all that happened so far: times, addresses, and every byte of every packet.
    pub(crate) fn trace(&self) -> u64 {
        self.lock().trace.finish()
    }

    /// How long a packet takes on this way now; `None` when it is lost.
    fn way(&self, from: IpAddr, to: IpAddr) -> Option<Duration> {
        let mut state = self.lock();
        let link = state.links.get(&(from, to)).unwrap_or(&state.default).clone();
        let lost = state.rng.random::<f64>() < link.loss;
        (!link.blocked && !lost).then_some(link.latency)
    }

    fn send(&self, packet: Packet) {
        let mut state = self.lock();
        if !state.inboxes.contains_key(&packet.from) {
            return;
        }
        state.record(&self.0.simulation, "send", Some(&packet));
        if state.dispatch(packet) {
            drop(state);
            self.0.sent.notify_one();
        }
    }

    /// Moves packets to their inboxes when their time has come.
    async fn carry(self) {
        loop {
            let next = self.lock().under_way.first_key_value().map(|((due, _), _)| *due);
            let sent = self.0.sent.notified();
            match next {
                None => sent.await,
                Some(due) => {
                    tokio::select! {
                        biased;
                        () = sent => {}
                        () = tokio::time::sleep_until(due) => self.deliver(),
                    }
                }
            }
        }
    }

    fn deliver(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        let mut wakers = Vec::new();
        while let Some(entry) = state.under_way.first_entry().filter(|entry| entry.key().0 <= now) {
            let packet = entry.remove();
            state.record(&self.0.simulation, "arrive", Some(&packet));
            if let Some(inbox) = state.inboxes.get_mut(&packet.to)
                && inbox.packets.len() < INBOX_MAX
            {
                inbox.packets.push_back(packet);
                wakers.extend(inbox.waker.take());
            }
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl State {
    /// Decides the packet's fate. Returns whether anything is under way because of it.
    fn dispatch(&mut self, packet: Packet) -> bool {
        let pair = (packet.from.ip(), packet.to.ip());
        let link = self.links.get(&pair).unwrap_or(&self.default).clone();
        let mut chance = || self.rng.random::<f64>();
        let [loss, duplication, reordering, jitter, late] = std::array::from_fn(|_| chance());
        if link.blocked || loss < link.loss || packet.bytes.len() > PAYLOAD_MAX {
            return false;
        }
        let now = Instant::now();
        let mut due = now + link.latency + link.jitter.mul_f64(jitter);
        if reordering < link.reordering {
            due += (link.latency + link.jitter).mul_f64(late);
        } else {
            due = due.max(self.order.get(&pair).copied().unwrap_or(now));
            self.order.insert(pair, due);
        }
        if duplication < link.duplication {
            self.enqueue(due + link.latency.mul_f64(late), packet.clone());
        }
        self.enqueue(due, packet);
        true
    }

    fn enqueue(&mut self, due: Instant, packet: Packet) {
        self.sequence += 1;
        self.under_way.insert((due, self.sequence), packet);
    }

    fn record(&mut self, simulation: &Simulation, what: &str, packet: Option<&Packet>) {
        let at = u64::try_from(simulation.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.trace.write_u64(at);
        self.trace.write(what.as_bytes());
        let mut line = format!("{at:>14} {what}");
        if let Some(packet) = packet {
            let ends = format!(" {} > {}", packet.from, packet.to);
            self.trace.write(ends.as_bytes());
            self.trace.write(&packet.bytes);
            if self.log.is_some() {
                let hash = SipHasher13::new().hash(&packet.bytes);
                line += &format!("{ends} {} bytes {hash:016x}", packet.bytes.len());
            }
        }
        if let Some(log) = &mut self.log {
            log.push(line);
        }
    }
}

/// A socket on the network, for quinn and, by [`SimSocket::send`] and [`SimSocket::receive`], for anything else.
pub(crate) struct SimSocket {
    network: Network,
    address: SocketAddr,
}

impl fmt::Debug for SimSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimSocket({})", self.address)
    }
}

impl SimSocket {
    /// Sends one datagram.
    pub(crate) fn send(&self, to: SocketAddr, bytes: &[u8]) {
        self.network.send(Packet { from: self.address, to, bytes: bytes.to_vec() });
    }

    /// Waits for one datagram. Cancel-safe.
    pub(crate) async fn receive(&self) -> (SocketAddr, Vec<u8>) {
        std::future::poll_fn(|cx| self.poll_packet(cx).map(|packet| (packet.from, packet.bytes))).await
    }

    fn poll_packet(&self, cx: &mut Context<'_>) -> Poll<Packet> {
        let mut state = self.network.lock();
        // A closed socket stays silent: whoever reads it is about to be dropped.
        let Some(inbox) = state.inboxes.get_mut(&self.address) else { return Poll::Pending };
        if let Some(packet) = inbox.packets.pop_front() {
            return Poll::Ready(packet);
        }
        inbox.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncUdpSocket for SimSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for datagram in transmit.contents.chunks(segment) {
            self.send(transmit.destination, datagram);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut received = 0;
        while received < buffers.len().min(meta.len()) {
            let Poll::Ready(packet) = self.poll_packet(cx) else { break };
            let len = packet.bytes.len().min(buffers[received].len());
            buffers[received][..len].copy_from_slice(&packet.bytes[..len]);
            let (addr, dst_ip) = (packet.from, Some(self.address.ip()));
            meta[received] = RecvMeta { addr, len, stride: len, ecn: None, dst_ip };
            received += 1;
        }
        if received > 0 { Poll::Ready(Ok(received)) } else { Poll::Pending }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

impl Datagrams for SimSocket {
    fn send(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        Self::send(self, to, datagram);
        Ok(())
    }

    fn poll_receive(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<(usize, SocketAddr)>> {
        let Poll::Ready(packet) = self.poll_packet(cx) else { return Poll::Pending };
        let length = packet.bytes.len().min(buffer.len());
        buffer[..length].copy_from_slice(&packet.bytes[..length]);
        Poll::Ready(Ok((length, packet.from)))
    }

    /// A host whose process is gone answers that, unless the network keeps the question or the answer.
    fn is_closed(&self, address: SocketAddr, patience: Duration) -> BoxFuture<'static, bool> {
        let (network, own) = (self.network.clone(), self.address.ip());
        Box::pin(async move {
            let rtt = network.way(own, address.ip()).zip(network.way(address.ip(), own)).map(|(to, fro)| to + fro);
            tokio::time::sleep(rtt.unwrap_or(patience).min(patience)).await;
            rtt.is_some_and(|rtt| rtt < patience) && !network.lock().inboxes.contains_key(&address)
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// A simulated network always takes a packet, to lose it perhaps.
#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
