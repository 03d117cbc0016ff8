//! Plain datagrams for gossip: a UDP socket, or whatever stands for one in a simulation.
//!
//! Nothing is sealed, repeated or understood here.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use futures_util::future::BoxFuture;
use socket2::Domain;
use socket2::Protocol;
use socket2::SockRef;
use socket2::Type;
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::limits;
use crate::net::endpoint::BindError;

/// What is sent to find out whether anybody listens; nobody needs to understand it.
pub const KNOCK: &[u8] = &[0];

/// Time between two knocks.
const KNOCK_EVERY: Duration = Duration::from_millis(100);

/// A socket for datagrams. Datagrams may get lost without an error.
pub trait Datagrams: fmt::Debug + Send + Sync + 'static {
    /// Sends a datagram now or not at all.
    ///
    /// # Errors
    /// When it was surely not sent.
    fn send(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()>;

    /// Receives a datagram: its length and its sender. What does not fit the buffer is cut off.
    ///
    /// # Errors
    /// When the socket failed; it may go on afterwards.
    fn poll_receive(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<(usize, SocketAddr)>>;

    /// Whether the host at this address says within `patience` that nobody listens there. Silence says nothing.
    fn is_closed(&self, address: SocketAddr, patience: Duration) -> BoxFuture<'static, bool>;

    /// The address it is bound to.
    ///
    /// # Errors
    /// When the system does not say.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// A UDP socket. An IPv6 socket on all addresses also serves IPv4.
#[derive(Debug)]
pub struct Udp {
    socket: UdpSocket,
    dual: bool,
}

impl Udp {
    /// Binds a socket; port 0 takes a free one.
    ///
    /// # Errors
    /// [`BindError`] names the address and what to do.
    pub fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse(address),
            _ => BindError::Socket { address: address.to_string(), source },
        };
        let dual = address.is_ipv6() && address.ip().is_unspecified();
        let open = || {
            let socket = socket2::Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
            if dual {
                socket.set_only_v6(false)?;
            }
            socket.set_recv_buffer_size(limits::GOSSIP_SOCKET_BUFFER)?;
            socket.set_send_buffer_size(limits::GOSSIP_SOCKET_BUFFER)?;
            socket.set_nonblocking(true)?;
            socket.bind(&address.into())?;
            UdpSocket::from_std(socket.into())
        };
        Ok(Self { socket: open().map_err(failed)?, dual })
    }
}

impl Datagrams for Udp {
    fn send(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        let to = match to {
            SocketAddr::V4(v4) if self.dual => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
            other => other,
        };
        // Past tokio, which would not send before it has heard that the socket is writable.
        SockRef::from(&self.socket).send_to(datagram, &to.into()).map(drop)
    }

    fn poll_receive(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<(usize, SocketAddr)>> {
        let mut buffer = ReadBuf::new(buffer);
        let from = ready!(self.socket.poll_recv_from(context, &mut buffer))?;
        // Members are known by their plain address, whichever socket they are heard on.
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        Poll::Ready(Ok((buffer.filled().len(), from)))
    }

    fn is_closed(&self, address: SocketAddr, patience: Duration) -> BoxFuture<'static, bool> {
        Box::pin(async move { timeout(patience, refuses(address)).await.is_ok_and(|refused| refused) })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// Knocks from a connected socket, which is told of closed ports, again and again for as long as there is no such news:
/// hosts say so to each other one at most about once a second, and other traffic to closed ports uses that up.
async fn refuses(address: SocketAddr) -> bool {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let refused = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    let knock = async {
        let socket = UdpSocket::bind(any).await?;
        socket.connect(address).await?;
        loop {
            socket.send(KNOCK).await?;
            if let Ok(received) = timeout(KNOCK_EVERY, socket.recv(&mut [0; 1])).await {
                return received;
            }
        }
    };
    matches!(knock.await, Err(error) if refused(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn receive(socket: &Udp) -> (Vec<u8>, SocketAddr) {
        let mut buffer = [0; 64];
        let received = std::future::poll_fn(|context| socket.poll_receive(context, &mut buffer));
        let (length, from) = timeout(Duration::from_secs(10), received).await.unwrap().unwrap();
        (buffer[..length].to_vec(), from)
    }

    #[tokio::test]
    async fn a_socket_on_all_addresses_serves_both_families() {
        let Ok(dual) = Udp::bind("[::]:0".parse().unwrap()) else { return };
        let port = dual.local_addr().unwrap().port();
        let four = Udp::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        four.send((Ipv4Addr::LOCALHOST, port).into(), b"to six").unwrap();
        let (bytes, from) = receive(&dual).await;
        assert_eq!((bytes.as_slice(), from), (b"to six".as_slice(), four.local_addr().unwrap()));
        dual.send(from, b"to four").unwrap();
        assert_eq!(receive(&four).await.0, b"to four");
    }

    #[tokio::test]
    async fn a_closed_port_is_told_from_a_silent_one() {
        let open = Udp::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = open.local_addr().unwrap();
        assert!(!open.is_closed(address, Duration::from_millis(50)).await, "it is open");
        assert_eq!(receive(&open).await.0, KNOCK);
        drop(open);
        let other = Udp::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        assert!(other.is_closed(address, Duration::from_secs(10)).await);
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let taken = Udp::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let error = Udp::bind(taken.local_addr().unwrap()).unwrap_err();
        assert!(matches!(error, BindError::InUse(_)), "{error}");
    }
}
