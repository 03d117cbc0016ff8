//! What a configuration asks of the host: files, certificates, ports, a writable data directory.
//!
//! Ports are tried and given back, so a port may still be taken between the check and the start.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::UdpSocket;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::certs::verify;
use crate::certs::verify::Expected;
use crate::config::node;
use crate::config::settle::Settled;

/// Checks a node's settings against the host, as far as they are known.
pub(crate) fn node(settled: &mut Settled, ports: bool, now_ms: u64) {
    let expected = settled.parsed("node.name").map_or(Expected::AnyNode, Expected::Node);
    certificate(settled, &expected, now_ms);
    if let Some(folder) = settled.path("node.data_dir")
        && let Err(error) = writable(&folder)
    {
        let what = format!("{} cannot be written: {error}", folder.display());
        settled.report("node.data_dir", what, "let the user that runs the node write there, or name another folder");
    }
    if ports {
        // All are held until the end, so that two settings with one address cannot both succeed.
        let quic = udp(settled, "listen.quic");
        let gossip = udp(settled, "listen.gossip");
        let admin = tcp(settled, "listen.admin");
        drop((quic, gossip, admin));
    }
}

/// Checks a client's settings against the host, as far as they are known.
pub(crate) fn client(settled: &mut Settled, now_ms: u64) {
    certificate(settled, &Expected::ClientOrAdmin, now_ms);
}

fn certificate(settled: &mut Settled, expected: &Expected, now_ms: u64) {
    let Some(tls) = node::tls(settled) else { return };
    for fault in verify::check(&tls, expected, now_ms) {
        settled.report(fault.key, fault.what, fault.fix);
    }
}

fn udp(settled: &mut Settled, key: &str) -> Option<UdpSocket> {
    let address: SocketAddr = settled.parsed(key)?;
    // Two settings with one address have been reported as that, which says more.
    if settled.problems.iter().any(|problem| problem.key == key) {
        return None;
    }
    UdpSocket::bind(address).map_err(|error| bind_failed(settled, key, "UDP", address, &error)).ok()
}

fn tcp(settled: &mut Settled, key: &str) -> Option<TcpListener> {
    let address: SocketAddr = settled.parsed(key)?;
    TcpListener::bind(address).map_err(|error| bind_failed(settled, key, "TCP", address, &error)).ok()
}

fn bind_failed(settled: &mut Settled, key: &str, protocol: &str, address: SocketAddr, error: &std::io::Error) {
    let (what, fix) = match error.kind() {
        ErrorKind::AddrInUse => (
            format!("{protocol} port {address} is in use"),
            "stop the program that holds it (a node that runs already?), or choose another port",
        ),
        ErrorKind::AddrNotAvailable => {
            (format!("{} is not an address of this host", address.ip()), "use 0.0.0.0, [::], or an address it has")
        }
        ErrorKind::PermissionDenied => {
            (format!("{protocol} port {address} needs privileges"), "choose a port from 1024 up")
        }
        _ => (format!("{protocol} port {address} cannot be used: {error}"), "choose another address or port"),
    };
    settled.report(key, what, fix);
}

/// Tries a file in the folder, or in the one in which it would be made. The folder itself is not made: the check may
/// run as another user than the node.
fn writable(folder: &Path) -> std::io::Result<()> {
    let mut existing = folder;
    while !existing.exists() {
        existing = match existing.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
    }
    if !existing.is_dir() {
        return Err(std::io::Error::new(ErrorKind::NotADirectory, format!("{} is not a folder", existing.display())));
    }
    static PROBES: AtomicU64 = AtomicU64::new(0);
    let number = PROBES.fetch_add(1, Ordering::Relaxed);
    let probe = existing.join(format!(".dynamomini-check-{}-{number}", std::process::id()));
    OpenOptions::new().write(true).create_new(true).open(&probe)?;
    std::fs::remove_file(&probe)
}
