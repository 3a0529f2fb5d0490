//! On the wire: what passes a host's interfaces, and datagrams from addresses of others.

use std::{
    io,
    net::{SocketAddr, SocketAddrV4},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use aegisray::lab::topology::Host;
use socket2::{Domain, Protocol, Socket, Type};

/// A UDP datagram over IPv4 that passed.
#[derive(Clone, Debug)]
pub struct Seen {
    pub from: SocketAddrV4,
    pub to: SocketAddrV4,
    pub body: Vec<u8>,
}

/// Keeps every UDP datagram that passes the interfaces of a host, until it is taken.
pub struct Recorder {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Seen>>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Recorder {
    pub fn start(host: &Host) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stopped, sink) = (Arc::clone(&stop), Arc::clone(&seen));
        let socket = host.ns.run(|| {
            let every_protocol = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(every_protocol))?;
            socket.set_recv_buffer_size(32 << 20)?;
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            Ok(socket)
        });
        let socket = socket.unwrap();
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            let mut reader = socket;
            while !stopped.load(Ordering::Relaxed) {
                let Ok(n) = io::Read::read(&mut reader, &mut buffer) else { continue };
                if let Some(datagram) = udp_in(&buffer[..n]) {
                    sink.lock().unwrap().push(datagram);
                }
            }
            Ok(())
        });
        Self { stop, seen, thread: Some(thread) }
    }

    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The UDP datagram in an Ethernet frame.
fn udp_in(frame: &[u8]) -> Option<Seen> {
    let (head, ip) = frame.split_at_checked(14)?;
    if head[12..] != [8, 0] || ip.first()? >> 4 != 4 || *ip.get(9)? != 17 {
        return None;
    }
    let udp = ip.get(usize::from(ip[0] & 15) * 4..usize::from(u16::from_be_bytes([ip[2], ip[3]])))?;
    let at = |ip: &[u8], port: &[u8]| {
        let ip: [u8; 4] = ip.try_into().ok()?;
        Some(SocketAddrV4::new(ip.into(), u16::from_be_bytes(port.try_into().ok()?)))
    };
    let from = at(&ip[12..16], udp.get(..2)?)?;
    let to = at(&ip[16..20], udp.get(2..4)?)?;
    Some(Seen { from, to, body: udp.get(8..)?.to_vec() })
}

/// Sends datagrams in the name of any address.
pub struct Forger(Socket);

impl Forger {
    pub fn open(host: &Host) -> Self {
        let raw = || {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
            socket.set_send_buffer_size(4 << 20)?;
            Ok(socket)
        };
        Self(host.ns.run(raw).unwrap())
    }

    pub fn send(&self, from: SocketAddrV4, to: SocketAddrV4, body: &[u8]) {
        let len = (28 + body.len()) as u16;
        // The kernel fills in the identification and the header's checksum; a UDP checksum of zero is none. The TTL is that of
        // a neighbour.
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 255, 17, 0, 0];
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet.extend(from.ip().octets());
        packet.extend(to.ip().octets());
        packet.extend([from.port(), to.port(), len - 20, 0].map(u16::to_be_bytes).concat());
        packet.extend_from_slice(body);
        // A full queue loses it, as any network may.
        let _ = self.0.send_to(&packet, &SocketAddr::V4(to).into());
    }
}
