//! quinn's view of the world, through [`Env`]: its tasks belong to the endpoint's scope, its clock is tokio's.

use std::fmt;
use std::future::Future;
use std::io;
use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Instant;

use quinn::AsyncTimer;
use quinn::AsyncUdpSocket;
use quinn::Runtime;
use quinn::TokioRuntime;
use quinn::UdpPoller;
use quinn::udp::RecvMeta;
use quinn::udp::Transmit;

use crate::env::Env;

/// Most bytes the kernel takes in one call, whatever they are cut into: an IP packet's 64 KiB less its headers.
const TRANSMIT_MAX: usize = 65_000;

/// A [`Runtime`] whose tasks die with an [`Env`].
pub(crate) struct EnvRuntime {
    env: Env,
    segments_max: usize,
}

impl EnvRuntime {
    /// A runtime for an endpoint whose packets may grow to this many bytes.
    pub(crate) fn new(env: Env, mtu_upper_bound: u16) -> Self {
        Self { env, segments_max: (TRANSMIT_MAX / usize::from(mtu_upper_bound).max(1)).max(1) }
    }
}

impl fmt::Debug for EnvRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EnvRuntime")
    }
}

impl Runtime for EnvRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.env.spawn("net/quic", future);
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let inner = TokioRuntime.wrap_udp_socket(socket)?;
        Ok(Arc::new(FewerSegments { inner, max: self.segments_max }))
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

/// A socket that lets quinn hand over no more packets at once than the kernel takes. Without it a batch of large
/// packets exceeds 64 KiB, and the kernel refuses the whole batch, which quinn takes for a packet too large for the path.
#[derive(Debug)]
struct FewerSegments {
    inner: Arc<dyn AsyncUdpSocket>,
    max: usize,
}

impl AsyncUdpSocket for FewerSegments {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments().min(self.max)
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
