//! The sockets of a node: those at the port that everybody knows, and scouts: further ones at ports of their own, with
//! which a node behind a symmetric NAT looks for a way in.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    net::{SocketAddr, TcpStream},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::{Offloads, Seal, Stream, UdpTransport};
use crate::{types::path, wire::turn};

type Scouts = BTreeMap<u32, Arc<UdpTransport>>;

/// Streams open at the same time.
const MAX_STREAMS: usize = 256;
/// And from one address, behind which there may be many nodes.
const MAX_FROM_ONE: usize = 64;
/// A stream that no link has come to use in this time is closed.
const STREAM_TRIAL: Duration = Duration::from_secs(10);

/// All sockets that datagrams leave through and arrive at.
pub struct Sockets {
    main: Vec<UdpTransport>,
    wanted: Offloads,
    scouts: ArcSwap<Scouts>,
    /// Held while scouts are opened or closed.
    changing: Mutex<()>,
    poll: OwnedFd,
    streams: ArcSwap<BTreeMap<u32, Arc<Stream>>>,
    next_stream: AtomicU32,
    turn: ArcSwapOption<SocketAddr>,
    only_streams: bool,
}

impl Sockets {
    /// Binds `count` sockets, at least one, to `addr`; the kernel keeps each peer's datagrams on one of them.
    pub fn bind(addr: SocketAddr, wanted: Offloads, count: usize) -> io::Result<Self> {
        let first = UdpTransport::bind(addr, wanted)?;
        let mut main = if count > 1 { first.bind_more(wanted, count - 1)? } else { Vec::new() };
        main.insert(0, first);
        // SAFETY: epoll_create1 takes no pointer; a result that isn't negative is a descriptor of ours alone.
        let poll = unsafe {
            let fd = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from(File::from_raw_fd(fd))
        };
        Ok(Self {
            main,
            wanted,
            scouts: ArcSwap::default(),
            changing: Mutex::new(()),
            poll,
            streams: ArcSwap::default(),
            next_stream: AtomicU32::new(path::FIRST_STREAM),
            turn: ArcSwapOption::empty(),
            only_streams: false,
        })
    }

    /// From now on nothing leaves but over streams; other datagrams are lost in silence, as by a network without UDP.
    #[must_use]
    pub fn streams_only(self) -> Self {
        Self { only_streams: true, ..self }
    }

    /// Whether datagrams through socket `number` must not leave.
    pub(super) fn is_barred(&self, number: u32) -> bool {
        self.only_streams && number < path::FIRST_STREAM
    }

    /// Those at the port that everybody knows; the first is the one to send from.
    #[must_use]
    pub fn main(&self) -> &[UdpTransport] {
        &self.main
    }

    /// Sends one datagram through the socket that `to` names; opens a scout if there is none of that number yet.
    pub fn send(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        match path::socket_of(to) {
            number if self.is_barred(number) => Ok(()),
            0 => self.main[0].send(to, bytes),
            path::TURN => self.send_by_turn(to, bytes),
            number if number >= path::FIRST_STREAM => self.stream(number)?.send(std::iter::once(bytes)),
            number => self.scout(number)?.send(to, bytes),
        }
    }

    /// [`Self::send`] of one that must not be fragmented.
    pub fn send_whole(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        match path::socket_of(to) {
            number if self.is_barred(number) => Ok(()),
            0 => self.main[0].send_whole(to, bytes),
            path::TURN => self.send_by_turn(to, bytes),
            number if number >= path::FIRST_STREAM => self.stream(number)?.send(std::iter::once(bytes)),
            number => self.scout(number)?.send_whole(to, bytes),
        }
    }

