//! The link emulator at work: devices, the clock, and orders that come as datagrams.
//!
//! The thin edge around the fabric, in one thread that waits for packets, orders and due times at once. It makes no namespaces: whoever
//! started it moves the devices there. What it could not do as it should is counted and told: how late packets were, and what
//! the kernel took no more.

use std::io::ErrorKind;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use hdrhistogram::Histogram;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::event::poll;
use tun_rs::DeviceBuilder;
use tun_rs::SyncDevice;

use crate::fabric::Counts;
use crate::fabric::Fabric;
use crate::groups;
use crate::table;
use crate::words::Impairment;

/// Packets that a device holds before the kernel drops them.
const QUEUE: u32 = 10_000;
/// The largest packet; that of Ethernet, so that path discovery finds what it would find there.
const MTU: u16 = 1_500;
/// Packets that are read from one device before others, and what is due, have their turn.
const TURN: usize = 32;
/// The longest datagram of orders.
const ORDERS_MAX: usize = 262_144;
/// The latest that is told apart, in microseconds.
const LATE_MAX: u64 = 60_000_000;
/// The longest sleep, so that nothing depends on a wakeup that was missed.
const SLEEP: Duration = Duration::from_secs(1);

/// How late packets were passed on, in microseconds.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Lateness {
    pub(crate) packets: u64,
    pub(crate) mean: f64,
    pub(crate) p99: u64,
    pub(crate) max: u64,
}

/// One direction of a link, as it is and as it was used.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(crate) struct Way {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) words: String,
    pub(crate) is_cut: bool,
    pub(crate) counts: Counts,
}

/// What the emulator tells of itself.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Report {
    pub(crate) ways: Vec<Way>,
    pub(crate) late_us: Lateness,
    /// Packets that the kernel did not take.
    pub(crate) refused: u64,
    /// Packets to addresses that nobody has.
    pub(crate) strays: u64,
    /// Whether it runs before all other work of the machine.
    pub(crate) is_realtime: bool,
}

struct Emulator {
    fabric: Fabric,
    devices: Vec<SyncDevice>,
    control: UnixDatagram,
    began: Instant,
    late: Histogram<u64>,
    refused: u64,
}

/// The name of a node's device before it is moved.
pub(crate) fn device(node: usize) -> String {
    format!("lab-{}", groups::name(node))
}

/// Emulates for ever. Says `ready` on standard output once the devices are there.
///
/// # Errors
/// When the devices cannot be made, or not be waited for.
pub(crate) fn run(nodes: usize, seed: u64, control: &Path) -> Result<(), String> {
    let open = |node| -> std::io::Result<SyncDevice> {
        let builder = DeviceBuilder::new().name(device(node)).mtu(MTU).tx_queue_len(QUEUE).enable(false);
        let made = builder.build_sync()?;
        made.set_nonblocking(true)?;
        Ok(made)
    };
    let devices = (0..nodes).map(|node| open(node).map_err(|error| format!("{}: {error}", device(node))));
    let devices = devices.collect::<Result<Vec<_>, String>>()?;
    let socket = UnixDatagram::bind(control).map_err(|error| format!("{}: {error}", control.display()))?;
    socket.set_nonblocking(true).map_err(|error| error.to_string())?;
    // The kernel may otherwise let sleeps end 50 microseconds late.
    rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1)).map_err(|error| error.to_string())?;
    let late = Histogram::new_with_bounds(1, LATE_MAX, 3).map_err(|error| error.to_string())?;
    let (fabric, began) = (Fabric::new(nodes, seed), Instant::now());
    let mut emulator = Emulator { fabric, devices, control: socket, began, late, refused: 0 };
    let mut out = std::io::stdout();
    writeln!(out, "ready").and_then(|()| out.flush()).map_err(|error| error.to_string())?;
    loop {
        emulator.turn()?;
    }
}

impl Emulator {
    fn turn(&mut self) -> Result<(), String> {
        self.deliver();
        let (ordered, ready) = self.wait()?;
        let mut buffer = [0; MTU as usize + 64];
        for node in ready {
            self.read(node, &mut buffer);
        }
        if ordered {
            self.obey();
        }
        Ok(())
    }

    /// Passes on all that is due.
    fn deliver(&mut self) {
        while let Some(arrival) = self.fabric.due(self.began.elapsed()) {
            let late = u64::try_from(arrival.late.as_micros()).unwrap_or(u64::MAX);
            self.late.saturating_record(late);
            if self.devices[arrival.to].send(&arrival.packet).is_err() {
                self.refused += 1;
            }
        }
    }

