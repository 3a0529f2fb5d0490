//! Load of our own: echoes with outages measured, and TCP streams.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::topology::Host;

const ECHO_PORT: u16 = 7007;
const STREAM_PORT: u16 = 7008;

/// Answers UDP echoes on a host until this value goes.
pub struct Echo {
    stop: Arc<AtomicBool>,
}

impl Echo {
    pub fn start(host: &Host, address: IpAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        host.ns.spawn(move || {
            // The address may be about to be set.
            let socket = loop {
                match UdpSocket::bind((address, ECHO_PORT)) {
                    Ok(socket) => break socket,
                    Err(_) if !stopped.load(Ordering::Relaxed) => std::thread::sleep(Duration::from_millis(20)),
                    Err(e) => return Err(e),
                }
            };
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            let mut buf = [0; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((n, from)) = socket.recv_from(&mut buf) {
                    let _ = socket.send_to(&buf[..n], from);
                }
            }
            Ok(())
        });
        Self { stop }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What a series of echoes showed.
#[derive(Debug, Clone, Default)]
pub struct Echoes {
    pub sent: usize,
    /// When each answered echo was sent (since the start), and its round trip.
    pub answered: Vec<(Duration, Duration)>,
}

impl Echoes {
    /// The median round trip.
    #[must_use]
    pub fn median(&self) -> Duration {
        let mut rtts: Vec<Duration> = self.answered.iter().map(|a| a.1).collect();
        rtts.sort_unstable();
        rtts.get(rtts.len() / 2).copied().unwrap_or_default()
    }

    /// The longest time between two answered echoes, less the interval that is normal between them.
    #[must_use]
    pub fn longest_outage(&self, interval: Duration) -> Duration {
        let gaps = self.answered.windows(2).map(|w| w[1].0.saturating_sub(w[0].0));
        gaps.max().unwrap_or(Duration::MAX).saturating_sub(interval)
    }
}

/// Sends echoes from a host every `interval` for `time`, `size` bytes each; `event` runs in between, once, at `at`.
pub fn echoes(
    host: &Host,
    to: IpAddr,
    (interval, time): (Duration, Duration),
    size: usize,
    (at, event): (Duration, &(dyn Fn() + Sync)),
) -> io::Result<Echoes> {
    host.ns.run(|| {
        let local: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let socket = UdpSocket::bind(local)?;
        let start = Instant::now();
        let reader = socket.try_clone()?;
        reader.set_read_timeout(Some(Duration::from_millis(20)))?;
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let receiver = scope.spawn(|| {
                let mut answered = Vec::new();
                let mut buf = vec![0; 65_536];
                while !done.load(Ordering::Relaxed) {
                    if let Ok(n) = reader.recv(&mut buf)
                        && let Some(head) = buf[..n].first_chunk::<8>()
                    {
                        let sent = Duration::from_nanos(u64::from_be_bytes(*head));
                        answered.push((sent, start.elapsed().saturating_sub(sent)));
                    }
                }
                answered
            });
            let event_thread = scope.spawn(|| {
                std::thread::sleep(at);
                event();
            });
            let mut sent = 0;
            let mut packet = vec![0; size.max(8)];
            while start.elapsed() < time {
                let now = start.elapsed();
                packet[..8].copy_from_slice(&(now.as_nanos() as u64).to_be_bytes());
                // A send may fail while a route is missing: that is what is being measured.
                let _ = socket.send_to(&packet, (to, ECHO_PORT));
                sent += 1;
                let next = interval * sent as u32;
                std::thread::sleep(next.saturating_sub(start.elapsed()));
            }
            std::thread::sleep(Duration::from_millis(300));
            done.store(true, Ordering::Relaxed);
            let _ = event_thread.join();
            let mut answered = receiver.join().unwrap_or_default();
            answered.sort_unstable();
            answered.dedup();
            Ok(Echoes { sent, answered })
        })
    })
}

/// Waits for the first answered echo; `None` after `limit`.
pub fn first_echo(host: &Host, to: IpAddr, limit: Duration) -> Option<Duration> {
    let asked = host.ns.run(|| {
        let local: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let socket = UdpSocket::bind(local)?;
        socket.set_read_timeout(Some(Duration::from_millis(10)))?;
        let start = Instant::now();
        let mut buf = [0; 64];
        while start.elapsed() < limit {
            let _ = socket.send_to(b"first", (to, ECHO_PORT));
            match socket.recv(&mut buf) {
                Ok(_) => return Ok(start.elapsed()),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                // "No route" and the like: not yet.
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        Err(io::Error::from(ErrorKind::TimedOut))
    });
    asked.ok()
}

/// Sends over one TCP stream from `client` to `server` for `time`. Returns bytes per second as received; every byte is
/// checked against what was sent.
pub fn tcp_stream(client: &Host, server: &Host, to: IpAddr, time: Duration) -> io::Result<f64> {
    let listener = server.ns.run(|| TcpListener::bind((to, STREAM_PORT)))?;
    std::thread::scope(|scope| {
        let receiver = scope.spawn(move || -> io::Result<(u64, Duration)> {
            let (mut stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            let start = Instant::now();
            let mut buf = vec![0; 256 * 1024];
            let mut total = 0u64;
            loop {
                let n = stream.read(&mut buf)?;
                if n == 0 {
                    return Ok((total, start.elapsed()));
                }
                let expected = (total..).map(pattern);
                if !buf[..n].iter().copied().eq(expected.take(n)) {
                    return Err(io::Error::new(ErrorKind::InvalidData, "bytes changed on the way"));
                }
                total += n as u64;
            }
        });
        client.ns.run(|| {
            let mut stream = TcpStream::connect_timeout(&(to, STREAM_PORT).into(), Duration::from_secs(5))?;
            stream.set_write_timeout(Some(Duration::from_secs(10)))?;
            // The pattern's period divides the buffer, so that one buffer serves for ever.
            let buf: Vec<u8> = (0..PERIOD * 512).map(pattern).collect();
            let start = Instant::now();
            while start.elapsed() < time {
                stream.write_all(&buf)?;
            }
            stream.shutdown(std::net::Shutdown::Write)
        })?;
        let (total, took) = receiver.join().map_err(|_| io::Error::other("the receiver failed"))??;
        Ok(total as f64 / took.as_secs_f64())
    })
}

const PERIOD: u64 = 251;

fn pattern(at: u64) -> u8 {
    (at % PERIOD) as u8
}