    /// Scout `number`, opened if need be.
    pub(super) fn scout(&self, number: u32) -> io::Result<Arc<UdpTransport>> {
        if let Some(scout) = self.scouts.load().get(&number) {
            return Ok(Arc::clone(scout));
        }
        let _guard = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = Scouts::clone(&self.scouts.load());
        if let Some(scout) = all.get(&number) {
            return Ok(Arc::clone(scout));
        }
        let any_port = SocketAddr::new(self.main[0].local_addr()?.ip(), 0);
        let mut scout = UdpTransport::bind(any_port, self.wanted)?;
        scout.number = number;
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: u64::from(number) };
        // SAFETY: `event` outlives the call, and both descriptors are open. A closed one leaves the set by itself.
        let added = unsafe {
            let fd = scout.socket.as_raw_fd();
            libc::epoll_ctl(self.poll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event)
        };
        if added < 0 {
            return Err(io::Error::last_os_error());
        }
        let scout = Arc::new(scout);
        all.insert(number, Arc::clone(&scout));
        self.scouts.store(Arc::new(all));
        Ok(scout)
    }

    /// The TURN server that relays for this node, once it does.
    pub fn set_turn_server(&self, server: Option<SocketAddr>) {
        self.turn.store(server.map(Arc::new));
    }

    #[must_use]
    pub fn turn_server(&self) -> Option<SocketAddr> {
        self.turn.load().as_deref().copied()
    }

    pub(super) fn send_by_turn(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        let server = self.turn_server().ok_or(io::ErrorKind::NotConnected)?;
        self.main[0].send(server, &turn::send(path::plain(to), bytes))
    }

    pub(super) fn stream(&self, number: u32) -> io::Result<Arc<Stream>> {
        self.streams.load().get(&number).cloned().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Takes in a TCP connection as a carrier of datagrams. Its bytes are the caller's to read and write.
    pub fn add_stream(&self, socket: TcpStream, seal: Option<Box<dyn Seal>>) -> io::Result<Arc<Stream>> {
        let _guard = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = BTreeMap::clone(&self.streams.load());
        let from = socket.peer_addr()?.ip().to_canonical();
        let alike = all.values().filter(|s| path::plain(s.path).ip() == from).count();
        if all.len() >= MAX_STREAMS || alike >= MAX_FROM_ONE {
            return Err(io::Error::other("too many streams"));
        }
        let next = self.next_stream.fetch_add(2, Ordering::Relaxed);
        let number = (next & !1) | path::FIRST_STREAM | u32::from(seal.is_some());
        let stream = Arc::new(Stream::new(socket, seal, number)?);
        all.insert(number, Arc::clone(&stream));
        self.streams.store(Arc::new(all));
        Ok(stream)
    }

    /// How many scouts and streams are open.
    #[must_use]
    pub fn extra(&self) -> usize {
        self.scouts.load().len() + self.streams.load().len()
    }

    /// Closes every scout and every stream but these, and streams that had no time to prove themselves.
    pub fn keep(&self, numbers: &BTreeSet<u32>) {
        let _guard = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scouts = Scouts::clone(&self.scouts.load());
        scouts.retain(|number, _| numbers.contains(number));
        self.scouts.store(Arc::new(scouts));
        let mut streams = BTreeMap::clone(&self.streams.load());
        streams.retain(|number, stream| {
            let stays = !stream.is_closed() && (numbers.contains(number) || stream.since.elapsed() < STREAM_TRIAL);
            if !stays {
                stream.close();
            }
            stays
        });
        self.streams.store(Arc::new(streams));
    }

    /// Waits until datagrams are there for scouts, and returns these.
    pub fn wait_for_scouts(&self) -> Vec<Arc<UdpTransport>> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 32];
        // SAFETY: the array outlives the call and has the length given.
        let n =
            unsafe { libc::epoll_wait(self.poll.as_raw_fd(), events.as_mut_ptr(), events.len() as libc::c_int, -1) };
        let ready = &events[..usize::try_from(n).unwrap_or(0)];
        let scouts = self.scouts.load();
        ready.iter().filter_map(|e| scouts.get(&u32::try_from(e.u64).ok()?).cloned()).collect()
    }
}