    /// Waits until something is due, or comes: whether orders did, and which devices have packets.
    fn wait(&self) -> Result<(bool, Vec<usize>), String> {
        let due = self.fabric.next().map_or(SLEEP, |at| at.saturating_sub(self.began.elapsed()).min(SLEEP));
        let timeout =
            Timespec { tv_sec: i64::try_from(due.as_secs()).unwrap_or(1), tv_nsec: i64::from(due.subsec_nanos()) };
        let descriptors = std::iter::once(self.control.as_fd()).chain(self.devices.iter().map(|device| device.as_fd()));
        let mut waiting: Vec<PollFd<'_>> =
            descriptors.map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN)).collect();
        match poll(&mut waiting, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(format!("poll: {error}")),
        }
        let mut ready = waiting.iter().map(|one| one.revents().contains(PollFlags::IN));
        let ordered = ready.next().unwrap_or(false);
        Ok((ordered, ready.enumerate().filter(|(_, is)| *is).map(|(node, _)| node).collect()))
    }

    fn read(&mut self, node: usize, buffer: &mut [u8]) {
        for _ in 0..TURN {
            // Nothing more, or the device is down for a moment: in both cases the next wait tells.
            let Ok(length) = self.devices[node].recv(buffer) else { return };
            self.fabric.offer(self.began.elapsed(), node, &buffer[..length]);
        }
    }

    fn obey(&mut self) {
        let mut buffer = vec![0; ORDERS_MAX];
        loop {
            let (length, from) = match self.control.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return,
            };
            let orders = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let answer = self.carry_out(&orders).unwrap_or_else(|why| format!("error: {why}"));
            if let Some(path) = from.as_pathname()
                && let Err(error) = self.control.send_to(answer.as_bytes(), path)
            {
                eprintln!("emulator: no answer to {}: {error}", path.display());
            }
        }
    }

    /// Carries out orders, a line each; the answer to the last.
    fn carry_out(&mut self, orders: &str) -> Result<String, String> {
        let mut answer = "ok".to_owned();
        for order in orders.lines() {
            answer = self.order(order).map_err(|why| format!("{order}: {why}"))?;
        }
        Ok(answer)
    }

    fn order(&mut self, order: &str) -> Result<String, String> {
        let words: Vec<&str> = order.split_whitespace().collect();
        let node = |text: &str| groups::node(text, self.fabric.nodes());
        match words.as_slice() {
            ["shape", from, to, rest @ ..] => self.shape(node(from)?, node(to)?, &rest.join(" "))?,
            ["cut", from, to] => self.fabric.cut(node(from)?, node(to)?, true),
            ["mend", from, to] => self.fabric.cut(node(from)?, node(to)?, false),
            ["place", address, at] => {
                let address = address.parse().map_err(|_| format!("{address} is no address"))?;
                self.fabric.place(address, node(at)?);
            }
            ["vacate", address] => {
                self.fabric.vacate(address.parse().map_err(|_| format!("{address} is no address"))?);
            }
            ["forget"] => {
                self.fabric.forget();
                self.late.reset();
                self.refused = 0;
            }
            ["report"] => return serde_json::to_string(&self.report()).map_err(|error| error.to_string()),
            _ => return Err("no order".to_owned()),
        }
        Ok("ok".to_owned())
    }

    fn shape(&mut self, from: usize, to: usize, words: &str) -> Result<(), String> {
        let read = if words.is_empty() { Impairment::default() } else { Impairment::parse(words)? };
        let table = read.distribution.as_deref().map(table::load).transpose()?;
        self.fabric.change(from, to, words, read, table);
        Ok(())
    }

    fn report(&self) -> Report {
        let ways = self.fabric.ways().map(|(from, to, words, is_cut, counts)| {
            let words = words.to_owned();
            Way { from, to, words, is_cut, counts }
        });
        let late_us = Lateness {
            packets: self.late.len(),
            mean: self.late.mean(),
            p99: self.late.value_at_quantile(0.99),
            max: self.late.max(),
        };
        let (refused, strays) = (self.refused, self.fabric.strays());
        Report { ways: ways.collect(), late_us, refused, strays, is_realtime: is_realtime() }
    }
}

/// Whether this process runs by a policy of real time: the 41st field of what the kernel tells of it.
fn is_realtime() -> bool {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in the second field may hold anything; the third begins after its bracket.
    let policy = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(38));
    matches!(policy, Some("1" | "2"))
}
