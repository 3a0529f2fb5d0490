//! Datagrams over TCP, for networks that let no UDP through: each behind its length in two bytes, big-endian.
//!
//! A length with its highest bit set is padding: so many bytes that say nothing.
//!
//! A stream stays a carrier of datagrams: what finds the queue full is dropped, as a router would, so that a slow stream
//! delays nobody and the ends notice.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{Datagram, Datagrams};
use crate::types::path;

/// Bytes that wait to be written.
const QUEUE: usize = 256 << 10;
/// Small datagrams find room beyond that: probes and acknowledgements are not to be lost among bulk.
const SMALL: usize = 256;
const QUEUE_OF_SMALL: usize = QUEUE + (32 << 10);
const MAX_DATAGRAM: usize = 2048;
/// Marks a length as that of padding.
const PADDING: u16 = 0x8000;
/// Bytes that a sealed stream takes from its socket at once.
const SEALED: usize = 128 << 10;
/// A peer that takes nothing for so long is gone.
const WRITE_TIME: Duration = Duration::from_secs(10);

/// What covers a stream's bytes on their way. One thread seals, another one opens.
pub trait Seal: Send + Sync {
    /// Appends what is to be sent for `plaintext`, and whatever else the other end is to get now.
    fn seal(&self, plaintext: &[u8], out: &mut Vec<u8>) -> io::Result<()>;

    /// Takes in what was received, and appends the plaintext in it. An error ends the stream.
    fn open(&self, received: &[u8], out: &mut Vec<u8>) -> io::Result<()>;

    /// How long to wait before `queued` bytes are sealed, and how many bytes of padding to add to them. With nothing queued
    /// padding alone is sent, if any is asked for.
    fn shape(&self, _queued: usize) -> (Duration, usize) {
        (Duration::ZERO, 0)
    }

    /// How long nothing may be sent until [`Self::shape`] is asked again.
    fn patience(&self) -> Duration {
        Duration::from_secs(1)
    }
}

/// One TCP connection that carries datagrams.
pub struct Stream {
    socket: TcpStream,
    seal: Option<Box<dyn Seal>>,
    /// The peer, as a path through this stream.
    pub path: SocketAddr,
    pub since: Instant,
    /// This node made it, or a link has come to use it.
    pub(super) proven: AtomicBool,
    queue: Mutex<Vec<u8>>,
    filled: Condvar,
    closed: AtomicBool,
}

impl Stream {
    pub(super) fn new(socket: TcpStream, seal: Option<Box<dyn Seal>>, number: u32) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(WRITE_TIME))?;
        let peer = socket.peer_addr()?;
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        Ok(Self {
            socket,
            seal,
            path: path::through(peer, number),
            since: Instant::now(),
            proven: AtomicBool::new(false),
            queue: Mutex::default(),
            filled: Condvar::new(),
            closed: AtomicBool::new(false),
        })
    }

    /// Queues datagrams; those that find it full are dropped.
    pub(super) fn send<'a>(&self, datagrams: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
        if self.is_closed() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        for datagram in datagrams {
            let room = if datagram.len() <= SMALL { QUEUE_OF_SMALL } else { QUEUE };
            let Some(len) = u16::try_from(datagram.len()).ok().filter(|_| queue.len() + datagram.len() + 2 <= room)
            else {
                continue;
            };
            queue.extend_from_slice(&len.to_be_bytes());
            queue.extend_from_slice(datagram);
        }
        drop(queue);
        self.filled.notify_one();
        Ok(())
    }

    /// Writes what is queued until the stream is closed.
    pub fn write(&self) {
        let (mut bytes, mut sealed) = (Vec::new(), Vec::new());
        while !self.is_closed() {
            {
                let patience = self.seal.as_ref().map_or(Duration::from_secs(1), |s| s.patience());
                let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
                let waited = self.filled.wait_timeout_while(queue, patience, |q| q.is_empty() && !self.is_closed());
                let mut queue = waited.unwrap_or_else(PoisonError::into_inner).0;
                std::mem::swap(&mut *queue, &mut bytes);
            }
            if let Some(seal) = &self.seal {
                let (delay, padding) = seal.shape(bytes.len());
                if !delay.is_zero() {
                    thread::sleep(delay);
                }
                pad(&mut bytes, padding);
            }
            let written = match &self.seal {
                None => (&self.socket).write_all(&bytes),
                Some(seal) => seal.seal(&bytes, &mut sealed).and_then(|()| (&self.socket).write_all(&sealed)),
            };
            if written.is_err() {
                self.close();
            }
            bytes.clear();
            sealed.clear();
        }
    }

    /// Whether this node made it, or a link has come to use it.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        // It may be closed from the other end already.
        let _ = self.socket.shutdown(Shutdown::Both);
        self.filled.notify_one();
    }
}

