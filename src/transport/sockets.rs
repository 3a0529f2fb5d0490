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
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::{Offloads, Seal, Sources, Stream, UdpTransport, sources::may_be_at_fault};
use crate::{
    types::{
        self, Buckets, IpPrefix,
        path::{self, Local},
        place,
    },
    wire::turn,
};

type Scouts = BTreeMap<u32, Arc<UdpTransport>>;
/// Whom a stream is counted with.
type CountedBy = fn(SocketAddr) -> IpPrefix;

/// Streams open at the same time.
const MAX_STREAMS: usize = 256;
/// And from one source, behind which there may be many nodes: an IPv4 address, or an IPv6 network of 64 bits.
const MAX_FROM_ONE: usize = 64;
/// And from one site, whose sources cost nothing: an IPv4 network of 24 bits, or an IPv6 network of 48.
const MAX_FROM_SITE: usize = 128;
/// Those that one source may make at once, and one more after each pause: each takes two threads. So many sources are held to it.
const STREAMS: (u32, types::Duration) = (32, types::Duration::from_millis(100));
const MAX_SOURCES: usize = 4096;
/// A stream that no link has come to use in this time is closed.
const STREAM_TRIAL: Duration = Duration::from_secs(10);
/// So long it has its place for sure: a flood can't make the daemon do more than that many streams in this time.
const STREAM_GRACE: Duration = Duration::from_secs(2);

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
    begun: Instant,
    /// Of the streams that others make.
    arrivals: Mutex<Buckets<IpPrefix>>,
    turn: ArcSwapOption<SocketAddr>,
    only_streams: bool,
    /// What leaves from where.
    pub sources: Sources,
    /// Streams that were not taken in: all there was room for are in use, or their source makes too many.
    pub streams_refused: AtomicU64,
    /// Streams that no link had come to use, closed for the room that a new one needs.
    pub streams_displaced: AtomicU64,
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
            begun: Instant::now(),
            arrivals: Mutex::new(Buckets::new(MAX_SOURCES, STREAMS)),
            turn: ArcSwapOption::empty(),
            only_streams: false,
            sources: Sources::default(),
            streams_refused: AtomicU64::new(0),
            streams_displaced: AtomicU64::new(0),
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

    /// Sends one datagram through the socket that `to` names, from the address that the path's datagrams come to; opens a
    /// scout if there is none of that number yet.
    pub fn send(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        self.send_from(self.sources.of(to), to, bytes)
    }

    /// [`Self::send`], but from this address of the host, if it still is one.
    pub fn send_from(&self, source: Option<Local>, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        self.carry(to, bytes, |socket| self.leave(source, to, |source| socket.send(source, to, bytes)))
    }

    /// [`Self::send`] of one that must not be fragmented.
    pub fn send_whole(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        let source = self.sources.of(to);
        self.carry(to, bytes, |socket| self.leave(source, to, |source| socket.send_whole(source, to, bytes)))
    }

    /// [`Self::send`], and once more from the address that routing chooses now: nothing comes back by this path. Whatever
    /// comes twice is a replay.
    pub fn send_in_doubt(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        let source = self.sources.of(to);
        let sent = self.send_from(source, to, bytes);
        if source.is_some() { self.send_from(None, to, bytes).or(sent) } else { sent }
    }

    /// Sends what `by_udp` sends, unless `to` is reached in another way.
    fn carry(
        &self,
        to: SocketAddr,
        bytes: &[u8],
        by_udp: impl FnOnce(&UdpTransport) -> io::Result<()>,
    ) -> io::Result<()> {
        match path::socket_of(to) {
            number if self.is_barred(number) => Ok(()),
            0 => by_udp(&self.main[0]),
            path::TURN => self.send_by_turn(to, bytes),
            number if number >= path::FIRST_STREAM => self.stream(number)?.send(std::iter::once(bytes)),
            number => by_udp(&*self.scout(number)?),
        }
    }

    /// Has `send` send from an address of this host, or from any if that one is none any more.
    fn leave(
        &self,
        source: Option<Local>,
        to: SocketAddr,
        send: impl Fn(Option<Local>) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(local) = source else { return send(None) };
        match send(source) {
            Err(e) if may_be_at_fault(&e) => {
                send(None)?;
                self.sources.refused(to, local);
                Ok(())
            }
            sent => sent,
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
        self.main[0].send(None, server, &turn::send(path::plain(to), bytes))
    }

    pub(super) fn stream(&self, number: u32) -> io::Result<Arc<Stream>> {
        self.streams.load().get(&number).cloned().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Takes in a TCP connection as a carrier of datagrams. Its bytes are the caller's to read and write. Where there is no
    /// room for it, it takes the place of the oldest one that no link has come to use, of the source that has most of
    /// these; where every one is in use or has just come it is refused. So is one of a source that makes too many;
    /// `is_ours`: this node made it.
    pub fn add_stream(&self, socket: TcpStream, seal: Option<Box<dyn Seal>>, is_ours: bool) -> io::Result<Arc<Stream>> {
        if !is_ours && !self.may_come(source(socket.peer_addr()?)) {
            self.streams_refused.fetch_add(1, Ordering::Relaxed);
            return Err(io::Error::other("too many streams of one source"));
        }
        let stream = self.take_in(Instant::now(), socket, seal)?;
        stream.proven.fetch_or(is_ours, Ordering::Relaxed);
        Ok(stream)
    }

    fn may_come(&self, from: IpPrefix) -> bool {
        let now = types::Instant(u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX));
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).take(now, from)
    }

    fn take_in(&self, now: Instant, socket: TcpStream, seal: Option<Box<dyn Seal>>) -> io::Result<Arc<Stream>> {
        let _guard = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = BTreeMap::clone(&self.streams.load());
        all.retain(|_, stream| !stream.is_closed());
        let from = socket.peer_addr()?;
        let count = |of: CountedBy| all.values().filter(|s| of(s.path) == of(from)).count();
        let of: Option<CountedBy> =
            if count(source) >= MAX_FROM_ONE { Some(source) } else { (count(site) >= MAX_FROM_SITE).then_some(site) };
        if all.len() >= MAX_STREAMS || of.is_some() {
            let Some(displaced) = displaced(&all, now, of.map(|of| (of, of(from)))) else {
                self.streams_refused.fetch_add(1, Ordering::Relaxed);
                return Err(io::Error::other("too many streams"));
            };
            self.streams_displaced.fetch_add(1, Ordering::Relaxed);
            if let Some(stream) = all.remove(&displaced) {
                stream.close();
            }
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
            stream.proven.fetch_or(numbers.contains(number), Ordering::Relaxed);
            let is_new = stream.since.elapsed() < STREAM_TRIAL;
            let stays = !stream.is_closed() && (numbers.contains(number) || is_new);
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

/// Whom a stream is counted with.
fn source(path: SocketAddr) -> IpPrefix {
    place::network(path::plain(path).ip(), 32, 64)
}

/// The same more coarsely.
fn site(path: SocketAddr) -> IpPrefix {
    place::network(path::plain(path).ip(), 24, 48)
}

/// The stream that makes room for a new one, of this source or site or of any: of those that had their time to prove themselves the
/// oldest one of the site, and there of the source, that has most streams without proof.
fn displaced(all: &BTreeMap<u32, Arc<Stream>>, now: Instant, only: Option<(CountedBy, IpPrefix)>) -> Option<u32> {
    let unproven = || all.iter().filter(|(_, s)| !s.proven.load(Ordering::Relaxed));
    let mut counts: BTreeMap<IpPrefix, usize> = BTreeMap::new();
    for (_, s) in unproven() {
        *counts.entry(source(s.path)).or_default() += 1;
        *counts.entry(site(s.path)).or_default() += 1;
    }
    let had_time = |s: &Stream| now.saturating_duration_since(s.since) >= STREAM_GRACE;
    let may_go = unproven().filter(|(_, s)| had_time(s) && only.is_none_or(|(of, it)| of(s.path) == it));
    let count = |s: &Stream| (counts.get(&site(s.path)).copied(), counts.get(&source(s.path)).copied());
    may_go.max_by_key(|(number, s)| (count(s), std::cmp::Reverse((s.since, **number)))).map(|(number, _)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv6Addr, SocketAddrV6, TcpListener};

    use socket2::Socket;

    fn sockets() -> Sockets {
        Sockets::bind("127.0.0.1:0".parse().unwrap(), Offloads::default(), 1).unwrap()
    }

    fn connect(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let out = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (out, listener.accept().unwrap().0)
    }

    #[test]
    fn a_full_house_makes_room_where_nobody_has_proved_himself() {
        let (sockets, listener) = (sockets(), TcpListener::bind("127.0.0.1:0").unwrap());
        let mut ends = Vec::new();
        let mut streams = Vec::new();
        let (start, later) = (Instant::now(), Instant::now() + STREAM_GRACE * 2);
        let mut add = |now| {
            let (far, near) = connect(&listener);
            ends.push(far);
            sockets.take_in(now, near, None)
        };
        streams.extend((0..MAX_FROM_ONE).map(|_| add(start).unwrap()));
        assert!(add(start).is_err(), "they have just come");
        let used = path::socket_of(streams[0].path);
        sockets.keep(&[used].into());
        for _ in 0..MAX_FROM_ONE {
            streams.push(add(later).unwrap());
        }
        assert!(!streams[0].is_closed(), "a link uses it");
        assert!(streams[1..=MAX_FROM_ONE].iter().all(|s| s.is_closed()), "the oldest ones made room");
        assert_eq!(streams.iter().filter(|s| !s.is_closed()).count(), MAX_FROM_ONE);
        // Once all are in use nobody has to go.
        let numbers = streams.iter().filter(|s| !s.is_closed()).map(|s| path::socket_of(s.path)).collect();
        sockets.keep(&numbers);
        assert!(add(later).is_err());
        assert_eq!(sockets.streams_refused.load(Ordering::Relaxed), 2);
        assert_eq!(sockets.streams_displaced.load(Ordering::Relaxed), MAX_FROM_ONE as u64);
    }

    #[test]
    fn an_ipv6_network_is_one_source_and_a_flood_displaces_itself() {
        let v6 = |i: u16| SocketAddr::from(SocketAddrV6::new(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, i), 9, 0, 0));
        assert_eq!(source(v6(1)), source(v6(2)));
        assert_ne!(source("192.0.2.1:1".parse().unwrap()), source("192.0.2.2:1".parse().unwrap()));
        assert_eq!(source("[::ffff:192.0.2.1]:1".parse().unwrap()), source("192.0.2.1:7".parse().unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut all = BTreeMap::new();
        let mut ends = Vec::new();
        // One honest newcomer, the oldest of all; behind it thirty of one network.
        for i in 0..31u32 {
            let (far, near) = connect(&listener);
            ends.push(far);
            let mut stream = Stream::new(near, None, path::FIRST_STREAM + i).unwrap();
            let from = if i == 0 { "192.0.2.1:9".parse().unwrap() } else { v6(i as u16) };
            stream.path = path::through(from, path::FIRST_STREAM + i);
            all.insert(path::FIRST_STREAM + i, Arc::new(stream));
        }
        let later = Instant::now() + STREAM_GRACE;
        assert_eq!(displaced(&all, later, None), Some(path::FIRST_STREAM + 1));
    }

    /// A stranger with a network of 56 bits, and one with 200 addresses of an IPv4 network, take half of the places at the most; and one
    /// that has just come keeps nobody of another source whose time is over.
    #[test]
    fn a_site_leaves_half_of_the_places_to_others() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sockets = sockets();
        let from = |i: u8| {
            let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::from(([127, 0, i / 200, i % 200 + 1], 0)).into()).unwrap();
            socket.connect(&listener.local_addr().unwrap().into()).unwrap();
            (TcpStream::from(socket), listener.accept().unwrap().0)
        };
        let now = Instant::now();
        let mut ends = Vec::new();
        let taken = (0..200u8).filter(|i| {
            let (far, near) = from(*i);
            ends.push(far);
            sockets.take_in(now, near, None).is_ok()
        });
        assert_eq!(taken.count(), MAX_FROM_SITE);
        let (_far, near) = from(201);
        assert!(sockets.take_in(now, near, None).is_ok(), "another site");
        let v6 = |i: u16| SocketAddr::from(SocketAddrV6::new(Ipv6Addr::new(0x2001, 0xdb8, 7, i, 0, 0, 0, 1), 9, 0, 0));
        assert_eq!(site(v6(1)), site(v6(255)));
        assert_ne!(source(v6(1)), source(v6(2)));
    }
}
