//! Load for measuring: TCP streams that are not looked into, datagrams at a given rate, round trips one at a time.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use socket2::SockRef;

use super::topology::Host;
use crate::transport::{Datagrams, Offloads, SendQueue, Sockets, UdpTransport};

const PORT: u16 = 7010;
const CHUNK: usize = 128 * 1024;
/// What Linux ships with.
pub const CONGESTION: &str = "cubic";

/// How TCP is loaded.
#[derive(Debug, Clone, Copy)]
pub struct Streams<'a> {
    pub count: usize,
    /// The kernel's name of a congestion control, whatever the machine is set to.
    pub congestion: &'a str,
    pub time: Duration,
}

impl Streams<'static> {
    /// A single one with [`CONGESTION`].
    #[must_use]
    pub const fn one(time: Duration) -> Self {
        Self { count: 1, congestion: CONGESTION, time }
    }
}

/// Bits per second that arrive over TCP streams from `client` to `server`.
pub fn tcp(client: &Host, server: &Host, to: IpAddr, streams: Streams<'_>) -> io::Result<f64> {
    let Streams { count, congestion, time } = streams;
    let listener = server.ns.run(|| TcpListener::bind((to, PORT)))?;
    let listener = &listener;
    std::thread::scope(|scope| {
        let mut receivers = Vec::new();
        let mut senders = Vec::new();
        for _ in 0..count {
            senders.push(scope.spawn(move || {
                client.ns.run(|| {
                    let mut stream = TcpStream::connect_timeout(&(to, PORT).into(), Duration::from_secs(5))?;
                    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
                    SockRef::from(&stream).set_tcp_congestion(congestion.as_bytes()).map_err(|e| {
                        io::Error::new(e.kind(), format!("this kernel has no congestion control `{congestion}`: {e}"))
                    })?;
                    let chunk = vec![0x5a; CHUNK];
                    let start = Instant::now();
                    while start.elapsed() < time {
                        stream.write_all(&chunk)?;
                    }
                    Ok(())
                })
            }));
            let (mut stream, _) = listener.accept()?;
            receivers.push(scope.spawn(move || -> io::Result<(u64, Duration)> {
                stream.set_read_timeout(Some(Duration::from_secs(10)))?;
                let (mut buf, mut total, start) = (vec![0; CHUNK], 0, Instant::now());
                loop {
                    match stream.read(&mut buf)? {
                        0 => return Ok((total, start.elapsed())),
                        n => total += n as u64,
                    }
                }
            }));
        }
        for sender in senders {
            sender.join().map_err(|_| io::Error::other("a sender failed"))??;
        }
        let mut rate = 0.0;
        for receiver in receivers {
            let (total, took) = receiver.join().map_err(|_| io::Error::other("a receiver failed"))??;
            rate += total as f64 * 8.0 / took.as_secs_f64();
        }
        Ok(rate)
    })
}

/// What became of datagrams sent at a rate.
#[derive(Debug, Clone, Copy, Default)]
pub struct Flood {
    pub sent: u64,
    pub received: u64,
    /// Datagrams that came after one with a higher number.
    pub reordered: u64,
}

impl Flood {
    /// The share that was lost, 0.0 to 1.0.
    #[must_use]
    pub fn loss(&self) -> f64 {
        1.0 - self.received as f64 / self.sent.max(1) as f64
    }
}

/// Sends datagrams of `size` bytes (at least 8) from `client` to `server`, `rate` a second.
pub fn udp(client: &Host, server: &Host, to: IpAddr, size: usize, rate: u64, time: Duration) -> io::Result<Flood> {
    let plain = Offloads { send: false, receive: false };
    let receiver = server.ns.run(|| UdpTransport::bind(SocketAddr::new(to, PORT), plain))?;
    let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    let sender = client.ns.run(|| Sockets::bind(SocketAddr::new(any, 0), plain, 1))?;
    let done = AtomicBool::new(false);
    let (receiver, sender, done) = (&receiver, &sender, &done);
    std::thread::scope(|scope| {
        let counting = scope.spawn(move || {
            let (mut flood, mut next) = (Flood::default(), 0u64);
            let mut datagrams = Datagrams::new(receiver);
            // The last datagram, sent to itself, ends the wait.
            while !done.load(Ordering::Relaxed) {
                if datagrams.receive(receiver).is_err() {
                    continue;
                }
                for i in 0..datagrams.len() {
                    let Some(d) = datagrams.get(i) else { continue };
                    if d.range.len() != size {
                        continue;
                    }
                    let Some(number) = datagrams.buffer()[d.range].first_chunk::<8>().map(|n| u64::from_be_bytes(*n))
                    else {
                        continue;
                    };
                    flood.received += 1;
                    flood.reordered += u64::from(number < next);
                    next = next.max(number + 1);
                }
            }
            flood
        });
        let mut queue = SendQueue::new(sender);
        let (start, mut sent) = (Instant::now(), 0u64);
        let target = SocketAddr::new(to, PORT);
        while start.elapsed() < time {
            let due = (start.elapsed().as_secs_f64() * rate as f64) as u64;
            // Bursts as a real sender makes them: at most what a millisecond holds.
            let burst = due.saturating_sub(sent).min(rate / 1000 + 1);
            for _ in 0..burst {
                let at = queue.buffer().len();
                queue.buffer().extend_from_slice(&sent.to_be_bytes());
                queue.buffer().resize(at + size, 0);
                queue.commit(target, 0);
                sent += 1;
                if queue.is_full() {
                    queue.flush(sender, |_, _| {});
                }
            }
            queue.flush(sender, |_, _| {});
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_millis(200));
        done.store(true, Ordering::Relaxed);
        server.ns.run(|| UdpSocket::bind((to, 0))?.send_to(&[0], target))?;
        let flood = counting.join().map_err(|_| io::Error::other("the receiver failed"))?;
        Ok(Flood { sent, ..flood })
    })
}

/// Round trips of single datagrams, one after another, sorted.
pub fn round_trips(
    client: &Host,
    server: &Host,
    to: IpAddr,
    count: usize,
    pause: Duration,
) -> io::Result<Vec<Duration>> {
    let answering = server.ns.run(|| UdpSocket::bind((to, PORT + 1)))?;
    answering.set_read_timeout(Some(Duration::from_millis(100)))?;
    let done = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut buf = [0; 64];
            while !done.load(Ordering::Relaxed) {
                if let Ok((n, from)) = answering.recv_from(&mut buf) {
                    let _ = answering.send_to(&buf[..n], from);
                }
            }
        });
        let measured = client.ns.run(|| {
            let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
            let socket = UdpSocket::bind((any, 0))?;
            socket.set_read_timeout(Some(Duration::from_millis(500)))?;
            let mut trips = Vec::with_capacity(count);
            let mut buf = [0; 64];
            for i in 0..count as u64 {
                let start = Instant::now();
                let _ = socket.send_to(&i.to_be_bytes(), (to, PORT + 1));
                while let Ok(n) = socket.recv(&mut buf) {
                    if buf[..n] == i.to_be_bytes() {
                        trips.push(start.elapsed());
                        break;
                    }
                }
                std::thread::sleep(pause);
            }
            trips.sort_unstable();
            Ok(trips)
        });
        done.store(true, Ordering::Relaxed);
        measured
    })
}