/// Appends so many bytes of padding, lengths included; a few more if they are too few to say it.
fn pad(bytes: &mut Vec<u8>, mut n: usize) {
    while n > 0 {
        let len = n.saturating_sub(2).min(MAX_DATAGRAM);
        bytes.extend_from_slice(&(PADDING | len as u16).to_be_bytes());
        bytes.resize(bytes.len() + len, 0);
        n = n.saturating_sub(len + 2);
    }
}

impl Default for StreamReader {
    fn default() -> Self {
        Self { datagrams: Datagrams::for_stream(), filled: 0, taken: 0, received: Vec::new(), opened: Vec::new() }
    }
}

/// Takes a stream's bytes apart into datagrams.
pub struct StreamReader {
    pub datagrams: Datagrams,
    filled: usize,
    taken: usize,
    /// What the socket gave, and what was in it, of a sealed stream.
    received: Vec<u8>,
    opened: Vec<u8>,
}

impl StreamReader {
    /// Waits for bytes, and leaves the whole datagrams among them in [`Self::datagrams`]. An error ends the stream.
    pub fn read(&mut self, stream: &Stream) -> io::Result<()> {
        let (buffer, list) = self.datagrams.parts();
        // The beginning of a datagram may have come with the last bytes.
        buffer.copy_within(self.taken..self.filled, 0);
        self.filled -= self.taken;
        self.taken = 0;
        list.clear();
        let room = &mut buffer[self.filled..];
        let n = match &stream.seal {
            None => (&stream.socket).read(room)?,
            Some(seal) => {
                // Bytes may be left that had no room.
                while self.opened.is_empty() {
                    self.received.resize(SEALED, 0);
                    let n = (&stream.socket).read(&mut self.received)?;
                    if n == 0 {
                        break;
                    }
                    seal.open(&self.received[..n], &mut self.opened)?;
                }
                let n = self.opened.len().min(room.len());
                room[..n].copy_from_slice(&self.opened[..n]);
                self.opened.drain(..n);
                n
            }
        };
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.filled += n;
        while let Some(head) = buffer[self.taken..self.filled].first_chunk::<2>() {
            let head = u16::from_be_bytes(*head);
            let is_padding = head & PADDING != 0;
            let len = usize::from(head & !PADDING);
            if len > MAX_DATAGRAM || len == 0 && !is_padding {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let range = self.taken + 2..self.taken + 2 + len;
            if range.end > self.filled {
                break;
            }
            self.taken = range.end;
            if is_padding {
                continue;
            }
            list.push(Datagram { from: stream.path, local: None, interface: 0, ecn: 0, range });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::{Offloads, Sockets};
    use std::net::TcpListener;

    #[test]
    fn datagrams_cross_a_stream_in_order_however_it_is_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let sockets = Sockets::bind("127.0.0.1:0".parse().unwrap(), Offloads::default(), 1).unwrap();
        let out = sockets.add_stream(TcpStream::connect(to).unwrap(), None, true).unwrap();
        assert_eq!((path::plain(out.path), path::is_stream(out.path)), (to, true));
        let incoming = Stream::new(listener.accept().unwrap().0, None, 9).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| out.write());
            let mut reader = StreamReader::default();
            let (mut sent, mut seen) = (0u32, 0u32);
            while seen < 3000 {
                for _ in 0..50 {
                    let mut datagram = sent.to_be_bytes().to_vec();
                    datagram.resize(4 + (sent as usize * 7) % 1400, 1);
                    sockets.send(out.path, &datagram).unwrap();
                    if sent % 3 == 0 {
                        pad(&mut out.queue.lock().unwrap(), sent as usize % 5000);
                    }
                    sent += 1;
                }
                // Never more on the way than the queue holds.
                while seen < sent {
                    reader.read(&incoming).unwrap();
                    for i in 0..reader.datagrams.len() {
                        let d = reader.datagrams.get(i).unwrap();
                        assert_eq!(d.range.len(), 4 + (seen as usize * 7) % 1400);
                        assert_eq!(reader.datagrams.buffer()[d.range][..4], seen.to_be_bytes());
                        seen += 1;
                    }
                }
            }
            (&incoming.socket).write_all(&[0xff, 0xff, 1, 2]).unwrap();
            let mut back = StreamReader::default();
            assert!(back.read(&out).is_err(), "longer than any datagram of ours");
            out.close();
            assert!(sockets.send(out.path, b"late").is_err());
        });
    }
}
